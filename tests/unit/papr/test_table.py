"""A TCE table: where a bus address is in it, and what is stored there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcelab.papr import window
from tcelab.papr.tcetable import Table

LIOBN = 0x80000100
TOP = 1 << 64
DYNAMIC = 1 << 59
SHIFTS = (12, 16, 21, 24)

shifts = st.sampled_from(SHIFTS)
tces = st.integers(0, TOP - 1)


def contents(table):
    index, words = table.live()
    return dict(zip(index.tolist(), words.tolist(), strict=True))


def test_a_new_table_is_empty():
    table = Table(LIOBN, 16)
    assert (table.liobn, table.entries, table.page_shift, table.bus_offset) == (0x80000100, 16, 12, 0)
    assert table.words.tolist() == [0] * 16
    assert contents(table) == {}


def test_a_window_that_is_not_active_has_no_entry_for_any_address():
    table = Table(LIOBN, 0, page_shift=0)
    assert contents(table) == {}
    assert all(table.index(ioba) >= table.entries for ioba in (0, 1, 4096, DYNAMIC, TOP - 1))


@pytest.mark.parametrize(
    ("shift", "offset", "ioba", "index"),
    [
        (12, 0, 0, 0),
        (12, 0, 0xFFF, 0),
        (12, 0, 0x1000, 1),
        (12, 0, 0x3FFFFFFF, 262143),
        (12, 0, TOP - 1, 0xFFFFFFFFFFFFF),
        (16, DYNAMIC, DYNAMIC, 0),
        (16, DYNAMIC, DYNAMIC + 0x1FFFF, 1),
        (21, DYNAMIC, DYNAMIC + 0x200000, 1),
        (24, DYNAMIC, DYNAMIC + 0x1000000, 1),
        (24, 0, 0xFFFFFF, 0),
    ],
)
def test_an_entry_is_found_by_its_page(shift, offset, ioba, index):
    assert Table(LIOBN, 262144, page_shift=shift, bus_offset=offset).index(ioba) == index


def test_an_address_below_the_window_is_far_above_it():
    table = Table(LIOBN, 16, page_shift=16, bus_offset=DYNAMIC)
    assert table.index(DYNAMIC - 1) == (1 << 48) - 1
    assert table.index(0) == (1 << 48) - (1 << 43)


def test_a_window_may_reach_over_the_top_of_the_address_space():
    table = Table(LIOBN, 16, bus_offset=TOP - 0x8000)
    assert [table.index(ioba) for ioba in (TOP - 0x8000, TOP - 1, 0, 0x7FFF, 0x8000)] == [0, 7, 8, 15, 16]


def test_an_address_is_rounded_down_before_the_start_is_taken_off():
    table = Table(LIOBN, 16, bus_offset=0x800)
    assert table.index(0x1800) == 0
    assert table.index(0x1FFF) == 0
    assert table.index(0x2000) == 1
    assert table.index(0x800) == (1 << 52) - 1


@given(st.lists(st.tuples(st.integers(0, 15), tces)))
def test_an_entry_holds_what_was_put_last(puts):
    table, model = Table(LIOBN, 16), {}
    for index, tce in puts:
        table.put(index, tce)
        model[index] = tce
        assert table.get(index) == tce
    assert [table.get(index) for index in range(16)] == [model.get(index, 0) for index in range(16)]
    assert contents(table) == {index: tce for index, tce in model.items() if tce}


def test_there_is_no_entry_past_the_end():
    table = Table(LIOBN, 16)
    with pytest.raises(IndexError):
        table.put(16, 1)
    with pytest.raises(IndexError):
        table.get(16)


def test_words_are_the_table_itself():
    table = Table(LIOBN, 16)
    table.put(3, TOP - 1)
    assert table.words[3] == TOP - 1
    assert table.words.dtype == np.uint64
    with pytest.raises(ValueError, match="read-only"):
        table.words[4] = 7  # the table would not notice


def test_live_entries_come_ascending_in_the_types_of_the_views():
    table = Table(LIOBN, 16)
    for index in (9, 2, 15):
        table.put(index, index << 12 | 3)
    index, words = table.live()
    assert (index.dtype, words.dtype) == (np.uint32, np.uint64)
    assert index.tolist() == [2, 9, 15]
    assert words.tolist() == [0x2003, 0x9003, 0xF003]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 1099), tces),
            st.tuples(st.just("fill"), st.integers(0, 1200), st.integers(0, 1200), tces | st.just(0)),
            st.tuples(st.just("store"), st.integers(0, 1200), st.lists(tces, max_size=3)),
            st.tuples(st.just("clear")),
        ),
        max_size=12,
    )
)
def test_live_entries_are_all_that_are_not_zero_wherever_they_lie_in_a_large_table(steps):
    table = Table(LIOBN, 1100)
    for name, *how in steps:
        getattr(table, name)(*[np.array(each, np.uint64) if isinstance(each, list) else each for each in how])
        index, words = table.live()
        assert np.array_equal(index, np.flatnonzero(table.words))
        assert np.array_equal(words, table.words[index])


def test_live_entries_are_a_copy():
    table = Table(LIOBN, 16)
    table.put(3, 5)
    _, words = table.live()
    table.put(3, 6)
    assert words.tolist() == [5]
    words[0] = 9
    assert table.get(3) == 6


@given(st.integers(0, 40), st.integers(0, 40), tces)
def test_a_fill_stops_at_the_end(first, count, tce):
    table = Table(LIOBN, 16)
    table.fill(first, count, tce)
    assert table.words.tolist() == [tce if first <= index < first + count else 0 for index in range(16)]


@given(st.integers(0, 40), st.lists(tces, max_size=40))
def test_a_list_is_stored_up_to_the_end(first, values):
    table = Table(LIOBN, 16)
    table.store(first, np.array(values, np.uint64))
    expected = [values[i - first] if first <= i < first + len(values) else 0 for i in range(16)]
    assert table.words.tolist() == expected


def test_far_above_the_window_nothing_is_stored():
    table = Table(LIOBN, 16)
    far = table.index(TOP - 1)
    table.fill(far, 16, 1)
    table.store(far, np.ones(16, np.uint64))
    assert contents(table) == {}


def test_a_cleared_table_is_empty_and_of_the_same_size():
    table = Table(LIOBN, 16)
    table.fill(0, 16, TOP - 1)
    table.clear()
    assert table.words.tolist() == [0] * 16
    assert table.get(15) == 0


@given(shifts, st.integers(0, 15), st.data())
def test_all_addresses_of_a_page_have_one_entry(shift, index, data):
    table = Table(LIOBN, 16, page_shift=shift, bus_offset=DYNAMIC)
    within = data.draw(st.integers(0, (1 << shift) - 1))
    assert table.index(DYNAMIC + (index << shift) + within) == index


@pytest.mark.parametrize(
    ("liobn", "phb", "number"),
    [
        (0x80000000, 0, 0),
        (0x80000001, 0, 1),
        (0x80000100, 1, 0),
        (0x80000200, 2, 0),
        (0x80001F01, 31, 1),
        (0x800001FE, 1, 254),
    ],
)
def test_a_pci_liobn_names_its_phb_and_its_window(liobn, phb, number):
    assert window.liobn(phb, number) == liobn
    assert (window.phb_of(liobn), window.window_of(liobn)) == (phb, number)
    assert window.is_pci(liobn)


def test_a_liobn_of_virtual_io_is_not_pci():
    assert not window.is_pci(0x71000003)
