"""The law of handles: each way in which a handle, its entry or a mask can be wrong is found, and named."""

import pytest
from dma_story import (
    ALLOC,
    DIRECT,
    LIOBN,
    LIST,
    MASK,
    NEIGHBOUR,
    READ,
    UNMAP,
    WHERE,
    Lying,
    handle_of,
    story,
    told,
)

from tcelab import scenarios
from tcelab.emulator import EmulatorSession
from tcelab.judge import Judge
from tcelab.program import Checkpoint, DmaBind, DmaMap, DmaMask, DmaMove, Page, Program
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome


def judged(program, **lie):
    session = Lying(EmulatorSession(program.topology), **lie)
    judge = Judge(program, session.facts)
    record = perform_program(program, session, judge)
    assert record.ending is None, record.ending.error
    return judge.verdict(record), session


def of_law(verdict):
    return [each for each in verdict.findings if each.law == "handles"]


@pytest.mark.parametrize("bits", [32, 40, 64])
def test_what_is_right_passes(bits):
    verdict, _ = judged(story(bits))
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert verdict.evidence.laws["handles"].judged > 10
    assert verdict.evidence.tags >= 3


@pytest.mark.parametrize(("where", "seed"), [("dma-api", 2), ("dma-api-default", 1)])
def test_the_scenario_passes(where, seed):
    program = scenarios.build("dma-api", topology(where), seed)
    session = EmulatorSession(program.topology)
    judge = Judge(program, session.facts)
    verdict = judge.verdict(perform_program(program, session, judge))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")
    # An allocation was refused, and left nothing; transfers were refused where a direction forbids them.
    assert verdict.evidence.dma.refused > 0


def moved(by):
    """The first handle is told as another one."""

    def change(outcome):
        (handle, size), *more = outcome.fields["segments"]
        return told(outcome, segments=[[handle + by, size], *more])

    return change


def shorter(outcome):
    (handle, size), *more = outcome.fields["segments"]
    return told(outcome, segments=[[handle, size - 1], *more])


LIES = {
    "a page off": (READ, moved(4096 * 64), "no entry at its handle"),
    "the page's start": (READ, moved(-100), "the entry at its handle leads elsewhere"),
    "another's entry": (READ, moved(-4096), "has an entry of mapping 'own'"),
    "above the mask": (READ, moved(1 << 40), "is above its mask"),
    "in no window": (READ, moved(1 << 39), "has a handle in no window"),
    "a byte less": (LIST, shorter, "its segments have 4197 bytes"),
    "coherent, a page off": (ALLOC, moved(4096 * 64), "no entry at its handle"),
    "the mask is another": (MASK, lambda outcome: told(outcome, streaming=39), "the streaming mask is of 39 bits"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_handle_that_is_told_wrong_is_named(lie):
    number, change, said = LIES[lie]
    verdict, _ = judged(story(), number=number, change=change)
    found = [each for each in of_law(verdict) if said in each.message]
    assert found, [each.message for each in verdict.findings]
    assert found[0].operation.startswith(f"#{number} ")
    assert verdict.result == "finding"


def bits(number):
    return lambda _outcomes: number


TURNS = {
    "permissions": (READ, LIOBN, handle_of(READ), bits(2), "gives other permissions"),
    "of a list": (LIST, LIOBN, handle_of(LIST, 1), bits(2), "gives other permissions"),
    "the page": (LIST, LIOBN, handle_of(LIST), bits(0x1000), "leads elsewhere"),
    "of coherent memory": (ALLOC, LIOBN, handle_of(ALLOC), bits(1), "gives other permissions"),
    "gone": (LIST, LIOBN, handle_of(READ), lambda outcomes: outcomes[READ].frames[0] | 1, "no entry at its handle"),
    "left": (UNMAP, LIOBN, handle_of(READ), lambda outcomes: outcomes[READ].frames[0] | 1, "survives mapping 'r'"),
}


@pytest.mark.parametrize("turn", TURNS)
def test_an_entry_that_is_wrong_is_named_once(turn):
    number, liobn, where, which, said = TURNS[turn]
    verdict, session = judged(story(), number=number, turn=(liobn, where, which))
    found = of_law(verdict)
    assert [(each.liobn, each.ioba) for each in found] == [(liobn, session.turned)], [
        each.message for each in verdict.findings
    ]
    assert said in found[0].message
    # The law of tables does not tell it again; what a device then did is another matter.
    assert [each for each in verdict.findings if each.law == "table" and each.step == found[0].step] == []


def test_an_entry_that_none_of_its_mappings_has_is_the_law_of_tables_affair():
    where, which = bits(0x5000), bits(0x5003)
    verdict, _ = judged(story(), number=UNMAP, turn=(NEIGHBOUR, where, which))
    assert [(each.law, each.liobn, each.ioba) for each in verdict.findings] == [("table", NEIGHBOUR, 0x5000)]


def test_where_all_ram_is_mapped_a_handle_is_its_real_address_and_a_wrong_entry_is_named():
    verdict, session = judged(story(64), number=READ, turn=(DIRECT, handle_of(READ), bits(2)))
    assert session.outcomes[READ].fields["segments"] == [[(1 << 59) + session.outcomes[READ].frames[0] + 100, 500]]
    assert {(each.law, each.liobn) for each in verdict.findings} >= {("handles", DIRECT)}
    off, _ = judged(story(64), number=READ, change=moved(4096))
    assert "leads elsewhere" in of_law(off)[0].message


def program_of(*ops):
    return Program(name="t", topology=WHERE, ops=[*story().ops[:2], *ops, Checkpoint(stream=True)])


def test_the_same_mask_has_the_same_answer():
    """The first of three has a window made, so the second asks something else; the third asks the same again."""
    masks = [DmaMask(device="pe2", bits=64)] * 3
    program = program_of(DmaBind(device="pe2"), *masks)
    honest, _ = judged(program)
    assert honest.findings == []
    verdict, _ = judged(program, number=5, change=lambda outcome: told(outcome, direct=False))
    (found,) = of_law(verdict)
    assert "the mask of 64 bits is answered with direct False, and was with direct True before" in found.message


def test_what_an_iommu_testdev_says_of_its_transfer_is_held_against_the_tables():
    program = program_of(
        DmaBind(device="test1"),
        DmaMap(device="test1", name="r", page=Page("b", 1, 100), size=500, direction="to-device"),
        DmaMap(device="test1", name="w", page=Page("b", 2, 7), size=64, direction="from-device"),
        Checkpoint(),
        DmaMove(name="w", size=64, to_memory=True, expect="passed"),
        DmaMove(name="r", size=64, to_memory=True, expect="refused"),
    )
    honest, _ = judged(program)
    assert (honest.findings, honest.could_not) == ([], [])
    for number, lie, said in ((6, True, "refused"), (7, False, "passed")):
        verdict, _ = judged(program, number=number, change=lambda outcome, lie=lie: told(outcome, refused=lie))
        (found,) = of_law(verdict)
        assert f"the device says that its transfer {said}" in found.message
        assert found.operation.startswith(f"#{number} ")


def test_a_transfer_by_a_mapping_that_was_refused_moves_nothing_and_is_judged():
    """There is no such mapping, nor a third segment of one that is there, and the device is left alone."""
    none, beyond = (DmaMove(name=name, size=8, segment=at, to_memory=True) for name, at in (("n", 0), ("l", 2)))
    lie = {"number": 13, "change": lambda _: Outcome(errno="ENOMEM")}
    program = story(32, DmaMap(device="pe1", name="n", page=Page("b"), size=8), none, beyond)
    session = Lying(EmulatorSession(program.topology), **lie)
    judge = Judge(program, session.facts)
    assert isinstance(program.ops[13], DmaMap)
    session.perform = refusing(session, none, beyond)
    verdict = judge.verdict(perform_program(program, session, judge))
    assert not any("what did it move" in each for each in verdict.could_not)


def refusing(session, *refused):
    perform = session.perform

    def performed(ops):
        return [Outcome(errno="ENOENT") if op in refused else perform([op])[0] for op in ops]

    return performed
