"""`tcelab` as a user calls it, watched from outside: what it said, and what it left behind."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from patience import PATIENCE, SOON

MARK = "TCELAB_TEST_MARK"
SHM = Path("/dev/shm")
TCELAB = (sys.executable, "-m", "tcelab")


class Call:
    """A running `tcelab`, or another command. Every process that comes from it carries a mark in its environment, and
    has a folder of its own for what is temporary. Other programs may do on this machine what they want.
    """

    def __init__(self, *arguments, state, command=TCELAB, **environment):
        self.mark = uuid.uuid4().hex
        self._shm = _shm()
        self.temporary = Path(state) / f"tmp-{self.mark}"
        self.temporary.mkdir(parents=True)
        own = {MARK: self.mark, "XDG_STATE_HOME": str(state), "TMPDIR": str(self.temporary)}
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **own, **environment},
        )
        self.state = Path(state)
        self.out = self.err = ""
        self._heard = threading.Condition()
        self._readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("out", "err")]
        for reader in self._readers:
            reader.start()

    def _read(self, name):
        for line in getattr(self.process, f"std{name}"):
            with self._heard:
                setattr(self, name, getattr(self, name) + line)
                self._heard.notify_all()

    def wait_for(self, text, limit=PATIENCE):
        """Until `text` was said on standard error."""
        with self._heard:
            assert self._heard.wait_for(lambda: text in self.err or self.process.poll() is not None, limit), self.err
            assert text in self.err, self.out + self.err

    def wait_until(self, seen, what, limit=PATIENCE):
        """Until something is seen to be so, which it will not be once the command has ended.

        :param what: the phase that is waited for, for the message.
        """
        deadline = time.monotonic() + limit
        while not seen():
            ended, late = self.process.poll() is not None, time.monotonic() > deadline
            if late:
                self.process.kill()
            assert not ended or seen(), f"it ended before this: {what}: {self.said}"
            assert not late, f"not within {limit:g} s: {what}: {self.said}"
            time.sleep(0.05)

    def send(self, number):
        self.process.send_signal(number)

    def end(self, limit=PATIENCE):
        """Wait for its end; the exit code."""
        code = self.process.wait(limit)
        for reader in self._readers:
            reader.join(limit)
            assert not reader.is_alive(), f"it has ended, and another process keeps its output open: {self.processes()}"
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def processes(self, name=""):
        """Numbers of the processes that carry the mark, other than `tcelab` itself."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if needle in (folder / "environ").read_bytes() and name.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return sorted(set(found) - {self.process.pid})

    def qemu(self):
        """The QEMU that is running."""
        (number,) = self.processes("org.tcelab.agent")
        return number

    def assert_nothing_is_left(self):
        """No process (QEMU dies with its parent within moments) and what one of them holds, such as a socket; no RAM
        file, nothing temporary, and private artefacts.
        """
        for number in self.processes():
            assert _gone(number, SOON), f"process {number} survived: {Path(f'/proc/{number}/cmdline').read_text()}"
        assert _shm() <= self._shm
        assert list(self.temporary.rglob("*")) == []
        for run in self.runs():
            assert run.stat().st_mode & 0o777 == 0o700
            for each in run.rglob("*"):
                assert each.is_file() or each.stat().st_mode & 0o777 == 0o700

    def runs(self):
        return sorted(self.state.glob("tcelab/runs/*"))

    @property
    def said(self):
        return self.out + self.err


def tcelab(*arguments, state, limit=PATIENCE, **more):
    """Call `tcelab`, wait for its end, check that nothing is left. Returns (exit code, the call)."""
    call = Call(*arguments, state=state, **more)
    code = call.end(limit)
    call.assert_nothing_is_left()
    return code, call


def _shm():
    """Files in shared memory that may be of a tcelab: we call all that we make by that name."""
    return {path for path in SHM.iterdir() if "tcelab" in path.name}


def _gone(number, limit):
    try:
        handle = os.pidfd_open(number)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], limit)[0])
    finally:
        os.close(handle)


def kill(number):
    os.kill(number, signal.SIGKILL)
