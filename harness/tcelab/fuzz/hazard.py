"""What a kernel with a known defect would not come back from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tcelab.papr.window import PAGE_SIZE

MOST_BEYOND: Final = 64
"""Pages past the window's end that a kernel with the quirk `quirks.ONE_PAGE` may be asked to unmap: it goes through
every page up to the size, in the window or not.
"""


def endless(windows: Sequence[tuple[int, int]], iova: int, size: int) -> bool:
    """Would an UNMAP_DMA go on for long there?

    :param windows: of those that the range may lie in, the bus addresses at which they start and end.
    """
    ends = [end for start, end in windows if start <= iova < end]
    return bool(ends) and iova + size > min(ends) + MOST_BEYOND * PAGE_SIZE
