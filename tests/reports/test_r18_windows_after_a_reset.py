"""R18: which windows a PE has after a reset of its windows, and after the last of them is removed."""

import pytest
from publicreports import Report

from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.papr import window
from tcelab.program import Buffer, Call, Ddw, Flip, Frames, HcallBatch, Program, Reset, Tag, Tce
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

REPORT = Report(
    id="R18",
    title="windows after a reset, a reset of the bridge, the removal of the last one",
    reported="The default window came back with entries, did not come back, or was removed by the kernel for good; a"
    " 64-bit window outlived a reset.",
    where=(
        "QEMU eddeed26ac83 and 4dd96f244f62 (2012)",
        "QEMU acf1b6dd22ef (2016)",
        "QEMU 31cc81f72801 (2022)",
    ),
    versions="QEMU 7.2, 10.0 and 11.1 are right, but for one thing: a window that firmware made in the place of the"
    " removed default one counts as the default one, so its removal leaves the PE without a window until a reset.",
    right="After a reset, the default window alone is there, where and as large as at the start, and empty; no window"
    " is used up. A removed window is gone, and no other is touched. The default window is restored when the last"
    " window is removed, unless that is the default one.",
    shown="It fills both windows with entries by hypercalls, and resets them; removes the default one, then the other;"
    " removes the default one, makes another in its place, and removes that; asks firmware each time; compares each"
    " table. At night, it resets the machine with both windows full.",
)

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small")
ONE, TWO = b.pes(TOPOLOGY, "r18")
LOW, HIGH = ONE.liobn, ONE.liobn | 1
SHIFT, SIZE = 16, 24
"""log2 of the second window's page, and of its size."""
ONCE = 512
"""Entries of one hypercall."""


def filled(liobn, start, shift, entries):
    """Every entry of a window leads to the same page."""
    firsts = range(0, entries, ONCE)
    calls = [
        Call("H_STUFF_TCE", [liobn, start + (each << shift), Tce("full"), min(ONCE, entries - each)]) for each in firsts
    ]
    return [HcallBatch(calls=calls, expect=0)]


def look(label):
    return [Ddw(call="query", device=ONE.name, expect=0), *b.checkpoint(f"R18: {label}", stream=True)]


BOTH = [
    Ddw(call="create", device=ONE.name, page_shift=SHIFT, window_shift=SIZE, expect=0),
    *filled(LOW, ONE.start, window.PAGE_SHIFT, ONE.entries),
    *filled(HIGH, window.SECOND_START, SHIFT, 1 << (SIZE - SHIFT)),
    *look("both full"),
]
RESET = [Ddw(call="reset", device=ONE.name, expect=0), *look("reset")]
GONE = [
    Ddw(call="remove", device=ONE.name, liobn=LOW, expect=0),
    *look("the default one removed"),
    Ddw(call="remove", device=ONE.name, liobn=HIGH, expect=0),
    *look("the last one removed: the default one is restored"),
]
ANOTHER = [
    Ddw(call="remove", device=ONE.name, liobn=LOW, expect=0),
    *look("none"),
    Ddw(call="create", device=ONE.name, page_shift=SHIFT, window_shift=SIZE, expect=0),
    *filled(LOW, ONE.start, SHIFT, 1 << (SIZE - SHIFT)),
    *look("another one in the place of the default one"),
    Ddw(call="remove", device=ONE.name, liobn=LOW, expect=0),
    *look("that one removed: for QEMU it was the default one, and none is restored"),
]
BEFORE = [
    Buffer(name="full", pages=512, huge=True, expect="ok"),
    Frames(buffer="full", expect="ok"),
    Tag(buffer="full", liobn=LOW, ioba=ONE.start, expect="ok"),
    *filled(TWO.liobn, TWO.start, window.PAGE_SHIFT, TWO.entries),  # another PE's, to which nothing happens
]


def program(*ops):
    return Program(name="r18", topology=TOPOLOGY, ops=[*BEFORE, *BOTH, *ops])


def test_the_default_window_comes_back_empty_and_alone(judged):
    verdict = judged(program(*RESET, *BOTH, *GONE, *ANOTHER, *RESET, *BOTH))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


@pytest.mark.night
@pytest.mark.parametrize("qemu", ["qemu-7.2", "qemu-10.0", "qemu-11.1"])
def test_a_reset_of_the_machine_leaves_the_default_windows_alone_and_empty(tmp_path, qemu):
    ready = setup.prepare(setup.MachineChoice(topology=TOPOLOGY, qemu=qemu, restarts=True))
    made = program(Reset(expect="ok"), *look("the machine was reset"))
    forks = Forks(ready.qemu, ready.options, digest=ready.digest, boot=True)
    with forks.open(tmp_path) as session:
        judge = Judge(made, session.facts, references=second_opinion(TOPOLOGY, session.facts))
        verdict = judge.verdict(perform_program(made, session, judge))
    forks.close()
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


def test_one_entry_that_stays_is_named(judged):
    """As if the reset had left it: it is put there in QEMU's memory."""
    verdict = judged(program(*RESET, Flip(liobn=LOW, ioba=ONE.iova(7), bit=1), *look("and one entry")))
    assert [(each.law, each.liobn, each.ioba) for each in verdict.findings] == [
        ("table", LOW, ONE.iova(7)),
        ("difference", LOW, ONE.iova(7)),
    ]
