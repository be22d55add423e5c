"""Operations that are never run, whether defects are declared or not: some of them hang the kernel.

A program's VFIO changes lie within a window or slightly past its end. Every rule that applies farther out also shows
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tcelab.papr.window import PAGE_SIZE

MOST_BEYOND: Final = 64
"""Pages past the window's end that a range may reach."""


def endless(windows: Sequence[tuple[int, int]], iova: int, size: int) -> bool:
    """Does a range reach too far past the end of a window?

    :param windows: start and end bus address of each window that the range may lie in.
    """
    ends = [end for start, end in windows if start <= iova < end]
    return bool(ends) and iova + size > min(ends) + MOST_BEYOND * PAGE_SIZE
