"""QEMU's log and trace: a pipe that a thread of its own drains, and what it tells of tables and refusals.

A full pipe would stop QEMU while it holds its lock, so nobody but this thread waits for it. QEMU writes each line
before it goes on: once the guest is stopped and `drain` has returned, all that was said has been read.

Source: QEMU hw/ppc/trace-events (spapr_iommu_new_table, spapr_iommu_ddw_*), system/memory.c, memory_region_access_valid
and address_space_*: "Invalid read/write at addr ..., reason: rejected".
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
from pathlib import Path
from typing import Final, Literal

from tcelab.errors import HarnessError
from tcelab.papr import window
from tcelab.run import Refusal

_CHUNK: Final = 1 << 16
_LOG_KEPT: Final = 64 << 20
"""Bytes of qemu.log that are written down. Parsing goes on beyond it; the file says that it ends here."""

_NEW_TABLE: Final = re.compile(r"spapr_iommu_new_table liobn=(?:0x)?([0-9a-f]+) table=(0x[0-9a-f]+|\(nil\))")
_DDW_CREATE: Final = re.compile(
    r"spapr_iommu_ddw_create buid=0x[0-9a-f]+ addr=0x[0-9a-f]+,? page size=0x([0-9a-f]+),? requested=0x([0-9a-f]+),?"
    r" start addr=(?:0x)?[0-9a-f]+,? liobn=(?:0x)?([0-9a-f]+)"
)
_DDW_REMOVE: Final = re.compile(r"spapr_iommu_ddw_remove liobn=(?:0x)?([0-9a-f]+)")
_DDW_RESET: Final = re.compile(r"spapr_iommu_ddw_reset buid=0x([0-9a-f]+)")
_REFUSED: Final = re.compile(
    r"Invalid (read|write) at addr (0x[0-9A-Fa-f]+), size (\d+), region '[^']*', reason: rejected"
)


class Tables:
    """Where QEMU keeps the table of each LIOBN, as its trace tells it.

    :ivar at: LIOBN to the host address of its array; a LIOBN that is absent has no table.
    :ivar entries: LIOBN to its number of entries, for windows that were created by RTAS.
    """

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self.entries: dict[int, int] = {}

    def line(self, line: str) -> None:
        """Follow one line of trace."""
        if found := _NEW_TABLE.search(line):
            liobn = int(found[1], 16)
            self.at.pop(liobn, None)
            if found[2] != "(nil)":
                self.at[liobn] = int(found[2], 16)
        elif found := _DDW_CREATE.search(line):
            self.entries[int(found[3], 16)] = int(found[2], 16) // int(found[1], 16)
        elif found := _DDW_REMOVE.search(line):
            self._forget(int(found[1], 16))
        elif found := _DDW_RESET.search(line):
            # The reset has dropped both windows and made window 0 anew, with its size of the machine's start.
            phb = int(found[1], 16) - window.BASE_BUID
            self._forget(window.liobn(phb, 1))
            self.entries.pop(window.liobn(phb, 0), None)

    def _forget(self, liobn: int) -> None:
        self.at.pop(liobn, None)
        self.entries.pop(liobn, None)


class Log:
    """Drains QEMU's log from the reading end of a pipe until QEMU closes its end.

    :ivar tables: what the trace says of the tables, up to the last line read.
    """

    def __init__(self, pipe: int, path: Path) -> None:
        self.tables = Tables()
        self._refusals: list[Refusal] = []
        self._pipe = pipe
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
        """Read all that QEMU has said up to now.

        :raise HarnessError: some of it could not be written down.
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
            return tuple(self._refusals)

    def take_refusals(self) -> tuple[Refusal, ...]:
        """Refused accesses since the last call; `drain` first."""
        with self._lock:
            taken, self._refusals = tuple(self._refusals), []
        return taken

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
            # Go on reading: a pipe that nobody drains stops QEMU. Whoever drains next is told.
            self._failed = error
        return True

    def _keep(self, data: bytes) -> None:
        if self._written <= _LOG_KEPT and self._failed is None:
            self._file.write(data)
            self._written += len(data)
            if self._written > _LOG_KEPT:
                self._file.write(b"\n[tcelab: the log is longer; the rest was read but is not kept]\n")
            self._file.flush()

    def _line(self, line: str) -> None:
        if line.startswith("Invalid "):
            if found := _REFUSED.search(line):
                direction: Literal["read", "write"] = "read" if found[1] == "read" else "write"
                self._refusals.append(Refusal(direction, int(found[2], 16), int(found[3]), line))
        elif "spapr_iommu" in line:
            self.tables.line(line)
