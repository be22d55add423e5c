"""A session over a real ssh connection on loopback: the agent as it was copied, on an emulated kernel.

The server is paramiko's, in this process, and can go wrong in the ways that servers do.
"""

import dataclasses
import shlex
import stat
import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from ssh_server import SshServer, new_key, public, python

from patience import PATIENCE
from tcelab.errors import GuestLost, HarnessError, Unsupported, UsageError
from tcelab.image.resources import agent_dir
from tcelab.judge import Judge
from tcelab.program import Bind, Read
from tcelab.program.topology import topology
from tcelab.qemu.limits import Limits
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome
from tcelab.scenarios import build
from tcelab.ssh import farside
from tcelab.ssh.choice import SshChoice
from tcelab.ssh.connection import Connection, ask_secret
from tcelab.ssh.sshsession import SshSession

TWO = topology("two-pe")
FLOW = build("flow", TWO, 1)
BIND = next(op for op in FLOW.ops if isinstance(op, Bind))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    made = {name: new_key(folder / name) for name in ("host", "user", "other")}
    for name, key in made.items():
        (folder / f"{name}.pub").write_text(public(key))
    return SimpleNamespace(folder=folder, **made)


@pytest.fixture
def far(monkeypatch, tmp_path):
    """The folder in which the other side makes its own."""
    folder = tmp_path / "far"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def reach(keys, far, tmp_path):
    """Open a session on a server; both end with the test."""
    opened = []

    def open_(server, *, limits=None, **choice):
        usual = {"user": "root", "keys": (keys.folder / "user",), "host_key": keys.folder / "host.pub"}
        made = SshChoice(host="127.0.0.1", port=server.port, **{**usual, "python": python(), **choice})
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        session = SshSession(made, TWO, folder, limits=limits)
        opened.append(session)
        return session

    yield open_
    for session in opened:
        session.close()


def is_gone(folder):
    """Wait until the other side has removed its own."""
    deadline = time.monotonic() + PATIENCE
    while any(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(folder.iterdir())


def judged(record, **facts):
    record = dataclasses.replace(record, facts=dataclasses.replace(record.facts, **facts))
    judge = Judge(record.program, record.facts)
    for step in record.steps:
        judge.feed(step)
    return judge.verdict(record)


def test_a_scenario_over_ssh_is_judged_by_its_behaviour_and_leaves_nothing(keys, reach, far, tmp_path):
    with SshServer(keys.host, keys.user, sftp=True) as server:
        session = reach(server)
        (own,) = far.iterdir()
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        assert (own / "tceagent" / "remote.py").read_bytes() == (agent_dir() / "remote.py").read_bytes()
        record = perform_program(FLOW, session)
        facts = session.facts
        session.close()
        assert is_gone(far)
        (process,) = server.processes
        assert process.wait(PATIENCE) == 0
    told = facts.versions["ssh"]
    assert (told["copied"], told["user"], told["devices"]) == (
        "sftp",
        "root",
        {"pe1": "0001:00:01.0", "pe2": "0002:00:02.0"},
    )
    assert told["host_key"] == f"ssh-ed25519 {keys.host.fingerprint}"
    assert record.ending is None
    assert all(step.snapshot is None or not step.snapshot.tables for step in record.steps)
    assert set(facts.cannot) == {"tables", "guest RAM", "refusals", "pins"}
    whole = judged(record)
    assert whole.result == "could-not-judge"
    assert [reason for reason in whole.could_not if reason.startswith("not seen: tables: ")]
    assert len(whole.could_not) == 1 + len(facts.cannot)  # nothing was compared: there was no reference
    laws = whole.evidence.laws
    assert [law for law in ("table", "views", "tag", "memory", "disk", "refusals", "pins") if laws[law].judged] == []
    assert [law for law in ("outcome", "inventory", "charges", "kernel") if not laws[law].judged] == []
    assert "a stray word of the agent's" in (tmp_path / "run" / "agent.log").read_text()


def test_without_sftp_the_agent_comes_over_the_channel_whatever_a_shell_prints_before(keys, reach, far, tmp_path):
    warning = "WARNING: CPU: 0 PID: 7 at mm/slub.c:1"
    log = [[warning], ["usb 1-1: new device", warning]]
    with SshServer(keys.host, keys.user, noise=b"Welcome to lpar7!\n", resets=2) as server:
        swapped = ("0002:00:02.0", "0001:00:01.0")
        session = reach(server, python=python(log=log, uncounted=True), devices=swapped)
        assert session.facts.versions["ssh"]["copied"] == "channel"
        assert session.facts.cannot["pins"] == "its kernel does not count page pins"
        pins, outcome = session.perform([Read(what="pins"), BIND])
        assert pins == Outcome(value=0)
        # A program means the topology's LIOBN, whatever that of the device is.
        assert (outcome.fields["address"], outcome.fields["liobn"]) == (swapped[0], TWO.phbs[0].liobn)
        assert "LIOBNs" in session.facts.cannot["hypercalls"]
        # What was said before the first look, that of the survey, is nobody's finding.
        assert session.finish() == (warning,)
        session.close()
    assert is_gone(far)
    assert (tmp_path / "run" / "kernel.log").read_text().splitlines() == log[1]
    assert (tmp_path / "run" / "agent.log").read_text().startswith("Welcome to lpar7!\n")


def test_a_connection_that_breaks_within_a_frame_is_a_lost_guest_and_leaves_nothing(keys, reach, far):
    with SshServer(keys.host, keys.user, dies=400) as server:
        with pytest.raises(GuestLost) as lost:
            reach(server)
        assert lost.value.message == f"the connection to 127.0.0.1:{server.port} broke"
        assert not lost.value.kernel_died
        assert lost.value.scene.phase == "control"
        assert is_gone(far)


def test_an_agent_that_was_killed_is_told_with_its_last_words(keys, reach, far):
    with SshServer(keys.host, keys.user) as server:
        session = reach(server, python=python(killed=9))
        record = perform_program(FLOW, session)
        assert "ended with exit status 1" in record.ending.error.message
        assert "tcelab: the agent was ended by signal 9" in record.ending.error.scene.console
        assert record.ending.error.scene.phase == "perform"
        assert is_gone(far)
        assert judged(record, behaviour_only=True).result == "could-not-judge"


def test_a_machine_that_falls_silent_is_given_up_and_its_agent_ends(keys, reach, far):
    with SshServer(keys.host, keys.user) as server:
        session = reach(server, python=python(stuck=9), limits=Limits(perform=0.3, close=0.1))
        record = perform_program(FLOW, session)
        assert "stopped answering: nothing came for 0.3 s" in record.ending.error.message
        assert "--limit perform=SECONDS" in record.ending.error.next_step
        session.close()
        assert is_gone(far)


def test_no_key_of_the_users_is_offered_to_a_machine_that_is_not_the_known_one(keys, reach):
    with SshServer(keys.other, keys.user) as server:
        with pytest.raises(HarnessError, match="is not the one that is known"):
            reach(server)
        assert (server.users, server.commands) == ([], [])


def test_who_is_not_let_in_is_told_what_was_tried(keys, reach):
    with SshServer(keys.host, keys.other) as server:
        with pytest.raises(HarnessError) as refused:
            reach(server)
        assert "lets root not in" in refused.value.message
        assert str(keys.folder / "user") in refused.value.message
        assert server.commands == []


def test_a_key_that_is_encrypted_asks_nobody(keys, reach, tmp_path):
    private = serialization.load_ssh_private_key((keys.folder / "user").read_bytes(), None)
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    locked = private.private_bytes(*kinds, serialization.BestAvailableEncryption(b"secret"))
    (tmp_path / "locked").write_bytes(locked)
    with SshServer(keys.host, keys.user) as server, pytest.raises(HarnessError, match="is encrypted") as refused:
        reach(server, keys=(tmp_path / "locked",))
    assert "--ask-password" in refused.value.next_step


def test_a_password_is_told_to_the_machine_under_test_alone(keys, reach, monkeypatch, tmp_path):
    """Behind a jump host that lets its user in by key; the machine itself takes no key."""
    monkeypatch.setattr("getpass.getpass", lambda _prompt: "secret")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    known = tmp_path / "known"
    monkeypatch.setattr("tcelab.ssh.knownhosts.USERS", (str(known),))
    with SshServer(keys.other, keys.other) as gate, SshServer(keys.host, keys.other) as server:
        known.write_text(public(keys.other, f"[127.0.0.1]:{gate.port}"))
        usual = {"host": "127.0.0.1", "port": server.port, "user": "root", "keys": (keys.folder / "user",)}
        there = {**usual, "host_key": keys.folder / "host.pub", "ask_password": True}
        for choice in (SshChoice(**there, jumps=(f"root@127.0.0.1:{gate.port}",)), SshChoice(**there)):
            ask_secret(choice)
            with pytest.raises(HarnessError, match="lets root not in"):
                reach(server, **{name: getattr(choice, name) for name in ("jumps", "ask_password")}, python="python3")
    assert gate.passwords == []
    assert server.passwords == ["secret"]


def test_a_machine_behind_another_is_reached_and_the_key_of_each_is_checked(keys, reach, monkeypatch, tmp_path):
    known = tmp_path / "known"
    monkeypatch.setattr("tcelab.ssh.knownhosts.USERS", (str(known),))
    with SshServer(keys.other, keys.user) as gate, SshServer(keys.host, keys.user) as server:
        jump = f"root@127.0.0.1:{gate.port}"
        known.write_text("")
        with pytest.raises(HarnessError, match=f"the host key of 127.0.0.1:{gate.port} is not known"):
            reach(server, jumps=(jump,))
        assert gate.users == []
        known.write_text(public(keys.other, f"[127.0.0.1]:{gate.port}"))
        session = reach(server, jumps=(jump,))
        assert session.facts.versions["ssh"]["jumps"] == [f"127.0.0.1:{gate.port}"]
        assert (gate.commands, len(server.commands)) == ([], 1)
        assert list(gate.forwards.values()) == [("127.0.0.1", server.port)]
        session.close()


def test_a_port_without_an_ssh_banner_is_given_up_in_time(keys, reach):
    with SshServer(keys.host, keys.user, resets=1 << 30) as server:
        with pytest.raises(HarnessError, match="shows no ssh banner") as lost:
            reach(server, limits=Limits(connect=0.6))
        assert lost.value.scene.phase == "connect"


def test_an_unknown_host_is_wrong_usage(keys, reach):
    with pytest.raises(UsageError, match="no host"):
        reach(SimpleNamespace(port=22), host_key=None, jumps=("no.such.host.invalid",))


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("exit 127", "has no command"),
        ('printf "%sold 3.6.8\\n" "$mark"', "Python 3.6.8 on 127.0.0.1:"),
        ('printf "%snowhere\\n" "$mark"', "has no folder in which the agent could be"),
    ],
)
def test_a_machine_without_what_the_agent_needs_says_so(keys, reach, tmp_path, says, told):
    script = tmp_path / "python3"
    script.write_text(f"#!/bin/sh\nfor mark; do :; done\n{says}\n")
    script.chmod(0o755)
    with SshServer(keys.host, keys.user) as server, pytest.raises(Unsupported) as refused:
        reach(server, python=str(script))
    assert told in refused.value.message
    assert "--python" in refused.value.next_step or "writable" in refused.value.next_step


def test_a_machine_that_runs_no_command_is_given_up_in_time(keys, reach):
    with SshServer(keys.host, keys.user, silent=True) as server, pytest.raises(GuestLost, match="stopped answering"):
        reach(server, limits=Limits(copy=0.4, close=0.1))


def test_a_machine_that_never_answers_is_given_up_in_time(keys, tmp_path):
    """paramiko would wait for ever."""
    with SshServer(keys.host, keys.user, deaf=True) as server:
        there = {"host": "127.0.0.1", "port": server.port, "user": "root", "host_key": keys.folder / "host.pub"}
        choice = SshChoice(**there, keys=(keys.folder / "user",))
        refused = pytest.raises(HarnessError, match="runs no command")
        with closing(Connection(choice, Limits())) as connection, refused:
            farside.start(connection, choice, tmp_path, Limits(login=0.3, close=0.1))
        assert len(server.commands) == 1


def test_a_machine_without_root_is_told_so_and_nothing_is_left_there(keys, reach, far):
    with SshServer(keys.host, keys.user) as server:
        with pytest.raises(Unsupported, match="is not root, and VFIO needs it"):
            reach(server, python=python(uid=1000))
        assert is_gone(far)


def test_a_copy_that_breaks_off_leaves_nothing(far):
    """The first program alone, as a shell starts it."""
    command = farside.command(shlex.quote(sys.executable), "mark ")
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(["/bin/sh", "-c", command], **pipes) as started:
        line = started.stdout.readline()
        assert line.startswith(f"mark folder {far}/tcelab-".encode())
        assert len(list(far.iterdir())) == 1
        started.stdin.write(b"inline 100\nbegun")
        started.stdin.close()
        assert started.wait(PATIENCE) == 1
        assert b"the connection ended before the agent was there" in started.stderr.read()
    assert list(far.iterdir()) == []


def test_paramiko_is_asked_for_by_name_where_it_is_missing(monkeypatch, reach):
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(Unsupported, match="needs paramiko") as refused:
        reach(SimpleNamespace(port=1))
    assert "tcelab[ssh]" in refused.value.next_step
