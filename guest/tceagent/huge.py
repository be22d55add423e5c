"""Memory in huge pages, each of which is one piece of physical memory."""

from __future__ import annotations

import mmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HUGE_PAGE = 2 << 20
"""Of a kernel with the radix MMU, whatever the size of its pages is."""
_POOL = "/proc/sys/vm/nr_hugepages"
_FREE = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
_MAP_HUGETLB = 0x40000


def there(read: Callable[[str], bytes]) -> bool:
    """Does the kernel have such pages? With the hash MMU it has others."""
    try:
        read(_FREE)
    except FileNotFoundError:
        return False
    return True


def area(size: int, read: Callable[[str], bytes], write: Callable[[str, bytes], None]) -> mmap.mmap:
    """Pages of the pool of huge pages, which is enlarged as needed (Documentation/admin-guide/mm/hugetlbpage.rst).

    :param read: a file; `write`: to one.
    :raise OSError: there are too few such pages, or none.
    """
    count = -(-size // HUGE_PAGE)
    lacking = count - int(read(_FREE))
    if lacking > 0:
        write(_POOL, str(int(read(_POOL)) + lacking).encode())
    # With fewer than are needed, this fails.
    return mmap.mmap(-1, count * HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB)
