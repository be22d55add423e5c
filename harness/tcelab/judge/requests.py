"""What the fold knows of ioctl requests: their names, and which of them change what it keeps."""

from __future__ import annotations

from typing import Final

from tceagent import uapi
from tcelab.papr import tce

ARGSZ: Final = {"MAP_DMA": 32, "UNMAP_DMA": 24}
FLAGS: Final = {"MAP_DMA": tce.PERMISSIONS, "UNMAP_DMA": 0}
NOT_REACHED: Final = {"EPERM", "ENOMEM"}
"""Errnos of MAP_DMA and UNMAP_DMA that say that the pending default window was not made."""
BY_POINTER: Final = {*ARGSZ, "GROUP_SET_CONTAINER", "GROUP_GET_DEVICE_FD"}
"""Requests that change what we keep, with an argument that a program may have put where we do not look."""

NAMES: Final = {number: name for name, number in uapi.NUMBERS.items() if name != "SPAPR_TCE_GET_INFO_DDW"}


def request_name(request: str | int) -> str:
    """The name of an ioctl request that a program may give as a number."""
    if isinstance(request, str):
        return "SPAPR_TCE_GET_INFO" if request == "SPAPR_TCE_GET_INFO_DDW" else request
    return NAMES.get(request, "")
