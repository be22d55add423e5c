"""Building a toolchain: a cross compiler, make and headers of kernels, which run from the cache on any host.

Every program of the tree becomes a script that runs it with the tree's own loader and libraries, because the compiler
starts its parts by path. The host lends its shell and the small tools of a Debian base system (sed, awk, rm and their
like), which kbuild calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.errors import HarnessError
from tcelab.image.apt import Fetch, Fetched, FetchRequest, host_architecture, unpack
from tcelab.image.elf import BadElfError, Elf
from tcelab.image.loader import loader_argv
from tcelab.image.recipe import ToolchainRecipe
from tcelab.image.select import prune, require, walk

__all__ = ["BuiltToolchain", "abi", "build_toolchain", "headers", "wanted"]

_ABI: Final = re.compile(r"(.+?)-[a-z].*")
_PROGRAM: Final = ".elf"
"""Suffix of a program that is run by a script."""

_SCRIPT: Final = """\
#!/bin/sh
here=${{0%/*}}/{up}
exec "$here/{loader}" --library-path "$here/{libraries}" --argv0 "$0" "$here/{program}" "$@"
"""


class BuiltToolchain(NamedTuple):
    """What the manifest tells about a toolchain. `kernels`: releases whose headers it has."""

    fetched: list[Fetched]
    kernels: list[str]


def abi(release: str) -> str:
    """What all flavours of one Debian kernel share: `6.12.95+deb12` of `6.12.95+deb12-powerpc64le-64k`."""
    found = _ABI.fullmatch(release)
    return found[1] if found is not None else release


def wanted(release: str, before: Sequence[str]) -> list[str]:
    """The kernels whose headers a new toolchain shall have, sorted.

    :param release: the kernel that it is needed for; empty: none in particular.
    :param before: those that the old toolchain had. Debian drops a kernel's packages with those of all its flavours.
    """
    if not release:
        return sorted(before)
    return sorted({release, *(other for other in before if abi(other) == abi(release))})


def headers(tree: Path, release: str) -> Path:
    """Where a toolchain has the headers of a kernel."""
    return tree / "usr/src" / f"linux-headers-{release}"


def build_toolchain(recipe: ToolchainRecipe, releases: Sequence[str], image: Path, fetch: Fetch) -> BuiltToolchain:
    """Fill an image's folder with tools that run from there.

    :param releases: the kernels whose headers it shall have.
    :raise HarnessError: a package is missing, or the tools do not run.
    """

    def named(patterns: Sequence[str]) -> tuple[str, ...]:
        every = [pattern.format(release=release, abi=abi(release)) for release in releases for pattern in patterns]
        return tuple(dict.fromkeys(every))

    parts = [fetch(_request(recipe, host_architecture(), (*recipe.packages, *named(recipe.kbuild))))]
    if releases:
        parts.append(fetch(_request(recipe, recipe.architecture, named(recipe.headers))))
    for part in parts:
        unpack(part, image)
    prune(image, recipe.drop, recipe.keep)
    require(image, recipe.required)
    for release in releases:
        _make_relative(headers(image, release) / "Makefile")
    _make_scripts(image)
    return BuiltToolchain(parts, list(releases))


def _request(recipe: ToolchainRecipe, architecture: str, packages: tuple[str, ...]) -> FetchRequest:
    return FetchRequest(
        architecture=architecture,
        suites=recipe.suites,
        packages=packages,
    )


def _make_relative(makefile: Path) -> None:
    """A flavour's Makefile includes that of the common headers, by a path of the host."""
    try:
        text = makefile.read_text()
    except FileNotFoundError:
        raise HarnessError(
            f"the package of the kernel's headers holds no {makefile.name} in {makefile.parent.name}",
            next_step="correct the recipe",
        ) from None
    makefile.write_text(text.replace("include /usr/src/", "include ../"))


def _make_scripts(tree: Path) -> None:
    loader, _, libraries, _ = loader_argv(tree, "")
    own = Path(loader).relative_to(tree)
    # Of the loader's own architecture: the target's libraries lie in such folders, too.
    folders = [Path(each).relative_to(tree) for each in libraries.split(":") if Path(each).name == own.parent.name]
    programs = list(_programs(tree))
    links = [(tree / name, (tree / name).resolve()) for name in walk(tree) if (tree / name).is_symlink()]
    for path in programs:
        path.rename(path.with_name(path.name + _PROGRAM))
        _write_script(path, path, tree, own, folders)
    for link, target in links:
        # A script finds the tree from the folder that it is called in.
        if target in programs and target.parent != link.parent:
            link.unlink()
            _write_script(link, target, tree, own, folders)


def _write_script(path: Path, program: Path, tree: Path, loader: Path, folders: Sequence[Path]) -> None:
    up = "/".join([".."] * len(path.parent.relative_to(tree).parts))
    text = _SCRIPT.format(
        up=up,
        loader=loader,
        libraries=":$here/".join(str(folder) for folder in folders),
        program=f"{program.relative_to(tree)}{_PROGRAM}",
    )
    path.write_text(text)
    path.chmod(0o755)


def _programs(tree: Path) -> Iterator[Path]:
    """Programs for this host that need a loader; no libraries."""
    with Path("/proc/self/exe").open("rb") as own:
        host = Elf(own).machine
    for name in walk(tree):
        path = tree / name
        executable = not path.is_symlink() and path.stat().st_mode & 0o100
        if executable and ".so" not in path.name and _is_program(path, host):
            yield path


def _is_program(path: Path, machine: str) -> bool:
    with path.open("rb") as file:
        try:
            elf = Elf(file)
            return elf.machine == machine and elf.has_interpreter()
        except BadElfError:
            return False  # a script, say
