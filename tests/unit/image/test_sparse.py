"""RAM files: copied exactly, hashed by their content alone, and small where there is nothing in them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from basetoy import CHUNK, by_the_book, memory
from hypothesis import given, settings
from hypothesis import strategies as st

from tcelab.image import sparse


@st.composite
def layouts(draw):
    """The size of a RAM file, and what is written to it: runs of pages that are holes, or zeros, or have something in
    them, and an end that may lie amidst a page.
    """
    kinds = st.sampled_from(["hole", "zeros", "full", "one byte"])
    runs = draw(st.lists(st.tuples(kinds, st.sampled_from([1, 3, 15, 16, 17, 33])), min_size=2, max_size=8))
    size, pieces = 0, []
    for number, (kind, pages) in enumerate(runs):
        length = pages * 4096
        if kind == "zeros":
            pieces.append((size, bytes(length)))
        elif kind == "full":
            pieces.append((size, bytes([1 + number]) * length))
        elif kind == "one byte":
            pieces.append((size + draw(st.sampled_from([0, 1, length // 2, length - 1])), b"!"))
        size += length
    return size - draw(st.sampled_from([0, 0, 1, 100, 4095])), pieces


@settings(deadline=None, max_examples=60)
@given(layouts())
def test_ram_is_copied_exactly_and_its_hash_is_that_of_its_content_wherever_the_holes_are(layout):
    size, pieces = layout
    content = bytearray(max(at + len(data) for at, data in [*pieces, (size, b"")]))
    for at, data in pieces:
        content[at : at + len(data)] = data
    del content[size:]
    with tempfile.TemporaryDirectory() as folder, memory(size, *pieces) as ram, memory(size, (0, bytes(size))) as full:
        thin, thick = Path(folder, "thin"), Path(folder, "thick")
        digest = sparse.copy(ram, thin)
        assert thin.read_bytes() == content
        os.pwrite(full, content, 0)  # the same without any hole
        assert sparse.copy(full, thick) == digest == by_the_book(bytes(content))
        assert sparse.ram_sha256(thin) == sparse.ram_sha256(thick) == digest


def test_zeros_of_ram_take_no_room_on_disk():
    with tempfile.TemporaryDirectory() as folder, memory(1 << 30, (512 << 20, b"x"), (0, bytes(1 << 20))) as ram:
        sparse.copy(ram, Path(folder, "ram"))
        assert Path(folder, "ram").stat().st_size == 1 << 30
        assert Path(folder, "ram").stat().st_blocks * 512 <= 2 * CHUNK


@pytest.mark.parametrize(
    "other",
    [
        (3 * CHUNK, (CHUNK, b"y")),
        (3 * CHUNK, (CHUNK + 1, b"x")),
        (3 * CHUNK, (2 * CHUNK, b"x")),
        (3 * CHUNK, (CHUNK, b"x"), (0, b"x")),
        (3 * CHUNK + 1, (CHUNK, b"x")),
        (3 * CHUNK,),
    ],
    ids=["another byte", "another place", "another chunk", "a byte more", "a zero more", "nothing"],
)
def test_other_ram_has_another_hash(other, tmp_path):
    with memory(3 * CHUNK, (CHUNK, b"x")) as one, memory(*other) as two:
        assert sparse.copy(one, tmp_path / "one") != sparse.copy(two, tmp_path / "two")


def test_a_write_that_the_disk_cuts_short_is_gone_on_with(monkeypatch, tmp_path):
    """As a disk does that is nearly full; the next write is then what fails."""
    real = os.pwrite
    content = bytes(range(256)) * 256 + b"x"
    with memory(2 * CHUNK, (0, content)) as ram:
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:1000], at))
        digest = sparse.copy(ram, tmp_path / "ram")
    assert (tmp_path / "ram").read_bytes() == content.ljust(2 * CHUNK, b"\0")
    assert sparse.ram_sha256(tmp_path / "ram") == digest


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "ram").write_bytes(b"somebody's")
    with memory(CHUNK) as ram, pytest.raises(FileExistsError):
        sparse.copy(ram, tmp_path / "ram")
    assert (tmp_path / "ram").read_bytes() == b"somebody's"
