"""`tcelab coverage`: what several runs executed of their kernels together, and what another one did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from tcelab.cli import runs
from tcelab.cli.coverageoptions import FAIL_UNDER, enough
from tcelab.coverage.lcov import lcov
from tcelab.coverage.result import Coverage, expect_whole, gained, together, uncompared
from tcelab.coverage.table import table
from tcelab.coverage.text import function_lines, gain_lines, unit_lines
from tcelab.coverage.unreachable import explained
from tcelab.errors import UsageError
from tcelab.job import output
from tcelab.job.recording import CoverageChoice
from tcelab.run import exitcode

_RESULT: Final = "result.json"
_PATH: Final = click.Path(path_type=Path)


class _Covered(msgspec.Struct):
    """Of any result."""

    coverage: Coverage | None = None


@click.command("coverage")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("--against", metavar="RUN", multiple=True, help="Tell which blocks are reached that these runs did not.")
@click.option("--functions", is_flag=True, help="A line for each function, with the blocks that were never executed.")
@click.option("--table", "as_table", is_flag=True, help="A table in Markdown alone, with a row for each run.")
@click.option("--lcov", "lcov_to", type=_PATH, metavar="FILE", help="Write a tracefile, for genhtml; - is stdout.")
@click.option("--json", "json_to", type=_PATH, metavar="FILE", help="Write the sum as data; - is stdout.")
@FAIL_UNDER
def command(
    names: tuple[str, ...],
    against: tuple[str, ...],
    lcov_to: Path | None,
    json_to: Path | None,
    coverage_fail_under: float | None,
    *,
    functions: bool,
    as_table: bool,
) -> None:
    """Add up what RUNs executed of their kernels, which were recorded with --coverage: folders, or names of
    `tcelab runs list`. A folder that has no result itself stands for all that are in it.

    Exit codes: 0; 1 a block was reached that is said to be unreachable, or too few were; 2 wrong usage; 125 coverage is
    missing.
    """
    piped = output.check_files(json=json_to, lcov=lcov_to)
    several = _several(names)
    coverage = _sum(several)
    lines = [*unit_lines(coverage), *(function_lines(coverage) if functions else ())]
    if as_table:
        lines = [*table(several)]
    known = bool(coverage.units) and coverage.guests > 0
    if against:
        before = _sum(_several(against))
        apart = uncompared(coverage, before)
        comparable = len(apart) < len(coverage.units)
        known &= comparable
        lines += gain_lines(gained(coverage, before)) if comparable else []
        lines += [f"not compared: {name}: --against has none of that code" for name in apart]
    for line in lines:
        click.echo(line, err=piped)
    wrong = any(explained(unit).wrong for unit in coverage.units)
    code = exitcode.of_result("finding" if wrong else "pass" if known else "could-not-judge")
    code = enough(CoverageChoice(fail_under=coverage_fail_under), coverage, code)
    code = output.deliver(lcov(coverage).encode(), lcov_to, code)
    data: Any = msgspec.json.format(msgspec.json.encode(coverage), indent=1)
    raise click.exceptions.Exit(output.deliver(data + b"\n", json_to, code))


def _several(names: Iterable[str]) -> dict[str, Coverage]:
    """What was recorded, by the name of each run's folder; by its path where another one has that name."""
    found: dict[Path, Coverage] = {folder.resolve(): each for name in names for folder, each in _of(name)}
    times = Counter(folder.name for folder in found)
    return {folder.name if times[folder.name] == 1 else str(folder): each for folder, each in found.items()}


def _sum(several: dict[str, Coverage]) -> Coverage:
    try:
        return together(several.values())
    except ValueError as error:
        raise UsageError(f"these are no results of one tcelab: {error}") from None


def _of(name: str) -> Iterator[tuple[Path, Coverage]]:
    """What a run recorded, or each in a folder of several, by its folder.

    :raise UsageError: nothing was recorded.
    """
    folder = Path(name) if Path(name).is_dir() else runs.find(name)
    files = [folder / _RESULT] if (folder / _RESULT).is_file() else sorted(folder.glob(f"*/{_RESULT}"))
    found = [(each.parent, coverage) for each in files if (coverage := _read(each)) is not None]
    if not found:
        raise UsageError(f"{folder}: nothing was recorded there", next_step="run with --coverage")
    yield from found


def _read(path: Path) -> Coverage | None:
    try:
        coverage = msgspec.json.decode(path.read_bytes(), type=_Covered).coverage
        if coverage is not None:
            expect_whole(coverage)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no result: {error}") from None
    return coverage
