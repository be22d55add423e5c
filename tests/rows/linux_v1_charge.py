"""The driver today, a container of type v1: ENABLE, DISABLE, what they charge, and what is left when a group leaves."""

from __future__ import annotations

from typing import Final

from rows.row import (
    BOTH,
    CONTAINER,
    DRIVER,
    GROUP,
    LAST,
    NO_PROGRAM,
    NOBODY,
    PAGE,
    PE1,
    PE2,
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
    unmapping,
    unset_container,
)
from tcelab.program import Page

ENABLE: Final = f"{DRIVER}, tce_iommu_enable"
DISABLE: Final = f"{DRIVER}, tce_iommu_disable"
RELEASE: Final = f"{DRIVER}, tce_iommu_release"
CLEARED: Final = f"{DRIVER}, tce_iommu_release_ownership, tce_iommu_clear"
LIMIT: Final = "mm/util.c, __account_locked_vm"
WITH_TABLE: Final = WINDOW_KIB + TABLE_KIB

ENABLES: Final = (
    Row(
        "ENABLE charges the whole window, the first MAP its table, and DISABLE gives the window back",
        f"{ENABLE}; {DRIVER}, tce_iommu_create_table; {DISABLE}",
        (
            *joined(),
            charged(0),
            enable(),
            charged(WINDOW_KIB),
            mapping(0, 4),
            charged(WITH_TABLE),
            unmapping(0, 4),
            charged(WITH_TABLE),
            disable(),
            charged(TABLE_KIB),
            *closed(),
        ),
    ),
    Row(
        "ENABLE after DISABLE charges the window again, and the table no second time",
        ENABLE,
        (
            *enabled(),
            mapping(0),
            disable(),
            enable(),
            charged(WITH_TABLE),
            mapping(PAGE),
            charged(WITH_TABLE),
            look(),
            *closed(),
        ),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 0, 3))},
    ),
    Row(
        "ENABLE twice is EBUSY and charges once",
        f"{ENABLE}, container->enabled",
        (*enabled(), enable("EBUSY"), charged(WINDOW_KIB), disable(), *closed()),
    ),
    Row(
        "ENABLE asks whether it is enabled before it looks at the limit",
        f"{ENABLE}, container->enabled before account_locked_vm",
        (
            *joined(),
            child("charge-1", uid=NOBODY, memlock=WINDOW),
            enable(by="charge-1"),
            enable("EBUSY", by="charge-1"),
            charged(WINDOW_KIB, by="charge-1"),
            ended("charge-1"),
            *closed(),
        ),
    ),
    Row(
        "ENABLE without a group is ENODEV, even for a window without bytes",
        f"{ENABLE}, tce_groups_attached before tce32_size",
        (*joined(), enable("ENODEV"), charged(0), *closing()),
        NO_PROGRAM,
        given=("no-group", "window-size-0"),
        ends="dirty",
    ),
    Row(
        "ENABLE asks whether it is enabled before it looks for a group",
        f"{ENABLE}, container->enabled before tce_groups_attached",
        (*enabled(), enable("EBUSY"), *closing()),
        NO_PROGRAM,
        given=("no-group-once-enabled",),
        ends="dirty",
    ),
    Row(
        "ENABLE of a window without bytes is EPERM",
        f"{ENABLE}, tce32_size",
        (*joined(), enable("EPERM"), *closed()),
        NO_PROGRAM,
        given=("window-size-0",),
    ),
    Row(
        "ENABLE up to the limit exactly is allowed",
        f"{ENABLE}; {LIMIT}",
        (
            *joined(),
            child("charge-2", uid=NOBODY, memlock=WINDOW),
            enable(by="charge-2"),
            charged(WINDOW_KIB, by="charge-2"),
            charged(0),
            disable(by="charge-2"),
            charged(0, by="charge-2"),
            ended("charge-2"),
            *closed(),
        ),
    ),
    Row(
        "ENABLE past the limit is ENOMEM and leaves no charge",
        f"{ENABLE}; {LIMIT}",
        (
            *joined(),
            child("charge-3", uid=NOBODY, memlock=WINDOW - PAGE),
            enable("ENOMEM", by="charge-3"),
            charged(0, by="charge-3"),
            mapping(0, vaddr=0x10000, expect="EPERM", by="charge-3"),
            disable(by="charge-3"),
            charged(0, by="charge-3"),
            ended("charge-3"),
            *closed(),
        ),
    ),
    Row(
        "A limit counts in whole pages",
        f"{LIMIT}, RLIMIT_MEMLOCK >> PAGE_SHIFT",
        (
            *joined(),
            child("charge-4", uid=NOBODY, memlock=WINDOW - 1),
            enable("ENOMEM", by="charge-4"),
            ended("charge-4"),
            *closed(),
        ),
    ),
    Row(
        "CAP_IPC_LOCK knows no limit",
        f"{LIMIT}, bypass_rlim",
        (
            *joined(),
            child("charge-5", memlock=0),
            enable(by="charge-5"),
            charged(WINDOW_KIB, by="charge-5"),
            disable(by="charge-5"),
            ended("charge-5"),
            *closed(),
        ),
    ),
    Row(
        "What a process has locked already counts",
        f"{LIMIT}, locked_vm + pages",
        (
            *joined(),
            *joined(2),
            child("charge-6", uid=NOBODY, memlock=2 * WINDOW - PAGE),
            enable(by="charge-6"),
            enable("ENOMEM", pe=2, by="charge-6"),
            disable(by="charge-6"),
            enable(pe=2, by="charge-6"),
            charged(WINDOW_KIB, by="charge-6"),
            ended("charge-6"),
            *closed(*BOTH),
        ),
    ),
    Row(
        "Two windows up to the limit exactly are allowed",
        f"{LIMIT}, locked_vm + pages",
        (
            *joined(),
            *joined(2),
            child("charge-7", uid=NOBODY, memlock=2 * WINDOW),
            enable(by="charge-7"),
            enable(pe=2, by="charge-7"),
            charged(2 * WINDOW_KIB, by="charge-7"),
            ended("charge-7"),
            *closed(*BOTH),
        ),
    ),
    Row(
        "A container belongs even to who could not enable it",
        f"{ENABLE}, tce_iommu_mm_set before account_locked_vm",
        (
            *joined(),
            child("charge-8", uid=NOBODY),
            enable("ENOMEM", by="charge-8"),
            ended("charge-8"),
            enable("EPERM"),
            charged(0),
            *closed(),
        ),
        quirk="enable-binds-before-limit",
        right=Right(
            (
                *joined(),
                child("charge-8", uid=NOBODY),
                enable("ENOMEM", by="charge-8"),
                ended("charge-8"),
                enable(),
                charged(WINDOW_KIB),
                *closed(),
            )
        ),
    ),
)

DISABLES: Final = (
    Row(
        "DISABLE is 0 whether enabled or not, and refunds once",
        f"{DISABLE}, container->enabled",
        (*joined(), disable(), charged(0), enable(), disable(), disable(), *closed()),
    ),
    Row(
        "What was mapped stays mapped after DISABLE, and nobody can unmap it before ENABLE",
        f"{DISABLE}: it touches no entry",
        on_enabled(
            mapping(0, 2),
            disable(),
            unmapping(0, expect="EPERM"),
            mapping(2 * PAGE, expect="EPERM"),
            look(),
            enable(),
            unmapping(0, 2),
        ),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 1, 3))},
    ),
)

LEFT: Final = (
    Row(
        "UNSET_CONTAINER clears what is mapped and gives every charge back",
        f"{CLEARED}; {RELEASE}",
        (
            *enabled(),
            mapping(0, 3),
            mapping(LAST, 1, Page("m", 9)),
            unset_container(),
            charged(0),
            look(),
            *closed(),
        ),
        tables={PE1: ()},
    ),
    Row(
        "Closing the group clears what is mapped and gives every charge back",
        f"{CLEARED}; drivers/vfio/group.c, vfio_group_fops_release",
        (*enabled(), mapping(0, 3), *closing(GROUP), charged(0), look(), *closed(CONTAINER)),
        tables={PE1: ()},
    ),
    Row(
        "What DISABLE left mapped is cleared when the group leaves",
        f"{CLEARED}; {RELEASE}, tce_iommu_free_table",
        (*enabled(), mapping(0, 3), disable(), unset_container(), charged(0), look(), *closed()),
        tables={PE1: ()},
    ),
    Row(
        "Closing the container alone changes nothing",
        "drivers/vfio/container.c, vfio_fops_release, vfio_container_put",
        (*enabled(), mapping(0, 3), *closing(CONTAINER), charged(WITH_TABLE), look(), *closed(GROUP)),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 1, 3), (2 * PAGE, "m", 2, 3))},
    ),
    Row(
        "A process that has inherited the group keeps what another has mapped",
        "drivers/vfio/group.c, vfio_group_fops_release: at the last reference",
        (
            *enabled(),
            mapping(0),
            child("left-1"),
            *closing(),
            charged(WITH_TABLE),
            look(),
            ended("left-1"),
            charged(0),
        ),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "The charge goes back to who paid it, whoever has the group leave",
        f"{DISABLE}, account_locked_vm(container->mm)",
        (
            *joined(),
            child("left-2"),
            enable(by="left-2"),
            unmapping(0, by="left-2"),
            charged(WITH_TABLE, by="left-2"),
            unset_container(),
            charged(0, by="left-2"),
            charged(0),
            ended("left-2"),
            *closed(),
        ),
    ),
    Row(
        "What one group has mapped stays when another leaves",
        CLEARED,
        (*enabled(), *enabled(2), mapping(0), mapping(0, 2, pe=2), unset_container(), look(), *closed(*BOTH)),
        tables={PE1: (), PE2: ((0, "m", 0, 3), (PAGE, "m", 1, 3))},
    ),
    Row(
        "A group that comes back finds an empty table and has to pay again",
        CLEARED,
        (
            *enabled(),
            mapping(0, 3),
            *closing(),
            *enabled(),
            charged(WINDOW_KIB),
            mapping(PAGE),
            charged(WITH_TABLE),
            look(),
            *closed(),
        ),
        tables={PE1: ((PAGE, "m", 0, 3),)},
    ),
)

ROWS: Final = (*ENABLES, *DISABLES, *LEFT)
