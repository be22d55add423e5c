"""Profile `linux-v1`: today's driver (6.11 and newer) with a v1 container, as a table in the order of the source."""

from __future__ import annotations

from typing import Final

from tcelab.emulator.addressspaces import Space
from tcelab.emulator.checks import Check, IoctlCall, Request, copies_in, give, long_enough
from tcelab.emulator.drivertable import Profile
from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.profiles.words import (
    INFO,
    INFO_DDW,
    V1,
    V2,
    enable,
    entry_of,
    failed_macro,
    misaligned,
    pages_of,
    window_of,
)
from tcelab.papr import tce, window
from tcelab.quirks import MISALIGNED, ONE_PAGE


def _foreign(call: IoctlCall) -> bool:
    bound: Space | None = call.on.space
    return bound is not None and bound is not call.process.space


def _outside(call: IoctlCall) -> bool:
    first, entries = window_of(call)
    return not first <= entry_of(call) < first + entries


def _no_table_group(call: IoctlCall) -> bool:
    return call.on.pe is not None and not call.on.pe.has_table


def _past_the_end(call: IoctlCall) -> str | int:
    if entry_of(call) + pages_of(call) <= sum(window_of(call)):
        return ""
    return failed_macro(call)


def _info(call: IoctlCall) -> int:
    argsz = call.param["argsz"]
    call.param |= dict.fromkeys(INFO_DDW.fields, 0)
    first, entries = window_of(call)
    call.param |= {
        "argsz": argsz,
        "dma32_window_start": first << window.PAGE_SHIFT & 0xFFFFFFFF,
        "dma32_window_size": entries << window.PAGE_SHIFT & 0xFFFFFFFF,
    }
    return give(call, "SPAPR_TCE_GET_INFO_DDW", INFO_DDW.size if argsz >= INFO_DDW.size else INFO.size)


def _disable(call: IoctlCall) -> int:
    call.on.disable()
    return 0


def _unmap(call: IoctlCall) -> int:
    call.on.clear(call.on.pe, entry_of(call), pages_of(call))
    return 0


FOREIGN: Final = Check("another mm's", _foreign, "EPERM", "container->mm && container->mm != current->mm")
NOT_ENABLED: Final = Check("not enabled", lambda c: not c.on.enabled, "EPERM", "!container->enabled")
PENDING: Final = Check(
    "default window", lambda c: c.on.make_default_window(c.process), None, "tce_iommu_create_default_window"
)
OUTSIDE: Final = Check("in no window", _outside, "ENXIO", "tce_iommu_find_table")

PAST_THE_END: Final = Check(
    "past the window's end", _past_the_end, None, "iommu_tce_check_ioba: (ioba + npages) > (offset + size)", ONE_PAGE
)

V1_MAP: Final = (
    FOREIGN,
    NOT_ENABLED,
    copies_in("MAP_DMA"),
    long_enough("MAP_DMA"),
    Check("flags", lambda c: c.param["flags"] & ~tce.PERMISSIONS, "EINVAL", "flags beyond READ and WRITE"),
    PENDING,
    OUTSIDE,
    Check("size or vaddr misaligned", lambda c: misaligned(c, "size", "vaddr"), "EINVAL", "~IOMMU_PAGE_MASK(tbl)"),
    Check("no permission", lambda c: not c.param["flags"], "EINVAL", "neither READ nor WRITE"),
    Check(
        "iova misaligned",
        lambda c: misaligned(c, "iova"),
        "EINVAL",
        "iommu_tce_put_param_check, iommu_tce_check_ioba: ioba & ~mask",
        MISALIGNED,
        1,
    ),
    PAST_THE_END,
)

V1_UNMAP: Final = (
    FOREIGN,
    NOT_ENABLED,
    copies_in("UNMAP_DMA"),
    long_enough("UNMAP_DMA"),
    Check("flags", lambda c: c.param["flags"], "EINVAL", "param.flags"),
    PENDING,
    OUTSIDE,
    Check("size misaligned", lambda c: misaligned(c, "size"), "EINVAL", "param.size & ~IOMMU_PAGE_MASK(tbl)"),
    Check(
        "iova misaligned",
        lambda c: misaligned(c, "iova"),
        "EINVAL",
        "iommu_tce_clear_param_check, iommu_tce_check_ioba: ioba & ~mask",
        MISALIGNED,
        1,
    ),
    PAST_THE_END,
)

LINUX_V1: Final = Profile(
    "linux-v1",
    {
        1: Request("CHECK_EXTENSION", (), lambda c: int(c.argument in {V1, V2})),
        12: Request(
            "SPAPR_TCE_GET_INFO",
            (
                FOREIGN,
                Check("no group", lambda c: c.on.pe is None, "ENXIO", "!tce_groups_attached(container)"),
                Check("no table group", _no_table_group, "ENXIO", "!table_group"),
                copies_in("SPAPR_TCE_GET_INFO_DDW"),
                long_enough("SPAPR_TCE_GET_INFO_DDW"),
            ),
            _info,
        ),
        13: Request("MAP_DMA", V1_MAP, lambda c: int(c.on.build(c))),
        14: Request("UNMAP_DMA", V1_UNMAP, _unmap),
        15: Request(
            "ENABLE",
            (
                FOREIGN,
                Check("enabled", lambda c: c.on.enabled, "EBUSY", "tce_iommu_enable: container->enabled"),
                Check(
                    "no group", lambda c: c.on.pe is None, "ENODEV", "tce_iommu_enable: !tce_groups_attached(container)"
                ),
                Check("no table group", _no_table_group, "ENODEV", "tce_iommu_enable: !table_group"),
                Check("no bytes", lambda c: not c.on.pe.window_size, "EPERM", "tce_iommu_enable: !tce32_size"),
                Check(
                    "over the limit",
                    lambda c: c.on.over_limit(c.process),
                    "ENOMEM",
                    "tce_iommu_enable: tce_iommu_mm_set, account_locked_vm",
                ),
            ),
            enable,
        ),
        16: Request("DISABLE", (FOREIGN,), _disable),
        21: Request(
            "EEH_PE_OP",
            (FOREIGN, Check("no EEH PE", lambda _: True, "ENODEV", "vfio_spapr_ioctl_eeh_pe_op: !pe")),
            lambda _: 0,
        ),
    },
    Request(
        "any other",
        (FOREIGN, Check("unknown", lambda _: True, "ENOTTY", "the end of tce_iommu_ioctl")),
        lambda _: 0,
    ),
    extensions=frozenset({V1, V2}),
    opens=frozenset({V1}),
    driver=SpaprTce,
)
