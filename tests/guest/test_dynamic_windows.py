"""Windows that a guest makes and removes: the scenario passes, and every lie about a window is found.

The lies are told in QEMU itself: by its firmware's services, behind the guest's and the judge's back, or in its memory.
"""

import msgspec
import pytest

from tcelab import scenarios
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.papr import window
from tcelab.program import Checkpoint, Ddw, Flip, Page, Program
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small")
ONE, TWO = b.pes(TOPOLOGY, "lies")
LOW, HIGH = ONE.liobn, ONE.liobn | 1
UNIT = 1 << 16
PLACE = window.SECOND_START + 5 * UNIT


def story(*lies):
    """A window of 64 KiB pages with one of them mapped; then lies, looked at by every view."""
    huge, frames = b.buffer("huge", 512, 1)
    ops = [
        *b.vmlck(),
        *b.pins(),
        msgspec.structs.replace(huge, huge=True),
        frames,
        *b.bind(ONE),
        *b.open_container(ONE, b.SPAPR_TCE_V2),
        *b.ask(ONE, "SPAPR_REGISTER_MEMORY", vaddr=Page("huge"), size=512 * b.PAGE),
        *b.ask(ONE, "SPAPR_TCE_CREATE", page_shift=16, window_size=1 << 24, levels=1),
        *b.tag(Page("huge", 16), 16, HIGH, PLACE, 1),
        *b.ask(ONE, "MAP_DMA", flags=3, vaddr=Page("huge", 16), iova=PLACE, size=UNIT),
        *b.pins(),
        *b.vmlck(),
        *b.checkpoint("mapped", stream=True),
        *lies,
        *b.checkpoint("after the lie", stream=True),
    ]
    return Program(name="windows", topology=TOPOLOGY, ops=ops)


class Behind:
    """A session on which something is done that the program does not say, before its last checkpoint.

    :ivar plan: what, by the snapshot just before.
    """

    def __init__(self, session, plan):
        self._session, self._plan = session, plan

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        if isinstance(op, Checkpoint) and op.label == "after the lie":
            outcomes = [self._session.intervene(each, []) for each in self._plan(self._session.intervene(op, frames))]
            assert {each.errno for each in outcomes} == {""}
        return self._session.intervene(op, frames)


def judged(session, program):
    """By the laws alone: each of them has to find it without the emulator."""
    judge = Judge(program, session.facts)
    return judge.verdict(perform_program(program, session, judge))


@pytest.fixture
def fresh(_tcelab_guests):
    with _tcelab_guests.fresh(TOPOLOGY.name, 0) as session:
        yield session


def test_windows_are_made_used_and_removed_and_all_laws_hold(fresh):
    program = scenarios.build("windows", TOPOLOGY, 5)
    judge = Judge(program, fresh.facts, references=second_opinion(TOPOLOGY, fresh.facts))
    verdict = judge.verdict(perform_program(program, fresh, judge))
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert verdict.evidence.dma.reasons.keys() == {"permission", "no entry", "outside the window"}
    assert verdict.evidence.tags > 1000, "each 4 KiB of the larger pages are proven by their tags"
    assert verdict.evidence.steps == {"live": verdict.evidence.checkpoints, "stream": verdict.evidence.checkpoints}


GONE = Ddw(call="remove", device="pe1", liobn=HIGH)
WINDOWS = {
    "the window is missing": ([GONE], HIGH, ("has no table", "has the wrong size")),
    "the window has smaller pages": (
        [GONE, Ddw(call="create", device="pe1", page_shift=12, window_shift=20)],
        HIGH,
        ("has the wrong shape", "expected page shift 16, bus offset 0x800000000000000, seen page shift 12"),
    ),
    "the window has more pages": (
        [GONE, Ddw(call="create", device="pe1", page_shift=16, window_shift=28)],
        HIGH,
        ("expected 256 entries, seen 4096 entries",),
    ),
    "another PE has a window too many": (
        [Ddw(call="create", device="pe2", page_shift=21, window_shift=30)],
        TWO.liobn | 1,
        ("has a table: expected no table, seen 512 entries",),
    ),
    "the default window is gone": ([Ddw(call="remove", device="pe2", liobn=TWO.liobn)], TWO.liobn, ("has no table",)),
}


@pytest.mark.parametrize("lie", WINDOWS)
def test_a_window_that_firmware_changed_behind_the_guests_back_is_found_by_the_inventory(fresh, lie):
    ops, liobn, said = WINDOWS[lie]
    verdict = judged(Behind(fresh, lambda _: ops), story())
    assert {(each.law, each.liobn) for each in verdict.findings if each.law == "inventory"} == {("inventory", liobn)}
    told = "\n".join(each.message for each in verdict.findings)
    assert [each for each in said if each not in told] == []
    views = [each.view for each in verdict.findings if each.law == "inventory"]
    assert set(", ".join(views).split(", ")) == {"live", "stream"}, "each of them, in one finding or in its own"


ENTRIES = {
    "a permission too few": (HIGH, PLACE, 1, "wrong permissions"),
    "the page beside": (HIGH, PLACE, 16, "wrong page"),
    "an entry too many, above": (HIGH, PLACE + 9 * UNIT, 17, "no operation made"),
    "an entry too many, in the low window": (LOW, 5 * UNIT, 17, "no operation made"),
}


@pytest.mark.parametrize("lie", ENTRIES)
def test_a_flipped_bit_is_found_in_the_window_where_it_is(fresh, lie):
    liobn, ioba, bit, said = ENTRIES[lie]
    verdict = judged(fresh, story(Flip(liobn=liobn, ioba=ioba, bit=bit)))
    assert [(each.law, each.liobn, each.ioba, each.view) for each in verdict.findings] == [
        ("table", liobn, ioba, "live, stream")
    ]
    assert said in verdict.findings[0].message


def test_an_entry_in_the_wrong_window_is_missing_in_one_and_too_many_in_the_other(fresh):
    """Every bit of it is taken from where it is, and put where the low window has the same number."""

    def move(before):
        ((word,),) = {tuple(each.tce.tolist()) for each in before.tables if each.liobn == HIGH}
        places = (HIGH, PLACE), (LOW, 5 * b.PAGE)
        return [Flip(liobn=liobn, ioba=ioba, bit=i) for i in range(64) if word >> i & 1 for liobn, ioba in places]

    verdict = judged(Behind(fresh, move), story())
    assert [(each.law, each.liobn, each.ioba) for each in verdict.findings] == [
        ("table", LOW, 5 * b.PAGE),
        ("table", HIGH, PLACE),
    ]
