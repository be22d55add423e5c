"""Memory in huge pages, each of which is one piece of physical memory."""

from __future__ import annotations

import mmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HUGE_PAGE = 2 << 20
"""Bytes: a buffer in huge pages is a multiple of it."""
SIZES = (HUGE_PAGE, 16 << 20)
"""Bytes of the huge pages that a kernel has by default, whatever the size of its pages is: with the radix MMU, with the
hash MMU (arch/powerpc/mm/hugetlbpage.c, hugetlbpage_init_defaultsize).
"""
_POOL = "/proc/sys/vm/nr_hugepages"
_FREE = "/sys/kernel/mm/hugepages/hugepages-%dkB/free_hugepages"
_MAP_HUGETLB = 0x40000


def size_of(read: Callable[[str], bytes]) -> int:
    """Bytes of a huge page of this kernel; 0: it has none."""
    for size in SIZES:
        try:
            read(_FREE % (size >> 10))
        except FileNotFoundError:
            continue
        return size
    return 0


def area(size: int, read: Callable[[str], bytes], write: Callable[[str, bytes], None]) -> mmap.mmap:
    """Pages of the pool of huge pages, which is enlarged as needed (Documentation/admin-guide/mm/hugetlbpage.rst).

    :param read: a file; `write`: to one.
    :raise OSError: there are too few such pages, or none.
    """
    page = size_of(read) or HUGE_PAGE  # with none, what is asked for below fails
    count = -(-size // page)
    lacking = count - int(read(_FREE % (page >> 10)))
    if lacking > 0:
        write(_POOL, str(int(read(_POOL)) + lacking).encode())
    # With fewer than are needed, this fails.
    return mmap.mmap(-1, count * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB)
