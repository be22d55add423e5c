"""The driver today, a container of type v1: MAP_DMA."""

from __future__ import annotations

from typing import Final

from rows.row import (
    DRIVER,
    END,
    HIGH,
    LAST,
    NO_PROGRAM,
    NOBODY,
    NOWHERE,
    PAGE,
    PE1,
    TABLE,
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
from tcelab.program import Buffer, Frames, Page

MAP: Final = f"{DRIVER}, tce_iommu_ioctl, VFIO_IOMMU_MAP_DMA"
BUILD: Final = f"{DRIVER}, tce_iommu_build"
USE_PAGE: Final = f"{DRIVER}, tce_iommu_use_page"
WINDOW_MADE: Final = f"{DRIVER}, tce_iommu_create_default_window"
CHECK_IOBA: Final = "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba"
PUT_CHECK: Final = "arch/powerpc/include/asm/iommu.h, iommu_tce_put_param_check"
WITH_TABLE: Final = WINDOW_KIB + TABLE_KIB
WARNING: Final = "WARNING: .*tce_iommu_create_default_window"
AT_HIGH: Final = on_enabled(
    mapping(HIGH),
    mapping(HIGH + LAST, 1, Page("m", 1)),
    *(mapping(iova, expect="ENXIO") for iova in (0, HIGH - PAGE, HIGH + END)),
    unmapping(HIGH - PAGE, expect="ENXIO"),
    mapping(HIGH + PAGE, 1, Page("m", 2)),
    unmapping(HIGH + PAGE),
    look(),
)
HELD_HIGH: Final = {PE1: ((HIGH, "m", 0, 3), (HIGH + LAST, "m", 1, 3))}
AT_HIGH_TWICE: Final = (*on_enabled(mapping(HIGH)), *on_enabled(mapping(HIGH)))
BELOW_HIGH: Final = on_enabled(mapping(0, expect="ENXIO"))

STRUCT: Final = (
    Row(
        "MAP before ENABLE is EPERM",
        f"{MAP}, !container->enabled",
        on_joined(mapping(0, expect="EPERM"), look()),
        tables={PE1: ()},
    ),
    Row(
        "MAP before ENABLE is EPERM whatever the struct",
        f"{MAP}, !container->enabled before copy_from_user",
        on_joined(
            passing(NOWHERE, "MAP_DMA", "EPERM"),
            mapping(0, expect="EPERM", argsz=31),
            mapping(0, expect="EPERM", flags=7),
            mapping(END, expect="EPERM"),
            mapping(0, 1, NOWHERE, "EPERM"),
            charged(0),
        ),
    ),
    Row(
        "MAP after DISABLE is EPERM",
        f"{MAP}, !container->enabled",
        on_enabled(disable(), mapping(0, expect="EPERM"), passing(NOWHERE, "MAP_DMA", "EPERM"), look()),
        tables={PE1: ()},
    ),
    Row(
        "MAP with a struct that cannot be read is EFAULT",
        f"{MAP}, copy_from_user",
        on_enabled(passing(NOWHERE, "MAP_DMA", "EFAULT"), passing(0, "MAP_DMA", "EFAULT"), charged(WINDOW_KIB)),
    ),
    Row(
        "MAP with argsz below 32 is EINVAL",
        f"{MAP}, argsz",
        on_enabled(mapping(0, expect="EINVAL", argsz=31), mapping(0, expect="EINVAL", argsz=0), look()),
        tables={PE1: ()},
    ),
    Row(
        "MAP takes a longer struct than it knows",
        f"{MAP}, argsz",
        on_enabled(mapping(0, argsz=0xFFFFFFFF), look()),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "MAP with a flag beside READ and WRITE is EINVAL",
        f"{MAP}, flags",
        on_enabled(mapping(0, expect="EINVAL", flags=7), mapping(0, expect="EINVAL", flags=0x80000003), look()),
        tables={PE1: ()},
    ),
    Row(
        "MAP looks at argsz and flags before it makes the window",
        f"{MAP}, argsz and flags before tce_iommu_create_default_window",
        on_enabled(mapping(0, expect="EINVAL", argsz=31), mapping(0, expect="EINVAL", flags=7), charged(WINDOW_KIB)),
    ),
)

WINDOWS: Final = (
    Row(
        "The first MAP makes the window and charges its table, even if it then fails",
        f"{WINDOW_MADE}; {DRIVER}, tce_iommu_create_table",
        on_enabled(
            charged(WINDOW_KIB),
            mapping(END, expect="ENXIO"),
            charged(WITH_TABLE),
            mapping(0),
            mapping(PAGE),
            charged(WITH_TABLE),
        ),
    ),
    Row(
        "MAP of no pages makes the window, too",
        WINDOW_MADE,
        on_enabled(mapping(0, 0), charged(WITH_TABLE), look()),
        tables={PE1: ()},
    ),
    Row(
        "A table that the limit has no room for is ENOMEM and no charge",
        f"{DRIVER}, tce_iommu_create_table, account_locked_vm",
        (
            *joined(),
            child("map-1", uid=NOBODY, memlock=WINDOW + TABLE - PAGE),
            enable(by="map-1"),
            mapping(0, vaddr=0x10000, expect="ENOMEM", by="map-1"),
            mapping(0, vaddr=0x10000, expect="ENOMEM", by="map-1"),
            charged(WINDOW_KIB, by="map-1"),
            ended("map-1"),
            *closed(),
        ),
    ),
    Row(
        "A table that just fits into the limit is made",
        f"{DRIVER}, tce_iommu_create_table, account_locked_vm",
        (
            *joined(),
            child("map-2", uid=NOBODY, memlock=WINDOW + TABLE),
            enable(by="map-2"),
            Buffer(name="theirs", pages=2, by="map-2", expect="ok"),
            Frames(buffer="theirs", by="map-2", expect="ok"),
            mapping(0, 2, Page("theirs"), by="map-2"),
            charged(WITH_TABLE, by="map-2"),
            charged(0),
            look(),
            ended("map-2"),
            *closed(),
        ),
        tables={PE1: ((0, "theirs", 0, 3), (PAGE, "theirs", 1, 3))},
    ),
    Row(
        "MAP looks at argsz and flags before the limit, and at the IOVA after it",
        f"{MAP}, flags, tce_iommu_create_default_window, tce_iommu_find_table",
        (
            *joined(),
            child("map-3", uid=NOBODY, memlock=WINDOW),
            enable(by="map-3"),
            mapping(0, vaddr=0x10000, expect="EINVAL", by="map-3", argsz=31),
            mapping(0, vaddr=0x10000, expect="EINVAL", flags=7, by="map-3"),
            mapping(END, vaddr=0x10000, expect="ENOMEM", by="map-3"),
            mapping(0, vaddr=0x10000, expect="ENOMEM", flags=0, by="map-3"),
            mapping(0, vaddr=0x10001, expect="ENOMEM", by="map-3"),
            passing(0, "MAP_DMA", "EFAULT", by="map-3"),
            ended("map-3"),
            *closed(),
        ),
    ),
    Row(
        "MAP without a group to make a window for is ENODEV",
        f"{WINDOW_MADE}, tce_groups_attached",
        (
            *enabled(),
            mapping(0, expect="EINVAL", flags=7),
            mapping(0, expect="ENODEV"),
            mapping(END, expect="ENODEV"),
            *closing(),
        ),
        NO_PROGRAM,
        given=("no-group-once-enabled",),
        ends="dirty",
    ),
    Row(
        "The kernel warns of a window that does not begin at 0, when it is made",
        f"{WINDOW_MADE}, WARN_ON_ONCE(!ret && start_addr)",
        AT_HIGH,
        quirk="window-not-at-zero",
        right=Right(AT_HIGH, HELD_HIGH),
        topology="high-window",
        tables=HELD_HIGH,
        log=WARNING,
    ),
    Row(
        "The kernel warns of a window that does not begin at 0, also when a MAP outside the window makes it",
        f"{WINDOW_MADE}, WARN_ON_ONCE(!ret && start_addr)",
        BELOW_HIGH,
        quirk="window-not-at-zero",
        right=Right(BELOW_HIGH),
        topology="high-window",
        log=WARNING,
    ),
    Row(
        "The kernel warns of a window that does not begin at 0 no second time",
        f"{WINDOW_MADE}, WARN_ON_ONCE",
        AT_HIGH_TWICE,
        quirk="window-not-at-zero",
        right=Right(AT_HIGH_TWICE),
        topology="high-window",
        log=WARNING,
    ),
    Row(
        "The kernel does not warn of a window that begins at 0 because another does not",
        f"{WINDOW_MADE}, WARN_ON_ONCE(!ret && start_addr)",
        (*enabled(2), mapping(0, pe=2), *closed("g2", "c2")),
        topology="high-window",
    ),
)

CHECKED: Final = (
    Row(
        "MAP outside the window is ENXIO",
        f"{MAP}, tce_iommu_find_table",
        on_enabled(
            mapping(END, expect="ENXIO"),
            mapping(0x100000000, expect="ENXIO"),
            mapping(0xFFFFFFFFFFFFF000, expect="ENXIO"),
            look(),
        ),
        tables={PE1: ()},
    ),
    Row(
        "MAP of the window's first and last page",
        f"{MAP}, tce_iommu_find_table",
        on_enabled(mapping(0), mapping(LAST, 1, Page("m", 1)), look()),
        tables={PE1: ((0, "m", 0, 3), (LAST, "m", 1, 3))},
    ),
    Row(
        "MAP outside the window is ENXIO whatever else is wrong",
        f"{MAP}, tce_iommu_find_table before all that needs a table",
        on_enabled(
            mapping(END, expect="ENXIO", size=0x1800),
            mapping(END, 1, Page("m", 0, 1), "ENXIO"),
            mapping(END, expect="ENXIO", flags=0),
            mapping(END + 0x800, expect="ENXIO"),
            mapping(0xFFFFFFFFFFFFFFFF, expect="ENXIO"),
            mapping(END, 1, NOWHERE, "ENXIO"),
            mapping(END, 0, expect="ENXIO"),
        ),
    ),
    Row(
        "MAP of a size that is no multiple of 4 KiB is EINVAL",
        f"{MAP}, size",
        on_enabled(
            mapping(0, expect="EINVAL", size=0x1800),
            mapping(0, expect="EINVAL", size=1),
            mapping(0, 1, NOWHERE, "EINVAL", size=0xFFFFFFFFFFFFFFFF),
            look(),
        ),
        tables={PE1: ()},
    ),
    Row(
        "MAP of an address that is no multiple of 4 KiB is EINVAL",
        f"{MAP}, vaddr",
        on_enabled(mapping(0, 1, Page("m", 0, 0x800), "EINVAL"), mapping(0, 1, Page("m", 0, 1), "EINVAL"), look()),
        tables={PE1: ()},
    ),
    Row(
        "MAP without READ and WRITE is EINVAL",
        f"{MAP}, direction",
        on_enabled(mapping(0, expect="EINVAL", flags=0), look()),
        tables={PE1: ()},
    ),
    Row(
        "MAP checks size, address and flags before the IOVA's alignment",
        f"{MAP}, size, vaddr and direction before iommu_tce_put_param_check",
        on_enabled(
            mapping(0x800, expect="EINVAL", size=0x1800),
            mapping(0x800, 1, Page("m", 0, 1), "EINVAL"),
            mapping(0x800, expect="EINVAL", flags=0),
        ),
    ),
    Row(
        "MAP checks size, address and flags before it touches the memory",
        f"{MAP}, before tce_iommu_build",
        on_enabled(
            mapping(0, 1, NOWHERE, "EINVAL", size=0x1800),
            mapping(0, 1, Page("none", 0, 1), "EINVAL"),
            mapping(0, 1, NOWHERE, "EINVAL", flags=0),
        ),
    ),
    Row(
        "MAP at an IOVA that is no multiple of 4 KiB returns 1 and does nothing",
        f"{PUT_CHECK}: two error codes joined by ||",
        on_enabled(mapping(0x800, expect=1), mapping(1, expect=1), mapping(END - 1, expect=1), look()),
        quirk="misaligned-iova-returns-1",
        right=Right(
            on_enabled(
                mapping(0x800, expect="EINVAL"), mapping(1, expect="EINVAL"), mapping(END - 1, expect="EINVAL"), look()
            ),
            {PE1: ()},
        ),
        tables={PE1: ()},
    ),
    Row(
        "MAP looks at the IOVA's alignment before it touches the memory",
        f"{MAP}, iommu_tce_put_param_check before tce_iommu_build",
        on_enabled(mapping(0x800, 1, NOWHERE, 1), mapping(0x800, 0, expect=1)),
        quirk="misaligned-iova-returns-1",
        right=Right(on_enabled(mapping(0x800, 1, NOWHERE, "EINVAL"), mapping(0x800, 0, expect="EINVAL"))),
    ),
    Row(
        "MAP of no pages is 0 and writes nothing, but its other arguments are checked",
        f"{MAP}; {BUILD}, the loop",
        on_enabled(
            mapping(0),
            mapping(0, 0, Page("m", 1)),
            mapping(PAGE, 0, NOWHERE),
            mapping(0, 0, expect="EINVAL", flags=0),
            mapping(0, 0, Page("m", 0, 1), "EINVAL"),
            look(),
        ),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
)

ROWS: Final = (*STRUCT, *WINDOWS, *CHECKED)
