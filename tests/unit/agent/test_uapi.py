"""The ioctl tables against the numbers of vfio.h, typed from the source."""

import sys

import pytest

from tceagent import uapi

NUMBERS = {
    "GET_API_VERSION": 0x20003B64,
    "CHECK_EXTENSION": 0x20003B65,
    "SET_IOMMU": 0x20003B66,
    "GROUP_GET_STATUS": 0x20003B67,
    "GROUP_SET_CONTAINER": 0x20003B68,
    "GROUP_UNSET_CONTAINER": 0x20003B69,
    "GROUP_GET_DEVICE_FD": 0x20003B6A,
    "DEVICE_GET_INFO": 0x20003B6B,
    "DEVICE_GET_REGION_INFO": 0x20003B6C,
    "DEVICE_GET_IRQ_INFO": 0x20003B6D,
    "DEVICE_SET_IRQS": 0x20003B6E,
    "DEVICE_RESET": 0x20003B6F,
    "SPAPR_TCE_GET_INFO": 0x20003B70,
    "SPAPR_TCE_GET_INFO_DDW": 0x20003B70,
    "MAP_DMA": 0x20003B71,
    "UNMAP_DMA": 0x20003B72,
    "ENABLE": 0x20003B73,
    "DISABLE": 0x20003B74,
    "SPAPR_REGISTER_MEMORY": 0x20003B75,
    "SPAPR_UNREGISTER_MEMORY": 0x20003B76,
    "SPAPR_TCE_CREATE": 0x20003B77,
    "SPAPR_TCE_REMOVE": 0x20003B78,
    "EEH_PE_OP": 0x20003B79,
}

SIZES = {  # bytes of the struct, the smallest argsz that the kernel takes
    "GROUP_GET_STATUS": (8, 8),
    "GROUP_SET_CONTAINER": (4, 0),
    "DEVICE_GET_INFO": (16, 16),
    "DEVICE_GET_REGION_INFO": (32, 32),
    "DEVICE_GET_IRQ_INFO": (16, 16),
    "DEVICE_SET_IRQS": (20, 20),
    "SPAPR_TCE_GET_INFO": (16, 16),
    "SPAPR_TCE_GET_INFO_DDW": (32, 16),
    "MAP_DMA": (32, 32),
    "UNMAP_DMA": (24, 24),
    "SPAPR_REGISTER_MEMORY": (24, 24),
    "SPAPR_UNREGISTER_MEMORY": (24, 24),
    "SPAPR_TCE_CREATE": (40, 40),
    "SPAPR_TCE_REMOVE": (16, 16),
    "EEH_PE_OP": (40, 12),
}

OFFSETS = {  # of each field: (offset, bytes)
    "DEVICE_GET_REGION_INFO": {"index": (8, 4), "cap_offset": (12, 4), "size": (16, 8), "offset": (24, 8)},
    "SPAPR_TCE_GET_INFO": {"dma32_window_start": (8, 4), "dma32_window_size": (12, 4)},
    "SPAPR_TCE_GET_INFO_DDW": {
        "dma32_window_start": (8, 4),
        "dma32_window_size": (12, 4),
        "pgsizes": (16, 8),
        "max_dynamic_windows_supported": (24, 4),
        "levels": (28, 4),
    },
    "MAP_DMA": {"argsz": (0, 4), "flags": (4, 4), "vaddr": (8, 8), "iova": (16, 8), "size": (24, 8)},
    "UNMAP_DMA": {"argsz": (0, 4), "flags": (4, 4), "iova": (8, 8), "size": (16, 8)},
    "SPAPR_REGISTER_MEMORY": {"vaddr": (8, 8), "size": (16, 8)},
    "SPAPR_UNREGISTER_MEMORY": {"vaddr": (8, 8), "size": (16, 8)},
    "SPAPR_TCE_CREATE": {
        "page_shift": (8, 4),
        "resv": (12, 4),
        "window_size": (16, 8),
        "levels": (24, 4),
        "resv2": (28, 4),
        "start_addr": (32, 8),
    },
    "SPAPR_TCE_REMOVE": {"start_addr": (8, 8)},
    "EEH_PE_OP": {"op": (8, 4), "err_type": (16, 4), "err_func": (20, 4), "err_addr": (24, 8), "err_mask": (32, 8)},
}


def test_numbers_are_those_of_a_powerpc_kernel():
    assert uapi.NUMBERS == NUMBERS


def test_structs_have_the_size_and_smallest_argsz_of_the_header():
    assert {name: (layout.size, layout.minimum) for name, layout in uapi.LAYOUTS.items()} == SIZES


@pytest.mark.parametrize("request_name", OFFSETS)
def test_fields_lie_where_the_header_puts_them(request_name):
    for field, (offset, size) in OFFSETS[request_name].items():
        value = int.from_bytes(bytes(range(1, size + 1)), sys.byteorder)
        raw = uapi.LAYOUTS[request_name].pack({"argsz": 0} | {field: value})
        assert raw[offset : offset + size] == bytes(range(1, size + 1))
        assert not any(raw[:offset] + raw[offset + size :])


def test_every_layout_is_of_a_request_that_exists():
    assert uapi.LAYOUTS.keys() <= uapi.NUMBERS.keys()


def test_argsz_defaults_to_the_size_and_a_given_one_wins():
    layout = uapi.LAYOUTS["UNMAP_DMA"]
    assert layout.pack({})[:4] == (24).to_bytes(4, sys.byteorder)
    assert layout.pack({"argsz": 23})[:4] == (23).to_bytes(4, sys.byteorder)


def test_a_field_that_the_struct_lacks_is_named():
    with pytest.raises(ValueError, match="no field vaddr among argsz, flags, iova, size"):
        uapi.LAYOUTS["UNMAP_DMA"].pack({"vaddr": 1})


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_a_value_that_does_not_fit_its_field_is_an_error_not_a_wrap(value):
    with pytest.raises(ValueError, match="does not fit"):
        uapi.LAYOUTS["UNMAP_DMA"].pack({"flags": value})


def test_outputs_are_what_the_kernel_writes():
    assert {name: layout.outputs for name, layout in uapi.LAYOUTS.items() if layout.outputs} == {
        "GROUP_GET_STATUS": ("flags",),
        "DEVICE_GET_INFO": ("flags", "num_regions", "num_irqs"),
        "DEVICE_GET_REGION_INFO": ("flags", "cap_offset", "size", "offset"),
        "DEVICE_GET_IRQ_INFO": ("flags", "count"),
        "SPAPR_TCE_GET_INFO": ("flags", "dma32_window_start", "dma32_window_size"),
        "SPAPR_TCE_GET_INFO_DDW": (
            "flags",
            "dma32_window_start",
            "dma32_window_size",
            "pgsizes",
            "max_dynamic_windows_supported",
            "levels",
        ),
        "SPAPR_TCE_CREATE": ("start_addr",),
    }
