"""What may be begun at once."""

import pytest

from tcelab.errors import UsageError
from tcelab.program import (
    AtOnce,
    Buffer,
    Call,
    Checkpoint,
    Close,
    DmaBind,
    DmaMap,
    DmaMove,
    DmaRepeat,
    DmaSync,
    DmaUnbind,
    DmaUnmap,
    Exit,
    Fill,
    HcallBatch,
    Ioctl,
    Open,
    Page,
    Part,
    Program,
    Spawn,
)
from tcelab.program.topology import topology
from tcelab.program.validate import validate

BEFORE = [Open(file="c", path="/dev/vfio/vfio"), *(Spawn(process=name) for name in ("one", "two"))]
PUT = Call("H_PUT_TCE", [0x80000100, 0, 3])


def asked(by):
    return Ioctl(file="c", request="GET_API_VERSION", by=by)


def batch(by, call=PUT):
    return HcallBatch(calls=[call], by=by)


def check(*ops, **how):
    validate(Program(name="p", topology=topology("two-small"), ops=[*BEFORE, *ops]), **how)


def refused(*ops, **how):
    with pytest.raises(UsageError) as caught:
        check(*ops, **how)
    return caught.value.message


def test_processes_of_a_program_may_do_what_needs_no_device():
    check(AtOnce(count=2), batch("one"), asked("two"), Checkpoint(), AtOnce(count=2), batch("two"), batch("one"))


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([AtOnce(count=1)], "1 operations; 2..16 are begun at once"),
        ([AtOnce(count=17)], "17 operations; 2..16 are begun at once"),
        ([AtOnce(count=2), batch("one"), batch("one")], "by as many processes"),
        ([AtOnce(count=2), batch("")], "none of them the agent itself"),
        ([AtOnce(count=2), Fill(buffer="b", offset=0, size=1, seed=1, by="one")], "only these can: hcall,"),
        ([AtOnce(count=2), Checkpoint()], "only these can: hcall,"),
        ([AtOnce(count=2), AtOnce(count=2)], "only these can: hcall,"),
        ([AtOnce(count=2), batch("one", Call("H_GET_TCE", [0, 0]))], "would depend on which of the operations"),
        ([AtOnce(count=2), batch("one", Call(0x1C, [0, 0]))], "would depend on which of the operations"),
        ([AtOnce(count=2, by="one")], "only the agent itself begins operations at once"),
        ([AtOnce(count=2), batch("three")], "no process 'three' was spawned before"),
        ([AtOnce(count=2), Close(file="x", by="one")], "no file 'x' was opened before"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(ops, why):
    assert why in refused(*ops)


def test_a_program_must_not_end_amidst_them():
    assert "ends amidst operations that are begun at once" in refused(AtOnce(count=2), batch("one"))


def test_a_guard_waits_for_each_operation():
    assert "the PEs are guarded" in refused(AtOnce(count=2), batch("one"), batch("two"), guarded=True)


DRIVEN = [
    *(DmaBind(device=device) for device in ("pe1", "pe2")),
    *(Buffer(name=f"b-{name}", pages=2, by=name) for name in ("one", "two")),
    Buffer(name="b", pages=1),
    DmaMap(device="pe1", name="agents", page=Page("b"), size=9),
]


def loop(by, device="pe1", how="checked"):
    return DmaRepeat(device=device, lists=[[Part(Page(f"b-{by}"), 9)]], times=2, loop=how, by=by)


def mapped(by, name="m", device="pe1"):
    return DmaMap(device=device, name=name, page=Page(f"b-{by}"), size=9, by=by)


def test_processes_may_map_and_loop_on_devices_that_the_agent_has_bound():
    check(
        *DRIVEN, AtOnce(count=2), loop("one"), loop("two"), AtOnce(count=2), loop("one"), loop("two", "pe2", "module")
    )
    check(*DRIVEN, mapped("one"), AtOnce(count=2), DmaUnmap(name="m", by="one"), mapped("two", "n"))
    check(*DRIVEN, AtOnce(count=2), loop("one"), batch("two", Call("H_PUT_TCE", [0x80000200, 0, 3])))
    check(*DRIVEN, mapped("one"), Exit(process="one"), DmaUnbind(device="pe1"))


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([AtOnce(count=2), loop("one", how="agent")], "only the driver's own loops are repeated"),
        ([AtOnce(count=2), loop("one", "pe9")], "'pe9' was not bound before"),
        ([AtOnce(count=2), loop("one"), batch("two")], "hypercalls write LIOBN 0x80000100"),
        ([AtOnce(count=2), batch("two"), mapped("one")], "hypercalls write LIOBN 0x80000100"),
        ([mapped("one"), AtOnce(count=2), mapped("two", "n"), DmaUnmap(name="m", by="one")], "stands before what is"),
        ([mapped("one"), DmaUnmap(name="m", by="two")], "mapping 'm' belongs to process 'one', not to process 'two'"),
        ([mapped("one"), DmaUnmap(name="m")], "mapping 'm' belongs to process 'one', not to the agent itself"),
        ([mapped("one"), DmaSync(name="m", whom="cpu")], "mapping 'm' belongs to process 'one'"),
        ([mapped("one"), DmaMove(name="m", size=8, to_memory=False)], "mapping 'm' belongs to process 'one'"),
        ([DmaUnmap(name="agents", by="one")], "mapping 'agents' belongs to the agent itself, not to process 'one'"),
        ([mapped("one"), mapped("two")], "there is a mapping 'm' already"),
        ([mapped("one"), Exit(process="one"), DmaUnmap(name="m")], "mapping 'm' belongs to process 'one'"),
        ([DmaUnbind(device="pe1", by="one")], "only the agent itself does that with a driver"),
        ([DmaMap(device="pe1", name="m", page=Page("b"), size=9, by="one")], "buffer 'b' belongs to the agent itself"),
        (
            [Spawn(process="user", uid=1000), Buffer(name="b-user", pages=1, by="user"), mapped("user")],
            "the driver of the DMA API serves root alone",
        ),
    ],
)
def test_what_a_process_cannot_do_with_a_driver_is_refused_with_its_reason(ops, why):
    assert why in refused(*DRIVEN, *ops)
