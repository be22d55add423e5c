"""The verdict of several parts is one: it loses nothing, counts nothing twice, and hangs on no order in time."""

from __future__ import annotations

import msgspec
import pytest
from ideal import Ideal
from msgspec import structs
from story import nth, see, story, with_entry

from tcelab.errors import GuestLost, HarnessError, Scene
from tcelab.judge import Judge, conclude
from tcelab.judge.verdict import never_began, of_several
from tcelab.program import Fresh
from tcelab.program.parts import parts
from tcelab.run.join import join
from tcelab.run.loop import Recorder

ONE = story()
LENGTH = len(ONE.ops)
TWICE = structs.replace(ONE, ops=[*ONE.ops, Fresh(), *ONE.ops])
DIED = GuestLost("Oops", kernel_died=True, scene=Scene(console=["first", "NIP: 0"]))


def many(shown):
    """150 entries that nothing explains."""
    for number in range(100, 250):
        shown = with_entry(number, number << 12 | 3)(shown)
    return shown


def done(part, **lies):
    """A part, judged; its record."""
    guest = Ideal(TWICE, **lies)
    judge = Judge(TWICE, guest.facts)
    recorder = Recorder(TWICE, guest, judge, first=part.first)
    recorder.perform(part.ops)
    recorder.finish()
    judge.end(recorder.run)
    return judge.ledger, recorder.run


def both(*lies):
    ledgers, records = zip(*(done(part, **each) for part, each in zip(parts(TWICE), lies, strict=True)), strict=True)
    return ledgers, join(TWICE, records[0].facts, dict(enumerate(records)), {})


def plain(ledger):
    return msgspec.to_builtins((ledger.close(), ledger.findings, ledger.total, ledger.by_step, ledger.reasons))


def test_findings_behind_the_cap_are_those_of_the_last_operations_and_all_are_counted():
    lie = see(lambda shown: many(shown) if shown.liobn == 0x80000200 else shown)
    ledgers, run = both(lie, lie)
    before = [plain(each) for each in ledgers]
    verdict = conclude(ledgers, run)
    assert (len(verdict.findings), verdict.more) == (200, 100)
    mapped = nth("mapped")
    assert verdict.by_step == {mapped: {"table": 150}, mapped + LENGTH + 1: {"table": 150}}
    assert [each.step for each in verdict.findings] == [mapped] * 150 + [mapped + LENGTH + 1] * 50
    assert verdict.evidence.batches[0].findings == verdict.evidence.laws["table"].findings == 300
    assert [plain(each) for each in ledgers] == before, "joining them changes none"
    assert conclude(ledgers, run) == verdict


def test_findings_of_several_runs_beyond_what_is_kept_are_counted():
    """Each run has 150 findings and counts 7 more: 200 of 450 are kept."""
    ledgers, run = both({}, {})
    honest = conclude(ledgers, run)
    lie = see(lambda shown: many(shown) if shown.liobn == 0x80000200 else shown)
    (finding, *_) = conclude(*both(lie, {})).findings
    each = structs.replace(honest, result="finding", exit_code=1, findings=[finding] * 150, more=7)
    verdict = of_several({"a": each, "b": each, "c": each}, ["a", "b", "c"])
    assert (len(verdict.findings), verdict.more) == (200, 250 + 21)


def test_what_a_verdict_rests_on_is_the_sum_of_what_the_parts_saw():
    ledgers, run = both({}, {})
    verdict = conclude(ledgers, run)
    one, two = (each.close() for each in ledgers)
    whole = verdict.evidence
    assert verdict.result == "pass"
    assert (whole.tags, whole.entries, whole.dma.transfers) == (2 * one.tags, 2 * two.entries, 2 * one.dma.transfers)
    assert whole.steps == {"live": 2 * one.steps["live"], "stream": 2 * one.steps["stream"]}
    assert (whole.batches[0].size, whole.batches[0].maps) == (4, 2 * one.batches[0].maps)
    assert whole.seconds["judge"].times == 2 * one.seconds["judge"].times
    assert whole.dma.control == one.dma.control == ["pe1"]
    assert (whole.laws["evidence"].judged, one.laws["evidence"].judged) == (1, 0)


def test_a_reason_of_several_parts_is_told_once_with_the_first_place_where_it_was_so():
    ledgers, run = both({"cannot": {"stream": "no"}}, {"cannot": {"stream": "no"}})
    missing = [each for each in conclude(ledgers, run).could_not if "stream view is missing" in each]
    assert missing == [f"the stream view is missing: cannot (4 times, first at step {nth('unmapped')})"]


def test_each_kernel_that_died_before_its_part_is_a_finding_at_that_part():
    ledger, record = done(parts(TWICE)[0])
    lost = {1: DIED}
    verdict = conclude([ledger], join(TWICE, record.facts, {0: record}, lost), lost)
    (finding,) = verdict.findings
    assert (finding.law, finding.step) == ("kernel", LENGTH + 1)
    assert verdict.could_not[0] == "a part of the program had no guest: Oops"
    nobody = conclude([], join(TWICE, record.facts, {}, {0: DIED, 1: DIED}), {0: DIED, 1: DIED})
    assert [each.step for each in nobody.findings] == [0, LENGTH + 1]


@pytest.mark.parametrize(("error", "code", "seen"), [(DIED, 1, ["NIP: 0"]), (HarnessError("no QEMU"), 125, [])])
def test_a_run_that_never_began_is_a_finding_only_if_the_kernel_died(error, code, seen):
    verdict = never_began(error)
    assert (verdict.exit_code, verdict.could_not) == (code, [error.message])
    assert [each.seen for each in verdict.findings] == seen


def test_a_record_of_parts_is_whole_only_if_each_guest_was_there():
    _, record = done(parts(TWICE)[1])
    lost = {0: HarnessError("no room")}
    run = join(TWICE, record.facts, {1: record}, lost)
    assert [step.number for step in run.steps] == list(range(LENGTH, 2 * LENGTH + 1)), "the guest that was asked for"
    assert (run.ending.error, run.ending.in_flight) == (lost[0], None)
    assert run.facts.versions["guests"] == 2
    assert "guests" not in record.facts.versions


def test_a_guest_that_nobody_got_was_asked_for_in_vain():
    _, record = done(parts(TWICE)[0])
    run = join(TWICE, record.facts, {0: record}, {1: HarnessError("no room")})
    assert [step.number for step in run.steps] == list(range(LENGTH))
