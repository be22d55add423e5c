"""What include/uapi/linux/vfio.h calls the requests and fields that `tceagent.uapi` has the numbers and layouts of."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from tceagent import uapi

_SHORT: Final = frozenset(
    {"MAP_DMA", "UNMAP_DMA", "ENABLE", "DISABLE", *(name for name in uapi.NUMBERS if name.startswith("SPAPR_"))}
)
"""Requests whose prefix is VFIO_IOMMU_; that of all others is VFIO_."""

_TYPES: Final = {uapi.SPAPR_TCE_IOMMU: "VFIO_SPAPR_TCE_IOMMU", uapi.SPAPR_TCE_V2_IOMMU: "VFIO_SPAPR_TCE_v2_IOMMU"}

CONSTANTS: Final = {"CHECK_EXTENSION": _TYPES, "SET_IOMMU": _TYPES}
"""Request to the names of numbers that it takes."""

FLAGS: Final = {
    "MAP_DMA": {uapi.MAP_READ: "VFIO_DMA_MAP_FLAG_READ", uapi.MAP_WRITE: "VFIO_DMA_MAP_FLAG_WRITE"},
}
"""Request to the names of its flags' bits."""


class Struct(NamedTuple):
    """A request's struct in C.

    :ivar tag: its name; empty: it is an int.
    :ivar variable: what a program calls one.
    :ivar renamed: fields that C calls otherwise than the layout.
    :ivar grows: newer headers have more of it than the layout, so its size is none of `sizeof`.
    """

    tag: str
    variable: str
    renamed: Mapping[str, str] = MappingProxyType({})
    grows: bool = False

    def field(self, name: str) -> str:
        """What C calls a field of the layout."""
        return self.renamed.get(name, name)


_MEMORY: Final = Struct("vfio_iommu_spapr_register_memory", "memory")
_WINDOW: Final = {
    "pgsizes": "ddw.pgsizes",
    "max_dynamic_windows_supported": "ddw.max_dynamic_windows_supported",
    "levels": "ddw.levels",
}
_ERROR: Final = {f"err_{name}": f"err.{name}" for name in ("type", "func", "addr", "mask")}

STRUCTS: Final = {
    "GROUP_GET_STATUS": Struct("vfio_group_status", "status"),
    "GROUP_SET_CONTAINER": Struct("", "container_fd"),
    "DEVICE_GET_INFO": Struct("vfio_device_info", "info", grows=True),
    "DEVICE_GET_REGION_INFO": Struct("vfio_region_info", "region"),
    "DEVICE_GET_IRQ_INFO": Struct("vfio_irq_info", "irq"),
    "DEVICE_SET_IRQS": Struct("vfio_irq_set", "irqs"),
    "SPAPR_TCE_GET_INFO": Struct("vfio_iommu_spapr_tce_info", "info", grows=True),
    "SPAPR_TCE_GET_INFO_DDW": Struct("vfio_iommu_spapr_tce_info", "info", _WINDOW),
    "MAP_DMA": Struct("vfio_iommu_type1_dma_map", "map"),
    "UNMAP_DMA": Struct("vfio_iommu_type1_dma_unmap", "unmap"),
    "SPAPR_REGISTER_MEMORY": _MEMORY,
    "SPAPR_UNREGISTER_MEMORY": _MEMORY,
    "SPAPR_TCE_CREATE": Struct("vfio_iommu_spapr_tce_create", "create", {"resv": "__resv1", "resv2": "__resv2"}),
    "SPAPR_TCE_REMOVE": Struct("vfio_iommu_spapr_tce_remove", "remove"),
    "EEH_PE_OP": Struct("vfio_eeh_pe_op", "eeh", _ERROR),
}
"""For each request of `uapi.LAYOUTS`."""


def macro(request: str) -> str:
    """The kernel's name of a request: `VFIO_IOMMU_MAP_DMA`."""
    if request == "SPAPR_TCE_GET_INFO_DDW":
        return macro("SPAPR_TCE_GET_INFO")  # the same request, with a longer struct
    return f"VFIO_{'IOMMU_' if request in _SHORT else ''}{request}"
