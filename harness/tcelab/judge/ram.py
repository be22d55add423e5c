"""Laws of guest RAM and of the device's accesses to it, as the host saw them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import numpy as np

from tcelab.judge import blame
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.console import declared
from tcelab.judge.models.device import Forbidden
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.memory import PageModel
from tcelab.judge.models.table import TableModel
from tcelab.judge.models.transfers import Transfers
from tcelab.judge.tables import Look
from tcelab.papr import tce, window
from tcelab.program import tag as tags
from tcelab.run import Refusal, TableView


def tag(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """Each live entry leads to a page in guest RAM that carries exactly what was written to the page it maps.

    A page whose last writer was a Tag proves its frame without trusting the guest's pagemap: nonce, LIOBN, IOBA and
    sequence are in it, and it fills the page. Of an IOMMU page of more than 4 KiB, each 4 KiB are judged by themselves.
    Entries that the table law found wrong are told there.
    """
    shown = next(iter(seen.views.values()), None)
    if shown is None:
        return
    for liobn, model in fold.tables.items():
        if not model.live or liobn not in shown:
            continue
        ledger.judged("tag")
        wrong = seen.wrong.get(liobn, set())
        for (frame, _), numbers in list(model.leads.items()):
            right = numbers - wrong if wrong else numbers
            if frame is not None and right:
                _prove_all(ledger, seen, model, frame, right)
            for number in right if frame is None and liobn not in seen.unlike else ():
                _prove_all(ledger, seen, model, _frame(shown[liobn], number), {number})


def _frame(table: TableView, number: int) -> int:
    """Where the table says an entry leads, for a frame that the agent did not tell."""
    return tce.address(int(table.tce[np.searchsorted(table.index, number)]), table.page_shift)


def _prove_all(ledger: Ledger, seen: Look, model: TableModel, frame: int, numbers: set[int]) -> None:
    """Judge the IOMMU page at `frame`, to which entries `numbers` lead, 4 KiB by 4 KiB."""
    first = model.live[next(iter(numbers))]
    if first.raw is not None and first.page is None:
        return  # a hypercall stores whatever it is given, and nobody said what is there
    for part in range(1 << model.page_shift - window.PAGE_SHIFT):
        _prove(ledger, seen, model, (frame, part), numbers)


def _prove(ledger: Ledger, seen: Look, model: TableModel, where: tuple[int, int], numbers: set[int]) -> None:
    """Judge 4 KiB: of which IOMMU page, to which entries `numbers` lead, and which of its pages."""
    part = where[1]
    frame = where[0] + (part << window.PAGE_SHIFT)
    page = model.live[next(iter(numbers))].page_at(part)
    if frame not in seen.snapshot.pages:
        ledger.could_not(f"guest RAM behind a live entry was not read (LIOBN {model.liobn:#x})")
        return
    content = seen.snapshot.pages[frame]
    seen.led_to.add(frame)
    if content is None or (page is not None and page.content not in (None, content)):
        _unproven(ledger, seen, model, (frame, part), min(numbers))
        return
    if page is not None and page.content is None:
        page.adopt(content)  # no proof of anything: nobody could know what it is
        return
    own = _names_own(page, model, part, numbers)
    ledger.evidence.tags += own
    ledger.evidence.contents += len(numbers) - own
    if ledger.batch:
        ledger.size(ledger.batch).tags += own


def _names_own(page: PageModel | None, model: TableModel, part: int, numbers: set[int]) -> bool:
    """The page's tag names one of the entries that lead to it."""
    if page is None or page.tagged is None:
        return False
    liobn, where = page.tagged
    return liobn == model.liobn and model.number(where) in numbers and model.page_number(where - model.start) == part


def _unproven(ledger: Ledger, seen: Look, model: TableModel, where: tuple[int, int], number: int) -> None:
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


def memory(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """Buffer pages that no entry leads to hold what the agent wrote: no device write and no stray store reached them.

    Source: QEMU system/physmem.c, a refused write is dropped whole, page by page. Pages behind live entries are
    judged by the tag law.
    """
    pages = seen.snapshot.pages
    for buffer in fold.buffers.values():
        ledger.judged("memory")
        for number, page in enumerate(buffer.pages):
            frame = page.frame
            if frame is None or frame in seen.led_to:
                continue
            content = pages.get(frame)
            if page.content is None and content is not None:
                page.adopt(content)  # nobody could know what it is
                continue
            ledger.evidence.pages += 1
            if content is None or content != page.content:
                _changed(ledger, seen, (buffer.name, number), page)


def _changed(ledger: Ledger, seen: Look, where: tuple[str, int], page: PageModel) -> None:
    frame = page.frame
    assert frame is not None
    if frame not in seen.snapshot.pages:
        ledger.could_not(f"guest RAM of buffer {where[0]} was not read")
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


def refusals(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """QEMU said that it refused each device access that the table forbids, and no other.

    Source: QEMU hw/ppc/spapr_iommu.c, spapr_tce_translate_iommu; the line comes from system/memory.c. An access of
    which nothing is said went through, if the watcher sees at all: a guard has proven that, or a refusal that was told,
    be it later. One that never saw any cannot judge.
    """
    transfers = fold.transfers
    transfers.watched = transfers.watched or bool(seen.snapshot.refusals) or fold.facts.guard != "off"
    if not transfers.doubted:
        _told(ledger, transfers, seen)
    transfers.doubted = False
    if transfers.watched:
        for access, step, batch in transfers.unsaid:
            with ledger.at(step, batch):
                _unsaid(ledger, access)
        transfers.unsaid = []


def _told(ledger: Ledger, transfers: Transfers, seen: Look) -> None:
    told: dict[Forbidden, bool] = dict.fromkeys(seen.forbidden, False)
    bytes_told, demanded = refused_bytes(seen.snapshot.refusals), _demanded(seen.forbidden)
    by_page = _by_page(seen.forbidden)
    for refusal in seen.snapshot.refusals:
        near = by_page.get((refusal.direction, refusal.address >> window.PAGE_SHIFT), [])
        hits = [access for access in near if _covers(access, refusal)]
        told.update(dict.fromkeys(hits, True))
        if not hits:
            _unforeseen(ledger, refusal)
    for access, was_told in told.items():
        if access.maybe:
            continue
        ledger.judged("refusals")
        if was_told:
            ledger.control(access.device)
        if not was_told or bytes_told[_place(access)] < demanded[_place(access)]:
            transfers.unsaid.append((access, ledger.step, ledger.batch))


def unwatched(ledger: Ledger, fold: Fold) -> None:
    """At the end: what had to be refused, and nobody saw any refusal."""
    for access, step, batch in fold.transfers.unsaid:
        with ledger.at(step, batch):
            ledger.could_not(f"the watcher cannot see refused accesses of {access.device}")


SLACK: Final = 7
"""Bytes by which what QEMU tells of one refused piece may differ from it: it tells whole words."""


def refused_bytes(refusals: Iterable[Refusal]) -> Counter[tuple[str, int]]:
    """How many bytes were refused, by direction and IOMMU page, as they were told."""
    out: Counter[tuple[str, int]] = Counter()
    for refusal in refusals:
        out[refusal.direction, refusal.address >> window.PAGE_SHIFT] += refusal.size
    return out


def _place(access: Forbidden) -> tuple[str, int]:
    return access.direction, access.told >> window.PAGE_SHIFT


def _demanded(forbidden: Sequence[Forbidden]) -> Counter[tuple[str, int]]:
    """The least that must be told of a page: all that was forbidden there, word by word."""
    out: Counter[tuple[str, int]] = Counter()
    for access in forbidden:
        if not access.maybe:
            out[_place(access)] += access.size - SLACK
    return out


def _by_page(forbidden: Sequence[Forbidden]) -> dict[tuple[str, int], list[Forbidden]]:
    """By direction and page: a refusal is of one page, and its first word may begin before the access does."""
    out: dict[tuple[str, int], list[Forbidden]] = {}
    for access in forbidden:
        first, end = access.told - SLACK, access.told + access.size
        for page in range(max(first, 0) >> window.PAGE_SHIFT, (end - 1 >> window.PAGE_SHIFT) + 1):
            out.setdefault((access.direction, page), []).append(access)
    return out


def _covers(access: Forbidden, refusal: Refusal) -> bool:
    # A refused access is told in words of 1 to 8 bytes; the first may start before the transfer's unaligned start. What
    # is summed up of a page has more bytes than lie between, and yet is of that page alone.
    end = min(refusal.address + max(refusal.size, 1), (refusal.address >> window.PAGE_SHIFT) + 1 << window.PAGE_SHIFT)
    return access.direction == refusal.direction and refusal.address < access.told + access.size and end > access.told


def _unforeseen(ledger: Ledger, refusal: Refusal) -> None:
    ledger.judged("refusals")
    ledger.report(
        "refusals",
        (ledger.step, refusal.direction, refusal.address >> 12),
        f"QEMU refused a device {refusal.direction} at {refusal.address:#x} that no operation explains: {refusal.line}",
        ioba=refusal.address,
        expected="no refusal",
        seen=refusal.line,
        operation=blame.access(ledger, refusal.address),
    )


def _unsaid(ledger: Ledger, access: Forbidden) -> None:
    end = access.iova + access.size
    ledger.report(
        "refusals",
        (access.step, access.iova),
        f"LIOBN {access.liobn:#x}: {access.device}'s {access.direction} of {access.iova:#x}..{end - 1:#x} must be "
        f"refused ({access.reason}), QEMU refused nothing there",
        liobn=access.liobn,
        ioba=access.iova,
        expected=f"refused: {access.reason}",
        seen="no refusal",
        operation=access.step,
    )


def kernel(ledger: Ledger, fold: Fold, seen: Look) -> None:
    """The kernel said no WARN, BUG or Oops on its console since the last checkpoint, but what a declared quirk makes it
    say.
    """
    ledger.judged("kernel")
    kernel_said(ledger, fold, seen.snapshot.console)


def kernel_said(ledger: Ledger, fold: Fold, lines: Iterable[str]) -> None:
    """Lines of trouble on the console are findings, each: but those that a declared quirk makes it say, some only
    once on a guest. That it said it where it must, and only there, the comparison with the emulator tells.
    """
    for line in lines:
        if not declared(line, fold.facts.quirks, fold.warned):
            message = f"the kernel said, {blame.between(ledger)}: {line}"
            ledger.report("kernel", (ledger.step, line), message, seen=line, operation=blame.kernel(ledger))


RAM_LAWS: Final[Collection[Callable[[Ledger, Fold, Look], None]]] = (tag, memory, refusals, kernel)
