"""What a doorbell of a probe must tell, and what its transfers leave in memory."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tcelab.judge.models.edumodel import DeviceModel
from tcelab.papr import dmarules
from tcelab.program import Doorbell, pagetags

REFUSED: Final = errno.ENODEV
"""How QEMU answers a piece that its table refuses (QEMU 11.1, measured)."""


@dataclass(slots=True)
class Rung:
    """:ivar allowed: transfers that pass; `refused`: those of which a piece is refused; `first`: its bus address.

    :ivar digest: CRC-32 of what is read, None once that is unknown.
    :ivar unreachable: it isolates its PE, so that nothing can be read.
    :ivar interrupts: MSIs that come.
    """

    allowed: int = 0
    refused: int = 0
    first: int = 0
    digest: int | None = 0
    unreachable: bool = False
    interrupts: int = 0

    def add(self, pieces: Sequence[dmarules.Piece]) -> None:
        """Count another transfer."""
        first = next((piece for piece in pieces if piece.refused), None)
        if first is None:
            self.allowed += 1
        else:
            self.first = self.first if self.refused else first.iova
            self.refused += 1

    def fields(self) -> dict[str, int]:
        """What it must tell, by the names of an outcome; the digest only if it is known."""
        told = {"allowed": self.allowed, "refused": self.refused, "first_refused": self.first}
        told["errno"] = REFUSED if self.refused else 0
        return told if self.digest is None else {**told, "digest": self.digest}


def written(op: Doorbell) -> bytes:
    """What each of its transfers writes; nothing if they read."""
    return (op.pattern.to_bytes(8, "little") * (op.size // 8 + 1))[: op.size] if op.to_memory else b""


def move(device: DeviceModel, data: bytes, pieces: Sequence[dmarules.Piece], rung: Rung, step: int) -> None:
    """Fold one transfer in. :param data: what it writes; empty: it reads."""
    for piece in pieces:
        page = None if piece.refused else device.page(piece)
        if data:
            if page is not None:
                page.write(piece.iova % pagetags.PAGE, data[piece.start : piece.start + piece.size], step)
            continue
        read = bytes(piece.size) if piece.refused else None
        if page is not None:
            read = page.read(piece.iova % pagetags.PAGE, piece.size)
        rung.digest = None if read is None or rung.digest is None else zlib.crc32(read, rung.digest)
