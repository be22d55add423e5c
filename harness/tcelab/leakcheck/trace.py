"""Hypercalls on TCE tables, as QEMU's trace tells them.

Source: QEMU hw/ppc/trace-events (spapr_iommu_pci_put, _stuff, _indirect, spapr_iommu_new_table) and, in
hw/ppc/spapr_iommu.c, h_stuff_tce, which tells the address after the last entry it stored, and h_put_tce_indirect, which
tells the number of the last entry, and of the list only that entry's TCE.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final, Literal, NamedTuple

from tcelab.papr import window

EVENTS: Final = ("spapr_iommu_pci_put", "spapr_iommu_pci_stuff", "spapr_iommu_pci_indirect")
"""Trace events to be enabled; `spapr_iommu_new_table` always is."""

Name = Literal["H_PUT_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT"]
NAMES: Final[tuple[Name, ...]] = ("H_PUT_TCE", "H_PUT_TCE_INDIRECT", "H_STUFF_TCE")

_HEX: Final = r"(?:0x)?([0-9a-f]+)"
_STATUS: Final = r"ret=(-?\d+)"
# The clock's prefix: seconds since 1970 behind a process, or, in newer QEMUs, a date.
_AT: Final = r"(?:\d+@(\d+\.\d+):|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)Z )?"
_PUT: Final = re.compile(rf"{_AT}spapr_iommu_pci_put liobn={_HEX} ioba={_HEX} tce={_HEX} {_STATUS}")
_STUFF: Final = re.compile(
    rf"{_AT}spapr_iommu_pci_stuff liobn={_HEX} ioba={_HEX} tcevalue={_HEX} npages=(\d+) {_STATUS}"
)
_INDIRECT: Final = re.compile(
    rf"{_AT}spapr_iommu_pci_indirect liobn={_HEX} ioba={_HEX} tcelist={_HEX} iobaN={_HEX} tceN={_HEX} {_STATUS}"
)
_TABLE: Final = re.compile(rf"{_AT}spapr_iommu_new_table liobn={_HEX} ")


class Hypercall(NamedTuple):
    """One call on a table.

    :ivar ioba: bus address of the first entry; `entries`: how many it names. Of a call that failed, those that it may
        have stored.
    :ivar tce: what it stored; of an H_PUT_TCE_INDIRECT, in its last entry.
    :ivar status: 0 is H_SUCCESS.
    :ivar at: seconds since 1970 by the host's clock, 0 where QEMU tells no time.
    """

    name: Name
    liobn: int
    ioba: int
    entries: int
    tce: int
    status: int
    at: float


class NewTable(NamedTuple):
    """A LIOBN has another table, which is empty, or none."""

    liobn: int


def parse(line: str) -> Hypercall | NewTable | None:
    """What a line of the trace tells of a window with pages of 4 KiB; None: nothing of that."""
    if found := _PUT.match(line):
        seconds, date, liobn, ioba, tce, status = found.groups()
        return Hypercall("H_PUT_TCE", *_numbers(liobn, ioba), 1, int(tce, 16), int(status), _time(seconds, date))
    if found := _STUFF.match(line):
        seconds, date, liobn, after, tce, pages, status = found.groups()
        bus, end = _numbers(liobn, after)
        first, count = max(0, end - int(pages) * window.PAGE_SIZE), int(pages)
        return Hypercall("H_STUFF_TCE", bus, first, count, int(tce, 16), int(status), _time(seconds, date))
    if found := _INDIRECT.match(line):
        seconds, date, liobn, ioba, _list, last, tce, status = found.groups()
        bus, first = _numbers(liobn, ioba)
        count = int(last, 16) + 1
        return Hypercall("H_PUT_TCE_INDIRECT", bus, first, count, int(tce, 16), int(status), _time(seconds, date))
    if found := _TABLE.match(line):
        return NewTable(int(found[3], 16))
    return None


def _numbers(liobn: str, ioba: str) -> tuple[int, int]:
    return int(liobn, 16), int(ioba, 16) & -window.PAGE_SIZE


def _time(seconds: str | None, date: str | None) -> float:
    if date is not None:
        return dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC).timestamp()
    return float(seconds) if seconds is not None else 0.0
