"""The law of messages."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

import numpy as np

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import MOST, Ledger
from tcelab.judge.models.files import ContainerModel
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading
from tcelab.judge.models.requests import request_name
from tcelab.judge.models.tablemodel import UNKNOWN, Arrays, TableModel, differing
from tcelab.papr import tce, window
from tcelab.program import Ddw, Dma, Doorbell, Fill, Frames, Ioctl, Look, Master, Read, Rtas, Tag
from tcelab.run.record import Apart, Outcome, Run, Step, Told

LAW: Final = Law(
    "messages",
    says="a probe is told each change of its table once, in order, while the call lasts, and nothing else",
    needs="a probe",
    finds="compares what each probe was told, folded, with the table, entry by entry; and each map and unmap with the"
    " messages that came meanwhile: one for each page, in order, none of them later",
)

_CALLS: Final = {"MAP_DMA": True, "UNMAP_DMA": False}
_QUIET: Final = (Ddw, Dma, Doorbell, Fill, Frames, Look, Master, Read, Rtas, Tag)
"""Operations that change no table: a message meanwhile comes late, or from nowhere. Of the host's own, what came before
them is told.
"""


def messages(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """The stream of DMA_MAP and DMA_UNMAP to each probe, folded, is the table of its PE.

    QEMU sends one message for each entry in the middle of the hypercall (hw/vfio/listener.c, vfio_iommu_map_notify). It
    cannot tell that an entry does not let the device read, and sends none for an entry that leads outside RAM.
    """
    for told in seen.snapshot.told:
        ledger.judged("messages")
        tables = [table for table in fold.windows[told.pe].active if table.entries]
        for model in tables:
            _compare(ledger, fold, model, told)
        lost = [at for at in told.live if not any(0 <= model.number(at) < model.entries for model in tables)]
        ledger.evidence.twice[told.device] = told.judged
        for at in lost[:MOST]:
            _report(ledger, told, None, at, ("no window there", f"{told.live[at][2]:#x} bytes mapped"))
        ledger.count("messages", max(len(lost) - MOST, 0))


def _compare(ledger: Ledger, fold: Fold, model: TableModel, told: Told) -> None:
    expected, untold = _tellable(model, fold.facts.ram)
    ledger.evidence.untold += untold
    shown = _shown(model, told)
    ledger.evidence.told += len(shown[0])
    wrong = differing(expected, shown)
    # Of an entry whose page the agent did not report, any page is right; `tag` proves it.
    wrong = wrong.where((wrong.one != np.uint64(UNKNOWN)) | (wrong.other == 0))
    for number, one, other in list(wrong.rows())[:MOST]:
        _report(ledger, told, model, number, (tce.describe(one), tce.describe(other)))
    ledger.count("messages", max(len(wrong.numbers) - MOST, 0))


def _tellable(model: TableModel, ram: int) -> tuple[Arrays, int]:
    """The table as messages can tell it, and the number of entries of which they cannot tell all. Entries without
    permissions are as good as empty, those that lead outside RAM are not told, and all the others may be read.
    """
    index, words = model.arrays()
    known = words != np.uint64(UNKNOWN)
    frames, permissions = words & ~np.uint64((1 << model.page_shift) - 1), words & np.uint64(tce.PERMISSIONS)
    silent = known & ((frames >= np.uint64(ram)) | (permissions == 0))
    blind = known & ~silent & (permissions == np.uint64(tce.WRITE))
    told = np.where(known, frames | permissions | np.uint64(tce.READ), words)
    return (index[~silent], told[~silent]), int((silent | blind).sum())


def _shown(model: TableModel, told: Told) -> Arrays:
    size = 1 << model.page_shift
    rows = sorted(
        (model.number(at), tce.pack(address, flags) if length == size else UNKNOWN - size)
        for at, (address, flags, length) in told.live.items()
        if 0 <= model.number(at) < model.entries
    )
    return np.array([row[0] for row in rows], np.uint32), np.array([row[1] for row in rows], np.uint64)


def _report(ledger: Ledger, told: Told, model: TableModel | None, number: int, sides: tuple[str, str]) -> None:
    expected, seen = sides
    ioba = number if model is None else model.ioba(number)
    liobn = window.liobn(told.pe) if model is None else model.liobn
    ledger.report(
        "messages",
        (liobn, ioba, told.device, seen),
        f"LIOBN {liobn:#x} IOBA {ioba:#x}: by its messages, probe {told.device} reaches {seen}; expected {expected}",
        liobn=liobn,
        ioba=ioba,
        expected=expected,
        seen=seen,
        operation=None if model is None else blame.entry(ledger, model, number).operation,
        view="messages",
        lasting=False,
    )


def during(ledger: Ledger, fold: Fold, step: Step, outcome: Outcome) -> None:
    """A map or an unmap of n pages that succeeded gives each probe of its PE exactly n messages, in order, and all
    others none; operations that change no table give none at all.
    """
    if outcome.told is None:
        return
    for name, pieces in outcome.apart.items():
        for piece in pieces:
            _verdicts(ledger, fold, step, name, piece)
    expected = _expected(fold, step, outcome)
    if expected is None:
        return
    ledger.judged("messages")
    pe, runs, anew = expected
    for phb in fold.program.topology.phbs:
        for device in phb.devices:
            wanted = runs if phb.index == pe else []
            got = outcome.told.get(device.name)
            if got is None or got == wanted or (wanted and anew and _after_emptying(got, wanted)):
                continue
            ledger.report(
                "messages",
                (device.name, step.number),
                f"the probe {device.name} got other messages during operation {step.number} than one for each of its"
                f" pages: expected {_text(wanted)}, seen {_text(got)}",
                liobn=phb.liobn,
                expected=_text(wanted),
                seen=_text(got),
                operation=step.number,
                view="messages",
            )


def _verdicts(ledger: Ledger, fold: Fold, step: Step, device: str, piece: Apart) -> None:
    """QEMU's table and the probe's own, made of messages alone, say the same of each piece of a transfer, but of a read
    through an entry that is write-only.
    """
    table = fold.group_of[device].windows.at(piece.address)
    if not piece.own and not piece.to_memory and table.permissions(table.number(piece.address)) == tce.WRITE:
        return
    way = "write" if piece.to_memory else "read"
    expected, seen = (errno.errorcode.get(each, str(each)) if each else "allowed" for each in (piece.theirs, piece.own))
    ledger.report(
        "messages",
        (device, step.number, piece),
        f"the probe {device} is to {way} {piece.size} bytes at {piece.address:#x}: QEMU's table says {expected}, the"
        f" probe's own, made of messages, {seen}",
        liobn=table.liobn,
        ioba=piece.address,
        expected=expected,
        seen=seen,
        operation=step.number,
        view="messages",
    )


def _after_emptying(got: list[Run], wanted: list[Run]) -> bool:
    """The call made the default window first: firmware drops it, makes it anew, and the kernel empties it."""
    before = got[: -len(wanted)]
    return got[-len(wanted) :] == wanted and not any(run.maps for run in before)


def _expected(fold: Fold, step: Step, outcome: Outcome) -> tuple[int, list[Run], bool] | None:
    """The PE that a step concerns, the messages to each probe of it, and whether its window was made first; None: this
    law does not know.
    """
    if isinstance(step.op, _QUIET):
        return -1, [], False
    if not isinstance(step.op, Ioctl) or outcome.value != 0:
        return None
    maps = _CALLS.get(request_name(step.op.request))
    container = fold.target(step.op)
    if maps is None or not isinstance(container, ContainerModel) or len(container.groups) != 1:
        return None
    iova, size = (fold.number(step.op.fields.get(name, 0)) for name in ("iova", "size"))
    if iova is None or size is None:
        return None
    (group,) = container.groups
    table = group.windows.at(iova)
    count = min(size >> table.page_shift, table.entries - table.number(iova))
    runs = [Run(maps, iova, 1 << table.page_shift, count)] if count > 0 else []
    return group.phb.index, runs, not container.made


def _text(runs: list[Run]) -> str:
    return ", ".join(_words(runs)) or "none"


def _words(runs: list[Run]) -> Iterator[str]:
    for run in runs[:4]:
        yield f"{run.count} DMA_{'MAP' if run.maps else 'UNMAP'} of {run.size:#x} bytes from {run.address:#x} on"
    if len(runs) > 4:  # noqa: PLR2004 - as many as can be read
        yield f"{len(runs) - 4} more"
