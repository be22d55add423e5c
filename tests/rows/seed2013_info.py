"""The driver of May 2013: what can be asked of a container."""

from __future__ import annotations

from typing import Final

from rows.row import (
    NO_SEED,
    NOWHERE,
    SEED,
    UNKNOWN,
    WRITABLE,
    Row,
    call,
    child,
    closed,
    closing,
    enabled,
    ended,
    joined,
    on_joined,
    opened,
    passing,
    put,
    set_container,
    set_iommu,
)
from tcelab.program import Page

GET_INFO: Final = f"{SEED}, tce_iommu_ioctl, VFIO_IOMMU_SPAPR_TCE_GET_INFO"

EXTENSIONS: Final = (
    Row(
        "CHECK_EXTENSION of the sPAPR TCE type is 1, before SET_IOMMU and after it",
        f"{SEED}, tce_iommu_ioctl, VFIO_CHECK_EXTENSION",
        (
            *opened(),
            passing(2, "CHECK_EXTENSION", 1),
            set_container(),
            passing(2, "CHECK_EXTENSION", 1),
            set_iommu(),
            passing(2, "CHECK_EXTENSION", 1),
            *closed(),
        ),
        NO_SEED,
    ),
    Row(
        "CHECK_EXTENSION of anything else is 0, type 7 too",
        f"{SEED}, tce_iommu_ioctl, VFIO_CHECK_EXTENSION",
        on_joined(*(passing(extension, "CHECK_EXTENSION", 0) for extension in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10))),
        NO_SEED,
    ),
    Row(
        "CHECK_EXTENSION compares all 64 bits",
        f"{SEED}, tce_iommu_ioctl, VFIO_CHECK_EXTENSION",
        on_joined(passing(0x100000002, "CHECK_EXTENSION", 0)),
        NO_SEED,
    ),
    Row(
        "SET_IOMMU of a type that the driver does not announce never reaches its open",
        f"{SEED}, tce_iommu_open; drivers/vfio/vfio.c, vfio_ioctl_set_iommu",
        (
            *opened(),
            set_container(),
            *(set_iommu("ENODEV", kind=kind) for kind in (0, 1, 7, 0x100000002)),
            set_iommu(),
            *closed(),
        ),
        NO_SEED,
    ),
    Row(
        "An unknown request is ENOTTY",
        f"{SEED}, tce_iommu_ioctl, the end",
        on_joined(passing(0, UNKNOWN, "ENOTTY")),
        NO_SEED,
    ),
    Row(
        "A request of later drivers is ENOTTY",
        f"{SEED}, tce_iommu_ioctl, the end",
        on_joined(
            call("SPAPR_REGISTER_MEMORY", "ENOTTY"),
            call("SPAPR_UNREGISTER_MEMORY", "ENOTTY"),
            call("SPAPR_TCE_CREATE", "ENOTTY"),
            call("SPAPR_TCE_REMOVE", "ENOTTY"),
            call("EEH_PE_OP", "ENOTTY"),
        ),
        NO_SEED,
    ),
    Row(
        "MAP_DMA as x86 numbers it is ENOTTY",
        f"{SEED}, tce_iommu_ioctl, the end; arch/powerpc/include/uapi/asm/ioctl.h, _IOC_NONE",
        on_joined(passing(0, 0x3B71, "ENOTTY")),
        NO_SEED,
    ),
)

INFO: Final = (
    Row(
        "GET_INFO tells the window and no flags, whatever was in the struct",
        GET_INFO,
        on_joined(call("SPAPR_TCE_GET_INFO", flags=0xFFFFFFFF, dma32_window_start=5, dma32_window_size=6)),
        NO_SEED,
        says={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0x1000000},
    ),
    Row(
        "GET_INFO takes a longer struct than it knows",
        GET_INFO,
        on_joined(call("SPAPR_TCE_GET_INFO", argsz=0xFFFFFFFF)),
        NO_SEED,
        says={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0x1000000},
    ),
    Row(
        "GET_INFO writes 16 bytes, whatever argsz says",
        GET_INFO,
        on_joined(call("SPAPR_TCE_GET_INFO_DDW", pgsizes=7, max_dynamic_windows_supported=8, levels=9)),
        NO_SEED,
        says={
            "flags": 0,
            "dma32_window_start": 0,
            "dma32_window_size": 0x1000000,
            "pgsizes": 7,
            "max_dynamic_windows_supported": 8,
            "levels": 9,
        },
    ),
    Row(
        "GET_INFO with a struct that cannot be read is EFAULT",
        f"{GET_INFO}, copy_from_user",
        on_joined(passing(NOWHERE, "SPAPR_TCE_GET_INFO", "EFAULT"), passing(0, "SPAPR_TCE_GET_INFO", "EFAULT")),
        NO_SEED,
    ),
    Row(
        "GET_INFO with argsz below 16 is EINVAL",
        f"{GET_INFO}, argsz",
        on_joined(call("SPAPR_TCE_GET_INFO", "EINVAL", argsz=15), call("SPAPR_TCE_GET_INFO", "EINVAL", argsz=0)),
        NO_SEED,
    ),
    Row(
        "GET_INFO into memory that cannot be written is EFAULT",
        f"{GET_INFO}, copy_to_user",
        on_joined(*put("SPAPR_TCE_GET_INFO"), passing(Page("rw"), "SPAPR_TCE_GET_INFO", "EFAULT"), WRITABLE),
        NO_SEED,
    ),
    Row(
        "GET_INFO looks at argsz before it writes",
        f"{GET_INFO}, argsz before copy_to_user",
        on_joined(*put("SPAPR_TCE_GET_INFO", argsz=15), passing(Page("rw"), "SPAPR_TCE_GET_INFO", "EINVAL"), WRITABLE),
        NO_SEED,
    ),
    Row(
        "GET_INFO without a table is ENXIO, with a warning",
        f"{GET_INFO}, WARN_ON(!tbl)",
        (*joined(), call("SPAPR_TCE_GET_INFO", "ENXIO"), *closing()),
        NO_SEED,
        given=("no-table",),
        log="WARNING",
        ends="dirty",
    ),
    Row(
        "GET_INFO looks for a table before it reads the struct",
        f"{GET_INFO}, WARN_ON(!tbl) before copy_from_user",
        (*joined(), passing(NOWHERE, "SPAPR_TCE_GET_INFO", "ENXIO"), *closing()),
        NO_SEED,
        given=("no-table",),
        log="WARNING",
        ends="dirty",
    ),
    Row(
        "GET_INFO tells where a window begins",
        f"{GET_INFO}, dma32_window_start",
        on_joined(call("SPAPR_TCE_GET_INFO")),
        NO_SEED,
        given=("window-at-0x8000000",),
        says={"flags": 0, "dma32_window_start": 0x8000000, "dma32_window_size": 0x1000000},
    ),
    Row(
        "GET_INFO has 32 bits for a size: a window of 4 GiB has none",
        f"{GET_INFO}, dma32_window_size",
        on_joined(call("SPAPR_TCE_GET_INFO")),
        NO_SEED,
        given=("window-4GiB",),
        says={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0},
    ),
    Row(
        "Another process may ask for GET_INFO",
        GET_INFO,
        (*enabled(), child("info-1"), call("SPAPR_TCE_GET_INFO", by="info-1"), ended("info-1"), *closed()),
        NO_SEED,
        says={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0x1000000},
    ),
)

ROWS: Final = (*EXTENSIONS, *INFO)
