"""The probe (`tcelab.device.probe`) of the emulated machine: to its driver an edu, which waits for the consequences of
each page of a transfer.
"""

from __future__ import annotations

from tceagent import edu
from tcelab.emulator.edudevice import Edu
from tcelab.papr import dmarules


class EmulatedProbe(Edu):
    """:ivar freezes: a violation isolates its PE before the next page of the transfer is asked for."""

    identifies = edu.PROBE.to_bytes(4, "little") + Edu.identifies[4:]
    transfer_time = 0.0
    freezes = False

    def pieces(self, iova: int, size: int, *, to_memory: bool) -> list[dmarules.Piece]:
        """See `Edu.pieces`."""
        pieces = super().pieces(iova, size, to_memory=to_memory)
        return dmarules.stopped(pieces) if self.freezes else pieces
