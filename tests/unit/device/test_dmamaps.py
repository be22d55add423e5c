"""The stream of DMA_MAP and DMA_UNMAP, folded."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfio_client import memory_file

from tcelab.device.vfio_user import DmaMaps, DmaRefused, RequestError
from tcelab.device.vfio_user.protocol import Limits
from thorough import often

PAGE = 4096
WHERE = st.integers(0, 12).map(lambda n: n * PAGE)
LONG = st.integers(1, 6).map(lambda n: n * PAGE)


def own(fd):
    return os.dup(fd)


@given(st.lists(st.tuples(st.booleans(), WHERE, LONG), max_size=30))
@settings(max_examples=often(60, 3000), deadline=None)
def test_the_fold_is_that_of_a_list_which_is_searched_from_end_to_end(changes):
    maps, slow = DmaMaps(), {}
    for maps_it, at, size in changes:
        inside = [a for a, s in slow.items() if a < at + size and a + s > at]
        if maps_it:
            allowed = not inside or (inside == [at] and slow[at] == size)
            after = {**slow, at: size}
        else:
            allowed = all(at <= a and a + slow[a] <= at + size for a in inside)
            after = {a: s for a, s in slow.items() if a not in inside}
        try:
            maps.map(3, 0, at, size, None) if maps_it else maps.unmap(0, at, size)
        except RequestError:
            assert not allowed
        else:
            assert allowed
            slow = after
        assert {a: m.size for a, m in maps.live.items()} == slow
        for page in range(0, 20 * PAGE, PAGE):
            start = maps._covering(page + 7)
            assert (start is not None) == any(a <= page < a + s for a, s in slow.items())


def test_an_entry_that_is_mapped_again_leads_elsewhere():
    maps = DmaMaps()
    maps.map(3, 0x1000, 0, PAGE, None)
    maps.map(1, 0x7000, 0, PAGE, None)
    assert maps.live[0][1:3] == (1, 0x7000)


def test_there_are_limits():
    maps = DmaMaps(Limits(maps=2, files=1, changes=3))
    maps.map(3, 0, 0, PAGE, None)
    maps.map(3, 0, PAGE, PAGE, None)
    with pytest.raises(RequestError) as full:
        maps.map(3, 0, 2 * PAGE, PAGE, None)
    assert full.value.errno == errno.ENOSPC
    first, second = memory_file(PAGE), memory_file(PAGE)
    maps.map(3, 0, 0, PAGE, own(first))
    with pytest.raises(RequestError):
        maps.map(3, 0, 0, PAGE, own(second))
    maps.unmap(0, 0, PAGE)
    maps.unmap(0, 0, PAGE)
    assert (len(maps.take()), maps.dropped, maps.total) == (3, 2, 5)
    maps.close()
    os.close(first)
    os.close(second)


def test_everything_is_unmapped_at_once():
    maps = DmaMaps()
    for at in range(4):
        maps.map(3, 0, at * PAGE, PAGE, None)
    maps.unmap(2, 0, 0)
    assert maps.live == {}


@pytest.fixture
def ram():
    fd = memory_file(16 * PAGE)
    yield fd
    os.close(fd)


def test_a_shared_transfer_reaches_exactly_what_is_mapped(ram):
    maps = DmaMaps()
    maps.map(3, 2 * PAGE, 0x10000, PAGE, own(ram))
    maps.map(3, 9 * PAGE, 0x11000, PAGE, own(ram))
    maps.write(0x10FFE, b"abcd")
    assert os.pread(ram, 2, 3 * PAGE - 2) == b"ab"
    assert os.pread(ram, 2, 9 * PAGE) == b"cd"
    assert maps.read(0x10FFE, 4) == b"abcd"
    maps.close()


@pytest.mark.parametrize(
    ("at", "size", "to_memory", "error"),
    [
        (0x20000, 1, True, errno.EFAULT),
        (0x10FFF, 2, True, errno.EFAULT),
        (0x13000, 1, True, errno.EPERM),
        (0x14000, 1, False, errno.EPERM),
        (0x15000, 1, False, errno.ENODEV),
    ],
)
def test_a_shared_transfer_that_is_not_mapped_moves_nothing(ram, at, size, to_memory, error):
    maps = DmaMaps()
    maps.map(3, 0, 0x10000, PAGE, own(ram))
    maps.map(1, 0, 0x13000, PAGE, own(ram))
    maps.map(2, 0, 0x14000, PAGE, own(ram))
    maps.map(3, 0, 0x15000, PAGE, None)
    with pytest.raises(DmaRefused) as refused:
        maps.write(at, b"x" * size) if to_memory else maps.read(at, size)
    assert refused.value.errno == error
    assert os.pread(ram, 16 * PAGE, 0) == bytes(16 * PAGE)
    maps.close()


def test_a_file_that_was_cut_is_not_made_longer(ram):
    maps = DmaMaps()
    maps.map(3, 4 * PAGE, 0, PAGE, own(ram))
    os.ftruncate(ram, PAGE)
    with pytest.raises(DmaRefused):
        maps.write(0, b"x")
    with pytest.raises(DmaRefused):
        maps.read(0, 1)
    assert os.fstat(ram).st_size == PAGE
    maps.close()


def test_a_mapping_beyond_its_file_or_of_no_file_is_refused(ram):
    maps = DmaMaps()
    with pytest.raises(RequestError):
        maps.map(3, 16 * PAGE, 0, PAGE, own(ram))
    reader, writer = os.pipe()
    with pytest.raises(RequestError):
        maps.map(3, 0, 0, PAGE, reader)
    os.close(writer)
    assert maps.live == {}
