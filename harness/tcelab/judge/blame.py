"""Which operation did it: what is wrong at a checkpoint and was right at the one before was caused in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, get_args

from tcelab.judge.ledger import Ledger
from tcelab.papr import window
from tcelab.program import (
    Bind,
    Buffer,
    Burst,
    Close,
    Ddw,
    Dma,
    DmaMove,
    DmaOp,
    Doorbell,
    Engine,
    Exit,
    Flip,
    Fresh,
    Hcall,
    HcallBatch,
    Ioctl,
    LifeOp,
    Master,
    Native,
    Op,
    Open,
    Protect,
    Repeat,
    Spawn,
    Together,
    Transfer,
)

if TYPE_CHECKING:
    from tcelab.judge.models.fold import Fold
    from tcelab.judge.models.memorymodel import PageModel
    from tcelab.judge.models.tablemodel import TableModel

Kinds: TypeAlias = tuple[type[Op], ...]
_STORES: Final[Kinds] = (
    Ioctl,
    Repeat,
    Close,
    Exit,
    Hcall,
    HcallBatch,
    Native,
    *get_args(DmaOp),
    *get_args(LifeOp),
    Ddw,
    Flip,
)
"""Operations that can change table entries."""
_MOVES: Final[Kinds] = (Dma, Together, Burst, Doorbell, Engine, DmaMove)
"""Operations that make a device access memory."""
_ASKS: Final[Kinds] = (*_STORES[:-2], Open, Spawn, Bind, Master, Buffer, Protect)
"""Operations that are mostly the kernel's work."""


class Blame(NamedTuple):
    """:ivar operation: number of the operation to blame, None if none is known.

    :ivar said: for a message, between which checkpoints it was; empty if the operation concerned the entry itself.
    :ivar concerns: the operation concerned the entry itself, since the checkpoint before.
    """

    operation: int | None
    said: str = ""
    concerns: bool = False


def last(ledger: Ledger, *kinds: type[Op]) -> int | None:
    """Number of the last operation of some kinds (default: any) since the checkpoint before, on the same guest."""
    return next((number for number, op in _since(ledger) if not kinds or isinstance(op, kinds)), None)


def _since(ledger: Ledger) -> Iterator[tuple[int, Op]]:
    """Operations since the checkpoint before, on the same guest, the last one first."""
    ops = ledger.program.ops
    for number in range(min(ledger.step, len(ops)) - 1, ledger.since, -1):
        if isinstance(ops[number], Fresh):
            return
        yield number, ops[number]


def between(ledger: Ledger) -> str:
    """The time between the checkpoint before and this one, in words."""
    return f"before step {ledger.step}" if ledger.since < 0 else f"between step {ledger.since} and step {ledger.step}"


def entry(ledger: Ledger, model: TableModel, number: int) -> Blame:
    """Blame for an entry that was not wrong like this at the checkpoint before."""
    concerned = model.last_operation(number)
    if concerned is not None and concerned > ledger.since:
        return Blame(concerned, concerns=True)
    suspect = last(ledger, *_STORES)
    suspect = last(ledger) if suspect is None else suspect
    return Blame(concerned if suspect is None else suspect, f"; it came {between(ledger)}")


def table(ledger: Ledger) -> int | None:
    """Operation to blame for a table that is missing, extra, or has the wrong size or shape."""
    return last(ledger, *_STORES)


def kernel(ledger: Ledger) -> int | None:
    """Operation to blame for a line on the console: the last one that was mostly the kernel's work."""
    suspect = last(ledger, *_ASKS)
    return last(ledger) if suspect is None else suspect


def page(ledger: Ledger, model: PageModel | None, made: int | None = None) -> int | None:
    """Operation to blame for the contents of a buffer's page.

    :param made: number of the operation that made the entry leading there, None without an entry.
    """
    known = max(-1 if model is None else model.writer, -1 if made is None else made)
    moved = next((number for number, op in _since(ledger) if _writes(op)), None)
    if moved is not None and moved > known:
        return moved
    if known > ledger.since:
        return known
    suspect = last(ledger)
    return (known if known >= 0 else None) if suspect is None else suspect


def access(ledger: Ledger, address: int) -> int | None:
    """Operation to blame for a device access: the last transfer to that bus page, else the last transfer of all."""
    moves = [(number, op) for number, op in _since(ledger) if isinstance(op, _MOVES)]
    hits = (number for number, op in moves if any(_touches(each, address) for each in _transfers(op)))
    return next(hits, moves[0][0] if moves else None)


def _writes(op: Op) -> bool:
    """Does it make a device write to memory?"""
    return (
        isinstance(op, Engine)
        or (isinstance(op, DmaMove) and op.to_memory)
        or any(each.to_memory for each in _transfers(op))
    )


def _transfers(op: Op) -> Iterator[Dma | Transfer]:
    match op:
        case Dma():
            yield op
        case Together():
            yield from op.ops
        case Burst():
            yield from op.transfers
        case Doorbell():
            yield from op.transfers()


def _touches(transfer: Dma | Transfer, address: int) -> bool:
    first, end = transfer.iova >> window.PAGE_SHIFT, transfer.iova + max(transfer.size, 1) - 1 >> window.PAGE_SHIFT
    return first <= address >> window.PAGE_SHIFT <= end


def difference(ledger: Ledger, fold: Fold, key: tuple[object, ...], where: tuple[int | None, int | None]) -> int | None:
    """Operation to blame for a difference from another run, seen at a checkpoint.

    :param key: key of the difference, which says what it is about.
    :param where: LIOBN and IOBA of the difference, None for what it has not.
    """
    match key:
        case ("content", (str() as buffer, int() as number), *_):
            pages = fold.buffers[buffer].pages if buffer in fold.buffers else []
            return page(ledger, pages[number] if number < len(pages) else None)
        case ("disk", str() as name, int() as at, *_):
            return disk(ledger, fold, name, at)
        case ("refusal", _, int() as number):
            return access(ledger, number << window.PAGE_SHIFT)
    liobn, ioba = where
    model = fold.tables.get(-1 if liobn is None else liobn)
    if model is not None and ioba is not None:
        return entry(ledger, model, model.number(ioba)).operation
    before = range(min(ledger.step, len(ledger.program.ops)) - 1, -1, -1)
    return next((number for number in before if isinstance(ledger.program.ops[number], _STORES)), None)


def disk(ledger: Ledger, fold: Fold, name: str, at: int) -> int | None:
    """Operation to blame for a byte of a disk."""
    model = fold.devices.get(name)
    writer = -1 if model is None else model.wrote(at)
    moved = last(ledger, *_MOVES)
    if writer > ledger.since or moved is None:
        return writer if writer >= 0 else moved
    return moved
