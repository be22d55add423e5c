"""Probes race with maps and unmaps on a guest: true ones meet the table; servers that are wrong on purpose do not."""

import pytest

from tcelab.bench.benchguests import opened
from tcelab.device.probe import Probe
from tcelab.device.vfio_user import Server
from tcelab.device.vfio_user.dmamaps import DmaMaps
from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.papr import tce
from tcelab.program import Page, Program
from tcelab.program.topology import topology
from tcelab.qemu.limits import Limits
from tcelab.qemu.probes import Probes
from tcelab.run.loop import perform_program
from tcelab.scenarios import races
from tcelab.scenarios import vocabulary as b

AT, PAGES = 0x10000, 3
RACES = topology("races")
PE = b.pes(RACES, "r")[0]


def program():
    ops = [
        *b.buffer("r", PAGES, 1),
        *b.bind(PE),
        *b.open_container(PE),
        *b.enable(PE),
        *races._open_devices(PE),
        *b.tag(Page("r"), PAGES, PE.liobn, AT, 1),
        *b.map_dma(PE, Page("r"), AT, PAGES, tce.READ),
        *b.checkpoint("mapped"),
        *b.unmap_dma(PE, AT, PAGES),
        *b.checkpoint("unmapped", stream=True),
        *b.close(*(PE.file_of(each.name) for each in PE.phb.devices), PE.group, PE.container),
        *b.checkpoint("closed", stream=True),
    ]
    return Program(name="races", topology=RACES, ops=ops, seed=1)


class Unchecked(DmaMaps):
    """Each mapping is for both directions."""

    def map(self, flags, offset, address, size, fd):
        super().map(3 if flags else flags, offset, address, size, fd)


class Late(DmaMaps):
    """An unmap is done when the next message comes."""

    waiting = None

    def _catch_up(self):
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            super().unmap(*waiting)

    def map(self, flags, offset, address, size, fd):
        self._catch_up()
        super().map(flags, offset, address, size, fd)

    def unmap(self, flags, address, size):
        self._catch_up()
        self.waiting = flags, address, size


class Own(Probe):
    """Its own table judges, and not QEMU's."""

    kind = DmaMaps

    def __init__(self):
        super().__init__()
        self.maps = self.kind(self.maps.limits)

    async def dma(self, address, what, mode="shared"):
        return await super().dma(address, what, mode)


class UncheckedProbe(Own):
    kind = Unchecked


class LateProbe(Own):
    kind = Late


def verdict_of(folder, monkeypatch, kinds):
    def listen(self):
        for name, kind in zip(self._phbs, kinds, strict=True):
            self.servers[name] = Server(kind(), hidden=True)
        return {name: server.descriptor for name, server in self.servers.items()}

    monkeypatch.setattr(Probes, "listen", listen)
    ready = setup.prepare(setup.MachineChoice(topology=RACES))
    with opened(ready, Limits(), folder, boot=True) as session:
        judge = Judge(program(), session.facts, references=second_opinion(RACES, session.facts))
        return judge.verdict(perform_program(program(), session, judge))


def test_between_two_hypercalls_true_probes_meet_the_table(tmp_path, monkeypatch):
    verdict = verdict_of(tmp_path, monkeypatch, (Probe, Probe))
    assert (verdict.findings, verdict.could_not) == ([], [])
    count = verdict.evidence.races
    assert (count.operations, count.reached) == (2, 48)
    assert count.calls >= 2 * PAGES
    assert count.reached + count.refused == count.points * (PAGES + 2) * 2 * 2


def test_a_table_without_its_check_and_an_unmap_that_is_late_are_found(tmp_path, monkeypatch):
    """Of the first probe, and of the second."""
    verdict = verdict_of(tmp_path, monkeypatch, (UncheckedProbe, LateProbe))
    found = [each for each in verdict.findings if each.law == "races"]
    unchecked = {each.ioba for each in found if "pe1's write" in each.message and each.seen == "reached"}
    late = {each.ioba for each in found if "pe1b's read" in each.message and each.seen == "reached"}
    assert unchecked == late == {AT + number * 0x1000 for number in range(PAGES)}
    assert any("in QEMU's log" in each.seen for each in found), "its own refusals are none of QEMU's"
    assert verdict.exit_code == 1


@pytest.fixture(autouse=True)
def _private(tmp_path):
    tmp_path.chmod(0o700)
