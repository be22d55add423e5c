"""`tcelab image`: build, list and clean guest images and QEMU builds."""

from __future__ import annotations

import click

from tcelab import image
from tcelab.cli import note
from tcelab.errors import UsageError


@click.group("image")
def command() -> None:
    """Build, list and clean guest images and QEMU builds in the user's cache."""


@command.command()
@click.argument("names", nargs=-1)
@click.option("--missing", is_flag=True, help="Only those that are not there or not up to date.")
def build(names: tuple[str, ...], *, missing: bool) -> None:
    """Build NAMES (default: all recipes) from Debian's packages, signatures checked."""
    for name in names or image.recipe_names():
        if missing and image.status(name, full=False).state == "ok":
            continue
        image.build(name, note)


@command.command("list")
@click.option("--quick", is_flag=True, help="Do not verify the hashes.")
def list_(*, quick: bool) -> None:
    """List all recipes and verify what was built of them. Exit code 1 if something is damaged."""
    damaged = False
    for name in image.recipe_names():
        status = image.status(name, full=not quick)
        size = f"{status.size / 1e6:6.0f} MB" if status.size else " " * 9
        click.echo(f"{name:12} {status.state:8} {size}  {_made_of(status)}")
        for problem in status.problems:
            click.echo(f"{'':12} {problem}")
        damaged |= status.state == "damaged"
    if damaged:
        click.echo("rebuild what is damaged: tcelab image build NAME", err=True)
        raise click.exceptions.Exit(1)


def _made_of(status: image.ImageStatus) -> str:
    made = status.manifest
    if made is None:
        return ""
    return f"{len(made.packages)} packages, built {made.date}"


@command.command()
@click.argument("names", nargs=-1)
def clean(names: tuple[str, ...]) -> None:
    """Remove what was built of NAMES (default: everything in the cache)."""
    unknown = sorted(set(names) - set(image.recipe_names()))
    if unknown:
        raise UsageError(f"no recipe {unknown[0]!r}; there are: {', '.join(image.recipe_names())}")
    click.echo(f"{image.clean(names) / 1e6:.0f} MB freed")
