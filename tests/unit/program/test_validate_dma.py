"""What a driver of the DMA API must not do is refused before anything boots."""

import pytest

from tcelab.errors import UsageError
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Ddw,
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaSync,
    DmaUnbind,
    DmaUnmap,
    Frames,
    Kexec,
    MemoryAdd,
    Page,
    Part,
    Program,
    Protect,
    Reset,
    Spawn,
    Tag,
)
from tcelab.program.topology import topology
from tcelab.program.validate import validate

BOUND = (Buffer(name="b", pages=8), DmaBind(device="pe1"))
MAP = DmaMap(device="pe1", name="m", page=Page("b", 1, 9), size=80)
ALLOC = DmaAlloc(device="pe1", buffer="own", pages=2)


def said(*ops, where="dma-api", guarded=False):
    """Why the last operation is refused; empty if it is not. All before it are right."""
    program = Program(name="p", topology=topology(where), ops=[*ops, Checkpoint()])
    try:
        validate(program, guarded=guarded)
    except UsageError as error:
        return error.message
    return ""


RIGHT = [
    (MAP, DmaUnmap(name="m"), DmaMask(device="pe1", bits=64)),
    (ALLOC, Tag(buffer="own", count=2), DmaFree(buffer="own"), Buffer(name="own", pages=1)),
    (MAP, DmaUnbind(device="pe1", late=True), DmaUnmap(name="m"), DmaBind(device="pe1")),
    (MAP, DmaUnbind(device="pe1"), DmaBind(device="pe1"), DmaMask(device="pe1", bits=24)),
    (MAP, DmaMove(name="m", size=8, to_memory=True, plus=-4096), DmaSync(name="m", whom="cpu", offset=79, size=1)),
    (MAP, DmaUnmap(name="m"), DmaMove(name="m", size=8, to_memory=True)),
    (DmaMask(device="pe1", bits=64), MAP, DmaMove(name="m", size=8, to_memory=True, plus=72)),
    (Bind(device="pe2"), MAP, Reset(), Buffer(name="b", pages=1), Bind(device="pe1")),
    (Ddw(call="query", device="pe1"),),
    (DmaMapSg(device="pe1", name="l", parts=[Part(Page("b"), 4096)] * 256),),
]


@pytest.mark.parametrize("ops", RIGHT)
def test_what_a_driver_may_do(ops):
    assert said(*BOUND, *ops) == ""


WRONG = [
    ([DmaBind(device="pe9")], "has no device 'pe9'"),
    ([DmaBind(device="pe1")], "pe1 is bound already"),
    ([Bind(device="pe1")], "a driver of the DMA API has its PE"),
    ([Ddw(call="reset", device="pe1")], "a driver of the DMA API has its PE"),
    ([Kexec()], "nobody knows what it makes of mappings"),
    ([DmaMask(device="pe2", bits=64)], "'pe2' was not bound before"),
    ([DmaMask(device="pe1", bits=23)], "a mask has 24..64 bits here, not 23"),
    ([DmaMask(device="pe1", bits=65)], "a mask has 24..64 bits here, not 65"),
    ([MAP, DmaMask(device="pe1", bits=64)], "'m' is mapped: it would be unmapped in the way of the new mask"),
    ([ALLOC, DmaMask(device="pe1", bits=64)], "'own' is mapped"),
    ([MAP, MAP], "there is a mapping 'm' already"),
    ([ALLOC, ALLOC], "there is a buffer 'own' already"),
    ([DmaAlloc(device="pe1", buffer="b", pages=1)], "there is a buffer 'b' already"),
    ([DmaAlloc(device="pe1", buffer="x", pages=513)], "coherent memory has 1..512 pages"),
    ([ALLOC, DmaUnmap(name="own")], "there is no mapping 'own'"),
    ([MAP, DmaFree(buffer="m")], "there is no coherent memory 'm'"),
    ([MAP, DmaUnmap(name="m"), DmaUnmap(name="m")], "'m' is unmapped already"),
    ([MAP, DmaUnbind(device="pe1"), DmaUnmap(name="m")], "'m' is unmapped already"),
    ([MAP, DmaUnmap(name="m"), DmaSync(name="m", whom="cpu")], "'m' is unmapped already"),
    ([MAP, DmaSync(name="m", whom="cpu", offset=80)], "outside the 80 bytes of 'm'"),
    ([DmaMap(device="pe1", name="m", page=Page("b", 1, 4000), size=97)], "need not be contiguous in RAM"),
    ([DmaMap(device="pe1", name="m", page=Page("b", 8), size=1)], "outside buffer 'b' of 8 pages"),
    ([DmaMap(device="pe1", name="m", page=Page("b"), size=0)], "0 bytes cannot be mapped"),
    ([Protect(buffer="b", access="read"), MAP], "its access is read"),
    ([ALLOC, DmaMap(device="pe1", name="m", page=Page("own"), size=8)], "coherent memory is mapped already"),
    ([ALLOC, Frames(buffer="own")], "only its driver reaches it"),
    ([DmaMapSg(device="pe1", name="l", parts=[])], "; a list has 1..256"),
    ([DmaMapSg(device="pe1", name="l", parts=[Part(Page("b"), 1)] * 257)], "; a list has 1..256"),
    ([MAP, DmaMove(name="m", size=4001, to_memory=True)], "leaves the 4000 bytes of edu's buffer"),
    ([MAP, DmaMove(name="m", size=8, to_memory=True, plus=1 << 25)], "more than 16777216 bytes beside 'm'"),
    ([MAP, DmaMove(name="m", size=8, to_memory=True, segment=1)], "'m' has at most 1 segments"),
    ([DmaMove(name="m", size=8, to_memory=True)], "there is no mapping 'm'"),
    ([DmaMask(device="pe1", bits=64), MAP, DmaMove(name="m", size=8, to_memory=True, plus=73)], "may reach all RAM"),
    (
        [DmaMask(device="pe1", bits=64), ALLOC, DmaFree(buffer="own"), DmaMove(name="own", size=8, to_memory=True)],
        "the memory of 'own' is the kernel's again",
    ),
    (
        [
            DmaBind(device="test1"),
            DmaMap(device="test1", name="m", page=Page("b"), size=8),
            DmaMove(name="m", size=8, to_memory=False),
        ],
        "an iommu-testdev writes to memory alone",
    ),
    ([Spawn(process="c"), DmaBind(device="pe2", by="c")], "only the agent itself does that with a driver"),
]


@pytest.mark.parametrize(("ops", "why"), WRONG)
def test_what_a_driver_must_not_do(ops, why):
    message = said(*BOUND, *ops)
    assert why in message
    assert f"operation {len(BOUND) + len(ops) - 1} " in message


def test_memory_comes_and_goes_under_a_driver():
    ops = [Buffer(name="b", pages=8), DmaBind(device="pe1"), MAP, MemoryAdd(dimm="one", mib=256)]
    assert said(*ops, where="memory") == ""


def test_nobody_guards_a_pe_with_a_device_that_no_bit_stops_nor_one_of_a_driver():
    assert "an iommu-testdev does DMA whoever forbids it" in said(where="dma-api-default", guarded=True)
    assert "knows the entries that VFIO makes" in said(*BOUND, where="two-pe", guarded=True)


TAKEN = (Ddw(call="create", device="pe1", page_shift=12, window_shift=12), *BOUND, DmaBind(device="test1"))
WIDE = DmaMask(device="pe1", bits=64)
OTHER = DmaMap(device="test1", name="t", page=Page("b", 2), size=80, expect="ok")


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([WIDE, ALLOC], ""),
        ([WIDE, DmaMask(device="pe1", bits=32, expect="EIO")], ""),
        ([WIDE, OTHER], "the kernel may have removed the default window of its PE for pe1, and test1 does not know it"),
        ([WIDE, DmaMask(device="test1", bits=64)], "test1 does not know it"),
        ([WIDE, DmaUnbind(device="test1"), DmaBind(device="test1")], "test1 does not know it"),
        ([OTHER, WIDE, DmaUnmap(name="t"), DmaMap(device="test1", name="u", page=Page("b"), size=8)], ""),
        ([DmaMask(device="pe1", bits=64, which="streaming"), ALLOC], "the coherent mask of pe1 reaches no window"),
        ([WIDE, DmaMask(device="pe1", bits=40), ALLOC], "it needs 60 bits"),
        ([DmaMap(device="pe1", name="f", page=Page("b"), size=8, expect="ENOMEM"), WIDE, MAP], ""),
    ],
)
def test_where_the_default_window_may_be_gone(ops, why):
    assert (why in said(*TAKEN, *ops)) if why else said(*TAKEN, *ops) == ""


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ([Ddw(call="create", device="pe1", page_shift=12, window_shift=17)], "one of more than 2^16 lies over"),
        ([Ddw(call="remove", device="pe1", liobn=0x80000100)], "its kernel does not know"),
        ([Ddw(call="remove", device="pe2", liobn=0x80000100)], "its kernel does not know"),
        ([Ddw(call="remove", device="pe1", liobn=0x80000100), Ddw(call="reset", device="pe1")], ""),
        (
            [
                Ddw(call="create", device="pe1", page_shift=12, window_shift=17),
                Ddw(call="remove", device="pe1", liobn=0x80000101),
            ],
            "",
        ),
    ],
)
def test_the_kernel_must_know_the_windows_of_a_driver(asked, why):
    assert (why in said(*asked, *BOUND)) if why else said(*asked, *BOUND) == ""
