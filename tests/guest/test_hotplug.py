"""Hot plug on a real guest: a bridge and a device come, are used by VFIO, go and come; and an entry that QEMU's memory
keeps all the same is found, with the owner that it outlives.
"""

import pytest

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import BridgeAdd, BridgeRemove, Checkpoint, DeviceAdd, DeviceRemove, Flip, Page, Program
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

pytestmark = pytest.mark.guest

WHERE = topology("hotplug")
NEW, OLD = Pe(WHERE.phbs[2], "t"), b.pes(WHERE, "t")[0]
IOVA, PAGES, KEPT = 0x30000, 16, 0x31000


class Interfering:
    """A guest in whose table, in QEMU's memory, an entry of before is put back after some events."""

    def __init__(self, session, after):
        self._session, self._after, self._entries = session, after, {}

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        gave = self._session.intervene(op, frames)
        if getattr(op, "label", "") in {"bridge", "device"}:
            table = next(each for each in gave.tables if len(each.index))
            self._entries[table.liobn] = int(table.tce[table.index == KEPT >> 12][0])
        liobn = self._after.get(type(op))
        if liobn in self._entries:
            for bit in (bit for bit in range(64) if self._entries[liobn] >> bit & 1):
                self._session.views.flip(Flip(liobn=liobn, ioba=KEPT, bit=bit))
        return gave


def used(pe, label):
    name = f"m-{label}"
    return [
        *b.buffer(name, PAGES, 1),
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.tag(Page(name), PAGES, pe.liobn, IOVA, 1),
        *b.map_dma(pe, Page(name), IOVA, PAGES, 3),
        *b.open_device(pe),
        *b.dma(pe, IOVA, 64, to_memory=False),
        *b.dma(pe, IOVA + 4096, 64, to_memory=True),
        *b.checkpoint(label, stream=True),
        *b.close(pe.device, pe.group, pe.container),
        *b.checkpoint(f"{label} closed", stream=True),
    ]


@pytest.fixture
def fresh(_tcelab_guests):
    return lambda: _tcelab_guests.fresh(WHERE.name, 0)


def test_what_goes_takes_its_entries_along_and_what_stays_is_named(fresh):
    ops = [BridgeAdd(phb=3, expect="ok"), *used(NEW, "bridge"), BridgeRemove(phb=3, expect="ok"), Checkpoint()]
    ops += [BridgeAdd(phb=3, expect="ok"), Checkpoint(), *used(OLD, "device"), DeviceRemove(device="pe1", expect="ok")]
    ops += [Checkpoint(stream=True), DeviceAdd(device="pe1", expect="ok"), Checkpoint(stream=True)]
    program = Program(name="p", topology=WHERE, ops=ops)
    pulled = [number for number, op in enumerate(ops) if isinstance(op, BridgeRemove | DeviceRemove)]
    with fresh() as session:
        judge = Judge(program, session.facts, references=second_opinion(WHERE, session.facts))
        guest = Interfering(session, {BridgeAdd: 0x80000300, DeviceRemove: 0x80000100})
        record = perform_program(program, guest, judge)
        verdict = judge.verdict(record)
    assert record.ending is None, record.ending.error
    outliving = [each for each in verdict.findings if each.law == "outliving"]
    assert {each.law for each in verdict.findings} == {"outliving", "difference"}, verdict.findings
    assert [(each.liobn, each.ioba) for each in outliving] == [(0x80000300, KEPT), (0x80000100, KEPT)]
    for each, pe, number in zip(outliving, (NEW, OLD), pulled, strict=True):
        assert f"an entry outlives its owner, container {pe.container} of the agent, which let go of it" in each.message
        assert f"; {pe.name} was pulled in operation {number} (made by operation" in each.message
        assert each.view == "live, stream"
