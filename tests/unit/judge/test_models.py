"""Small rules of the judge's models, which whole runs hardly ever meet."""

import numpy as np
import pytest

from tcelab.judge.laws.table import _but_untold
from tcelab.judge.models.edumodel import DeviceModel
from tcelab.judge.models.memorymodel import PageModel
from tcelab.judge.models.tablemodel import LiveEntry, TableModel, differing
from tcelab.judge.models.windowmodel import WindowModel
from tcelab.program import Transfer
from tcelab.program.topology import topology


@pytest.mark.parametrize("permissions", [0, 1, 2, 3])
def test_an_entry_whose_frame_was_not_told_must_have_its_permissions(permissions):
    model = TableModel(1, 8)
    model.put(3, [LiveEntry(permissions, "m", 0, PageModel(), None, 1)], 1)
    for seen in range(4):
        shown = np.array([3], np.uint32), np.array([0x5000 | seen], np.uint64)
        wrong = _but_untold(model, differing(model.arrays(), shown))
        assert wrong.numbers.tolist() == ([] if seen == permissions else [3])


def test_what_a_table_has_pinned_is_counted_by_entries():
    model = TableModel(1, 8)
    model.put(2, [LiveEntry(1, "m", 0, PageModel(), None, 1, pinned=True)] * 3, 1)
    assert model.pinned == 3
    model.clear(3, 4, 2)
    assert model.pinned == 2


def test_an_edu_does_nothing_quickly():
    edu = DeviceModel("pe1", WindowModel(topology("two-small").phbs[0], {}), 0xFFFFFFF)
    assert edu.quick([Transfer(0, 4, to_memory=False)], 0, 1, 1) == (0, 0)
