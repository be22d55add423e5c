"""The translation control entry (TCE): one 64-bit word per IOMMU page.

Source: PAPR, "TCE"; kernel arch/powerpc/include/asm/tce.h; QEMU hw/ppc/spapr_iommu.c, spapr_tce_translate_iommu.
"""

from __future__ import annotations

from typing import Final

READ: Final = 1
"""The device may read memory through this entry."""

WRITE: Final = 2
"""The device may write memory through this entry."""

PERMISSIONS: Final = READ | WRITE

PERMISSION_NAMES: Final = {0: "none", READ: "read", WRITE: "write", READ | WRITE: "read-write"}


def pack(address: int, permissions: int) -> int:
    """The entry that leads to the real page at `address` (bytes, page-aligned)."""
    return address | permissions


def address(tce: int, page_shift: int = 12) -> int:
    """The real page address that an entry leads to, in bytes."""
    return tce & ~((1 << page_shift) - 1)


def permissions(tce: int) -> int:
    return tce & PERMISSIONS


def describe(tce: int) -> str:
    """`0x0000000001234003 (page 0x1234000, read-write)`, or `0 (empty)`."""
    if tce == 0:
        return "0 (empty)"
    return f"{tce:#018x} (page {address(tce):#x}, {PERMISSION_NAMES[permissions(tce)]})"
