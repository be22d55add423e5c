"""What a kernel was built with, and whether that is enough: checked before a boot that could not be judged.

Sources: kernel/configs.c for the marks around an embedded configuration; the Kconfig files of drivers/vfio,
drivers/iommu, drivers/virtio, drivers/char, drivers/tty/hvc, fs/proc, init and arch/powerpc for the names.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.errors import Unsupported
from tcelab.qemu import kernelfile

__all__ = ["KernelConfig", "find", "modular", "require"]

_IKCONFIG: Final = (b"IKCFG_ST", b"IKCFG_ED")
_GZIP: Final = 31
"""zlib's number for "a gzip file, any window"."""

_LINE: Final = re.compile(r"^(?:CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set)$", re.MULTILINE)

NEEDED: Final = {
    "PPC_PSERIES": "the machine",
    "PCI": "the PHBs",
    "BLK_DEV_INITRD": "the initramfs",
    "BINFMT_ELF": "the initramfs's programs",
    "BINFMT_SCRIPT": "its /init",
    "PROC_FS": "/proc",
    "SYSFS": "/sys",
    "DEVTMPFS": "/dev/vfio",
    "HVC_CONSOLE": "the console",
    "PROC_PAGE_MONITOR": "the frames of the agent's pages",
    "SMP": "the count of page pins",
    "VIRTIO_PCI": "the agent's channel",
    "VIRTIO_CONSOLE": "the agent's channel",
    "SPAPR_TCE_IOMMU": "VFIO on sPAPR",
    "VFIO": "VFIO",
    "VFIO_PCI": "VFIO",
    "VFIO_IOMMU_SPAPR_TCE": "VFIO on sPAPR",
}
"""Options that tcelab requires, and what for."""

_NEEDED_WHERE_KNOWN: Final = ("VFIO_GROUP", "VFIO_CONTAINER")
"""Options of newer kernels (6.2 and 6.6) for features that older kernels always have: checked only where the
configuration names them.
"""


class KernelConfig(NamedTuple):
    """A kernel's configuration.

    :ivar source: where it was found, for people.
    :ivar values: option (without `CONFIG_`) to `y`, `m`, a number or a string; `n`: named as not set.
    """

    source: str
    values: Mapping[str, str]


def find(kernel: Path, release: str) -> KernelConfig | None:
    """The configuration of a vmlinux: embedded in it, else of its build tree, else as Debian installs it.

    Debian puts `config-RELEASE` beside boot/vmlinux-RELEASE, and of late `config` into lib/modules/RELEASE, where the
    kernel is too. A `.config` that was written after the kernel says nothing about it.
    """
    packed = kernelfile.between(kernel, *_IKCONFIG)
    if packed:
        try:
            return _parse(f"{kernel} (IKCONFIG)", zlib.decompress(packed, _GZIP))
        except zlib.error:
            pass  # these marks belong to something else
    folder = kernel.resolve().parent
    built = folder / ".config"
    if built.is_file() and built.stat().st_mtime <= kernel.stat().st_mtime:
        return _parse(str(built), built.read_bytes())
    if release:
        beside = [folder / f"config-{release}", *([folder / "config"] if folder.name == release else [])]
        for installed in beside:
            if installed.is_file():
                return _parse(str(installed), installed.read_bytes())
    return None


def require(config: KernelConfig) -> None:
    """:raise Unsupported: the kernel lacks what tcelab needs; names the options."""
    missing = [name for name in NEEDED if config.values.get(name, "n") == "n"]
    missing += [name for name in _NEEDED_WHERE_KNOWN if config.values.get(name) == "n"]
    if missing:
        raise Unsupported(
            f"the kernel lacks {_named(missing)} (by {config.source})",
            next_step="build it with these options; `=m` is enough where --modules brings the modules",
        )


def modular(config: KernelConfig) -> list[str]:
    """Needed options that are modules of this kernel, in the order of `NEEDED`."""
    return [f"CONFIG_{name}" for name in NEEDED if config.values.get(name) == "m"]


def _parse(source: str, text: bytes) -> KernelConfig:
    values = {
        name or unset: value or "n" for name, value, unset in _LINE.findall(text.decode("utf-8", errors="replace"))
    }
    return KernelConfig(source, values)


def _named(names: list[str]) -> str:
    return ", ".join(f"CONFIG_{name}" + (f" ({NEEDED[name]})" if name in NEEDED else "") for name in names)
