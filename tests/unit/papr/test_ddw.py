"""Firmware's services for windows: asked for as PAPR has them, and answered with what it gave."""

import asyncio

import pytest
from msgspec import structs

from tceagent import huge
from tcelab.errors import UsageError
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.setup import MachineChoice
from tcelab.papr import dmarules, tce, window
from tcelab.program import Buffer, Ddw, Flip, Ioctl, Program, validate_host
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.qemu import rtaswindows
from tcelab.qemu.qtest import RtasCall
from tcelab.scenarios import vocabulary as b

PLACE = (2 << 11, 0x8000000, 0x20000001)
HIGH = (0x80000101, 0x8000000, 0)


class Port:
    def __init__(self, *cells):
        self.cells, self.asked = cells, []

    async def calls(self, calls):
        self.asked += calls
        return [[*self.cells]]


def called(op, *cells):
    port = Port(*cells)
    outcome = asyncio.run(rtaswindows.call(port, op, 1, 2))
    return port.asked, outcome.value, outcome.fields


@pytest.mark.parametrize(
    ("op", "cells", "asked", "fields"),
    [
        (
            Ddw(call="query", device="pe1"),
            (0, 1, 0x20, 0, 0x107, 0),
            RtasCall("ibm,query-pe-dma-window", PLACE, 6),
            {"left": 1, "largest": 0x20_0000_0000, "page_sizes": 0x107, "migration": 0},
        ),
        (
            Ddw(call="create", device="pe1", page_shift=16, window_shift=30),
            (0, *HIGH),
            RtasCall("ibm,create-pe-dma-window", (*PLACE, 16, 30), 4),
            {"liobn": 0x80000101, "start": 1 << 59},
        ),
        (
            Ddw(call="remove", device="pe1", liobn=0x80000101),
            (0,),
            RtasCall("ibm,remove-pe-dma-window", (0x80000101,), 1),
            {},
        ),
        (Ddw(call="reset", device="pe1"), (0,), RtasCall("ibm,reset-pe-dma-window", PLACE, 1), {}),
    ],
    ids=lambda each: getattr(each, "call", ""),
)
def test_a_service_is_asked_for_in_cells_and_gives_its_numbers(op, cells, asked, fields):
    assert called(op, *cells) == ([asked], 0, fields)


@pytest.mark.parametrize(("cell", "status"), [(0xFFFFFFFF, -1), (0xFFFFFFFD, -3)])
def test_what_was_refused_tells_its_status_alone(cell, status):
    asked, value, fields = called(Ddw(call="create", device="pe1"), cell, *HIGH)
    assert (len(asked), value, fields) == (1, status, {})


# -- what makes sense


WHERE = topology("two-small")
ONE = b.pes(WHERE, "t")[0]


def program(*ops, isolation=False):
    return Program(name="p", topology=WHERE, ops=[*ops], isolation=isolation)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Ddw(call="query", device="pe9"), "the topology has no device 'pe9'"),
        (Ddw(call="create", device="pe1", page_shift=1 << 32), "a page_shift has 32 bits"),
        (Ddw(call="create", device="pe1", window_shift=-1), "a window_shift has 32 bits, and -1 has not"),
        (Ddw(call="remove", device="pe1", liobn=1 << 32), "a liobn has 32 bits"),
        (Buffer(name="x", pages=513, huge=True), "a multiple of 512 pages"),
        (Flip(liobn=0x80000100, ioba=1 << 59), "no bit 12 of an entry for IOBA 0x800000000000000"),
        (Flip(liobn=0x80000901, ioba=1 << 59), "LIOBN 0x80000901 has no bit"),
        (Flip(liobn=0x80000101, ioba=1 << 59, bit=64), "has no bit 64"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_boots(op, why):
    with pytest.raises(UsageError, match=f"operation 0 .*{why}"):
        validate(program(op))


def test_what_can_be_done_passes():
    validate(
        program(
            Ddw(call="create", device="pe1", page_shift=13, window_shift=5),
            Buffer(name="x", pages=1024, huge=True),
            Flip(liobn=0x80000101, ioba=(1 << 59) + (7 << 16), bit=63),
        )
    )


MOVING = [Ddw(call="query", device="pe1"), b.open_container(ONE, b.SPAPR_TCE_V2)[-2]]
MOVING += [structs.replace(MOVING[1], request=0x20003B66)]


@pytest.mark.parametrize("op", MOVING, ids=["firmware", "type v2", "type v2 by number"])
def test_nobody_isolates_pes_whose_windows_come_and_go(op):
    opens = b.open_container(ONE)[:1]
    with pytest.raises(UsageError, match="knows the windows that a machine starts with, and no others"):
        validate(program(*opens, op, isolation=True))
    for guard in ("freeze", "observe"):
        with pytest.raises(UsageError, match=r"operation 1 .*: whoever isolates"):
            settle(program(*opens, op), asked(guard))
    assert settle(program(*opens, op), asked(None))[1].machine.guard == "off"


def asked(guard):
    return RunOptions(verb="run", target="p", guard=guard, machine=MachineChoice(topology=WHERE))


def test_a_reset_leads_back_to_the_windows_that_a_machine_starts_with():
    reset = Ddw(call="reset", device="pe1")
    assert not validate_host.moves_windows(reset)
    validate(program(reset, isolation=True))


def test_a_container_of_type_v1_has_the_windows_that_it_found():
    ops = [*b.open_container(ONE), Ioctl(file="x", request="ENABLE", value=7)]
    assert not any(map(validate_host.moves_windows, ops))


# -- transfers over several windows


def over(iova, size, **how):
    low, high = {0: 3, 1: tce.READ}, {0: tce.WRITE, 2: 3}
    more = [dmarules.Window(1 << 59, 4, lambda i: high.get(i, 0), 16)]
    pieces = dmarules.pieces(
        iova, size, entries=2, permissions=lambda i: low.get(i, 0), more=more, **{"to_memory": True, **how}
    )
    return [(each.iova, each.size, each.window, each.entry, each.offset, each.refused, each.told) for each in pieces]


@pytest.mark.parametrize(
    ("iova", "size", "piece"),
    [
        (0x10, 16, (0x10, 16, 0, 0, 0x10, "", 0x10)),
        (0x1010, 16, (0x1010, 16, 0, 1, 0x1010, "permission", 0x1010)),
        (0x2000, 16, (0x2000, 16, 0, 2, 0x2000, "outside the window", 0x2000)),
        ((1 << 59) + 0xF010, 16, ((1 << 59) + 0xF010, 16, 1, 0, 0xF010, "", (1 << 59) + 0xF010)),
        ((1 << 59) + 0x10000, 16, ((1 << 59) + 0x10000, 16, 1, 1, 0x10000, "no entry", 0x10000)),
    ],
)
def test_a_piece_goes_by_the_window_that_has_its_address(iova, size, piece):
    assert over(iova, size) == [piece]


def test_what_is_after_the_last_window_and_before_it_is_outside():
    for iova in ((1 << 59) + (4 << 16), (1 << 59) - 16):
        ((_, _, _, _, _, why, told),) = over(iova, 16)
        assert (why, told) == ("outside the window", iova)


def test_a_large_page_is_passed_in_pieces_of_4_kib_with_one_entry():
    pieces = over((1 << 59) + 0xFF00, 0x300, to_memory=True)
    assert [(size, entry, why) for _, size, _, entry, _, why, _ in pieces] == [(0x100, 0, ""), (0x200, 1, "no entry")]
    inside = over((1 << 59) + 0x20F00, 0x1200)
    assert [(size, entry, offset, why) for _, size, _, entry, offset, why, _ in inside] == [
        (0x100, 2, 0x20F00, ""),
        (0x1000, 2, 0x21000, ""),
        (0x100, 2, 0x22000, ""),
    ]
    assert window.SECOND_START == 1 << 59


# -- memory in huge pages


@pytest.mark.parametrize(("free", "pool", "size", "written"), [(0, 3, 4 << 20, b"5"), (1, 1, (2 << 20) + 1, b"2")])
def test_the_pool_grows_by_the_huge_pages_that_it_lacks(monkeypatch, free, pool, size, written):
    files, wrote, made = {"free_hugepages": free, "nr_hugepages": pool}, [], []
    monkeypatch.setattr(huge.mmap, "mmap", lambda *given: made.append(given) or "area")
    read = lambda path: str(files[path.rpartition("/")[2]]).encode()  # noqa: E731
    assert huge.area(size, read, lambda path, data: wrote.append((path, data))) == "area"
    assert wrote == [("/proc/sys/vm/nr_hugepages", written)]
    assert made == [(-1, 4 << 20, huge.mmap.MAP_PRIVATE | huge.mmap.MAP_ANONYMOUS | 0x40000)]


def test_a_kernel_with_larger_huge_pages_gives_one_of_them_for_two(monkeypatch):
    wrote, made = [], []
    monkeypatch.setattr(huge.mmap, "mmap", lambda *given: made.append(given) or "area")

    def read(path):
        if "2048kB" in path:
            raise FileNotFoundError(path)
        return b"0"

    assert huge.area(4 << 20, read, lambda path, data: wrote.append(data)) == "area"
    assert (wrote, made[0][1]) == ([b"1"], 16 << 20)


def test_a_pool_with_enough_of_them_is_left_alone(monkeypatch):
    wrote = []
    monkeypatch.setattr(huge.mmap, "mmap", lambda *_: "area")
    assert huge.area(2 << 20, lambda _: b"1", lambda *given: wrote.append(given)) == "area"
    assert wrote == []
