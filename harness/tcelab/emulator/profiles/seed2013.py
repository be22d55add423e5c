"""Profile `seed2013`: the driver of May 2013, as a table in the order of the source."""

from __future__ import annotations

from typing import Final

from tcelab.emulator.checks import Check, IoctlCall, Request, copies_in, give, long_enough
from tcelab.emulator.drivertable import Profile
from tcelab.emulator.effects_2013 import Seed
from tcelab.emulator.profiles.words import V1, enable, entry_of, misaligned, pages_of, window_of
from tcelab.papr import tce, window


def _no_table_warned(call: IoctlCall) -> bool:
    if call.on.pe is None:
        call.machine.warn("tce_iommu_ioctl: WARN_ON(!tbl)")
    return call.on.pe is None


def _table_without_group(call: IoctlCall) -> bool:
    if not call.on.pe.has_group:
        call.machine.bug("tce_iommu_ioctl: BUG_ON(!tbl->it_group)")
    return False


def _no_mm(call: IoctlCall) -> bool:
    return call.process.exited or call.machine.without_mm


def _seed_info(call: IoctlCall) -> int:
    first, entries = window_of(call)
    call.param |= {
        "flags": 0,
        "dma32_window_start": first << window.PAGE_SHIFT & 0xFFFFFFFF,
        "dma32_window_size": entries << window.PAGE_SHIFT & 0xFFFFFFFF,
    }
    return give(call, "SPAPR_TCE_GET_INFO")


def _seed_disable(call: IoctlCall) -> int:
    call.on.disable(call.process)
    return 0


_PUT: Final = "powerpc/kernel/iommu.c, iommu_tce_put_param_check: "
_CLEAR: Final = "powerpc/kernel/iommu.c, iommu_tce_clear_param_check: "

SEED_MAP: Final = (
    Check("no table", lambda c: c.on.pe is None, "ENXIO", "!tbl"),
    Check("table without group", _table_without_group, None, "BUG_ON(!tbl->it_group)"),
    copies_in("MAP_DMA"),
    long_enough("MAP_DMA"),
    Check("flags", lambda c: c.param["flags"] & ~tce.PERMISSIONS, "EINVAL", "flags beyond READ and WRITE"),
    Check("size or vaddr misaligned", lambda c: misaligned(c, "size", "vaddr"), "EINVAL", "~IOMMU_PAGE_MASK"),
    Check("no permission", lambda c: not c.param["flags"], "EINVAL", _PUT + "!(tce & (TCE_PCI_WRITE | TCE_PCI_READ))"),
    Check("iova misaligned", lambda c: misaligned(c, "iova"), "EINVAL", _PUT + "ioba & ~IOMMU_PAGE_MASK"),
    Check("below the window", lambda c: entry_of(c) < window_of(c)[0], "EINVAL", _PUT + "ioba < tbl->it_offset"),
    Check(
        "past the window", lambda c: entry_of(c) + 1 > sum(window_of(c)), "EINVAL", _PUT + "(ioba + 1) > offset + size"
    ),
)

SEED_UNMAP: Final = (
    Check("no table", _no_table_warned, "ENXIO", "WARN_ON(!tbl)"),
    copies_in("UNMAP_DMA"),
    long_enough("UNMAP_DMA"),
    Check("flags", lambda c: c.param["flags"], "EINVAL", "param.flags"),
    Check("size misaligned", lambda c: misaligned(c, "size"), "EINVAL", "param.size & ~IOMMU_PAGE_MASK"),
    Check("iova misaligned", lambda c: misaligned(c, "iova"), "EINVAL", _CLEAR + "ioba & ~IOMMU_PAGE_MASK"),
    Check("below the window", lambda c: entry_of(c) < window_of(c)[0], "EINVAL", _CLEAR + "ioba < tbl->it_offset"),
    Check(
        "past the window",
        lambda c: entry_of(c) + pages_of(c) > sum(window_of(c)),
        "EINVAL",
        _CLEAR + "(ioba + npages) > offset + size",
    ),
)

SEED2013: Final = Profile(
    "seed2013",
    {
        1: Request("CHECK_EXTENSION", (), lambda c: int(c.argument == V1)),
        12: Request(
            "SPAPR_TCE_GET_INFO",
            (
                Check("no table", _no_table_warned, "ENXIO", "WARN_ON(!tbl)"),
                copies_in("SPAPR_TCE_GET_INFO"),
                long_enough("SPAPR_TCE_GET_INFO"),
            ),
            _seed_info,
        ),
        13: Request("MAP_DMA", SEED_MAP, lambda c: int(c.on.put(c))),
        14: Request("UNMAP_DMA", SEED_UNMAP, lambda c: int(c.on.clear(c.on.pe, entry_of(c), pages_of(c)))),
        15: Request(
            "ENABLE",
            (
                Check("no table", lambda c: c.on.pe is None, "ENXIO", "tce_iommu_enable: !container->tbl"),
                Check(
                    "no mm",
                    lambda c: c.process.exited or c.machine.without_mm,
                    "ESRCH",
                    "tce_iommu_enable: !current->mm",
                ),
                Check("enabled", lambda c: c.on.enabled, "EBUSY", "tce_iommu_enable: container->enabled"),
                Check(
                    "over the limit",
                    lambda c: not c.on.charge(c.process),
                    "ENOMEM",
                    "tce_iommu_enable: locked > lock_limit && !capable(CAP_IPC_LOCK)",
                ),
            ),
            enable,
        ),
        16: Request("DISABLE", (), _seed_disable),
    },
    Request("any other", (Check("unknown", lambda _: True, "ENOTTY", "the end of tce_iommu_ioctl"),), lambda _: 0),
    extensions=frozenset({V1}),
    opens=frozenset({V1}),
    driver=Seed,
    gives_back=False,
)
