"""Commands typed at a shell, on a terminal of its own: nothing of them is changed on the way."""

import os
import pty
import subprocess
from types import SimpleNamespace

import pytest

from tcelab.errors import GuestLost, HarnessError
from tcelab.qemu.typist import Typist


class Console:
    """A guest's console with a real shell behind it."""

    def __init__(self, prompt="tcelab# "):
        self.end, theirs = pty.openpty()
        self.said = b""
        self.lent = 0
        self.child = subprocess.Popen(
            ["/bin/sh", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "PS1": prompt, "TERM": "dumb"},
        )
        os.close(theirs)

    async def lend_console(self):
        self.lent += 1
        return self.end

    async def take_console_back(self):
        self.lent -= 1

    def heard(self, data):
        self.said += data

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.end)


@pytest.fixture
def session(monkeypatch, tmp_path):
    monkeypatch.setattr("tcelab.qemu.typist._FILE", str(tmp_path / "typed"))
    console = Console()
    scene = SimpleNamespace
    yield SimpleNamespace(guest=console, alive=True, scene=scene, loss=lambda: GuestLost("gone"))
    assert console.lent == 0
    console.close()


def test_a_commands_output_and_status_come_back(session):
    ended = Typist(session, 10).run("echo one; echo two >&2; exit 7", 10)
    assert (ended.status, ended.output) == (7, "one\ntwo\n")
    assert b"one" in session.guest.said


@pytest.mark.parametrize(
    "text",
    ['it\'s "quoted" $HOME `true` \\n %s', "tab\tand \x03 \x04 \x15", "ended-0 0", "ä€", "x" * 5000],
    ids=["quotes", "control characters", "what an end looks like", "more than ASCII", "long"],
)
def test_nothing_of_a_command_is_changed_on_the_way(session, text):
    quoted = text.replace("'", "'\\''")
    typist = Typist(session, 10)
    assert typist.run(f"printf %s '{quoted}' | od -An -v -tx1 | tr -d ' \\n'; echo", 10).output.strip() == (
        text.encode().hex()
    )


def test_a_command_that_says_a_lot_is_heard_to_its_end(session):
    ended = Typist(session, 10).run("seq 200000; exit 3", 60)
    assert ended.status == 3
    assert ended.output.split() == [str(number) for number in range(1, 200001)]


def test_commands_follow_each_other_and_read_nothing_of_what_is_typed(session):
    typist = Typist(session, 10)
    assert typist.run("cat; echo end", 10).output == "end\n"
    assert typist.run("false", 10).status == 1
    assert typist.run("", 10).status == 0


def test_a_command_that_does_not_end_in_time_has_no_status(session):
    assert Typist(session, 10).run("sleep 20", 0.5) is None


def test_while_a_command_runs_whoever_wants_to_looks(session):
    looked = []
    ended = Typist(session, 10).run("sleep 1; echo end", 20, lambda: looked.append(1))
    assert ended.output == "end\n"
    assert looked


def test_a_guest_that_goes_away_meanwhile_is_lost(session):
    typist = Typist(session, 10)
    session.alive = False
    with pytest.raises(GuestLost, match="gone"):
        typist.run("true", 10)


def test_a_console_without_a_shell_is_said(session, monkeypatch):
    monkeypatch.setattr("tcelab.qemu.typist._PROMPT", "other# ")
    session.scene = lambda: None
    with pytest.raises(HarnessError, match="no shell"):
        Typist(session, 0.5)
