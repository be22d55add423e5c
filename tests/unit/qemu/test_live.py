"""The live view: whole tables and single bits in the memory of a process, here of this one."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import closing

import numpy as np
import pytest

from tcelab.errors import HarnessError, Unsupported
from tcelab.papr.window import Shape
from tcelab.qemu.views.live import LiveMemory
from tcelab.run import exitcode

LIOBN = 0x80000100


@pytest.fixture
def memory():
    with closing(LiveMemory(os.getpid())) as memory:
        yield memory


def held(**entries):
    """A table of 4096 entries: the array and its address."""
    words = np.zeros(4096, np.uint64)
    for number, word in entries.items():
        words[int(number[1:])] = word
    return words, words.ctypes.data


def test_a_whole_table_is_read_with_the_numbers_of_its_live_entries(memory):
    _words, at = words = held(n0=0x1003, n7=0x2001, n4095=(1 << 64) - 1)
    view = memory.table(LIOBN, at, Shape(4096))
    assert (view.liobn, view.view, view.entries, view.page_shift, view.bus_offset) == (LIOBN, "live", 4096, 12, 0)
    assert view.index.tolist() == [0, 7, 4095]
    assert view.tce.tolist() == [0x1003, 0x2001, (1 << 64) - 1]
    assert (view.index.dtype, view.tce.dtype) == (np.uint32, np.uint64)
    assert words


def test_where_a_window_starts_is_told_to_it(memory):
    words, at = held(n7=0x2001)
    view = memory.table(LIOBN, at, Shape(4096, 16, 0x40000000))
    assert (view.bus_offset, view.index.tolist(), view.ioba(7)) == (0x40000000, [7], 0x40070000)
    assert words.size


def test_only_as_many_entries_are_read_as_the_table_has(memory):
    _words, at = kept = held(n0=1, n9=2, n10=3)
    assert memory.table(LIOBN, at, Shape(4096)).index.tolist() == [0, 9, 10]
    view = memory.table(LIOBN, at, Shape(10))
    assert (view.entries, view.index.tolist()) == (10, [0, 9])
    assert kept


def test_a_reading_stays_as_it_was_when_the_next_table_is_read(memory):
    _first, at = first = held(n3=0x3003)
    _second, other = second = held(n5=0x5003)
    before = memory.table(LIOBN, at, Shape(4096))
    memory.table(LIOBN + 256, other, Shape(4096))
    assert (before.index.tolist(), before.tce.tolist()) == ([3], [0x3003])
    assert first
    assert second


@pytest.mark.parametrize("at", [8, 0xFFFF_FFFF_FFFF_0000])
def test_an_address_where_nothing_is_is_no_table(memory, at):
    with pytest.raises((HarnessError, OverflowError), match=r"LIOBN 0x80000100: no table|too large"):
        memory.table(LIOBN, at, Shape(16))


def test_a_table_that_ends_too_soon_is_no_table(memory):
    """Two pages, the second taken away: the kernel reads up to there and says no more."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(-1, 2 * mmap.PAGESIZE) as area:
        keeper = ctypes.c_char.from_buffer(area)
        at = ctypes.addressof(keeper)
        size = ctypes.c_size_t(mmap.PAGESIZE)
        assert libc.mprotect(ctypes.c_void_p(at + mmap.PAGESIZE), size, 0) == 0
        try:
            # /proc/PID/mem reads past PROT_NONE, so the page must go.
            assert libc.munmap(ctypes.c_void_p(at + mmap.PAGESIZE), size) == 0
            with pytest.raises(HarnessError, match=f"only {mmap.PAGESIZE} bytes of the table"):
                memory.table(LIOBN, at, Shape(mmap.PAGESIZE // 8 + 1))
        finally:
            libc.mmap.restype = ctypes.c_void_p
            fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
            libc.mmap(ctypes.c_void_p(at + mmap.PAGESIZE), size, 3, fixed, -1, ctypes.c_long(0))
            del keeper


@pytest.mark.parametrize(("index", "bit"), [(0, 0), (7, 12), (4095, 63)])
def test_a_flip_changes_exactly_that_bit_of_that_entry_and_twice_is_never(memory, index, bit):
    words, at = held(n7=0x2001)
    want = words.copy()
    want[index] ^= np.uint64(1 << bit)
    before = int(words[index])
    assert memory.flip(at, index, bit) == (before, before ^ (1 << bit))
    assert words.tolist() == want.tolist()
    assert memory.flip(at, index, bit) == (before ^ (1 << bit), before)
    assert words[7] == 0x2001
    assert np.count_nonzero(words) == 1


def test_a_process_whose_memory_is_closed_to_us_is_unsupported():
    with pytest.raises(Unsupported, match="cannot open the memory of QEMU") as caught:
        LiveMemory(1 << 30)
    assert "ptrace_scope" in caught.value.next_step
    assert exitcode.of_error(caught.value) == 125


def test_closing_lets_go():
    memory = LiveMemory(os.getpid())
    memory.close()
    with pytest.raises((HarnessError, OSError), match="Bad file descriptor"):
        memory.flip(0, 0, 0)
