"""Profile `linux-v2`: today's driver (6.11 and newer) with a v2 container, as a table in the order of the source."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tcelab.emulator.checks import Check, IoctlCall, Request, copies_in, give, long_enough
from tcelab.emulator.drivertable import Profile
from tcelab.emulator.effects_v2 import ContainerWindow, SpaprTceV2
from tcelab.emulator.profiles.linux_v1 import FOREIGN, LINUX_V1, NOT_ENABLED, PENDING
from tcelab.emulator.profiles.words import INFO, INFO_DDW, V2, failed_macro
from tcelab.papr import tce, windowcreation
from tcelab.quirks import MISALIGNED, ONE_PAGE

_DDW: Final = 1
"""VFIO_IOMMU_SPAPR_INFO_DDW."""


def _found(call: IoctlCall) -> ContainerWindow:
    found: ContainerWindow | None = call.on.find(call.param["iova"])
    assert found is not None
    return found


def _offset(call: IoctlCall, *names: str) -> bool:
    mask = (1 << _found(call).shift) - 1
    return any(call.param[name] & mask for name in names)


def _entry(call: IoctlCall) -> int:
    found = _found(call)
    return (call.param["iova"] - found.start) >> found.shift


def _past_the_end(call: IoctlCall) -> str | int:
    found = _found(call)
    if _entry(call) + (call.param["size"] >> found.shift) <= found.entries:
        return ""
    return failed_macro(call)


def _parts_of_pages(call: IoctlCall) -> bool:
    mask = call.machine.page_size - 1
    return bool((call.param["vaddr"] | call.param["size"]) & mask)


def _range(call: IoctlCall) -> bool:
    """Not of whole CPU pages, or past the end of all addresses."""
    return _parts_of_pages(call) or call.param["vaddr"] + call.param["size"] >= 1 << 64


def _info(call: IoctlCall) -> int:
    argsz, pe = call.param["argsz"], call.on.pe
    call.param |= {
        "argsz": argsz,
        "flags": _DDW,
        "dma32_window_start": pe.phb.window_start & 0xFFFFFFFF,
        "dma32_window_size": pe.window_size & 0xFFFFFFFF,
        "pgsizes": sum(1 << shift for shift in windowcreation.SHIFTS),
        "max_dynamic_windows_supported": windowcreation.MOST,
        "levels": 1,
    }
    return give(call, "SPAPR_TCE_GET_INFO_DDW", INFO_DDW.size if argsz >= INFO_DDW.size else INFO.size)


def _unmap(call: IoctlCall) -> int:
    found = _found(call)
    call.on.clear_v2(found, _entry(call), call.param["size"] >> found.shift)
    return 0


def _create(call: IoctlCall) -> int:
    call.on.create(call)
    return give(call, "SPAPR_TCE_CREATE")


BINDS: Final = Check("binds", lambda c: c.on.bind(c.process), None, "tce_iommu_mm_set, of whoever is bound already")
NO_GROUP: Final = Check("no group", lambda c: c.on.pe is None, "ENXIO", "!tce_groups_attached(container)")
OUTSIDE: Final = Check("in no window", lambda c: c.on.find(c.param["iova"]) is None, "ENXIO", "tce_iommu_find_table")
FLAGS: Final = Check("flags", lambda c: c.param["flags"], "EINVAL", "flags")
IOVA: Final = Check(
    "iova misaligned",
    lambda c: _offset(c, "iova"),
    "EINVAL",
    "iommu_tce_put_param_check and iommu_tce_clear_param_check, iommu_tce_check_ioba: ioba & ~mask",
    MISALIGNED,
    1,
)
PAST: Final = Check("past the window's end", _past_the_end, None, "iommu_tce_check_ioba: npages", ONE_PAGE)
UNTRIED: Final = replace(PAST, name="past the window's end, of a MAP")
"""Programs never ask a kernel with the quirk for this, and its result is not modelled: see `build_v2`."""

LINUX_V2: Final = Profile(
    "linux-v2",
    {
        1: LINUX_V1.requests[1],
        12: Request("SPAPR_TCE_GET_INFO", (*LINUX_V1.requests[12].checks,), _info),
        13: Request(
            "MAP_DMA",
            (
                FOREIGN,
                NOT_ENABLED,
                copies_in("MAP_DMA"),
                long_enough("MAP_DMA"),
                Check("flags", lambda c: c.param["flags"] & ~tce.PERMISSIONS, "EINVAL", "flags beyond READ and WRITE"),
                PENDING,
                OUTSIDE,
                Check(
                    "size or vaddr misaligned", lambda c: _offset(c, "size", "vaddr"), "EINVAL", "~IOMMU_PAGE_MASK(tbl)"
                ),
                Check("no permission", lambda c: not c.param["flags"], "EINVAL", "neither READ nor WRITE"),
                IOVA,
                UNTRIED,
            ),
            lambda c: int(c.on.build_v2(c)),
        ),
        14: Request(
            "UNMAP_DMA",
            (
                FOREIGN,
                NOT_ENABLED,
                copies_in("UNMAP_DMA"),
                long_enough("UNMAP_DMA"),
                FLAGS,
                PENDING,
                OUTSIDE,
                Check("size misaligned", lambda c: _offset(c, "size"), "EINVAL", "~IOMMU_PAGE_MASK(tbl)"),
                IOVA,
                PAST,
            ),
            _unmap,
        ),
        17: Request(
            "SPAPR_REGISTER_MEMORY",
            (
                FOREIGN,
                BINDS,
                copies_in("SPAPR_REGISTER_MEMORY"),
                long_enough("SPAPR_REGISTER_MEMORY"),
                FLAGS,
                Check(
                    "no whole pages", _range, "EINVAL", "tce_iommu_register_pages: ~PAGE_MASK, (vaddr + size) < vaddr"
                ),
            ),
            lambda c: int(c.on.register(c)),
        ),
        18: Request(
            "SPAPR_UNREGISTER_MEMORY",
            (
                FOREIGN,
                Check("no mm", lambda c: c.on.space is None, "EPERM", "!container->mm"),
                copies_in("SPAPR_UNREGISTER_MEMORY"),
                long_enough("SPAPR_UNREGISTER_MEMORY"),
                FLAGS,
                Check("no whole pages", _parts_of_pages, "EINVAL", "tce_iommu_unregister_pages: ~PAGE_MASK"),
            ),
            lambda c: int(c.on.unregister(c)),
        ),
        19: Request(
            "SPAPR_TCE_CREATE",
            (
                FOREIGN,
                BINDS,
                NO_GROUP,
                copies_in("SPAPR_TCE_CREATE"),
                long_enough("SPAPR_TCE_CREATE"),
                FLAGS,
                PENDING,
            ),
            _create,
        ),
        20: Request(
            "SPAPR_TCE_REMOVE",
            (
                FOREIGN,
                BINDS,
                NO_GROUP,
                copies_in("SPAPR_TCE_REMOVE"),
                long_enough("SPAPR_TCE_REMOVE"),
                FLAGS,
            ),
            lambda c: int(c.on.remove(c)),
        ),
        21: LINUX_V1.requests[21],
    },
    LINUX_V1.otherwise,
    extensions=LINUX_V1.extensions,
    opens=frozenset({V2}),
    driver=SpaprTceV2,
)
