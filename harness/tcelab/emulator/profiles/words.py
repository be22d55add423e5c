"""What the profiles of all drivers with a v1 container have in common."""

from __future__ import annotations

from typing import Final

from tceagent import uapi
from tcelab.emulator.checks import IoctlCall
from tcelab.emulator.events import ENABLED
from tcelab.papr import window
from tcelab.papr.tcetable import Table
from tcelab.quirks import MISALIGNED

V1, V2 = 2, 7
"""Container types: VFIO_SPAPR_TCE_IOMMU, VFIO_SPAPR_TCE_v2_IOMMU."""

_OFFSET: Final = window.PAGE_SIZE - 1
INFO, INFO_DDW = uapi.LAYOUTS["SPAPR_TCE_GET_INFO"], uapi.LAYOUTS["SPAPR_TCE_GET_INFO_DDW"]


def misaligned(call: IoctlCall, *names: str) -> bool:
    return any(call.param[name] & _OFFSET for name in names)


def failed_macro(call: IoctlCall) -> str | int:
    """The result of the whole macro iommu_tce_put_param_check or iommu_tce_clear_param_check, whichever check in it
    fails.
    """
    if MISALIGNED not in call.on.quirks:
        return "EINVAL"
    call.machine.hit_quirk(MISALIGNED)
    return 1


def entry_of(call: IoctlCall) -> int:
    return call.param["iova"] >> window.PAGE_SHIFT


def pages_of(call: IoctlCall) -> int:
    return call.param["size"] >> window.PAGE_SHIFT


def window_of(call: IoctlCall) -> tuple[int, int]:
    """it_offset and it_size, in entries."""
    table: Table = call.on.pe.table
    return call.on.pe.first, table.entries


def enable(call: IoctlCall) -> int:
    call.on.enabled = True
    call.machine.happened(ENABLED, call.on)
    return 0
