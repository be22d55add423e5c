"""A device in flight over an event: what it must do then, on the emulator; and what did something else is named."""

import msgspec
import pytest

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.program import (
    BridgeRemove,
    Crash,
    DeviceRemove,
    Dma,
    Flight,
    Kexec,
    Load,
    Op,
    Page,
    Program,
    Reboot,
    Reset,
    Rtas,
    Save,
)
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

TOPOLOGY = topology("two-small-kdump")
ONE, TWO = b.pes(TOPOLOGY, "aloft")
PAGES, FIRST = 16, 0x20000
ACROSS = FIRST + 2 * b.PAGE - 16
"""The last bytes of the second page, and on into the third."""


def mapped():
    return [
        *b.bind(ONE),
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.buffer("b", PAGES, 1),
        *b.tag(Page("b"), PAGES, ONE.liobn, FIRST, 1),
        *b.map_dma(ONE, Page("b"), FIRST, PAGES, 3),
        *b.open_device(ONE),
        *b.dma(ONE, FIRST, 64, to_memory=False),
        *b.checkpoint("before", stream=True),
    ]


def flight(iova=ACROSS, size=32, *, to_memory=True):
    return Flight(device=ONE.name, iova=iova, size=size, to_memory=to_memory)


class Lying:
    """A session that tells something else of a flight."""

    def __init__(self, session, lie):
        self._session, self._lie = session, lie

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        result = self._session.intervene(op, frames)
        if "flight" in getattr(result, "fields", ()):
            fields = {**result.fields, "flight": self._lie(result.fields["flight"])}
            result = msgspec.structs.replace(result, fields=fields)
        return result


def judged(ops, lie=None, where=TOPOLOGY, **kinds):
    program = Program(name="aloft", topology=where, ops=ops)
    session = EmulatorSession(where, **kinds)
    told = session if lie is None else Lying(session, lie)
    references = EmulatorReferences(where, session.facts) if lie is None else None
    judge = Judge(program, session.facts, references=references)
    run = perform_program(program, told, judge)
    assert run.ending is None, run.ending.error
    return run, judge.verdict(run)


def flown(run):
    return next(step.outcome.fields["flight"] for step in run.steps if step.outcome and "flight" in step.outcome.fields)


def changed(told):
    """By bus page: did any byte change there? The law says which must."""
    return {page["ioba"]: bool(page["changed"]) for page in told["pages"]}


REFUSED = [Reset, Reboot, Kexec]
AFTER = b.checkpoint("after", stream=True)


@pytest.mark.parametrize("event", REFUSED)
@pytest.mark.parametrize("to_memory", [True, False])
def test_where_the_event_has_ended_its_mastering_it_is_refused_and_nothing_changes(event, to_memory):
    run, verdict = judged([*mapped(), event(expect="ok", flight=flight(to_memory=to_memory)), *AFTER])
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    told = flown(run)
    assert changed(told) == {FIRST + b.PAGE: False, FIRST + 2 * b.PAGE: False}
    assert sum(size for _, size in told["refused"]) == 32
    assert verdict.evidence.laws["flight"].judged == 1
    assert verdict.evidence.dma.refused == 2


def test_over_a_crash_it_goes_through_the_entries_that_are_left():
    run, verdict = judged([*mapped(), Crash(expect="ok", flight=flight()), *AFTER])
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert changed(flown(run)) == {FIRST + b.PAGE: True, FIRST + 2 * b.PAGE: True}
    assert not flown(run)["refused"]


@pytest.mark.parametrize("guard", ["off", "observe", "freeze"])
def test_over_a_crash_it_isolates_its_pe_if_it_violates_the_table(guard):
    ops = [*mapped(), Crash(expect="ok", flight=flight(ONE.end))]
    run, verdict = judged([*ops, Rtas(call="ibm,read-slot-reset-state2", device=ONE.name), *AFTER], guard=guard)
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    kinds = {"off": [], "observe": ["violation"], "freeze": ["isolated"]}
    assert [event.kind for step in run.steps if step.outcome for event in step.outcome.events] == kinds[guard]
    assert flown(run)["pages"] == []


@pytest.mark.parametrize("event", [Crash, Kexec, Reset])
def test_of_an_isolated_pe_it_does_not_start(event):
    violation = Dma(file=ONE.device, iova=ONE.end, size=64, to_memory=True, expect="refused")
    ops = [*mapped(), violation, *b.checkpoint("isolated"), event(expect="ok", flight=flight()), *AFTER]
    run, verdict = judged(ops, guard="freeze")
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert not flown(run)["started"]


def test_in_the_qemu_that_takes_the_guest_in_it_is_lost():
    ops = [Save(expect="ok", flight=flight()), Load(expect="ok"), *AFTER]
    run, verdict = judged([*mapped(), *ops])
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert changed(flown(run)) == {FIRST + b.PAGE: False, FIRST + 2 * b.PAGE: False}


HOT = topology("hotplug")
PE = b.pes(HOT, "aloft")[0]


def raw():
    """Entries that are nobody's: they stay when the device goes."""
    fields = {"op": "hcall", "call": {"opcode": "H_PUT_TCE", "args": [PE.liobn, FIRST, {"buffer": "b"}]}}
    put = msgspec.convert({**fields, "expect": 0}, Op)
    return [*b.buffer("b", PAGES, 1), *b.tag(Page("b"), 1, PE.liobn, FIRST, 1), put, *b.checkpoint("before")]


@pytest.mark.parametrize("event", [DeviceRemove(device="pe1", consent=True), BridgeRemove(phb=1, consent=True)])
def test_of_a_device_that_goes_it_is_never_done_though_an_entry_would_let_it(event):
    aloft = Flight(device="pe1", iova=FIRST, size=64, to_memory=True)
    run, verdict = judged([*raw(), msgspec.structs.replace(event, flight=aloft, expect="ok"), *AFTER], where=HOT)
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert changed(flown(run)) == {FIRST: False}
    assert flown(run)["started"]


def _untouched(told):
    return {**told, "pages": [{**page, "changed": []} for page in told["pages"]]}


def _touched(told):
    return {**told, "pages": [{**page, "changed": [[7, "5a"]]} for page in told["pages"][-1:]]}


def _elsewhere(told):
    return {**told, "pages": [{**page, "address": page["address"] + 4096} for page in told["pages"][:1]]}


THIRD, SECOND = FIRST + 2 * b.PAGE, FIRST + b.PAGE
LIES = {
    "one byte changes in spite of a reset": (Reset, _touched, {THIRD}, "must be refused (bus master off): guest RAM"),
    "nothing was refused after a reset": (Reset, lambda told: told | {"refused": []}, {SECOND, THIRD}, "no refusal"),
    "a crash kernel lets nothing through": (Crash, _untouched, {SECOND, THIRD}, "must pass: guest RAM at 0x"),
    "a crash kernel empties one entry": (Crash, lambda told: told | {"refused": [[THIRD, 16]]}, {THIRD}, "must pass"),
    "the entry led elsewhere": (Crash, _elsewhere, {SECOND, THIRD}, "had another page to go to"),
    "the device could not be reached": (Kexec, lambda told: told | {"started": False}, {SECOND}, "out of reach"),
    "a load goes on with it": (Save, _touched, {THIRD}, "is never done (its device is another QEMU's now"),
    "a load translates it": (Save, lambda told: told | {"refused": [[SECOND, 32]]}, {SECOND}, "no access"),
}


@pytest.mark.parametrize("name", LIES)
def test_what_does_something_else_is_named_with_its_entry(name):
    event, lie, places, message = LIES[name]
    ops = [event(expect="ok", flight=flight()), *([Load(expect="ok")] if event is Save else []), *AFTER]
    _, verdict = judged([*mapped(), *ops], lie)
    found = [each for each in verdict.findings if each.law == "flight"]
    assert {(each.liobn, each.ioba) for each in found} == {(ONE.liobn, place) for place in places}
    assert all(message in each.message for each in found), [each.message for each in found]


def test_an_event_that_tells_nothing_of_it_is_not_judged():
    _, verdict = judged([*mapped(), Reset(expect="ok", flight=flight()), *AFTER], lambda _: {"refused": 3})
    assert verdict.result == "could-not-judge"
    assert any("did not tell what came of the device in flight" in each for each in verdict.could_not)
