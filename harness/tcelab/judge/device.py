"""What the device under test must hold: an edu, its buffer and what its transfers do.

Source: QEMU hw/misc/edu.c (edu_dma_timer: 4096 bytes of buffer, a transfer beyond them is skipped by versions that are
sound), drivers/vfio/vfio_main.c (vfio_df_device_first_open, vfio_df_device_last_close: open_count) and
drivers/vfio/pci/vfio_pci_core.c (vfio_pci_core_enable and vfio_pci_core_disable clear bus mastering).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tcelab import tag
from tcelab.judge.table import TableModel
from tcelab.papr import dma
from tcelab.program import Dma

BUFFER: Final = 4096


@dataclass(slots=True)
class DeviceModel:
    """:ivar opens: its open files. The first and the end of the last clear bus mastering, no other does.

    :ivar memory: the device's own buffer; it starts as zeros and outlives open and close.
    :ivar known: for each of its bytes: 1, or 0 when we cannot know it.
    """

    name: str
    table: TableModel
    master: bool = False
    opens: int = 0
    memory: bytearray = field(default_factory=lambda: bytearray(BUFFER))
    known: bytearray = field(default_factory=lambda: bytearray(b"\1" * BUFFER))

    def open(self) -> None:
        self.master = self.master and self.opens > 0
        self.opens += 1

    def close(self) -> None:
        self.opens -= 1
        self.master = self.master and self.opens > 0

    def transfer(self, op: Dma, step: int) -> list[dma.Piece]:
        """Move the data of one transfer; its pieces, none when the device refuses it itself."""
        if op.offset + op.size > BUFFER:
            return []
        pieces = dma.pieces(
            op.iova,
            op.size,
            to_memory=op.to_memory,
            entries=self.table.entries,
            permissions=self.table.permissions,
            master=self.master,
        )
        for piece in pieces:
            (self._write if op.to_memory else self._read)(piece, op.offset + piece.start, step)
        return pieces

    def _write(self, piece: dma.Piece, at: int, step: int) -> None:
        page = None if piece.refused else self.table.live[piece.entry].page
        if page is None:
            return
        if all(self.known[at : at + piece.size]):
            page.write(piece.iova % tag.PAGE, bytes(self.memory[at : at + piece.size]), step)
        else:
            page.blur(step)

    def _read(self, piece: dma.Piece, at: int, _step: int) -> None:
        data: bytes | None = bytes(piece.size)  # what a refused read gives
        if not piece.refused:
            page = self.table.live[piece.entry].page
            data = page.read(piece.iova % tag.PAGE, piece.size) if page else None
        self.memory[at : at + piece.size] = data or bytes(piece.size)
        self.known[at : at + piece.size] = bytes([data is not None]) * piece.size


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A piece of a transfer that must be refused. `control`: the first of its device."""

    device: str
    liobn: int
    to_memory: bool
    iova: int
    size: int
    reason: str
    step: int
    control: bool

    @property
    def direction(self) -> str:
        return "write" if self.to_memory else "read"
