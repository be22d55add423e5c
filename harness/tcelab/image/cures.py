"""Cures of the kernel's known defects: its sources with some lines changed, rebuilt. The quirk must then be gone.

``images/cures.toml`` says which lines. What concerns the driver alone is a module, built as a mutant is
(:mod:`tcelab.image.mutants`); a cure of built-in code is a kernel of :mod:`tcelab.image.kerneltree`. Both are kept in
the cache, in `mutants/`.
"""

from __future__ import annotations

import hashlib
import logging
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tcelab.errors import HarnessError, UsageError, meant
from tcelab.image import apt, library, mutants
from tcelab.image.guestimage import KERNEL
from tcelab.image.locks import lock
from tcelab.image.manifest import Manifest
from tcelab.image.packages import Package
from tcelab.image.recipe import CURES, GuestRecipe, load
from tcelab.image.resources import recipes_dir
from tcelab.image.store import clear_no_space
from tcelab.logs import NOTE

__all__ = [
    "ALL",
    "Built",
    "BuiltKernel",
    "Change",
    "Cure",
    "Cures",
    "build",
    "build_kernel",
    "chosen",
    "cured",
    "known",
]

_LOG: Final = logging.getLogger(__name__)

ALL: Final = "all"
"""In the place of names: each cure that the image can have."""

_FILE: Final = f"{CURES}.toml"


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Lines that are other ones.

    :ivar file: of the kernel's sources; `function`: in it, for people.
    :ivar old: is there `times` times; `new` takes its place.
    """

    file: str
    function: str
    old: str
    new: str
    times: int = 1


class Cure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What cures one quirk.

    :ivar symptom: likewise `cause` and `fix`: sentences for whoever maintains the kernel.
    :ivar hurts: whom the defect hurts.
    :ivar tried: the quirk's program was seen to pass with it.
    """

    quirk: str
    symptom: str
    cause: str
    fix: str
    hurts: str
    tried: bool = True
    change: tuple[Change, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """That it changes, each once."""
        return tuple(dict.fromkeys(change.file for change in self.change))


class Cures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="cures"):
    """All cures, and what they change.

    :ivar image: recipe of the guest whose kernel is built with those of built-in code.
    :ivar source: name of Debian's package of the kernel's sources.
    :ivar driver: the module's file; it includes those `beside` it.
    :ivar headers: a folder of headers; one that is changed is found before the kernel's own.
    """

    module: str
    image: str
    source: str
    driver: str
    beside: tuple[str, ...]
    headers: str
    cure: tuple[Cure, ...]

    def of_module(self, cure: Cure) -> bool:
        """Whether a rebuilt module has all of a cure."""
        return all(file == self.driver or file.startswith(f"{self.headers}/") for file in cure.files)

    @property
    def files(self) -> dict[str, str]:
        """What a rebuilt module takes of the sources: where it lies there, by where it lies in the module's folder."""
        changed = (file for cure in self.cure if self.of_module(cure) for file in cure.files)
        headers = sorted({file for file in changed if file != self.driver})
        beside = {Path(file).name: file for file in (self.driver, *self.beside)}
        return beside | {f"include/{file.removeprefix(self.headers).lstrip('/')}": file for file in headers}


class Built(NamedTuple):
    """A module that was built with cures."""

    module: str
    content: bytes
    cures: tuple[Cure, ...]
    package: Package

    def told(self) -> dict[str, object]:
        """For the result, so that its report cannot be mistaken for one on the kernel's own code."""
        return {
            "quirks": [cure.quirk for cure in self.cures],
            "module": self.module,
            "source": f"{self.package.name} {self.package.version}",
            "sha256": hashlib.sha256(self.content).hexdigest(),
        }


class BuiltKernel(NamedTuple):
    """A kernel that was built with cures. `path`: of its vmlinux, in the cache."""

    path: Path
    cures: tuple[Cure, ...]
    package: Package

    def told(self) -> dict[str, object]:
        """See `Built`."""
        return Built(KERNEL, self.path.read_bytes(), self.cures, self.package).told()


def known() -> Cures:
    """What ``images/cures.toml`` says.

    :raise UsageError: it is not valid.
    """
    try:
        return msgspec.convert(tomllib.loads((recipes_dir() / _FILE).read_text()), type=Cures)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{_FILE}: {error}", next_step="correct it") from error


def chosen(names: Iterable[str], image: str) -> tuple[Cure, ...]:
    """The cures of these names, or `ALL` that an image can have, in the order of the file.

    :raise UsageError: there is none of that name, or the image's kernel is built by Debian and a cure is of built-in
        code.
    """
    wanted, cures = set(names), known()
    there = {cure.quirk: cure for cure in cures.cure}
    if unknown := sorted(wanted - there.keys() - {ALL}):
        raise UsageError(
            f"no cure is called {unknown[0]!r}; there are: {', '.join([ALL, *there])}",
            next_step=meant(unknown[0], there),
        )
    if image != cures.image:
        possible = {name for name, cure in there.items() if cures.of_module(cure)}
        if foreign := sorted(wanted - possible - {ALL}):
            raise UsageError(
                f"the cure of {foreign[0]} is of built-in code, and of the image {image} the driver alone is rebuilt",
                next_step=f"take --image {cures.image}",
            )
    else:
        possible = set(there)
    if ALL in wanted:
        wanted = possible
    return tuple(cure for name, cure in there.items() if name in wanted)


def build(cures: tuple[Cure, ...], image: str, manifest: Manifest, *, fetch: apt.Fetch = apt.fetch) -> Built:
    """The module with these cures for an image's kernel; some milliseconds when it was built before.

    :param image: the recipe of the image.
    :raise UsageError: the recipe names no toolchain.
    :raise Unsupported: this host cannot build.
    :raise HarnessError: the sources have changed, or do not compile.
    """
    of, recipe = known(), load(image).recipe
    if not isinstance(recipe, GuestRecipe) or not recipe.toolchain or recipe.built:
        raise UsageError(f"the recipe {image} names no toolchain that could build its driver with a cure")
    with lock("mutants", "another build of a mutant"), clear_no_space():
        places = of.files
        source = mutants.fetched(of.source, {path: name for name, path in places.items()}, recipe, manifest, fetch)
        text = cured(cures, {path: source.files[name] for name, path in places.items()}, source.package)
        files = {name: text[path] for name, path in places.items()} | {"Kbuild": _kbuild(of)}
        parts = ["cures", of.module, manifest.kernel_release, load(recipe.toolchain).sha256, files]
        target = mutants.place(parts, ".ko")
        if not target.is_file():
            release = manifest.kernel_release
            with library.toolchain(release, name=recipe.toolchain, fetch=fetch) as toolchain:
                _LOG.info("building %s with %s", of.module, _listed(cures), extra=NOTE)
                mutants.write(target, mutants.compiled(files, toolchain, release)[of.module])
        return Built(of.module, target.read_bytes(), cures, source.package)


def build_kernel(cures: tuple[Cure, ...], *, fetch: apt.Fetch = apt.fetch) -> BuiltKernel:
    """The kernel of the image of ``cures.toml`` with these cures; some milliseconds when it was built before.

    :raise Unsupported: this host cannot build.
    :raise HarnessError: the sources have changed, do not compile, or the cures change nothing of what is built.
    """
    of = load(known().image).recipe
    assert isinstance(of, GuestRecipe)
    clean = library.ensure_kernel(of.built)
    (package,) = clean.packages
    target = mutants.place([clean.tree_sha256, [cure.change for cure in cures]], ".vmlinux")
    if not target.is_file():
        with library.kernel_tree(of.built, fetch=fetch) as tree, clear_no_space():
            _LOG.info("building the kernel with %s", _listed(cures), extra=NOTE)
            paths = {file for cure in cures for file in cure.files}
            content = tree.vmlinux(cured(cures, {path: tree.source(path) for path in sorted(paths)}, tree.package))
            if hashlib.sha256(content).hexdigest() == clean.file(KERNEL).sha256:
                raise HarnessError(
                    f"{_FILE}: the kernel with {_listed(cures)} is the kernel without: no such line is built",
                    next_step=f"correct the changes, or the options of {of.built}.toml",
                )
            mutants.write(target, content)
    return BuiltKernel(target, cures, package)


def cured(cures: Iterable[Cure], files: Mapping[str, str], package: Package) -> dict[str, str]:
    """The source files with these cures.

    :param files: by path in the sources.
    :raise HarnessError: a line is not there, or not as often as it was.
    """
    out = dict(files)
    for cure in cures:
        for change in cure.change:
            times = out[change.file].count(change.old)
            if times != change.times:
                raise HarnessError(
                    f"{_FILE}: {cure.quirk}: {change.file} of {package.name} {package.version} has the old text"
                    f" {times} times, not {change.times}: the source has moved on",
                    next_step=f"correct `old` and `new` of {cure.quirk}",
                )
            out[change.file] = out[change.file].replace(change.old, change.new)
    return out


def _kbuild(of: Cures) -> str:
    """A changed header comes before the kernel's own."""
    return f"LINUXINCLUDE := -I$(src)/include $(LINUXINCLUDE)\nobj-m := {of.module}.o\n"


def _listed(cures: Iterable[Cure]) -> str:
    return f"the cures of {', '.join(cure.quirk for cure in cures)}"
