"""Whether an image in the cache can be used as it is, or must be built again: it is absent, damaged or stale.

Stale: built from another recipe or lock, or by another version of the builder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tcelab.image.manifest import BUILDER, Manifest, full_problems, quick_problems, read_manifest
from tcelab.image.overlay import initrd_problems
from tcelab.image.recipe import GuestRecipe, Loaded
from tcelab.image.recipelock import outdated, read_lock
from tcelab.image.store import image_dir

State = Literal["ok", "absent", "stale", "damaged"]


def usable(loaded: Loaded) -> Manifest | None:
    """The manifest of the image of a recipe; None: it must be built (again)."""
    folder = image_dir(loaded.name)
    manifest = read_manifest(folder)
    damaged, stale = problems_of(loaded, folder, manifest, full=False)
    return None if damaged or stale else manifest


def problems_of(loaded: Loaded, folder: Path, manifest: Manifest | None, *, full: bool) -> tuple[list[str], list[str]]:
    """What is damaged, and what is stale.

    :param full: read all of it, not only presence and sizes.
    """
    if manifest is None:
        return ["manifest.json: missing or not readable"], []
    stale = []
    if manifest.builder != BUILDER:
        stale.append(f"built by version {manifest.builder} of the builder, now {BUILDER}")
    if manifest.recipe_sha256 != loaded.sha256:
        stale.append("the recipe has changed")
    if why := outdated(read_lock(loaded.name), manifest):
        stale.append(f"the lock has changed: {why}")
    damaged = full_problems(folder, manifest) if full else quick_problems(folder, manifest)
    if full and isinstance(loaded.recipe, GuestRecipe):
        damaged += initrd_problems(folder, manifest)
    return damaged, stale
