"""The module for raw hypercalls refuses what it must with an errno, does what it may, and the guest stays healthy."""

import time

import pytest

from tcelab.judge import Judge
from tcelab.program import Bind, Buffer, Call, Checkpoint, Ddw, Hcall, HcallBatch, Native, Program, Spawn, Tce
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest

TWO = topology("two-pe")
PHB = TWO.phbs[1]
DEVICE = PHB.devices[0].name
QUERY = 0x1000
"""The module's word for RTAS ibm,query-pe-dma-window."""
H_PARAMETER = -4
TIME_BASE = 512_000_000
ENOENT = 2


def done(session, *ops):
    """What each operation gave; no table has an entry afterwards, and the kernel said nothing."""
    program = Program(name="module", topology=TWO, ops=[*ops, Checkpoint()])
    judge = Judge(program, session.facts)
    record = perform_program(program, session, judge)
    assert record.ending is None
    assert judge.verdict(record).findings == []
    assert all(not len(table.index) for table in record.steps[-1].snapshot.tables)
    return [step.outcome for step in record.steps[:-1]]


def asked(session, *ops):
    """What each operation gave; firmware's answers are none of the judge's business."""
    return [step.outcome for step in perform_program(Program(name="module", topology=TWO, ops=[*ops]), session).steps]


def test_twenty_thousand_requests_most_of_them_malformed_are_answered_by_the_rules(session):
    (fuzzed,) = done(session, Native(program="fuzz_hcall", args=[20_000, 7]))
    told = fuzzed.fields
    assert (fuzzed.value, told["wrong"]) == (0, 0), told
    # None of them was left out, and none answered for another.
    refused = sum(told[name] for name in ("einval", "efault", "eperm", "eintr", "eopnotsupp"))
    assert told["writes"] == refused + told["accepted"] > 20_000
    assert min(told[name] for name in ("einval", "efault", "eperm", "accepted")) > 1000, told
    assert told["eintr"] >= 10
    assert told["calls"] > told["accepted"]


def test_the_fuzz_is_the_same_for_the_same_seed(session):
    first, again, other = done(session, *(Native(program="fuzz_hcall", args=[2000, seed]) for seed in (3, 3, 5)))
    assert first.fields == again.fields != other.fields


@pytest.mark.parametrize("opcode", [0x4, 0x18, 0x24, 0xF000, QUERY + 4, (1 << 32) + 0x20])
def test_a_batch_with_another_opcode_is_refused_and_none_of_it_is_done(session, opcode):
    put = Call("H_PUT_TCE", [PHB.liobn, 0, Tce("b")])
    _, alone, batch = done(
        session, Buffer(name="b", pages=1), Hcall(call=Call(opcode, [])), HcallBatch(calls=[put, Call(opcode, [])])
    )
    assert (alone.errno, batch.errno) == ("EINVAL", "EINVAL")


def test_nobody_but_root_can_even_open_it(session):
    (_, refused) = done(
        session, Spawn(process="nobody", uid=1000), Hcall(by="nobody", call=Call("H_GET_TCE", [PHB.liobn, 0]))
    )
    assert refused.errno == "EACCES"


def test_the_query_of_dynamic_windows_tells_what_firmware_tells_the_host(session):
    bound, of_host = asked(session, Bind(device=DEVICE), Ddw(call="query", device=DEVICE))
    buid = bound.fields["buid"]
    queried, unknown = asked(
        session, *(Hcall(call=Call(QUERY, [0, number >> 32, number & 0xFFFFFFFF])) for number in (buid, buid + 0x7000))
    )
    assert queried.value == of_host.value == 0
    left, largest, *more = (of_host.fields[name] for name in ("left", "largest", "page_sizes", "migration"))
    assert left == 1
    # The kernel's call has 32 bits for the largest block, and firmware says the most that fits there.
    assert largest > 0x80000000
    assert queried.fields["registers"] == [left, 0x80000000, *more]
    assert unknown.value == -3


def test_ticks_are_of_the_time_base(session):
    """A loop's ticks and the seconds that the guest's clock gives it agree."""
    (looped,) = done(session, HcallBatch(calls=[Call("H_GET_TCE", [0x5A5A0000, 0])] * 4, times=50_000))
    assert looped.fields["statuses"] == [H_PARAMETER] * 4
    seconds = looped.fields["ticks"][0] / TIME_BASE
    assert 0.1 * looped.fields["seconds"] < seconds <= looped.fields["seconds"]  # another time base is off by more


def test_the_loop_of_maps_by_vfio_leaves_nothing_and_says_how_long_it_took(session):
    began = time.monotonic()
    (_, one, many) = done(
        session,
        Bind(device=DEVICE),
        Native(program="vfio_loop", args=[f"${DEVICE}", 1, 2000]),
        Native(program="vfio_loop", args=[f"${DEVICE}", 32, 2000]),
    )
    assert (one.value, many.value) == (0, 0)
    assert one.fields["calls"] == many.fields["calls"] == 4000
    assert 0 < one.fields["microseconds"] + many.fields["microseconds"] <= 1e6 * (time.monotonic() - began)


def test_a_loop_that_the_kernel_refuses_says_where(session):
    (refused,) = done(session, Native(program="vfio_loop", args=[999, 1, 1]))
    assert (refused.value, refused.fields) == (1, {"errno": ENOENT, "step": 2})
