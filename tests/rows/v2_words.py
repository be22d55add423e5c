"""Words of the rows about containers of type v2."""

from __future__ import annotations

from typing import Final

from rows.row import (
    DRIVER,
    PAGE,
    PE1,
    Expect,
    Ops,
    call,
    closed,
    opened,
    set_container,
    set_iommu,
)
from tcelab.program import Ioctl, Op, Page, Word

V2: Final = 7
"""VFIO_SPAPR_TCE_v2_IOMMU."""
HIGH: Final = 1 << 59
"""Where a second window begins: dma64_win_addr of the PHB."""
PE1_HIGH: Final = PE1 | 1
SIZE: Final = 1 << 24
"""Bytes of the windows that are made: as many as the default one has, and their tables cost as much."""
SMALL: Final = 1 << 20
"""Bytes of a window of 256 entries, whose table has less than a page."""
M: Final = Page("m")
"""64 pages that nobody else needs: 256 KiB."""
M_KIB: Final = 256

IOCTL: Final = f"{DRIVER}, tce_iommu_ioctl"
REGISTER: Final = f"{IOCTL}, VFIO_IOMMU_SPAPR_REGISTER_MEMORY"
UNREGISTER: Final = f"{IOCTL}, VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY"
PAGES: Final = f"{DRIVER}, tce_iommu_register_pages"
OFF: Final = f"{DRIVER}, tce_iommu_unregister_pages"
ALLOC: Final = "arch/powerpc/mm/book3s64/iommu_api.c, mm_iommu_do_alloc"
MAP: Final = f"{IOCTL}, VFIO_IOMMU_MAP_DMA"
UNMAP: Final = f"{IOCTL}, VFIO_IOMMU_UNMAP_DMA"
BUILD: Final = f"{DRIVER}, tce_iommu_build_v2"
CREATE: Final = f"{IOCTL}, VFIO_IOMMU_SPAPR_TCE_CREATE"
REMOVE: Final = f"{IOCTL}, VFIO_IOMMU_SPAPR_TCE_REMOVE"
WINDOW: Final = f"{DRIVER}, tce_iommu_create_window"


def register(vaddr: Word = M, pages: int = 64, expect: Expect = "ok", *, by: str = "", **fields: Word) -> Ioctl:
    words: dict[str, Word] = {"vaddr": vaddr, "size": pages * PAGE, **fields}
    return Ioctl(file="c", request="SPAPR_REGISTER_MEMORY", fields=words, expect=expect, by=by)


def unregister(vaddr: Word = M, pages: int = 64, expect: Expect = "ok", *, by: str = "", **fields: Word) -> Ioctl:
    words: dict[str, Word] = {"vaddr": vaddr, "size": pages * PAGE, **fields}
    return Ioctl(file="c", request="SPAPR_UNREGISTER_MEMORY", fields=words, expect=expect, by=by)


def create(shift: int = 12, size: int = SIZE, expect: Expect = "ok", *, by: str = "", **fields: Word) -> Ioctl:
    words: dict[str, Word] = {"page_shift": shift, "window_size": size, "levels": 1, **fields}
    return Ioctl(file="c", request="SPAPR_TCE_CREATE", fields=words, expect=expect, by=by)


def remove(start: int, expect: Expect = "ok", **fields: Word) -> Ioctl:
    return call("SPAPR_TCE_REMOVE", expect, start_addr=start, **fields)


def joined() -> Ops:
    return (*opened(), set_container(), set_iommu(kind=V2))


def on_joined(*ops: Op) -> Ops:
    return (*joined(), *ops, *closed())


def on_registered(*ops: Op) -> Ops:
    return (*joined(), register(), *ops, *closed())
