"""A kernel whose DMA API does wrong is found out by the law of handles: each fault, of a module that stands between the
API and one table, in a guest of its own.
"""

import pytest
from dmafaults import MODULE, dma_faults, python, unpacked

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import Buffer, Checkpoint, DmaBind, DmaMap, DmaMapSg, DmaUnmap, Page, Part, Program, Tag
from tcelab.program.topology import topology
from tcelab.qemu.typist import Typist
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest

WHERE = topology("dma-api-default")
LIOBN = 0x80000100
LONGEST = 300
"""Seconds that anything typed may take."""
HUGE = 512
"""IOMMU pages of the large mapping."""

READ, WRITE, LARGE, LIST, ONE, NEXT = 4, 5, 6, 7, 8, 9
"""Numbers of the operations that map."""


def program():
    """A page for reading, one for writing, 512 pages at once, a list of two parts, and twice 16 pages, whose entries
    are neighbours; then all of it is unmapped, the first of these before the others.
    """
    ops = [
        Buffer(name="b", pages=4, seed=1),
        Buffer(name="large", pages=HUGE, huge=True),
        Tag(buffer="b", count=4, liobn=LIOBN, ioba=0, sequence=1),
        DmaBind(device="pe1", expect="ok"),
        DmaMap(device="pe1", name="r", page=Page("b", 0, 9), size=80, direction="to-device", expect="ok"),
        DmaMap(device="pe1", name="w", page=Page("b", 1, 9), size=80, direction="from-device", expect="ok"),
        DmaMap(device="pe1", name="large", page=Page("large"), size=HUGE << 12, expect="ok"),
        DmaMapSg(device="pe1", name="l", parts=[Part(Page("b", 2, 7), 80), Part(Page("b", 3), 99)], expect="ok"),
        DmaMap(device="pe1", name="one", page=Page("large"), size=16 << 12, expect="ok"),
        DmaMap(device="pe1", name="next", page=Page("large", 16), size=16 << 12, expect="ok"),
        Checkpoint(label="mapped", stream=True),
        DmaUnmap(name="one", expect="ok"),
        Checkpoint(label="one unmapped", stream=True),
        *(DmaUnmap(name=name, expect="ok") for name in ("next", "large", "r", "w", "l")),
        Checkpoint(label="unmapped", stream=True),
    ]
    return Program(name="faults", topology=WHERE, ops=ops)


OTHER = "gives other permissions"
FAULTS = {
    "none": {},
    "both-ways": {READ: OTHER},
    "read-only": dict.fromkeys((WRITE, LARGE, LIST, ONE, NEXT), OTHER),
    "swapped": {READ: OTHER, WRITE: OTHER},
    "part-off": dict.fromkeys((WRITE, LIST, ONE), "leads elsewhere"),
    "one-short": {LARGE: "no entry at its handle"},
    "one-left": {
        11: "an entry survives mapping 'one', which operation 11 ended",
        13: "an entry survives mapping 'next', which operation 13 ended",
        14: "an entry survives mapping 'large', which operation 14 ended",
    },
    "one-more": {11: "of mapping 'next' (operation 9): no entry at its handle"},
}
"""Of each fault, the operations that findings name, and what they say. `none` is the module without a fault."""


@pytest.fixture(scope="module")
def module():
    return python(unpacked(dma_faults()))


@pytest.fixture
def fresh(_tcelab_guests):
    return lambda: _tcelab_guests.fresh(WHERE.name, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_dma_api_is_named(fresh, module, fault):
    with fresh() as session:
        ended = Typist(session, LONGEST).run(f"{module} && insmod {MODULE} slot=1 fault={fault}", LONGEST)
        assert ended is not None
        assert ended.status == 0, ended.output
        judge = Judge(program(), session.facts, references=second_opinion(WHERE, session.facts))
        verdict = judge.verdict(perform_program(program(), session, judge))
    found = [each for each in verdict.findings if each.law == "handles"]
    said = {}
    for each in found:
        said.setdefault(int(each.operation[1:].split()[0]), each.message)
        assert each.liobn == LIOBN
    assert said.keys() == FAULTS[fault].keys(), [each.message for each in verdict.findings]
    for number, words in FAULTS[fault].items():
        assert words in said[number]
    assert verdict.result == ("finding" if FAULTS[fault] else "pass"), verdict.could_not
