"""The guest's console, given to a person at a terminal."""

import os
import sys

import pexpect
import pytest

from patience import PATIENCE

pytestmark = pytest.mark.guest

ESCAPE = "\x1d"


@pytest.fixture
def terminal(tmp_path):
    """Start `tcelab` on a terminal of its own."""
    started = []

    def start(*arguments):
        child = pexpect.spawn(
            sys.executable,
            ["-m", "tcelab", *arguments],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
            encoding="utf-8",
            codec_errors="replace",
            timeout=PATIENCE,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def test_shell_gives_the_guests_console_and_takes_it_back(terminal, tmp_path):
    child = terminal("shell")
    child.expect("Ctrl-] leaves")
    child.expect("tcelab# ")
    child.sendline("uname -m; ls /dev/vfio")
    child.expect(r"ppc64le\s[\s\d]*vfio")
    child.send(ESCAPE)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    (run,) = tmp_path.glob("tcelab/runs/*")
    assert b"ppc64le" in (run / "console.log").read_bytes()


def test_keep_leaves_the_guest_running_after_the_verdict(terminal):
    child = terminal("run", "flow", "--keep")
    child.expect("PASS")
    child.expect("the guest goes on")
    child.expect("tcelab# ")
    child.sendline("echo $((6 * 7))")
    child.expect("42")
    child.send(ESCAPE)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_leaving_the_shell_by_switching_the_guest_off_ends_it(terminal):
    child = terminal("shell")
    child.expect("tcelab# ")
    child.sendline("poweroff -f")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
