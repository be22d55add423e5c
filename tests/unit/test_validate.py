"""A program that cannot be done is refused before anything boots, with the operation and why."""

import pytest

from tcelab import inject, scenarios
from tcelab.errors import UsageError
from tcelab.program import (
    Bind,
    Buffer,
    Close,
    Dma,
    Fill,
    Flip,
    Frames,
    Fresh,
    Ioctl,
    Master,
    Open,
    Page,
    Program,
    Read,
    Tag,
)
from tcelab.topology import TOPOLOGIES, topology
from tcelab.validate import validate

MADE = [
    Buffer(name="b", pages=4),
    Bind(device="pe1"),
    Open(file="c", path="/dev/vfio/vfio"),
    Open(file="g", path="/dev/vfio/$pe1"),
    Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d"),
]


def program(*ops):
    return Program(name="p", topology=topology("one-pe"), ops=[*MADE, *ops])


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
@pytest.mark.parametrize("where", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_scenario_is_whole_with_and_without_a_lie(name, where):
    made = scenarios.build(name, where, 3)
    validate(made)
    validate(inject.flip(made))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Buffer(name="b", pages=1), "there is a buffer 'b' already"),
        (Buffer(name="x", pages=0), "at least one page"),
        (Tag(buffer="x"), "no buffer 'x' was made"),
        (Tag(buffer="b", first=3, count=2), "outside buffer 'b' of 4 pages"),
        (Buffer(name="x", pages=-1), "at least one page"),
        (Tag(buffer="b", first=2, count=-1), "outside buffer 'b'"),
        (Tag(buffer="b", first=-1, count=2), "outside buffer 'b'"),
        (Fill(buffer="b", offset=4096, size=-1, seed=0), "outside buffer 'b'"),
        (Flip(liobn=0x80000100, ioba=-4096), "no bit 12"),
        (Flip(liobn=0x80000100, ioba=0, bit=-1), "no bit -1"),
        (Fill(buffer="b", offset=16384, size=1, seed=0), "outside buffer 'b'"),
        (Fill(buffer="b", offset=-1, size=1, seed=0), "outside buffer 'b'"),
        (Frames(buffer="x"), "no buffer 'x' was made"),
        (Bind(device="pe2"), "the topology has no device 'pe2'"),
        (Open(file="c", path="/dev/null"), "there is a file 'c' already"),
        (Open(file="x", path="/dev/vfio/$pe2"), r"\$pe2 names a device that was not bound"),
        (Close(file="x"), "no file 'x' was opened"),
        (Ioctl(file="x", request=1), "no file 'x' was opened"),
        (Ioctl(file="c", request="MAP"), "no request 'MAP'"),
        (Ioctl(file="g", request="GROUP_SET_CONTAINER", fields={"container": "x"}), "no file 'x' was opened"),
        (Ioctl(file="c", request="MAP_DMA", fields={"vaddr": Page("x")}), "no buffer 'x' was made"),
        (Ioctl(file="c", request="MAP_DMA", fields={"size": 1}, value=2), "fields or a value"),
        (Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="c"), "there is a file 'c'"),
        (Master(file="x"), "no file 'x' was opened"),
        (Dma(file="x", iova=0, size=4, to_memory=True), "no file 'x' was opened"),
        (Dma(file="d", iova=0, size=4096, to_memory=True), "leaves the 4095 usable bytes"),
        (Read(what="luck"), "no counter 'luck'"),
        (Flip(liobn=0x80000100, ioba=1 << 30), "no bit 12 of an entry for IOBA 0x40000000"),
        (Flip(liobn=0x80000300, ioba=0), "LIOBN 0x80000300"),
        (Flip(liobn=0x80000100, ioba=0, bit=64), "no bit 64"),
    ],
)
def test_what_cannot_be_done_is_named(op, why):
    validate(program())
    with pytest.raises(UsageError, match=why) as caught:
        validate(program(op))
    assert f"operation {len(MADE)} ({type(op).__name__})" in caught.value.message


def test_a_closed_file_is_not_open():
    with pytest.raises(UsageError, match=r"operation 6 \(Close\): no file 'c'"):
        validate(program(Close(file="c"), Close(file="c")))


@pytest.mark.parametrize(
    "op",
    [
        Ioctl(file="c", request=0xFFFF, value=3),
        Ioctl(file="c", request="MAP_DMA", fields={"argsz": 3, "flags": 77, "vaddr": 1, "size": 5}),
        Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "no such device"}, into="x"),
        Dma(file="d", iova=1 << 63, size=8, to_memory=False),
    ],
)
def test_what_the_kernel_or_the_table_must_refuse_is_let_through(op):
    validate(program(op))


@pytest.mark.parametrize("word", [-1, -4096, 1 << 64])
def test_a_word_that_no_register_holds_is_refused(word):
    map_ = Ioctl(file="c", request="MAP_DMA", fields={"vaddr": 0, "iova": word, "size": 4096})
    with pytest.raises(UsageError, match="a word has 64 bits"):
        validate(program(map_))
    validate(program(Ioctl(file="c", request="MAP_DMA", fields={"iova": (1 << 64) - 1})))


def test_nothing_that_was_made_on_one_guest_is_there_on_a_fresh_one():
    with pytest.raises(UsageError, match=r"operation 6 \(Close\): no file 'c' was opened before"):
        validate(program(Fresh(), Close(file="c")))
    validate(program(Fresh(), *MADE))
