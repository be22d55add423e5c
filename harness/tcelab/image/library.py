"""The images of this user: built when needed, checked."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tcelab.errors import UsageError
from tcelab.image import apt, kerneltree
from tcelab.image.guestimage import KERNEL, NativeBuild, OwnBuild, build_guest
from tcelab.image.kbuild import Toolchain, native
from tcelab.image.kerneltree import KernelTree
from tcelab.image.locks import lock
from tcelab.image.manifest import (
    Manifest,
    read_manifest,
    record_files,
    tree_sha256,
    write_manifest,
)
from tcelab.image.overlay import agent_digest, combined_initrd
from tcelab.image.qemu import build_qemu, qemu_argv, qemu_environment
from tcelab.image.recipe import (
    GuestRecipe,
    KernelRecipe,
    Loaded,
    QemuRecipe,
    ToolchainRecipe,
    load,
)
from tcelab.image.recipelock import drift, fetching, read_lock
from tcelab.image.resources import kmod_dir
from tcelab.image.staleness import usable
from tcelab.image.store import (
    image_dir,
    new_image,
)
from tcelab.image.toolchain import build_toolchain, wanted
from tcelab.logs import NOTE, about

__all__ = [
    "GuestImage",
    "OtherKernel",
    "QemuBuild",
    "build",
    "ensure_guest",
    "ensure_kernel",
    "ensure_qemu",
    "image_lock",
    "kernel_tree",
    "toolchain",
]

_LOG: Final = logging.getLogger(__name__)


class GuestImage(msgspec.Struct, frozen=True):
    """A guest that can be booted.

    :ivar initrd: uncompressed; stays while this process lives.
    :ivar agent_digest: what the agent in it must answer, see :func:`~tcelab.image.overlay.agent_digest`.
    """

    name: str
    kernel: Path
    initrd: Path
    manifest: Manifest
    agent_digest: str


class OtherKernel(NamedTuple):
    """A kernel to boot with an image's user space.

    :ivar release: as `uname -r` gives it.
    :ivar modules: to load, by name, in load order. None: the image's if they are of this release, else none.
    """

    release: str
    modules: Mapping[str, bytes] | None


class QemuBuild(msgspec.Struct, frozen=True):
    """A QEMU that can be run.

    :ivar argv: the command up to its firmware folder, without arguments about the guest.
    :ivar environment: to add to the environment.
    """

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    manifest: Manifest


def ensure_guest(
    name: str,
    other: Callable[[str], OtherKernel] | None = None,
    instead: Callable[[Manifest], Mapping[str, bytes]] | None = None,
    more: Mapping[str, Path] | None = None,
) -> GuestImage:
    """A guest image, built when absent, stale or visibly damaged; some milliseconds when present.

    :param other: the kernel that will boot, if it is not the image's: the initrd is made for it. Told the release of
        the image's kernel.
    :param more: further files for the guest, by their places there.
    :param instead: modules that take the place of the image's of their names. Told what is known of the image.
    :raise UsageError: no such recipe, or it is not a guest's.
    :raise Unsupported: it must be built and this host cannot.
    :raise HarnessError: the build failed.
    """
    loaded = load(name)
    if not isinstance(loaded.recipe, GuestRecipe):
        raise UsageError(f"{name} is a {loaded.kind}, not a guest", next_step="see tcelab image list")
    folder = image_dir(name)
    manifest = _ensure(loaded)
    try:
        initrd = combined_initrd(folder, manifest, _modules_of(other, manifest), _instead(instead, manifest), more)
    except FileNotFoundError:  # another process was just replacing the image
        with image_lock(name):
            manifest = usable(loaded) or _build(loaded, apt.fetch)
            initrd = combined_initrd(folder, manifest, _modules_of(other, manifest), _instead(instead, manifest), more)
    return GuestImage(
        name=name,
        kernel=folder / KERNEL,
        initrd=initrd,
        manifest=manifest,
        agent_digest=agent_digest(),
    )


def ensure_qemu(name: str) -> QemuBuild:
    """A QEMU, built when absent, stale or visibly damaged; some milliseconds when present.

    :raise UsageError: no such recipe, or it is not a QEMU's.
    :raise Unsupported: it must be built and this host cannot.
    :raise HarnessError: the build failed.
    """
    loaded = load(name)
    if not isinstance(loaded.recipe, QemuRecipe):
        raise UsageError(f"{name} is a {loaded.kind}, not a QEMU", next_step="see tcelab image list")
    manifest = _ensure(loaded)
    folder = image_dir(name)
    argv, environment = qemu_argv(folder, loaded.recipe.binary), qemu_environment(folder)
    return QemuBuild(name=name, argv=argv, environment=environment, manifest=manifest)


@contextmanager
def toolchain(
    release: str, *, name: str = "toolchain", fetch: apt.Fetch = apt.fetch, newest: bool = False
) -> Iterator[Toolchain]:
    """Tools that build modules for a kernel, and programs; built when absent, stale or without that kernel's headers.

    Nobody replaces them while the block lasts.

    :param release: of the kernel, as `uname -r` gives it; empty: none's headers are needed.
    :param newest: if it is built, then of the newest packages, whatever is locked.
    :raise UsageError: no such recipe, or it is not a toolchain's.
    :raise Unsupported: it must be built and this host cannot.
    :raise HarnessError: the build failed; Debian has no headers of that kernel (any more).
    """
    loaded = load(name)
    if not isinstance(loaded.recipe, ToolchainRecipe):
        raise UsageError(f"{name} is a {loaded.kind}, not a toolchain", next_step="see tcelab image list")
    with image_lock(name):
        manifest = usable(loaded)
        if manifest is None or (release and release not in manifest.kernels):
            manifest = _build(loaded, fetch, release, newest=newest)
        yield Toolchain(image_dir(name), loaded.recipe, manifest.tree_sha256)


def ensure_kernel(name: str) -> Manifest:
    """What is known about a kernel that was built from its sources; built when absent, stale or visibly damaged.

    :raise UsageError: no such recipe, or it is not a kernel's.
    :raise Unsupported: it must be built and this host cannot.
    :raise HarnessError: the build failed.
    """
    return _ensure(_kernel(name))


@contextmanager
def kernel_tree(name: str, *, fetch: apt.Fetch = apt.fetch, newest: bool = False) -> Iterator[KernelTree]:
    """The sources and objects of a kernel, which nobody else touches while the block lasts.

    :param newest: of the newest packages, whatever is locked; then the tree is made anew.
    :raise UsageError: no such recipe, or it is not a kernel's.
    :raise Unsupported: this host cannot build it.
    :raise HarnessError: the build failed.
    """
    loaded = _kernel(name)
    assert isinstance(loaded.recipe, KernelRecipe)
    kerneltree.require_host(loaded.recipe)
    locking = fetching(fetch, read_lock(name), newest=newest)
    with (
        toolchain("", name=loaded.recipe.toolchain, fetch=fetch, newest=newest) as tools,
        kerneltree.tree_lock(name),
    ):
        if newest:
            kerneltree.clean(name)
        yield kerneltree.opened(loaded, tools, locking)


def _kernel(name: str) -> Loaded:
    loaded = load(name)
    if not isinstance(loaded.recipe, KernelRecipe):
        raise UsageError(f"{name} is a {loaded.kind}, not a kernel", next_step="see tcelab image list")
    return loaded


def build(name: str, *, fetch: apt.Fetch = apt.fetch, newest: bool = False) -> Manifest:
    """Build an image anew, whatever is there; the old one is replaced in one step when the new one is ready.

    :param fetch: where the packages come from.
    :param newest: of the newest packages, whatever is locked.
    :raise UsageError: no such recipe.
    :raise Unsupported: this host cannot build.
    :raise HarnessError: the build failed; nothing half-made stays.
    """
    loaded = load(name)
    with image_lock(name):
        return _build(loaded, fetch, newest=newest)


def _modules_of(other: Callable[[str], OtherKernel] | None, manifest: Manifest) -> Mapping[str, bytes] | None:
    """What the guest loads instead of the image's modules; None: the image's."""
    if other is None:
        return None
    kernel = other(manifest.kernel_release)
    return None if kernel.modules is None and kernel.release == manifest.kernel_release else kernel.modules or {}


def _instead(
    modules: Callable[[Manifest], Mapping[str, bytes]] | None, manifest: Manifest
) -> Mapping[str, bytes] | None:
    """The modules that take the place of the image's, each of which it has."""
    if modules is None:
        return None
    given = modules(manifest)
    if foreign := sorted(set(given) - set(manifest.modules)):
        raise UsageError(f"the image {manifest.recipe} loads no module {foreign[0]}: none can take its place")
    return given


def image_lock(name: str) -> AbstractContextManager[None]:
    """Held by whoever builds, replaces or removes an image."""
    return lock(f"image-{name}", f"another build of {name}")


def _ensure(loaded: Loaded) -> Manifest:
    manifest = usable(loaded)
    if manifest is not None:
        return manifest
    with image_lock(loaded.name):
        # Another process may have built it while this one waited.
        return usable(loaded) or _build(loaded, apt.fetch)


def _build(loaded: Loaded, source: apt.Fetch, release: str = "", *, newest: bool = False) -> Manifest:
    """:param source: where packages come from.
    :param release: a toolchain shall have the headers of this kernel, too.
    """
    locked = read_lock(loaded.name)
    fetch = fetching(source, locked, newest=newest)
    with about(loaded.name), new_image(loaded.name) as folder:
        facts: dict[str, object]
        if isinstance(loaded.recipe, GuestRecipe):
            own = _own(loaded.recipe)
            guest = build_guest(loaded.recipe, folder, fetch, _native(loaded.recipe, source, newest=newest), own)
            fetched = guest.fetched
            facts = {
                "kernel_release": guest.kernel_release,
                "modules": guest.modules,
                "python": guest.python,
                "toolchain": guest.toolchain,
            }
        elif isinstance(loaded.recipe, ToolchainRecipe):
            before = read_manifest(image_dir(loaded.name))
            kernels = wanted(release, before.kernels if before is not None else [])
            tools = build_toolchain(loaded.recipe, kernels, folder, fetch)
            fetched = tools.fetched
            facts = {"kernels": tools.kernels}
        elif isinstance(loaded.recipe, KernelRecipe):
            with kernel_tree(loaded.name, fetch=source, newest=newest) as tree:
                (folder / KERNEL).write_bytes(tree.vmlinux())
                (folder / "config").write_bytes(tree.config())
                fetched = [apt.Fetched(packages=(tree.package,), files=())]
                facts = {"kernel_release": tree.release, "toolchain": tree.tools.tree_sha256}
        else:
            qemu = build_qemu(loaded.recipe, folder, fetch)
            fetched = [qemu.fetched]
            facts = {"qemu": qemu.version, "edu": qemu.edu}
        packages = sorted({package for part in fetched for package in part.packages})
        facts |= {"packages": packages, "drift": drift(packages, locked), "newest": newest}
        manifest = _manifest(loaded, folder, fetched, facts)
        write_manifest(folder, manifest)
    megabytes = sum(file.size for file in manifest.files) / 1e6
    with about(loaded.name):
        _LOG.info("ready (%.0f MB)", megabytes, extra=NOTE)
    return manifest


def _native(recipe: GuestRecipe, fetch: apt.Fetch, *, newest: bool) -> Callable[[str], NativeBuild]:
    """What builds, for a kernel's release, what is ours in a guest."""

    def make(release: str) -> NativeBuild:
        with about(""):  # the toolchain's lines name it themselves
            return _built(recipe, release, fetch, newest=newest)

    return make


def _built(recipe: GuestRecipe, release: str, fetch: apt.Fetch, *, newest: bool) -> NativeBuild:
    if not recipe.toolchain:
        return NativeBuild({}, {}, "")
    known = load(recipe.toolchain).recipe
    if isinstance(known, ToolchainRecipe) and apt.host_architecture() not in known.hosts:
        hosts = " and ".join(known.hosts)
        _LOG.warning("no raw hypercalls: their module can be built on %s only", hosts, extra=NOTE)
        return NativeBuild({}, {}, "")
    modules = None
    if recipe.built:
        with kernel_tree(recipe.built, fetch=fetch) as tree:
            modules = tree.modules(kmod_dir())
    wanted_headers = "" if recipe.built else release
    with toolchain(wanted_headers, name=recipe.toolchain, fetch=fetch, newest=newest) as tools:
        return native(tools, release, modules)


def _own(recipe: GuestRecipe) -> OwnBuild | None:
    """The kernel that was built for a guest; None: it has that of a package."""
    if not recipe.built:
        return None
    with about(recipe.built):
        manifest = ensure_kernel(recipe.built)
    return OwnBuild(image_dir(recipe.built) / KERNEL, manifest.kernel_release, tuple(manifest.packages))


def _manifest(loaded: Loaded, folder: Path, fetched: list[apt.Fetched], facts: dict[str, object]) -> Manifest:
    files = record_files(folder)
    fields = {
        "recipe": loaded.name,
        "recipe_sha256": loaded.sha256,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "suites_left_out": [note for part in fetched for note in part.left_out],
        "suites_not_refreshed": [note for part in fetched for note in part.not_refreshed],
        "files": files,
        "tree_sha256": tree_sha256(files),
    }
    return Manifest(**fields, **facts)  # type: ignore[arg-type]
