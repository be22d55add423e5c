"""A `Repeat` as the single calls that it stands for: as many of them as can have left anything behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tcelab.program import Ioctl, Repeat
from tcelab.run.record import Outcome

_ENOUGH: Final = 2
"""Full rounds that leave the same state as any larger number: the second begins with the first one's result."""


def calls_done(op: Repeat, outcome: Outcome) -> int | None:
    """How many calls returned 0, None when the outcome does not tell or contradicts itself."""
    done, all_calls = outcome.fields.get("calls"), len(op.ops) * op.times
    if type(done) is not int:
        return None
    complete = outcome.value == 0 and not outcome.errno
    return done if (done == all_calls if complete else 0 <= done < all_calls) else None


def rounds(op: Repeat, outcome: Outcome, done: int, pages: Callable[[Ioctl], int]) -> Iterator[tuple[Ioctl, Outcome]]:
    """Calls in their order, each with the outcome that it would have had alone; the one that failed is the last.

    :param done: how many returned 0.
    :param pages: how many pages a call maps.
    """
    full, part = divmod(done, len(op.ops))
    own = _frames(op, outcome, done, pages)
    for _ in range(min(full, _ENOUGH)):
        yield from zip(op.ops, own, strict=True)
    yield from zip(op.ops[:part], own, strict=False)
    if full < op.times:
        yield op.ops[part], Outcome(value=outcome.value, errno=outcome.errno)


def _frames(op: Repeat, outcome: Outcome, done: int, pages: Callable[[Ioctl], int]) -> list[Outcome]:
    """An outcome for each call of the list that was done at all, with its share of the frames."""
    counts = [pages(call) for call in op.ops[:done]]
    if len(outcome.frames) != sum(counts):  # they cannot be told apart: the fold will say so
        return [Outcome(value=0)] * len(counts)
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [Outcome(value=0, frames=outcome.frames[end - n : end]) for n, end in zip(counts, ends, strict=True)]


def done_of(op: Repeat, outcome: Outcome) -> Iterator[tuple[Ioctl, int]]:
    """Each call of the list, and how often it was done."""
    done = calls_done(op, outcome) or 0
    full, part = divmod(done, len(op.ops))
    for i, call in enumerate(op.ops):
        yield call, full + (i < part)
