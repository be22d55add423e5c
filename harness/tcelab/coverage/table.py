"""Coverage by run, as a table in Markdown: for docs/coverage.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tcelab.coverage.result import Coverage, together
from tcelab.coverage.text import percent
from tcelab.coverage.unreachable import explained

ALL = "all together"


def table(runs: Mapping[str, Coverage]) -> Iterator[str]:
    """A row for each run: blocks and outcomes of branches of each unit; then all of them together.

    :param runs: by name. A unit whose code differs from that of the first run with it is left out.
    """
    whole = together(runs.values())
    units = list({unit.name: unit for unit in reversed(whole.units)}.values())[::-1]
    heads = [f"{unit.name} {unit.blocks:,} / {unit.outcomes:,}" for unit in units]
    yield f"| run | {' | '.join(heads)} |"
    yield f"| --- |{' --- |' * len(units)}"
    for name, coverage in {**runs, ALL: whole}.items():
        found = {(unit.name, unit.code): unit for unit in coverage.units}
        own = [found.get((unit.name, unit.code)) for unit in units]
        cells = ["" if each is None else f"{each.reached:,} / {each.seen:,}" for each in own]
        yield f"| {name} | {' | '.join(cells)} |"
    shares = [f"{percent(unit.reached, unit.blocks):.1f} %" for unit in units]
    yield f"| of all blocks | {' | '.join(shares)} |"
    shares = [f"{percent(unit.reached, unit.blocks - explained(unit).blocks):.1f} %" for unit in units]
    yield f"| of those that can be reached | {' | '.join(shares)} |"
