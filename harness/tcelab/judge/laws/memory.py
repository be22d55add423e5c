"""The law of memory."""

from __future__ import annotations

from typing import Final

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.memorymodel import PageModel
from tcelab.judge.models.reading import TableReading
from tcelab.program import pagetags as tags

LAW: Final = Law(
    "memory",
    says="buffer pages that no entry leads to are unchanged",
    needs="a checkpoint with guest RAM",
    finds="compares each buffer page that no entry leads to with what was written there",
)

_NOWHERE: Final = -1
"""For the frame of a page that nobody knows: no page is there."""


def memory(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """Buffer pages that no entry leads to hold what the agent wrote: no device write and no stray store reached them.

    Source: QEMU system/physmem.c, a refused write is dropped whole, page by page. Pages behind live entries are
    judged by the tag law.
    """
    pages, led_to, compared = seen.snapshot.pages, seen.led_to, 0
    for buffer in fold.buffers.values():
        ledger.judged("memory")
        frames = [_NOWHERE if page.frame is None else page.frame for page in buffer.pages]
        contents = [page.content for page in buffer.pages]
        # Most pages are the very object that was compared at the last look: that is found without code of ours.
        if None not in contents and list(map(pages.get, frames)) == contents:
            compared += len(frames) - sum(map(led_to.__contains__, frames))
            continue
        for number, page in enumerate(buffer.pages):
            frame = page.frame
            if frame is None or frame in led_to:
                continue
            content = pages.get(frame)
            if page.content is None and content is not None:
                page.adopt(content)  # its contents were unknown until now
                continue
            compared += 1
            if content is None or content != page.content:
                _changed(ledger, seen, (buffer.name, number), page)
    ledger.evidence.pages += compared


def _changed(ledger: Ledger, seen: TableReading, where: tuple[str, int], page: PageModel) -> None:
    frame = page.frame
    assert frame is not None
    if frame not in seen.snapshot.pages:
        ledger.undecided_because(f"guest RAM of buffer {where[0]} was not read")
        return
    content = seen.snapshot.pages[frame]
    expected, read = tags.contrast(page.content, content)
    near = next((access for access in reversed(seen.forbidden) if access.to_memory and not access.maybe), None)
    hint = f"; the last refused write was at LIOBN {near.liobn:#x} IOBA {near.iova:#x}" if near else ""
    ledger.report(
        "memory",
        (where, content, page.writer),
        f"buffer {where[0]} page {where[1]} at {frame:#x}, which no entry leads to, must hold {expected}, "
        f"seen {read}{hint}",
        liobn=near.liobn if near else None,
        ioba=near.iova if near else None,
        expected=expected,
        seen=read,
        operation=near.step if near else blame.page(ledger, page),
    )
    page.adopt(content)
