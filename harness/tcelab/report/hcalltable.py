"""The conformance table of the scenario `hcalls`: each case with expected and seen result; and, separately, where the
platform differs from PAPR or KVM.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, Literal

import msgspec

from tcelab.errors import UsageError
from tcelab.judge import Verdict
from tcelab.judge.models.tablemodel import differing
from tcelab.papr.hcallnumbers import STATUS_NAMES
from tcelab.papr.hcallrules import PAPR_DIFFERENCES, QemuDifference
from tcelab.program import Checkpoint, Hcall, HcallBatch
from tcelab.run.record import Outcome, RunRecord, Snapshot, Step, TableView
from tcelab.scenarios.hcallcases import PREFIX, Case
from tcelab.scenarios.kvmcases import cases

Judged = Literal["ok", "laxer", "otherwise", "wrong", "not done"]
WORDS: Final[dict[Judged, str]] = {
    "ok": "ok",
    "laxer": "QEMU is laxer",
    "otherwise": "QEMU differs",
    "wrong": "WRONG",
    "not done": "not done",
}
"""Names of the verdicts. The second and third are no passes: QEMU behaved as QEMU does."""
_PAGES: Final = re.compile(r"(\d+) pages?")


class HypercallRow(msgspec.Struct, kw_only=True):
    """One case of the scenario `hcalls`.

    :ivar hypercall: name of the hypercall, or what the case does with several.
    :ivar case: what is called, in words.
    :ivar expected: the status and effect that the case must have.
    :ivar seen: the status and effect that it had; with findings, also which laws they broke.
    :ivar verdict: `laxer` and `otherwise`: as expected of QEMU, which differs there from the rule in `differs`.
    :ivar source: where the expected result comes from.
    :ivar step: number of its checkpoint.
    :ivar difference: the case of `PAPR_DIFFERENCES` that it shows, if any.
    :ivar differs: whose rule QEMU differs from, and what it says.
    :ivar findings: findings in its steps.
    """

    hypercall: str
    case: str
    expected: str
    seen: str
    verdict: Judged
    source: str
    step: int
    difference: str = ""
    differs: str = ""
    findings: int = 0


def hypercall_rows(run: RunRecord, verdict: Verdict) -> list[HypercallRow]:
    """The rows of a run of the scenario; empty for any other program."""
    ops = run.program.ops
    looks = [number for number, op in enumerate(ops) if isinstance(op, Checkpoint)]
    labels = {op.label: number for number, op in enumerate(ops) if isinstance(op, Checkpoint)}
    if not any(label.startswith(PREFIX) for label in labels):
        return []
    try:
        every = [case for case in cases(run.program.topology) if case.label in labels]
    except UsageError:
        return []
    steps = {step.number: step for step in run.steps}
    out = []
    for case in every:
        number = labels[case.label]
        before = looks[bisect_right(looks, number - 1) - 1]
        done = [steps[i] for i in (before, number - 1, number) if i in steps]
        out.append(_row(case, done, number, verdict.found(before + 1, number + 1), next(iter(run.facts.views), "")))
    return out


def _row(case: Case, done: Sequence[Step], number: int, found: Mapping[str, int], view: str) -> HypercallRow:
    """:param view: which counts the entries that were written; empty: nobody saw them, and they are left out."""
    expected = _text(case.expected, case.written if view else None, case.gives)
    seen, findings = "nothing", sum(found.values())
    verdict: Judged = "not done"
    if len(done) == 3 and isinstance(done[1].op, Hcall | HcallBatch) and done[1].outcome is not None:  # noqa: PLR2004
        statuses, r4 = _gave(case, done[1].outcome)
        seen = _text(statuses, _changed(done[0].snapshot, done[2].snapshot, view) if view else None, r4)
        verdict = "wrong" if findings or seen != expected else "ok"
        if findings:
            # Status and number of entries say little about the contents of an entry or a register.
            seen += f"; {_plural(findings, 'finding')}: {', '.join(found)}"
    difference = next((each for each in PAPR_DIFFERENCES if each.case == case.differs), None)
    if verdict == "ok" and difference is not None:
        verdict = "laxer" if lax(difference) else "otherwise"
    return HypercallRow(
        hypercall=case.hypercall,
        case=case.name,
        expected=expected,
        seen=seen,
        verdict=verdict,
        source=case.source,
        step=number,
        difference=case.differs,
        differs="" if difference is None else f"{difference.whose}: {difference.theirs}",
        findings=findings,
    )


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def lax(difference: QemuDifference) -> bool:
    """QEMU permits what PAPR or KVM refuses."""
    return "stored" in difference.qemu or not difference.qemu.startswith("H_PARAMETER")


def _gave(case: Case, outcome: Outcome) -> tuple[tuple[int, ...] | str, int | None]:
    """Statuses, or the errno; and r4 where the case is about it."""
    if outcome.errno:
        return outcome.errno, None
    statuses = outcome.fields.get("statuses") or [outcome.value]
    registers = outcome.fields.get("registers") or [None]
    return tuple(statuses), registers[0] if case.gives is not None else None


def _text(statuses: tuple[int, ...] | str, written: int | None, r4: int | None) -> str:
    if isinstance(statuses, str):
        said = f"{statuses} of the module"
    else:
        names = [STATUS_NAMES.get(status, f"status {status}") for status in statuses]
        runs = [(name, len(list(same))) for name, same in groupby(names)]
        said = " ".join(name if times == 1 else f"{times} x {name}" for name, times in runs)
    parts = [said, f"r4 {r4:#x}"] if r4 is not None else [said]
    told = written or (written == 0 and r4 is None)
    return ", ".join([*parts, f"{written} written"] if told else parts)


def _changed(before: Snapshot | None, after: Snapshot | None, view: str) -> int:
    """Changed entries, over all tables, by one view."""
    if before is None or after is None:
        return 0
    one, other = _tables(before, view), _tables(after, view)
    pairs = ((one[liobn], other[liobn]) for liobn in one.keys() & other.keys())
    return sum(len(differing((left.index, left.tce), (right.index, right.tce)).numbers) for left, right in pairs)


def _tables(snapshot: Snapshot, view: str) -> dict[int, TableView]:
    return {table.liobn: table for table in snapshot.tables if table.view == view}


# -- as text


def conformance_lines(rows: Sequence[HypercallRow]) -> Iterator[str]:
    """The table, the differences from PAPR or KVM, and counts; nothing without rows."""
    if not rows:
        return
    columns = ("hypercall", "case", "expected", "seen", "verdict", "source")
    cells = [columns, *((*_cells(row),) for row in _folded(rows))]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    yield ""
    yield from difference_lines(rows)
    counts = {word: sum(row.verdict == name for row in rows) for name, word in WORDS.items()}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word in ("ok", "WRONG"))
    yield f"{len(rows)} cases: {told}"


def difference_lines(rows: Sequence[HypercallRow]) -> Iterator[str]:
    """Where QEMU differs from PAPR or KVM, and how many cases show it."""
    yield "not as PAPR or KVM has it (no passes: QEMU does as QEMU does):"
    for each in PAPR_DIFFERENCES:
        text = f"{each.whose}: {each.theirs}"
        shown = sum(row.difference == each.case and row.verdict in ("laxer", "otherwise") for row in rows)
        word = "laxer" if lax(each) else "otherwise"
        cases_ = f"{shown} case{'s' if shown != 1 else ''}"
        yield f"  {each.case}: {text}; QEMU ({word}): {each.qemu} [{cases_}; {each.source}]"


def _cells(row: HypercallRow) -> tuple[str, ...]:
    return row.hypercall, row.case, row.expected, row.seen, WORDS[row.verdict], row.source


def _folded(rows: Sequence[HypercallRow]) -> Iterator[HypercallRow]:
    """Consecutive batch sizes that are all right share one line."""

    def kind(row: HypercallRow) -> object:
        pages = _PAGES.fullmatch(row.case)
        if pages is None or row.seen != row.expected or f", {pages[1]} written" not in row.expected:
            return row.step
        return row.hypercall, row.verdict, row.source

    for key, group in groupby(rows, kind):
        same = list(group)
        if len(same) == 1 or isinstance(key, int):
            yield from same
            continue
        sizes = [int(row.case.split()[0]) for row in same]
        runs = [[each for _, each in run] for _, run in groupby(enumerate(sizes), lambda pair: pair[1] - pair[0])]
        spans = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
        expected = f"{same[0].expected.partition(',')[0]}, as many written"
        yield msgspec.structs.replace(same[0], case=f"{spans} pages", expected=expected, seen=expected)


__all__ = ["HypercallRow", "conformance_lines", "difference_lines", "hypercall_rows", "lax"]
