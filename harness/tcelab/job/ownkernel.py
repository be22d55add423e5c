"""A kernel that the user brings: checked for what a guest needs, before anything is provisioned or booted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.image import OtherKernel, modules
from tcelab.qemu import kconfig, kernelfile

__all__ = ["OwnKernel", "examine"]

_GIVE_MODULES: Final = "give --modules: where `make modules_install INSTALL_MOD_PATH=...` put them"


class OwnKernel(msgspec.Struct, frozen=True):
    """What is known of a kernel from its files.

    :ivar release: as `uname -r` gives it; empty when the file does not say.
    :ivar config: where its configuration was found; empty: nowhere.
    :ivar modular: options that a guest needs and that are modules of this kernel, as far as `config` tells.
    :ivar drivers: modules that --modules brings, by name, in load order; None: it was not given.
    """

    kernel: Path
    release: str
    config: str
    modular: list[str]
    drivers: dict[str, bytes] | None

    def for_image(self, image_release: str) -> OtherKernel:
        """The description of this kernel for an image.

        :param image_release: of the kernel that the image's own modules are of.
        :raise UsageError: its drivers are modules, and nothing brings them.
        """
        ours = self.drivers is not None and set(self.drivers) == {modules.HYPERCALLS}
        if ours and self.release == image_release:
            raise UsageError(
                f"the image has modules of kernel {self.release}, {modules.HYPERCALLS} among them",
                next_step="leave --modules out",
            )
        if ours and self.modular:
            raise UsageError(
                f"kernel {self.release} has {', '.join(self.modular)} as modules (by {self.config}),"
                f" and --modules brings {modules.HYPERCALLS} alone",
                next_step=f"put {modules.HYPERCALLS}.ko into the folder of that kernel's modules, and give the folder",
            )
        if self.drivers is None and self.modular and self.release != image_release:
            raise UsageError(
                f"kernel {self.release} has {', '.join(self.modular)} as modules (by {self.config}),"
                " and the image's modules are another kernel's",
                next_step=_GIVE_MODULES,
            )
        return OtherKernel(self.release, self.drivers)

    def told(self) -> dict[str, object]:
        """For the result."""
        return {"release": self.release, "config": self.config, "modules": list(self.drivers or {})}


def examine(kernel: Path, folder: Path | None, *, own_initrd: bool) -> OwnKernel:
    """Read the files.

    :param folder: the path of --modules, which may be our own module alone.
    :param own_initrd: the user brings the initrd too, so nothing of the image must fit.
    :raise UsageError: a file is of a wrong kind, or the modules are another kernel's.
    :raise Unsupported: the kernel was built without something that a guest needs.
    """
    kernelfile.check(kernel)
    if not own_initrd and not kernelfile.little_endian(kernel):
        raise UsageError(
            f"{kernel} is big-endian, and the image's programs are little-endian",
            next_step="build it with CONFIG_CPU_LITTLE_ENDIAN (ppc64le_defconfig), or give --initrd",
        )
    release = kernelfile.release(kernel)
    config = kconfig.find(kernel, release)
    if config is not None:
        kconfig.require(config)
    return OwnKernel(
        kernel=kernel,
        release=release,
        config=config.source if config is not None else "",
        modular=kconfig.modular(config) if config is not None else [],
        drivers=modules.of_kernel(folder, release) if folder is not None else None,
    )
