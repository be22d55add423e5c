"""What the device under test must hold: an edu, its buffer and what its transfers do.

Source: QEMU hw/misc/edu.c (edu_dma_timer: 4096 bytes of buffer, a transfer beyond them is skipped by versions that are
sound), drivers/vfio/pci/vfio_pci_core.c (bus mastering is cleared on open and on close).
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
    """:ivar memory: the device's own buffer; it starts as zeros and outlives open and close."""

    name: str
    table: TableModel
    master: bool = False
    memory: bytearray = field(default_factory=lambda: bytearray(BUFFER))

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
        if page is not None:
            page.write(piece.iova % tag.PAGE, bytes(self.memory[at : at + piece.size]), step)

    def _read(self, piece: dma.Piece, at: int, _step: int) -> None:
        page = None if piece.refused else self.table.live[piece.entry].page
        start = piece.iova % tag.PAGE
        data = tag.expand(page.content)[start : start + piece.size] if page else bytes(piece.size)
        self.memory[at : at + piece.size] = data


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
