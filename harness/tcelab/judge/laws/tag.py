"""The law of tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.edumodel import Forbidden
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.memorymodel import PageModel
from tcelab.judge.models.reading import TableReading
from tcelab.judge.models.tablemodel import TableModel
from tcelab.papr import tce, window
from tcelab.program import pagetags as tags
from tcelab.run.record import TableView

LAW: Final = Law(
    "tag",
    says="each live entry leads to a page in guest RAM with exactly the expected bytes",
    needs="a checkpoint with guest RAM",
    finds="reads the page that each live entry leads to, and compares it with what was written to the page it maps",
)


def tag(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """Each live entry leads to a page in guest RAM that carries exactly what was written to the page it maps.

    A page whose last writer was a Tag proves its frame without trusting the guest's pagemap: the tag names nonce,
    LIOBN, IOBA and sequence, and fills the page. An IOMMU page of more than 4 KiB is judged 4 KiB at a time. Entries
    that the table law found wrong are reported there.
    """
    shown = next(iter(seen.views.values()), None)
    if shown is None:
        return
    for liobn, model in fold.tables.items():
        if not model.live or liobn not in shown:
            continue
        ledger.judged("tag")
        wrong = seen.wrong.get(liobn, set())
        proven = own = 0
        for (frame, _), numbers in list(model.leads.items()):
            right = numbers - wrong if wrong else numbers
            if frame is not None and right:
                tagged = _tagged_if_right(seen, model, frame, right)
                if tagged is None:
                    _prove_all(ledger, seen, model, frame, right)
                else:
                    proven, own = proven + len(right), own + tagged
            for number in right if frame is None and liobn not in seen.unlike else ():
                _prove_all(ledger, seen, model, _frame(shown[liobn], number), {number})
        _count(ledger, proven, own)


def _tagged_if_right(seen: TableReading, model: TableModel, frame: int, numbers: set[int]) -> int | None:
    """Whether the page's tag names one of the entries, 0 or 1, if they lead to a page of 4 KiB that holds what it must:
    nearly all do, and this is cheap. None: judge them by `_prove_all`.
    """
    page = model.live[next(iter(numbers))].page
    if page is None or page.content is None or model.page_shift != window.PAGE_SHIFT:
        return None
    if seen.snapshot.pages.get(frame) != page.content:
        return None
    seen.led_to.add(frame)
    if page.tagged is None or page.tagged[0] != model.liobn:
        return 0
    return model.number(page.tagged[1]) in numbers


def _frame(table: TableView, number: int) -> int:
    """The frame that the table gives for an entry whose frame the agent did not report."""
    return tce.address(int(table.tce[np.searchsorted(table.index, number)]), table.page_shift)


def _prove_all(ledger: Ledger, seen: TableReading, model: TableModel, frame: int, numbers: set[int]) -> None:
    """Judge the IOMMU page at `frame`, to which entries `numbers` lead, 4 KiB at a time."""
    first = model.live[next(iter(numbers))]
    if first.raw is not None and first.page is None:
        return  # a hypercall stored a raw address: the contents there are unknown
    for part in range(1 << model.page_shift - window.PAGE_SHIFT):
        _prove(ledger, seen, model, (frame, part), numbers)


def _prove(ledger: Ledger, seen: TableReading, model: TableModel, where: tuple[int, int], numbers: set[int]) -> None:
    """Judge 4 KiB of the IOMMU page to which entries `numbers` lead.

    :param where: frame of the IOMMU page, and the number of the 4 KiB within it.
    """
    part = where[1]
    frame = where[0] + (part << window.PAGE_SHIFT)
    page = model.live[next(iter(numbers))].page_at(part)
    if frame not in seen.snapshot.pages:
        ledger.undecided_because(f"guest RAM behind a live entry was not read (LIOBN {model.liobn:#x})")
        return
    content = seen.snapshot.pages[frame]
    seen.led_to.add(frame)
    if content is None or (page is not None and page.content not in (None, content)):
        _unproven(ledger, seen, model, (frame, part), min(numbers))
        return
    if page is not None and page.content is None:
        page.adopt(content)  # proves nothing: the contents were unknown until now
        return
    _count(ledger, len(numbers), _names_own(page, model, part, numbers))


def _count(ledger: Ledger, entries: int, own: int) -> None:
    """Take into the evidence that so many entries lead to what they must, `own` of them to their own tag."""
    ledger.evidence.tags += own
    ledger.evidence.contents += entries - own
    if ledger.batch and entries:
        ledger.size(ledger.batch).tags += own


def _names_own(page: PageModel | None, model: TableModel, part: int, numbers: set[int]) -> bool:
    """Does the page's tag name one of the entries that lead to it?"""
    if page is None or page.tagged is None:
        return False
    liobn, where = page.tagged
    return liobn == model.liobn and model.number(where) in numbers and model.page_number(where - model.start) == part


def _unproven(ledger: Ledger, seen: TableReading, model: TableModel, where: tuple[int, int], number: int) -> None:
    frame, part = where
    entry, content = model.live[number], seen.snapshot.pages[frame]
    page, liobn, ioba = entry.page_at(part), model.liobn, model.ioba(number) + (part << window.PAGE_SHIFT)
    expected, read = tags.contrast(page.content if page else None, content)
    blamed = _refused_write(seen.forbidden, liobn, ioba)
    if blamed is None:
        blamed = blame.page(ledger, page, entry.step)
    ledger.report(
        "tag",
        (liobn, number, part, content, entry.step, page.writer if page else -1),
        f"LIOBN {liobn:#x} IOBA {ioba:#x}: the entry leads to {frame:#x} ({entry.describe()}), "
        f"guest RAM there must hold {expected}, seen {read}",
        liobn=liobn,
        ioba=ioba,
        expected=expected,
        seen=read,
        operation=blamed,
    )
    if page is not None:
        page.adopt(content)


def _refused_write(forbidden: Sequence[Forbidden], liobn: int, ioba: int) -> int | None:
    """Number of the operation whose refused write to that entry may have landed since the last checkpoint."""
    hits = (
        access.step
        for access in reversed(forbidden)
        if access.to_memory and access.liobn == liobn and access.iova >> window.PAGE_SHIFT == ioba >> window.PAGE_SHIFT
    )
    return next(hits, None)
