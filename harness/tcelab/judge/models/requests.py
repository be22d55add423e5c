"""What the fold knows of ioctl requests: their names, and which of them change what it keeps."""

from __future__ import annotations

from typing import Final

from tceagent import uapi
from tcelab.papr import tce

ARGSZ: Final = {"MAP_DMA": 32, "UNMAP_DMA": 24, "SPAPR_TCE_CREATE": 40}
"""Requests that make the pending default window, and the least that they take as argsz."""
FLAGS: Final = {"MAP_DMA": tce.PERMISSIONS, "UNMAP_DMA": 0, "SPAPR_TCE_CREATE": 0}
NOT_REACHED: Final = {
    "MAP_DMA": {"EPERM", "ENOMEM", "ENODEV"},
    "UNMAP_DMA": {"EPERM", "ENOMEM", "ENODEV"},
    "SPAPR_TCE_CREATE": {"EPERM", "ENXIO", "EFAULT", "ENOTTY"},
}
"""Errnos that say that the pending default window was not made."""
MEMORY: Final = {"SPAPR_REGISTER_MEMORY", "SPAPR_UNREGISTER_MEMORY", "SPAPR_TCE_REMOVE"}
"""Of containers of type v2, with a struct that the kernel only reads."""
BY_FIELDS: Final = {"MAP_DMA", "UNMAP_DMA", *MEMORY}
"""Requests whose struct says the same wherever it is."""
KEEPS_ALL: Final = {
    "GET_API_VERSION",
    "CHECK_EXTENSION",
    "GROUP_GET_STATUS",
    "DEVICE_GET_INFO",
    "DEVICE_GET_REGION_INFO",
    "DEVICE_GET_IRQ_INFO",
    "DEVICE_SET_IRQS",
    "SPAPR_TCE_GET_INFO",
}
"""Requests that change nothing of what the fold keeps."""
BY_POINTER: Final = {*ARGSZ, *MEMORY, "GROUP_SET_CONTAINER", "GROUP_GET_DEVICE_FD"}
"""Requests that change what we keep, with an argument that a program may have put where we do not look."""

NAMES: Final = {number: name for name, number in uapi.NUMBERS.items() if name != "SPAPR_TCE_GET_INFO_DDW"}


def request_name(request: str | int) -> str:
    """The name of an ioctl request that a program may give as a number."""
    if isinstance(request, str):
        return "SPAPR_TCE_GET_INFO" if request == "SPAPR_TCE_GET_INFO_DDW" else request
    return NAMES.get(request, "")
