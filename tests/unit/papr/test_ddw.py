"""Firmware's services for windows: asked for as PAPR has them, and answered with what it gave."""

import asyncio

import pytest
from msgspec import structs

from tcelab.errors import UsageError
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.setup import MachineChoice
from tcelab.program import Buffer, Ddw, Flip, Program
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
def test_pes_are_isolated_whose_windows_come_and_go(op):
    opens = b.open_container(ONE)[:1]
    validate(program(*opens, op, isolation=True))
    for guard in ("freeze", "observe", None):
        assert settle(program(*opens, op), asked(guard))[1].machine.guard == (guard or "off")


def asked(guard):
    return RunOptions(verb="run", target="p", guard=guard, machine=MachineChoice(topology=WHERE))
