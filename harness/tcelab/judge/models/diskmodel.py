"""What a virtio-blk device must hold: its disk, and what its transfers do.

Sources: QEMU hw/block/virtio-blk.c, system/physmem.c (what is refused of a request gives zeros, or is dropped),
hw/virtio/virtio-pci.c (virtio_write_config: a device that may not master the bus is not ready any more);
tceagent.virtio, its driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tceagent import virtio
from tcelab.judge.models.edumodel import Asker, DeviceModel
from tcelab.judge.models.memorymodel import PageModel
from tcelab.judge.models.windowmodel import WindowModel
from tcelab.papr import dmarules, tce, window
from tcelab.program import Dma, Flight, Transfer, diskcontent, pagetags

VIRTIO_BLK: Final = virtio.IS_READY
"""Its identity: one queue, and no vector."""
_LOOK: Final = 2
_LOOKS: Final = ((False, virtio.USED), (True, virtio.USED), (False, virtio.AVAILABLE + 2))
"""Ring accesses of a device without bus mastering when its doorbell rings: whether it writes, and where in the ring."""
_ALL: Final = (1 << 64) - 1


class DiskModel(DeviceModel):
    """Its memory is its disk.

    :ivar ring: the two pages of its queue, to which it writes, and where they are on the bus; None until it is set up.
    :ivar right: its content when it was last seen to be right; None once something was written since.
    :ivar writers: for each sector, the number of the operation that wrote it last; -1: it is as at the start.
    """

    __slots__ = ("_asker", "right", "ring", "writers")

    def __init__(self, name: str, windows: WindowModel) -> None:
        super().__init__(name, windows, _ALL)
        self.memory = bytearray(diskcontent.fresh(name))
        self.known = bytearray(b"\1" * diskcontent.SIZE)
        self.identity = VIRTIO_BLK
        self.right: bytes | None = None
        self.writers = [-1] * (diskcontent.SIZE // virtio.SECTOR)
        self.ring: tuple[list[PageModel], int] | None = None
        self._asker: Asker | None = None

    # -- whether it is ready

    def set_up(self, asker: Asker, pages: list[PageModel], iova: int) -> None:
        """Its driver has set it up; from then on, only that file has a queue for requests."""
        self.ring, self._asker = (pages, iova), asker

    def open(self) -> None:
        super().open()
        if not self.master:
            self.off_bus()

    def close(self) -> None:
        super().close()
        if not self.master:
            self.off_bus()

    def off_bus(self) -> None:
        """Its command register was written, and it may not master the bus."""
        self._asker = None

    def thawed(self) -> None:
        """Thawing resets it."""
        self._asker = None

    def moved(self) -> None:
        """QEMU saves all of it, and its disk is the same file."""

    def wrote(self, at: int) -> int:
        """See `DeviceModel.wrote`."""
        return self.writers[at // virtio.SECTOR]

    def replaced(self) -> None:
        """What is on the disk stays."""
        self.ended()
        self.ring = None

    # -- transfers

    def begun(self, step: int) -> None:
        """The driver and the device use the ring."""
        for page in self.ring[0] if self.ring else ():
            page.blur(step)

    def ring_is_there(self) -> bool:
        """It can read and write its ring, as far as the table goes."""
        if self.ring is None:
            return True
        places = (self.ring[1], self.ring[1] + pagetags.PAGE)
        tables = [self.windows.at(place) for place in places]
        found = [table.permissions(table.number(place)) for table, place in zip(tables, places, strict=True)]
        return found == [tce.PERMISSIONS] * 2

    def transfer(self, op: Dma | Transfer | Flight, step: int, *, isolated: bool = False) -> list[dmarules.Piece]:
        """Move the data of one transfer; its pieces."""
        pieces = super().transfer(op, step, isolated=isolated)
        if not op.to_memory:
            self._wrote(op.offset, op.size, step)
        return pieces

    def missed(self, op: Dma | Transfer, asker: Asker, *, isolated: bool) -> list[dmarules.Piece]:
        """A transfer that the device did not do although it was reached: its pieces, none if it was not even tried."""
        ready, self._asker = self._asker == asker, None  # a driver whose attempt fails resets it
        return self.pieces(op, isolated=isolated) if ready and (isolated or not self.master) else []

    def looks(self) -> list[tuple[bool, int, int]]:
        """See `DeviceModel.looks`."""
        return [] if self.ring is None else [(writes, self.ring[1] + at, _LOOK) for writes, at in _LOOKS]

    def torn(self) -> list[tuple[bool, int, int]]:
        """It may be isolated before or after it reports a transfer as done: see `DeviceModel.torn`."""
        return [] if self.ring is None else [(writes, self.ring[1], virtio.RING) for writes in (False, True)]

    def quick(self, transfers: Sequence[Transfer], begin: int, end: int, step: int) -> tuple[int, int]:
        """See `DeviceModel.quick`."""
        pieces = 0
        for number in range(begin, end):
            op = transfers[number]
            found = self._pages(op.iova, op.size, tce.WRITE if op.to_memory else tce.READ)
            if found is None:
                return number - begin, pieces
            at = op.offset
            for page, start, size in found:
                if op.to_memory:
                    self._give(page, start, at, size, step)
                else:
                    self._take(page, start, at, size)
                at += size
            if not op.to_memory:
                self._wrote(op.offset, op.size, step)
            pieces += len(found)
        return end - begin, pieces

    def _pages(self, iova: int, size: int, needed: int) -> list[tuple[PageModel | None, int, int]] | None:
        """The pages that a transfer goes to, with start and size in each; None when something of it is refused."""
        table, out = self.windows.at(iova), []
        if table.page_shift != window.PAGE_SHIFT:
            return None
        number, start = divmod(iova - table.start, pagetags.PAGE)
        while size > 0:
            entry = table.live.get(number) if 0 <= number < table.entries else None
            if entry is None or entry.untold or not entry.permissions & needed:
                return None
            part = min(pagetags.PAGE - start, size)
            out.append((entry.page, start, part))
            number, start, size = number + 1, 0, size - part
        return out

    def _give(self, page: PageModel | None, start: int, at: int, size: int, step: int) -> None:
        if page is None:
            return
        if 0 in self.known[at : at + size]:
            page.blur(step)
        else:
            page.write(start, bytes(self.memory[at : at + size]), step)

    def _take(self, page: PageModel | None, start: int, at: int, size: int) -> None:
        data = page.read(start, size) if page else None
        self.memory[at : at + size] = data or bytes(size)
        self.known[at : at + size] = (b"\0" if data is None else b"\1") * size

    def _wrote(self, offset: int, size: int, step: int) -> None:
        self.right = None
        first, count = offset // virtio.SECTOR, size // virtio.SECTOR
        self.writers[first : first + count] = [step] * count
