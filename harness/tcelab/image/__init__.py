"""Images: recipes (TOML) made into guests and QEMUs in the user's cache, without root, from Debian's packages."""

from tcelab.image.library import (
    GuestImage,
    ImageStatus,
    OtherKernel,
    QemuBuild,
    build,
    clean,
    ensure_guest,
    ensure_qemu,
    status,
    toolchain,
)
from tcelab.image.manifest import Manifest
from tcelab.image.overlay import agent_digest
from tcelab.image.recipe import quirks, recipe_names
from tcelab.image.store import cache_dir

__all__ = [
    "GuestImage",
    "ImageStatus",
    "Manifest",
    "OtherKernel",
    "QemuBuild",
    "agent_digest",
    "build",
    "cache_dir",
    "clean",
    "ensure_guest",
    "ensure_qemu",
    "quirks",
    "recipe_names",
    "status",
    "toolchain",
]
