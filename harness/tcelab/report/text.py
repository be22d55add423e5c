"""The final text: tables by batch size and by law, witnesses, findings, and the verdict in the last line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcelab.coverage.text import unit_lines
from tcelab.errors import counted
from tcelab.judge import Evidence, Finding, LawCount, Verdict
from tcelab.leakcheck.judge import describe
from tcelab.leakcheck.leakresult import LeakFinding
from tcelab.program.lengths import LENGTHS
from tcelab.report.hcalltable import conformance_lines
from tcelab.report.isolationlog import table_lines, timeline_lines
from tcelab.report.lifelog import life_lines
from tcelab.report.result import Result
from tcelab.run import exitcode

WORDS: Final[dict[exitcode.Result, tuple[str, str]]] = {
    "pass": ("PASS", "bold green"),
    "finding": ("FINDING", "bold red"),
    "could-not-judge": ("COULD NOT JUDGE", "bold yellow"),
}
IN_FULL: Final = 3
"""Findings of one operation that are printed in full; further ones get one line."""
Extent = Literal["whole", "differences", "part"]
SHOWN: Final = 20
"""Findings that are printed; `result.json` holds more."""


def render(
    console: Console,
    result: Result,
    *,
    folder: Path | None = None,
    extent: Extent = "whole",
) -> None:
    """Print a result.

    :param folder: where the artefacts are.
    :param extent: `differences` for a comparison; `part` for one of several runs, without what is printed for all of
        them together.
    """
    evidence = result.verdict.evidence
    for line in ran(result):
        say(console, line)
    if extent == "differences":
        compared = evidence.laws["difference"].judged
        say(console, f"compared: {compared:,} steps, {evidence.checkpoints:,} of them checkpoints of whole tables")
    elif extent == "whole":
        _evidence(console, result.verdict, seen=result.platform is None or result.platform.name != "ssh")
        isolated = table_lines({"isolated": result.isolations})
        for line in [
            *isolated,
            *timeline_lines(result.timeline),
            *life_lines(result.life),
            *conformance_lines(result.hypercalls),
        ]:
            say(console, line)
    if result.coverage is not None:
        for line in unit_lines(result.coverage):
            say(console, line)
    tell_findings(console, result.verdict, result.replay)
    told = "\n".join(result.ended.report)
    for reason in result.verdict.could_not:
        if result.platform is None and reason in told:
            continue  # a run that never began has only one reason, and its report follows
        say(console, f"could not judge: {reason}", "yellow")
    for line in result.ended.report:
        say(console, line)
    _last(console, result, folder)


def _last(console: Console, result: Result, folder: Path | None) -> None:
    """The verdict, and what it does not cover."""
    if result.platform is not None and result.platform.name == "ssh" and result.verdict.result == "pass":
        say(console, f"behaviour only, as was asked for; not seen: {', '.join(result.platform.cannot)}")
    test = result.program.test if result.program is not None else ""
    if test and result.verdict.result == "pass":
        say(console, f"the laws hold in all that {test} did; what it asserts itself is no part of a program")
    tell_verdict(console, result.verdict, folder)


def tell_verdict(console: Console, verdict: Verdict, folder: Path | None, more: str = "") -> None:
    """The last line."""
    word, style = WORDS[verdict.result]
    where = f"; artefacts in {folder}" if folder else ""
    say(console, f"{word}{more} (exit code {verdict.exit_code}){where}", style)


def tell_findings(console: Console, verdict: Verdict, replay: str, *, program: bool = True) -> None:
    """Print the findings, consecutive ones of one operation in few lines; then how to reproduce them.

    :param program: they are of a program's operations.
    """
    findings = verdict.findings
    if not findings:
        return
    blamed, alike = "", 0
    for number, finding in enumerate(findings[:SHOWN], 1):
        same = bool(finding.operation) and finding.operation == blamed
        alike = alike + 1 if same else 0
        blamed = finding.operation
        say(console, f"finding {number}{' (same operation)' if same else ''}", "bold red")
        lines = [line for line in finding_lines(finding) if not (same and line.startswith("operation:"))]
        for line in lines[:1] if alike >= IN_FULL else lines:
            say(console, f"  {line}")
    hidden = max(0, len(findings) - SHOWN) + verdict.more
    if hidden:
        say(console, f"and {counted(hidden, 'more finding')}")
    if program:
        _again(console, findings)
    if replay:
        say(console, f"replay:    {replay}")


def _again(console: Console, findings: Sequence[Finding]) -> None:
    if len(findings) > IN_FULL:
        say(console, "the first finding again", "bold red")
        for line in finding_lines(findings[0]):
            say(console, f"  {line}")
    say(console, numbers("program.json"))


def _evidence(console: Console, verdict: Verdict, *, seen: bool) -> None:
    """:param seen: there were views from outside."""
    evidence = verdict.evidence
    if evidence.batches:
        say(console, "by batch size n", "italic")
        console.print(_batches(evidence))
    if evidence.checkpoints or evidence.operations:
        say(console, "by law", "italic")
        console.print(_laws(verdict))
        for line in witnesses(evidence) if seen else _behaviour(evidence):
            say(console, line)


def ran(result: Result) -> Iterator[str]:
    """What was run, and on what: enough to recognise the intended kernel and QEMU."""
    if result.program is not None:
        program = result.program
        operations = counted(program.operations, "operation")
        yield f"program: {program.name}, seed {program.seed}, {operations} on {program.topology}"
    guest, qemu = result.versions.get("guest"), result.versions.get("qemu")
    if emulated := result.versions.get("emulator"):
        yield f"emulator: profile {emulated['profile']}; no kernel was under test"
    if result.platform is not None and guest and qemu:
        size = result.platform.page_size // 1024
        yield f"kernel:  {guest['kernel']} {guest['machine']}, {size} KiB pages, {guest['version']}"
        yield f"qemu:    {qemu['version']}, {qemu['firmware']}, TCG, {qemu.get('cpu', 'power9')}"
    if levels := result.versions.get("levels"):
        yield f"passed:  through L1, kernel {levels['L1']['kernel']}, {levels['qemu']}"
    if result.platform is not None and guest and (ssh := result.versions.get("ssh")):
        size = result.platform.page_size // 1024
        by = f" by {', '.join(ssh['jumps'])}" if ssh["jumps"] else ""
        yield f"kernel:  {guest['kernel']} {guest['machine']}, {size} KiB pages, {guest['version']}"
        yield f"ssh:     {ssh['user']} on {ssh['host']}{by}, {ssh['banner']}, Python {guest['python']}"
        yield f"devices: {', '.join(f'{name} is {address}' for name, address in ssh['devices'].items())}"
    yield from mutant_lines(result.versions)
    if quirks := result.verdict.evidence.quirks:
        met = [f"{name} ({_times(times)})" for name, times in quirks.items() if times]
        yield f"quirks:  {len(quirks)} declared for this kernel, met: {', '.join(met) or 'none'}"


def mutant_lines(versions: Mapping[str, Any]) -> Iterator[str]:
    """The fault that was put into the driver or the kernel, or what was cured of it, if there is any."""
    if mutant := versions.get("provenance", {}).get("mutant"):
        broken = f"broken on purpose ({mutant['name']}): {mutant['breaks']}" if mutant["breaks"] else "without a fault"
        yield f"mutant:  {mutant['module']} rebuilt from {mutant['source']}, {broken}"
    if cures := versions.get("provenance", {}).get("cures"):
        yield f"cured:   {cures['module']} rebuilt from {cures['source']}, without {', '.join(cures['quirks'])}"


def _times(times: int) -> str:
    return f"{times} times" if times > 1 else "once"


def numbers(program: str) -> str:
    """What the numbers in a finding are.

    :param program: the name of its file.
    """
    return f"#N and step N are operation N of {program}, counted from 0: #N did it, at step N it was seen"


def finding_lines(finding: Finding) -> Iterator[str]:
    """A finding as plain lines: what, where, expected, seen, and the operation."""
    yield f"{finding.law}: {finding.message}"
    if isinstance(finding, LeakFinding):
        yield from _stored(finding)
        return
    place = []
    if finding.liobn is not None:
        place.append(f"LIOBN {finding.liobn:#x}")
    if finding.ioba is not None:
        place.append(f"IOBA {finding.ioba:#x}")
    place.append(f"step {finding.step}")
    if finding.batch:
        place.append(f"batch size {finding.batch}")
    if finding.view:
        place.append(f"view {finding.view}")
    yield f"where:     {', '.join(place)}"
    for name in ("expected", "seen", "operation"):
        value = getattr(finding, name)
        if value:
            yield f"{name + ':':<11}{value}"


def _stored(finding: LeakFinding) -> Iterator[str]:
    """Where an entry that stayed came from."""
    if finding.device:
        yield f"device:    {finding.device}"
    if finding.ioba is not None:
        yield f"{'called:   ' if finding.law == 'limit' else 'stored by:'} {describe(finding.origin)}"


def witnesses(evidence: Evidence) -> Iterator[str]:
    """The witnesses, one line each, independent of each other."""
    live, stream = evidence.steps.get("live", 0), evidence.steps.get("stream", 0)
    shown = f"live memory {counted(live, 'step')}, state stream {counted(stream, 'step')}"
    shown += " (two readers of one table: one witness)"
    if own := evidence.steps.get("emulator"):
        shown = f"the emulator's own {counted(own, 'step')}"
    dma = evidence.dma
    controls = f"first refusal seen on {', '.join(dma.control)}" if dma.control else "no refusal was to be seen"
    if dma.refused and not dma.control:
        controls = "its refusals were not seen"
    yield f"views: {shown}, {counted(evidence.entries, 'entry', 'entries')} compared"
    if heard := evidence.steps.get("messages"):
        untold = counted(evidence.untold, "entry", "entries")
        yield f"messages to probes: {counted(heard, 'step')}, {counted(evidence.told, 'mapping')} compared"
        twice = counted(sum(evidence.twice.values()), "piece")
        yield f"  {twice} of transfers judged by QEMU's table and by the probes' own, which is made of messages alone"
        yield f"  no message can tell that a device may only write, or of an entry outside RAM: {untold}"
    yield (
        f"tags in guest RAM: {counted(evidence.tags, 'mapped page')} proven by their tag,"
        f" {evidence.contents:,} by other data; "
        f"{counted(evidence.pages, 'unmapped page')} unchanged"
    )
    passed = f"{counted(dma.allowed, 'piece')} through"
    for length in (each for each in LENGTHS if each in evidence.lengths):
        row = evidence.lengths[length]
        done = f"{counted(row.transfers, 'transfer')}, {row.refused:,} refused, {row.isolated:,} isolated their PE"
        yield f"doorbells, {length}: {done}"
    yield f"device DMA: {counted(dma.transfers, 'transfer')}, {passed}, {dma.refused:,} refused ({controls})"
    if (loops := evidence.loops).loops:
        read = f"{counted(loops.checked, 'entry', 'entries')} read while they were mapped"
        met = f"{counted(loops.met, 'time')} with the same table, {loops.beside:,} with another one"
        yield f"loops of the DMA API at once: {loops.loops}, which met inside the kernel {met}; {read}"
    yield f"page pins: {counted(evidence.pins, 'reading')}"
    yield from raced(evidence)
    yield from asked(evidence)
    costs = (f"{what} {cost.median * 1e3:.1f} ms" for what, cost in evidence.seconds.items())
    yield f"time per checkpoint (medians): {', '.join(costs)}"


def raced(evidence: Evidence) -> Iterator[str]:
    """What probes tried between two hypercalls; nothing where none was to."""
    count = evidence.races
    if not count.points:
        return
    yield f"races: {counted(count.operations, 'map or unmap', 'maps and unmaps')}, {counted(count.points, 'point')}"
    yield f"  the guest stood still before and after each of {counted(count.calls, 'hypercall')} that stored TCEs there"
    transfers = counted(count.reached + count.refused, "transfer")
    yield f"  {transfers}: {count.reached:,} through, {count.refused:,} refused"
    if count.large:
        yield f"  not raced, for they are too large: {counted(count.large, 'map or unmap', 'maps and unmaps')}"


def asked(evidence: Evidence) -> Iterator[str]:
    """What the guest asked of its platform, its boot included; nothing where nobody listened."""
    papr = evidence.papr
    if papr.off:
        yield "asked of the platform: not judged: --no-papr, or a guest inside the guest"
    if papr.calls:
        calls = ", ".join(f"{times:,} {name}" for name, times in sorted(papr.calls.items()))
        exempt = f"; {papr.programs:,} that PAPR forbids are the program's own" if papr.programs else ""
        yield f"asked of the platform: {calls}{exempt}"


def _behaviour(evidence: Evidence) -> Iterator[str]:
    """The witnesses where nobody looks from outside."""
    answers = counted(evidence.laws["outcome"].judged, "outcome")
    pins = counted(evidence.pins, "reading")
    yield f"views: none; what the kernel answered is judged: {answers}, {pins} of page pins"


def _batches(evidence: Evidence) -> Table:
    table = _table("n", "maps", "pages", "checkpoints", "live", "stream", "tags")
    table.add_column("verdict")
    for each in evidence.batches:
        numbers = (each.size, each.maps, each.pages, each.checkpoints, each.live, each.stream, each.tags)
        whole = each.checkpoints and each.live >= each.checkpoints
        table.add_row(*map(str, numbers), _mark(each.findings, bool(whole)))
    return table


def _laws(verdict: Verdict) -> Table:
    table = Table(box=box.ASCII2)
    table.add_column("law")
    table.add_column("judged", justify="right")
    table.add_column("findings", justify="right")
    table.add_column("verdict")
    for law, count in verdict.evidence.laws.items():
        missing = law == "evidence" and verdict.could_not and not count.findings
        mark = Text("incomplete", "yellow") if missing else _law_mark(count)
        table.add_row(law, f"{count.judged:,}", str(count.findings), mark)
    return table


def _table(*columns: str) -> Table:
    """An empty table of numbers. It has no title: rich pads those with blanks."""
    table = Table(box=box.ASCII2)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _mark(findings: int, seen: bool) -> Text:  # noqa: FBT001 - private, one call
    if findings:
        return Text(counted(findings, "finding"), "red")
    return Text("ok", "green") if seen else Text("not seen", "yellow")


def _law_mark(count: LawCount) -> Text:
    return _mark(count.findings, seen=True) if count.judged or count.findings else Text("not judged", "dim")


def say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True, highlight=False)
