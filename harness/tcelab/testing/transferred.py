"""The observed result of one transfer of a device: not the expected one, but what the host saw.

Two witnesses: QEMU logs each device access that it refuses (system/physmem.c, hw/ppc/spapr_iommu.c), word by word, and
guest RAM is read before and after. The laws judge whether the right bytes went through.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tcelab.papr import window
from tcelab.program import Dma
from tcelab.run.record import Outcome, Refusal, Snapshot

__all__ = ["EXPECTED", "Expected", "Transferred", "transferred"]

Expected = Literal["ok", "refused"]
EXPECTED: Final = ("ok", "refused")

_SLACK: Final = 7
"""Bytes by which QEMU's report of a refused piece may differ from the piece: it reports whole words."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """The result of a transfer, as the host saw it. `Container.dma` returns it.

    :ivar outcome: of the operation: `value` is 0 once it ended, all ones when the device could not be reached.
    :ivar to_memory: the device wrote memory; else it read memory.
    :ivar refused_at: (bus address, bytes) of each piece that QEMU refused; a piece lies in one page of 4 KiB.
    :ivar passed_at: the same for pieces of which QEMU refused nothing.
    :ivar changed: guest physical addresses of the pages of buffers that the transfer changed.
    :ivar told: the first refusal in QEMU's words; empty when it refused nothing.
    """

    outcome: Outcome
    to_memory: bool
    refused_at: tuple[tuple[int, int], ...] = ()
    passed_at: tuple[tuple[int, int], ...] = ()
    changed: tuple[int, ...] = ()
    told: str = field(default="", compare=False)

    @property
    def refused(self) -> bool:
        """All of it was refused: QEMU says so of each piece, and no page of memory changed."""
        return self._ended and bool(self.refused_at) and not self.passed_at and not self.changed

    @property
    def passed(self) -> bool:
        """All of it went through: QEMU refused no piece, and a device that only reads changed no memory."""
        written = bool(self.changed) and not self.to_memory
        return self._ended and bool(self.passed_at) and not self.refused_at and not self.told and not written

    @property
    def _ended(self) -> bool:
        return self.outcome.value == 0 and not self.outcome.errno

    def gave(self, expected: Expected) -> bool:
        """Compare the result with what a test expects.

        :param expected: `"ok"`: all went through; `"refused"`: nothing did.
        :return: whether that is so.
        """
        return self.refused if expected == "refused" else self.passed

    def describe(self) -> str:
        """The result in one phrase."""
        if not self._ended:
            return f"did not end: {self.outcome.errno or self.outcome.value}"
        places = ", ".join(f"{frame:#x}" for frame in self.changed[:3])
        memory = f"guest RAM changed at {places}" if places else "guest RAM is as before"
        if not self.refused_at:
            part = f"; yet it said: {self.told}" if self.told else ""
            return f"went through: QEMU refused no whole piece of it, {memory}{part}"
        if self.passed_at:
            return f"was refused in part: at {_places(self.refused_at)}, not at {_places(self.passed_at)}; {memory}"
        return f"was refused ({self.told}), {memory}"


def _places(pieces: Sequence[tuple[int, int]]) -> str:
    shown = [f"{iova:#x}..{iova + size - 1:#x}" for iova, size in pieces[:3]]
    return ", ".join(shown) + (f" and {len(pieces) - 3} more" if len(pieces) > len(shown) else "")


def transferred(
    op: Dma,
    outcome: Outcome,
    looks: tuple[Snapshot, Snapshot],
    frames: Collection[int],
    *,
    mask: int,
    window_start: int,
) -> Transferred:
    """The result of a transfer, from two snapshots right before and right after it.

    :param op: the transfer.
    :param outcome: what it gave.
    :param looks: the snapshots before and after it.
    :param frames: guest physical addresses of pages that nobody else writes meanwhile.
    :param mask: of the bus addresses that the device can say.
    :param window_start: bus address of its window: QEMU tells a refusal by its place in the window.
    :return: what became of it.
    """
    before, after = looks
    direction = "write" if op.to_memory else "read"
    refusals = [each for each in after.refusals if each.direction == direction]
    refused: list[tuple[int, int]] = []
    passed: list[tuple[int, int]] = []
    for iova, size in _pieces(op.iova & mask, op.size):
        told = _told(refusals, iova, size, window_start)
        (refused if told >= max(1, size - _SLACK) else passed).append((iova, size))
    seen = [frame for frame in frames if frame in before.pages and frame in after.pages]
    changed = [frame for frame in seen if before.pages[frame] != after.pages[frame]]
    return Transferred(
        outcome,
        op.to_memory,
        tuple(refused),
        tuple(passed),
        tuple(sorted(changed)),
        after.refusals[0].line if after.refusals else "",
    )


def _pieces(iova: int, size: int) -> Iterator[tuple[int, int]]:
    while size > 0:
        length = min(window.PAGE_SIZE - iova % window.PAGE_SIZE, size)
        yield iova, length
        iova, size = iova + length, size - length


def _told(refusals: Sequence[Refusal], iova: int, size: int, window_start: int) -> int:
    """Bytes of a piece that QEMU reports as refused."""
    starts = {iova, iova - window_start}
    return sum(
        each.size
        for each in refusals
        if any(each.address < start + size and each.address + max(each.size, 1) > start for start in starts)
    )
