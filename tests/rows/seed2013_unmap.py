"""The driver of May 2013: UNMAP_DMA."""

from __future__ import annotations

from typing import Final

from rows.row import (
    END,
    LAST,
    NO_SEED,
    NOWHERE,
    PAGE,
    PE1,
    SEED,
    SEED_IOMMU,
    Row,
    closing,
    joined,
    look,
    mapping,
    on_joined,
    passing,
    unmapping,
)
from tcelab.program import Page

UNMAP: Final = f"{SEED}, tce_iommu_ioctl, VFIO_IOMMU_UNMAP_DMA"
CLEAR_CHECK: Final = f"{SEED_IOMMU}, iommu_tce_clear_param_check"
CLEAR: Final = f"{SEED_IOMMU}, iommu_clear_tces_and_put_pages"

ROWS: Final = (
    Row(
        "UNMAP without a table is ENXIO, with a warning",
        f"{UNMAP}, WARN_ON(!tbl)",
        (*joined(), unmapping(0, expect="ENXIO"), *closing()),
        NO_SEED,
        given=("no-table",),
        log="WARNING",
        ends="dirty",
    ),
    Row(
        "UNMAP looks for a table before it reads the struct",
        f"{UNMAP}, WARN_ON(!tbl) before copy_from_user",
        (*joined(), passing(NOWHERE, "UNMAP_DMA", "ENXIO"), *closing()),
        NO_SEED,
        given=("no-table",),
        log="WARNING",
        ends="dirty",
    ),
    Row(
        "UNMAP with a struct that cannot be read is EFAULT",
        f"{UNMAP}, copy_from_user",
        on_joined(passing(NOWHERE, "UNMAP_DMA", "EFAULT"), passing(0, "UNMAP_DMA", "EFAULT")),
        NO_SEED,
    ),
    Row(
        "UNMAP with argsz below 24 is EINVAL",
        f"{UNMAP}, argsz",
        on_joined(mapping(0), unmapping(0, expect="EINVAL", argsz=23), unmapping(0, expect="EINVAL", argsz=0), look()),
        NO_SEED,
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP takes a longer struct than it knows",
        f"{UNMAP}, argsz",
        on_joined(mapping(0), unmapping(0, argsz=0xFFFFFFFF), look()),
        NO_SEED,
        tables={PE1: ()},
    ),
    Row(
        "UNMAP with any flag is EINVAL",
        f"{UNMAP}, flags",
        on_joined(mapping(0), unmapping(0, expect="EINVAL", flags=1), unmapping(0, expect="EINVAL", flags=2), look()),
        NO_SEED,
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP of a size that is no multiple of 4 KiB is EINVAL",
        f"{UNMAP}, size",
        on_joined(mapping(0, 2), unmapping(0, expect="EINVAL", size=0x1800), look()),
        NO_SEED,
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 1, 3))},
    ),
    Row(
        "UNMAP at an IOVA that is no multiple of 4 KiB is EINVAL",
        f"{CLEAR_CHECK}, ioba & ~IOMMU_PAGE_MASK",
        on_joined(mapping(0), unmapping(0x800, expect="EINVAL"), look()),
        NO_SEED,
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP below the window is EINVAL",
        f"{CLEAR_CHECK}, ioba < it_offset",
        on_joined(unmapping(0, expect="EINVAL"), unmapping(0x7FFF000, 2, "EINVAL")),
        NO_SEED,
        given=("window-at-0x8000000",),
    ),
    Row(
        "UNMAP past the window's end is EINVAL and clears nothing",
        f"{CLEAR_CHECK}, ioba + npages > it_offset + it_size",
        on_joined(
            mapping(0),
            mapping(LAST),
            unmapping(LAST, 2, "EINVAL"),
            unmapping(0, 4097, "EINVAL"),
            unmapping(END, expect="EINVAL"),
            unmapping(0xFFFFFFFFFFFFF000, expect="EINVAL"),
            look(),
        ),
        NO_SEED,
        tables={PE1: ((0, "m", 0, 3), (LAST, "m", 0, 3))},
    ),
    Row(
        "UNMAP of the whole window clears it",
        CLEAR,
        on_joined(mapping(0, 2), mapping(LAST), unmapping(0, 4096), look()),
        NO_SEED,
        tables={PE1: ()},
    ),
    Row(
        "UNMAP of no pages is allowed up to the very end of the window",
        f"{CLEAR_CHECK}, ioba + npages > it_offset + it_size",
        on_joined(mapping(0), unmapping(0, 0), unmapping(END, 0), unmapping(END + PAGE, 0, "EINVAL"), look()),
        NO_SEED,
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNMAP skips what is not mapped, and takes no more than was asked",
        f"{CLEAR}, oldtce",
        on_joined(mapping(0, 2), mapping(4 * PAGE, 2, Page("m", 4)), unmapping(PAGE, 4), look()),
        NO_SEED,
        tables={PE1: ((0, "m", 0, 3), (5 * PAGE, "m", 5, 3))},
    ),
    Row(
        "What is unmapped can be mapped again",
        CLEAR,
        on_joined(mapping(0), unmapping(0), unmapping(0), mapping(0, 1, Page("m", 1)), look()),
        NO_SEED,
        tables={PE1: ((0, "m", 1, 3),)},
    ),
)
