"""Raw hypercalls on a real guest, through its module and from a process: every case of the scenario, every row, what a
device does by them, and lies behind the judge's back, each of which must be found where it was told.
"""

import pytest
from msgspec import structs

import hcallkit
import unpinned
from hcallkit import ONE, SMALL, TWO, begin, put, stuff, whole
from rows import hcalls
from tcelab import scenarios
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import Call, Checkpoint, Flip, Hcall, Spawn, Tce
from tcelab.report import conformance_lines, hypercall_rows
from tcelab.run.loop import perform_program
from tcelab.scenarios.hcallcases import cases

pytestmark = [pytest.mark.guest, pytest.mark.tcelab(topology="two-small")]
ODD = 0xFFFF_0000_0000_0FFC
LAST = 0xFFF000


class Behind:
    """A session that does something more after the hypercall of that number, and says nothing of it."""

    def __init__(self, session, at=-1, hidden=(), lie=None):
        self._session, self._at, self._hidden, self._lie = session, at, list(hidden), lie
        self._count = -1

    def __getattr__(self, name):
        return getattr(self._session, name)

    def perform(self, ops):
        out = []
        for op in ops:
            (outcome,) = self._session.perform([op])
            self._count += isinstance(op, Hcall)
            if isinstance(op, Hcall) and self._count == self._at:
                if self._hidden:
                    assert all(each.value == 0 for each in self._session.perform(self._hidden))
                outcome = self._lie(outcome) if self._lie else outcome
            out.append(outcome)
        return out


def judged(session, program, **lie):
    judge = Judge(program, session.facts, references=second_opinion(SMALL, session.facts))
    done = perform_program(program, Behind(session, **lie), judge)
    assert done.ending is None, done.ending.error.report()
    return done, judge.verdict(done)


def test_every_case_of_the_scenario_gives_its_literal_on_this_qemu(session, record_property):
    done, verdict = judged(session, scenarios.build("hcalls", SMALL, 1))
    rows = hypercall_rows(done, verdict)
    record_property("hypercalls", list(conformance_lines(rows))[-1])
    assert [row for row in rows if row.seen != row.expected or row.findings] == []
    assert len(rows) == len(cases(SMALL))
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert verdict.evidence.laws["hypercalls"].judged > 500


@pytest.fixture(scope="module")
def by_row(_tcelab_guests):
    program = hcallkit.rows_program()
    with _tcelab_guests.fresh("two-small", 0) as session:
        done, verdict = judged(session, program)
    looks = {step.op.label: step.number for step in done.steps if isinstance(step.op, Checkpoint)}
    return done.steps, looks, verdict


@pytest.mark.parametrize("row", hcallkit.SHOWN, ids=lambda row: row.name)
def test_a_row_gives_its_literal_on_a_guest(by_row, row):
    steps, looks, verdict = by_row
    at = looks[row.name]
    assert hcallkit.disagreements(row, steps[: at + 1]) == []
    assert [each.message for each in verdict.findings] == []


def test_all_rows_are_shown_but_those_that_the_module_does_not_make():
    assert {row.guest for row in hcalls.ROWS} == {True, hcalls.NO_OTHER}
    assert len(hcallkit.SHOWN) == len(hcalls.ROWS) - 1


def test_a_device_does_what_the_entries_of_hypercalls_let_it(session):
    _, verdict = judged(session, whole(*begin(), *hcallkit.device_story()))
    assert [each.message for each in verdict.findings] == []
    assert (verdict.evidence.dma.allowed, verdict.evidence.dma.refused) == (2, 3)
    assert verdict.evidence.dma.control == ["pe1"]


def test_reads_of_a_list_outside_ram_are_refused_and_no_others(session):
    ops = []
    for liobn, ioba, npages in hcallkit.UNREADABLE:
        ops.append(Hcall(call=Call("H_PUT_TCE_INDIRECT", [liobn, ioba, hcallkit.NO_RAM, npages])))
        ops.append(Checkpoint(label=f"LIOBN {liobn:#x}, IOBA {ioba:#x}, {npages} pages"))
    done, verdict = judged(session, whole(*ops))
    assert [each.message for each in verdict.findings] == []
    told = [sum(each.size for each in step.snapshot.refusals) for step in done.steps if step.snapshot is not None]
    assert told == [56, 16, 8, 8, 8]


def test_the_first_map_makes_the_window_anew(session):
    _, verdict = judged(session, whole(*begin(), *hcallkit.window_anew()))
    assert [each.message for each in verdict.findings] == []


def test_vfio_and_hypercalls_meet_in_one_table_as_laws_and_emulator_say(session):
    """Whose pins go, whose stay, and what is left of a window: all stories, one after the other."""
    _, verdict = judged(session, unpinned.program(*unpinned.STORIES.values()))
    assert [each.message for each in verdict.findings] == []
    assert verdict.could_not == []


def test_the_module_is_roots_alone(session):
    ops = [
        Spawn(process="user", uid=65534),
        Spawn(process="root"),
        put(ONE, 0, ODD, by="user", expect="EACCES"),
        put(ONE, 0, ODD, by="user", problem_state=True, expect=-3),
        put(ONE, 0x1000, ODD, by="root", expect=0),
        *begin(),
        put(ONE, 0x10000, Tce("m"), expect=0),
        Checkpoint(label="done"),
    ]
    _, verdict = judged(session, whole(*ops))
    assert [each.message for each in verdict.findings] == []


GET = Hcall(call=Call("H_GET_TCE", [ONE, 0x10000]))
OVER = stuff(ONE, LAST, ODD, 3)


def hidden(op):
    return {"hidden": [op]}


def registers(outcome):
    told = [outcome.fields["registers"][0] ^ 2, *outcome.fields["registers"][1:]]
    return structs.replace(outcome, fields={**outcome.fields, "registers": told})


LIES = {
    "an entry is lost": (stuff(ONE, 0x10000, ODD, 4), hidden(put(ONE, 0x12000, 0)), ("table", ONE, 0x12000)),
    "an entry too many": (stuff(ONE, 0x10000, ODD, 4), hidden(put(ONE, 0x14000, ODD)), ("table", ONE, 0x14000)),
    "another PE's table": (stuff(ONE, 0x10000, ODD, 4), hidden(put(TWO, 0x10000, ODD)), ("table", TWO, 0x10000)),
    "a rollback that must not be": (OVER, hidden(put(ONE, LAST, 0)), ("table", ONE, LAST)),
    "a failed hypercall that writes": (put(ONE, LAST + 0x1000, 3), hidden(put(ONE, 0, 3)), ("table", ONE, 0)),
    "a wrong register": (GET, {"lie": registers}, ("hypercalls", ONE, 0x10000)),
    "a success without a place": (
        put(ONE, LAST + 0x1000, 3),
        {"lie": lambda outcome: structs.replace(outcome, value=0)},
        ("hypercalls", ONE, LAST + 0x1000),
    ),
}


@pytest.mark.parametrize(("op", "lie", "where"), LIES.values(), ids=LIES)
def test_a_lie_is_found_where_it_was_told(session, op, lie, where):
    program = whole(*begin(), put(ONE, 0x20000, ODD), op, Checkpoint(label="end", stream=True))
    _, verdict = judged(session, program, at=1, **lie)
    laws = [(each.law, each.liobn, each.ioba) for each in verdict.findings]
    assert where in laws
    assert {law for law, _, _ in laws} <= {where[0], "difference"}
    assert verdict.exit_code == 1


def test_a_bit_that_flips_in_an_entry_of_a_hypercall_is_found(session):
    flip = Flip(liobn=ONE, ioba=0x11000, bit=40)
    _, verdict = judged(
        session, whole(*begin(), stuff(ONE, 0x10000, ODD, 2), flip, Checkpoint(label="end", stream=True))
    )
    assert ("table", ONE, 0x11000) in [(each.law, each.liobn, each.ioba) for each in verdict.findings]


def test_a_page_that_is_not_what_the_entry_says_is_found_by_its_tag(session):
    ops = [*begin(), put(ONE, 0x10000, Tce("m", 0)), put(ONE, 0x11000, Tce("m", 1)), Checkpoint(label="end")]
    done, verdict = judged(session, whole(*ops))
    assert verdict.findings == []
    assert verdict.evidence.tags == 2
    assert done.steps[-1].snapshot.pages
