"""R17: what becomes of tables in a migration."""

import pytest
from publicreports import Report

from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.papr import window
from tcelab.program import Buffer, Call, Ddw, Flip, Frames, HcallBatch, Load, Program, Save, Tag, Tce
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

REPORT = Report(
    id="R17",
    title="tables in a migration",
    reported="Tables were told apart by the order in which they were made, so that a machine with its devices in"
    " another order got the wrong ones; a window of another size than the default one could not arrive; the mark of the"
    " default window was lost, so that the last window to go was not followed by it.",
    where=("QEMU 00d4f525ec8d (2014)", "QEMU a26fdf393404 (2016)", "QEMU 31cc81f72801 (2022)"),
    versions="QEMU 10.0 and 11.1 are right, also from 11.1 to 10.0. QEMU 11.1.3 loads nothing that 10.0.13 saved: it"
    " refuses the virtio-serial device of the agent's channel. 11.1.3 refuses PHBs in another order. 7.2 cannot"
    " save a guest whole.",
    right="Every window arrives with its LIOBN, place, page size, entries and mark, whatever the order of the devices;"
    " when the last window is removed afterwards, the default one comes back.",
    shown="Firmware makes a window of 64 KiB pages and removes the default one; both PEs have entries. The guest is"
    " saved and loaded, twice, with its devices in another order the second time; then the last window is removed. At"
    " night also from QEMU 11.1 into 10.0. Broken on purpose: one entry, in QEMU's memory.",
)

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small")
ONE, TWO = b.pes(TOPOLOGY, "r17")
HIGH = ONE.liobn | 1
SHIFT, SIZE = 16, 24
"""log2 of the second window's page, and of its size."""


def filled(liobn, start, shift, entries):
    """Every entry of a window leads to the same page."""
    firsts = range(0, entries, 512)
    calls = [
        Call("H_STUFF_TCE", [liobn, start + (each << shift), Tce("full"), min(512, entries - each)]) for each in firsts
    ]
    return [HcallBatch(calls=calls, expect=0)]


def look(label):
    return [Ddw(call="query", device=ONE.name, expect=0), *b.checkpoint(f"R17: {label}", stream=True)]


def moved(order, qemu=""):
    return [Save(expect="ok"), Load(order=order, qemu=qemu, expect="ok"), *look(f"loaded, {order} order")]


BEFORE = [
    Buffer(name="full", pages=512, huge=True, expect="ok"),
    Frames(buffer="full", expect="ok"),
    Tag(buffer="full", liobn=HIGH, ioba=window.SECOND_START, expect="ok"),
    *filled(TWO.liobn, TWO.start, window.PAGE_SHIFT, TWO.entries),
    Ddw(call="create", device=ONE.name, page_shift=SHIFT, window_shift=SIZE, expect=0),
    *filled(HIGH, window.SECOND_START, SHIFT, 1 << (SIZE - SHIFT)),
    *look("both windows"),
]
ALONE = [Ddw(call="remove", device=ONE.name, liobn=ONE.liobn, expect=0), *look("the default one removed")]
LAST = [
    Ddw(call="remove", device=ONE.name, liobn=HIGH, expect=0),
    *look("the last one removed: the default one is restored"),
]


def program(*ops, where=TOPOLOGY):
    return Program(name="r17", topology=where, ops=[*BEFORE, *ops])


def told(verdict):
    return [each.message for each in verdict.findings], verdict.could_not, verdict.result


def test_every_window_arrives_and_the_default_one_comes_back_behind_the_last(judged):
    ops = [*moved("same"), *ALONE, *moved("reversed"), *LAST, *moved("same")]
    assert told(judged(program(*ops))) == ([], [], "pass")


def test_one_entry_that_does_not_arrive_is_named(judged):
    """As if the load had lost a bit of it: it is changed in the fresh QEMU's memory."""
    ioba = window.SECOND_START + (5 << SHIFT)
    ops = [Save(expect="ok"), Load(expect="ok"), Flip(liobn=HIGH, ioba=ioba, bit=1), *look("and one entry")]
    verdict = judged(program(*ops))
    assert {(each.law, each.liobn, each.ioba) for each in verdict.findings} == {
        ("table", HIGH, ioba),
        ("difference", HIGH, ioba),
    }


@pytest.mark.night
def test_another_version_of_qemu_takes_every_window_in(tmp_path):
    where = topology("versioned")
    ready = setup.prepare(setup.MachineChoice(topology=where, loads=("qemu-10.0",)))
    forks = Forks(ready.qemu, ready.options, digest=ready.digest, boot=True)
    ops = program(*moved("same", "qemu-10.0"), *ALONE, *moved("reversed", "qemu-10.0"), *LAST, where=where)
    with forks.open(tmp_path) as session:
        judge = Judge(ops, session.facts, references=second_opinion(where, session.facts))
        verdict = judge.verdict(perform_program(ops, session, judge))
    forks.close()
    assert told(verdict) == ([], [], "pass")
