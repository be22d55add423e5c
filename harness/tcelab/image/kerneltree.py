"""A kernel's sources in the cache: unpacked, configured and built once. Then a changed file costs its compilation and a
link.

Layout, in the cache (`tcelab.image.store`), all under one lock::

    kernels/<recipe>/tree/       sources and objects, built where the sources are, so that no path of the host gets in
    kernels/<recipe>/made.json   what the tree is made of; there once it was built whole
    kernels/<recipe>/original/   files that are changed now, as they were
    kernels/<recipe>/building    there while make runs: what is newer was perhaps cut short

Sources: Documentation/kbuild/kconfig.rst (`KCONFIG_ALLCONFIG`), Documentation/kbuild/reproducible-builds.rst.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tcelab.errors import HarnessError, Unsupported
from tcelab.image import sourcepackage
from tcelab.image.apt import Fetch, FetchRequest, host_architecture
from tcelab.image.hosttools import RunLimit, run
from tcelab.image.kbuild import Toolchain, require_path, require_release
from tcelab.image.locks import lock
from tcelab.image.packages import Package
from tcelab.image.recipe import KernelRecipe, Loaded, ToolchainRecipe, load
from tcelab.image.recipelock import read_lock
from tcelab.image.select import require
from tcelab.image.store import cache_dir, clear_no_space, folder_size, remove
from tcelab.logs import NOTE

__all__ = ["KernelTree", "clean", "names", "opened", "require_host", "size", "tree_lock"]

_LOG: Final = logging.getLogger(__name__)

BUILD_LIMIT: Final = 900.0
"""Seconds in which make must say something: a link says nothing, and other work may go first."""

ROOM: Final = 4 << 30
"""Bytes that must be free for sources and objects."""

BORROWED: Final = ("awk", "cmp", "find", "grep", "gzip", "nice", "perl", "sed", "sh")
"""What a kernel's build calls of the host: all of it is in a Debian base system."""

_WAIT: Final = 2 * 60 * 60.0
"""Seconds to wait for another build."""

_FIXED: Final = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "tcelab",
    "KBUILD_BUILD_HOST": "tcelab",
    "KBUILD_BUILD_VERSION": "1",
}
"""What would make two builds differ."""

_OBJECTS: Final = (".o", ".a", ".ko", ".cmd", ".mod", ".mod.c", ".order", ".symvers")


class _Made(msgspec.Struct, frozen=True):
    """What a tree is made of. `recipe`, `tools`: their SHA-256."""

    recipe: str
    tools: str
    package: Package
    release: str = ""


class KernelTree(NamedTuple):
    """A tree that was built whole. Valid while its lock is held.

    :ivar release: as `uname -r` gives it in the guest.
    """

    home: Path
    recipe: KernelRecipe
    tools: Toolchain
    package: Package
    release: str

    def vmlinux(self, changes: Mapping[str, str] | None = None) -> bytes:
        """The kernel, with other texts in some files of the sources. Afterwards the sources are as they were.

        :param changes: text by path.
        :raise HarnessError: it does not compile, or a file is not there.
        """
        _restore(self.home)
        try:
            for path, text in (changes or {}).items():
                _change(self.home, path, text)
            _make(self.home, self.recipe, self.tools, "building the kernel", "vmlinux")
            return (self.home / "tree/vmlinux").read_bytes()
        finally:
            _restore(self.home)

    def source(self, path: str) -> str:
        """The text of a file of the sources.

        :raise HarnessError: it is not there.
        """
        _restore(self.home)
        try:
            return (self.home / "tree" / path).read_text()
        except FileNotFoundError:
            raise HarnessError(
                f"{self.package.name} {self.package.version} holds no {path}: the source has moved on"
            ) from None

    def config(self) -> bytes:
        """The configuration."""
        return (self.home / "tree/.config").read_bytes()

    def modules(self, sources: Path) -> dict[str, bytes]:
        """Modules of a folder with a Kbuild, built for this kernel; by name, sorted.

        :raise HarnessError: they do not compile.
        """
        out = self.home / "modules"
        remove(out)
        shutil.copytree(sources, out)
        try:
            phase = f"building the modules of {sources.name} for {self.release}"
            # No path of this host gets into a module.
            flags = f"KCFLAGS=-ffile-prefix-map={out}=/tcelab"
            _make(self.home, self.recipe, self.tools, phase, f"M={out}", flags, "modules")
            built = {path.stem: path.read_bytes() for path in sorted(out.glob("*.ko"))}
        finally:
            remove(out)
        for name, content in built.items():
            require_release(name, content, self.release)
        return built


def require_host(recipe: KernelRecipe) -> None:
    """Check that this host can build a kernel.

    :raise Unsupported: it cannot; names what it lacks.
    """
    tools = load(recipe.toolchain).recipe
    hosts = tools.hosts if isinstance(tools, ToolchainRecipe) else ()
    if host_architecture() not in hosts:
        raise Unsupported(
            f"a kernel can be built on {' and '.join(hosts)} only, and this host is {host_architecture()}",
            next_step="build it elsewhere; take it by tcelab image export and import, or as --kernel",
        )
    if missing := [tool for tool in BORROWED if shutil.which(tool) is None]:
        raise Unsupported(f"this host has no {', '.join(missing)}, which a kernel's build runs", next_step="install it")


def opened(loaded: Loaded, tools: Toolchain, fetch: Fetch) -> KernelTree:
    """The tree of a kernel's recipe, built when it is absent or made of something else. To be used under its lock.

    :raise HarnessError: there is no room, an option is not taken, or it does not compile.
    """
    recipe, home = loaded.recipe, cache_dir() / "kernels" / loaded.name
    assert isinstance(recipe, KernelRecipe)
    made = _made(home)
    if made is None or not _fits(made, loaded, tools):
        with clear_no_space():
            made = _build(loaded, recipe, home, tools, fetch)
    return KernelTree(home, recipe, tools, made.package, made.release)


def tree_lock(name: str) -> AbstractContextManager[None]:
    """Held by whoever uses the tree of a recipe: a build may take an hour on a busy machine."""
    return lock(f"kernel-{name}", f"another build of the kernel {name}", limit=_WAIT)


def names() -> list[str]:
    """The recipes of which there is a tree, sorted."""
    return sorted(path.name for path in (cache_dir() / "kernels").glob("*"))


def size(name: str) -> int:
    """Bytes of a recipe's tree; 0 when it is absent."""
    return folder_size(cache_dir() / "kernels" / name)


def clean(name: str) -> int:
    """Delete a recipe's tree, under its lock; the bytes freed."""
    return remove(cache_dir() / "kernels" / name)


def _made(home: Path) -> _Made | None:
    try:
        return msgspec.json.decode((home / "made.json").read_bytes(), type=_Made)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _fits(made: _Made, loaded: Loaded, tools: Toolchain) -> bool:
    locked = {each.name: each.sha256 for each in read_lock(loaded.name)}
    same = locked.get(made.package.name, made.package.sha256) == made.package.sha256
    return same and (made.recipe, made.tools) == (loaded.sha256, tools.tree_sha256)


def _build(loaded: Loaded, recipe: KernelRecipe, home: Path, tools: Toolchain, fetch: Fetch) -> _Made:
    remove(home)
    home.mkdir(parents=True)
    free = shutil.disk_usage(home).free
    if free < ROOM:
        raise HarnessError(
            f"a kernel's tree needs {ROOM >> 20} MiB, and {home} has {free >> 20} MiB free",
            next_step="free some space, or name another folder in TCELAB_CACHE",
        )
    request = FetchRequest(architecture=recipe.architecture, suites=recipe.suites, packages=(recipe.source,))
    fetched = fetch(request)
    (package,), (deb,) = fetched.packages, fetched.files
    _LOG.info("unpacking %s %s", package.name, package.version, extra=NOTE)
    _unpack(deb, recipe, home / "tree")
    deb.unlink(missing_ok=True)  # these 150 MB are never needed again
    require(home / "tree", recipe.required)
    _configure(home, recipe, tools)
    _LOG.info("building the kernel: some minutes of CPU", extra=NOTE)
    # The modules, of which there are none: it writes what others are linked against.
    _make(home, recipe, tools, "building the kernel", "vmlinux", "modules")
    release = (home / "tree/include/config/kernel.release").read_text().strip()
    made = _Made(loaded.sha256, tools.tree_sha256, package, release)
    (home / "made.json").write_bytes(msgspec.json.encode(made))
    return made


def _unpack(deb: Path, recipe: KernelRecipe, tree: Path) -> None:
    tree.mkdir()
    for entry in sourcepackage.entries(deb, recipe.source):
        path, target = entry.path, tree / entry.path
        if any(fnmatchcase(path, p) for p in recipe.drop) and not any(fnmatchcase(path, p) for p in recipe.keep):
            continue
        if entry.member.isfile():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(entry.content(), file)
            target.chmod(0o755 if entry.member.mode & 0o100 else 0o644)
        elif entry.member.issym():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(entry.member.linkname)


def _configure(home: Path, recipe: KernelRecipe, tools: Toolchain) -> None:
    asked = dict(_option(each) for each in (*recipe.options, *recipe.more))
    given = home / "options"
    given.write_text("".join(f"{_line(name, value)}\n" for name, value in asked.items()))
    _make(home, recipe, tools, "configuring the kernel", "allnoconfig", KCONFIG_ALLCONFIG=str(given))
    taken = set((home / "tree/.config").read_text().splitlines())
    names = {line.partition("=")[0] for line in taken}
    for name, value in asked.items():
        off = value == "n" and f"CONFIG_{name}" not in names
        if not off and _line(name, value) not in taken:
            raise HarnessError(
                f"the kernel does not take CONFIG_{name}={value}: it is not there, or needs another option",
                next_step="correct the options of the recipe",
            )


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return name, value if equals else "y"


def _line(name: str, value: str) -> str:
    return f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}"


def _make(home: Path, recipe: KernelRecipe, tools: Toolchain, phase: str, *targets: str, **environment: str) -> None:
    mark = home / "building"
    _forget_what_was_cut_short(home / "tree", mark)
    mark.touch()
    of_tree, cross = tools.folder, tools.recipe.prefix
    given = {
        "LC_ALL": "C",
        "PATH": f"{of_tree / 'usr/bin'}:/usr/bin:/bin",
        "M4": str(of_tree / "usr/bin/m4"),  # flex and bison have the host's path in them
        "BISON_PKGDATADIR": str(of_tree / "usr/share/bison"),
        **_FIXED,
        **environment,
    }
    jobs = len(os.sched_getaffinity(0))
    arguments = (
        # Nothing of the host's environment: it may be set up for another build.
        "env", "-i", *(f"{name}={value}" for name, value in given.items()),
        "nice", "-n", "10", "make", "-C", str(home / "tree"), f"-j{jobs}", f"-l{2 * jobs}",
        f"ARCH={recipe.target}", f"CROSS_COMPILE={cross}", f"CC={cross}{tools.recipe.compiler}",
        # Linked statically, a program of the build runs with any C library of the host's.
        f"HOSTCC={tools.recipe.host_compiler} --sysroot={of_tree}", "HOSTLDFLAGS=-static",
        *targets,
    )  # fmt: skip
    require_path(phase, of_tree, home)
    run(arguments, RunLimit(phase, BUILD_LIMIT))
    mark.unlink()


def _forget_what_was_cut_short(tree: Path, mark: Path) -> None:
    """Delete the objects that a make which did not end well has begun: they may be half written, and look new."""
    if not mark.exists():
        return
    since = mark.stat().st_mtime
    for path in _files(tree):
        made = path.name.endswith(_OBJECTS) or path.name in {"vmlinux", "System.map"} or path.name.startswith(".tmp_")
        if made and path.lstat().st_mtime >= since:
            path.unlink()
    mark.unlink()


def _files(tree: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(tree):
        for name in names:
            yield Path(parent, name)


def _change(home: Path, path: str, text: str) -> None:
    target, kept = home / "tree" / path, home / "original" / path
    if not target.is_file():
        raise HarnessError(f"the kernel's sources hold no {path}: the source has moved on")
    kept.parent.mkdir(parents=True, exist_ok=True)
    target.rename(kept)
    target.write_text(text)


def _restore(home: Path) -> None:
    """Put back all that is changed, also by a process that was killed."""
    original = home / "original"
    for kept in list(_files(original)):
        # make goes by times: an old file would look as if it had been compiled.
        kept.touch()
        kept.replace(home / "tree" / kept.relative_to(original))
    remove(original)
