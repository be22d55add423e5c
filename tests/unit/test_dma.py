"""A transfer is cut at page boundaries, and each piece passes or not for itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcelab.papr import dma

PAGE = 4096
GRANTED = {0: 3, 1: 1, 2: 2, 4: 3}


def cut(iova, size, *, to_memory=False, entries=5, master=True):
    return dma.pieces(
        iova, size, to_memory=to_memory, entries=entries, permissions=lambda i: GRANTED.get(i, 0), master=master
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


def test_without_bus_master_nothing_passes():
    assert {piece.refused for piece in cut(0, 6 * PAGE, master=False)} == {"bus master off"}


@given(st.integers(0, 8 * PAGE), st.integers(0, 4 * PAGE), st.booleans(), st.integers(0, 6), st.booleans())
def test_pieces_cover_the_range_exactly_and_in_order(iova, size, to_memory, entries, master):
    pieces = cut(iova, size, to_memory=to_memory, entries=entries, master=master)
    at = 0
    for piece in pieces:
        assert (piece.start, piece.iova) == (at, iova + at)
        assert piece.size > 0
        assert piece.iova // PAGE == (piece.iova + piece.size - 1) // PAGE == piece.entry
        assert piece.refused in ("", *dma.REASONS)
        assert (piece.entry >= entries) == (piece.refused == dma.OUTSIDE) or not master
        at += piece.size
    assert at == size
