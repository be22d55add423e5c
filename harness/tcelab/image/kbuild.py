"""Building kernel modules and C programs for a guest with a toolchain of the cache.

Source: Documentation/kbuild/modules.rst (`make M=`); scripts/mod/modpost.c for `vermagic=` in every module, which the
kernel compares with its own when it loads one (kernel/module/main.c, check_modinfo).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.errors import HarnessError
from tcelab.image.elf import BadElfError
from tcelab.image.guestimage import NativeBuild
from tcelab.image.hosttools import RunLimit, run
from tcelab.image.modules import release_of
from tcelab.image.recipe import ToolchainRecipe
from tcelab.image.resources import kmod_dir, native_dir
from tcelab.image.store import cache_dir
from tcelab.image.toolchain import headers

__all__ = ["Toolchain", "native", "require_path", "require_release"]

BUILD_LIMIT: Final = 120.0
"""Seconds in which make or the compiler must say something."""

_FOR_PROGRAMS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")


class Toolchain(NamedTuple):
    """A cross compiler, make and headers of kernels.

    :ivar folder: its tree; valid while its lock is held.
    :ivar tree_sha256: of the tree, as its manifest has it.
    """

    folder: Path
    recipe: ToolchainRecipe
    tree_sha256: str

    def modules(self, sources: Path, release: str) -> dict[str, bytes]:
        """Build the modules of a folder with a Kbuild for a kernel, and strip what a debugger would want.

        :return: by name, sorted.
        :raise HarnessError: they do not compile (with what the compiler says), or are not of this release.
        """
        with _scratch() as scratch:
            shutil.copytree(sources, scratch / "m")
            self._run(
                f"building the modules of {sources.name} for {release}",
                "make",
                "-C", headers(self.folder, release),
                f"M={scratch / 'm'}",
                f"CROSS_COMPILE={self.recipe.prefix}",
                # No path of this host gets into a module.
                f"KCFLAGS=-ffile-prefix-map={scratch}=/tcelab",
                # Its type information would need the kernel's, and pahole.
                "CONFIG_DEBUG_INFO_BTF_MODULES=",
                "modules",
            )  # fmt: skip
            built = sorted((scratch / "m").glob("*.ko"))
            # The build's number hashes what has been stripped, too.
            self._run(
                "stripping the modules",
                f"{self.recipe.prefix}strip", "--strip-debug", "--remove-section=.note.gnu.build-id", *built,
            )  # fmt: skip
            modules = {path.stem: path.read_bytes() for path in built}
        for name, content in modules.items():
            require_release(name, content, release)
        return modules

    def program(self, source: Path) -> bytes:
        """Compile one C file to a program that needs no library.

        :raise HarnessError: it does not compile; the message holds the compiler's.
        """
        with _scratch() as scratch:
            copy = scratch / source.name
            shutil.copy(source, copy)
            target = scratch / "program"
            self._run(
                f"compiling {source.name}",
                f"{self.recipe.prefix}{self.recipe.compiler}",
                *_FOR_PROGRAMS,
                f"-ffile-prefix-map={scratch}=/tcelab",
                "-Wl,--build-id=none",
                "-o", target,
                copy,
            )  # fmt: skip
            return target.read_bytes()

    def _run(self, phase: str, tool: str, *arguments: str | Path) -> None:
        require_path(phase, self.folder, *(each for each in arguments if isinstance(each, Path)))
        # Nothing of the host's environment: it may be set up for another build.
        environment = ("env", "-i", "LC_ALL=C", f"PATH={self.folder / 'usr/bin'}:/usr/bin:/bin")
        run([*environment, tool, *arguments], RunLimit(phase, BUILD_LIMIT))


def native(tools: Toolchain, release: str, modules: Mapping[str, bytes] | None = None) -> NativeBuild:
    """What is ours in a guest, built for its kernel.

    :param modules: already built in the kernel's own tree; None: with the kernel's headers.
    :raise HarnessError: it does not compile.
    """
    programs = {path.stem: tools.program(path) for path in sorted(native_dir().glob("*.c"))}
    built = tools.modules(kmod_dir(), release) if modules is None else dict(modules)
    return NativeBuild(built, programs, tools.tree_sha256)


def require_path(phase: str, *paths: Path) -> None:
    """Check that kbuild can work in these folders.

    :raise HarnessError: it cannot.
    """
    for path in paths:
        if re.search(r"[\s:]", str(path)):
            raise HarnessError(
                f"{phase}: kbuild works in no folder with a space or a colon in its name: {path}",
                next_step="name another folder in TCELAB_CACHE",
            )


def require_release(name: str, module: bytes, release: str) -> None:
    """Check that a kernel will take a module.

    :raise HarnessError: it is another kernel's, or no module at all.
    """
    try:
        found = release_of(module)
    except BadElfError as error:
        raise HarnessError(f"the module {name} as built is none: {error}", next_step="build it anew") from None
    if found != release:
        raise HarnessError(
            f"the module {name} is of kernel {found or 'unknown'}, not of {release}",
            next_step="build it with the headers of this very kernel",
        )


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache_dir()) as folder:
        yield Path(folder)
