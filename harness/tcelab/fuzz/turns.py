"""Which programs a campaign consists of: each program's number, machine and size depend on the number of operations
alone, so whoever runs one of them alone runs the same one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

STEPS: Final = 5000
"""Operations of one program. The first ones on a fork are slow, and a long program is slow to shrink."""
LONG_AGO: Final = 8
"""Programs after which every machine other than the usual one has had its turn."""
USUAL: Final = "two-small"
DRIVEN: Final = "dma-api"
NOW_AND_THEN: Final = {1: DRIVEN, 2: "two-small-smp", 3: "two-pe", 5: DRIVEN}
"""Which of eight programs run on another machine: two CPUs; windows of 1 GiB, which take 0.3 s to release; a PE for a
driver of the kernel's DMA API.
"""
_BIG: Final = "two-pe"
_BIG_STEPS: Final = 500


def plan(steps: int, size: int = STEPS, usual: str | None = None) -> Iterator[tuple[int, str, int]]:
    """Number, topology and operations of each program.

    :param steps: operations of all of them.
    :param size: operations of one.
    :param usual: the one topology for all programs; by default others have their turn.
    """
    for number in itertools.count():
        if steps <= 0:
            return
        name = usual or NOW_AND_THEN.get(number % LONG_AGO, USUAL)
        most = min(steps, _BIG_STEPS if name == _BIG else size)
        steps -= most
        yield number, name, most
