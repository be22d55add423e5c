"""Rows on a real kernel, judged three ways: guest against literal, guest against emulator, and by the laws.

Rows share a guest as far as they may; each is a test of its own.
"""

import pytest

import rowkit
from rows import hcalls

ROWS = [
    pytest.param(name, row, id=f"{name}: {row.name}")
    for name, rows in rowkit.FILES.items()
    for row in rowkit.for_guest(rows)
]
HOME = {
    (name, row.name): rowkit.home(name, number)
    for name, rows in rowkit.FILES.items()
    for number, batch in enumerate(rowkit.batches(rowkit.for_guest(rows)))
    for row in batch
}
"""Which recording a row is in."""


@pytest.fixture(scope="session")
def lived(recorded):
    """What came of a row, and of all rows that shared its guest."""
    done = {}

    def of(name, row):
        home = HOME[name, row.name]
        if home not in done:
            done[home] = taken_apart(recorded(home))
        return done[home][row.name]

    return of


def taken_apart(recording):
    """By row: what came of it, what was found in it, and how its guest ended."""
    record, rows = recording.run, recording.rows
    assert record.facts.quirks == rowkit.ALL
    assert record.facts.page_size == 4096, "the literals of rows are those of kernels with pages of 4 KiB"
    findings = {row.name: [] for row in rows}
    ends = []
    at = len(rowkit.PROLOGUE)
    for row in rows:
        at += len(row.ops) + 1
        ends.append((at, row.name))
    for finding in recording.verdict.findings:
        owner = next((name for end, name in ends if finding.step < end), rows[-1].name)
        findings[owner].append(f"{finding.law}: {finding.message}")
    ending = record.ending.error.report() if record.ending else ""
    return {
        row.name: (each, findings[row.name], ending) for row, each in zip(rows, rowkit.lives(rows, record), strict=True)
    }


@pytest.mark.guest
@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_real_kernel_gives_the_literal_and_what_the_emulator_gives(lived, name, row):
    each, findings, ending = lived(name, row)
    assert rowkit.disagreements(row, each) == [], ending
    assert findings == []


def test_how_many_rows_are_proven_on_a_guest(record_property):
    told = rowkit.counts()
    for name, count in told.items():
        record_property(name, count)
    hypercalls = [row for row in hcalls.ROWS if row.guest is True]  # those are shown beside this, in test_hcalls
    assert told["proven on the guest"] == len(ROWS) + len(hypercalls)
