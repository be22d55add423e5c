"""The law of refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.edumodel import Forbidden
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import SLACK, TableReading, refused_bytes
from tcelab.judge.models.transfers import Transfers
from tcelab.papr import window
from tcelab.run.record import Refusal

LAW: Final = Law(
    "refusals",
    says="QEMU refused exactly the device accesses that the table forbids",
    needs="a checkpoint, and QEMU's log of refused accesses",
    finds="pairs each refusal with an access that the table forbids, and each such access with a refusal",
)


def refusals(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """QEMU reported a refusal for each device access that the table forbids, and for no other.

    Source: QEMU hw/ppc/spapr_iommu.c, spapr_tce_translate_iommu; the line comes from system/memory.c. An access
    without a report went through, provided that the watcher works: a guard proves that, and so does any reported
    refusal, even a later one. A watcher that never saw one cannot judge.
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


def _told(ledger: Ledger, transfers: Transfers, seen: TableReading) -> None:
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
    """At the end: no pass if accesses had to be refused, and no refusal was ever seen."""
    for access, step, batch in fold.transfers.unsaid:
        with ledger.at(step, batch):
            ledger.undecided_because(f"the watcher cannot see refused accesses of {access.device}")


def _place(access: Forbidden) -> tuple[str, int]:
    return access.direction, access.told >> window.PAGE_SHIFT


def _demanded(forbidden: Sequence[Forbidden]) -> Counter[tuple[str, int]]:
    """By direction and page, the least bytes to be reported: those forbidden there, less `SLACK` for each access."""
    out: Counter[tuple[str, int]] = Counter()
    for access in forbidden:
        if not access.maybe:
            out[_place(access)] += access.size - SLACK
    return out


def _by_page(forbidden: Sequence[Forbidden]) -> dict[tuple[str, int], list[Forbidden]]:
    """By direction and page: a refusal concerns one page, and its first word may start before the access."""
    out: dict[tuple[str, int], list[Forbidden]] = {}
    for access in forbidden:
        first, end = access.told - SLACK, access.told + access.size
        for page in range(max(first, 0) >> window.PAGE_SHIFT, (end - 1 >> window.PAGE_SHIFT) + 1):
            out.setdefault((access.direction, page), []).append(access)
    return out


def _covers(access: Forbidden, refusal: Refusal) -> bool:
    # QEMU reports a refused access in words of 1 to 8 bytes; the first may start before the transfer's unaligned start.
    # A summary of a page may count more bytes than fit up to its end, and yet concerns that page alone.
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
