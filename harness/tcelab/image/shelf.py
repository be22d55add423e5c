"""What of images is in the cache: how each stands, and what is removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tcelab.errors import UsageError
from tcelab.image import kerneltree
from tcelab.image.library import image_lock
from tcelab.image.locks import lock
from tcelab.image.manifest import Manifest, read_manifest
from tcelab.image.recipe import load, recipe_names
from tcelab.image.staleness import State, problems_of
from tcelab.image.store import cache_dir, folder_size, image_dir, remove, remove_leftovers

__all__ = ["ImageStatus", "built", "clean", "status"]


class ImageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an image stands.

    :ivar state: "stale": built from another recipe or by another version of tcelab's builder.
    :ivar problems: what is damaged or stale, one line each, beginning with the file's path where there is one.
    :ivar size: bytes on disk; of a kernel with its sources and objects.
    """

    name: str
    state: State
    problems: list[str]
    size: int
    folder: Path
    manifest: Manifest | None


def built(name: str) -> Manifest:
    """What is known about an image that is there, undamaged and of today's recipe, whatever its lock says.

    :raise UsageError: there is none, or no such recipe.
    """
    loaded, folder = load(name), image_dir(name)
    manifest = read_manifest(folder)
    if (
        manifest is None
        or manifest.recipe_sha256 != loaded.sha256
        or problems_of(loaded, folder, manifest, full=True)[0]
    ):
        raise UsageError(f"{name} is not built, or stale, or damaged", next_step=f"tcelab image build {name}")
    return manifest


def status(name: str, *, full: bool = True) -> ImageStatus:
    """How an image stands.

    :param full: read and check all of it (a second or so), not only presence and sizes.
    :raise UsageError: no such recipe.
    """
    loaded = load(name)
    folder = image_dir(name)
    manifest = read_manifest(folder)
    damaged, stale = problems_of(loaded, folder, manifest, full=full)
    state: State = "ok"
    if not folder.exists():
        state = "absent"
    elif damaged:
        state = "damaged"
    elif stale:
        state = "stale"
    return ImageStatus(
        name=name,
        state=state,
        problems=[] if state == "absent" else damaged + stale,
        size=folder_size(folder) + kerneltree.size(name),
        folder=folder,
        manifest=manifest,
    )


def clean(names: Sequence[str]) -> int:
    """Delete images and return the bytes freed.

    :param names: images; none: all of them, and what is kept for the next build: packages, indices, mutants.
    :raise UsageError: no such recipe.
    """
    known = recipe_names()
    for name in names:
        if name not in known:
            load(name)  # says what is wrong with it
    freed = 0
    # Every lock was taken in turn, so no build can be reading the packages that are removed last.
    for name in names or sorted({*known, *_present(), *kerneltree.names()}):
        with image_lock(name):
            freed += remove(image_dir(name))
            remove_leftovers(name)
        with kerneltree.tree_lock(name):
            freed += kerneltree.clean(name)
    if not names:
        with lock("packages", "another download of packages"):
            freed += remove(cache_dir() / "apt")
        with lock("mutants", "another build of a mutant"):
            freed += remove(cache_dir() / "mutants")
    return freed


def _present() -> list[str]:
    """Names of all images in the cache, also those without a recipe today."""
    return sorted(path.name for path in (cache_dir() / "images").glob("*") if not path.name.startswith("."))
