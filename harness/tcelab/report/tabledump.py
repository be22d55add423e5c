"""TCE tables in a file: tables of a checkpoint, saved, read again, and compared entry by entry.

Three forms. `text` is for people, and is not read again. `json`: {"schema": 1, "tables": [{"liobn", "entries",
"page_shift", "bus_offset", "index": [...], "tce": [...]}]}, numbers as they are. `npz`, for numpy: for each LIOBN, in
hexadecimal, the arrays `80000100.index` (shape (n,), uint32), `80000100.tce` (shape (n,), uint64, in host order) and
`80000100.shape` (shape (3,), uint64: entries, page shift, bus offset), and `schema` (1). Only entries that are not zero
are in `index` and `tce`, ascending; `index` counts from the window's start, which is `bus_offset` (bytes). A run's have
`step` (uint64) as well, the number of the checkpoint.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
import numpy as np

from tcelab.errors import UsageError
from tcelab.papr import tce
from tcelab.program import Fresh
from tcelab.run.record import RunRecord, Snapshot, Step, TableView

Format = Literal["text", "json", "npz"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SCHEMA: Final = 1
NAME: Final = "tables.npz"
"""In the folder of a run."""
BEFORE: Final = "tables-before.npz"
"""Likewise: the tables at the checkpoint before that one, on the same guest."""

_U32: Final = 1 << 32
_U64: Final = 1 << 64
_UNITS: Final = ((30, "GiB"), (20, "MiB"), (10, "KiB"))


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    liobn: int
    entries: int
    page_shift: int
    bus_offset: int
    index: list[int]
    tce: list[int]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    tables: list[_Table]


class Change(msgspec.Struct, frozen=True):
    """One entry that differs between two dumps; 0 is an entry that is empty there."""

    liobn: int
    ioba: int
    first: int
    second: int


def of_snapshot(snapshot: Snapshot) -> tuple[TableView, ...]:
    """The tables of a checkpoint, by LIOBN: by the view that every checkpoint has, without windows not active."""
    seen: dict[int, TableView] = {}
    for view in snapshot.tables:
        if view.entries:
            seen.setdefault(view.liobn, view)
    return tuple(seen[liobn] for liobn in sorted(seen))


def telling(record: RunRecord, step: int | None) -> Step | None:
    """The checkpoint of a run whose tables are kept: that of the first finding, or the first after it, else the last.

    :param step: number of the operation that the first finding is about.
    """
    looks = [each for each in record.steps if each.snapshot is not None]
    after = [each for each in looks if step is not None and each.number >= step]
    return after[0] if after else looks[-1] if looks else None


def before(record: RunRecord, step: Step) -> Step | None:
    """The checkpoint before one, on the same guest; None: it is that guest's first."""
    for each in reversed([each for each in record.steps if each.number < step.number]):
        if isinstance(each.op, Fresh):
            return None
        if each.snapshot is not None:
            return each
    return None


# -- writing


def of_step(step: Step) -> bytes:
    """The content of an `npz` of a checkpoint, with its number."""
    assert step.snapshot is not None
    return _packed(of_snapshot(step.snapshot), {"step": np.uint64(step.number)})


def encode(tables: Sequence[TableView], form: Format) -> bytes:
    """The content of a file of that form."""
    if form == "text":
        return "".join(f"{line}\n" for line in describe(tables)).encode()
    if form == "json":
        whole = _File(SCHEMA, [_plain(each) for each in tables])
        return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"
    return _packed(tables, {})


def _packed(tables: Sequence[TableView], more: dict[str, Any]) -> bytes:
    arrays: dict[str, Any] = {"schema": np.uint64(SCHEMA), **more}
    for each in tables:
        name = f"{each.liobn:08x}"
        arrays[f"{name}.index"] = each.index.astype(np.uint32)
        arrays[f"{name}.tce"] = each.tce.astype(np.uint64)
        arrays[f"{name}.shape"] = np.array([each.entries, each.page_shift, each.bus_offset], np.uint64)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _plain(view: TableView) -> _Table:
    numbers = view.index.tolist(), view.tce.tolist()
    return _Table(view.liobn, view.entries, view.page_shift, view.bus_offset, *numbers)


def describe(tables: Iterable[TableView]) -> Iterator[str]:
    """Lines for people: a table, and then each of its live entries."""
    for view in tables:
        yield heading(view)
        for number, word in zip(view.index.tolist(), view.tce.tolist(), strict=True):
            page = tce.address(word, view.page_shift)
            yield f"  IOBA {view.ioba(number):#x}: {word:#018x}  page {page:#x}, {_named(word)}"


def heading(view: TableView) -> str:
    """`LIOBN 0x80000100: 262,144 entries of 4 KiB from 0x0, 32 live`"""
    size = bytes_of(1 << view.page_shift)
    live = f"{len(view.index):,} live"
    return f"LIOBN {view.liobn:#x}: {view.entries:,} entries of {size} from {view.bus_offset:#x}, {live}"


def bytes_of(count: int) -> str:
    """A power of two of bytes: `4 KiB`."""
    return next((f"{count >> shift:,} {unit}" for shift, unit in _UNITS if count >> shift), f"{count} bytes")


def _named(word: int) -> str:
    return tce.PERMISSION_NAMES[tce.permissions(word)]


# -- reading


def load(path: Path) -> tuple[TableView, ...]:
    """The tables of a dump: of a file of either form, or of a run's folder, that has one.

    :raise UsageError: there is no dump, or it is invalid.
    """
    file = path / NAME if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        step = "tcelab keeps one for every run that came to a checkpoint" if path.is_dir() else None
        raise UsageError(f"no dump of tables in {file}: {error.strerror}", next_step=step or "") from None
    try:
        return decode(content)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
        raise UsageError(f"{file} is no dump of tables: {error}") from None


def step_of(path: Path) -> int | None:
    """Number of the checkpoint of a run's `npz`; None: it does not say."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return int(arrays["step"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def decode(content: bytes) -> tuple[TableView, ...]:
    """Decode the output of `encode`, JSON or npz.

    :raise ValueError: it is none, or its numbers cannot be those of a table; or what msgspec and zipfile raise.
    """
    return tuple(_checked(each) for each in (_npz(content) if content.startswith(b"PK") else _json(content)))


def _json(content: bytes) -> list[_Table]:
    whole = msgspec.json.decode(content, type=_File)
    _expect(whole.schema == SCHEMA, f"schema {whole.schema}, expected {SCHEMA}")
    return whole.tables


def _npz(content: bytes) -> list[_Table]:
    out = []
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        _expect("schema" in arrays and int(arrays["schema"]) == SCHEMA, f"no schema {SCHEMA} in it")
        for name in sorted(key.removesuffix(".shape") for key in arrays if key.endswith(".shape")):
            shape = [int(each) for each in arrays[f"{name}.shape"]]
            _expect(len(shape) == 3, f"{name}.shape is no shape")  # noqa: PLR2004 - entries, page shift, bus offset
            entries, page_shift, bus_offset = shape
            numbers = arrays[f"{name}.index"].tolist(), arrays[f"{name}.tce"].tolist()
            out.append(_Table(int(name, 16), entries, page_shift, bus_offset, *numbers))
    return out


def _checked(table: _Table) -> TableView:
    """:raise ValueError: no table has such numbers."""
    where = f"LIOBN {table.liobn:#x}"
    _expect(0 <= table.liobn < _U32, f"{where} has more than 32 bits")
    _expect(0 <= table.entries < _U32, f"{where}: {table.entries} entries")
    _expect(0 <= table.page_shift < 64, f"{where}: page shift {table.page_shift}")  # noqa: PLR2004 - bits
    _expect(0 <= table.bus_offset < _U64, f"{where}: bus offset {table.bus_offset}")
    _expect(len(table.index) == len(table.tce), f"{where}: {len(table.index)} numbers, {len(table.tce)} TCEs")
    _expect(all(type(each) is int for each in (*table.index, *table.tce)), f"{where}: entries that are no integers")
    ascending = all(a < b for a, b in zip(table.index, table.index[1:], strict=False))
    _expect(ascending, f"{where}: its entries are not in order")
    _expect(not table.index or 0 <= table.index[0] <= table.index[-1] < table.entries, f"{where}: entries outside it")
    _expect(all(0 < each < _U64 for each in table.tce), f"{where}: TCEs that are 0, or of more than 64 bits")
    words = np.array(table.tce, np.uint64)
    index = np.array(table.index, np.uint32)
    return TableView(table.liobn, "live", table.entries, index, words, table.page_shift, table.bus_offset)


def _expect(holds: bool, message: str) -> None:  # noqa: FBT001 - a statement
    if not holds:
        raise ValueError(message)


# -- comparing


def compare(first: Sequence[TableView], second: Sequence[TableView]) -> tuple[list[str], list[Change]]:
    """What differs between two dumps: lines about whole tables, and the entries that differ, in order of LIOBN and
    IOBA. A table that only one dump has is reported, and its entries are compared with empty ones.
    """
    words: list[str] = []
    changes: list[Change] = []
    ours, theirs = ({view.liobn: view for view in each} for each in (first, second))
    for liobn in sorted({*ours, *theirs}):
        a, b = ours.get(liobn), theirs.get(liobn)
        shapes = [None if each is None else (each.entries, each.page_shift, each.bus_offset) for each in (a, b)]
        if shapes[0] != shapes[1]:
            told = ["no table" if each is None else heading(each).partition(": ")[2] for each in (a, b)]
            words.append(f"LIOBN {liobn:#x}: {told[0]} in the first, {told[1]} in the second")
        x, y = _by_ioba(a), _by_ioba(b)
        different = sorted(ioba for ioba in {*x, *y} if x.get(ioba, 0) != y.get(ioba, 0))
        changes += [Change(liobn, ioba, x.get(ioba, 0), y.get(ioba, 0)) for ioba in different]
    return words, changes


def _by_ioba(view: TableView | None) -> dict[int, int]:
    if view is None:
        return {}
    return {view.ioba(number): word for number, word in zip(view.index.tolist(), view.tce.tolist(), strict=True)}


def tell(change: Change) -> str:
    """`LIOBN 0x80000100 IOBA 0x1000: 0x0000000001234003 (read-write) in the first, empty in the second`"""
    both = (f"{word:#018x} ({_named(word)})" if word else "empty" for word in (change.first, change.second))
    return "LIOBN {:#x} IOBA {:#x}: {} in the first, {} in the second".format(change.liobn, change.ioba, *both)
