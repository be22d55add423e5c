"""`tcelab bench`: figures, side by side in one run. Absolute times say little on a shared machine; ratios do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tcelab.bench import Figure, boot, table
from tcelab.cli import note
from tcelab.cli.options import choice, machine_options


@click.group("bench")
def command() -> None:
    """Measure, side by side in one run."""


@command.command("boot")
@machine_options
@click.option("--repeat", default=3, show_default=True, help="Boots of each firmware, taken in turns.")
@click.option("--json", "json_to", type=click.Path(path_type=Path, allow_dash=True), help="Write figures; - is stdout.")
def boot_(limits: tuple[str, ...], repeat: int, json_to: Path | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """When each phase of a boot is reached, under VOF and under SLOF."""
    _show(boot.measure(choice(**options), limits, repeat, note), json_to)


@command.command("table")
@machine_options
@click.option("--repeat", default=50, show_default=True, help="Checkpoints by each view.")
@click.option("--json", "json_to", type=click.Path(path_type=Path, allow_dash=True), help="Write figures; - is stdout.")
def table_(limits: tuple[str, ...], repeat: int, json_to: Path | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """What reading and judging whole tables costs, by live memory and by the state stream."""
    _show(table.measure(choice(**options), limits, repeat, note), json_to)


def _show(figures: list[Figure], json_to: Path | None) -> None:
    data = json.dumps({"schema": 1, "figures": [figure.to_dict() for figure in figures]}, indent=1)
    if json_to is not None and str(json_to) == "-":
        click.echo(data)
        return
    if json_to is not None:
        json_to.write_text(data + "\n")
    click.echo(f"{'figure':34} {'median':>10} {'least':>10} {'most':>10}  {'n':>3}")
    for figure in figures:
        least, most = min(figure.values), max(figure.values)
        click.echo(
            f"{figure.name:34} {figure.median:10.3f} {least:10.3f} {most:10.3f}  {len(figure.values):3}  {figure.unit}"
        )
