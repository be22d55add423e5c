"""Building a QEMU tree: the emulator with all its libraries, run by its own loader on any host."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.errors import HarnessError
from tcelab.image.apt import Fetch, Fetched, FetchRequest, host_architecture, unpack
from tcelab.image.hosttools import RunLimit, run
from tcelab.image.loader import library_folders, loader_argv
from tcelab.image.recipe import QemuRecipe
from tcelab.image.select import prune, require, walk
from tcelab.logs import NOTE

__all__ = ["BuiltQemu", "build_qemu", "qemu_argv", "qemu_environment"]

_LOG: Final = logging.getLogger(__name__)

PROBE_LIMIT = 30.0
"""Seconds in which QEMU must answer ``--version`` or ``-device help``."""

_DATA = "usr/share/qemu"


class BuiltQemu(NamedTuple):
    """What the manifest tells about a QEMU."""

    fetched: Fetched
    version: str
    edu: bool


def build_qemu(recipe: QemuRecipe, image: Path, fetch: Fetch) -> BuiltQemu:
    """Fill an image's folder with a QEMU that runs from there.

    :raise HarnessError: a package is missing, QEMU does not run, or it has another version than the recipe says.
    """
    request = FetchRequest(
        architecture=host_architecture(),
        suites=recipe.suites,
        packages=(recipe.package,),
        closure=True,
    )
    fetched = fetch(request)
    unpack(fetched, image)
    prune(image, recipe.drop, recipe.keep)
    require(image, recipe.required)
    _make_links_relative(image)

    _LOG.info("checking that it runs", extra=NOTE)
    argv, environment = qemu_argv(image, recipe.binary), qemu_environment(image)
    limit = RunLimit("asking QEMU for its version and devices", PROBE_LIMIT)
    version = run([*argv, "--version"], limit, environment=environment)
    first = version.splitlines()[0]
    if f"version {recipe.version}." not in first:
        raise HarnessError(
            f"the recipe wants QEMU {recipe.version}, the suites that verify have: {first}",
            next_step="try again later if a suite was left out",
        )
    devices = run([*argv, "-device", "help"], limit, environment=environment)
    return BuiltQemu(fetched, first, 'name "edu"' in devices)


def qemu_argv(image: Path, binary: str) -> tuple[str, ...]:
    """The command that starts this QEMU, up to its firmware folder."""
    return (*loader_argv(image, binary), "-L", str(image / _DATA))


def qemu_environment(image: Path) -> dict[str, str]:
    """What to add to the environment: the path of QEMU's modules, or it would load those of the host's QEMU."""
    return {"QEMU_MODULE_DIR": str(library_folders(image)[-1] / "qemu")}


def _make_links_relative(tree: Path) -> None:
    """Point absolute links into the tree instead of at the host."""
    for name in walk(tree):
        path = tree / name
        if path.is_symlink() and path.readlink().is_absolute():
            target = tree / str(path.readlink()).lstrip("/")
            path.unlink()
            path.symlink_to(os.path.relpath(target, path.parent))
