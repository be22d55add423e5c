"""A table as a test sees it, and how two of them differ in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcelab.papr import tce
from tcelab.run.record import TableView
from tcelab.testing.expectedtable import TceTable, difference

PAGE = 4096
LIOBN = 0x80000100

tables = st.dictionaries(
    st.integers(0, 63).map(lambda i: i * PAGE), st.integers(1, 1 << 20).map(lambda frame: frame * PAGE | 3), max_size=20
)


def table(live):
    return TceTable(LIOBN, 64, live)


def test_a_table_is_what_a_view_of_it_showed():
    view = TableView(LIOBN, "live", 64, np.array([1, 5], np.uint32), np.array([0x1003, 0x5001], np.uint64))
    seen = TceTable.of(view)
    assert dict(seen) == {0x1000: 0x1003, 0x5000: 0x5001}
    assert (seen.liobn, seen.entries, len(seen)) == (LIOBN, 64, 2)
    assert all(type(word) is int for item in seen.items() for word in item)


def test_an_entry_that_is_not_live_reads_zero():
    seen = table({0x1000: 0x1003, 0x3000: 0})
    assert (seen[0x2000], seen[0x3000]) == (0, 0)
    assert [ioba in seen for ioba in (0x1000, 0x2000, 0x3000)] == [True, False, False]
    assert [seen.get(ioba, 7) for ioba in (0x1000, 0x2000)] == [0x1003, 7]


@pytest.mark.parametrize("ask", [lambda t, a: t[a], lambda t, a: a in t, lambda t, a: t.get(a)])
@pytest.mark.parametrize("ioba", [0x1800, 64 * PAGE, -PAGE, "junk"])
def test_an_address_that_no_entry_can_have_is_no_empty_entry(ask, ioba):
    """`assert table[iova] == 0` must not hold because of a slip in `iova`."""
    with pytest.raises(LookupError, match=r"no entry of LIOBN 0x80000100 has the IOBA .*: it has 64 entries of 4 KiB"):
        ask(table({0x1000: 0x1003}), ioba)


def test_neighbours_of_64k_are_one_line():
    index, words = np.array([2, 3], np.uint32), np.array([0x10003, 0x20003], np.uint64)
    seen = TceTable.of(TableView(LIOBN, "live", 64, index, words, page_shift=16))
    (line,) = difference({}, seen)
    assert line.startswith("IOBA 0x20000..0x3ffff, 2 entries, each should not be there")


def test_a_table_that_starts_elsewhere_has_its_addresses_there():
    view = TableView(LIOBN, "live", 64, np.array([2], np.uint32), np.array([0x1003], np.uint64), bus_offset=0x40000000)
    assert dict(TceTable.of(view)) == {0x40002000: 0x1003}


def test_a_table_of_64k_entries_has_its_addresses_in_64k():
    view = TableView(LIOBN, "live", 64, np.array([2], np.uint32), np.array([0x10003], np.uint64), page_shift=16)
    assert dict(TceTable.of(view)) == {0x20000: 0x10003}


@given(tables, tables)
def test_tables_are_equal_exactly_when_nothing_differs(one, other):
    assert (table(one) == table(other)) == (difference(one, other) == [])
    assert (table(one) == other) == (one == other)
    assert table(one) == {**one, 63 * PAGE * 2: 0}


def test_tables_of_two_pes_are_never_equal():
    assert TceTable(LIOBN, 64, {}) != TceTable(LIOBN + 0x100, 64, {})
    assert TceTable(LIOBN, 64, {}) != TceTable(LIOBN, 32, {})
    assert TceTable(LIOBN, 64, {}) != "a table"


def test_neighbours_that_differ_in_the_same_way_are_one_line_though_their_frames_are_scattered():
    expected = {i * PAGE: (0x1000 * (i * 37 % 101 + 1)) | tce.READ for i in range(16, 48)}
    seen = {ioba: word | tce.WRITE for ioba, word in expected.items()}
    (line,) = difference(expected, seen)
    assert line.startswith("IOBA 0x10000..0x2ffff, 32 entries, each has the permissions read-write instead of read;")
    assert tce.describe(expected[0x10000]) in line
    assert tce.describe(seen[0x10000]) in line


def test_a_gap_ends_a_run():
    assert len(difference({0: 0x1003, PAGE: 0x2003, 3 * PAGE: 0x3003}, {})) == 2


def test_what_is_missing_what_is_too_much_and_what_leads_elsewhere_are_told_apart():
    expected = {0: 0x1003, PAGE: 0x2003, 3 * PAGE: 0x4001}
    seen = {PAGE: 0x7003, 2 * PAGE: 0x3003, 3 * PAGE: 0x8002}
    missing, elsewhere, extra, both = difference(expected, seen)
    assert missing.startswith("IOBA 0x0 is missing: expected 0x0000000000001003")
    assert missing.endswith("seen 0 (empty)")
    assert elsewhere.startswith("IOBA 0x1000 leads to another page: ")
    assert extra.startswith("IOBA 0x2000 should not be there: expected 0 (empty), seen 0x0000000000003003")
    assert both.startswith("IOBA 0x3000 leads to another page, write instead of read: ")


def test_a_table_full_of_differences_is_a_dozen_lines_that_count_the_rest():
    lines = difference({2 * i * PAGE: 0x1003 for i in range(1000)}, {})
    assert len(lines) == 13
    assert lines[-1] == "... and 988 more runs, 988 entries"
    assert len(difference({i * PAGE: 0x1003 for i in range(262144)}, {})) == 1


@given(tables, tables)
def test_every_entry_that_differs_is_counted_once(expected, seen):
    lines = difference(expected, seen)
    words = [line.split() for line in lines if not line.startswith("...")]
    shown = sum(int(each[2]) if each[3].startswith("entries") else 1 for each in words)
    more = int(lines[-1].split()[-2]) if lines and lines[-1].startswith("...") else 0
    assert shown + more == sum(expected.get(i, 0) != seen.get(i, 0) for i in {*expected, *seen})
