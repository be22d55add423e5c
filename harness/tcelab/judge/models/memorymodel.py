"""What guest memory must hold: every buffer page, byte by byte, as the operations wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tceagent import uapi
from tcelab.program import Tag, pagetags

ZEROS: Final = bytes(pagetags.SIZE)

_ANYTHING: Final = pagetags.PAGE
"""Bytes that are assumed for a kernel without a known limit."""
_CHAINED: Final = {"DEVICE_GET_INFO", "DEVICE_GET_REGION_INFO"}
"""Requests whose struct may be followed by capabilities (drivers/vfio/vfio_main.c, vfio_info_add_capability)."""
_WRITTEN: Final = {
    number: max(
        _ANYTHING if name in _CHAINED else layout.size if layout.outputs else 0
        for name, layout in uapi.LAYOUTS.items()
        if uapi.NUMBERS[name] == number
    )
    for number in {uapi.NUMBERS[name] for name in uapi.LAYOUTS}
}
"""By the number of a request with a struct; the others write nothing."""


def written(request: str | int) -> int:
    """How many bytes an ioctl may write at its argument's address."""
    number = uapi.NUMBERS[request] if isinstance(request, str) else request
    return _WRITTEN.get(number, 0 if number in uapi.NUMBERS.values() else _ANYTHING)


@dataclass(slots=True)
class PageModel:
    """One IOMMU page of a buffer.

    :ivar content: what it must hold, `tag.compact`ed; None while unknown: the next snapshot shows it.
    :ivar frame: its guest physical address, None while unknown.
    :ivar tagged: (LIOBN, IOBA) of the tag that fills it, None when anything else was written since.
    :ivar writer: number of the operation that wrote it last, -1 when it is fresh.
    """

    content: bytes | None = ZEROS
    frame: int | None = None
    tagged: tuple[int, int] | None = None
    writer: int = -1

    def read(self, start: int, size: int) -> bytes | None:
        return None if self.content is None else pagetags.expand(self.content)[start : start + size]

    def write(self, start: int, data: bytes, step: int) -> None:
        page = bytearray(pagetags.PAGE if self.content is None else pagetags.expand(self.content))
        page[start : start + len(data)] = data
        if self.content is not None or len(data) == pagetags.PAGE:
            self.content = pagetags.compact(bytes(page))
        self.tagged = None
        self.writer = step

    def blur(self, step: int) -> None:
        """Something unknown was written there."""
        self.content = None
        self.tagged = None
        self.writer = step

    def adopt(self, seen: bytes | None) -> None:
        """Continue from the content that was seen, once it has been reported: only later changes are news."""
        self.tagged = None
        if seen is None:
            self.frame = None
        else:
            self.content = seen


@dataclass(slots=True)
class BufferModel:
    """A buffer of a process: `address` is that process's, `pages` IOMMU pages, `access` as `Protect` has it."""

    name: str
    address: int | None
    pages: list[PageModel] = field(default_factory=list)
    process: str = ""
    access: str = "write"

    def tag(self, op: Tag, nonce: bytes, step: int) -> None:
        for i, page in enumerate(self.pages[op.first : op.first + op.count]):
            where = op.ioba + i * pagetags.PAGE
            page.content = pagetags.tag(nonce, op.liobn, where, op.sequence)
            page.tagged = (op.liobn, where)
            page.writer = step

    def write(self, offset: int, data: bytes, step: int) -> None:
        """Write bytes at a byte offset, over page boundaries; what lies beyond the buffer is lost."""
        done = 0
        while done < len(data) and (offset + done) // pagetags.PAGE < len(self.pages):
            number, start = divmod(offset + done, pagetags.PAGE)
            part = data[done : done + pagetags.PAGE - start]
            self.pages[number].write(start, part, step)
            done += len(part)

    def read(self, offset: int, size: int) -> bytes | None:
        """Bytes at a byte offset, over page boundaries; None if any is unknown."""
        parts = []
        while size > 0:
            number, start = divmod(offset, pagetags.PAGE)
            part = self.pages[number].read(start, size) if 0 <= number < len(self.pages) else None
            if part is None:
                return None
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def blur(self, offset: int, size: int, step: int) -> None:
        """These bytes, as far as they are in the buffer, are unknown from now on."""
        end = -(-(offset + size) // pagetags.PAGE) if size else 0
        for page in self.pages[max(offset, 0) // pagetags.PAGE : max(end, 0)]:
            page.blur(step)

    def learn(self, first: int, frames: list[int]) -> None:
        """The pages from number `first` on lie at these guest physical addresses."""
        for page, frame in zip(self.pages[first:], frames, strict=False):
            page.frame = frame


def leads_into(buffers: Iterable[BufferModel], address: int, process: str) -> tuple[BufferModel, int] | None:
    """The buffer of a process that an address lies in, and how many bytes into it; None: it lies in none."""
    for buffer in buffers:
        if buffer.address is not None and buffer.process == process:
            offset = address - buffer.address
            if 0 <= offset < len(buffer.pages) * pagetags.PAGE:
                return buffer, offset
    return None
