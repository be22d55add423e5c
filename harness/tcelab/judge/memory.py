"""What guest memory must hold: every buffer page, byte by byte, as the operations wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tcelab import tag
from tcelab.program import Tag

ZEROS: Final = bytes(tag.SIZE)


@dataclass(slots=True)
class PageModel:
    """One IOMMU page of a buffer.

    :ivar content: what it must hold, `tag.compact`ed.
    :ivar frame: its guest physical address, None while nobody told.
    :ivar tagged: (LIOBN, IOBA) of the tag that fills it, None when anything else was written since.
    :ivar writer: number of the operation that wrote it last, -1 when it is fresh.
    """

    content: bytes = ZEROS
    frame: int | None = None
    tagged: tuple[int, int] | None = None
    writer: int = -1

    def write(self, start: int, data: bytes, step: int) -> None:
        page = bytearray(tag.expand(self.content))
        page[start : start + len(data)] = data
        self.content = tag.compact(bytes(page))
        self.tagged = None
        self.writer = step

    def adopt(self, seen: bytes | None) -> None:
        """Go on from what was seen instead, once it has been reported: only what changes from now on is news."""
        self.tagged = None
        if seen is None:
            self.frame = None
        else:
            self.content = seen


@dataclass(slots=True)
class BufferModel:
    """A buffer of the agent: `address` is the agent's, `pages` IOMMU pages."""

    name: str
    address: int | None
    pages: list[PageModel] = field(default_factory=list)

    def tag(self, op: Tag, nonce: bytes, step: int) -> None:
        for i, page in enumerate(self.pages[op.first : op.first + op.count]):
            where = op.ioba + i * tag.PAGE
            page.content = tag.tag(nonce, op.liobn, where, op.sequence)
            page.tagged = (op.liobn, where)
            page.writer = step

    def write(self, offset: int, data: bytes, step: int) -> None:
        """Write bytes at a byte offset, over page boundaries; what lies beyond the buffer is lost."""
        done = 0
        while done < len(data) and (offset + done) // tag.PAGE < len(self.pages):
            number, start = divmod(offset + done, tag.PAGE)
            part = data[done : done + tag.PAGE - start]
            self.pages[number].write(start, part, step)
            done += len(part)

    def learn(self, first: int, frames: list[int]) -> None:
        """The pages from number `first` on lie at these guest physical addresses."""
        for page, frame in zip(self.pages[first:], frames, strict=False):
            page.frame = frame
