"""Which table entries are wrong, snapshot by snapshot: a wrong entry is news once, and again after it was right."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class _Wrong(NamedTuple):
    """What the last snapshot of one view showed wrong.

    :ivar step: number of the checkpoint.
    :ivar numbers: entry numbers, ascending.
    :ivar how: how each of them was wrong, shape (n, k), uint64.
    """

    step: int
    numbers: npt.NDArray[np.int64]
    how: npt.NDArray[np.uint64]


class Standing:
    """The wrong entries of each table, by view. Arrays alone, since whole tables can be wrong."""

    def __init__(self) -> None:
        self._wrong: dict[Hashable, dict[str, _Wrong]] = {}

    def news(
        self, what: Hashable, view: str, step: int, numbers: npt.NDArray[np.int64], how: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.bool_]:
        """Record what a view shows wrong. Which of it is news: was not wrong in the same way before?

        :param what: the law and the table.
        :param numbers: numbers of all entries that are wrong now, ascending.
        :param how: how each of them is wrong, a row of numbers.
        :return: for each of them, whether it is news.
        """
        views = self._wrong.setdefault(what, {})
        own = views.get(view)
        new = np.ones(len(numbers), np.bool_)
        for known in views.values() if len(numbers) else ():
            # Another view may have shown it since this view's last snapshot: no news. If that view's snapshot is older,
            # the entry may have been right in between: news.
            if own is None or known.step >= own.step:
                new &= ~_among(numbers, how, known)
        views[view] = _Wrong(step, numbers, how)
        return new


def _among(numbers: npt.NDArray[Any], how: npt.NDArray[Any], known: _Wrong) -> npt.NDArray[np.bool_]:
    if not len(known.numbers):
        return np.zeros(len(numbers), np.bool_)
    at = np.minimum(np.searchsorted(known.numbers, numbers), len(known.numbers) - 1)
    same: npt.NDArray[np.bool_] = (known.numbers[at] == numbers) & (known.how[at] == how).all(axis=1)
    return same
