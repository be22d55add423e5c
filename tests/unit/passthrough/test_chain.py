"""From L2's memory through L1's to L0's, and back: nothing of L1's own can be taken for L2's."""

import zlib
from binascii import b2a_base64

import numpy as np
import pytest

from tcelab.errors import HarnessError
from tcelab.passthrough.chain import FOREIGN, Chain, ChainRam

FRAMES = [0x70, 0x31, 0x32, 0x90]
"""L1's frames of L2's four pages: neither in order nor together, but for two."""


def told(frames):
    return b2a_base64(zlib.compress(np.array(frames, "<u8").tobytes())).decode()


def chain(frames=FRAMES, page_size=4096):
    return Chain(told(frames), page_size, len(frames) * page_size)


def tces(*words):
    return np.array(words, np.uint64)


class Bytes:
    """L0's RAM, of which each page holds its own number."""

    size, fd = 1 << 20, 7

    def read(self, address, size):
        page = bytes([address >> 12]) * 4096
        return page[address % 4096 : address % 4096 + size]

    def pages(self, addresses):
        return {address: self.read(address, 4096) for address in addresses}


def test_each_page_of_l2_has_its_place_and_beyond_its_ram_there_is_none():
    assert [chain().outer(page << 12 | 0xABC) for page in range(4)] == [frame << 12 | 0xABC for frame in FRAMES]
    assert chain().outer(4 << 12) is None
    assert chain().outer(-1) is None


def test_a_large_page_of_l1_holds_sixteen_pages_of_l2_in_order():
    big = chain([3, 9], page_size=1 << 16)
    assert [big.outer(page << 12) for page in (0, 15, 16, 31)] == [0x30000, 0x3F000, 0x90000, 0x9F000]
    assert list(big.inner(tces(0x3F003, 0x90001))) == [0xF003, 0x10001]


def test_a_table_is_told_in_l2s_addresses_with_its_bits_as_they_are():
    assert list(chain().inner(tces(0x90003, 0x31001, 0x70802))) == [0x3003, 0x1001, 0x802]
    assert list(chain().inner(tces())) == []


@pytest.mark.parametrize("word", [0x1003, 0x33003, 0x91003, 0x3])
def test_memory_of_l1_in_l2s_table_is_never_taken_for_l2s(word):
    # Page 1 of L0 is not L2's, although L2 has a page 1.
    (seen,) = chain().inner(tces(word))
    assert int(seen) == word | FOREIGN
    assert chain().outer(int(seen) & ~0xFFF) is None


@pytest.mark.parametrize(
    ("frames", "page_size", "size", "said"),
    [
        (told([1, 0, 3]), 4096, 3 * 4096, r"1 of 3 pages of L2's RAM are not in L1's memory"),
        (told([1, 2]), 4096, 3 * 4096, "a map of 0x2000 bytes, L2 has 0x3000"),
        ("!!", 4096, 4096, "no map"),
    ],
)
def test_a_map_that_is_not_whole_is_refused(frames, page_size, size, said):
    with pytest.raises(HarnessError, match=said):
        Chain(frames, page_size, size)


def test_what_goes_over_the_end_of_a_page_is_put_together_from_where_it_is():
    ram = ChainRam(Bytes(), chain())
    assert ram.read(0x0FFE, 4) == bytes([0x70, 0x70, 0x31, 0x31])
    assert ram.read(0x3FFE, 4) is None
    assert ram.pages([0x3000, 0x9000]) == {0x3000: bytes([0x90]) * 4096, 0x9000: None}


def test_nobody_writes_into_l2_from_outside():
    with pytest.raises(HarnessError, match="nothing is written"):
        ChainRam(Bytes(), chain()).write(0, b"x")


def test_an_empty_entry_stays_empty_and_one_that_leads_somewhere_is_told_as_l2_would():
    assert [chain().word(tce) for tce in (0, 0x90003, 0x1003)] == [0, 0x3003, 0x1003 | FOREIGN]
