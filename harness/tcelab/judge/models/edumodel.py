"""What the device under test must hold: an edu, its buffer and what its transfers do.

Source: QEMU hw/misc/edu.c (edu_dma_timer: 4096 bytes of buffer, a transfer beyond them is skipped by versions that are
sound), drivers/vfio/vfio_main.c (vfio_df_device_first_open, vfio_df_device_last_close: open_count) and
drivers/vfio/pci/vfio_pci_core.c (vfio_pci_core_enable and vfio_pci_core_disable clear bus mastering).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tceagent import edu
from tcelab.judge.models.memorymodel import PageModel
from tcelab.judge.models.tablemodel import TableModel
from tcelab.judge.models.windowmodel import WindowModel
from tcelab.papr import dmarules, tce
from tcelab.program import Dma, Flight, Transfer, pagetags

BUFFER: Final = edu.BUFFER_SIZE
Anywhere = Callable[[TableModel, int], PageModel | None]
Asker = tuple[str, str]
"""A process, and what it calls a device's file."""
EDU: Final = edu.IS_EDU
"""Its identity."""


@dataclass(slots=True)
class DeviceModel:
    """:ivar mask: mask of its bus addresses.

    :ivar master: its driver wants it to master the bus.
    :ivar opens: its open files. Only the first open and the last close clear bus mastering.

    :ivar memory: its own buffer; it starts as zeros and outlives open and close.
    :ivar known: for each of its bytes: 1, or 0 if unknown.
    :ivar anywhere: gives the page of a buffer at a real address, where a window's entries lead to all of RAM.
    """

    name: str
    windows: WindowModel
    mask: int
    master: bool = False
    opens: int = 0
    memory: bytearray = field(default_factory=lambda: bytearray(BUFFER))
    known: bytearray = field(default_factory=lambda: bytearray(b"\1" * BUFFER))
    identity: int = EDU
    anywhere: Anywhere = lambda _table, _address: None

    @property
    def at_once(self) -> bool:
        """A violation has its consequences before the next operation of the device's driver."""
        return False

    @property
    def table(self) -> TableModel:
        """Of the default window of its PE."""
        return self.windows.default

    def open(self) -> None:
        self.master = self.master and self.opens > 0
        self.opens += 1

    def close(self) -> None:
        self.opens -= 1
        self.master = self.master and self.opens > 0

    def moved(self) -> None:
        """Another QEMU has it now, which begins with an edu that has done nothing."""
        self.memory[:] = bytes(len(self.memory))
        self.known[:] = b"\1" * len(self.known)

    def ended(self) -> None:
        """Its driver is gone with its kernel. Its memory stays as it is."""
        self.master, self.opens = False, 0
        self.off_bus()
        self.thawed()

    def replaced(self) -> None:
        """It was plugged in: it is as at the machine's start."""
        self.ended()
        self.memory[:] = bytes(BUFFER)
        self.known[:] = b"\1" * BUFFER

    def off_bus(self) -> None:
        """Its command register was written, and it may not master the bus."""

    def wrote(self, at: int) -> int:  # noqa: ARG002
        """Number of the operation that wrote a byte of its disk last, -1 if none did."""
        return -1

    def thawed(self) -> None:
        """Its registers can be reached again, after its PE was isolated or reset."""

    def begun(self, step: int) -> None:
        """It is about to get a command."""

    def transfer(self, op: Dma | Transfer | Flight, step: int, *, isolated: bool = False) -> list[dmarules.Piece]:
        """Move the data of one transfer; its pieces, none when the device refuses it itself.

        :param isolated: the DMA of its PE is stopped.
        """
        if op.offset + op.size > len(self.memory):
            return []
        pieces = self.pieces(op, isolated=isolated)
        for piece in pieces:
            (self._write if op.to_memory else self._read)(piece, op.offset + piece.start, step)
        return pieces

    def missed(self, op: Dma | Transfer, asker: Asker, *, isolated: bool) -> list[dmarules.Piece]:  # noqa: ARG002
        """A transfer that the device did not do although it was reached: its pieces, none if it was not even tried."""
        return []

    def looks(self) -> list[tuple[bool, int, int]]:
        """Further accesses that a device without bus mastering is refused: whether it writes, bus address, bytes."""
        return []

    def torn(self) -> list[tuple[bool, int, int]]:
        """Own accesses that may be refused when its PE is isolated during a transfer: as `looks`."""
        return []

    def quick(self, transfers: Sequence[Transfer], begin: int, end: int, step: int) -> tuple[int, int]:  # noqa: ARG002
        """Do transfers number `begin..end-1` until a refusal: how many were done, and in how many pieces. The device
        masters the bus.
        """
        return 0, 0

    def pieces(self, op: Dma | Transfer | Flight, *, isolated: bool) -> list[dmarules.Piece]:
        """The pieces of a transfer, by the table as it is now."""
        iova = op.iova & self.mask
        return self.windows.pieces(iova, op.size, to_memory=op.to_memory, master=self.master, isolated=isolated)

    def page(self, piece: dmarules.Piece) -> PageModel | None:
        """Where a piece that is not refused goes, None when it is no page of a buffer."""
        table = self.windows.active[piece.window]
        entry = table.live[piece.entry]
        page = entry.page_at(table.page_number(piece.offset))
        if page is None and entry.raw is not None:
            inside = piece.offset & ((1 << table.page_shift) - 1)
            return self.anywhere(table, tce.address(entry.raw, table.page_shift) + inside)
        return page

    def doubt(self, op: Dma | Transfer | Flight, step: int) -> None:
        """It is unknown whether a transfer was done."""
        for piece in self.transfer(op, step):
            page = self._nearest(piece)
            if op.to_memory and page is not None:
                page.blur(step)
        if not op.to_memory:
            self.known[op.offset : op.offset + op.size] = bytes(op.size)

    def _nearest(self, piece: dmarules.Piece) -> PageModel | None:
        """Where a piece would go, whatever forbids it."""
        table = self.windows.active[piece.window]
        entry = table.live.get(piece.entry)
        return None if entry is None else entry.page_at(table.page_number(piece.offset))

    def _write(self, piece: dmarules.Piece, at: int, step: int) -> None:
        page = None if piece.refused else self.page(piece)
        if page is None:
            return
        if 0 not in self.known[at : at + piece.size]:
            page.write(piece.iova % pagetags.PAGE, bytes(self.memory[at : at + piece.size]), step)
        else:
            page.blur(step)

    def _read(self, piece: dmarules.Piece, at: int, _step: int) -> None:
        data: bytes | None = bytes(piece.size)  # what a refused read gives
        if not piece.refused:
            page = self.page(piece)
            data = page.read(piece.iova % pagetags.PAGE, piece.size) if page else None
        self.memory[at : at + piece.size] = data or bytes(piece.size)
        self.known[at : at + piece.size] = bytes([data is not None]) * piece.size


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A piece of a transfer that must be refused.

    :ivar told: the address at which QEMU reports it, see `tcelab.papr.dmarules.Piece`.
    :ivar maybe: it may or may not have been refused.
    """

    device: str
    liobn: int
    to_memory: bool
    iova: int
    told: int
    size: int
    reason: str
    step: int
    maybe: bool = False

    @property
    def direction(self) -> str:
        return "write" if self.to_memory else "read"
