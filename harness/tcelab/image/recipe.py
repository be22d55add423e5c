"""Recipes: what an image is made of, as TOML in ``images/``.

A recipe may begin with ``like = "other"`` and then says only what differs from that one.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tcelab.errors import UsageError, in_words
from tcelab.image.resources import kmod_dir, native_dir, recipes_dir

__all__ = [
    "CURES",
    "KERNEL_MUTANTS",
    "MUTANTS",
    "GuestRecipe",
    "KernelRecipe",
    "Loaded",
    "QemuRecipe",
    "Recipe",
    "ToolchainRecipe",
    "convert",
    "load",
    "lock_path",
    "recipe_names",
]

_CORRECT = "correct the recipe"

MUTANTS = "mutants"
KERNEL_MUTANTS = "kernel-mutants"
CURES = "cures"
"""Names of the files in the folder that are no recipes: see :mod:`tcelab.image.mutants`, :mod:`tcelab.image.cures`."""


class _Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    suites: tuple[tuple[str, ...], ...]
    """Groups of suites, in order of preference; the newest version within a group wins."""
    drop: tuple[str, ...]
    """Files of the packages that stay out: shell patterns relative to ``/``; ``*`` also matches ``/``."""
    keep: tuple[str, ...] = ()
    """Files that stay in although ``drop`` matches them."""
    required: tuple[str, ...] = ()
    """Files that must be there in the end: a package that moved one is noticed at build, not at boot."""
    on_request: bool = False
    """Built only when it is named, or needed by what is named."""


class GuestRecipe(_Sources, frozen=True, kw_only=True, tag="guest"):
    """A kernel and an initramfs."""

    architecture: str
    """Debian's name of the guest's architecture."""
    kernel: str
    """Pattern of the kernel package; the newest match is taken."""
    modules: tuple[str, ...]
    """Kernel modules in load order, with what they depend on."""
    drivers: tuple[str, ...] = ()
    """Further kernel modules in the image, loaded only on request."""
    python: str
    """Version of the guest's Python, as in its file names ("3.11")."""
    packages: tuple[str, ...]
    """Names of the packages, nothing else is added."""
    compiler: tuple[str, ...]
    """Packages of the host's architecture that make the same Python run on the host, for byte code."""
    directories: tuple[str, ...] = ()
    """Empty directories of the initramfs."""
    quirks: dict[str, str] = {}
    """Known defects of the kernel, by the names of ``tcelab.quirks``, and what shows them."""
    busybox: str = "/bin/busybox"
    """Where the applets' links point to."""
    applets: tuple[str, ...] = ()
    """Links to busybox, by full path."""
    network: bool = False
    """The machine has a network card, which leads from a port on the host's loopback to the guest's sshd."""
    toolchain: str = ""
    """Recipe of the tools that build our own module and programs for this kernel; empty: it has none of them."""
    built: str = ""
    """Recipe of a kernel that is built, in the place of the package `kernel`; empty: the package."""
    inner: str = ""
    """Recipe of the guest that this guest's own QEMU runs, see `tcelab.passthrough`; empty: it runs none."""
    more_drop: tuple[str, ...] = ()
    """Further files that stay out. For a recipe `like` another one; `more_keep`: those of them that stay in."""
    more_keep: tuple[str, ...] = ()


class QemuRecipe(_Sources, frozen=True, kw_only=True, tag="qemu"):
    """A QEMU with all its libraries, for the host's own architecture."""

    package: str
    """The package whose closure is taken."""
    version: str
    """What ``--version`` must begin with ("11.1"), so that a missing suite cannot change it in silence."""
    binary: str
    """Path of the emulator in the tree."""


class ToolchainRecipe(_Sources, frozen=True, kw_only=True, tag="toolchain"):
    """A cross compiler, make and headers of kernels, for the host's own architecture."""

    architecture: str
    """Debian's name of the guests' architecture."""
    headers: tuple[str, ...]
    """Packages of a kernel's headers, of the guests' architecture; with `{release}` and `{abi}`."""
    kbuild: tuple[str, ...]
    """Packages of a kernel's build tools, of the host's; with `{release}` and `{abi}`."""
    packages: tuple[str, ...]
    """Names of the other packages, nothing else is added."""
    hosts: tuple[str, ...]
    """Debian's names of the architectures on which these packages run."""
    prefix: str
    """What the tools' names begin with."""
    compiler: str
    """The C compiler's name, without the prefix."""
    host_compiler: str = ""
    """Name of the C compiler for programs of the host, which a kernel's build runs; empty: it has none."""


class KernelRecipe(_Sources, frozen=True, kw_only=True, tag="kernel"):
    """A kernel, built from Debian's sources. `drop`, `keep` and `required` are about its source tree."""

    architecture: str
    """Debian's name of the architecture whose packages are asked for the sources."""
    source: str
    """Name of the package of the sources; it holds `NAME.tar.xz`."""
    target: str
    """The kernel's name of the architecture that it is built for (ARCH)."""
    toolchain: str
    """Recipe of the tools that build it."""
    options: tuple[str, ...]
    """Its configuration, without `CONFIG_`: `NAME` is `NAME=y`. All others are off, or what these select."""
    more: tuple[str, ...] = ()
    """Further options; one that `options` has as well counts as it is here. For a recipe `like` another one."""


Recipe = GuestRecipe | QemuRecipe | ToolchainRecipe | KernelRecipe


class Loaded(msgspec.Struct, frozen=True):
    """A recipe with its name.

    :ivar sha256: over what is built, our own module's and programs' sources included; comments, the order of fields
        and the kernel's quirks do not count.
    """

    name: str
    sha256: str
    recipe: Recipe

    @property
    def kind(self) -> str:
        """For people: guest, QEMU, toolchain or kernel."""
        return "QEMU" if isinstance(self.recipe, QemuRecipe) else str(self.recipe.__struct_config__.tag)


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(
        path.stem for path in recipes_dir().glob("*.toml") if path.stem not in {MUTANTS, KERNEL_MUTANTS, CURES}
    )


def lock_path(name: str) -> Path:
    """Where the lock of a recipe lies, if it has one."""
    return recipes_dir() / f"{name}.lock"


def load(name: str) -> Loaded:
    """Read one recipe.

    :raise UsageError: there is no recipe of that name, or it is not valid.
    """
    known = recipe_names()
    if name not in known:
        raise UsageError(f"no image recipe is called {name!r}", next_step=f"known names: {', '.join(known)}")
    fields = _whole(name, known)
    recipe = convert(fields, f"{name}.toml")
    # Quirks describe a kernel and do not change the image, nor does when it is built.
    built = {name: value for name, value in fields.items() if name not in {"quirks", "on_request"}}
    if isinstance(recipe, GuestRecipe) and recipe.toolchain:
        built["sources"] = _sources_sha256()
    if isinstance(recipe, GuestRecipe) and recipe.built:
        built["built"] = load(recipe.built).sha256
    digest = hashlib.sha256(msgspec.json.encode(built, order="deterministic")).hexdigest()
    return Loaded(name, digest, recipe)


def _whole(name: str, known: Sequence[str], variants: tuple[str, ...] = ()) -> dict[str, object]:
    """All fields of a recipe: a variant says only what differs from another one, which may be a variant itself.

    :param variants: of this one.
    """
    fields = _read(name)
    if "like" not in fields:
        return fields
    base = fields.pop("like")
    if not isinstance(base, str) or base not in known or base in {name, *variants}:
        raise UsageError(f"{name}.toml: like = {base!r} is no complete recipe", next_step=_CORRECT)
    return _whole(base, known, (*variants, name)) | fields


def _sources_sha256() -> str:
    """Over the names and contents of what a toolchain builds for a guest, hexadecimal."""
    digest = hashlib.sha256()
    for folder in (kmod_dir(), native_dir()):
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            digest.update(f"{folder.name}/{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def quirks(name: str) -> frozenset[str]:
    """Known defects that a recipe declares for its kernel.

    :raise UsageError: there is no such recipe, or it is not valid.
    """
    recipe = load(name).recipe
    return frozenset(recipe.quirks) if isinstance(recipe, GuestRecipe) else frozenset()


def network(name: str) -> bool:
    """Whether a guest of that recipe has a network card.

    :raise UsageError: there is no such recipe, or it is not valid.
    """
    recipe = load(name).recipe
    return isinstance(recipe, GuestRecipe) and recipe.network


def inner(name: str) -> str:
    """Recipe of the guest that a guest of that recipe runs itself; empty: it runs none.

    :raise UsageError: there is no such recipe, or it is not valid.
    """
    recipe = load(name).recipe
    return recipe.inner if isinstance(recipe, GuestRecipe) else ""


def on_request(name: str) -> bool:
    """Whether a recipe is built only when it is named, or needed by what is named.

    :raise UsageError: there is no such recipe, or it is not valid.
    """
    return load(name).recipe.on_request


def _read(name: str) -> dict[str, object]:
    path = recipes_dir() / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name}: {error}", next_step=_CORRECT) from error


def convert(fields: dict[str, object], where: str) -> Recipe:
    """Check the fields of a recipe.

    :param where: the file's name, for the message.
    :raise UsageError: an unknown or missing field, a wrong type; names file and field.
    """
    try:
        recipe: Recipe = msgspec.convert(fields, type=Recipe)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {in_words(str(error))}", next_step=_CORRECT) from error
    return recipe
