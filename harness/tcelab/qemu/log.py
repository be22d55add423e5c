"""QEMU's log and trace: a pipe drained by a thread of its own, and the refusals in it. Lines about tables go to
`tcelab.qemu.tableaddresses`.

A full pipe would stop QEMU while it holds its lock, so only this thread ever blocks on the pipe. QEMU writes each line
before it goes on: once the guest is stopped and `drain` has returned, all that was said has been read.

Source: QEMU system/memory.c, memory_region_access_valid and address_space_*: "Invalid read/write at addr ..., reason:
rejected"; target/ppc/excp_helper.c, powerpc_checkstop.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from tcelab.errors import HarnessError
from tcelab.papr import window
from tcelab.qemu.conduct import HCALLS, Heard
from tcelab.qemu.tableaddresses import TableAddresses
from tcelab.run.record import Refusal

_CHUNK: Final = 1 << 16
_LOG_KEPT: Final = 64 << 20
"""Size at which qemu.log is rotated; the previous one is kept."""
_TOLD: Final = 1 << 16
"""Refusals that are listed one by one; further ones are summed up by page."""
RECENT: Final = 8
"""The number of last refusals that are kept for watchers."""

_STAMP: Final = len("2026-01-31T23:59:59.123456Z ")
"""Characters before each line where QEMU tells the time (-msg timestamp=on; older ones do of trace events only)."""

REFUSED: Final = re.compile(
    r"Invalid (read|write) at addr (0x[0-9A-Fa-f]+), size (\d+), region '([^']*)', reason: rejected"
)
_ROM: Final = ".rom"
"""How the name of the region of a device's ROM ends (hw/pci/pci.c, pci_add_option_rom)."""
_CHECKSTOP: Final = re.compile(r"(?:Machine check .*)?Entering checkstop state\b.*")
"""The CPU stops for good, and the guest with it; its kernel prints nothing."""


class Listener(Protocol):
    """Hears what QEMU says, line by line."""

    def line(self, line: str) -> None:
        """A line about neither a table nor a refusal."""
        ...

    def refused(self, direction: Literal["read", "write"], address: int, size: int) -> None:
        """QEMU refused an access of `size` bytes."""
        ...


@dataclass(slots=True)
class _Piece:
    """Consecutive accesses within one IOMMU page. `more`: other accesses in the page that are summed up with it."""

    direction: Literal["read", "write"]
    address: int
    size: int
    line: str
    more: int = 0

    def refusal(self) -> Refusal:
        note = f" (and {self.more} more in this page, summed up)" if self.more else ""
        return Refusal(self.direction, self.address, self.size, self.line + note)


class Refusals:
    """Refusals since the last call. Consecutive accesses count as one; in a storm, so do all accesses of one page. None
    is left out, and memory is bounded by the number of pages.
    """

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._summed: dict[tuple[str, int], _Piece] = {}

    def add(self, direction: Literal["read", "write"], address: int, size: int, line: str) -> None:
        last = self._pieces[-1] if self._pieces else None
        page = address >> window.PAGE_SHIFT
        if (
            last is not None
            and last.direction == direction
            and last.address + last.size == address
            and last.address >> window.PAGE_SHIFT == page
        ):
            last.size += size
        elif len(self._pieces) < _TOLD:
            self._pieces.append(_Piece(direction, address, size, line))
        elif (piece := self._summed.get((direction, page))) is not None:
            piece.address = min(piece.address, address)
            piece.size += size
            piece.more += 1
        else:
            self._summed[direction, page] = _Piece(direction, address, size, line)

    def told(self) -> tuple[Refusal, ...]:
        return tuple(piece.refusal() for piece in (*self._pieces, *self._summed.values()))


class Log:
    """Drains QEMU's log from the reading end of a pipe until QEMU closes its end.

    :ivar tables: the tables by the trace, up to the last line read.
    :ivar listener: hears of the other lines, in order; called by whoever reads, and never by two at once.
    :ivar tables_listener: likewise hears each line about tables.
    :ivar heard: what the guest asks of its platform.
    :ivar recent: the last refusals, taken or not; `refused`: how many there were.
    :ivar strayed: the first access to a device's ROM that was refused, or empty. A CPU reads a ROM, and drops what it
        writes to one, without asking: QEMU misdirected an access that was meant for another region.
    :ivar checkstop: a text if the guest's CPU stopped for good, with what QEMU refused just before; else empty.
    """

    def __init__(self, pipe: int, path: Path, heard: Heard | None = None) -> None:
        """:param heard: of the guest, if somebody else has it as well."""
        self.tables = TableAddresses()
        self.heard = Heard() if heard is None else heard
        self.heard.shapes = self.tables.shapes
        self.listener: Listener | None = None
        self.tables_listener: Callable[[str], None] | None = None
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.refused = 0
        self.strayed = self.checkstop = self._before = ""
        self._refusals = Refusals()
        self._carried: tuple[Refusal, ...] = ()
        self._pipe = pipe
        self._path = path
        self._file = path.open("wb")
        self._written = 0
        self._partial = b""
        self._failed: OSError | None = None
        self._lock = threading.Lock()
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(pipe, False)
        self._thread = threading.Thread(target=self._watch, name="tcelab-log", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Read all that QEMU has logged up to now.

        :raise HarnessError: some of it could not be written to the file.
        """
        with self._lock:
            while self._read():
                pass
            if self._failed is not None:
                raise HarnessError(f"cannot write qemu.log: {self._failed.strerror}", next_step="make room on the disk")

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Those that nobody has taken yet."""
        with self._lock:
            return (*self._carried, *self._refusals.told())

    def carry(self, refusals: tuple[Refusal, ...]) -> None:
        """Refusals of the QEMU that had the guest before, which nobody has taken yet."""
        self._carried = refusals

    def take_refusals(self) -> tuple[Refusal, ...]:
        """Refused accesses since the last call; `drain` first."""
        with self._lock:
            taken, self._refusals = self._refusals, Refusals()
            carried, self._carried = self._carried, ()
        return (*carried, *taken.told())

    def close(self) -> None:
        """Drain what is left and let go; QEMU must have ended."""
        os.close(self._waker)
        self._thread.join()
        with contextlib.suppress(HarnessError):
            self.drain()
        with self._lock, contextlib.suppress(OSError):
            os.close(self._wake)
            os.close(self._pipe)
            self._file.close()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._wake in ready:
                return
            with self._lock:
                alive = self._read()
            if not alive and not ready.get(self._pipe, 0) & select.POLLIN:
                poll.unregister(self._pipe)

    def _read(self) -> bool:
        """Take what is there, at most one chunk. Holding the lock. False: nothing there now."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._pipe, _CHUNK)
        if not data:
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        for raw in lines:
            self._line(raw.decode("utf-8", "replace"))
        try:
            self._keep(data)
        except OSError as error:
            # Go on reading: a full pipe stops QEMU. The next caller of `drain` gets the error.
            self._failed = error
        return True

    def _keep(self, data: bytes) -> None:
        if self._failed is not None:
            return
        if self._written > _LOG_KEPT:
            # The newest lines are the ones that matter.
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("wb")
            self._written = self._file.write(b"[tcelab: what came before is in the file .1; older lines are gone]\n")
        self._file.write(data)
        self._written += len(data)
        self._file.flush()

    def _line(self, line: str) -> None:
        said = line[_STAMP:] if line[_STAMP - 2 : _STAMP] == "Z " else line
        if said.startswith("Invalid "):
            if (found := REFUSED.match(said)) and found[4].endswith(_ROM):
                # No device did it: the address is an offset in the ROM, not a bus address.
                self.strayed = self.strayed or said
                self.recent.append(line)
            elif found:
                direction: Literal["read", "write"] = "read" if found[1] == "read" else "write"
                address, size = int(found[2], 16), int(found[3])
                self._refusals.add(direction, address, size, line)
                self.recent.append(line)
                self.refused += 1
                if self.listener is not None:
                    self.listener.refused(direction, address, size)
        elif "checkstop state" in said and (found := _CHECKSTOP.search(said)):
            why = f", after: {self._before}" if self._before.startswith("Invalid ") else ""
            self.checkstop = self.checkstop or f"{found[0]}{why}"
        elif "spapr_iommu" in line:
            self.heard.trace(line)
            if HCALLS not in line:
                self.tables.line(line)
            if self.tables_listener is not None:
                self.tables_listener(line)
        elif self.listener is not None:
            self.listener.line(line)
        self._before = said
