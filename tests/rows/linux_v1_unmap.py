"""The driver today, a container of type v1: UNMAP_DMA.

No size here passes the window's end by more than 64 pages: the kernel would ask the hypervisor about each page of it.
"""

from __future__ import annotations

from typing import Final

from rows.row import (
    DRIVER,
    END,
    LAST,
    NO_PROGRAM,
    NOBODY,
    NOWHERE,
    PAGE,
    PE1,
    TABLE_KIB,
    WINDOW,
    WINDOW_KIB,
    Right,
    Row,
    charged,
    child,
    closed,
    closing,
    disable,
    enable,
    enabled,
    ended,
    joined,
    look,
    mapping,
    on_enabled,
    on_joined,
    passing,
    unmapping,
)
from tcelab.program import Page

UNMAP: Final = f"{DRIVER}, tce_iommu_ioctl, VFIO_IOMMU_UNMAP_DMA"
CLEAR: Final = f"{DRIVER}, tce_iommu_clear"
WINDOW_MADE: Final = f"{DRIVER}, tce_iommu_create_default_window"
CLEAR_CHECK: Final = "arch/powerpc/include/asm/iommu.h, iommu_tce_clear_param_check"
CHECK_IOBA: Final = "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba"
WITH_TABLE: Final = WINDOW_KIB + TABLE_KIB

STRUCT: Final = (
    Row(
        "UNMAP before ENABLE is EPERM whatever the struct",
        f"{UNMAP}, !container->enabled before copy_from_user",
        on_joined(
            unmapping(0, expect="EPERM"),
            passing(NOWHERE, "UNMAP_DMA", "EPERM"),
            unmapping(0, expect="EPERM", argsz=23),
            unmapping(0, expect="EPERM", flags=1),
            unmapping(END, expect="EPERM"),
            charged(0),
        ),
    ),
    Row(
        "UNMAP after DISABLE is EPERM",
        f"{UNMAP}, !container->enabled",
        on_enabled(mapping(0), disable(), unmapping(0, expect="EPERM"), passing(0, "UNMAP_DMA", "EPERM"), look()),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP with a struct that cannot be read is EFAULT",
        f"{UNMAP}, copy_from_user",
        on_enabled(passing(NOWHERE, "UNMAP_DMA", "EFAULT"), passing(0, "UNMAP_DMA", "EFAULT"), charged(WINDOW_KIB)),
    ),
    Row(
        "UNMAP with argsz below 24 is EINVAL",
        f"{UNMAP}, argsz",
        on_enabled(mapping(0), unmapping(0, expect="EINVAL", argsz=23), unmapping(0, expect="EINVAL", argsz=0), look()),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP takes a longer struct than it knows",
        f"{UNMAP}, argsz",
        on_enabled(mapping(0), unmapping(0, argsz=0xFFFFFFFF), look()),
        tables={PE1: ()},
    ),
    Row(
        "UNMAP with any flag is EINVAL",
        f"{UNMAP}, flags",
        on_enabled(mapping(0), unmapping(0, expect="EINVAL", flags=1), unmapping(0, expect="EINVAL", flags=2), look()),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP looks at argsz and flags before it makes the window",
        f"{UNMAP}, argsz and flags before tce_iommu_create_default_window",
        on_enabled(
            unmapping(0, expect="EINVAL", argsz=23), unmapping(0, expect="EINVAL", flags=1), charged(WINDOW_KIB)
        ),
    ),
)

WINDOWS: Final = (
    Row(
        "The first UNMAP makes the window and charges its table",
        WINDOW_MADE,
        on_enabled(charged(WINDOW_KIB), unmapping(0), charged(WITH_TABLE), mapping(0), charged(WITH_TABLE)),
    ),
    Row(
        "An UNMAP that fails has made the window, too",
        WINDOW_MADE,
        on_enabled(unmapping(END, expect="ENXIO"), charged(WITH_TABLE)),
    ),
    Row(
        "UNMAP looks at flags before the limit, and at the IOVA after it",
        f"{UNMAP}, flags, tce_iommu_create_default_window, tce_iommu_find_table",
        (
            *joined(),
            child("unmap-1", uid=NOBODY, memlock=WINDOW),
            enable(by="unmap-1"),
            unmapping(0, expect="EINVAL", argsz=23, by="unmap-1"),
            unmapping(0, expect="EINVAL", flags=1, by="unmap-1"),
            unmapping(0, expect="ENOMEM", by="unmap-1"),
            unmapping(END, expect="ENOMEM", by="unmap-1"),
            unmapping(0, expect="ENOMEM", size=0x1800, by="unmap-1"),
            charged(WINDOW_KIB, by="unmap-1"),
            ended("unmap-1"),
            *closed(),
        ),
    ),
    Row(
        "UNMAP without a group to make a window for is ENODEV",
        f"{WINDOW_MADE}, tce_groups_attached",
        (
            *enabled(),
            unmapping(0, expect="EINVAL", flags=1),
            unmapping(0, expect="ENODEV"),
            unmapping(END, expect="ENODEV"),
            *closing(),
        ),
        NO_PROGRAM,
        given=("no-group-once-enabled",),
        ends="dirty",
    ),
)

CHECKED: Final = (
    Row(
        "UNMAP outside the window is ENXIO, whatever else is wrong",
        f"{UNMAP}, tce_iommu_find_table before all that needs a table",
        on_enabled(
            mapping(LAST),
            unmapping(END, expect="ENXIO"),
            unmapping(END, 0, "ENXIO"),
            unmapping(0x100000000, expect="ENXIO"),
            unmapping(0xFFFFFFFFFFFFF000, expect="ENXIO"),
            unmapping(0xFFFFFFFFFFFFFFFF, expect="ENXIO"),
            unmapping(END, expect="ENXIO", size=0x1800),
            unmapping(END + 0x800, expect="ENXIO"),
            look(),
        ),
        tables={PE1: ((LAST, "m", 0, 3),)},
    ),
    Row(
        "UNMAP of a size that is no multiple of 4 KiB is EINVAL",
        f"{UNMAP}, size",
        on_enabled(mapping(0, 2), unmapping(0, expect="EINVAL", size=0x1800), look()),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 1, 3))},
    ),
    Row(
        "UNMAP checks the size before the IOVA's alignment",
        f"{UNMAP}, size before iommu_tce_clear_param_check",
        on_enabled(unmapping(0x800, expect="EINVAL", size=0x1800)),
    ),
    Row(
        "UNMAP at an IOVA that is no multiple of 4 KiB returns 1 and does nothing",
        f"{CLEAR_CHECK}: two error codes joined by ||",
        on_enabled(mapping(0), unmapping(0x800, expect=1), unmapping(1, 0, 1), look()),
        quirk="misaligned-iova-returns-1",
        right=Right(
            on_enabled(mapping(0), unmapping(0x800, expect="EINVAL"), unmapping(1, 0, "EINVAL"), look()),
            {PE1: ((0, "m", 0, 3),)},
        ),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP past the window's end clears up to the end",
        f"{CHECK_IOBA}: npages is not used; {CLEAR}, continue",
        on_enabled(mapping(0), mapping(LAST - PAGE, 2), unmapping(LAST, 2), look(), unmapping(0, 4096 + 64)),
        quirk="ioba-check-one-page",
        right=Right(
            on_enabled(
                mapping(0),
                mapping(LAST - PAGE, 2),
                unmapping(LAST, 2, "EINVAL"),
                look(),
                unmapping(0, 4096 + 64, "EINVAL"),
            ),
            {PE1: ((0, "m", 0, 3), (LAST - PAGE, "m", 0, 3), (LAST, "m", 1, 3))},
        ),
        tables={PE1: ((0, "m", 0, 3), (LAST - PAGE, "m", 0, 3))},
    ),
)

CLEARED: Final = (
    Row(
        "UNMAP of no pages is 0 and clears nothing",
        CLEAR,
        on_enabled(mapping(0), unmapping(0, 0), unmapping(LAST, 0), look()),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP skips what is not mapped, and takes no more than was asked",
        f"{CLEAR}, direction == DMA_NONE",
        on_enabled(mapping(0, 2), mapping(4 * PAGE, 2, Page("m", 4)), unmapping(PAGE, 4), look()),
        tables={PE1: ((0, "m", 0, 3), (5 * PAGE, "m", 5, 3))},
    ),
    Row(
        "UNMAP of the whole window clears it",
        CLEAR,
        on_enabled(mapping(0, 2), mapping(LAST), unmapping(0, 4096), look()),
        tables={PE1: ()},
    ),
    Row(
        "UNMAP of what was never mapped is 0",
        CLEAR,
        on_enabled(unmapping(0), unmapping(LAST), look()),
        tables={PE1: ()},
    ),
    Row(
        "What is unmapped can be mapped again",
        CLEAR,
        on_enabled(mapping(0), unmapping(0), unmapping(0), mapping(0, 1, Page("m", 1)), look()),
        tables={PE1: ((0, "m", 1, 3),)},
    ),
)

ROWS: Final = (*STRUCT, *WINDOWS, *CHECKED, *CLEARED)
