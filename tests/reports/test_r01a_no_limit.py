"""R01a: DMA of 64 bits where firmware names no limit to which RAM may grow. Each guest here is booted."""

import dataclasses

import msgspec
import pytest
from publicreports import Report

from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.program import Checkpoint, Program, Read
from tcelab.program.topology import SMALL_WINDOW, Device, Phb, Topology
from tcelab.qemu.fork import Forks
from tcelab.quirks import NOTHING_DIRECT
from tcelab.run.loop import perform_program

REPORT = Report(
    id="R01a",
    title="64-bit DMA is lost where RAM cannot grow",
    reported="Without `maxmem`, what a device writes with 64-bit addresses is lost: the kernel asks for a window of"
    " shift 0, is refused, and says that all RAM is mapped.",
    where=("Linux 6aa989ab2bd0 (2025-01-30)", "qemu-devel 2025-03", "openshift/os#1818"),
    versions="Seen on 6.12.95 with pages of 4 KiB and 64 KiB, with QEMU 7.2, which names no limit without `maxmem`. Not"
    " with QEMU 10.0 and 11.1, which name the RAM's size; not on 6.1.176.",
    right="A window that is asked for has a size that holds all RAM; without a window, nothing is said to be mapped.",
    shown="It boots a machine whose kernel has a disk, with and without `maxmem`, and compares its windows with what is"
    " right.",
    quirk=NOTHING_DIRECT,
)

pytestmark = [pytest.mark.guest, pytest.mark.night]

FIXED = Topology(
    "fixed",
    (
        Phb(1, (Device("pe1", slot=1),), SMALL_WINDOW),
        Phb(2, (Device("disk2", slot=3, model="disk"),), SMALL_WINDOW),
    ),
    direct=True,
)
GROWS = msgspec.structs.replace(FIXED, name="grows", maxmem=4096, slots=1)


def verdicts(folder, qemu, topology, *without):
    """The verdict on a look at a fresh guest; then the same with a quirk not declared."""
    ready = setup.prepare(setup.MachineChoice(topology=topology, qemu=qemu))
    program = Program(name="r01a", topology=topology, ops=[Read(what="limit"), Checkpoint(stream=True)])
    forks = Forks(ready.qemu, ready.options, digest=ready.digest, boot=True)
    with forks.open(folder) as session:
        for left_out in without:
            facts = dataclasses.replace(session.facts, quirks=session.facts.quirks - left_out)
            judge = Judge(program, facts, references=second_opinion(topology, facts))
            yield judge.verdict(perform_program(program, session, judge))
    forks.close()


def messages(verdict):
    return [each.message for each in verdict.findings]


def test_where_no_limit_is_named_there_is_no_window_and_that_is_declared(tmp_path):
    declared, undeclared = verdicts(tmp_path, "qemu-7.2", FIXED, set(), {NOTHING_DIRECT})
    assert (messages(declared), declared.evidence.quirks[NOTHING_DIRECT]) == ([], 1)
    assert messages(undeclared)[0] == "LIOBN 0x80000201 has no table: expected 32 entries, seen no table"
    assert NOTHING_DIRECT in {each.quirk for each in undeclared.findings}


@pytest.mark.parametrize(("qemu", "topology"), [("qemu-7.2", GROWS), ("qemu-10.0", FIXED), ("qemu-11.1", FIXED)])
def test_where_a_limit_is_named_all_ram_is_mapped(tmp_path, qemu, topology):
    declared, undeclared = verdicts(tmp_path, qemu, topology, set(), {NOTHING_DIRECT})
    assert (messages(declared), messages(undeclared)) == ([], [])
    assert declared.evidence.quirks[NOTHING_DIRECT] == 0
    assert declared.evidence.entries > 0
