"""Marks in guest memory: what makes a stray, lost or moved byte of them show."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tceagent import tag
from tcelab.program import pagetags

NONCE = bytes(range(16))


def words(content):
    return struct.unpack(f"<{len(content) // 8}Q", content)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**64 - 1])
def test_data_has_no_word_twice_and_no_zero(seed):
    content = tag.data(NONCE, seed, 1 << 16)
    assert len(set(words(content))) == len(content) // 8
    assert 0 not in content


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2**32), min_size=2, max_size=4, unique=True), st.binary(min_size=16, max_size=16))
def test_no_word_of_one_seed_is_in_the_data_of_another_seed_or_nonce(seeds, nonce):
    every = [word for seed in seeds for word in words(tag.data(nonce, seed, 4096))]
    other = words(tag.data(bytes(255 - byte for byte in nonce), seeds[0], 4096))
    assert len({*every, *other}) == len(every) + len(other)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4095])
def test_less_data_is_the_beginning_of_more(size):
    assert tag.data(NONCE, 3, size) == tag.data(NONCE, 3, 4096)[:size]


def test_both_sides_have_the_same_data():
    assert pagetags.data(NONCE, 5, 4096) == tag.data(NONCE, 5, 4096) == pagetags.data(NONCE, 5, 4096)
