"""`tcelab diff`: one program on two platforms, and every difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tcelab import report
from tcelab.cli.options import (
    OF_SCENARIO,
    boot_option,
    json_option,
    machine_options,
    run_options,
    seed_option,
    topology_text,
)
from tcelab.cli.run import program_of
from tcelab.job import output
from tcelab.job.job import Job
from tcelab.job.runoptions import settle
from tcelab.scenarios import DEFAULT

_FILE = click.Path(path_type=Path)


@click.command("diff")
@click.argument("target", default=DEFAULT, metavar="[SCENARIO|PROGRAM.json|RUNFOLDER]")
@machine_options
@seed_option
@click.option("--against-qemu", help="Compare with a guest on this QEMU.")
@click.option("--against-image", help="Compare with a guest of this image.")
@click.option("--against-kernel", type=_FILE, help="Compare with a guest of this kernel.")
@click.option("--against-modules", type=_FILE, metavar="DIR", help="Modules of --against-kernel.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for artefacts; new or empty.")
@json_option("result.json")
@boot_option
def command(
    target: str,
    seed: int | None,
    out: Path | None,
    json_to: Path | None,
    *,
    boot: bool,
    limits: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's options
) -> None:
    """Run a program on a guest, and compare each outcome and each whole table with the emulator; with --against-...,
    with a second guest: kernel A with kernel B, QEMU A with QEMU B.

    Exit codes as for run.
    """
    output.check("--json", json_to)
    names = ("qemu", "image", "kernel", "modules")
    against = {name: options.pop(f"against_{name}") for name in names}
    other = {name: value for name, value in against.items() if value is not None}
    program = program_of(target, seed, None, str(options["topology_name"]))
    asked = run_options("diff", target, boot=boot, limits=limits, against=other, **options)
    job = Job(*settle(program, asked), out, Console(stderr=output.to_stdout(json_to)))
    job.perform(keep=False)
    assert job.result is not None
    code = job.result.verdict.exit_code
    raise click.exceptions.Exit(output.deliver(report.to_json(job.result), json_to, code))


topology_text(command, f"{OF_SCENARIO} By default two-pe.")
