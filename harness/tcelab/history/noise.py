"""Is a figure slower or faster than before, beyond its noise? Never a claim with too few values.

The rule, for a cell that ran in both nights with the same seed:

- With at least 7 earlier nights (the night before included, the last 20 at most), each counts by the median of its
  values. The new median must lie outside of all of them, by more than their whole range; farther from their median
  than 4 standard deviations (1.4826 times the median absolute deviation); and, of a time, a rate or a size, differ from
  the night before by more than 5 %. What was exactly the same in all of them must only differ (counts, coverage).
- With fewer nights, each of the two needs at least 5 values. No value of one may lie among those of the other, and the
  medians must differ by more than 4 standard deviations of the noisier one, and by more than 10 %.
- Otherwise nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, Literal

Judgement = Literal["worse", "better", "changed", "same", "too few"]
"""`changed`: beyond the noise, of a figure of which nobody says which way is better."""

NIGHTS: Final = 7
MOST: Final = 20
VALUES: Final = 5
_DEVIATIONS: Final = 4
_SIGMA: Final = 1.4826
"""A standard deviation of normal noise, in median absolute deviations."""
_MEASURED: Final = frozenset({"s", "ms", "us", "ns", "B", "kB", "KiB", "MB", "MiB", "GB", "GiB"})
"""Units of what is never twice the same; rates (`/s`) are others."""
_OF_NIGHTS: Final = 0.05
_OF_VALUES: Final = 0.10


def judge(
    before: Sequence[float],
    after: Sequence[float],
    earlier: Sequence[float],
    better: Literal["lower", "higher", ""] = "",
    unit: str = "",
) -> Judgement:
    """:param before: all values of the night before; `after`: of the new one; at least one each.

    :param earlier: medians of earlier nights, the night before included.
    """
    new, change = median(after), median(after) - median(before)
    if len(earlier) >= NIGHTS:
        beyond = not small(before, after, unit) and _beyond_nights(earlier, new)
        change = new - median(earlier)
    elif min(len(before), len(after)) >= VALUES:
        beyond = _beyond_values(before, after)
    else:
        return "too few" if change else "same"
    if not beyond:
        return "same"
    if not better:
        return "changed"
    return "better" if (change < 0) == (better == "lower") else "worse"


def small(before: Sequence[float], after: Sequence[float], unit: str) -> bool:
    """Too small a change for any claim, whatever the noise."""
    if before == after:
        return True
    one, other = median(before), median(after)
    if unit in _MEASURED or unit.endswith("/s"):
        return abs(other - one) <= _OF_NIGHTS * abs(one)
    return one == other


def deviation(values: Sequence[float]) -> float:
    """A robust standard deviation."""
    middle = median(values)
    return _SIGMA * median(abs(each - middle) for each in values)


def _beyond_nights(earlier: Sequence[float], new: float) -> bool:
    least, most = min(earlier), max(earlier)
    if least == most:
        return new != most
    far = abs(new - median(earlier))
    margin = most - least
    outside = not least - margin <= new <= most + margin
    return outside and far > _DEVIATIONS * deviation(earlier)


def _beyond_values(before: Sequence[float], after: Sequence[float]) -> bool:
    apart = max(before) < min(after) or max(after) < min(before)
    far = abs(median(after) - median(before))
    noise = max(deviation(before), deviation(after))
    return apart and far > _DEVIATIONS * noise and far > _OF_VALUES * abs(median(before))
