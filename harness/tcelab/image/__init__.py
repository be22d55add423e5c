"""Images: recipes (TOML) made into guests and QEMUs in the user's cache, without root, from Debian's packages.

- `apt`: fetches packages with apt in a private root
- `archive`: where Debian's packages come from
- `bases`: booted guests that are kept for forks
- `bytecode`: byte code for the guest's Python
- `compressed`: files compressed as distributions do it: .xz, .gz, .zst
- `cpio`: writes an initramfs
- `cures`: the guest's driver or kernel, rebuilt without known defects
- `defectspage`: `docs/defects/`, from the cures
- `elf`: what tcelab reads of an ELF file: its header, the names of its sections, a module's `.modinfo`
- `guestimage`: builds a guest image
- `hosttools`: runs the host's tools, with a limit on silence
- `imagetar`: the file that carries images: its members, and a strict reader
- `kbuild`: builds kernel modules and C programs for a guest
- `kernelmutants`: the guest's kernel, built with one line of built-in code changed
- `kerneltree`: a kernel's sources and objects in the cache
- `known`: remembers facts about files and QEMU builds until these change
- `library`: the images of this user: built when needed, checked
- `loader`: runs a program of an unpacked package tree
- `locks`: locks between processes
- `manifest`: what an image consists of, and how to verify it
- `modules`: finds, orders and unpacks a kernel's modules
- `mutants`: the guest's driver, rebuilt with one line changed
- `overlay`: the part of the initramfs that is ours
- `packages`: which package of which suite
- `qemu`: builds a QEMU tree
- `recipe`: recipes, as TOML in `images/`
- `recipelock`: the packages of each recipe by version and hash, in `images/*.lock`
- `resources`: where tcelab's own files lie
- `room`: how much room kept bases may take
- `select`: which files of the packages go into an image
- `shelf`: what of images is in the cache, and its removal
- `sourcepackage`: reads the package of a kernel's sources
- `sparse`: copies and hashes RAM files without their zeros
- `staleness`: decides whether an image is usable, or is stale or damaged and must be built again
- `store`: the cache on disk
- `toolchain`: builds a toolchain
- `transfer`: images in one file, for a machine without a network
"""

from tcelab.image.library import (
    GuestImage,
    OtherKernel,
    QemuBuild,
    build,
    ensure_guest,
    ensure_qemu,
    toolchain,
)
from tcelab.image.manifest import Manifest
from tcelab.image.overlay import agent_digest
from tcelab.image.recipe import inner, network, on_request, quirks, recipe_names
from tcelab.image.shelf import ImageStatus, built, clean, status
from tcelab.image.store import cache_dir

__all__ = [
    "GuestImage",
    "ImageStatus",
    "Manifest",
    "OtherKernel",
    "QemuBuild",
    "agent_digest",
    "build",
    "built",
    "cache_dir",
    "clean",
    "ensure_guest",
    "ensure_qemu",
    "inner",
    "network",
    "on_request",
    "quirks",
    "recipe_names",
    "status",
    "toolchain",
]
