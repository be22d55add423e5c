"""The emulator's file of the module: the bytes that the real one takes, what it refuses, and what it gives back."""

from __future__ import annotations

import struct

import pytest

from rows import hcalls as rows
from tceagent.errors import errno_name
from tcelab.emulator.addressspaces import Space
from tcelab.emulator.emulatedkernel import EmulatedKernel
from tcelab.emulator.platform import Machine
from tcelab.emulator.process import Process
from tcelab.emulator.profiles import ProfileWithQuirks
from tcelab.emulator.profiles.linux_v1 import LINUX_V1
from tcelab.program.topology import topology

SMALL = topology("two-small")
FILE = "/dev/tce_hcall"
ONE, TWO = 0x80000100, 0x80000200
GET, PUT, STUFF, INDIRECT, QUERY = 0x1C, 0x20, 0x138, 0x13C, 0x1000
TOP = (1 << 64) - 1
LAST = 0xFFF000
NO_RAM = 1 << 45


@pytest.fixture
def kernel():
    machine = Machine(SMALL, 4096, 0)
    return EmulatedKernel(machine, ProfileWithQuirks(LINUX_V1, frozenset()), Process(Space(machine.ram)))


def call(opcode, *args, at=0, size=0):
    return struct.pack("=QQQQQII", opcode, *[*args, 0, 0, 0, 0][:4], at, size)


def batch(*calls, version=1, count=None, rounds=1, reserved=0, lists=b""):
    header = struct.pack("=IIII", version, len(calls) if count is None else count, rounds, reserved)
    return header + b"".join(calls) + lists


def done(kernel, *calls, **more):
    """Status and r4 to r7 of each."""
    fd = kernel.open(FILE)
    data = batch(*calls, **more)
    assert kernel.pwrite(fd, data, 0) == len(data)
    raw = kernel.pread(fd, 1 << 16, 0)
    kernel.close(fd)
    assert len(raw) == 48 * len(calls)
    return [struct.unpack_from("=qQQQQQ", raw, 48 * i) for i in range(len(calls))]


def table(kernel, liobn=ONE):
    held = next(pe.table for pe in kernel.machine.pes.values() if pe.phb.liobn == liobn)
    return {number << 12: held.get(number) for number in held.live()[0].tolist()}


def test_hypercalls_are_done_in_order_and_each_gives_its_registers(kernel):
    given = [call(PUT, ONE, 0x1000, 0x5003), call(GET, ONE, 0x1FFF), call(GET, 5, 6, 7, 8)]
    put, got, failed = done(kernel, *given)
    assert put[:5] == (0, ONE, 0x1000, 0x5003, 0)
    assert got[:5] == (0, 0x5003, 0x1FFF, 0, 0)
    assert failed[:5] == (-4, 5, 6, 7, 8)
    assert table(kernel) == {0x1000: 0x5003}


def test_every_call_takes_time(kernel):
    before = kernel.monotonic()
    (one,) = done(kernel, call(GET, ONE, 0))
    assert one[5] > 0
    assert kernel.monotonic() > before


def test_a_list_lies_in_a_page_of_the_modules_own(kernel):
    lists = struct.pack(">QQQ", 1, 2, 3)
    first, second = done(
        kernel, call(INDIRECT, ONE, 0, 0, 3, at=8, size=16), call(INDIRECT, TWO, 0, 0, 1, at=0, size=8), lists=lists
    )
    assert table(kernel) == {0: 2, 0x1000: 3}
    assert table(kernel, TWO) == {0: 1}
    assert first[3] == second[3] != 0
    assert first[3] % 4096 == 0


def test_the_third_argument_counts_from_the_beginning_of_that_page(kernel):
    (given,) = done(kernel, call(INDIRECT, ONE, 0, 8, 1, size=16), lists=bytes(15) + b"\7")
    assert given[0] == -4
    assert given[3] % 4096 == 8
    assert table(kernel) == {}


def test_a_list_is_zero_behind_what_was_given(kernel):
    full, short = [5] * 512, [6]
    first = call(INDIRECT, ONE, 0, 0, 512, at=0, size=4096)
    second = call(INDIRECT, ONE, 0, 0, 4, at=4096, size=8)
    done(kernel, first, second, lists=struct.pack(">513Q", *full, *short))
    assert table(kernel) == {0: 6, **{number << 12: 5 for number in range(4, 512)}}


@pytest.mark.parametrize(
    ("first", "npages", "refused"), [(0, 3, 24), (0xFFE000, 5, 24), (1 << 24, 5, 8), (0, 513, 0), (0, 0, 0)]
)
def test_of_a_list_outside_ram_every_read_is_refused(kernel, first, npages, refused):
    done(kernel, call(INDIRECT, ONE, first, NO_RAM, npages))
    told = [(each.direction, each.address, each.size) for each in kernel.machine.refusals]
    assert told == ([("read", NO_RAM, refused)] if refused else [])


def test_a_second_window_is_there_and_takes_nothing(kernel):
    statuses = [each[0] for each in done(kernel, call(PUT, ONE | 1, 0, 3), call(STUFF, ONE | 1, 0, 3, 1))]
    assert statuses == [-4, -4]


def test_rounds_leave_what_many_rounds_leave_and_give_what_the_last_gives(kernel):
    calls = [call(GET, ONE, 0), call(PUT, ONE, 0, 7)]
    got, put = done(kernel, *calls, rounds=10_000_000)
    assert got[1] == 7
    assert got[5] == put[5] > 0
    assert table(kernel) == {0: 7}


def test_results_can_be_read_once(kernel):
    fd = kernel.open(FILE)
    assert kernel.pread(fd, 100, 0) == b""
    kernel.pwrite(fd, batch(call(GET, ONE, 0)), 0)
    other = kernel.open(FILE)
    assert kernel.pread(other, 100, 0) == b""
    assert len(kernel.pread(fd, 30, 0)) == 30
    assert len(kernel.pread(fd, 30, 0)) == 18
    assert kernel.pread(fd, 30, 0) == b""


GOOD = call(PUT, ONE, 0, 3)
BAD = {
    "nothing": b"",
    "half a header": batch()[:15],
    "another version": batch(GOOD, version=2),
    "a reserved field": batch(GOOD, reserved=1),
    "no calls": batch(count=0),
    "more calls than allowed": batch(*[GOOD] * 1025),
    "fewer calls than said": batch(GOOD, count=2),
    "no rounds": batch(GOOD, rounds=0),
    "more rounds than allowed": batch(GOOD, rounds=10_000_001),
    "another opcode": batch(GOOD, call(0x24, ONE, 0, 3)),
    "a list that is longer than a page": batch(GOOD, call(INDIRECT, ONE, 0, 0, 1, size=4097), lists=bytes(8192)),
    "a list beyond the end": batch(GOOD, call(INDIRECT, ONE, 0, 0, 1, at=8, size=16), lists=bytes(16)),
    "a query with a list": batch(GOOD, call(QUERY, 0, 0, 0, 0, size=8), lists=bytes(8)),
    "more bytes than allowed": batch(GOOD, lists=bytes(8 << 20)),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_batch_is_einval_and_nothing_is_called(kernel, data):
    fd = kernel.open(FILE)
    with pytest.raises(OSError, match="EINVAL") as refused:
        kernel.pwrite(fd, data, 0)
    assert errno_name(refused.value.errno) == "EINVAL"
    assert table(kernel) == {}


def test_the_file_is_roots_alone(kernel):
    seen = []
    kernel.spawn(lambda own: seen.append(own) or (lambda _: {}), 65534, None)
    with pytest.raises(OSError, match="EACCES"):
        seen[0].open(FILE)


def test_a_query_tells_how_many_windows_a_pe_may_have_yet(kernel):
    buid = 0x800000020000001
    cells = buid >> 32, buid & 0xFFFFFFFF
    asked, unknown = done(kernel, call(QUERY, 0, *cells), call(QUERY, 0, cells[0], cells[1] + 7))
    assert asked[:5] == (0, 1, 0x80000000, 0x107, 0)
    assert unknown[:5] == (-3, 0, 0, 0, 0)
    kernel.machine.pes[1].windows.create(16, 30)
    assert done(kernel, call(QUERY, 0, *cells))[0][:2] == (0, 0)


def test_a_window_that_was_made_is_written_by_its_liobn(kernel):
    kernel.machine.pes[1].windows.create(16, 24)
    start = 1 << 59
    made, outside = done(kernel, call(PUT, ONE | 1, start + 0x2FFFF, 0x30003), call(PUT, ONE | 1, start + (1 << 24), 3))
    assert (made[0], outside[0]) == (0, -4)
    assert kernel.machine.pes[1].windows.high.get(2) == 0x30003


def test_its_descriptor_takes_none_from_the_program(kernel):
    fd = kernel.open(FILE)
    assert kernel.open("/dev/null") == 3
    assert fd == 1000
    assert kernel.open(FILE) == 1001


def test_a_process_is_refused_by_the_platform(kernel):
    assert [kernel.hypercall(opcode, [ONE, 0, 3, 1]) for opcode in (GET, PUT, STUFF, INDIRECT, 0x24)] == [-3] * 5
    assert table(kernel) == {}


@pytest.mark.parametrize(
    "row", [row for row in rows.ROWS if isinstance(row.call, str) and not row.problem_state], ids=lambda row: row.name
)
def test_a_row_gives_its_literal_through_the_file(kernel, row):
    opcodes = {"H_GET_TCE": GET, "H_PUT_TCE": PUT, "H_STUFF_TCE": STUFF, "H_PUT_TCE_INDIRECT": INDIRECT}
    for liobn, held in row.before.items():
        done(kernel, *[call(PUT, liobn, ioba, tce) for ioba, tce in held.items()][:1000])
        for ioba, tce in list(held.items())[1000:]:
            done(kernel, call(PUT, liobn, ioba, tce))
    args, words, size = list(row.args), b"", 0
    if row.call == "H_PUT_TCE_INDIRECT" and row.memory and args[2] < rows.NO_RAM:
        args[2] -= rows.LIST
        words = struct.pack(f">{len(row.memory[rows.LIST])}Q", *row.memory[rows.LIST])[:4096]
        size = len(words)
    (result,) = done(kernel, call(opcodes[row.call], *args, size=size), lists=words)
    assert result[0] == row.status
    if row.r4 is not None:
        assert result[1] == row.r4
    for liobn in (ONE, TWO):
        assert table(kernel, liobn) == dict(row.after.get(liobn, {}))
