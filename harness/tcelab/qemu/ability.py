"""Whether the guest's kernel can do VFIO on sPAPR at all: asked after the handshake, before any program.

A kernel that lacks the driver, or the IOMMU driver of the PHBs, cannot be judged (125). One that has them and then
refuses is a finding. So a refusal alone excuses nothing: the driver must be proven absent.

Sources, by release: Linux 5.19 made VFIO refuse a device without an IOMMU driver (drivers/vfio/vfio.c,
vfio_group_find_or_alloc; drivers/iommu/iommu.c, iommu_group_claim_dma_owner). Linux 6.4 gave the PHBs of pseries one
(arch/powerpc/kernel/iommu.c, spapr_tce_iommu_ops, registered as "iommu-phb%04x" with the attribute group
"spapr-tce-iommu").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from tcelab.errors import TcelabError, Unsupported
from tcelab.program import Bind, Close, GuestOp, Ioctl, Open
from tcelab.qemu import kernelfile
from tcelab.run.record import Facts, Outcome
from tcelab.scenarios.vocabulary import SPAPR_TCE

__all__ = ["check", "without_iommu_driver"]

_OWNERSHIP: Final = b"iommu_group_claim_dma_owner"
"""An exported symbol: VFIO asks the PHB's IOMMU driver for ownership. Kernels without it need no such driver."""

_IOMMU_DRIVER: Final = (b"iommu-phb", b"spapr-tce-iommu", b"spapr_tce_iommu")
"""Texts of the PHBs' IOMMU driver: two names that it registers and its symbols' prefix (a stripped kernel lacks it)."""

_THERE: Final = "EISDIR"
"""The errno of opening a folder for writing."""

_FILE: Final = "ability"


class AbleSession(Protocol):
    """A session, as far as it is needed here."""

    @property
    def facts(self) -> Facts: ...

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]: ...


def check(session: AbleSession, device: str, kernel: Path) -> None:
    """Make sure that the guest's kernel has what every program needs. Costs 50 ms.

    :param device: its name; one that the kernel is asked to bind to vfio-pci.
    :param kernel: the vmlinux that was booted.
    :raise Unsupported: it lacks a driver; names it.
    :raise GuestLost: the check killed it.
    """
    ops: dict[str, GuestOp] = {
        "vfio": Open(file=_FILE, path="/dev/vfio/vfio"),
        "type": Ioctl(file=_FILE, request="CHECK_EXTENSION", value=SPAPR_TCE),
        "close": Close(file=_FILE),
        "vfio module": _folder("/sys/module/vfio"),
        "tce module": _folder("/sys/module/vfio_iommu_spapr_tce"),
        "driver": _folder("/sys/bus/pci/drivers/vfio-pci"),
    }
    got = dict(zip(ops, session.perform(list(ops.values())), strict=True))

    def there(name: str) -> bool:
        return got[name].errno == _THERE

    if got["vfio"].errno and not (there("vfio module") and there("tce module")):
        raise _lacks(session, "VFIO", f"opening /dev/vfio/vfio gives {got['vfio'].errno}", "CONFIG_VFIO")
    if not there("driver"):
        raise _lacks(session, "the driver vfio-pci", "/sys/bus/pci/drivers has none", "CONFIG_VFIO_PCI")
    if not got["vfio"].errno and got["type"].value == 0 and not there("tce module"):
        raise _lacks(
            session, "VFIO's sPAPR TCE driver", "/dev/vfio/vfio knows no such type", "CONFIG_VFIO_IOMMU_SPAPR_TCE"
        )
    (bound,) = session.perform([Bind(device=device)])
    if bound.errno and without_iommu_driver(kernel):
        raise Unsupported(
            f"kernel {_release(session)} cannot do VFIO on pseries: vfio-pci refuses {device} ({bound.errno}),"
            " since VFIO wants an IOMMU driver, and this kernel has none for the PHBs",
            next_step="take a kernel before Linux 5.19, or 6.4 or newer; git bisect run skips this commit",
        )


def without_iommu_driver(kernel: Path) -> bool:
    """Whether a vmlinux provably lacks the PHBs' IOMMU driver that its own VFIO requires.

    Reads the file, not /proc/kallsyms, which a kernel need not have. False when it cannot be decided.
    """
    try:
        return kernelfile.holds(kernel, _OWNERSHIP) and not any(
            kernelfile.holds(kernel, text) for text in _IOMMU_DRIVER
        )
    except TcelabError:
        return False


def _folder(path: str) -> Open:
    """Asks whether a folder exists: opening it for writing, as the agent does, tells."""
    return Open(file=_FILE, path=path)


def _release(session: AbleSession) -> str:
    return str(session.facts.versions.get("guest", {}).get("kernel", ""))


def _lacks(session: AbleSession, what: str, seen: str, option: str) -> Unsupported:
    return Unsupported(
        f"kernel {_release(session)} lacks {what}: {seen}",
        next_step=f"build it with {option}; what it has as a module must be in --modules",
    )
