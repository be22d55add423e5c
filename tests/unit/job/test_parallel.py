"""The parts of a program, side by side: each on a guest of its own, judged as one."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import wait

import pytest
from ideal import Ideal
from msgspec import structs
from story import nth, story

from patience import PATIENCE
from tcelab.errors import GuestLost, HarnessError, Interrupted, Scene, UsageError
from tcelab.job.parallel import ParallelRun
from tcelab.program import Checkpoint, Fresh
from tcelab.program.parts import parts
from tcelab.run.loop import perform_program
from tcelab.run.record import Parting

ONE = story()
LENGTH = len(ONE.ops)
TWICE = structs.replace(ONE, ops=[*ONE.ops, Fresh(), *ONE.ops])


def at(number, spoil):
    """Spoil a guest once operation `number` of its own is done."""

    def tamper(session, counted, op, outcome):
        if counted == number:
            spoil(session)
        return outcome

    return {"tamper": tamper}


def lost(session):
    raise GuestLost("the guest's kernel died", kernel_died=True, in_flight=0)


def drop(session):
    del session.pes["pe1"].table[0x12]


def beside(program=TWICE, *, lies=(), **more):
    """Run it on ideal guests; `lies` by number of the part."""
    guests = {}

    def opening(part):
        guests[part.number] = Ideal(program, **dict(lies).get(part.number, {}))
        guests[part.number].closed = 0
        guests[part.number].close = lambda: setattr(guests[part.number], "closed", guests[part.number].closed + 1)
        return guests[part.number]

    runner = ParallelRun(program, opening, **more)
    return runner, guests


def test_a_program_is_split_where_it_asks_for_a_fresh_guest():
    first, second = parts(TWICE)
    assert (first.number, first.first, first.ops) == (0, 0, ONE.ops)
    assert (second.number, second.first, second.ops) == (1, LENGTH + 1, ONE.ops)
    assert [part.ops for part in parts(ONE)] == [ONE.ops]


def test_one_guest_is_not_enough_for_a_program_of_two():
    with pytest.raises(UsageError, match="asks for several guests"):
        perform_program(TWICE, Ideal(TWICE))


def test_every_part_is_done_and_the_whole_is_one_run():
    runner, guests = beside()
    record, verdict = runner.run()
    assert (verdict.result, verdict.could_not) == ("pass", [])
    assert [step.number for step in record.steps] == list(range(2 * LENGTH + 1))
    assert [step.op for step in record.steps] == TWICE.ops
    assert record.ending is None
    assert record.facts.versions["guests"] == 2
    alone = ParallelRun(ONE, lambda part: Ideal(ONE)).run()[1].evidence
    assert verdict.evidence.checkpoints == 2 * alone.checkpoints
    assert verdict.evidence.tags == 2 * alone.tags
    assert [guest.closed for guest in guests.values()] == [1, 1]


def test_parts_run_at_the_same_time():
    both = threading.Barrier(2, timeout=PATIENCE)

    def opening(part):
        both.wait()
        return Ideal(TWICE)

    assert ParallelRun(TWICE, opening).run()[1].exit_code == 0


@pytest.mark.parametrize("part", [0, 1])
def test_a_finding_names_the_operation_by_its_number_in_the_whole_program(part):
    runner, _ = beside(lies={part: at(nth("MAP_DMA"), drop)})
    _, verdict = runner.run()
    assert verdict.exit_code == 1
    blamed = nth("MAP_DMA") + part * (LENGTH + 1)
    assert verdict.findings[0].operation.startswith(f"#{blamed} ")
    assert verdict.findings[0].view == "live, stream", "its judge was given the second snapshot too"


def test_the_same_fault_on_two_guests_is_two_findings():
    lie = at(nth("MAP_DMA"), drop)
    one = beside(lies={0: lie})[0].run()[1]
    two = beside(lies={0: lie, 1: lie})[0].run()[1]
    assert len(two.findings) == 2 * len(one.findings)


def test_a_kernel_that_dies_in_one_part_is_a_finding_and_the_other_part_is_still_done():
    runner, guests = beside(lies={0: at(5, lost)})
    record, verdict = runner.run()
    assert verdict.exit_code == 1
    assert record.ending.error.kernel_died
    assert Counter(step.number > LENGTH for step in record.steps)[True] == LENGTH
    assert [guest.closed for guest in guests.values()] == [1, 1]


def test_a_finding_stands_though_another_part_never_had_a_guest():
    def opening(part):
        if part.number == 0:
            raise HarnessError("no room")
        return Ideal(TWICE, **at(nth("MAP_DMA"), drop))

    _, verdict = ParallelRun(TWICE, opening).run()
    assert verdict.exit_code == 1
    assert any("a part of the program had no guest: no room" in each for each in verdict.could_not)


def test_a_part_without_a_guest_is_no_pass():
    def opening(part):
        if part.number == 1:
            raise HarnessError("no room")
        return Ideal(TWICE)

    record, verdict = ParallelRun(TWICE, opening).run()
    assert verdict.exit_code == 125
    assert record.ending.error.message == "no room"


def test_no_guest_at_all_is_the_error_itself():
    def opening(part):
        raise HarnessError("no room")

    with pytest.raises(HarnessError, match="no room"):
        ParallelRun(TWICE, opening).run()


def test_every_part_must_end_with_a_look():
    program = structs.replace(ONE, ops=[*ONE.ops, ONE.ops[0], Fresh(), *ONE.ops])
    verdict = ParallelRun(program, lambda part: Ideal(program)).run()[1]
    look = '{"op": "checkpoint", "stream": true}'
    assert f"nobody looked after operation {LENGTH}: a program must end with a checkpoint, {look}" in verdict.could_not
    assert isinstance(ONE.ops[-1], Checkpoint)


def test_the_guest_of_the_last_part_can_be_kept():
    runner, guests = beside(keep=True)
    runner.run()
    assert runner.kept is guests[1]
    assert [guests[0].closed, guests[1].closed] == [1, 0]


def impatient(busy, times):
    """Somebody who presses Ctrl-C some times once the guests are busy."""
    left = iter(range(times))

    def waits(futures, timeout):
        assert busy.wait(PATIENCE)
        for _ in left:
            raise KeyboardInterrupt
        return wait(futures, PATIENCE)

    return waits


def test_an_error_of_ours_in_one_part_does_not_hide_what_another_has_found(shown):
    def opening(part):
        if part.number == 0:
            return Ideal(TWICE, tamper=lambda *_: 1 / 0)
        return Ideal(TWICE, **at(nth("MAP_DMA"), drop))

    _, verdict = ParallelRun(TWICE, opening).run()
    assert verdict.exit_code == 1
    assert any("internal error: ZeroDivisionError" in each for each in verdict.could_not)
    (note,) = shown.notes
    assert note.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_a_kernel_that_dies_before_its_program_is_a_finding_beside_others():
    def opening(part):
        if part.number == 1:
            raise GuestLost("the guest's kernel died: Oops", kernel_died=True)
        return Ideal(TWICE)

    _, verdict = ParallelRun(TWICE, opening).run()
    assert verdict.exit_code == 1
    assert verdict.findings[0].message == "the kernel died before its program began: the guest's kernel died: Oops"


def test_an_interrupt_ends_every_part_and_what_was_seen_is_judged(monkeypatch):
    """The main thread waits; the guests are in the middle of something."""
    busy, closed = threading.Event(), threading.Event()

    class Slow(Ideal):
        def intervene(self, op, frames):
            if self.number > nth("UNMAP_DMA"):
                busy.set()
                closed.wait(PATIENCE)
                raise HarnessError("the guest was closed")
            return super().intervene(op, frames)

        def close(self):
            closed.set()

    monkeypatch.setattr("tcelab.job.parallel.wait", impatient(busy, times=2))
    record, verdict = ParallelRun(TWICE, lambda part: Slow(TWICE)).run()
    assert verdict.exit_code == 125
    assert record.ending.error.message == "interrupted"
    assert verdict.evidence.checkpoints > 0


def test_an_interrupt_ends_guests_that_are_on_their_way(monkeypatch):
    opening, given_up = threading.Event(), threading.Event()

    def opens(part):
        opening.set()
        assert given_up.wait(PATIENCE)
        raise GuestLost("the guest was closed", scene=Scene("boot", 1.5))

    monkeypatch.setattr("tcelab.job.parallel.wait", impatient(opening, times=1))
    with pytest.raises(Interrupted, match="interrupted") as caught:
        ParallelRun(TWICE, opens, give_up=given_up.set).run()
    assert caught.value.scene.phase == "boot"


def test_steps_are_watched_one_at_a_time_with_the_findings_so_far():
    seen, inside = [], threading.Lock()

    def watch(step, findings):
        assert inside.acquire(blocking=False)
        seen.append((step.number, findings))
        inside.release()

    beside(lies={1: at(nth("MAP_DMA"), drop)}, on_step=watch)[0].run()
    assert max(number for number, _ in seen) == 2 * LENGTH
    assert max(findings for _, findings in seen) >= 1


class Leaver(Ideal):
    """A guest that is ended after its program."""

    left = 0
    fails = False

    def leave(self):
        self.left += 1
        if self.fails:
            raise HarnessError("L1 does not answer")
        return Parting("SIGTERM", "", (), 9, 7, ())


def test_a_guest_that_leaves_is_judged_by_what_it_left():
    record, verdict = ParallelRun(ONE, lambda _: Leaver(ONE)).run()
    assert [finding.law for finding in verdict.findings] == ["release"]
    assert record.ending is None


def test_a_guest_that_cannot_be_left_is_no_pass(monkeypatch):
    monkeypatch.setattr(Leaver, "fails", True)
    _, verdict = ParallelRun(ONE, lambda _: Leaver(ONE)).run()
    assert (verdict.result, verdict.findings) == ("could-not-judge", [])
    assert any("L1 does not answer" in reason for reason in verdict.could_not)


def test_a_guest_that_is_kept_or_that_ended_early_is_not_left():
    kept = Leaver(ONE)
    assert ParallelRun(ONE, lambda _: kept, keep=True).run()[1].result == "pass"
    died = Leaver(ONE, **at(3, lost))
    assert ParallelRun(ONE, lambda _: died).run()[1].result == "finding"
    assert (kept.left, died.left) == (0, 0)
