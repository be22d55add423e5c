"""Known defects of kernels. None is on unless an image's recipe or the user declares it; none is ever inferred."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tcelab.errors import UsageError, meant

MISALIGNED: Final = "misaligned-iova-returns-1"
ONE_PAGE: Final = "ioba-check-one-page"
PIN_FOR_WRITE: Final = "pin-for-write"
BINDS_EARLY: Final = "enable-binds-before-limit"
ROLLBACK: Final = "rollback-loses-entries"
NOT_AT_ZERO: Final = "window-not-at-zero"
UNREGISTERS_IN_USE: Final = "unregister-in-use-succeeds"
CLOSE_STRANDS: Final = "close-strands-memory"
NOTHING_WARNS: Final = "register-nothing-warns"
BELOW_PAGE: Final = "window-below-page-is-made"
PART_REGISTERS: Final = "register-part-returns-pages"
REFUSED_SPOILS: Final = "refused-window-spoils-pe"
CREATE_CHARGES: Final = "failed-create-keeps-charge"
KEXEC_KEEPS: Final = "kexec-keeps-default-window"
KEXEC_LOSES: Final = "kexec-loses-default-window"
COMING_LOSES: Final = "device-added-in-use-loses-window"
NOTHING_DIRECT: Final = "no-limit-no-direct-window"
LIST_KEEPS: Final = "list-without-permissions-keeps-memory"


@dataclass(frozen=True, slots=True)
class Quirk:
    """:ivar right: what a kernel without it does.

    :ivar kernels: that have it.
    :ivar cure: the commit that cures it; "" while none is known.
    :ivar source: kernel file and function.
    :ivar report: the public report whose test shows it, where no program on the usual platform can.
    :ivar nested: it shows with pass-through alone, when the guest has ended.
    :ivar event: it shows in an event in the life of a table, and so in no single call.
    :ivar warns: functions in which it makes the kernel warn; `warns_once`: only the first time after a boot.
    """

    name: str
    what: str
    right: str
    kernels: str
    cure: str
    source: str
    event: bool = False
    warns: tuple[str, ...] = ()
    warns_once: tuple[str, ...] = ()
    report: str = ""
    nested: bool = False

    @property
    def apart(self) -> bool:
        """No program on the usual platform can show it."""
        return bool(self.report) or self.nested


QUIRKS: Final = {
    quirk.name: quirk
    for quirk in (
        Quirk(
            MISALIGNED,
            "MAP_DMA and UNMAP_DMA with a misaligned iova inside the window return 1, which is no errno: a caller that"
            " looks for -1 believes that it has mapped",
            "EINVAL",
            "seen on 6.12",
            "",
            "arch/powerpc/include/asm/iommu.h, iommu_tce_put_param_check and iommu_tce_clear_param_check: two error"
            " codes joined by a boolean or",
        ),
        Quirk(
            ONE_PAGE,
            "only the first page of a range is compared with the window's end: MAP_DMA across the end fails late, with"
            " EINTR, and UNMAP_DMA across it returns 0",
            "EINVAL, and nothing is touched",
            "seen on 6.12; up to 7.2 by the source",
            "0b271f7d7f5e, powerpc/iommu: Fix the overflow validation in iommu_tce_check_ioba",
            "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba: npages is not used",
        ),
        Quirk(
            PIN_FOR_WRITE,
            "a page is always pinned for writing: a read-only MAP_DMA of read-only memory is EFAULT",
            "the mapping is made, as the device will not write",
            "seen on 6.12",
            "",
            "drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_use_page: the direction is taken from the address",
        ),
        Quirk(
            BINDS_EARLY,
            "an ENABLE that fails for RLIMIT_MEMLOCK leaves the container bound to its caller's mm: any other process"
            " gets EPERM from then on",
            "the container stays unbound",
            "seen on 6.12",
            "",
            "drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable: tce_iommu_mm_set comes before account_locked_vm",
        ),
        Quirk(
            ROLLBACK,
            "a MAP_DMA that fails midway clears the entries that it had exchanged: mappings that were live before are"
            " lost",
            "they are as they were before the call",
            "seen on 6.12",
            "",
            "drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_build: tce_iommu_clear of the first i entries",
        ),
        Quirk(
            NOT_AT_ZERO,
            "the first MAP_DMA or UNMAP_DMA of a container whose default window does not start at bus address 0 makes"
            " the kernel warn, once after each boot; the window is right",
            "the kernel says nothing",
            "seen on 6.12",
            "",
            "drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_create_default_window: WARN_ON_ONCE(!ret && start_addr)",
            warns_once=("tce_iommu_create_default_window",),
        ),
        Quirk(
            UNREGISTERS_IN_USE,
            "UNREGISTER_MEMORY of memory that an entry leads to returns 0, but it stays pinned, charged and good for"
            " MAP_DMA, and no call takes it back; it is pinned for good, and the end of its process makes the kernel"
            " warn, once",
            "EBUSY, and it stays registered",
            "seen on 6.12",
            "",
            "drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_unregister_pages: the second mm_iommu_put is not checked",
            warns_once=("destroy_context",),
        ),
        Quirk(
            CLOSE_STRANDS,
            "closing a container whose registered memory another container of the same process has mapped makes the"
            " kernel warn; the memory stays pinned for good, and the kernel warns of that too, once",
            "it is unpinned when the last entry that leads to it is gone",
            "seen on 6.12",
            "",
            "drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_release: WARN_ON(tce_iommu_prereg_free())",
            warns=("tce_iommu_release",),
            warns_once=("destroy_context",),
        ),
        Quirk(
            NOTHING_WARNS,
            "REGISTER_MEMORY of no bytes makes the kernel warn, once after each boot, and gives ENOMEM",
            "EINVAL, and nothing is said",
            "seen on 6.12",
            "",
            "arch/powerpc/mm/book3s64/iommu_api.c, mm_iommu_do_alloc: vzalloc of nothing",
            warns_once=("__vmalloc_node_range_noprof",),
        ),
        Quirk(
            PART_REGISTERS,
            "REGISTER_MEMORY of memory whose first pages alone are present returns their number and registers nothing:"
            " a caller that looks for -1 believes that the memory is registered",
            "EFAULT",
            "seen on 6.12",
            "",
            "arch/powerpc/mm/book3s64/iommu_api.c, mm_iommu_do_alloc: returns what the last pin_user_pages gave",
        ),
        Quirk(
            BELOW_PAGE,
            "TCE_CREATE of a default window that is smaller than its pages makes one without any entry, which no"
            " address lies in and which is never removed, and the kernel warns, once after each boot",
            "EINVAL, and nothing is said",
            "seen on 6.12",
            "",
            "arch/powerpc/platforms/pseries/iommu.c, spapr_tce_create_table: iommu_init_table of a table of no entries",
            warns_once=("__vmalloc_node_range_noprof",),
        ),
        Quirk(
            REFUSED_SPOILS,
            "after a TCE_CREATE of a window that firmware did not make, its PE gets no window until the next boot, not"
            " even the default one: MAP_DMA, UNMAP_DMA and TCE_CREATE of whoever has it give ENODEV",
            "only that window is not made",
            "seen on 6.12",
            "",
            "arch/powerpc/platforms/pseries/iommu.c, spapr_tce_create_table: failed_ddw_pdn_list",
        ),
        Quirk(
            CREATE_CHARGES,
            "a TCE_CREATE that fails keeps the charge for its table, until its process ends",
            "the charge is refunded",
            "seen on 6.12",
            "",
            "drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_create_table: account_locked_vm before create_table",
        ),
        Quirk(
            KEXEC_KEEPS,
            "a second kernel (kexec) that finds a 64-bit window of a container clears that one alone: the entries of"
            " the default window stay, and devices can use them",
            "both windows are cleared",
            "seen on 6.12",
            "",
            "arch/powerpc/platforms/pseries/iommu.c, pci_dma_bus_setup_pSeriesLP: only of the window that it will"
            " use it makes a table, and so clears it",
            event=True,
        ),
        Quirk(
            KEXEC_LOSES,
            "a container that has mapped nothing yet when another kernel is started (kexec, kdump) leaves its PE"
            " without a window in the device tree: the second kernel warns, and has no IOMMU group for its"
            " devices",
            "the second kernel finds the default window",
            "seen on 6.12",
            "",
            "arch/powerpc/platforms/pseries/iommu.c, spapr_tce_platform_iommu_attach_dev: the window is removed, and is"
            " made again by the first MAP_DMA; pci_dma_find: WARN_ON",
            event=True,
            warns=("pci_dma_find",),
        ),
        Quirk(
            COMING_LOSES,
            "a device that comes to a PE that a container has finds no window in the device tree: the kernel warns for"
            " the device, and for each bus that it scans for the first time since its boot and that has none; where"
            " the container has mapped nothing yet, the device gets no IOMMU group either",
            "nothing is said, and the device is in the group",
            "seen on 6.12",
            "",
            "arch/powerpc/platforms/pseries/iommu.c, spapr_tce_platform_iommu_attach_dev: the window is removed when a"
            " device of the group is attached; pci_dma_find: WARN_ON, for pSeries_pci_device_group,"
            " pci_dma_bus_setup_pSeriesLP and pci_dma_dev_setup_pSeriesLP",
            event=True,
            warns=("pci_dma_find",),
        ),
        Quirk(
            NOTHING_DIRECT,
            "where firmware names no limit to which RAM may grow, the kernel asks for a window of shift 0, is refused,"
            " and tells its driver all the same that all RAM is mapped: what the driver has its device do then is lost",
            "the kernel asks for a window of all RAM",
            "seen on 6.12.95 with QEMU 7.2, which names no limit without maxmem; 6.1.176 is right",
            "",
            "arch/powerpc/platforms/pseries/iommu.c, enable_ddw: ddw_memory_hotplug_max of nothing is 0",
            report="R01a",
        ),
        Quirk(
            LIST_KEEPS,
            "H_PUT_TCE_INDIRECT of a TCE without permissions, by a guest to which KVM passes a device through, counts a"
            " use of its page that no call takes back: when the guest's QEMU ends, the kernel warns, and all of the"
            " guest's RAM stays pinned for good",
            "the entry is emptied, as by H_PUT_TCE",
            "seen on 6.12",
            "",
            "arch/powerpc/kvm/book3s_64_vio.c, kvmppc_h_put_tce_indirect: maps whatever the permissions are, and"
            " kvmppc_tce_iommu_mapped_dec is called for entries with permissions alone",
            warns=("tce_iommu_release",),
            warns_once=("destroy_context",),
            nested=True,
        ),
    )
}


def check(names: Iterable[str]) -> frozenset[str]:
    """:raise UsageError: a quirk that nobody knows."""
    wanted = frozenset(names)
    if unknown := sorted(wanted - QUIRKS.keys()):
        there = f"no quirk {', '.join(unknown)}; there are: {', '.join(QUIRKS)}"
        raise UsageError(there, next_step=meant(unknown[0], QUIRKS))
    return wanted
