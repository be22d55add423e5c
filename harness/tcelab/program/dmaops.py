"""Operations of the kernel's own DMA API, as a driver uses it: guest/kmod/tce_dma_main.c is that driver.

Bus addresses ("handles") are the kernel's to choose: no operation names one, and each outcome tells those that were
given. Source: Linux Documentation/core-api/dma-api.rst.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from tcelab.papr import tce
from tcelab.program.guestop import Page, _GuestOp

Direction = Literal["both", "to-device", "from-device"]

GRANTS: Final[dict[Direction, int]] = {
    "both": tce.READ | tce.WRITE,
    "to-device": tce.READ,
    "from-device": tce.READ | tce.WRITE,
}
"""What an entry of a direction lets the device do: it may always read (Linux arch/powerpc/platforms/pseries/iommu.c,
tce_build_pSeriesLP).
"""


class DmaBind(_GuestOp, frozen=True, kw_only=True):
    """Bind a device to the driver that does what a program says. It masters the bus from then on. Outcome: `fields` as
    of `bind`, without a group, and `streaming`, `coherent` (bits of its masks) and `direct` as of `dmamask`.
    """

    device: str


class DmaUnbind(_GuestOp, frozen=True, kw_only=True):
    """Unbind it. What is still mapped is unmapped first.

    :ivar late: it stays mapped, and is unmapped later, by `dmaunmap` and `dmafree`.
    """

    device: str
    late: bool = False


class DmaMask(_GuestOp, frozen=True, kw_only=True):
    """Set masks of a device: the most bits that its bus addresses may have (dma_set_mask, dma_set_coherent_mask). It
    has nothing mapped. Outcome: `value` is 0, or an errno; `fields`: `streaming` and `coherent`, the bits of both
    afterwards, and `direct`: the kernel lets it go around the API's tables, into a window in which all RAM is mapped.

    :ivar which: `both` sets the streaming one first.
    """

    device: str
    bits: int
    which: Literal["streaming", "coherent", "both"] = "both"


class DmaAlloc(_GuestOp, frozen=True, kw_only=True):
    """Allocate coherent memory (dma_alloc_coherent), as a buffer of that name, mapped for both directions. Outcome:
    `value` is 1; `fields`: `segments`, its handle and bytes; `frames`, those of whole CPU pages. Only `tag`, `fill`,
    `dmamove` and `dmafree` name such a buffer.
    """

    device: str
    buffer: str
    pages: int


class DmaFree(_GuestOp, frozen=True, kw_only=True):
    """Free coherent memory."""

    buffer: str


class DmaMap(_GuestOp, frozen=True, kw_only=True):
    """Map memory of a buffer that is contiguous in RAM: within a page, or 2 MiB of a buffer in huge pages. Outcome:
    `value` is 1, or an errno; `fields`: `segments`, a list of one handle and its bytes; `frames`, of the pages that it
    touches.

    :ivar name: a name for it.
    :ivar page: its first byte; `size`: bytes.
    :ivar how: dma_map_single or dma_map_page.
    """

    device: str
    name: str
    page: Page
    size: int
    direction: Direction = "both"
    how: Literal["single", "page"] = "single"


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One part of a `dmamapsg`, as the memory of a `dmamap`."""

    page: Page
    size: int


class DmaMapSg(_GuestOp, frozen=True, kw_only=True):
    """Map a scatter-gather list (dma_map_sgtable). Outcome: as of `dmamap`; `value` is the number of `segments`, which
    may be fewer than parts; together they have the bytes of all parts, in order.
    """

    device: str
    name: str
    parts: list[Part]
    direction: Direction = "both"


class DmaRepeat(_GuestOp, frozen=True, kw_only=True):
    """Map lists and unmap them again, over and over, and leave nothing. Their pages are held meanwhile: only the first
    round finds them. Outcome: `value` is 0, or an errno; `fields`: `lists`, how many were mapped and unmapped again,
    and `seconds`; of the driver's loops, how often it came into the kernel's allocator and found another one's loop
    there, `met` of the same table (`liobn`), `beside` of others.

    :ivar lists: as the `parts` of a `dmamapsg`, all with as many; each round maps all of them, and then unmaps them.
    :ivar times: rounds.
    :ivar loop: the driver's own loop, or one of the agent, with a request that maps all lists and tells their handles,
        and one that unmaps them, in each round. `checked`: the driver's, and it reads each entry while it is mapped
        (H_GET_TCE), and sees whether another checked loop has the same one; `fields`: `checked`, entries that it read,
        and the first that was `wrong` or `shared`.
    """

    device: str
    lists: list[list[Part]]
    times: int
    direction: Direction = "both"
    loop: Literal["module", "agent", "checked"] = "module"


class DmaSync(_GuestOp, frozen=True, kw_only=True):
    """Hand a mapping over (dma_sync_*), and change nothing on this platform.

    :ivar whom: who uses it next.
    :ivar offset: first byte of a part of it; `size`: its bytes, 0: all to its end. A list is handed over as a whole.
    """

    name: str
    whom: Literal["cpu", "device"]
    offset: int = 0
    size: int = 0


class DmaUnmap(_GuestOp, frozen=True, kw_only=True):
    """Unmap it, with the direction and the size that it was mapped with."""

    name: str


class DmaMove(_GuestOp, frozen=True, kw_only=True):
    """Make the device transfer bytes at a handle, as `dma` does; `"passed"` and `"refused"` as well. Outcome: `value`
    is 0 if it ended, whatever was refused; of an iommu-testdev, `fields`: `refused`, whether any of it was, as it says.

    :ivar name: of a `dmamap` or `dmamapsg`, or the buffer of a `dmaalloc`; it need not be mapped any more.
    :ivar segment: number of the segment whose handle it begins at; `plus`: bytes from there on, may be negative.
    :ivar to_memory: the device writes memory. An iommu-testdev only writes, a pattern of its own, 4 bytes at a time.
    :ivar offset: of the first byte in an edu's buffer.
    """

    name: str
    size: int
    to_memory: bool
    segment: int = 0
    plus: int = 0
    offset: int = 0


DmaOp: TypeAlias = (
    DmaBind | DmaUnbind | DmaMask | DmaAlloc | DmaFree | DmaMap | DmaMapSg | DmaRepeat | DmaSync | DmaUnmap | DmaMove
)
