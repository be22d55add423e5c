"""A transfer is cut at page boundaries, and each piece passes or not for itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcelab.papr import dmarules

PAGE = 4096
GRANTED = {0: 3, 1: 1, 2: 2, 4: 3}
START = 0x40000000


def cut(iova, size, *, to_memory=False, entries=5, start=0, **more):
    return dmarules.pieces(
        iova,
        size,
        to_memory=to_memory,
        entries=entries,
        permissions=lambda i: GRANTED.get(i, 0),
        window_start=start,
        **more,
    )


@pytest.mark.parametrize(
    ("iova", "size", "to_memory", "reasons"),
    [
        (0, PAGE, False, [""]),
        (0, 2 * PAGE, False, ["", ""]),
        (0, 2 * PAGE, True, ["", "permission"]),
        (PAGE, 2 * PAGE, False, ["", "permission"]),
        (2 * PAGE + 4000, 200, False, ["permission", "no entry"]),
        (2 * PAGE + 4000, 200, True, ["", "no entry"]),
        (3 * PAGE + 4000, 200, True, ["no entry", ""]),
        (4 * PAGE + 4000, 200, True, ["", "outside the window"]),
        (1 << 59, 1, False, ["outside the window"]),
        (0, 0, False, []),
    ],
)
def test_each_page_is_asked_for_itself(iova, size, to_memory, reasons):
    assert [piece.refused for piece in cut(iova, size, to_memory=to_memory)] == reasons


@pytest.mark.parametrize(
    ("iova", "size", "reasons", "told"),
    [
        (START, PAGE, [""], [START]),
        (START - 100, 200, ["outside the window", ""], [START - 100, START]),
        (START - PAGE, PAGE, ["outside the window"], [START - PAGE]),
        (0, PAGE, ["outside the window"], [0]),
        (START + 2 * PAGE + 4000, 200, ["permission", "no entry"], [2 * PAGE + 4000, 3 * PAGE]),
        (START + 5 * PAGE - 100, 200, ["", "outside the window"], [START + 5 * PAGE - 100, START + 5 * PAGE]),
    ],
)
def test_a_window_may_start_elsewhere_and_what_its_table_refuses_is_told_from_its_start_on(iova, size, reasons, told):
    pieces = cut(iova, size, start=START)
    assert [piece.refused for piece in pieces] == reasons
    assert [piece.told for piece in pieces] == told
    assert [piece.iova for piece in pieces] == [iova, *(-(-iova // PAGE) * PAGE for _ in pieces[1:])]


@pytest.mark.parametrize("more", [{"master": False}, {"isolated": True}], ids=["master off", "isolated"])
def test_what_never_comes_to_the_table_is_told_by_its_bus_address(more):
    (piece,) = cut(START + 3 * PAGE, 8, start=START, **more)
    assert piece.told == START + 3 * PAGE


@given(st.integers(0, 8 * PAGE), st.integers(0, 4 * PAGE), st.booleans(), st.integers(0, 6))
def test_a_window_that_starts_elsewhere_is_the_same_window(iova, size, to_memory, entries):
    here = cut(iova, size, to_memory=to_memory, entries=entries)
    there = cut(START + iova, size, to_memory=to_memory, entries=entries, start=START)
    assert [(each.entry, each.start, each.size, each.refused) for each in here] == [
        (each.entry, each.start, each.size, each.refused) for each in there
    ]


def test_without_bus_master_nothing_passes():
    assert {piece.refused for piece in cut(0, 6 * PAGE, master=False)} == {"bus master off"}


def test_an_isolated_pe_lets_nothing_pass_whatever_its_table_says():
    assert {piece.refused for piece in cut(0, 6 * PAGE, isolated=True)} == {"the PE is isolated"}


def test_a_device_that_its_driver_keeps_off_the_bus_is_not_there_to_be_isolated():
    assert {piece.refused for piece in cut(0, 6 * PAGE, isolated=True, master=False)} == {"bus master off"}


@given(st.integers(0, 8 * PAGE), st.integers(0, 4 * PAGE), st.booleans(), st.integers(0, 6), st.booleans())
def test_pieces_cover_the_range_exactly_and_in_order(iova, size, to_memory, entries, master):
    pieces = cut(iova, size, to_memory=to_memory, entries=entries, master=master)
    at = 0
    for piece in pieces:
        assert (piece.start, piece.iova) == (at, iova + at)
        assert piece.size > 0
        assert piece.iova // PAGE == (piece.iova + piece.size - 1) // PAGE == piece.entry
        assert not piece.refused or piece.refused in dmarules.REASONS
        assert (piece.refused == "bus master off") == (not master)
        assert (piece.refused == dmarules.OUTSIDE) == (master and piece.entry >= entries)
        at += piece.size
    assert at == size
