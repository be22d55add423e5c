"""The scenario `hcalls`: which cases it has, that each literal is right, and the table that it leaves."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import pytest
from click.testing import CliRunner
from msgspec import structs

from tcelab import scenarios
from tcelab.cli import cli
from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.errors import UsageError
from tcelab.judge import Judge
from tcelab.papr.hcallrules import PAPR_DIFFERENCES
from tcelab.program import Call, Checkpoint, Hcall, HcallBatch, from_json
from tcelab.program.topology import Device, Phb, Topology, topology
from tcelab.program.validate import validate
from tcelab.report import conformance_lines, hypercall_rows
from tcelab.run.loop import perform_program
from tcelab.scenarios.hcallcases import PREFIX, cases

EACH = ("H_PUT_TCE", "H_GET_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT")
MANY = ("H_STUFF_TCE", "H_PUT_TCE_INDIRECT")
WHERE = ("two-small", "one-pe", "high-window", "four-pe")
SMALL = topology("two-small")
EVERY = cases(SMALL)
NAMES = {hypercall: [case.name for case in EVERY if case.hypercall == hypercall] for hypercall in EACH}
TOP = (1 << 64) - 1


def lived(session, made):
    judge = Judge(made, session.facts, references=EmulatorReferences(made.topology, session.facts))
    done = perform_program(made, session, judge)
    assert done.ending is None
    verdict = judge.verdict(done)
    return hypercall_rows(done, verdict), verdict


@cache
def program(where=SMALL, seed=1):
    return scenarios.build("hcalls", where, seed)


@cache
def honest(name):
    where = topology(name)
    return lived(EmulatorSession(where), program(where, 3))


@pytest.fixture
def small():
    return honest("two-small")


# -- the cases


@pytest.mark.parametrize("name", WHERE)
def test_no_two_cases_are_called_the_same(name):
    labels = [case.label for case in cases(topology(name))]
    assert len(set(labels)) == len(labels) > 250


@pytest.mark.parametrize("name", WHERE)
def test_its_program_is_whole_and_the_same_for_a_seed(name):
    made = scenarios.build("hcalls", topology(name), 7)
    validate(made)
    assert from_json(made.to_json(), "file") == made == scenarios.build("hcalls", topology(name), 7)
    labels = [op.label for op in made.ops if isinstance(op, Checkpoint)]
    assert [case.label for case in cases(topology(name))] == [each for each in labels if each.count(":") > 1]


def calls(hypercall, **how):
    """Its cases as they are sent, without those of several."""
    found = [case for case in EVERY if case.hypercall == hypercall and len(case.calls) == 1]
    return [(case, case.calls[0]) for case in found if all(getattr(case, name) == it for name, it in how.items())]


@pytest.mark.parametrize("hypercall", EACH)
def test_every_liobn_that_exists_and_several_that_do_not_are_named(hypercall):
    given = {call.args[0]: case.expected for case, call in calls(hypercall) if case.name.startswith("LIOBN")}
    active = {0x80000000, 0x80000100, 0x80000200, 0x80001E00}
    assert {liobn for liobn, expected in given.items() if expected == (0,)} == active
    inactive = {liobn | 1 for liobn in active}
    others = {0, 0x71000000, 0x80000300, 0xFFFFFFFF, 0x180000100, TOP - 1}
    assert given.keys() - active == inactive | others
    assert all(given[liobn] == (-4,) for liobn in inactive | others)


@pytest.mark.parametrize("hypercall", EACH)
def test_places_in_and_outside_the_window_are_named(hypercall):
    given = {call.args[1] for _, call in calls(hypercall)}
    assert {0x100000 + plus for plus in (0, 1, 0x800, 0xFFF)} < given
    assert {0, 0xFFF000, 0xFFFFFF, 0x1000000, 0x2000000, TOP, TOP - 4095} < given


@pytest.mark.parametrize("hypercall", MANY)
def test_every_batch_size_is_there(hypercall):
    given = {call.args[3]: case.expected for case, call in calls(hypercall, problem_state=False, before=())}
    assert set(range(513)) & given.keys() >= {0, *range(1, 33), 511, 512}
    assert {513, TOP} < given.keys()
    refused = {513, TOP} if hypercall == "H_PUT_TCE_INDIRECT" else {4097, TOP}
    assert all(given[npages] == (-4,) for npages in refused)
    assert hypercall != "H_STUFF_TCE" or given[513] == given[4096] == (0,)


@pytest.mark.parametrize("hypercall", MANY)
def test_batches_over_the_windows_end_leave_what_lies_inside(hypercall):
    over = [case for case, _ in calls(hypercall) if "inside" in case.name]
    assert len(over) == 9
    assert {case.expected for case in over} == {(-4,)}
    assert all(str(case.written) == case.name.split()[2] for case in over)


@pytest.mark.parametrize("hypercall", [each for each in EACH if each != "H_GET_TCE"])
def test_tces_of_every_kind_are_stored(hypercall):
    names = " | ".join(NAMES[hypercall])
    for word in ("no permissions", "with read |", "with write |", "read and write", "reserved", "outside RAM", "TCE 0"):
        assert word in names


def test_lists_begin_within_pages_outside_ram_and_where_they_should():
    given = [(call.args[2], case.expected) for case, call in calls("H_PUT_TCE_INDIRECT", problem_state=False)]
    numbers = dict(each for each in given if isinstance(each[0], int))
    assert {at for at, expected in numbers.items() if expected == (-4,) and at} == {1, 8, 0x800, 0xFF8, (1 << 45) + 8}
    assert {at for at, expected in numbers.items() if at > 4096 and expected == (0,)} == {1 << 45, TOP - 4095}


@pytest.mark.parametrize("hypercall", EACH)
def test_a_process_asks_for_each_right_and_wrong(hypercall):
    asked = calls(hypercall, problem_state=True)
    assert {case.expected for case, _ in asked} == {(-3,)}
    assert len(asked) == 2


def test_each_difference_from_papr_and_kvm_is_shown():
    shown = {case.differs for case in EVERY if case.differs}
    assert shown == {each.case for each in PAPR_DIFFERENCES}


def test_a_window_that_is_too_small_is_told():
    tiny = Topology("tiny", (Phb(1, (Device("pe1", 1),), 1 << 20),))
    with pytest.raises(UsageError, match="hcalls needs a PE whose window has at least 2048 entries"):
        scenarios.build("hcalls", tiny, 1)


# -- what comes of them


@pytest.mark.parametrize("name", WHERE)
def test_every_literal_is_what_the_emulator_gives(name):
    rows, verdict = honest(name)
    assert [row for row in rows if row.seen != row.expected] == []
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert len(rows) == len(cases(topology(name)))


def test_verdicts_are_apart_where_qemu_is_not_as_papr_or_kvm_has_it(small):
    rows, _ = small
    by_case = {row.case: row for row in rows if row.hypercall == "H_STUFF_TCE"}
    assert by_case["17 pages"].verdict == "ok"
    assert by_case["513 pages"].verdict == "laxer"
    assert by_case["0 pages"].verdict == "otherwise"
    assert {row.verdict for row in rows} == {"ok", "laxer", "otherwise"}
    assert {row.verdict for row in rows if row.difference} == {"laxer", "otherwise"}


def test_the_table_has_a_line_for_each_case_but_sizes_that_are_right_share_one(small):
    rows, _ = small
    lines = list(conformance_lines(rows))
    table = lines[: lines.index("")]
    assert table[0].split() == ["hypercall", "case", "expected", "seen", "verdict", "source"]
    sizes = [line for line in table if "1..32, 511..512 pages" in line]
    assert len(sizes) == 2
    # Two lines for 34 sizes each, and one for the two that are over a list's.
    assert len(table) == 1 + len(rows) - 2 * 33 - 1
    assert lines[-1] == f"{len(rows)} cases: 218 ok, 56 QEMU is laxer, 3 QEMU differs, 0 WRONG"
    apart = lines[lines.index("") + 1 : -1]
    assert len(apart) == 1 + len(PAPR_DIFFERENCES)
    assert not any("[0 cases" in line for line in apart)


class Lying(EmulatorSession):
    """Does something behind everybody's back after the first hypercall that `when` says, or after each."""

    def __init__(self, when, lie, *, always=False):
        super().__init__(SMALL, seed=2)
        self._when, self._lie, self._always = when, lie, always

    def perform(self, ops):
        out = []
        for op in ops:
            (outcome,) = super().perform([op])
            if self._when is not None and isinstance(op, Hcall) and self._when(op):
                self._when = self._when if self._always else None
                outcome = self._lie(self, outcome) or outcome
            out.append(outcome)
        return out


def words(hypercall, npages):
    return lambda op: op.call.opcode == hypercall and op.call.args[3:] == [npages]


def lose(session, _outcome):
    table = session.machine.pes[1].table
    table.put(table.live()[0].tolist()[2], 0)


def succeed(_session, outcome):
    return structs.replace(outcome, value=0)


def another(_session, outcome):
    registers = [outcome.fields["registers"][0] ^ 0x1000, *outcome.fields["registers"][1:]]
    return structs.replace(outcome, fields={**outcome.fields, "registers": registers})


def weaken(session, _outcome):
    table = session.machine.pes[1].table
    number = table.live()[0].tolist()[2]
    table.put(number, table.get(number) ^ 1)


@pytest.mark.parametrize(
    ("when", "lie", "case", "seen"),
    [
        (words("H_STUFF_TCE", 18), weaken, "18 pages", "H_SUCCESS, 18 written; 2 findings: difference, table"),
        (words("H_STUFF_TCE", 17), lose, "17 pages", "H_SUCCESS, 16 written; 2 findings: difference, table"),
        (
            words("H_PUT_TCE_INDIRECT", 513),
            succeed,
            "513 pages",
            "H_SUCCESS, 0 written; 514 findings: difference, outcome, table",
        ),
        (
            lambda op: op.call == Call("H_GET_TCE", [0x80000100, 0x100001]),
            another,
            "IOBA 0x1 bytes into a page: rounded down",
            "H_SUCCESS, r4 0x200005679001; 2 findings: difference, hypercalls",
        ),
    ],
)
def test_a_lie_is_wrong_in_the_row_of_its_case_alone(when, lie, case, seen):
    rows, verdict = lived(Lying(when, lie), program())
    wrong = [row for row in rows if row.verdict == "wrong"]
    assert [(row.case, row.seen) for row in wrong] == [(case, seen)]
    assert wrong[0].findings > 0
    assert verdict.exit_code == 1


class Weakening(EmulatorSession):
    """The entries of every H_STUFF_TCE of these numbers of pages have another permission than they were given."""

    def __init__(self, *npages):
        super().__init__(SMALL, seed=2)
        self._npages = npages

    def perform(self, ops):
        out = super().perform(ops)
        for op in ops:
            if isinstance(op, Hcall) and op.call.opcode == "H_STUFF_TCE" and op.call.args[3] in self._npages:
                table = next(pe.table for pe in self.machine.pes.values() if pe.phb.liobn == op.call.args[0])
                first = table.index(op.call.args[1])
                for number in range(first, min(first + op.call.args[3], table.entries)):
                    table.put(number, table.get(number) ^ 1)
        return out


def test_a_row_is_wrong_however_many_findings_there_were_before_it():
    """4,096 of them are more than the verdict keeps, and than the judge tells of one table: it counts them all."""
    rows, verdict = lived(Weakening(4096, 512), program())
    wrong = [row for row in rows if row.verdict == "wrong"]
    assert [row.case for row in wrong][:3] == ["512 pages", "4096 pages", "512 pages, 1 inside: those stay written"]
    assert len(wrong) == 6
    assert wrong[1].seen == "H_SUCCESS, 4096 written; 8192 findings: difference, table"
    assert not any(row.seen == row.expected for row in wrong)
    assert len(verdict.findings) == 200
    assert sum(row.findings for row in wrong) == len(verdict.findings) + verdict.more


def test_what_is_wrong_again_is_wrong_in_each_row():
    """The same entry has the same wrong value: what stood in between was right."""
    session = Lying(lambda op: op.call.opcode == "H_STUFF_TCE" and op.call.args[3] in (18, 19, 20), weaken, always=True)
    rows, _ = lived(session, program())
    wrong = [row for row in rows if row.verdict == "wrong"]
    assert [row.case for row in wrong] == ["18 pages", "19 pages", "20 pages"]
    assert all(row.seen.endswith("table") and row.seen != row.expected for row in wrong)


def test_a_run_that_ended_early_has_cases_that_were_not_done():
    session = EmulatorSession(SMALL)
    judge = Judge(program(), session.facts)
    done = perform_program(program(), session, judge)
    done.steps = done.steps[:300]
    rows = hypercall_rows(done, judge.verdict(done))
    assert [row.verdict for row in rows].count("not done") > 100
    assert list(conformance_lines(rows))[-1].endswith("not done")


def test_where_nobody_sees_the_tables_the_statuses_alone_are_told():
    session = EmulatorSession(SMALL)
    session.facts = dataclasses.replace(session.facts, views=())
    rows, _ = lived(session, program())
    assert {row.verdict for row in rows} <= {"ok", "laxer", "otherwise"}
    assert not any("written" in row.expected + row.seen for row in rows)


def test_another_program_has_no_such_table():
    other = scenarios.build("flow", SMALL, 1)
    session = EmulatorSession(SMALL)
    judge = Judge(other, session.facts)
    done = perform_program(other, session, judge)
    assert hypercall_rows(done, judge.verdict(done)) == []
    assert list(conformance_lines([])) == []


def test_the_command_prints_the_table_and_leaves_it_as_text_and_data(tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["run", "hcalls", "--platform", "emulator", "--seed", "1", "--out", str(out)])
    assert done.exit_code == 0
    text = (out / "hcalls.txt").read_text()
    assert text in done.output
    assert "277 cases: 218 ok" in text
    rows = json.loads((out / "hcalls.json").read_bytes())
    assert len(rows) == 277
    assert rows[0].keys() >= {"hypercall", "case", "expected", "seen", "verdict", "source"}
    result = json.loads((out / "result.json").read_bytes())
    assert result["hypercalls"] == rows
    assert result["program"]["topology"] == "two-small"
    assert result["artefacts"]["hypercalls"] == "hcalls.txt"


def test_a_batch_asks_for_what_its_cases_have():
    several = [case for case in EVERY if len(case.calls) > 1]
    assert {case.hypercall for case in several} == {"several"}
    ops = program().ops
    looks = {op.label: number for number, op in enumerate(ops) if isinstance(op, Checkpoint)}
    for case in several:
        op = ops[looks[case.label] - 1]
        assert isinstance(op, HcallBatch)
        assert tuple(op.calls) == case.calls
        assert case.label.startswith(PREFIX)
