"""Hot plug as a distribution does it: drmgr, called by hand; rtas_errd, which hears QEMU's event and calls drmgr, while
nobody of ours does anything. The tables are right all the same, and the guest's own log says who did it.
"""

import re

import pytest

from patience import PATIENCE
from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.program import BridgeAdd, BridgeRemove, DeviceAdd, DeviceRemove, Page, Program
from tcelab.program.topology import topology
from tcelab.qemu import fork
from tcelab.qemu.limits import Limits
from tcelab.qemu.typist import Typist
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

pytestmark = [pytest.mark.guest, pytest.mark.network]

WHERE = topology("hotplug")
FIRST, STILL = b.pes(WHERE, "t")[:2]
BRIDGE = Pe(WHERE.phbs[2], "t")
IOVA, PAGES = 0x30000, 16
CALLED = {"drmgr": {"pci": "-n ", "phb": "-n "}, "rtas_errd": {"pci": "-n -d4 -V ", "phb": ""}}
"""What each adds to drmgr's command line, by the kind of what comes or goes."""


def mapped(pe, label):
    name = f"m-{label}"
    return [
        *b.buffer(name, PAGES, 1),
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.tag(Page(name), PAGES, pe.liobn, IOVA, 1),
        *b.map_dma(pe, Page(name), IOVA, PAGES, 3),
    ]


def used(pe, label):
    return [
        *mapped(pe, label),
        *b.open_device(pe),
        *b.dma(pe, IOVA, 64, to_memory=False),
        *b.dma(pe, IOVA + 4096, 64, to_memory=True),
        *b.checkpoint(label, stream=True),
        *b.close(pe.device, pe.group, pe.container),
        *b.checkpoint(f"{label} closed", stream=True),
    ]


def plugged(by):
    """A device, then a bridge with one, comes, is used, and goes, while another PE has entries."""
    return [
        *mapped(STILL, "still"),
        DeviceRemove(device="pe1", consent=by, expect="ok"),
        *b.checkpoint("the device went", stream=True),
        DeviceAdd(device="pe1", consent=by, expect="ok"),
        *used(Pe(FIRST.phb, "t1"), "device"),
        BridgeAdd(phb=3, consent=by, expect="ok"),
        *used(BRIDGE, "bridge"),
        BridgeRemove(phb=3, consent=by, expect="ok"),
        *b.checkpoint("the bridge went", stream=True),
    ]


@pytest.mark.parametrize("by", CALLED)
def test_the_guests_own_programs_take_and_leave_what_comes_and_goes(by, tmp_path):
    ready = setup.prepare(setup.MachineChoice(topology=WHERE, image="guest-drmgr"))
    program = Program(name="p", topology=WHERE, ops=plugged(by))
    tmp_path.chmod(0o700)
    with fork.opened(ready.qemu, ready.options, tmp_path, digest=ready.digest, limits=Limits(unplug=300)) as session:
        judge = Judge(program, session.facts, references=second_opinion(WHERE, session.facts))
        verdict = judge.verdict(perform_program(program, session, judge))
        log = Typist(session, PATIENCE).run("cat /var/log/drmgr", PATIENCE).output
    assert (verdict.exit_code, verdict.findings, verdict.could_not) == (0, [], [])
    called = re.findall(r"^drmgr: (.*?)\r?$", log, re.MULTILINE)
    told = [("pci", "-r", 0x40010008), ("pci", "-a", 0x40010008), ("phb", "-a", 0x20000003), ("pci", "-a", 0x40030018)]
    told += [("pci", "-r", 0x40030018), ("phb", "-r", 0x20000003)]
    assert called == [f"-c {kind} {what} -s {drc:#x} {CALLED[by][kind]}" for kind, what, drc in told]
