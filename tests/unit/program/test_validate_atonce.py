"""What may be begun at once."""

import pytest

from tcelab.errors import UsageError
from tcelab.program import AtOnce, Call, Checkpoint, Close, Fill, HcallBatch, Ioctl, Open, Program, Spawn
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
