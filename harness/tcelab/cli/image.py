"""`tcelab image`: build, list and clean guest images and QEMU builds."""

from __future__ import annotations

from pathlib import Path

import click

from tcelab import image
from tcelab.cli.options import archive_option
from tcelab.errors import UsageError, counted
from tcelab.image import bases, cures, known, mutants, recipelock, transfer
from tcelab.job import drift
from tcelab.job.output import note
from tcelab.run import exitcode


@click.group("image")
def command() -> None:
    """Build, list and clean guest images and QEMU builds in the user's cache."""


@command.command()
@click.argument("names", nargs=-1)
@click.option("--missing", is_flag=True, help="Only those that are not there or not up to date.")
@click.option("--newest", is_flag=True, help="Of the newest packages, whatever images/NAME.lock says.")
@archive_option
def build(names: tuple[str, ...], *, missing: bool, newest: bool) -> None:
    """Build NAMES (default: all recipes but those of a kernel) from Debian's packages, signatures checked. Versions
    that are locked are taken where the archive still has them, else the newest that fit.
    """
    if missing and newest:
        raise UsageError("--missing and --newest exclude each other: --newest always builds")
    for name in names or _usual():
        if missing and image.status(name, full=False).state == "ok":
            continue
        image.build(name, newest=newest)


@command.command("lock")
@click.argument("names", nargs=-1)
@click.option("--built", is_flag=True, help="Lock what the images in the cache were built of; build nothing.")
@archive_option
def lock_(names: tuple[str, ...], *, built: bool) -> None:
    """Build NAMES (default: all recipes but those of a kernel) of the newest packages, and lock these by version and
    hash in images/NAME.lock. What is locked for other architectures stays.
    """
    for name in names or _usual():
        manifest = image.built(name) if built else image.build(name, newest=True)
        before = recipelock.read_lock(name)
        changes = recipelock.write_lock(name, manifest)
        click.echo(f"{name}: {counted(len(manifest.packages), 'package')} locked, {len(changes)} changed")
        for each in changes if before else ():
            click.echo(f"  {each.told()}")


def _usual() -> list[str]:
    """The recipes that are meant when none is named."""
    return [name for name in image.recipe_names() if not image.on_request(name)]


@command.command("drift")
@click.argument("names", nargs=-1)
@click.option("--before", type=click.Path(path_type=Path), metavar="RESULT", help="result.json of a locked image.")
@click.option("--after", type=click.Path(path_type=Path), metavar="RESULT", help="result.json of the same program now.")
@click.option("--mutants", "always", is_flag=True, help="Try the mutants even if the kernel is the locked one.")
@archive_option
def drift_(names: tuple[str, ...], before: Path | None, after: Path | None, *, always: bool) -> None:
    """Compare what the images NAMES (default: guest) were built of with what is locked; of a newer kernel also try to
    build each mutant of its driver; and compare two results of one program: quirks, and how much was judged.

    Exit codes: 0 nothing but versions has drifted; 1 a quirk, a mutant or a count has; 2 wrong usage; 125 not known.
    """
    if (before is None) != (after is None):
        raise UsageError("--before and --after belong together")
    found = False
    for name in names or transfer.DEFAULT[:1]:
        of_image = drift.of_image(name)
        click.echo(f"{name}: {len(of_image.packages)} of {counted(of_image.of, 'package')} drifted")
        for package in of_image.packages:
            click.echo(f"  {package.told()}")
        tried = drift.of_mutants(name) if of_image.kernel or always else None
        if tried is not None:
            click.echo(f"{name}: {tried.of - len(tried.broken)} of {counted(tried.of, 'mutant')} build")
            for mutant, why in tried.broken.items():
                click.echo(f"  {mutant}: {why}")
            found |= bool(tried.broken)
    if before is not None and after is not None:
        behaviour = drift.behaviour(before, after)
        for what, lines in {"quirk": behaviour.quirks, "count": behaviour.counts}.items():
            click.echo(f"{counted(len(lines), what)} drifted")
            for line in lines:
                click.echo(f"  {line}")
            found |= bool(lines)
    if found:
        raise click.exceptions.Exit(exitcode.FINDING)


@command.command("list")
@click.option("--quick", is_flag=True, help="Do not verify the hashes.")
def list_(*, quick: bool) -> None:
    """List all recipes and booted guests (bases of forks), and verify them. Exit code 1 if something is damaged."""
    damaged = False
    for name in image.recipe_names():
        status = image.status(name, full=not quick)
        size = f"{status.size / 1e6:6.0f} MB" if status.size else " " * 9
        click.echo(f"{name:12} {status.state:8} {size}  {_made_of(status)}")
        for problem in status.problems:
            click.echo(f"{'':12} {problem}")
        damaged |= status.state == "damaged"
    if damaged:
        note("rebuild what is damaged: tcelab image build NAME")
    if _list_bases(quick=quick) or damaged:
        raise click.exceptions.Exit(exitcode.FINDING)


def _list_bases(*, quick: bool) -> bool:
    """The guests that are kept for forks; True if one is damaged."""
    damaged = False
    for folder, base in bases.kept():
        problem = "" if quick else bases.problems(folder, base)
        made_of = "" if base is None else f"{', '.join(base.about.values())}, built {base.built}"
        state = "damaged" if problem else "ok"
        click.echo(
            f"{folder.name} {state:8} {bases.disk_usage(folder) / 1e6:5.0f} MB  {made_of or bases.refusal(folder)}"
        )
        if problem:
            click.echo(f"{'':12} {problem}")
        damaged |= bool(problem)
    if damaged:
        note("a damaged base is made anew when it is wanted; tcelab image clean --bases removes all")
    return damaged


@command.command("mutants")
def mutants_() -> None:
    """List the mutants for --mutant: of the guest's VFIO driver, then of its kernel. Each changes one line."""
    every = mutants.known()
    click.echo(f"{mutants.CLEAN:20} {every.module} of {every.source}, rebuilt without a fault")
    for fault in (*every.fault, *mutants.known_of_kernel().fault):
        click.echo(f"{fault.name:20} {fault.breaks}")


@command.command("cures")
def cures_() -> None:
    """List the quirks that --cure takes away, with what is changed for it. Those of built-in code take a kernel that is
    built from its sources.
    """
    every = cures.known()
    for cure in every.cure:
        place = every.module if every.of_module(cure) else f"the kernel of {every.image}"
        click.echo(f"{cure.quirk:27} {place}: {cure.fix}")


@command.command("export")
@click.argument("names", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All images that are built.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file; .zst compresses it.")
def export(names: tuple[str, ...], output: Path, *, all_: bool) -> None:
    """Write images NAMES (default: guest and qemu-11.1, what a run needs) into one file, for `tcelab image import` on
    a machine without a network. The file's SHA-256 is printed as sha256sum(1) does.
    """
    if all_ and names:
        raise UsageError("--all exports every image: leave the names out")
    chosen = names or transfer.DEFAULT
    if all_:
        chosen = tuple(name for name in image.recipe_names() if image.status(name, full=False).state != "absent")
        if not chosen:
            raise UsageError("no image is built: there is nothing to export", next_step="tcelab image build")
    digest = transfer.export_images(chosen, output)
    note(f"{', '.join(sorted(set(chosen)))}: {output.stat().st_size / 1e6:.0f} MB")
    click.echo(f"{digest}  {output}")


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--sha256", default="", metavar="HEX", help="The file's SHA-256, as the export printed it.")
def import_(file: Path, sha256: str) -> None:
    """Put the images of FILE, which `tcelab image export` wrote, into the cache: after all of it was checked, or not
    at all. No network is needed, then or later.
    """
    for name in transfer.import_images(file, sha256):
        click.echo(f"{name} imported")


def _made_of(status: image.ImageStatus) -> str:
    made = status.manifest
    if made is None:
        return ""
    return f"{len(made.packages)} packages, built {made.date}"


@command.command()
@click.argument("names", nargs=-1)
@click.option("--bases", "only_bases", is_flag=True, help="Only the booted guests that are kept for forks.")
def clean(names: tuple[str, ...], *, only_bases: bool) -> None:
    """Remove what was built of NAMES (default: everything in the cache)."""
    if only_bases:
        click.echo(f"{bases.clean() / 1e6:.0f} MB freed")
        return
    unknown = sorted(set(names) - set(image.recipe_names()))
    if unknown:
        raise UsageError(f"no recipe {unknown[0]!r}; there are: {', '.join(image.recipe_names())}")
    freed = image.clean(names)
    if not names:
        freed += bases.clean() + known.forget()
    click.echo(f"{freed / 1e6:.0f} MB freed")
