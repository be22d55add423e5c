"""The text of a leak check: occupancy of tables, a histogram of hypercalls, entries that stayed, and the verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from tcelab.coverage.text import unit_lines
from tcelab.judge import Verdict
from tcelab.leakcheck.leakresult import PHASES, LeakResult
from tcelab.report.text import SHOWN, mutant_lines, say, tell_findings, tell_verdict

_SIZES: Final = 12
"""Most sizes of one hypercall that get a row each."""


def render(console: Console, result: LeakResult, verdict: Verdict, folder: Path | None = None) -> None:
    """Print a result.

    :param folder: where the artefacts are.
    """
    first, *more = result.command.splitlines() or [""]
    say(console, f"command: {first}{' ...' * bool(more)}")
    if guest := result.versions.get("guest"):
        say(console, f"kernel:  {guest['kernel']} {guest['machine']}, {guest['version']}")
        qemu = result.versions["qemu"]
        say(console, f"qemu:    {qemu['version']}, TCG, {qemu.get('cpu', 'power9')}")
    for line in mutant_lines(result.versions):
        say(console, line)
    for line in result.output[-SHOWN:]:
        say(console, f"  | {line}")
    if result.status is not None:
        say(console, f"status:  {result.status}")
    if result.tables:
        say(console, "entries", "italic")
        console.print(_tables(result))
    if result.calls:
        say(console, "hypercalls, by how many entries each stored", "italic")
        console.print(_histogram(result))
    for line in _permissions(result):
        say(console, line)
    for line in unit_lines(result.coverage) if result.coverage is not None else ():
        say(console, line)
    tell_findings(console, verdict, result.replay, program=False)
    for reason in verdict.could_not:
        say(console, f"could not judge: {reason}", "yellow")
    tell_verdict(console, verdict, folder, ": no leak" if verdict.result == "pass" else "")


def _tables(result: LeakResult) -> Table:
    table = _table("LIOBN", "device", "at baseline", "after", "exchanged", "after unbind")
    for each in result.tables:
        unbound = str(each.unbound) if each.device else "-"
        table.add_row(
            f"{each.liobn:#x}", each.device or "-", *map(str, (each.baseline, each.after, each.exchanged)), unbound
        )
    return table


def _histogram(result: LeakResult) -> Table:
    """A row for each size; with many sizes, a row for those between two powers of two."""
    sizes = defaultdict(set)
    for each in result.calls:
        sizes[each.liobn, each.hypercall].add(each.entries)
    rows: dict[tuple[int, str, int, int], dict[str, int]] = defaultdict(lambda: dict.fromkeys(PHASES, 0))
    for each in result.calls:
        few = len(sizes[each.liobn, each.hypercall]) <= _SIZES
        low = high = each.entries
        if not few:
            low, high = 1 << each.entries.bit_length() - 1, (1 << each.entries.bit_length()) - 1
        rows[each.liobn, each.hypercall, low, high][each.phase] += each.calls
    table = _table("LIOBN", "hypercall", "entries", *PHASES)
    for (liobn, name, low, high), calls in sorted(rows.items()):
        size = str(low) if low == high else f"{low}..{high}"
        table.add_row(f"{liobn:#x}", name, size, *(f"{calls[phase]:,}" for phase in PHASES))
    return table


def _permissions(result: LeakResult) -> Iterator[str]:
    told: dict[int, list[str]] = defaultdict(list)
    for each in result.permissions:
        if each.phase == "command":
            told[each.liobn].append(f"{each.tces:,} {each.permissions}")
    for liobn, words in told.items():
        yield f"TCEs in the trace of the command, LIOBN {liobn:#x}: {', '.join(words)}"
    for refused in result.refused:
        yield (
            f"hypercalls refused, LIOBN {refused.liobn:#x}, {refused.phase}:"
            f" {refused.calls:,} with status {refused.status}"
        )
    asked: dict[int, list[str]] = defaultdict(list)
    for one in result.asked:
        asked[one.liobn].append(f"{one.mappings:,} {one.direction}")
    for liobn, words in asked.items():
        yield f"mappings that the driver requested, LIOBN {liobn:#x}: {', '.join(words)}"
    if "asked stored" in result.views:
        yield (
            f"compared with what drivers requested: {result.views['asked stored']:,} entries of the trace,"
            f" {result.views['asked live']:,} of live memory"
        )
    if result.views:
        yield (
            f"views: live memory against the state stream {result.views.get('stream', 0):,} entries, against the trace"
            f" replayed {result.views.get('replay', 0):,} entries"
        )


def _table(*columns: str) -> Table:
    table = Table(box=box.ASCII2)
    for column in columns:
        table.add_column(column, justify="left" if column in {"LIOBN", "device", "hypercall"} else "right")
    return table
