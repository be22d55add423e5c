"""The guest's VFIO driver, rebuilt from its sources with one line changed. tcelab must find what that breaks.

``images/mutants.toml`` says which lines. The sources are those of the image's very kernel, from Debian's package; they
are patched in a scratch folder of the cache. Neither they nor the modules are part of tcelab.
``images/kernel-mutants.toml`` says the same of built-in code; :mod:`tcelab.image.kernelmutants` builds it.

Layout, in the cache (``tcelab.image.store``)::

    mutants/<key>.json   the few source files, with the package that they came from
    mutants/<key>.ko     a module built from them
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from tcelab.errors import HarnessError, UsageError
from tcelab.image import apt, library, sourcepackage
from tcelab.image.kbuild import Toolchain
from tcelab.image.locks import lock
from tcelab.image.manifest import Manifest
from tcelab.image.packages import Package
from tcelab.image.recipe import CURES, KERNEL_MUTANTS, MUTANTS, GuestRecipe, load
from tcelab.image.resources import recipes_dir
from tcelab.image.store import cache_dir, clear_no_space
from tcelab.logs import NOTE

__all__ = [
    "CLEAN",
    "LEAKCHECK",
    "Built",
    "Fault",
    "KernelFault",
    "KernelMutants",
    "Mutants",
    "Sources",
    "build",
    "compiled",
    "fetched",
    "find",
    "known",
    "known_of_kernel",
    "of_kernel",
    "patched",
    "place",
    "replaced",
    "sources",
    "write",
]

_LOG: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

CLEAN: Final = "clean"
"""Name of the mutant that has no fault."""

LEAKCHECK: Final = "leakcheck"
"""In the place of a scenario: the leak check finds it."""

_FILE: Final = f"{MUTANTS}.toml"
_KERNEL_FILE: Final = f"{KERNEL_MUTANTS}.toml"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line that is another one.

    :ivar breaks: what it does, a sentence.
    :ivar old: is once in the module's file; `new` takes its place.
    :ivar finds: patterns; each fits a finding ("law: message") of the scenario `run`.
    """

    name: str
    breaks: str
    old: str
    new: str
    run: str
    finds: tuple[str, ...]


class Mutants(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="mutants"):
    """All faults, and where their line is.

    :ivar source: name of Debian's package of the kernel's sources; it holds `NAME.tar.xz`.
    :ivar folder: of the sources, in which the module is: `file`, and the files `beside` that it includes.
    :ivar seed: of the scenarios that must find the faults.
    """

    module: str
    source: str
    folder: str
    file: str
    beside: tuple[str, ...]
    seed: int
    fault: tuple[Fault, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All that is taken out of the package."""
        return (self.file, *self.beside)


class KernelFault(Fault, frozen=True, kw_only=True):
    """One line of built-in code.

    :ivar file: of the kernel's sources, in which `old` is once.
    :ivar run: a scenario, or `LEAKCHECK`.
    """

    file: str


class KernelMutants(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="kernel-mutants"
):
    """All faults of built-in code.

    :ivar image: recipe of the guest whose kernel is built with one of them.
    :ivar seed: of the scenarios that must find the faults.
    """

    image: str
    seed: int
    fault: tuple[KernelFault, ...]


class Sources(msgspec.Struct, frozen=True):
    """Source files by name, and the package that holds them."""

    package: Package
    files: dict[str, str]


class Built(NamedTuple):
    """A module that was built.

    :ivar content: stripped of what a debugger would want.
    """

    module: str
    content: bytes
    fault: Fault | None
    package: Package

    def told(self) -> dict[str, object]:
        """For the result, so that its report cannot be mistaken for one on the kernel's own code."""
        return {
            "name": CLEAN if self.fault is None else self.fault.name,
            "breaks": "" if self.fault is None else self.fault.breaks,
            "module": self.module,
            "source": f"{self.package.name} {self.package.version}",
            "sha256": hashlib.sha256(self.content).hexdigest(),
        }


def known() -> Mutants:
    """What ``images/mutants.toml`` says.

    :raise UsageError: it is not valid.
    """
    return _read(_FILE, Mutants)


def known_of_kernel() -> KernelMutants:
    """What ``images/kernel-mutants.toml`` says.

    :raise UsageError: it is not valid.
    """
    return _read(_KERNEL_FILE, KernelMutants)


def _read(file: str, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(tomllib.loads((recipes_dir() / file).read_text()), type=kind)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{file}: {error}", next_step="correct it") from error


def find(name: str) -> Fault | None:
    """A fault of the driver or of built-in code by its name; None: `CLEAN`.

    :raise UsageError: there is none of that name.
    """
    faults: dict[str, Fault] = {fault.name: fault for fault in (*known().fault, *known_of_kernel().fault)}
    if name != CLEAN and name not in faults:
        raise UsageError(
            f"no mutant is called {name!r}; there are: {', '.join([CLEAN, *faults])}",
            next_step="see tcelab image mutants",
        )
    return faults.get(name)


def of_kernel(name: str) -> bool:
    """Whether a mutant is one of built-in code.

    :raise UsageError: there is none of that name.
    """
    return isinstance(find(name), KernelFault)


def build(name: str, image: str, manifest: Manifest, *, fetch: apt.Fetch = apt.fetch) -> Built:
    """The module of a mutant for an image's kernel; some milliseconds when it was built before.

    :param image: the recipe of the image.
    :raise UsageError: no such mutant, or the recipe names no toolchain.
    :raise Unsupported: this host cannot build.
    :raise HarnessError: the sources have changed, or do not compile.
    """
    fault, mutants, recipe = find(name), known(), load(image).recipe
    if isinstance(fault, KernelFault):
        raise UsageError(f"the mutant {name} is no fault of the driver, but of built-in code")
    if not isinstance(recipe, GuestRecipe) or not recipe.toolchain:
        raise UsageError(f"the recipe {image} names no toolchain that could build a mutant of its driver")
    with lock("mutants", "another build of a mutant"), clear_no_space():
        of_kernel = sources(mutants, recipe, manifest, fetch)
        files = patched(fault, of_kernel, mutants) | {"Kbuild": f"obj-m := {mutants.module}.o\n"}
        parts = [mutants.module, manifest.kernel_release, load(recipe.toolchain).sha256, files]
        target = place(parts, ".ko")
        if not target.is_file():
            release = manifest.kernel_release
            with library.toolchain(release, name=recipe.toolchain, fetch=fetch) as toolchain:
                _LOG.info("building %s, mutant %s", mutants.module, name, extra=NOTE)
                write(target, compiled(files, toolchain, release)[mutants.module])
        return Built(mutants.module, target.read_bytes(), fault, of_kernel.package)


def patched(fault: Fault | None, of_kernel: Sources, mutants: Mutants) -> dict[str, str]:
    """The source files with a fault.

    :raise HarnessError: its line is not there, or more than once.
    """
    files = dict(of_kernel.files)
    if fault is not None:
        where = f"{mutants.folder}/{mutants.file} of {of_kernel.package.name} {of_kernel.package.version}"
        files[mutants.file] = replaced(fault, files[mutants.file], f"{_FILE}: {fault.name}: {where}")
    return files


def replaced(fault: Fault, text: str, where: str) -> str:
    """The text of a file with a fault.

    :param where: the fault and its file, for the message.
    :raise HarnessError: its line is not there, or more than once.
    """
    times = text.count(fault.old)
    if times != 1:
        raise HarnessError(
            f"{where} has the old text {times} times, not once: the source has moved on",
            next_step=f"correct `old` and `new` of {fault.name}",
        )
    return text.replace(fault.old, fault.new)


def sources(mutants: Mutants, recipe: GuestRecipe, manifest: Manifest, fetch: apt.Fetch) -> Sources:
    """The source files of an image's kernel. Of the package, which is large, only these are kept.

    :raise HarnessError: Debian has no sources of this very kernel (any more), or a file has moved.
    """
    wanted = {f"{mutants.folder}/{name}": name for name in mutants.files}
    return fetched(mutants.source, wanted, recipe, manifest, fetch)


def fetched(
    source: str, wanted: Mapping[str, str], recipe: GuestRecipe, manifest: Manifest, fetch: apt.Fetch
) -> Sources:
    """Some source files of an image's kernel.

    :param source: name of Debian's package.
    :param wanted: by path in the sources, what each shall be called.
    :raise HarnessError: Debian has no sources of this very kernel (any more), or a file has moved.
    """
    kernel = next(each for each in manifest.packages if each.name.startswith("linux-image-"))
    kept = place([kernel.version, source, wanted], ".json")
    try:
        return msgspec.json.decode(kept.read_bytes(), type=Sources)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    request = apt.FetchRequest(
        architecture=recipe.architecture,
        suites=((kernel.suite,),),
        packages=(source,),
    )
    got = fetch(request)
    (package,), (deb,) = got.packages, got.files
    if package.version != kernel.version:
        raise HarnessError(
            f"Debian has the sources of {package.version}, and the image's kernel is {kernel.version}",
            next_step=f"build the image anew: tcelab image build {manifest.recipe}",
        )
    _LOG.info("taking %d files out of %s %s", len(wanted), package.name, package.version, extra=NOTE)
    found = Sources(package, _extract(deb, source, wanted))
    write(kept, msgspec.json.encode(found))
    # The rest of these 150 MB is never needed.
    deb.unlink(missing_ok=True)
    return found


def _extract(deb: Path, source: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """The wanted files out of the archive in a package; reading ends with the last of them."""
    files = {wanted[path]: text for path, text in sourcepackage.take(deb, source, set(wanted)).items()}
    missing = [path for path, name in wanted.items() if name not in files]
    if missing:
        raise HarnessError(
            f"the package {source} holds no {missing[0]}: the source has moved on",
            next_step=f"correct the names in {_FILE}, or in {CURES}.toml",
        )
    return files


def compiled(files: Mapping[str, str], toolchain: Toolchain, release: str) -> Mapping[str, bytes]:
    """The modules of these sources, by name."""
    with tempfile.TemporaryDirectory(prefix=".mutant-", dir=cache_dir()) as scratch:
        for name, text in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return toolchain.modules(Path(scratch), release)


def place(parts: object, suffix: str) -> Path:
    """Where in the cache that lies which these make out."""
    key = hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:32]
    return cache_dir() / "mutants" / f"{key}{suffix}"


def write(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    path.parent.mkdir(exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
