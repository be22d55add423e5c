"""The report sections about a failed test's guest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tcelab.errors import TcelabError
from tcelab.job import replayline, setup
from tcelab.job.platforms import EMULATOR
from tcelab.judge import Finding
from tcelab.judge.ledger import op_text
from tcelab.program.topology import Phb
from tcelab.report.text import finding_lines
from tcelab.testing.expectedtable import TceTable, difference
from tcelab.testing.pseries import Pseries

_OPERATIONS: Final = 12
_LINES: Final = 20
_LAWS_HOLD: Final = "(the laws hold in what the test did: what failed is the test's own assertion, which no replay has)"


def sections(guest: Pseries, choice: setup.MachineChoice, *, boot: bool = False) -> Iterator[tuple[str, str]]:
    """The report sections about a test's guest: its program, findings, tables, console, and the replay line.

    :param guest: everything that it did is judged now.
    :param choice: of the machine, for the replay line.
    :param boot: the guest was booted for the test, not forked.
    :return: (title, text) of each section.
    """
    findings, lost = _concluded(guest)  # before the program is written, because it adds the last operations
    path = guest.write_program()
    ops = guest.saved().ops
    shown = list(enumerate(ops))[-_OPERATIONS:]
    lines = [f"#{number} {op_text(op)}" for number, op in shown]
    before = [f"({len(ops) - len(shown)} operations before)"] if len(ops) > len(shown) else []
    yield "program", "\n".join([str(path), *before, *lines])
    if lost:
        yield "guest", lost
    if findings:
        yield "findings", "\n".join(line for finding in findings for line in finding_lines(finding))
    if tables := list(_tables(guest)):
        yield "tables", "\n".join(tables)
    yield "console", "\n".join(guest.session.tail(_LINES))
    again = _replay(guest, path, choice, boot=boot)
    yield "replay", "\n".join([again, *([] if findings or lost else [_LAWS_HOLD])])


def _replay(guest: Pseries, path: Path, choice: setup.MachineChoice, *, boot: bool) -> str:
    """The machine options for the replay line. An emulator may be used beside a chosen guest; it describes itself."""
    facts = guest.facts
    if facts.platform != EMULATOR:
        return replayline.line("run", path, choice, boot=boot)
    own = setup.MachineChoice(topology=guest.topology, profile=facts.profile, expect_quirks=tuple(sorted(facts.quirks)))
    return replayline.line("run", path, own, platform=EMULATOR)


def _concluded(guest: Pseries) -> tuple[Sequence[Finding], str]:
    """What the laws found in all that was done, and what ended it early."""
    try:
        findings = guest.conclude().findings
    except TcelabError as error:
        return [], error.report()
    return findings, "" if guest.ending is None else guest.ending.report()


def _tables(guest: Pseries) -> Iterator[str]:
    """Each table under test: its live entries, and the difference from the state that the operations should have
    produced.
    """
    seen = {view.liobn: TceTable.of(view) for view in guest.last_tables()}
    for phb in guest.topology.phbs:
        table = seen.get(phb.liobn)
        if table is None:
            continue
        yield f"{_name(phb)}: {table!r}"
        lines = difference(guest.expected(phb.liobn), table)
        yield from (f"  {line}" for line in lines or ["as the operations must have left it"])


def _name(phb: Phb) -> str:
    return ", ".join(device.name for device in phb.devices) or f"PHB {phb.index}"
