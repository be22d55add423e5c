"""What the host sees of a guest that is stopped: its tables, by each view, and the memory behind them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from tcelab.errors import HarnessError
from tcelab.papr import tce, window
from tcelab.program import Checkpoint, Flip
from tcelab.program.topology import Topology
from tcelab.qemu import machine
from tcelab.qemu.guest import Guest
from tcelab.qemu.portal import portal
from tcelab.qemu.ram import Ram
from tcelab.qemu.views import stream
from tcelab.qemu.views.live import LiveMemory
from tcelab.run.record import Outcome, Snapshot, TableView

_LOG: Final = logging.getLogger(__name__)
_WORD: Final = 64
_FEW: Final = 4096
"""Entries of a table, as many as a small window has: the memory behind all of them is read."""
_MOST: Final = 0.9


class HostViews:
    """The views of one guest. QEMU's log must be drained before each call.

    :ivar live: QEMU's memory.
    :ivar ram: where addresses of pages lead to.
    """

    def __init__(self, guest: Guest, topology: Topology, *, papr: bool = False) -> None:
        """:param papr: snapshots tell what the guest asks of its platform.
        :raise Unsupported: the host does not let us read our own child.
        """
        self._guest, self._papr = guest, papr
        self.ram: Ram = guest.ram
        self._defaults = machine.default_windows(topology)
        # A program before QEMU (setpriv, a loader) execs QEMU, so the child is QEMU itself.
        self.live = LiveMemory(guest.pid)

    def close(self) -> None:
        self.live.close()

    def snapshot(self, op: Checkpoint, frames: Iterable[int], cannot: dict[str, str]) -> Snapshot:
        """:param frames: pages to read beside those that entries lead to.
        :param cannot: views that there are not, and why.
        """
        seconds: dict[str, float] = {}
        missing: dict[str, str] = {}
        tables: list[TableView] = []
        readers: dict[str, Callable[[], list[TableView]]] = {"live": self._read_live}
        if op.stream:
            readers["stream"] = self.streamed
        for view, reader in readers.items():
            began = time.perf_counter()
            if view in cannot:
                missing[view] = cannot[view]
                continue
            try:
                tables += reader()
            except HarnessError as error:
                missing[view] = error.message
            seconds[view] = time.perf_counter() - began
        try:
            told = self._guest.probes.told()
        except HarnessError as error:
            told, missing["messages"] = (), error.message
        began = time.perf_counter()
        addresses = {tce.address(int(word), table.page_shift) for table in tables for word in _told(table)}
        pages = self.ram.pages(addresses.union(frames))
        seconds["pages"] = time.perf_counter() - began
        if _LOG.isEnabledFor(logging.DEBUG):
            read = ", ".join(f"{what} {1e3 * took:.2f} ms" for what, took in seconds.items())
            entries = sum(len(table.tce) for table in tables)
            _LOG.debug("snapshot: %d tables, %d entries, %d pages; %s", len(tables), entries, len(pages), read)
            for view, why in missing.items():
                _LOG.debug("snapshot: no %s view: %s", view, why)
        return Snapshot(
            tables=tuple(tables),
            missing=missing,
            pages=pages,
            disks=self._guest.disks.read(),
            refusals=self._guest.log.take_refusals(),
            console=self.trouble(),
            seconds=seconds,
            told=told,
            conduct=self._guest.console.heard.take() if self._papr else None,
        )

    def trouble(self) -> tuple[str, ...]:
        """Lines of kernel trouble since the last call."""
        return portal().call(self._guest.trouble())

    def _read_live(self) -> list[TableView]:
        known = self._guest.log.tables.at
        if not known:
            raise HarnessError("QEMU's trace told of no table: was it built with another trace backend than log?")
        out = []
        for liobn, at in sorted(known.items()):
            shape = self.shape(liobn)
            if shape is None:
                raise HarnessError(f"LIOBN {liobn:#x} has a table at {at:#x}, but nothing told its size")
            out.append(self.live.table(liobn, at, shape))
        return out

    def shape(self, liobn: int) -> window.Shape | None:
        """The shape of a window: as RTAS created it, else the machine's default."""
        return self._guest.log.tables.shapes.get(liobn, self._defaults.get(liobn))

    def streamed(self) -> list[TableView]:
        """The tables in QEMU's device state.

        :raise HarnessError: QEMU does not save it, or not as it should be.
        """
        os.ftruncate(self._guest.state, 0)
        path = f"/proc/self/fd/{self._guest.state}"
        portal().call(self._guest.qmp("xen-save-devices-state", filename=path))
        size = os.fstat(self._guest.state).st_size
        return list(stream.tables(os.pread(self._guest.state, size, 0)))

    def flip(self, op: Flip) -> Outcome:
        """Self-test: flip a bit of a live entry.

        :raise HarnessError: there is no such entry.
        """
        at = self._guest.log.tables.at.get(op.liobn)
        shape = self.shape(op.liobn) or window.Shape(0)
        index = (op.ioba - shape.start) >> shape.page_shift
        if at is None or not 0 <= index < shape.entries or not 0 <= op.bit < 64:  # noqa: PLR2004 - bits of an entry
            raise HarnessError(f"flip: LIOBN {op.liobn:#x} has no bit {op.bit} of an entry for IOBA {op.ioba:#x}")
        before, after = self.live.flip(at, index, op.bit)
        return Outcome(value=after, fields={"before": before, "after": after})


def _told(table: TableView) -> npt.NDArray[np.uint64]:
    """The entries whose memory is read. Of a window in which all RAM is mapped, page by page and each to itself, only
    those that do not fit: of the others, what somebody asks for is read.
    """
    if len(table.tce) <= _FEW or table.bus_offset < window.SECOND_START:
        return table.tce
    shift = np.uint64(table.page_shift)
    itself = table.tce >> shift == table.index.astype(np.uint64)
    return table.tce[~itself] if np.mean(itself) > _MOST else table.tce
