"""The sections `spapr_iommu` of a QEMU state stream."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcelab.errors import HarnessError
from tcelab.qemu.views.stream import MAGIC, tables


def section(liobn, words, *, ident=7, version=3, ex=None, instance=None, footer=True):
    out = b"\x04" + struct.pack(">I", ident) + b"\x0bspapr_iommu"
    out += struct.pack(">II", liobn if instance is None else instance, version)
    out += struct.pack(">IIB", liobn, len(words), 0) + struct.pack(f">{len(words)}Q", *words) + b"\x01"
    if ex:
        out += b"\x05\x0espapr_iommu_ex" + struct.pack(">IQI", 1, *ex)
    return out + (b"\x7e" + struct.pack(">I", ident) if footer else b"")


def test_only_live_entries_are_kept_with_their_numbers():
    (view,) = tables(MAGIC + b"other devices" + section(0x80000100, [0, 0x5003, 0, 0x6001]) + b"more")
    assert (view.liobn, view.view, view.entries) == (0x80000100, "stream", 4)
    assert view.index.tolist() == [1, 3]
    assert view.tce.tolist() == [0x5003, 0x6001]
    assert (view.page_shift, view.bus_offset) == (12, 0)


def test_a_dynamic_window_tells_its_place_and_page_size():
    (view,) = tables(MAGIC + section(0x80000101, [0], ex=(1 << 59, 16)))
    assert (view.bus_offset, view.page_shift) == (1 << 59, 16)


def test_an_inactive_window_has_no_entries():
    first, second = tables(MAGIC + section(0x80000100, [0]) + section(0x80000101, [], ident=9, ex=(0, 0)))
    assert (first.entries, second.entries) == (1, 0)


@pytest.mark.parametrize(
    "stream",
    [
        b"not a stream",
        MAGIC + section(0x80000100, [1, 2, 3])[:-20],
        MAGIC + section(0x80000100, [1], version=2),
        MAGIC + section(0x80000100, [1], instance=0x80000200),
        MAGIC + section(0x80000100, [1], footer=False) + b"\x00" * 16,
        MAGIC + section(0x80000100, [1], ident=7, footer=False) + b"\x7e\x00\x00\x00\x08" + b"\x00" * 16,
    ],
    ids=["magic", "cut off", "version", "instance", "no footer", "another section's footer"],
)
def test_anything_else_is_refused(stream):
    with pytest.raises(HarnessError):
        tables(stream)


def test_an_entry_that_spells_a_section_is_still_an_entry():
    """A guest chooses what is in the table: it must not be able to make up a table."""
    words = list(struct.unpack(">3Q", (b"\x04\x00\x00\x00\x07\x0bspapr_iommu" + bytes(16))[:24]))
    (view,) = tables(MAGIC + section(0x80000100, words))
    assert view.tce.tolist() == [word for word in words if word]


@given(st.lists(st.lists(st.sampled_from([0, 0, 0, 1, 0x1003, (1 << 64) - 1]), max_size=40), max_size=4))
def test_every_table_comes_back_as_it_was_saved(all_words):
    stream = MAGIC + b"".join(section(0x80000000 | i << 8, words, ident=i) for i, words in enumerate(all_words))
    views = tables(stream)
    assert len(views) == len(all_words)
    for view, words in zip(views, all_words, strict=True):
        back = np.zeros(view.entries, np.uint64)
        back[view.index] = view.tce
        assert back.tolist() == words


def test_a_name_outside_of_a_full_section_is_no_table():
    part = section(0x80000200, [0x6001])
    (view,) = tables(MAGIC + b"\x02" + part[1:] + section(0x80000100, [0x5003]))
    assert view.liobn == 0x80000100
