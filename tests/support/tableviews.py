"""Views of a table, made by hand."""

import numpy as np

from tcelab.run.record import TableView

LIOBN = 0x80000100


def view(entries=64, live=None, *, liobn=LIOBN, shift=12, offset=0, by="live"):
    numbers = sorted(live or {})
    words = np.array([live[each] for each in numbers], np.uint64)
    return TableView(liobn, by, entries, np.array(numbers, np.uint32), words, shift, offset)
