"""Modules of a kernel: found in a tree, put in load order with all they depend on, unpacked.

Sources: Documentation/kbuild/modules.rst for the folders of `make modules_install`; scripts/mod/modpost.c for the
strings `depends=` and `vermagic=` that every module carries. Debian's packages hold no modules.dep (depmod runs when
they are installed), so dependencies are read from the modules themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.errors import Unsupported, UsageError
from tcelab.image import compressed, cpio
from tcelab.image.compressed import OPENERS
from tcelab.image.elf import BadElfError, modinfo

__all__ = ["DRIVERS", "HYPERCALLS", "Resolved", "entries", "files", "of_kernel", "release_of", "resolve"]

DRIVERS: Final = {
    "virtio_pci": "CONFIG_VIRTIO_PCI",
    "virtio_console": "CONFIG_VIRTIO_CONSOLE",
    "vfio": "CONFIG_VFIO",
    "vfio_iommu_spapr_tce": "CONFIG_VFIO_IOMMU_SPAPR_TCE",
    "vfio-pci": "CONFIG_VFIO_PCI",
}
"""Drivers that a guest needs, in load order, and their options: built into its kernel, or modules."""

HYPERCALLS: Final = "tce_hcall"
"""Our module: a kernel that has loaded it takes raw hypercalls from root. Loaded last, where there is one."""

DMA_API: Final = "tce_dma"
"""Our driver that uses the kernel's DMA API for programs."""
OURS: Final = (DMA_API, HYPERCALLS)

_FOLDER: Final = "lib/modules-tcelab"
_LOAD_ORDER: Final = "etc/tcelab-modules"

_NAME: Final = re.compile(r"(.+)\.ko(\.\w+)?")


class Resolved(NamedTuple):
    """Modules by name, in load order, unpacked; and the names that are neither modules nor known to be built in."""

    modules: dict[str, bytes]
    missing: list[str]


class _Tree:
    """All modules of one kernel. A name may be written with `-` or with `_`."""

    def __init__(self, folder: Path) -> None:
        self.files = {_same(name): path for name, path in _modules(folder)}
        listed = folder / "modules.builtin"
        self.tells = listed.is_file()
        self.builtin = {_same(Path(line).stem) for line in listed.read_text().split()} if self.tells else set()


def resolve(folder: Path, names: Sequence[str]) -> Resolved:
    """The modules of these names and all that they depend on, each after what it depends on.

    Without `modules.builtin` it is unknown what is built in, so nothing counts as missing.

    :param folder: of one kernel, such as lib/modules/RELEASE.
    :raise UsageError: a module cannot be unpacked, or is none.
    """
    tree = _Tree(folder)
    out = Resolved({}, [])
    begun: set[str] = set()

    def load(name: str) -> None:
        if _same(name) in begun:
            return
        begun.add(_same(name))
        path = tree.files.get(_same(name))
        if path is not None:
            content = _unpacked(path)
            for other in _depends(content):
                load(other)
            out.modules[_stem(path)] = content
        elif tree.tells and _same(name) not in tree.builtin:
            out.missing.append(name)

    for name in names:
        load(name)
    return out


def of_kernel(given: Path, release: str) -> dict[str, bytes]:
    """The drivers that the kernel of a release has as modules, with all they depend on, in load order.

    Behind them our own modules, those of them that are there: built with that kernel's headers (`make M=` in
    guest/kmod) and put there by hand.

    :param given: a folder of one kernel's modules (lib/modules/RELEASE, or the kernel's build tree), the folder above
        it, or a root that holds lib/modules/RELEASE or usr/lib/modules/RELEASE (INSTALL_MOD_PATH, an unpacked package).
        Or our own module by itself, for a kernel that has all others built in.
    :raise UsageError: it is none, or holds other releases only, or one of these modules is of another release.
    :raise Unsupported: the kernel has a driver neither built in nor as a module.
    """
    if given.is_file():
        return _single(given, release)
    folder = _fitting(given, release)
    modules, missing = resolve(folder, [*DRIVERS, *OURS])
    missing = [name for name in missing if name not in OURS]  # no raw hypercalls, then, or no driver of the DMA API
    for name, content in modules.items():
        if (found := release_of(content)) not in {"", release}:
            raise UsageError(
                f"the module {name} in {folder} is of kernel {found}, not of {release}",
                next_step="build it with the headers of this very kernel",
            )
    if missing:
        options = ", ".join(f"{name} ({DRIVERS[name]})" if name in DRIVERS else name for name in missing)
        raise Unsupported(
            f"kernel {release} has {options} neither built in nor as a module in {folder}",
            next_step="build the kernel with it; with `=m`: make modules modules_install",
        )
    return modules


def release_of(module: bytes) -> str:
    """The kernel release that an unpacked module names; empty if it names none.

    :raise BadElfError: it is no module.
    """
    return modinfo(module).get("vermagic", "").partition(" ")[0]


def entries(modules: Mapping[str, bytes], carried: Mapping[str, bytes] | None = None) -> Iterator[cpio.Member]:
    """What makes the guest's init load these modules in this order, and no others.

    :param carried: modules that are there to be loaded later.
    """
    yield from files({**(carried or {}), **modules})
    yield cpio.file(_LOAD_ORDER, "".join(f"/{_FOLDER}/{name}.ko\n" for name in modules).encode())


def files(modules: Mapping[str, bytes]) -> Iterator[cpio.Member]:
    """The modules at their paths. This does not decide which are loaded, or when."""
    for name, content in modules.items():
        yield cpio.file(f"{_FOLDER}/{name}.ko", content)


def _single(given: Path, release: str) -> dict[str, bytes]:
    """Our own module, in a file."""
    if _same(_stem(given)) != HYPERCALLS or _NAME.fullmatch(given.name) is None:
        raise UsageError(
            f"--modules {given}: of single modules, {HYPERCALLS}.ko alone is taken",
            next_step="give the folder that `make modules_install INSTALL_MOD_PATH=...` filled",
        )
    content = _unpacked(given)
    found = release_of(content)
    if not found or found != release:
        raise UsageError(
            f"--modules {given}: it is of kernel {found or 'unknown'}, and the kernel is"
            f" {release or 'of no known release'}",
            next_step="build it in the tree of this very kernel: see docs/own-kernel.md",
        )
    return {HYPERCALLS: content}


def _fitting(given: Path, release: str) -> Path:
    """The folder of the kernel of that release, in what the user gave."""
    if not given.is_dir():
        raise UsageError(f"--modules {given}: there is no such folder")
    above = [] if (given / "modules.builtin").is_file() else [given]
    trees = [
        folder
        for parent in (*above, given / "lib/modules", given / "usr/lib/modules")
        for folder in sorted(parent.glob("*"))
        if folder.is_dir() and (parent != given or (folder / "modules.builtin").is_file())
    ] or [given]
    found = {_release(folder): folder for folder in trees}
    if release not in found:
        there = ", ".join(sorted(name for name in found if name)) or "no kernel"
        raise UsageError(
            f"--modules {given} holds modules of {there}, and the kernel is {release or 'of no known release'}",
            next_step="give the folder that `make modules_install INSTALL_MOD_PATH=...` of this very kernel filled",
        )
    return found[release]


def _release(folder: Path) -> str:
    """Of which kernel the modules in a folder are; empty when it holds none."""
    for name, path in _modules(folder):
        if name in OURS:  # put there by hand
            continue
        release = release_of(_unpacked(path)) if _can_unpack(path) else ""
        return release or folder.resolve().name
    return folder.resolve().name if (folder / "modules.builtin").is_file() else ""


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of each module, sorted. Links to the kernel's sources are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if _NAME.fullmatch(name) is not None:
                path = Path(parent, name)
                yield _stem(path), path


def _stem(path: Path) -> str:
    return path.name.partition(".ko")[0]


def _same(name: str) -> str:
    return name.replace("-", "_")


def _depends(content: bytes) -> list[str]:
    return [name for name in modinfo(content).get("depends", "").split(",") if name]


def _unpacked(path: Path) -> bytes:
    if not _can_unpack(path):
        raise UsageError(
            f"{path}: tcelab cannot unpack {path.suffix}",
            next_step=f"unpack it first; what can be read is .ko, {', '.join(f'.ko{each}' for each in OPENERS)}",
        )
    try:
        content = path.read_bytes() if path.suffix == ".ko" else compressed.read(path)
        modinfo(content)
    except BadElfError as error:
        raise UsageError(f"{path} is no kernel module: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    return content


def _can_unpack(path: Path) -> bool:
    return path.suffix in {".ko", *OPENERS}
