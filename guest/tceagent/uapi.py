"""The VFIO ioctls of a powerpc kernel as tables: numbers, struct layouts, output fields (include/uapi/linux/vfio.h).

Names are the kernel's without their prefix (`VFIO_`, `VFIO_IOMMU_`). Layouts are in the byte order of the machine
that runs this, which in the guest is the kernel's own.
"""

from __future__ import annotations

import struct

# _IO(';', 100 + nr): powerpc spells "no argument" as direction 1 at bit 29 (arch/powerpc/include/uapi/asm/ioctl.h).
_BASE = 0x20003B64

NUMBERS = {
    "GET_API_VERSION": _BASE,
    "CHECK_EXTENSION": _BASE + 1,
    "SET_IOMMU": _BASE + 2,
    "GROUP_GET_STATUS": _BASE + 3,
    "GROUP_SET_CONTAINER": _BASE + 4,
    "GROUP_UNSET_CONTAINER": _BASE + 5,
    "GROUP_GET_DEVICE_FD": _BASE + 6,
    "DEVICE_GET_INFO": _BASE + 7,
    "DEVICE_GET_REGION_INFO": _BASE + 8,
    "DEVICE_GET_IRQ_INFO": _BASE + 9,
    "DEVICE_SET_IRQS": _BASE + 10,
    "DEVICE_RESET": _BASE + 11,
    "SPAPR_TCE_GET_INFO": _BASE + 12,
    "SPAPR_TCE_GET_INFO_DDW": _BASE + 12,
    "MAP_DMA": _BASE + 13,
    "UNMAP_DMA": _BASE + 14,
    "ENABLE": _BASE + 15,
    "DISABLE": _BASE + 16,
    "SPAPR_REGISTER_MEMORY": _BASE + 17,
    "SPAPR_UNREGISTER_MEMORY": _BASE + 18,
    "SPAPR_TCE_CREATE": _BASE + 19,
    "SPAPR_TCE_REMOVE": _BASE + 20,
    "EEH_PE_OP": _BASE + 21,
}

SPAPR_TCE_IOMMU = 2
SPAPR_TCE_V2_IOMMU = 7

MAP_READ = 1
"""MAP_DMA flag: the device may read the memory."""
MAP_WRITE = 2
"""MAP_DMA flag: the device may write the memory."""

BAR0_REGION = 0
CONFIG_REGION = 7


class Layout:
    """A request's struct.

    :ivar fields: names in order; padding has none.
    :ivar minimum: the smallest argsz that the kernel takes, 0 if the struct has no argsz.
    :ivar outputs: fields that the kernel writes.
    """

    __slots__ = ("_names", "fields", "minimum", "outputs", "struct")

    def __init__(self, form: str, fields: str, minimum: int, outputs: str = "") -> None:
        self.struct = struct.Struct("=" + form)
        self.fields = tuple(fields.split())
        self._names = frozenset(self.fields)
        self.minimum = minimum
        self.outputs = tuple(outputs.split())

    @property
    def size(self) -> int:
        return self.struct.size

    def pack(self, values: dict[str, int]) -> bytes:
        """The struct's bytes; `argsz` defaults to the size, anything else to 0.

        :raise ValueError: a field that the struct does not have, or a value that does not fit.
        """
        unknown = values.keys() - self._names
        if unknown:
            raise ValueError(f"no field {', '.join(sorted(unknown))} among {', '.join(self.fields)}")
        try:
            return self.struct.pack(*(values.get(f, self.size if f == "argsz" else 0) for f in self.fields))
        except struct.error as error:
            raise ValueError(f"{values} does not fit the struct: {error}") from None

    def unpack(self, raw: bytes) -> dict[str, int]:
        """The output fields."""
        values = dict(zip(self.fields, self.struct.unpack(raw)))  # noqa: B905  strict= came with Python 3.10
        return {name: values[name] for name in self.outputs}


LAYOUTS = {
    "GROUP_GET_STATUS": Layout("II", "argsz flags", 8, "flags"),
    "GROUP_SET_CONTAINER": Layout("i", "container", 0),
    "DEVICE_GET_INFO": Layout("4I", "argsz flags num_regions num_irqs", 16, "flags num_regions num_irqs"),
    "DEVICE_GET_REGION_INFO": Layout(
        "4I2Q", "argsz flags index cap_offset size offset", 32, "flags cap_offset size offset"
    ),
    "DEVICE_GET_IRQ_INFO": Layout("4I", "argsz flags index count", 16, "flags count"),
    "DEVICE_SET_IRQS": Layout("5I", "argsz flags index start count", 20),
    "SPAPR_TCE_GET_INFO": Layout(
        "4I",
        "argsz flags dma32_window_start dma32_window_size",
        16,
        "flags dma32_window_start dma32_window_size",
    ),
    "SPAPR_TCE_GET_INFO_DDW": Layout(
        "4IQ2I",
        "argsz flags dma32_window_start dma32_window_size pgsizes max_dynamic_windows_supported levels",
        16,
        "flags dma32_window_start dma32_window_size pgsizes max_dynamic_windows_supported levels",
    ),
    "MAP_DMA": Layout("2I3Q", "argsz flags vaddr iova size", 32),
    # The sPAPR driver, unlike type 1, does not write the unmapped size back.
    "UNMAP_DMA": Layout("2I2Q", "argsz flags iova size", 24),
    "SPAPR_REGISTER_MEMORY": Layout("2I2Q", "argsz flags vaddr size", 24),
    "SPAPR_UNREGISTER_MEMORY": Layout("2I2Q", "argsz flags vaddr size", 24),
    "SPAPR_TCE_CREATE": Layout(
        "4IQ2IQ", "argsz flags page_shift resv window_size levels resv2 start_addr", 40, "start_addr"
    ),
    "SPAPR_TCE_REMOVE": Layout("2IQ", "argsz flags start_addr", 16),
    "EEH_PE_OP": Layout("3I4x2I2Q", "argsz flags op err_type err_func err_addr err_mask", 12),
}
"""Requests that take a struct. GROUP_GET_DEVICE_FD takes a string, the others a number or nothing."""


IOMMU_PAGE = 4096
