"""What PAPR forbids a partition's kernel to ask for, and QEMU lets pass or merely refuses.

Each rule takes what was asked, and says in words what is wrong; "": nothing. Sources: PAPR, H_STUFF_TCE and
H_PUT_TCE_INDIRECT (512 entries at most, the IOBA is that of a page of the window, bits between address and permissions
are reserved), ibm,query- and ibm,create-pe-dma-window; QEMU hw/ppc/spapr_iommu.c, h_stuff_tce, which takes any number
of entries up to the table's, and put_tce_emu, which masks the IOBA.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tcelab.papr import hcallnumbers, tce, window

QUERY: Final = "ibm,query-pe-dma-window"
CREATE: Final = "ibm,create-pe-dma-window"
MOST: Final = hcallnumbers.LIST_MOST
"""Entries of one hypercall."""

RESERVED: Final = window.PAGE_SIZE - 1 - tce.PERMISSIONS
"""Bits of a TCE that are reserved, whatever the page size of the window."""

PAGE_SIZES: Final = {12: 0x1, 16: 0x2, 24: 0x4, 25: 0x8, 26: 0x10, 27: 0x20, 28: 0x40, 34: 0x80, 21: 0x100}
"""By log2 of an IOMMU page size, its bit in what ibm,query-pe-dma-window tells (LoPAPR, "IO Page Sizes")."""


class Offer(NamedTuple):
    """What ibm,query-pe-dma-window told.

    :ivar windows: that may still be made.
    :ivar largest: block of entries.
    :ivar page_sizes: a mask of `PAGE_SIZES`.
    """

    windows: int
    largest: int
    page_sizes: int


def of_call(ioba: int, entries: int, word: int, page_shift: int) -> str:
    """A hypercall that stores entries.

    :param ioba: bus address of the first one; `word`: a TCE that it stores.
    :param page_shift: of the window.
    """
    if entries > MOST:
        return f"{entries:,} entries, and one call may have {MOST}"
    if ioba & ((1 << page_shift) - 1):
        return f"IOBA {ioba:#x}, which is not a multiple of the window's pages of {1 << page_shift:#x} bytes"
    if word & RESERVED:
        return f"a TCE {word:#018x}, whose bits {word & RESERVED:#x} are reserved"
    return ""


def of_window(page_shift: int, window_shift: int, offer: Offer | None) -> str:
    """A request for a window of 2**window_shift bytes with pages of 2**page_shift bytes.

    :param offer: None: nobody has asked what there is.
    """
    if window_shift < page_shift:
        return f"a window of 2^{window_shift} bytes, which is smaller than its pages of 2^{page_shift}"
    if offer is None:
        return ""
    if not PAGE_SIZES.get(page_shift, 0) & offer.page_sizes:
        return f"pages of 2^{page_shift} bytes, and the query offered the sizes of mask {offer.page_sizes:#x}"
    if 1 << (window_shift - page_shift) > offer.largest:
        return f"2^{window_shift - page_shift} entries, and the query offered {offer.largest:#x} at most"
    return "" if offer.windows else "a window, and the query offered none"
