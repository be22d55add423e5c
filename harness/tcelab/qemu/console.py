"""The guest's console: a log, watched for the kernel's last words. Results never travel on it."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from typing import Final

from tcelab.qemu.conduct import SAID, Heard

FATAL: Final = re.compile(
    r"Kernel panic - not syncing|\bOops: |Unable to handle kernel|kernel BUG at |BUG: (?:Unable|Kernel)"
    r"|BUG: soft lockup|watchdog: .*(?:LOCKUP|lockup)|rcu: INFO: \S+ (?:self-)?detected"
)
"""The kernel under test is dead or dying: lib/panic.c, arch/powerpc/kernel/traps.c, kernel/watchdog.c, kernel/rcu."""

BY_TIME: Final = re.compile(r"\b(?:hard |soft )?(?:LOCKUP|lockup)\b|detected stall|hung_task")
"""The fatal lines that the kernel prints only because time has passed."""

TROUBLE: Final = re.compile(
    rf"{FATAL.pattern}|\bBUG[: ]|\bWARNING: (?!nvram )|\bUBSAN: |INFO: trying to register non-static key"
    r"|blocked for more than \d+ seconds|\blist_(?:add|del) corruption|Bad kernel stack pointer|Machine check interrupt"
)
"""Lines that are findings: include/asm-generic/bug.h, kernel/hung_task.c, kernel/locking/lockdep.c, lib/ubsan.c,
mm/slub.c, lib/list_debug.c, arch/powerpc/kernel/traps.c. QEMU's empty NVRAM gives the one warning that is none.
"""

PHASES: Final = {
    "firmware": re.compile(r"SLOF|VOF|Booting Linux via __start"),
    "kernel": re.compile(r"Linux version "),
    "init": re.compile(r"tcelab-init: up"),
    "agent": re.compile(r"tcelab-init: agent starting"),
}
"""First console line of each phase of a boot, for `tcelab bench boot`."""

PANIC: Final = "Kernel panic - not syncing"
_STAMP: Final = re.compile(r"\[ *\d+\.\d{6}\] ")
"""The start of a kernel message. Anything before it in the line, such as a shell's prompt, is not the kernel's."""
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_LINES_KEPT: Final = 400


class Console:
    """Logs the console's bytes, and keeps the last lines and the lines of trouble.

    :ivar size: bytes seen; a measure of progress during the boot.
    :ivar fatal: the first line that says that the kernel is dead, or empty; `panicked`: it said that it panics.
    :ivar reached: phase name to the clock's reading when its line was seen.
    :ivar heard: what the guest asks of its platform; QEMU's log tells it as well.
    """

    def __init__(self, log: Path, before: Console | None = None) -> None:
        """:param before: of the same guest in another QEMU, which this one goes on from."""
        self._file = log.open("wb", buffering=0)
        self._partial = ""
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._trouble: list[str] = []
        self.size = 0
        self.fatal = ""
        self.panicked = False
        self._expected = ""
        self.reached: dict[str, float] = {}
        self.heard: Heard = Heard() if before is None else before.heard
        if before is not None:
            self._partial, lines, trouble = before.left()
            self._lines.extend(lines)
            self._trouble.extend(trouble)

    def left(self) -> tuple[str, list[str], tuple[str, ...]]:
        """What another one goes on from: the line that was begun, the lines that are kept, the trouble nobody took."""
        return self._partial, [*self._lines], self.take_trouble()

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes as they come; `now` is the clock's reading."""
        self.size += len(data)
        *lines, self._partial = (self._partial + data.decode("utf-8", "replace")).split("\n")
        for line in lines:
            self._line(_ESCAPES.sub("", line), now)
        self._file.write(data)  # last: a full disk must not hide what was said

    def _line(self, line: str, now: float) -> None:
        self._lines.append(line)
        if SAID in line:
            self.heard.said(line)
        for phase, pattern in PHASES.items():
            if phase not in self.reached and pattern.search(line):
                self.reached[phase] = now
        if self._expected and self._expected in line:
            self._expected = ""
            return
        if TROUBLE.search(line):
            self._trouble.append(_kernels(line))
        if not self.fatal and FATAL.search(line):
            self.fatal = _kernels(line)
        self.panicked = self.panicked or PANIC in line

    def begin_boot(self) -> None:
        """Another kernel is about to come up: what was said before is not said of it."""
        self._lines.clear()
        self._partial = ""

    def expect(self, words: str) -> None:
        """The next line with these words is no trouble: it is meant to be said, once."""
        self._expected = words

    def take_trouble(self) -> tuple[str, ...]:
        """Lines of trouble since the last call."""
        taken, self._trouble = tuple(self._trouble), []
        return taken

    def tail(self, count: int = 8) -> list[str]:
        """The last lines that are not empty, a started one included."""
        lines = [*self._lines, _ESCAPES.sub("", self._partial)]
        return [line for line in lines if line.strip()][-count:]

    def find(self, *words: str) -> str:
        """The last whole line that holds one of the words; empty if none."""
        return next((line for line in reversed(self._lines) if any(word in line for word in words)), "")

    def close(self) -> None:
        self._file.close()


def _kernels(line: str) -> str:
    """The part of a line that the kernel printed."""
    found = _STAMP.search(line)
    return line[found.start() :] if found else line
