"""R03: which windows a second kernel finds, and what it does with their entries: by kexec, and after a crash."""

import pytest
from publicreports import Report

from tcelab.papr import window
from tcelab.program import Call, Crash, HcallBatch, Kexec, Page, Program
from tcelab.program.topology import topology
from tcelab.quirks import KEXEC_KEEPS
from tcelab.scenarios import vocabulary as b

REPORT = Report(
    id="R03",
    title="kexec and kdump after the windows changed",
    reported="The second kernel used the default window that the first one had removed, or cleared a 64-bit window as"
    " far as the default one is large; a crash kernel found no room in a table, or gave away what devices still used.",
    where=(
        "Linux b1fc44eaa9ba (2022)",
        "Linux 09a3c1e46142 (2023-12)",
    ),
    versions="6.12.95 clears all of a 64-bit window that a container has made, whatever its size, and leaves the"
    " default one beside it as it was. Its crash kernel leaves every entry. The removed default window"
    " needs firmware that has one window alone: QEMU's has two.",
    right="By kexec, every entry of every window that the device tree tells of is cleared, up to the last one of the"
    " larger window. After a crash, every entry stays as it was.",
    shown="A v2 container maps the first and the last pages of a 64-bit window that is four times as large as the"
    " default one, and a page of the default one, then starts a second kernel, or crashes; hypercalls read the"
    " entries under the second kernel.",
    quirk=KEXEC_KEEPS,
)

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small-kdump")
PE = b.pes(TOPOLOGY, "r03")[0]
HIGH, START = PE.liobn | 1, window.SECOND_START
SIZE = 4 * PE.phb.window_size
PAGES, LOW = 16, 0x40000
LAST = START + SIZE - PAGES * b.PAGE
"""Bus address of the last pages of the 64-bit window."""
PLACES = [(PE.liobn, LOW), (HIGH, START), (HIGH, LAST), (HIGH, START + SIZE - b.PAGE)]

BEFORE = [
    *b.bind(PE),
    *b.buffer("b", 3 * PAGES, 1),
    *b.open_container(PE, b.SPAPR_TCE_V2),
    *b.ask(PE, "SPAPR_REGISTER_MEMORY", vaddr=Page("b"), size=3 * PAGES * b.PAGE),
    *b.tag(Page("b"), PAGES, PE.liobn, LOW, 1),
    *b.map_dma(PE, Page("b"), LOW, PAGES, 3),
    *b.ask(PE, "SPAPR_TCE_CREATE", page_shift=12, window_size=SIZE, levels=1),
    *b.tag(Page("b", PAGES), PAGES, HIGH, START, 2),
    *b.map_dma(PE, Page("b", PAGES), START, PAGES, 3),
    *b.tag(Page("b", 2 * PAGES), PAGES, HIGH, LAST, 3),
    *b.map_dma(PE, Page("b", 2 * PAGES), LAST, PAGES, 3),
    *b.checkpoint("R03: before", stream=True),
]
AFTER = [
    HcallBatch(calls=[Call("H_GET_TCE", [liobn, ioba]) for liobn, ioba in PLACES], expect=0),
    *b.checkpoint("R03: after", stream=True),
]


def program(event):
    return Program(name="r03", topology=TOPOLOGY, ops=[*BEFORE, event, *AFTER])


def test_by_kexec_a_large_window_is_cleared_up_to_its_end_and_the_default_one_is_a_declared_defect(judged):
    verdict = judged(program(Kexec(expect="ok")))
    assert ([each.message for each in verdict.findings], verdict.could_not) == ([], [])
    assert verdict.evidence.quirks[KEXEC_KEEPS]


@pytest.mark.night
def test_without_the_declaration_each_entry_that_stays_is_named_with_its_owner(judged):
    verdict = judged(program(Kexec(expect="ok")), {KEXEC_KEEPS})
    outliving = [each for each in verdict.findings if each.law == "outliving"]
    named = {(each.liobn, each.ioba) for each in outliving}
    assert named == {(PE.liobn, LOW + number * b.PAGE) for number in range(PAGES)}
    assert all(f"container {PE.container} of the agent" in each.message for each in outliving)


@pytest.mark.night
def test_a_crash_kernel_leaves_every_entry_of_every_window(judged):
    verdict = judged(program(Crash(expect="ok")))
    assert ([each.message for each in verdict.findings], verdict.could_not) == ([], [])
    assert verdict.evidence.tags >= 6 * PAGES, "the pages of before are still proven by their tags"
