"""Known defects: their names, and what a kernel with only some of them does."""

from dataclasses import replace

import pytest

import rowkit
from rows.row import END, PAGE, closing, enabled, mapping
from tcelab.errors import UsageError
from tcelab.quirks import MISALIGNED, ONE_PAGE, QUIRKS, check


def test_every_quirk_says_what_it_is_what_would_be_right_and_where_it_is():
    for name, quirk in QUIRKS.items():
        assert name == quirk.name
        assert all((quirk.what, quirk.right, quirk.kernels, quirk.source))


def test_a_name_that_nobody_knows_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match="no quirk moon; there are: misaligned-iova-returns-1"):
        check([MISALIGNED, "moon"])
    assert check([ONE_PAGE, ONE_PAGE]) == {ONE_PAGE}


@pytest.mark.parametrize(
    ("quirks", "expect"),
    [((), "EINVAL"), ((MISALIGNED,), 1), ((ONE_PAGE,), "EINTR"), ((MISALIGNED, ONE_PAGE), "EINTR")],
)
def test_a_map_across_the_end_on_a_kernel_with_some_of_the_defects(quirks, expect):
    """The macro that says 1 in the place of any code says so for the end as well, once the end is looked at."""
    row = next(row for row in rowkit.FILES["linux-v1"] if row.quirk == ONE_PAGE)
    ops = (*enabled(), mapping(END - PAGE, 2, expect=expect), *closing())
    row = replace(row, ops=ops, tables=None)
    assert rowkit.disagreements(row, rowkit.on_emulator(row, "linux-v1", frozenset(quirks))) == []
