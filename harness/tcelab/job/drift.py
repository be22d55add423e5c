"""What has drifted between the packages that a recipe has locked and those, mostly the newest, that an image was built
of: versions; the mutants that no longer build; and, of one program that was run with either, quirks and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tcelab import image, report
from tcelab.errors import HarnessError, UsageError, counted
from tcelab.image import mutants
from tcelab.image.manifest import Manifest
from tcelab.image.packages import Drift
from tcelab.image.recipe import GuestRecipe, load
from tcelab.image.recipelock import compared, read_lock
from tcelab.judge.finding import Evidence

__all__ = ["Behaviour", "ImageDrift", "MutantDrift", "behaviour", "of_image", "of_mutants"]

_COUNTS: Final = ("operations", "checkpoints", "entries", "pages", "disk")
"""Of the evidence: what depends on the program and on nothing else, unless something has changed."""


class ImageDrift(msgspec.Struct, frozen=True, kw_only=True):
    """:ivar packages: those that are not as locked; `of`: how many there are. `kernel`: one of them is the kernel's."""

    image: str
    packages: list[Drift]
    of: int
    kernel: bool


class MutantDrift(msgspec.Struct, frozen=True, kw_only=True):
    """:ivar broken: those that no longer build, by name, with the reason; `of`: how many were tried."""

    broken: dict[str, str]
    of: int


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two runs of one program, a line each.

    :ivar quirks: known defects that show on one kernel only, or that nobody declared.
    :ivar counts: the verdict, and how much was judged.
    """

    quirks: list[str]
    counts: list[str]


def of_image(name: str) -> ImageDrift:
    """What an image in the cache was built of, compared with the lock of its recipe.

    :raise UsageError: no such recipe, the image is not built, or the recipe is not locked.
    """
    manifest, locked = image.built(name), read_lock(name)
    if not locked:
        raise UsageError(f"{name} is not locked: nothing can drift", next_step=f"tcelab image lock {name}")
    packages = compared(manifest.packages, locked)
    return ImageDrift(
        image=name,
        packages=packages,
        of=len(manifest.packages),
        kernel=any(each.name.startswith("linux-image-") for each in packages),
    )


def of_mutants(name: str) -> MutantDrift | None:
    """Which mutants of the driver build for an image's kernel; None: its recipe has no tools for it.

    :raise HarnessError: the sources of the kernel cannot be had.
    """
    recipe, manifest = load(name).recipe, image.built(name)
    if not isinstance(recipe, GuestRecipe) or not recipe.toolchain:
        return None
    # First, and apart: without the sources nothing is known of any.
    mutants.build(mutants.CLEAN, name, manifest)
    faults = mutants.known().fault
    broken = {fault.name: why for fault in faults if (why := _why_not(fault.name, name, manifest))}
    return MutantDrift(broken=broken, of=len(faults))


def _why_not(fault: str, name: str, manifest: Manifest) -> str:
    try:
        mutants.build(fault, name, manifest)
    except HarnessError as error:
        return error.message.partition("\n")[0]
    return ""


def behaviour(before: Path, after: Path) -> Behaviour:
    """What differs between the results of two runs of one program.

    :raise UsageError: they are no results, or of two programs.
    :raise HarnessError: one of the runs could not be judged.
    """
    old, new = (_result(path) for path in (before, after))
    if old.program is None or new.program is None or old.program.sha256 != new.program.sha256:
        raise UsageError(f"{before} and {after} are results of two programs", next_step="run both with one --seed")
    counts = {"verdict": (old.verdict.result, new.verdict.result)} | {
        name: (count, _counts(new.verdict.evidence)[name]) for name, count in _counts(old.verdict.evidence).items()
    }
    return Behaviour(quirks=list(_quirks(old, new)), counts=list(_told(counts)))


def _result(path: Path) -> report.Result:
    try:
        result = report.load(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if result.verdict.result == "could-not-judge":
        raise HarnessError(
            f"{path} could not be judged: {result.verdict.could_not[0]}", next_step="run it again, then compare"
        )
    return result


def _counts(evidence: Evidence) -> Mapping[str, int]:
    dma = {f"DMA pieces {name}": getattr(evidence.dma, name) for name in ("allowed", "refused")}
    findings = {f"findings of law {law}": count.findings for law, count in evidence.laws.items()}
    return {name: getattr(evidence, name) for name in _COUNTS} | dma | findings


def _told(pairs: Mapping[str, tuple[object, object]]) -> Iterator[str]:
    yield from (f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new)


def _quirks(old: report.Result, new: report.Result) -> Iterator[str]:
    before, after = (each.verdict.evidence.quirks for each in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if bool(before.get(name)) != bool(after.get(name)):
            yield f"{name}: met {_times(before.get(name, 0))} -> {_times(after.get(name, 0))}"
    for name in sorted({each.quirk for each in new.verdict.findings} - {""}):
        yield f"{name}: shows and is not declared"


def _times(count: int) -> str:
    return counted(count, "time") if count else "never"
