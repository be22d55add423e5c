"""The driver today, a container of type v2: its type, registered memory, and what is mapped of it."""

from __future__ import annotations

from typing import Final

from rows.row import (
    DRIVER,
    LAST,
    NOBODY,
    NOWHERE,
    PAGE,
    PE1,
    READ,
    TABLE_KIB,
    UNKNOWN,
    WRITE,
    Right,
    Row,
    call,
    charged,
    child,
    closed,
    disable,
    enable,
    ended,
    look,
    mapping,
    opened,
    passing,
    set_container,
    set_iommu,
    unmapping,
)
from rows.v2_words import (
    ALLOC,
    BUILD,
    HIGH,
    IOCTL,
    M_KIB,
    MAP,
    OFF,
    PAGES,
    REGISTER,
    UNMAP,
    UNREGISTER,
    V2,
    create,
    joined,
    on_joined,
    on_registered,
    register,
    unregister,
)
from tcelab.program import Page

TYPE: Final = (
    Row(
        "a v2 container knows types 2 and 7",
        f"{IOCTL}, VFIO_CHECK_EXTENSION",
        (
            *opened(),
            *(passing(i, "CHECK_EXTENSION", int(i in (2, 7))) for i in range(11)),
            set_container(),
            set_iommu(kind=V2),
            *(passing(i, "CHECK_EXTENSION", int(i in (2, 7))) for i in range(11)),
            *closed(),
        ),
    ),
    Row(
        "ENABLE and DISABLE are not for v2",
        f"{IOCTL}, VFIO_IOMMU_ENABLE: !container->v2",
        on_joined(enable("ENOTTY"), disable("ENOTTY"), charged(0)),
    ),
    Row("a v2 container does not know an unknown request", IOCTL, on_joined(call(UNKNOWN, "ENOTTY"))),
    Row(
        "GET_INFO of type v2 tells of dynamic windows",
        f"{IOCTL}, VFIO_IOMMU_SPAPR_TCE_GET_INFO, info.flags |= VFIO_IOMMU_SPAPR_INFO_DDW",
        on_joined(call("SPAPR_TCE_GET_INFO_DDW", flags=0xFF, pgsizes=7, levels=9)),
        says={
            "flags": 1,
            "dma32_window_start": 0,
            "dma32_window_size": 0x1000000,
            "pgsizes": 0x1211000,
            "max_dynamic_windows_supported": 2,
            "levels": 1,
        },
    ),
    Row(
        "GET_INFO of type v2 writes nothing of DDW unless argsz has room for all of it",
        f"{IOCTL}, VFIO_IOMMU_SPAPR_TCE_GET_INFO, info.argsz >= ddwsz",
        on_joined(call("SPAPR_TCE_GET_INFO_DDW", argsz=31, pgsizes=7, max_dynamic_windows_supported=8, levels=9)),
        says={
            "flags": 1,
            "dma32_window_start": 0,
            "dma32_window_size": 0x1000000,
            "pgsizes": 7,
            "max_dynamic_windows_supported": 8,
            "levels": 9,
        },
    ),
    Row(
        "GET_INFO of type v2 wants 16 bytes that can be read",
        f"{IOCTL}, VFIO_IOMMU_SPAPR_TCE_GET_INFO, argsz < minsz",
        on_joined(call("SPAPR_TCE_GET_INFO_DDW", "EINVAL", argsz=15), passing(NOWHERE, "SPAPR_TCE_GET_INFO", "EFAULT")),
    ),
)

REGISTERING: Final = (
    Row(
        "what is registered is charged, and refunded when it no longer is",
        ALLOC,
        on_joined(register(), charged(M_KIB), unregister(), charged(0), register(), charged(M_KIB)),
    ),
    Row(
        "REGISTER asks for argsz, flags and whole pages, in that order",
        f"{REGISTER}; {PAGES}",
        on_joined(
            passing(NOWHERE, "SPAPR_REGISTER_MEMORY", "EFAULT"),
            register(expect="EINVAL", argsz=23),
            register(expect="EINVAL", flags=1),
            register(Page("m", 0, 0x800), expect="EINVAL"),
            register(expect="EINVAL", size=0x800),
            register(0xFFFFFFFFFFFFF000, 1, "EINVAL"),
            charged(0),
        ),
    ),
    Row("the same region twice is EBUSY", PAGES, on_registered(register(expect="EBUSY"), charged(M_KIB))),
    Row(
        "a region that overlaps another is EINVAL, and costs nothing",
        f"{ALLOC}, overlap",
        on_registered(register(Page("m", 32), 16, "EINVAL"), register(pages=32, expect="EINVAL"), charged(M_KIB)),
    ),
    Row(
        "memory that cannot be written cannot be registered",
        f"{ALLOC}, pin_user_pages with FOLL_WRITE",
        on_joined(
            register(Page("ro"), 4, "EFAULT"),
            register(Page("none"), 4, "EFAULT"),
            register(Page("ro", 0), 1, "EFAULT"),
            charged(0),
        ),
    ),
    Row(
        "REGISTER past the limit is ENOMEM, and binds the container to the process all the same",
        f"{ALLOC}, account_locked_vm; {REGISTER}, tce_iommu_mm_set before it",
        (
            *joined(),
            child("v2-1", uid=NOBODY, memlock=16 * PAGE),
            register(0x10000, 32, "ENOMEM", by="v2-1"),
            charged(0, by="v2-1"),
            register(expect="EPERM"),
            create(expect="EPERM"),
            ended("v2-1"),
            *closed(),
        ),
    ),
    Row(
        "UNREGISTER before anybody registered is EPERM, before its struct is read",
        f"{UNREGISTER}, !container->mm before copy_from_user",
        on_joined(unregister(expect="EPERM"), passing(NOWHERE, "SPAPR_UNREGISTER_MEMORY", "EPERM")),
    ),
    Row(
        "UNREGISTER asks for argsz, flags and whole pages",
        f"{UNREGISTER}; {OFF}",
        on_registered(
            passing(NOWHERE, "SPAPR_UNREGISTER_MEMORY", "EFAULT"),
            unregister(expect="EINVAL", argsz=23),
            unregister(expect="EINVAL", flags=1),
            unregister(Page("m", 0, 0x800), expect="EINVAL"),
            unregister(expect="EINVAL", size=0x800),
            charged(M_KIB),
        ),
    ),
    Row(
        "UNREGISTER wants exactly what was registered",
        f"{OFF}, mm_iommu_get",
        on_registered(
            unregister(pages=32, expect="ENOENT"),
            unregister(expect="ENOENT", size=0xFFFFFFFFFFFFF000),
            unregister(Page("m", 32), 32, "ENOENT"),
            charged(M_KIB),
            unregister(),
            unregister(expect="ENOENT"),
        ),
    ),
)

MAPPING: Final = (
    Row(
        "nothing is mapped or unmapped before memory is registered",
        f"{MAP}, !container->enabled before copy_from_user",
        on_joined(
            mapping(0, expect="EPERM"),
            unmapping(0, expect="EPERM"),
            passing(NOWHERE, "MAP_DMA", "EPERM"),
            passing(NOWHERE, "UNMAP_DMA", "EPERM"),
        ),
    ),
    Row(
        "MAP and UNMAP want their structs",
        f"{MAP}; {UNMAP}",
        on_registered(
            passing(NOWHERE, "MAP_DMA", "EFAULT"),
            passing(NOWHERE, "UNMAP_DMA", "EFAULT"),
            mapping(0, expect="EINVAL", argsz=31),
            unmapping(0, expect="EINVAL", argsz=23),
            mapping(0, expect="EINVAL", flags=7),
            unmapping(0, expect="EINVAL", flags=1),
            charged(M_KIB),
        ),
    ),
    Row(
        "the first map makes the default window, whose table is charged",
        f"{DRIVER}, tce_iommu_create_default_window",
        on_registered(charged(M_KIB), mapping(0), charged(M_KIB + TABLE_KIB)),
    ),
    Row(
        "entries have the permissions that were asked for",
        BUILD,
        (
            *joined(),
            register(),
            mapping(0, 2, flags=READ),
            mapping(0x4000, 1, Page("m", 5), flags=WRITE),
            mapping(LAST, 1, Page("m", 63)),
            look(),
            *closed(),
        ),
        tables={PE1: ((0, "m", 0, 1), (PAGE, "m", 1, 1), (0x4000, "m", 5, 2), (LAST, "m", 63, 3))},
    ),
    Row(
        "a live entry is replaced",
        f"{BUILD}, iommu_tce_xchg_no_kill",
        (*joined(), register(), mapping(0, 3), mapping(PAGE, 1, Page("m", 9), flags=READ), look(), *closed()),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 9, 1), (2 * PAGE, "m", 2, 3))},
    ),
    Row(
        "what is not registered cannot be mapped",
        f"{DRIVER}, tce_iommu_prereg_ua_to_hpa",
        (*joined(), register(), mapping(0, 1, Page("rw"), "EINVAL"), look(), *closed()),
        tables={},
    ),
    Row(
        "a map that runs off what is registered leaves nothing",
        f"{BUILD}, tce_iommu_clear",
        (
            *joined(),
            register(pages=4),
            mapping(0, 1, Page("m", 3)),
            mapping(PAGE, 4, Page("m", 2), "EINVAL"),
            look(),
            *closed(),
        ),
        tables={PE1: ((0, "m", 3, 3),)},
    ),
    Row(
        "outside every window is ENXIO, whatever else is wrong",
        f"{MAP}, tce_iommu_find_table before the rest",
        on_registered(
            mapping(0x1000000, expect="ENXIO"),
            unmapping(0x1000000, expect="ENXIO"),
            mapping(HIGH, expect="ENXIO"),
            mapping(0x1000000, expect="ENXIO", flags=0),
            mapping(0x1000800, expect="ENXIO", size=0x800),
        ),
    ),
    Row(
        "sizes, addresses and permissions must be right",
        f"{MAP}, IOMMU_PAGE_MASK; flags",
        on_registered(
            mapping(0, expect="EINVAL", size=0x800),
            mapping(0, vaddr=Page("m", 0, 0x800), expect="EINVAL"),
            mapping(0, expect="EINVAL", flags=0),
            unmapping(0, expect="EINVAL", size=0x800),
        ),
    ),
    Row(
        "a misaligned iova gives 1, and maps nothing",
        "arch/powerpc/include/asm/iommu.h, iommu_tce_put_param_check: two codes joined by ||",
        (*joined(), register(), mapping(0), mapping(0x800, expect=1), unmapping(0x800, expect=1), look(), *closed()),
        quirk="misaligned-iova-returns-1",
        right=Right(
            (
                *joined(),
                register(),
                mapping(0),
                mapping(0x800, expect="EINVAL"),
                unmapping(0x800, expect="EINVAL"),
                look(),
                *closed(),
            ),
            tables={PE1: ((0, "m", 0, 3),)},
        ),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "an unmap takes exactly its pages, as often as one likes",
        f"{UNMAP}, tce_iommu_clear",
        (
            *joined(),
            register(),
            mapping(0, 4),
            unmapping(PAGE, 2),
            unmapping(PAGE, 2),
            unmapping(0x8000),
            look(),
            *closed(),
        ),
        tables={PE1: ((0, "m", 0, 3), (3 * PAGE, "m", 3, 3))},
    ),
    Row(
        "no bytes are mapped and unmapped without a word",
        f"{BUILD}, a loop of no rounds",
        (*joined(), register(), mapping(0, 0), unmapping(0, 0), look(), *closed()),
        tables={},
    ),
)

ROWS: Final = (*TYPE, *REGISTERING, *MAPPING)
