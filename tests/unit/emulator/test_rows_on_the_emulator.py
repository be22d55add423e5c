"""Every row on the emulator: what it gives is the literal, with all known defects and without."""

import pytest

import rowkit
from rows import hcalls
from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.run.loop import perform_program

ROWS = [pytest.param(name, row, id=f"{name}: {row.name}") for name, rows in rowkit.FILES.items() for row in rows]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_kernel_with_all_known_defects_gives_the_literal(name, row):
    quirks = rowkit.NONE if name == "seed2013" else rowkit.ALL
    lived = rowkit.on_emulator(row, rowkit.PROFILE[name], quirks)
    assert rowkit.disagreements(row, lived) == []


@pytest.mark.parametrize(("name", "row"), [each for each in ROWS if each.values[0] != "seed2013"])
def test_a_kernel_without_defects_does_what_is_right(name, row):
    row = rowkit.without_defects(row)
    lived = rowkit.on_emulator(row, rowkit.PROFILE[name], rowkit.NONE)
    assert rowkit.disagreements(row, lived) == []


@pytest.mark.parametrize(
    ("name", "quirks"),
    [
        ("seed2013", rowkit.NONE),
        *((name, quirks) for name in ("linux-v1", "core") for quirks in (rowkit.ALL, rowkit.NONE)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} quirks",
)
def test_no_row_leaves_anything_to_the_next(name, quirks):
    """The laws judge what rows that share a machine do, as they will on a guest."""
    for rows in rowkit.batches([row for row in rowkit.FILES[name] if row.ends == "clean" and not row.given]):
        made = rowkit.program(rows)
        session = EmulatorSession(made.topology, profile_name=rowkit.PROFILE[name], quirks=quirks)
        # With defects, entries are lost: a reference says which.
        judge = Judge(made, session.facts, references=EmulatorReferences(made.topology, session.facts))
        done = perform_program(made, session, judge)
        # The seed refunds whoever is current: its charges are literals of its rows.
        told = {"outcome", "charges"} if name == "seed2013" else {"outcome"}
        wrong = [each for each in judge.verdict(done).findings if each.law not in told]
        assert [each.message for each in wrong] == []
        assert done.ending is None


@pytest.mark.parametrize("row", hcalls.ROWS, ids=lambda row: row.name)
def test_a_hypercall_gives_the_literal(row):
    assert rowkit.of_hypercall(row) == []
