"""The law of the inventory."""

from __future__ import annotations

from typing import Any, Final

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger, op_name
from tcelab.judge.models.eventfold import EventFold
from tcelab.judge.models.files import ContainerModel, GroupModel
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading
from tcelab.judge.models.requests import request_name
from tcelab.papr import window
from tcelab.program import Bind, Ddw, Ioctl, Load
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "inventory",
    says="tables, windows and groups are exactly those of the topology",
    needs="a checkpoint, or an operation that reports a group or its window",
    finds="compares what views, kernel and device tree show with the topology, and with the windows that were made",
)


VIABLE: Final = 1
CONTAINER_SET: Final = 2
"""VFIO_GROUP_FLAGS_*, include/uapi/linux/vfio.h."""


def reports(ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
    """What kernel and device tree report about a group and its window matches the topology and the group's state.

    Source: `ibm,dma-window` in the device tree (QEMU hw/ppc/spapr_pci.c); drivers/vfio/group.c,
    vfio_group_ioctl_get_status; drivers/vfio/vfio_iommu_spapr_tce.c, VFIO_IOMMU_SPAPR_TCE_GET_INFO.
    """
    expected = _reported(fold, step) if got.value == 0 and not got.errno else {}
    if not expected:
        return
    ledger.judged("inventory")
    for name, value in expected.items():
        seen = got.fields.get(name)
        if seen != value:
            ledger.report(
                "inventory",
                (step.number, name),
                f"operation {step.number} ({op_name(step.op)}) reports {name} {_number(seen)}, expected {value:#x}",
                expected=f"{name} {value:#x}",
                seen=f"{name} {_number(seen)}",
                operation=step.number,
            )


def _number(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)


def _reported(fold: Fold, step: Step) -> dict[str, int]:
    """Output fields that an operation must report."""
    op = step.op
    if isinstance(op, Bind):
        phb = fold.group_of[op.device].phb
        return {
            "liobn": phb.liobn,
            "window_start": phb.window_start,
            "window_size": phb.window_size,
            "buid": window.buid(phb.index),
        }
    if isinstance(op, Ddw) and op.call == "create":
        return _made(fold, op)
    if not isinstance(op, Ioctl) or op.value is not None:  # a struct passed by address is not reported
        return {}
    name, handle = request_name(op.request), fold.target(op)
    if name == "GROUP_GET_STATUS" and isinstance(handle, GroupModel):
        return {"flags": VIABLE | (CONTAINER_SET if handle.container else 0)}
    if name == "SPAPR_TCE_GET_INFO" and isinstance(handle, ContainerModel) and handle.groups:
        phb = handle.groups[0].phb
        return {"dma32_window_start": phb.window_start, "dma32_window_size": phb.window_size & 0xFFFFFFFF}
    return {}


def _made(fold: Fold, op: Ddw) -> dict[str, int]:
    """A window that firmware creates has the first free LIOBN, and lies high beside another one (spapr_rtas_ddw.c)."""
    windows = fold.group_of[op.device].windows
    free = [liobn for liobn in windows.liobns if liobn not in fold.tables]
    start = windows.phb.window_start if len(free) == len(windows.liobns) else window.SECOND_START
    return {"liobn": free[0], "start": start} if free else {}


def arrivals(ledger: Ledger, fold: EventFold, step: Step, got: Outcome) -> None:
    """After a load, QEMU has every window where it was, with its page size, its entries and its mark.

    Source: QEMU hw/ppc/spapr_iommu.c (vmstate_spapr_tce_table: a place of 0 is not in the stream, so the window lies
    where the fresh QEMU would have it; a size that is another one is taken over without a word).
    """
    if not isinstance(step.op, Load) or got.errno or not got.fields.get("windows"):
        return
    ledger.judged("inventory")
    arrived = {each["liobn"]: each for each in got.fields["windows"]}
    for liobn in sorted(arrived.keys() | fold.tables.keys()):
        expected, seen = _sides(fold, liobn, arrived.get(liobn))
        if expected != seen:
            ledger.report(
                "inventory",
                (liobn, "arrived", seen, expected),
                f"LIOBN {liobn:#x} does not arrive as it was: expected {expected}, seen {seen}",
                liobn=liobn,
                expected=expected,
                seen=seen,
                operation=step.number,
            )


def _sides(fold: EventFold, liobn: int, arrived: dict[str, Any] | None) -> tuple[str, str]:
    """A window as it must arrive, and as it does. Marks count where they were told both times."""
    model = fold.tables.get(liobn)
    marks = fold.defaults.get(liobn), None if arrived is None else arrived.get("default")
    mark, its_mark = (None, None) if None in marks else marks
    expected = "no window" if model is None else _window(model.entries, model.page_shift, model.start, mark)
    if arrived is None:
        return expected, "no window"
    return expected, _window(arrived["entries"], arrived["page_shift"], arrived["start"], its_mark)


def _window(entries: int, page_shift: int, start: int, default: bool | None) -> str:  # noqa: FBT001 - of one window
    mark = "" if default is None else ", the default one" if default else ", not the default one"
    return f"{entries} entries, {_shape(page_shift, start)}{mark}"


def inventory(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """Every view shows exactly the tables of the existing windows, with the right size, page size and bus offset.

    Source: QEMU hw/ppc/spapr_pci.c (one object per window, empty until the window is created). Of a table that is
    missing or has another size, the other laws would prove nothing.
    """
    for view, tables in seen.views.items():
        ledger.judged("inventory")
        shown = [table.liobn for table in seen.snapshot.tables if table.view == view]
        for liobn in sorted({liobn for liobn in shown if shown.count(liobn) > 1}):
            _inventory(ledger, liobn, view, "is shown more than once", ("1 table", f"{shown.count(liobn)} tables"))
        for liobn, model in fold.tables.items():
            table = tables.get(liobn)
            if table is None:
                _inventory(ledger, liobn, view, "has no table", (f"{model.entries} entries", "no table"))
            elif table.entries != model.entries:
                sizes = f"{model.entries} entries", f"{table.entries} entries"
                _inventory(ledger, liobn, view, "has the wrong size", sizes)
            elif (table.page_shift, table.bus_offset) != (model.page_shift, model.start):
                shapes = _shape(model.page_shift, model.start), _shape(table.page_shift, table.bus_offset)
                _inventory(ledger, liobn, view, "has the wrong shape", shapes)
        known = {liobn for each in fold.windows.values() for liobn in each.liobns}
        for liobn, table in tables.items():
            if liobn not in fold.tables and (liobn not in known or table.entries):
                _inventory(ledger, liobn, view, "has a table", ("no table", f"{table.entries} entries"))


def _shape(page_shift: int, bus_offset: int) -> str:
    return f"page shift {page_shift}, bus offset {bus_offset:#x}"


def _inventory(ledger: Ledger, liobn: int, view: str, what: str, sides: tuple[str, str]) -> None:
    expected, seen = sides
    ledger.report(
        "inventory",
        (liobn, what, seen, expected),
        f"LIOBN {liobn:#x} {what}: expected {expected}, seen {seen}",
        liobn=liobn,
        expected=expected,
        seen=seen,
        operation=blame.table(ledger),
        view=view,
    )
