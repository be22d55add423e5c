"""Whatever a file holds: what is read of it is right, or one clear error."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kerneltoy import RELEASE, elf, module

from tcelab.errors import UsageError
from tcelab.image import modules
from tcelab.image.elf import BadElfError, Elf, modinfo
from tcelab.qemu import kernelfile

SECTIONS = 0x28, 0x3A, 0x3C
"""Where the header has: the section headers' place, the size of one, their number."""


def whole(change=lambda _: None):
    """A module, changed."""
    content = bytearray(module("vfio-pci"))
    change(content)
    return bytes(content)


def put(*changes):
    """A module with numbers put into its header: place, bytes, value."""

    def change(content):
        for at, size, value in changes:
            content[at : at + size] = value.to_bytes(size, "little")

    return whole(change)


def test_a_module_tells_what_modpost_wrote_into_it():
    assert modinfo(module("vfio-pci")) == {
        "license": "GPL",
        "depends": "vfio_pci_core",
        "name": "vfio_pci",
        "vermagic": f"{RELEASE} SMP mod_unload ",
    }


def test_of_a_key_that_comes_twice_the_first_counts_as_for_the_kernel_and_nothing_reaches_the_terminal_raw():
    told = modinfo(elf(kind=1, sections={".modinfo": b"vermagic=6.1\x1b[2J\nx \0vermagic=6.2 \0"}))
    assert told["vermagic"] == "6.1?[2J?x "


def test_a_program_needs_a_loader_and_a_module_does_not():
    with Path("/bin/true").open("rb") as file:
        assert Elf(file).has_interpreter()
    assert not Elf(io.BytesIO(module("vfio"))).has_interpreter()


PLACE, SIZE, NUMBER = SECTIONS
NAMES = int.from_bytes(whole()[PLACE : PLACE + 8], "little") + 3 * 64
"""Where the last section's header is, that of the sections' names."""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        whole()[:-1],
        put((PLACE, 8, 1 << 63)),
        put((PLACE, 8, (1 << 64) - 1), (NUMBER, 2, 0)),
        put((NAMES + 8, 8, 0x800), (NAMES + 24, 8, (1 << 64) - 1)),  # SHF_COMPRESSED
        put((NUMBER, 2, 0xFFFF)),
        put((NUMBER, 2, 0xFFFF), (SIZE, 2, 0)),
    ],
    ids=[
        "empty",
        "magic",
        "truncated",
        "far",
        "farther",
        "names farther than a file can be",
        "many",
        "many of no size",
    ],
)
def test_a_damaged_file_is_one_clear_error(content):
    with pytest.raises(BadElfError) as caught:
        modinfo(content)
    assert "\n" not in str(caught.value)


def test_a_number_of_sections_that_the_file_cannot_hold_is_refused_before_they_are_counted():
    """With 0 in the header, the first section tells the number."""
    content = bytearray(put((NUMBER, 2, 0)))
    start = int.from_bytes(content[PLACE : PLACE + 8], "little")
    content[start + 0x20 : start + 0x28] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(BadElfError, match="section headers lie behind its end"):
        modinfo(bytes(content))


@settings(max_examples=50)
@given(st.data())
def test_whatever_is_changed_there_is_an_answer_or_one_line(tmp_path_factory, data):
    content = bytearray(module("vfio", depends=["virtio"]))
    table = int.from_bytes(content[PLACE : PLACE + 8], "little")
    places = st.one_of(st.integers(0, 63), st.integers(table, len(content) - 1), st.integers(0, len(content) - 1))
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        content[at] = value
    del content[data.draw(st.sampled_from([len(content), *range(len(content))])) :]
    folder = tmp_path_factory.getbasetemp() / "changed module"
    folder.mkdir(exist_ok=True)
    (folder / "vfio.ko").write_bytes(content)
    for ask in (
        lambda: kernelfile.check(folder / "vfio.ko"),
        lambda: kernelfile.little_endian(folder / "vfio.ko"),
        lambda: modules.of_kernel(folder, RELEASE),
    ):
        try:
            ask()
        except UsageError as error:
            assert "\n" not in error.message  # noqa: PT017 - it may also be sound
