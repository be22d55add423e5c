"""Hot plug as the judge keeps it: what must be there, and each way in which a machine may leave something behind. The
machine is the emulator's, broken while it runs; no record is touched.
"""

import pytest

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.papr.isolationrules import Condition
from tcelab.program import BridgeAdd, BridgeRemove, Call, Checkpoint, DeviceAdd, DeviceRemove, Hcall, Page, Program, Tce
from tcelab.program.parts import parts
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import build
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

WHERE = topology("hotplug")
NEW, OLD = Pe(WHERE.phbs[2], "t"), b.pes(WHERE, "t")[0]
IOVA, PAGES = 0x30000, 4
NUMBER = IOVA >> 12
RAW = Hcall(call=Call("H_PUT_TCE", [NEW.liobn, IOVA, Tce(buffer="m")]), expect=0)


class Broken:
    """A session whose machine is broken before or after operations of the host."""

    def __init__(self, session, before, after):
        self._session, self._before, self._after = session, before, after

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        self._before(self._session.machine, op)
        gave = self._session.intervene(op, frames)
        self._after(self._session.machine, op)
        return gave


def nothing(_machine, _op):
    pass


def findings(ops, before=nothing, after=nothing, *, isolation=False, reference=False):
    program = Program(name="p", topology=WHERE, ops=[*ops, Checkpoint(label="end")], isolation=isolation)
    with EmulatorSession(WHERE, isolates=isolation, guard="freeze" if isolation else "off") as session:
        references = second_opinion(WHERE, session.facts) if reference else None
        judge = Judge(program, session.facts, references=references)
        record = perform_program(program, Broken(session, before, after), judge)
        assert record.ending is None, record.ending.error
        return judge.verdict(record).findings


def used(pe):
    """A container on a PE, with entries that its device uses, and which leaves."""
    return [
        *b.buffer("m", PAGES, 1),
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.tag(Page("m"), PAGES, pe.liobn, IOVA, 1),
        *b.map_dma(pe, Page("m"), IOVA, PAGES, 3),
        *b.open_device(pe),
        *b.dma(pe, IOVA, 64, to_memory=True),
        *b.checkpoint("used"),
        *b.close(pe.device, pe.group, pe.container),
        *b.checkpoint("closed"),
    ]


def staying(phb, kind):
    """The second entry of before, after an event of a kind: `before` and `after` of `findings`."""
    kept = {}

    def before(machine, op):
        if getattr(op, "label", "") == "used":
            kept[0] = machine.pes[phb].table.get(NUMBER + 1)

    def after(machine, op):
        if isinstance(op, kind) and kept:
            machine.pes[phb].table.put(NUMBER + 1, kept[0])

    return before, after


@pytest.mark.parametrize("name", ["hotplug", "hotplug-isolation"])
def test_nothing_is_found_where_nothing_is_wrong(name):
    program = build(name, WHERE, 3)
    for part in parts(program):
        assert findings(part.ops, isolation=program.isolation, reference=True) == []


def test_an_entry_that_stays_when_its_device_goes_is_named_with_its_owner():
    ops = used(OLD)
    made = next(number for number, op in enumerate(ops) if getattr(op, "request", "") == "MAP_DMA")
    (finding,) = findings([*ops, DeviceRemove(device="pe1")], *staying(1, DeviceRemove))
    assert (finding.law, finding.liobn, finding.ioba) == ("outliving", 0x80000100, IOVA + 4096)
    assert "an entry outlives its owner, container t-pe1-container of the agent, which let go" in finding.message
    assert f"; pe1 was pulled in operation {len(ops)} (made by operation {made})" in finding.message


def test_a_phb_that_comes_again_comes_without_the_entries_of_before():
    ops = [BridgeAdd(phb=3), *used(NEW), BridgeRemove(phb=3), BridgeAdd(phb=3)]
    (finding,) = findings(ops, *staying(3, BridgeAdd))
    assert (finding.law, finding.liobn, finding.ioba) == ("outliving", 0x80000300, IOVA + 4096)
    assert f"; pe3 was pulled in operation {len(ops) - 2} " in finding.message


def test_an_entry_that_is_nobodys_stays_when_a_device_goes_and_goes_with_its_phb():
    ops = [BridgeAdd(phb=3), *b.buffer("m", 1, 1), RAW, Checkpoint(label="used"), DeviceRemove(device="pe3")]
    whole = [*ops, Checkpoint(), BridgeRemove(phb=3), Checkpoint(), BridgeAdd(phb=3)]
    assert findings(whole) == []

    def loses(machine, op):
        if isinstance(op, DeviceRemove):
            machine.pes[3].table.put(NUMBER, 0)

    (lost, *_) = findings(ops, after=loses)
    assert (lost.law, lost.ioba) == ("table", IOVA)
    assert "an entry that was mapped is missing" in lost.message
    kept = {}

    def keeps(machine, op):
        if getattr(op, "label", "") == "used":
            kept[0] = machine.pes[3].table.get(NUMBER)
        elif isinstance(op, BridgeAdd) and kept:
            machine.pes[3].table.put(NUMBER, kept[0])

    (stays,) = findings(whole, after=keeps)
    assert (stays.law, stays.ioba) == ("outliving", IOVA)
    assert "an entry outlives its owner, the agent, gone with PHB 3 by operation 7 (bridgeremove)" in stays.message


def test_a_table_that_stays_when_its_phb_goes_is_a_finding():
    kept = {}

    def before(machine, op):
        if isinstance(op, BridgeRemove):
            kept.update(machine.pes)

    def after(machine, op):
        if isinstance(op, BridgeRemove):
            machine.pes.update(kept)

    (finding,) = findings([BridgeRemove(phb=2)], before, after)
    assert (finding.law, finding.liobn, finding.operation[:2]) == ("inventory", 0x80000200, "#0")
    assert "has a table: expected no table, seen 4096 entries" in finding.message


def test_a_phb_that_comes_without_its_window_is_a_finding():
    def after(machine, op):
        if isinstance(op, BridgeAdd):
            machine.pes[3].set_window(0, 8 << 20)

    (finding,) = findings([BridgeAdd(phb=3)], after=after)
    assert (finding.law, finding.liobn) == ("inventory", 0x80000300)
    assert "has the wrong size: expected 4096 entries, seen 2048 entries" in finding.message


def test_a_device_that_comes_again_thaws_nothing():
    ops = build("hotplug-isolation", WHERE, 3).ops

    def thaws(machine, op):
        if isinstance(op, DeviceAdd) and op.device == "pe1":
            machine.pes[1].isolation.condition = Condition.NORMAL

    laws = {finding.law for finding in findings(ops, after=thaws, isolation=True)}
    assert "isolation" in laws
