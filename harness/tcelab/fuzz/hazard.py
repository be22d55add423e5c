"""What no kernel is asked for, whether its defects are declared or not: from some of it, kernels do not come back.

What a program changes by way of VFIO lies within a window or a little past its end. Farther out there is no rule that
does not show near it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tcelab.papr.window import PAGE_SIZE

MOST_BEYOND: Final = 64
"""Pages past the window's end that a range may reach."""


def endless(windows: Sequence[tuple[int, int]], iova: int, size: int) -> bool:
    """Does a range reach too far past the end of a window?

    :param windows: of those that the range may lie in, the bus addresses at which they start and end.
    """
    ends = [end for start, end in windows if start <= iova < end]
    return bool(ends) and iova + size > min(ends) + MOST_BEYOND * PAGE_SIZE
