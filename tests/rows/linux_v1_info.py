"""The driver today, a container of type v1: what can be asked of it, its group, and to whom it belongs."""

from __future__ import annotations

from typing import Final

from rows.row import (
    DRIVER,
    HIGH,
    NO_PROGRAM,
    NOWHERE,
    PAGE,
    PE1,
    PE2,
    UNKNOWN,
    WRITABLE,
    Row,
    call,
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
    open_group,
    opened,
    passing,
    put,
    set_container,
    set_iommu,
    unmapping,
    unset_container,
)
from tcelab.program import Page

GET_INFO: Final = f"{DRIVER}, tce_iommu_ioctl, VFIO_IOMMU_SPAPR_TCE_GET_INFO"
ATTACH: Final = f"{DRIVER}, tce_iommu_attach_group"
BINDING: Final = f"{DRIVER}, tce_iommu_ioctl, container->mm != current->mm"
EXTENSION: Final = f"{DRIVER}, tce_iommu_ioctl, VFIO_CHECK_EXTENSION"
ANSWERS: Final = (0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0)
"""To CHECK_EXTENSION of 0..10; of 5, EEH, because no emulated device has it."""

EXTENSIONS: Final = (
    Row(
        "CHECK_EXTENSION knows types 2 and 7, before SET_IOMMU",
        EXTENSION,
        (*opened(), *(passing(i, "CHECK_EXTENSION", answer) for i, answer in enumerate(ANSWERS)), *closed()),
    ),
    Row(
        "CHECK_EXTENSION knows types 2 and 7, after SET_IOMMU",
        EXTENSION,
        on_joined(*(passing(i, "CHECK_EXTENSION", answer) for i, answer in enumerate(ANSWERS))),
    ),
    Row(
        "CHECK_EXTENSION compares all 64 bits",
        EXTENSION,
        on_joined(passing(0x100000002, "CHECK_EXTENSION", 0), passing(0x100000007, "CHECK_EXTENSION", 0)),
    ),
    Row(
        "What only type v2 has is ENOTTY, whatever the struct",
        f"{DRIVER}, tce_iommu_ioctl, !container->v2",
        on_enabled(
            call("SPAPR_REGISTER_MEMORY", "ENOTTY"),
            call("SPAPR_UNREGISTER_MEMORY", "ENOTTY"),
            call("SPAPR_TCE_CREATE", "ENOTTY"),
            call("SPAPR_TCE_REMOVE", "ENOTTY"),
            passing(NOWHERE, "SPAPR_REGISTER_MEMORY", "ENOTTY"),
            passing(NOWHERE, "SPAPR_UNREGISTER_MEMORY", "ENOTTY"),
            passing(NOWHERE, "SPAPR_TCE_CREATE", "ENOTTY"),
            passing(NOWHERE, "SPAPR_TCE_REMOVE", "ENOTTY"),
        ),
    ),
    Row(
        "An unknown request is ENOTTY, enabled or not",
        f"{DRIVER}, tce_iommu_ioctl, the end",
        on_joined(passing(0, UNKNOWN, "ENOTTY"), enable(), passing(0, UNKNOWN, "ENOTTY")),
    ),
    Row(
        "MAP_DMA as x86 numbers it is ENOTTY",
        f"{DRIVER}, tce_iommu_ioctl, the end; arch/powerpc/include/uapi/asm/ioctl.h, _IOC_NONE",
        on_joined(passing(0, 0x3B71, "ENOTTY")),
    ),
    Row(
        "EEH_PE_OP of a group without EEH is ENODEV, before the struct is read",
        f"{DRIVER}, vfio_spapr_ioctl_eeh_pe_op, eeh_iommu_group_to_pe",
        on_joined(call("EEH_PE_OP", "ENODEV"), call("EEH_PE_OP", "ENODEV", argsz=0), passing(0, "EEH_PE_OP", "ENODEV")),
    ),
)

INFO: Final = (
    Row(
        "GET_INFO tells the window and no flags, whatever was in the struct",
        GET_INFO,
        on_joined(call("SPAPR_TCE_GET_INFO", flags=0xFFFFFFFF, dma32_window_start=5, dma32_window_size=6)),
        says={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0x1000000},
    ),
    Row(
        "GET_INFO of type v1 has zeros for DDW",
        f"{GET_INFO}, info.ddw",
        on_joined(call("SPAPR_TCE_GET_INFO_DDW", pgsizes=7, max_dynamic_windows_supported=8, levels=9)),
        says={
            "flags": 0,
            "dma32_window_start": 0,
            "dma32_window_size": 0x1000000,
            "pgsizes": 0,
            "max_dynamic_windows_supported": 0,
            "levels": 0,
        },
    ),
    Row(
        "GET_INFO writes nothing of DDW unless argsz has room for all of it",
        f"{GET_INFO}, info.argsz >= ddwsz",
        on_joined(call("SPAPR_TCE_GET_INFO_DDW", argsz=31, pgsizes=7, max_dynamic_windows_supported=8, levels=9)),
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
    ),
    Row(
        "GET_INFO with argsz below 16 is EINVAL",
        f"{GET_INFO}, argsz",
        on_joined(call("SPAPR_TCE_GET_INFO", "EINVAL", argsz=15), call("SPAPR_TCE_GET_INFO", "EINVAL", argsz=0)),
    ),
    Row(
        "GET_INFO into memory that cannot be written is EFAULT",
        f"{GET_INFO}, copy_to_user",
        on_joined(*put("SPAPR_TCE_GET_INFO"), passing(Page("rw"), "SPAPR_TCE_GET_INFO", "EFAULT"), WRITABLE),
    ),
    Row(
        "GET_INFO looks at argsz before it writes",
        f"{GET_INFO}, argsz before copy_to_user",
        on_joined(*put("SPAPR_TCE_GET_INFO", argsz=15), passing(Page("rw"), "SPAPR_TCE_GET_INFO", "EINVAL"), WRITABLE),
    ),
    Row(
        "GET_INFO without a group is ENXIO, before the struct is read",
        f"{GET_INFO}, tce_groups_attached before copy_from_user",
        (
            *joined(),
            call("SPAPR_TCE_GET_INFO", "ENXIO"),
            passing(NOWHERE, "SPAPR_TCE_GET_INFO", "ENXIO"),
            *closing(),
        ),
        NO_PROGRAM,
        given=("no-group",),
        ends="dirty",
    ),
    Row(
        "GET_INFO with a group that has lost its table group is ENXIO, before the struct is read",
        f"{GET_INFO}, !table_group before copy_from_user",
        (
            *joined(),
            call("SPAPR_TCE_GET_INFO", "ENXIO"),
            passing(NOWHERE, "SPAPR_TCE_GET_INFO", "ENXIO"),
            *closing(),
        ),
        NO_PROGRAM,
        given=("group-loses-table",),
        ends="dirty",
    ),
    Row(
        "GET_INFO tells where a window begins",
        f"{GET_INFO}, tce32_start",
        on_joined(call("SPAPR_TCE_GET_INFO")),
        topology="high-window",
        says={"flags": 0, "dma32_window_start": HIGH, "dma32_window_size": 0x1000000},
    ),
    Row(
        "GET_INFO tells the same while enabled, and after DISABLE",
        GET_INFO,
        on_enabled(call("SPAPR_TCE_GET_INFO"), mapping(0), disable(), call("SPAPR_TCE_GET_INFO")),
        says={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0x1000000},
    ),
)

GROUPS: Final = (
    Row(
        "A second group of a container of type v1 is EBUSY, and nothing happens to the first",
        f"{ATTACH}, !container->v2 && tce_groups_attached",
        (
            *enabled(),
            mapping(0),
            open_group(2),
            set_container("EBUSY", pe=2),
            mapping(PAGE),
            look(),
            *closed("g", "g2", "c"),
        ),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 0, 3)), PE2: ()},
    ),
    Row(
        "A container with two groups cannot become type v1 until one has left",
        f"{ATTACH}, !container->v2 && tce_groups_attached; drivers/vfio/container.c, __vfio_container_attach_groups",
        (
            *opened(),
            open_group(2),
            set_container(),
            set_container(pe=2),
            set_iommu("EBUSY"),
            call("SPAPR_TCE_GET_INFO", "EINVAL"),
            unset_container(pe=2),
            set_iommu(),
            enable(),
            mapping(0),
            *closed("g", "g2", "c"),
        ),
    ),
    Row(
        "A group without a table group is ENODEV",
        f"{ATTACH}, !table_group",
        (*opened(), set_container(), set_iommu("ENODEV"), *closed()),
        NO_PROGRAM,
        given=("group-without-table",),
    ),
    Row(
        "A group's table group is looked for before the container's groups are counted",
        f"{ATTACH}, !table_group before tce_groups_attached",
        (*joined(2), open_group(), set_container("ENODEV", container="c2"), *closed("g", "g2", "c2")),
        NO_PROGRAM,
        given=("group-without-table",),
    ),
    Row(
        "One group at a time: when it has left, another may come",
        f"{DRIVER}, tce_iommu_detach_group",
        (
            *enabled(),
            mapping(0),
            unset_container(),
            open_group(2),
            set_container(pe=2),
            set_iommu(),
            mapping(0, expect="EPERM"),
            enable(),
            mapping(0),
            look(),
            *closed("g", "g2", "c"),
        ),
        tables={PE1: (), PE2: ((0, "m", 0, 3),)},
    ),
)

BOUND: Final = (
    Row(
        "Until somebody enables it, any process may use a container",
        f"{BINDING}: there is none",
        (
            *joined(),
            child("bound-1"),
            call("SPAPR_TCE_GET_INFO", by="bound-1"),
            disable(by="bound-1"),
            passing(0, "SPAPR_TCE_GET_INFO", "EFAULT", by="bound-1"),
            passing(0, UNKNOWN, "ENOTTY", by="bound-1"),
            enable(),
            ended("bound-1"),
            *closed(),
        ),
    ),
    Row(
        "Once enabled, a container is EPERM to any other process, whatever is asked",
        BINDING,
        (
            *enabled(),
            child("bound-2"),
            call("SPAPR_TCE_GET_INFO", "EPERM", by="bound-2"),
            mapping(0, vaddr=0x10000, expect="EPERM", by="bound-2"),
            unmapping(0, expect="EPERM", by="bound-2"),
            enable("EPERM", by="bound-2"),
            disable("EPERM", by="bound-2"),
            call("EEH_PE_OP", "EPERM", by="bound-2"),
            call("SPAPR_REGISTER_MEMORY", "EPERM", by="bound-2"),
            passing(0, UNKNOWN, "EPERM", by="bound-2"),
            charged(16384),
            ended("bound-2"),
            *closed(),
        ),
    ),
    Row(
        "Whose a container is, is asked before anything else",
        f"{BINDING}, before the second switch",
        (
            *enabled(),
            child("bound-3"),
            passing(0, "SPAPR_TCE_GET_INFO", "EPERM", by="bound-3"),
            passing(0, "MAP_DMA", "EPERM", by="bound-3"),
            passing(0, "UNMAP_DMA", "EPERM", by="bound-3"),
            passing(0, "EEH_PE_OP", "EPERM", by="bound-3"),
            ended("bound-3"),
            *closed(),
        ),
    ),
    Row(
        "Whose a container is, is asked even if it has no group",
        f"{BINDING}, before tce_groups_attached",
        (
            *enabled(),
            child("bound-7"),
            call("SPAPR_TCE_GET_INFO", "EPERM", by="bound-7"),
            call("SPAPR_TCE_GET_INFO", "ENXIO"),
            ended("bound-7"),
            *closing(),
        ),
        NO_PROGRAM,
        given=("no-group-once-enabled",),
        ends="dirty",
    ),
    Row(
        "CHECK_EXTENSION asks nobody who they are",
        f"{EXTENSION}, before {BINDING}",
        (
            *enabled(),
            child("bound-4"),
            *(passing(i, "CHECK_EXTENSION", answer, by="bound-4") for i, answer in enumerate(ANSWERS)),
            ended("bound-4"),
            *closed(),
        ),
    ),
    Row(
        "DISABLE does not set a container free",
        f"{DRIVER}, tce_iommu_disable: container->mm stays",
        (
            *enabled(),
            disable(),
            child("bound-5"),
            enable("EPERM", by="bound-5"),
            call("SPAPR_TCE_GET_INFO", "EPERM", by="bound-5"),
            ended("bound-5"),
            enable(),
            *closed(),
        ),
    ),
    Row(
        "A container belongs to who enabled it even after his death, until its group leaves",
        f"{DRIVER}, tce_iommu_mm_set, mmgrab; tce_iommu_release, mmdrop",
        (
            *joined(),
            child("bound-6"),
            enable(by="bound-6"),
            ended("bound-6"),
            mapping(0, expect="EPERM"),
            enable("EPERM"),
            unset_container(),
            set_container(),
            set_iommu(),
            enable(),
            mapping(0),
            *closed(),
        ),
    ),
)

ROWS: Final = (*EXTENSIONS, *INFO, *GROUPS, *BOUND)
