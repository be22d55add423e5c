"""The ioctl requests in the fold: their names, and which of them change its state."""

from __future__ import annotations

from typing import Final

from tceagent import uapi
from tcelab.papr import tce

ARGSZ: Final = {"MAP_DMA": 32, "UNMAP_DMA": 24, "SPAPR_TCE_CREATE": 40}
"""Requests that create the pending default window, and their least argsz."""
FLAGS: Final = {"MAP_DMA": tce.PERMISSIONS, "UNMAP_DMA": 0, "SPAPR_TCE_CREATE": 0}
NOT_REACHED: Final = {
    "MAP_DMA": {"EPERM", "ENOMEM", "ENODEV"},
    "UNMAP_DMA": {"EPERM", "ENOMEM", "ENODEV"},
    "SPAPR_TCE_CREATE": {"EPERM", "ENXIO", "EFAULT", "ENOTTY"},
}
"""Errnos that show that the pending default window was not created."""
NOT_TAKEN: Final = {"EBUSY", "EPERM"}
"""Errnos of GROUP_SET_CONTAINER that show that the container's driver does not take the group."""
MEMORY: Final = {"SPAPR_REGISTER_MEMORY", "SPAPR_UNREGISTER_MEMORY", "SPAPR_TCE_REMOVE"}
"""Requests of v2 containers whose struct the kernel only reads."""
BY_FIELDS: Final = {"MAP_DMA", "UNMAP_DMA", *MEMORY}
"""Requests whose struct means the same at any address."""
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
"""Requests that do not change the fold's state."""
BY_POINTER: Final = {*ARGSZ, *MEMORY, "GROUP_SET_CONTAINER", "GROUP_GET_DEVICE_FD"}
"""Requests that change the fold's state, with an argument that may lie in memory that the fold does not read."""

NAMES: Final = {number: name for name, number in uapi.NUMBERS.items() if name != "SPAPR_TCE_GET_INFO_DDW"}


def request_name(request: str | int) -> str:
    """The name of an ioctl request that a program may give as a number."""
    if isinstance(request, str):
        return "SPAPR_TCE_GET_INFO" if request == "SPAPR_TCE_GET_INFO_DDW" else request
    return NAMES.get(request, "")
