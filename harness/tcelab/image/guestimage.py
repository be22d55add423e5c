"""Building a guest image: the kernel, the packages' initramfs, and the compiler for the agent's byte code."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.errors import HarnessError
from tcelab.image import cpio
from tcelab.image import modules as drivers
from tcelab.image.apt import Fetch, Fetched, FetchRequest, host_architecture, unpack
from tcelab.image.bytecode import CompileJob, compile_all
from tcelab.image.overlay import BASE
from tcelab.image.packages import Package
from tcelab.image.recipe import GuestRecipe
from tcelab.image.select import prune, require, walk
from tcelab.logs import NOTE

__all__ = ["KERNEL", "BuiltGuest", "NativeBuild", "OwnBuild", "build_guest"]

_LOG: Final = logging.getLogger(__name__)

KERNEL = "vmlinux"
"""Name of the kernel in a guest image."""

INNER: Final = ("usr/bin/qemu-system-ppc64", "usr/share/qemu/vof.bin")
"""What a guest needs that runs a guest of its own."""

PROGRAMS = "usr/lib/tcelab"
"""Where the guest has our programs."""


class NativeBuild(NamedTuple):
    """What is built for a guest from our own sources.

    :ivar modules: by name, in load order; loaded after the kernel's own.
    :ivar programs: by name; they lie in the guest's /usr/lib/tcelab.
    :ivar toolchain: `tree_sha256` of the tools; empty: nothing was built.
    """

    modules: dict[str, bytes]
    programs: dict[str, bytes]
    toolchain: str


class OwnBuild(NamedTuple):
    """A kernel that was built from its sources. `packages`: these sources."""

    vmlinux: Path
    release: str
    packages: tuple[Package, ...]


class BuiltGuest(NamedTuple):
    """What the manifest tells about a guest image."""

    fetched: list[Fetched]
    kernel_release: str
    modules: list[str]
    python: str
    toolchain: str


def build_guest(
    recipe: GuestRecipe, image: Path, fetch: Fetch, native: Callable[[str], NativeBuild], own: OwnBuild | None = None
) -> BuiltGuest:
    """Fill an image's folder with ``vmlinux``, ``base.cpio`` and ``tools/``.

    The load order of the modules is in the guest's ``/etc/tcelab-modules``: one absolute path per line.

    :param image: the empty folder to fill; scratch trees in it are removed again.
    :param native: given the kernel's release, builds what is ours.
    :param own: the kernel, if it is not that of a package; it has no modules but ours.
    :raise HarnessError: a package, the kernel or a module is missing.
    """
    kernel = (recipe.kernel,) if own is None else ()
    of_guest = fetch(_request(recipe, recipe.architecture, (*kernel, *recipe.packages)))
    of_host = fetch(_request(recipe, host_architecture(), recipe.compiler))
    root, tools, scratch = image / ".root", image / "tools", image / ".scratch"
    unpack(of_guest, root)
    unpack(of_host, tools)
    modules: dict[str, bytes] = {}
    carried: dict[str, bytes] = {}
    if own is not None:
        release = own.release
        shutil.copy(own.vmlinux, image / KERNEL)
    else:
        release = _take_kernel(root, image / KERNEL)
        modules = _modules(root / "lib/modules" / release, recipe.modules)
        # With their dependencies, except those that are loaded anyway.
        carried = _modules(root / "lib/modules" / release, [*recipe.modules, *recipe.drivers])
        shutil.rmtree(root / "lib/modules")
    ours = native(release)
    modules |= ours.modules
    for tree in (root, tools):
        prune(tree, (*recipe.drop, *recipe.more_drop), (*recipe.keep, *recipe.more_keep))
        require(tree, recipe.required)
    if recipe.inner:
        require(root, INNER)

    _LOG.info("compiling the standard library", extra=NOTE)
    library = f"usr/lib/python{recipe.python}/"
    compiled = list(_compile(root, tools, recipe.python, library, scratch))

    _LOG.info("writing %s", BASE, extra=NOTE)
    entries = [*_skeleton(recipe), *_plain(root, library), *compiled, *drivers.entries(modules, carried)]
    entries += [cpio.file(f"{PROGRAMS}/{name}", content, executable=True) for name, content in ours.programs.items()]
    with (image / BASE).open("wb") as stream:
        cpio.write_archive(stream, entries)
    for folder in (root, scratch):
        shutil.rmtree(folder)
    fetched = [of_guest, of_host, *([Fetched(packages=own.packages, files=())] if own is not None else [])]
    return BuiltGuest(fetched, release, list(modules), recipe.python, ours.toolchain)


def _request(recipe: GuestRecipe, architecture: str, packages: tuple[str, ...]) -> FetchRequest:
    return FetchRequest(
        architecture=architecture,
        suites=recipe.suites,
        packages=packages,
    )


def _take_kernel(root: Path, target: Path) -> str:
    """Move the kernel out of the tree and drop ``boot``; returns the kernel's release."""
    kernels = list((root / "boot").glob("vmlinux-*"))
    if len(kernels) != 1:
        raise HarnessError(f"the kernel package holds {len(kernels)} kernels", next_step="correct the recipe")
    release = kernels[0].name.removeprefix("vmlinux-")
    kernels[0].rename(target)
    shutil.rmtree(root / "boot")
    return release


def _modules(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The modules in load order, unpacked because the guest has no xz, without those that are built in."""
    modules, missing = drivers.resolve(folder, names)
    if missing:
        raise HarnessError(f"kernel {folder.name} has no module {missing[0]}", next_step="correct the recipe")
    return modules


def _compile(root: Path, tools: Path, python: str, library: str, scratch: Path) -> Iterator[cpio.Member]:
    """Byte code in place of the sources: smaller, and no search in ``__pycache__``."""
    scratch.mkdir()
    jobs: list[CompileJob] = []
    for path in walk(root):
        if path.startswith(library) and path.endswith(".py"):
            target = scratch / f"{len(jobs)}.pyc"
            jobs.append(CompileJob(root / path, target, f"/{path}"))
            yield cpio.file(f"{path}c", target)
    compile_all(tools, python, jobs)


def _plain(root: Path, library: str) -> Iterator[cpio.Member]:
    """Everything of the packages but Python sources of the standard library."""
    for name in walk(root):
        path = root / name
        if path.is_symlink():
            yield cpio.link(name, path.readlink().as_posix())
        elif not (name.startswith(library) and name.endswith(".py")):
            yield cpio.file(name, path, executable=bool(path.stat().st_mode & 0o100))


def _skeleton(recipe: GuestRecipe) -> Iterator[cpio.Member]:
    for name in recipe.directories:
        # The agent's children may have another uid.
        yield cpio.directory(name.strip("/"), 0o1777 if name == "/tmp" else 0o755)  # noqa: S108 - the guest's
    for applet in recipe.applets:
        yield cpio.link(applet.strip("/"), recipe.busybox)
    # The kernel opens /dev/console for init before anything could mount devtmpfs.
    yield cpio.device("dev/console", 5, 1)
    yield cpio.device("dev/null", 1, 3)
