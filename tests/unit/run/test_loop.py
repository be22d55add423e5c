"""The loop that performs a program on a session: the record is true however the run ends."""

from __future__ import annotations

import pytest

from tcelab.errors import GuestLost, HarnessError, UsageError
from tcelab.program import Buffer, Checkpoint, Flip, Fresh, Program, Read
from tcelab.program.parts import parts
from tcelab.program.topology import topology
from tcelab.run.loop import NOBODY, Tee, perform_program
from tcelab.run.record import Facts, Outcome, Snapshot

OPS = [
    Buffer(name="a", pages=2),
    Read(what="pins"),
    Checkpoint(label="one"),
    Buffer(name="b", pages=1),
    Read(what="vmlck"),
    Read(what="pins"),
    Checkpoint(label="two", stream=True),
    Flip(liobn=0x80000100, ioba=0),
]


class Script:
    """A session that gives what it is told, and notes what it is asked for."""

    facts = Facts("script", bytes(16), 4096, 1 << 20, {}, {})

    def __init__(self, **fail):
        self.fail = fail
        self.calls = []
        self.looked = []

    def note(self, name):
        self.calls.append(name)
        if error := self.fail.get(f"{name}{self.calls.count(name)}"):
            raise error

    boot = 1

    def perform(self, ops):
        self.note("perform")
        return [Outcome(value=i, frames=self.frames(op)) for i, op in enumerate(ops)]

    @staticmethod
    def frames(op):
        return {"a": [0x5000, 0x9000], "b": [0x9000, 0x2000]}[op.name] if isinstance(op, Buffer) else []

    def intervene(self, op, frames):
        self.note("intervene")
        self.looked.append((op, list(frames)))
        return Outcome(value=1) if isinstance(op, Flip) else Snapshot((), {}, {}, ())

    def trouble(self):
        self.note("trouble")
        return ("some trouble",)

    def finish(self):
        self.note("finish")
        return ("last words",)


class Seen:
    """An observer that notes what it is given; `suspects`: numbers of the steps that it finds suspicious."""

    def __init__(self, *suspects):
        self.suspects = suspects
        self.steps = []
        self.confirmed = []

    def feed(self, step):
        self.steps.append(step)
        return step.number in self.suspects

    def confirm(self, step, snapshot):
        assert step is self.steps[-1]
        self.confirmed.append((step.number, snapshot))


def performed(session, observer=NOBODY):
    return perform_program(Program(name="p", topology=topology("one-pe"), ops=OPS), session, observer)


def test_every_operation_is_a_step_with_its_number_in_order():
    session = Script()
    record = performed(session)
    assert [(step.number, step.op) for step in record.steps] == list(enumerate(OPS))
    assert [step.outcome.value if step.outcome else None for step in record.steps] == [0, 1, None, 0, 1, 2, None, 1]
    assert [step.snapshot is not None for step in record.steps] == [isinstance(op, Checkpoint) for op in OPS]
    assert session.calls == ["perform", "intervene", "perform", "intervene", "intervene", "finish"]
    assert (record.ending, record.trouble) == (None, ("last words",))


def test_checkpoints_look_at_the_frames_that_were_told_before_each_once():
    session = Script()
    performed(session)
    assert [frames for _, frames in session.looked] == [[0x5000, 0x9000], *[[0x5000, 0x9000, 0x2000]] * 2]


def test_each_step_is_fed_once():
    seen = Seen(2)
    record = performed(Script(), seen)
    assert [step.number for step in seen.steps] == list(range(8))
    assert [step.snapshot for step in seen.steps] == [step.snapshot for step in record.steps]


def test_a_suspicious_checkpoint_is_confirmed_by_every_view_at_once():
    session, seen = Script(), Seen(2)
    record = performed(session, seen)
    assert [op for op, _ in session.looked[:2]] == [Checkpoint(label="one"), Checkpoint(label="one", stream=True)]
    assert session.calls[:3] == ["perform", "intervene", "intervene"]
    assert session.looked[0][1] == session.looked[1][1]
    assert seen.confirmed == [(2, record.steps[2].confirmed)]
    assert record.steps[2].snapshot is not record.steps[2].confirmed
    assert [step.confirmed is not None for step in record.steps] == [number == 2 for number in range(8)]


def test_a_checkpoint_that_was_seen_by_every_view_is_not_confirmed():
    session, seen = Script(), Seen(6)
    record = performed(session, seen)
    assert all(step.confirmed is None for step in record.steps)
    assert (seen.confirmed, len(session.looked)) == ([], 3)


def test_suspicion_of_an_operation_confirms_nothing():
    session, seen = Script(), Seen(0, 1, 3, 4, 5, 7)
    performed(session, seen)
    assert (seen.confirmed, len(session.looked)) == ([], 3)


def test_what_is_done_after_each_step_hides_nothing_of_the_observer():
    seen, after = Seen(2), []
    performed(Script(), Tee(seen, after.append))
    assert after == seen.steps
    assert [number for number, _ in seen.confirmed] == [2]


def test_what_checkpoints_saw_need_not_stay_in_the_record():
    seen = Seen(2)
    record = perform_program(Program(name="p", topology=topology("one-pe"), ops=OPS), Script(), seen, keep=False)
    assert [step.snapshot is not None for step in seen.steps] == [isinstance(op, Checkpoint) for op in OPS]
    assert [number for number, _ in seen.confirmed] == [2]
    assert [step.number for step in record.steps] == list(range(8))
    assert {(step.snapshot, step.confirmed) for step in record.steps} == {(None, None)}


def test_a_part_is_performed_alone_by_the_numbers_of_the_whole_program():
    program = Program(name="p", topology=topology("one-pe"), ops=[*OPS, Fresh(), *OPS])
    session = Script()
    record = perform_program(program, session, part=parts(program)[1])
    assert [(step.number, step.op) for step in record.steps] == list(enumerate(OPS, len(OPS) + 1))
    assert record.program is program
    with pytest.raises(UsageError, match="asks for several guests"):
        perform_program(program, session)


@pytest.mark.parametrize("at", [1, 2])
def test_enough_ends_the_program_at_a_checkpoint_and_is_asked_nowhere_else(at):
    asked, session = [], Script()

    def enough():
        asked.append(len(seen.steps))
        return len(asked) == at

    seen = Seen()
    record = perform_program(Program(name="p", topology=topology("one-pe"), ops=OPS), session, seen, enough=enough)
    assert asked == [3, 7][:at]
    assert record.program.ops == OPS[: asked[-1]] == [step.op for step in record.steps]
    assert session.calls[-1] == "finish"
    assert record.trouble == ("last words",)


def test_a_run_that_has_ended_is_never_enough():
    record = perform_program(
        Program(name="p", topology=topology("one-pe"), ops=OPS),
        Script(intervene1=GuestLost("gone")),
        enough=lambda: True,
    )
    assert (record.program.ops, len(record.steps), record.ending.error.message) == (OPS, 2, "gone")


@pytest.mark.parametrize(("in_flight", "of_program"), [(0, 3), (2, 5), (None, None)])
def test_a_lost_guest_tells_the_operation_by_its_number_in_the_program(in_flight, of_program):
    session = Script(perform2=GuestLost("gone", in_flight=in_flight))
    record = performed(session)
    assert record.ending.error.message == "gone"
    assert record.ending.in_flight == of_program
    assert len(record.steps) == 3
    assert session.calls == ["perform", "intervene", "perform", "trouble"]
    assert record.trouble == ("some trouble",)


def test_an_error_of_the_harness_has_no_operation_in_flight():
    record = performed(Script(intervene1=HarnessError("no")))
    assert (record.ending.error.message, record.ending.in_flight) == ("no", None)
    assert len(record.steps) == 2


def test_a_step_that_was_confirmed_only_half_is_no_step():
    record = performed(Script(intervene2=HarnessError("no")), Seen(2))
    assert [step.number for step in record.steps] == [0, 1]


@pytest.mark.parametrize("where", ["perform2", "intervene1"])
def test_an_interrupt_is_an_ending(where):
    record = performed(Script(**{where: KeyboardInterrupt()}))
    assert isinstance(record.ending.error, HarnessError)
    assert (record.ending.error.message, record.ending.in_flight) == ("interrupted", None)
    assert record.trouble == ("some trouble",)


def test_a_guest_that_is_lost_at_the_very_end_is_an_ending():
    record = performed(Script(finish1=GuestLost("died after all", kernel_died=True)))
    assert len(record.steps) == 8
    assert record.ending.error.kernel_died
    assert record.ending.in_flight is None
    assert record.trouble == ()


def test_the_first_error_is_the_ending():
    record = performed(Script(perform1=GuestLost("first"), trouble1=HarnessError("second")))
    assert record.ending.error.message == "first"


def test_an_error_that_is_a_defect_of_ours_is_not_swallowed():
    with pytest.raises(KeyError):
        performed(Script(perform1=KeyError("x")))
