"""The driver today, a container of type v1: what MAP_DMA does with pages, and what is left when it fails."""

from __future__ import annotations

from typing import Final

from rows.row import DRIVER, LAST, NOWHERE, PAGE, PE1, READ, WRITE, Right, Row, edge, look, mapping, on_enabled
from tcelab.program import Page

MAP: Final = f"{DRIVER}, tce_iommu_ioctl, VFIO_IOMMU_MAP_DMA"
BUILD: Final = f"{DRIVER}, tce_iommu_build"
USE_PAGE: Final = f"{DRIVER}, tce_iommu_use_page"
CHECK_IOBA: Final = "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba"

PAGES: Final = (
    Row(
        "MAP puts neighbouring pages into neighbouring entries",
        BUILD,
        on_enabled(mapping(PAGE, 3, Page("m", 5)), look()),
        tables={PE1: ((PAGE, "m", 5, 3), (2 * PAGE, "m", 6, 3), (3 * PAGE, "m", 7, 3))},
    ),
    Row(
        "An entry leads into the middle of a page of 64 KiB",
        f"{BUILD}, offset",
        on_enabled(mapping(PAGE, 3, Page("m", 15)), look()),
        "the guest's kernel has pages of 4 KiB",
        given=("cpu-pages-64KiB",),
        tables={PE1: ((PAGE, "m", 15, 3), (2 * PAGE, "m", 16, 3), (3 * PAGE, "m", 17, 3))},
    ),
    Row(
        "MAP gives exactly the permissions that its flags name",
        f"{MAP}, direction; arch/powerpc/kernel/iommu.c, iommu_direction_to_tce_perm",
        on_enabled(mapping(0, flags=READ), mapping(PAGE, flags=WRITE), mapping(2 * PAGE, flags=READ | WRITE), look()),
        tables={PE1: ((0, "m", 0, 1), (PAGE, "m", 0, 2), (2 * PAGE, "m", 0, 3))},
    ),
    Row(
        "A live entry is exchanged without a word",
        f"{BUILD}, iommu_tce_xchg_no_kill, dirtmp != DMA_NONE",
        on_enabled(mapping(0, 2), mapping(0, 1, Page("m", 9), flags=READ), mapping(PAGE, 1, Page("m", 1)), look()),
        tables={PE1: ((0, "m", 9, 1), (PAGE, "m", 1, 3))},
    ),
    Row(
        "One page can be mapped at many addresses",
        BUILD,
        on_enabled(mapping(0), mapping(5 * PAGE), mapping(LAST), look()),
        tables={PE1: ((0, "m", 0, 3), (5 * PAGE, "m", 0, 3), (LAST, "m", 0, 3))},
    ),
    Row(
        "Memory that the process may not touch is EFAULT",
        f"{USE_PAGE}, pin_user_pages_fast",
        on_enabled(
            mapping(0, 1, NOWHERE, "EFAULT", flags=READ),
            mapping(0, 1, NOWHERE, "EFAULT", flags=WRITE),
            mapping(0, 1, 0, "EFAULT"),
            mapping(0, 1, 0xC000000000000000, "EFAULT"),
            mapping(0, 1, 0xFFFFFFFFFFFFF000, "EFAULT"),
            look(),
        ),
        tables={PE1: ()},
    ),
    Row(
        "Memory that the process may only read cannot be mapped for writing",
        f"{USE_PAGE}, FOLL_WRITE",
        on_enabled(
            mapping(0, 1, Page("ro"), "EFAULT", flags=WRITE),
            mapping(0, 1, Page("ro"), "EFAULT", flags=READ | WRITE),
            look(),
        ),
        tables={PE1: ()},
    ),
    Row(
        "Memory that the process may only read cannot be mapped for reading either",
        f"{USE_PAGE}: the direction is taken from the address, not from the flags",
        on_enabled(mapping(0, 2, Page("ro"), "EFAULT", flags=READ), look()),
        quirk="pin-for-write",
        right=Right(
            on_enabled(mapping(0, 2, Page("ro"), flags=READ), look()), {PE1: ((0, "ro", 0, 1), (PAGE, "ro", 1, 1))}
        ),
        tables={PE1: ()},
    ),
    Row(
        "A MAP that fails at its first page leaves a live entry alone",
        f"{BUILD}, tce_iommu_clear with i = 0",
        on_enabled(mapping(0, 2), mapping(0, 2, NOWHERE, "EFAULT"), look()),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 1, 3))},
    ),
    Row(
        "A MAP whose memory ends takes its entries back, and no others",
        f"{BUILD}, tce_iommu_clear with i",
        on_enabled(mapping(0), mapping(3 * PAGE, 2, Page("m", 1)), mapping(PAGE, 3, edge(2), "EFAULT"), look()),
        tables={PE1: ((0, "m", 0, 3), (3 * PAGE, "m", 1, 3), (4 * PAGE, "m", 2, 3))},
    ),
    Row(
        "What was taken back can be mapped",
        f"{BUILD}, tce_iommu_clear",
        on_enabled(mapping(PAGE, 3, edge(2), "EFAULT"), mapping(PAGE, 2, edge(2)), look()),
        tables={PE1: ((PAGE, "edge", 254, 3), (2 * PAGE, "edge", 255, 3))},
    ),
    Row(
        "A MAP that fails loses the live entries that it had exchanged",
        f"{BUILD}, tce_iommu_clear: the old pages were let go of",
        on_enabled(mapping(PAGE, 4), mapping(PAGE, 3, edge(2), "EFAULT"), look()),
        quirk="rollback-loses-entries",
        right=Right(
            on_enabled(mapping(PAGE, 4), mapping(PAGE, 3, edge(2), "EFAULT"), look()),
            {PE1: ((PAGE, "m", 0, 3), (2 * PAGE, "m", 1, 3), (3 * PAGE, "m", 2, 3), (4 * PAGE, "m", 3, 3))},
        ),
        tables={PE1: ((3 * PAGE, "m", 2, 3), (4 * PAGE, "m", 3, 3))},
    ),
)

# A kernel that tests the whole range would refuse these before it begins. The change of 2026 (0b271f7d7f5e, "Fix the
# overflow validation in iommu_tce_check_ioba") may not be that kernel: iommu_tce_put_param_check asks about one page.
PAST_THE_END: Final = (
    Row(
        "A MAP past the window's end fails there with the hypercall's code for an errno",
        f"{CHECK_IOBA}: npages is not used; arch/powerpc/platforms/pseries/iommu.c, tce_exchange_pseries",
        on_enabled(mapping(LAST, 2, expect="EINTR"), mapping(LAST - PAGE, 32, expect="EINTR"), look()),
        quirk="ioba-check-one-page",
        right=Right(
            on_enabled(mapping(LAST, 2, expect="EINVAL"), mapping(LAST - PAGE, 32, expect="EINVAL"), look()), {PE1: ()}
        ),
        tables={PE1: ()},
    ),
    Row(
        "A MAP past the window's end loses the live entries before the end",
        f"{CHECK_IOBA}: npages is not used; {BUILD}, tce_iommu_clear",
        on_enabled(
            mapping(LAST - PAGE),
            mapping(LAST, 1, Page("m", 1)),
            mapping(LAST, 2, Page("m", 2), "EINTR"),
            look(),
        ),
        quirk="ioba-check-one-page",
        right=Right(
            on_enabled(
                mapping(LAST - PAGE),
                mapping(LAST, 1, Page("m", 1)),
                mapping(LAST, 2, Page("m", 2), "EINVAL"),
                look(),
            ),
            {PE1: ((LAST - PAGE, "m", 0, 3), (LAST, "m", 1, 3))},
        ),
        tables={PE1: ((LAST - PAGE, "m", 0, 3),)},
    ),
    Row(
        "A size is not held against the window: what cannot be touched is EFAULT",
        f"{CHECK_IOBA}: npages is not used",
        on_enabled(mapping(0, 1, NOWHERE, "EFAULT", size=0x100000000), look()),
        quirk="ioba-check-one-page",
        right=Right(on_enabled(mapping(0, 1, NOWHERE, "EINVAL", size=0x100000000), look()), {PE1: ()}),
        tables={PE1: ()},
    ),
)

ROWS: Final = (*PAGES, *PAST_THE_END)
