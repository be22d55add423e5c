"""The law of isolation: what it lets pass, and what it says of each way in which a platform can lie."""

from __future__ import annotations

import dataclasses

import pytest
from ideal import ONES, Ideal
from isolation_story import (
    AGAIN,
    DETAIL,
    EEH,
    END,
    FROZEN,
    STATE,
    THAWED,
    TWO_DEVICES,
    VIOLATION,
    looks,
    opened,
    program,
    read,
    rtas,
    story,
    write,
)
from msgspec.structs import replace

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.judge.laws.outcome import as_expected
from tcelab.program import Burst, Checkpoint, Close, Dma, Engine, Ioctl, Master, Page, Rtas, Together, Transfer
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program
from tcelab.run.record import Event, Outcome, Step

FIRST = len(opened())
"""Number of the first operation after the set-up."""
SECOND = FIRST + len(FROZEN) + len(THAWED)
"""Number of the second violation."""


def judged(session):
    judge = Judge(session.program, session.facts)
    return judge.verdict(perform_program(session.program, session, judge))


def told(session):
    """What the law of isolation says, and no other law says anything."""
    verdict = judged(session)
    assert {finding.law for finding in verdict.findings} <= {"isolation"}
    return [finding.message for finding in verdict.findings]


def observed(session):
    session.facts = dataclasses.replace(session.facts, guard="observe")
    return session


class NeverIsolates(Ideal):
    def isolate(self):
        self.violations = []


# -- the truth


def test_two_isolations_and_two_recoveries_pass():
    played = story()
    validate(played)
    verdict = judged(Ideal(played))
    assert (verdict.result, verdict.findings, verdict.could_not) == ("pass", [], [])
    assert verdict.evidence.laws["isolation"].judged > 50
    assert verdict.evidence.dma.reasons == {
        "outside the window": 1,
        "no entry": 1,
        "the PE is isolated": 1,
        "bus master off": 1,
    }


def test_the_emulator_does_as_the_law_demands():
    played = story()
    session = EmulatorSession(TWO_DEVICES, isolates=True, guard="freeze")
    judge = Judge(played, session.facts, references=EmulatorReferences(TWO_DEVICES, session.facts))
    verdict = judge.verdict(perform_program(played, session, judge))
    assert (verdict.result, verdict.findings) == ("pass", [])


def test_where_nobody_isolates_a_violation_leaves_all_as_it_is():
    verdict = judged(Ideal(program(VIOLATION, *looks("pe1"), write("pe1b"), rtas(STATE), isolation=False)))
    assert (verdict.result, verdict.findings) == ("pass", [])
    assert verdict.evidence.laws["isolation"].judged == 0


def test_where_violations_are_observed_they_are_told_and_isolate_nothing():
    played = program(VIOLATION, write("pe1b"), read("pe1", 0x40000), rtas(STATE), isolation=False)
    verdict = judged(observed(Ideal(played)))
    assert (verdict.result, verdict.findings) == ("pass", [])
    assert verdict.evidence.laws["isolation"].judged > 0


def test_a_transfer_of_a_device_that_is_off_the_bus_isolates_nothing():
    assert told(Ideal(program(Master(file="pe1", on=False), VIOLATION, write("pe1b"), rtas(STATE)))) == []


def test_two_violations_at_once_isolate_both_pes():
    both = Together(ops=[write("pe1", END), write("pe2", END), write("pe1b")])
    assert told(Ideal(program(both, *looks("pe1", "pe1b", "pe2")))) == []


def test_of_two_violations_at_once_in_one_pe_the_second_is_blocked():
    both = Together(ops=[write("pe1", END), read("pe1b", END + 4096)])
    session = Ideal(program(both, *looks("pe1", "pe1b", "pe2")))
    events = []
    session.tamper = lambda _s, _n, _op, outcome: events.extend(outcome.events) or outcome
    assert told(session) == []
    assert [(event.kind, event.device) for event in events] == [("isolated", "pe1"), ("blocked", "pe1b")]


@pytest.mark.parametrize("last", [True, False])
def test_of_a_violation_of_a_probe_nobody_knows_what_the_next_device_of_its_pe_did(last):
    """It has begun before the isolation, or not: a probe's own page waits for that, no other device does."""
    ops = [write("pe1", END), write("pe1b")]
    played = program(Together(ops=ops[::-1] if last else ops))
    phb, other = TWO_DEVICES.phbs
    probes = replace(phb, devices=tuple(replace(each, model="probe") for each in phb.devices))
    played = replace(played, topology=replace(TWO_DEVICES, phbs=(probes, other)))
    session = EmulatorSession(played.topology, isolates=True, guard="freeze")
    unknown = f"pe1 isolates its PE: what others did at step {FIRST} is not known"
    judge = Judge(played, session.facts)
    verdict = judge.verdict(perform_program(played, session, judge))
    assert verdict.findings == []
    assert (unknown in verdict.could_not) == (not last)


def test_a_violation_that_straddles_the_end_is_told_by_its_first_refused_byte():
    events = []
    session = Ideal(program(write("pe1", 0x20FF0, 64), rtas(STATE)))
    session.tamper = lambda _s, _n, _op, outcome: events.extend(outcome.events) or outcome
    assert told(session) == []
    assert [(event.iova, event.start, event.size) for event in events] == [(0x21000, 0x20FF0, 64)]


def test_the_files_of_an_isolated_pe_can_be_closed_and_its_device_opened_again():
    again = Ioctl(file="s-pe1-group", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="anew", expect="ok")
    ops = [VIOLATION, Close(file="pe1"), again, *looks("anew"), Master(file="anew"), rtas(EEH, 2), rtas(EEH, 3)]
    assert told(Ideal(program(*ops, *looks("anew"), replace(write("pe1"), file="anew")))) == []


def test_two_events_of_one_pe_have_no_order():
    """They are told as they were seen."""
    session = Ideal(program(Together(ops=[write("pe1", END), read("pe1b", END + 4096)])))
    session.tamper = lambda _s, _n, _op, outcome: replace(outcome, events=outcome.events[::-1])
    assert told(session) == []


@pytest.mark.parametrize("platform", [Ideal, NeverIsolates], ids=lambda each: each.__name__)
def test_a_guard_that_was_asked_for_is_one_although_the_program_did_not_demand_it(platform):
    session = platform(program(VIOLATION, *looks("pe1"), isolation=False))
    session.facts = dataclasses.replace(session.facts, guard="freeze")
    assert told(session) == ([MISSED] if platform is NeverIsolates else [])


# -- lies


class IsolatesInSilence(Ideal):
    def isolate(self):
        super().isolate()
        self.events = []


class OnlySaysSo(Ideal):
    def isolate(self):
        super().isolate()
        for pe in self.pes.values():
            pe.condition = "normal"


class IsolatesTheNeighbour(Ideal):
    def isolate(self):
        self.violations = [replace(each, device="pe2", pe=2, liobn=0x80000200) for each in self.violations]
        super().isolate()


class IsolatesTheNeighbourToo(Ideal):
    def isolate(self):
        super().isolate()
        if self.pes["pe1"].condition == "stopped":
            self.pes["pe2"].condition = "stopped"


class SaysThatTheNeighbourIsToo(Ideal):
    def isolate(self):
        self.violations += [replace(each, device="pe2", pe=2, liobn=0x80000200) for each in self.violations]
        super().isolate()


class MissesTheSibling(Ideal):
    """Nothing ever happens to pe1b."""

    def transfer(self, op, by):
        if op.file != "pe1b":
            return super().transfer(op, by)
        pe = self.pes["pe1b"]
        was, pe.condition = pe.condition, "normal"
        value = super().transfer(op, by)
        pe.condition = was
        return value

    def identity(self, name):
        return 0x010000ED if name == "pe1b" else super().identity(name)

    def command(self, name):
        if name != "pe1b":
            return super().command(name)
        return 0x6 if self.master.get(name) else 0x2


class LeavesRegistersOpen(Ideal):
    def identity(self, _name):
        return 0x010000ED

    def transfer(self, op, by):
        pe = self.pes[self.files[by, op.file][1]]
        was = pe.condition
        if was not in {"stopped", "reset"}:
            return super().transfer(op, by)
        pe.condition = "thawed"
        value = super().transfer(op, by)
        self.isolate()
        pe.condition = was
        return value


class LeavesDmaOpen(Ideal):
    """Registers are frozen and thawed as they must be, and DMA passes all the while."""

    def command(self, name):
        return 0x6 if self.master.get(name) else 0x2

    def transfer(self, op, by):
        pe = self.pes[self.files[by, op.file][1]]
        was = pe.condition
        pe.condition = "normal" if was == "thawed" else was
        value = super().transfer(op, by)
        pe.condition = was
        return value


class ThawsOutOfOrder(Ideal):
    def service(self, op):
        if (op.call, op.option) == (EEH, 3):
            self.pes[op.device].condition = "normal"
            return Outcome(value=0)
        return super().service(op)


class RefusesToThaw(Ideal):
    def service(self, op):
        return Outcome(value=-1) if (op.call, op.option) == (EEH, 2) else super().service(op)


class LetsTheGuestHaveItsWay(Ideal):
    def do_master(self, op):
        outcome, self.events = super().do_master(op), []
        return replace(outcome, value=0x6) if op.on else outcome


class ForgetsToTakeBusMastering(Ideal):
    def service(self, op):
        was = dict(self.master)
        outcome = super().service(op)
        self.master = was
        return outcome


class AlwaysSaysNormal(Ideal):
    def service(self, op):
        outcome = super().service(op)
        return replace(outcome, fields=outcome.fields | {"state": 0}) if outcome.fields else outcome


class ForgetsTheError(Ideal):
    def service(self, op):
        return Outcome(value=1) if op.call == DETAIL else super().service(op)


class IsTooQuick(Ideal):
    """Isolates before the others of a Together are done."""

    def do_together(self, op):
        ends = []
        for each in op.ops:
            ends.append(self.transfer(each, op.by))
            self.isolate()
        return Outcome(value=ONES if ONES in ends else 0, fields={"ends": ends})


class RefusesNoBlockedAccess(Ideal):
    def refuse(self, op, address):
        if self.pes[op.file].condition == "normal":
            super().refuse(op, address)


MISSED = f"PE 1 must be isolated by the DMA of operation {FIRST} (pe1 writes 0x400000, outside the window): it was not"
MISSED_AGAIN = f"PE 1 must be isolated by the DMA of operation {SECOND} (pe1 reads 0x40000, no entry): it was not"
ID, COMMAND = "the identity of", "the command register of"

LIES = {
    NeverIsolates: [MISSED, MISSED_AGAIN],
    IsolatesInSilence: [
        MISSED,
        f"{FIRST + 1} saw 0xffffffff as {ID} pe1, expected 0x10000ed: PE 1 is isolated, though no event reported it",
        f"PE 1 is isolated and must block the DMA of operation {FIRST + 17} (pe1b reads 0x20000, the PE is",
        MISSED_AGAIN,
        f"{SECOND + 1} saw 0xffffffff as {ID} pe1b, expected 0x10000ed: PE 1 is isolated, though no event reported it",
    ],
    IsolatesTheNeighbour: [
        MISSED,
        f"{FIRST}: PE 2 was isolated, and no operation of its devices explains it (pe2 writes 0x400000, outside the",
        MISSED_AGAIN,
    ],
    IsolatesTheNeighbourToo: [
        f"{FIRST + 5} saw 0xffffffff as {ID} pe2, expected 0x10000ed: PE 2 is normal",
        f"{FIRST + 6} saw 0x2 as {COMMAND} pe2, expected 0x6: PE 2 is normal",
        f"{FIRST + 8} could not reach the registers of pe2, and PE 2 is normal",
    ],
    SaysThatTheNeighbourIsToo: [
        f"{FIRST}: PE 2 was isolated, and no operation of its devices explains it (pe2 writes 0x400000, outside the",
        f"{FIRST + 17}: PE 2 is reported to have blocked an access that no operation explains (pe2 reads 0x20000, the",
    ],
    LeavesRegistersOpen: [
        f"{FIRST + 1} saw 0x10000ed as {ID} pe1, expected 0xffffffff: PE 1 is stopped",
        f"{FIRST + 3} saw 0x10000ed as {ID} pe1b, expected 0xffffffff: PE 1 is stopped",
        f"{FIRST + 7} reached the registers of pe1b, and PE 1 is stopped",
        f"{SECOND + 1} saw 0x10000ed as {ID} pe1b, expected 0xffffffff: PE 1 is stopped",
        f"{SECOND + 5} reached the registers of pe1, and PE 1 is reset asserted",
    ],
    ThawsOutOfOrder: [
        "(rtas ibm,set-eeh-option of pe1, option 3) gave 0, expected -1: PE 1 is stopped",
    ],
    LetsTheGuestHaveItsWay: [
        f"{FIRST + 19} lets pe1b master the bus, whose PE 1 is isolated, and nothing undid it",
    ],
    AlwaysSaysNormal: [
        "gave 0 (state 0, supported 1, wait 0, recovery 0), expected 0 (state 2, supported 1, wait 0, recovery 0): PE",
        "gave 0 (state 0, supported 1, wait 0, recovery 0), expected 0 (state 1, supported 1, wait 0, recovery 0): PE",
    ],
    RefusesToThaw: ["option 2) gave -1, expected 0: PE 1 is stopped"],
    ForgetsTheError: ["option 1) gave 1, expected 0: PE 1 is normal"],
    IsTooQuick: [f"{SECOND} could not reach the registers of pe1b, and PE 1 is normal"],
}


@pytest.mark.parametrize("platform", LIES, ids=lambda each: each.__name__)
def test_a_platform_that_lies_is_told_once_for_each_thing_that_is_wrong(platform):
    messages = told(platform(story()))
    assert len(messages) == len(LIES[platform])
    for message, expected in zip(messages, LIES[platform], strict=True):
        assert expected in message


@pytest.mark.parametrize(
    ("platform", "expected", "seen"),
    [(IsTooQuick, "reached", "not reached"), (MissesTheSibling, "not reached", "reached")],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_whether_registers_were_to_be_reached_is_told_on_the_right_side(platform, expected, seen):
    found = [each for each in judged(platform(story())).findings if "registers of" in each.message]
    assert {(each.expected, each.seen) for each in found} == {(expected, seen)}


@pytest.mark.parametrize(
    ("platform", "law", "message"),
    [
        (OnlySaysSo, "isolation", "saw 0x10000ed as the identity of pe1, expected 0xffffffff: PE 1 is stopped"),
        (MissesTheSibling, "isolation", "reached the registers of pe1b, and PE 1 is stopped"),
        (MissesTheSibling, "tag", "the entry leads to"),
        (LeavesDmaOpen, "isolation", "saw 0x6 as the command register of pe1, expected 0x2: PE 1 is stopped"),
        (LeavesDmaOpen, "isolation", "and must block the DMA of operation"),
        (
            ForgetsToTakeBusMastering,
            "isolation",
            "saw 0x6 as the command register of pe1, expected 0x2: PE 1 is normal",
        ),
        (ForgetsToTakeBusMastering, "refusals", "must be refused (bus master off)"),
    ],
)
def test_what_data_show_is_told_by_their_law_as_well(platform, law, message):
    verdict = judged(platform(story()))
    assert verdict.exit_code == 1
    assert any(finding.law == law and message in finding.message for finding in verdict.findings)
    assert len(verdict.findings) < 15, "told once, not over and over"


def test_of_a_device_that_was_reached_in_error_nothing_more_is_demanded():
    verdict = judged(MissesTheSibling(program(read("pe1b", END), rtas(EEH, 2), rtas(EEH, 3), VIOLATION, read("pe1b"))))
    reached, passed = verdict.findings
    assert reached.message.endswith("reached the registers of pe1b, and PE 1 is stopped")
    assert passed.law == "refusals", "that its DMA passed is another thing"


def test_dma_of_a_frozen_device_that_lands_is_seen_in_memory():
    """A device that stores without a word, although it can be reached by nobody."""
    session = Ideal(program(write("pe1b"), VIOLATION))

    def tamper(session, number, _op, outcome):
        if number == FIRST + 1:
            session.ram[session.buffers["m"][1]][100] ^= 1
        return outcome

    session.tamper = tamper
    (finding,) = judged(session).findings
    assert finding.law == "tag"


def test_a_blocked_access_that_nobody_refused_breaks_the_law_of_refusals():
    played = program(read("pe1b", 0x40000), rtas(EEH, 2), write("pe1b"))
    (finding,) = judged(RefusesNoBlockedAccess(played)).findings
    assert finding.law == "refusals"
    assert "pe1b's write of 0x20000..0x2003f must be refused (the PE is isolated)" in finding.message


# -- lies of events


class Retells(Ideal):
    """Changes what it tells of an isolation."""

    def __init__(self, played, **changes):
        super().__init__(played)
        self.changes = changes

    def isolate(self):
        super().isolate()
        self.events = [replace(each, **self.changes) for each in self.events]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device": "pe1b"}, "device pe1b, expected pe1"),
        ({"liobn": 0x80000200}, "liobn 0x80000200, expected 0x80000100"),
        ({"iova": END - 1}, "iova 0x3fffff, expected 0x400000"),
        ({"start": 0}, "start 0x0, expected 0x400000"),
        ({"size": 8}, "size 8, expected 64"),
        ({"direction": "read"}, "direction read, expected write"),
        ({"reason": "no entry"}, "reason no entry, expected outside the window"),
        ({"entry": 0}, "entry 0x0, expected none"),
        ({"neighbours": []}, "neighbours [], expected [0x0]"),
        ({"neighbours": [0x7003]}, "neighbours [0x7003], expected [0x0]"),
    ],
)
def test_each_part_of_an_event_is_held_against_what_was_done(change, says):
    messages = told(Retells(program(VIOLATION), **change))
    assert messages == [f"operation {FIRST}: PE 1 was isolated, and the event says {says}"]


def test_times_are_nobodys_law():
    assert told(Retells(program(VIOLATION), at=7.0, took=3.0, count=9)) == []


def test_an_entry_is_held_against_the_table():
    """The page at 0x30000 may only be read."""
    played = program(write("pe1", 0x30000))
    (message,) = told(Retells(played, entry=0x7001))
    assert "the event says entry 0x7001, expected 0x" in message
    assert told(Ideal(played)) == []


def test_the_page_of_an_entry_may_be_known_to_the_platform_alone():
    """A map that did not tell its frames: whatever the event says, as long as it is not empty."""
    bare = Ioctl(
        file="s-pe1-container",
        request="MAP_DMA",
        fields={"flags": 1, "vaddr": Page("m", 4), "iova": 0x50000, "size": 4096},
    )
    played = program(bare, write("pe1", 0x50000))

    def silent(_session, number, _op, outcome):
        return replace(outcome, frames=[]) if number == FIRST else outcome

    assert told(Ideal(played, tamper=silent)) == []
    session = Retells(played, entry=0)
    session.tamper = silent
    (message,) = told(session)
    assert "entry 0x0, expected 0xfffffffffffff000" in message


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("blocked", "the access is reported as blocked"),
        ("violation", "it was only observed"),
    ],
)
def test_an_isolation_is_told_as_one(kind, says):
    (message,) = told(Retells(program(VIOLATION), kind=kind))
    assert message.endswith(says)


def test_an_event_of_another_nature_is_none_of_those_that_had_to_be_told():
    messages = told(Retells(program(VIOLATION), kind="reapplied"))
    assert messages == [
        MISSED,
        (
            f"operation {FIRST}: isolation is reported as reapplied to pe1 of PE 1, "
            "and no operation had let it master the bus"
        ),
    ]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (Event(kind="isolated", pe=2, device="pe2", direction="read", iova=7, reason="r"), "PE 2 was isolated, and no"),
        (Event(kind="isolated", pe=7, device="?"), "PE 7 was isolated, and no operation of its devices explains it"),
        (Event(kind="violation", pe=1, device="pe1"), "a violation of PE 1 is reported that no operation explains"),
        (
            Event(kind="blocked", pe=1, device="pe1"),
            "PE 1 is reported to have blocked an access that no operation explains",
        ),
        (
            Event(kind="reapplied", pe=1, device="pe1"),
            "isolation is reported as reapplied to pe1 of PE 1, and no operation had",
        ),
    ],
    ids=lambda each: getattr(each, "kind", None),
)
def test_an_event_that_nothing_explains_is_told(event, says):
    def tamper(_session, number, _op, outcome):
        return replace(outcome, events=[event]) if number == FIRST else outcome

    (message,) = told(Ideal(program(write("pe1")), tamper=tamper))
    assert says in message


def test_an_operation_that_failed_can_isolate_nothing():
    def tamper(_session, number, _op, _outcome):
        event = Event(kind="isolated", pe=1, device="pe1")
        return Outcome(errno="ENOTTY", events=[event]) if number == FIRST else _outcome

    played = program(Ioctl(file="pe1", request="DEVICE_RESET"))
    (message,) = told(Ideal(played, tamper=tamper))
    assert f"operation {FIRST}: PE 1 was isolated, and no operation" in message


def test_a_refusal_that_nobody_can_be_blamed_for_cannot_be_judged():
    event = Event(
        kind="unblamed", pe=-1, iova=0x7000, direction="read", reason="pe1 and pe2 both have a transfer there"
    )

    def tamper(_session, number, _op, outcome):
        return replace(outcome, events=[event]) if number == FIRST else outcome

    verdict = judged(Ideal(program(write("pe1")), tamper=tamper))
    assert (verdict.result, verdict.exit_code) == ("could-not-judge", 125)
    assert verdict.could_not == [
        "nobody can be blamed for a device read at 0x7000 that was refused: pe1 and pe2 both have a transfer there"
    ]


# -- a platform that was to isolate, and has no guard


def unguarded(mode):
    session = Ideal(program(*FROZEN, *THAWED, *AGAIN))
    session.facts = dataclasses.replace(session.facts, guard=mode)
    return session


@pytest.mark.parametrize(("mode", "says"), [("off", "it was not"), ("observe", "it was only observed")])
def test_without_a_guard_each_isolation_is_missed_and_firmware_has_no_services(mode, says):
    verdict = judged(unguarded(mode))
    assert verdict.exit_code == 1
    messages = [finding.message for finding in verdict.findings]
    assert messages[0] == f"{MISSED.removesuffix('it was not')}{says}"
    assert sum("gave -3" in each for each in messages) == 1
    assert len(messages) == 3, "each once"


def test_a_miss_is_told_once_for_its_direction_and_reason_however_often_it_comes():
    session = NeverIsolates(program(*[write("pe1", END + 4096 * i) for i in range(20)], read("pe1", END)))
    assert len(told(session)) == 2


# -- what cannot be judged


def test_a_program_for_a_platform_that_isolates_says_nothing_about_one_that_was_not_asked_to():
    session = Ideal(story())
    session.facts = dataclasses.replace(session.facts, isolates=False, guard="off")
    reasons = judged(session).could_not
    assert "the program is for a platform that isolates PEs, and this one was not asked to" in reasons


def test_a_run_that_never_looked_at_a_pe_has_not_shown_that_none_was_isolated():
    played = program()
    played = replace(played, ops=[op for op in played.ops if not isinstance(op, Master)])
    assert "no operation showed whether a PE was isolated" in judged(Ideal(played)).could_not


def test_a_together_must_tell_how_each_of_its_transfers_ended():
    def tamper(_session, number, _op, outcome):
        return replace(outcome, fields={}) if number == FIRST else outcome

    verdict = judged(Ideal(program(Together(ops=[write("pe1"), write("pe2")])), tamper=tamper))
    assert f"Together of step {FIRST} did not tell how its transfers ended" in verdict.could_not


class Bursts(Ideal):
    def do_burst(self, op):
        for done, each in enumerate(op.transfers):
            single = Dma(file=op.file, iova=each.iova, size=each.size, to_memory=each.to_memory, offset=each.offset)
            if self.transfer(single, op.by):
                return Outcome(value=ONES, fields={"done": done, "seconds": 0.1})
            self.isolate()
        return Outcome(value=0, fields={"done": len(op.transfers), "seconds": 0.1})


class SlowBursts(Ideal):
    """Isolates when all is over."""

    def do_burst(self, op):
        for each in op.transfers:
            assert not self.transfer(Dma(file=op.file, iova=each.iova, size=each.size, to_memory=each.to_memory), op.by)
        self.isolate()
        return Outcome(value=0, fields={"done": len(op.transfers), "seconds": 0.1})


def burst(*iovas):
    return Burst(file="pe1", transfers=[Transfer(iova, 16, to_memory=True) for iova in iovas])


def test_a_legal_burst_is_folded_transfer_by_transfer():
    verdict = judged(Bursts(program(burst(0x20000, 0x20010, 0x20FF0))))
    assert (verdict.result, verdict.evidence.dma.transfers) == ("pass", 3)


def test_a_burst_that_violates_its_table_cannot_be_followed():
    verdict = judged(Bursts(program(burst(0x20000, END, 0x20010))))
    assert (verdict.result, verdict.findings) == ("could-not-judge", [])
    assert any(f"Burst of step {FIRST} violates its table" in reason for reason in verdict.could_not)


def test_what_an_isolation_let_through_of_a_burst_is_nobodys_to_say():
    """Late accesses, those that were refused as well, and what they left in memory and in the device."""
    late = [Transfer(iova, 16, to_memory) for iova, to_memory in [(0x20010, True), (END, True), (0x30000, False)]]
    ops = [Burst(file="pe1", transfers=[Transfer(END, 16, to_memory=True), *late]), Checkpoint()]
    thaw = [rtas(EEH, 2), rtas(EEH, 3), write("pe1", 0x20040, 16), Checkpoint(), read("pe1b", 0x40000)]
    verdict = judged(SlowBursts(program(*ops, *thaw)))
    assert (verdict.result, verdict.findings) == ("could-not-judge", [])
    assert verdict.evidence.laws["refusals"].judged == 1, "later ones are judged again"


def test_a_burst_whose_device_cannot_be_reached_does_nothing():
    assert told(Bursts(program(VIOLATION, burst(0x20000)))) == []
    (message,) = told(Bursts(program(VIOLATION, burst(0x20000)), tamper=_reached))
    assert "reached the registers of pe1, and PE 1 is stopped" in message


def _reached(_session, number, _op, outcome):
    return replace(outcome, value=1) if number == FIRST + 1 else outcome


@pytest.mark.parametrize("fields", [{}, {"done": -1}, {"done": 9}, {"done": "all"}])
def test_a_burst_must_tell_how_far_it_came(fields):
    def tamper(_session, number, _op, outcome):
        return replace(outcome, fields=fields) if number == FIRST else outcome

    verdict = judged(Bursts(program(burst(0x20000)), tamper=tamper))
    assert any("did not tell how many of its transfers were done" in reason for reason in verdict.could_not)


# -- what "ok" means of a device's operation


@pytest.mark.parametrize(
    "op",
    [
        write("pe1"),
        Together(ops=[write("pe1")]),
        burst(0),
        Engine(file="pe1", ring=Page("m"), iova=0),
        Rtas(call=STATE, device="pe1"),
    ],
    ids=lambda op: type(op).__name__,
)
def test_a_device_that_could_not_be_reached_is_not_ok(op):
    step = Step(0, replace(op, expect="ok"))
    assert as_expected(step, Outcome(value=0))
    assert not as_expected(step, Outcome(value=ONES))
    assert not as_expected(step, Outcome(value=1))
