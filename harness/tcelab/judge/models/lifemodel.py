"""What is right after each event in the life of a table.

Each family of events has its own functions; `LIFE` says which is whose. What has no function here is not known to the
judge, and no run with it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.judge.models import hotplugmodel as hotplug
from tcelab.judge.models.directmodel import Piece
from tcelab.judge.models.eventfold import EventFold
from tcelab.judge.models.files import ContainerModel
from tcelab.papr import window
from tcelab.program import (
    BridgeAdd,
    BridgeRemove,
    Crash,
    DeviceAdd,
    DeviceRemove,
    Kexec,
    LifeOp,
    Load,
    MemoryAdd,
    MemoryRemove,
    Reboot,
    Reset,
    Save,
)
from tcelab.program.topology import Phb
from tcelab.quirks import KEXEC_KEEPS
from tcelab.run.record import Outcome


def _restarted(fold: EventFold, op: Reset | Reboot, _outcome: Outcome, step: int) -> None:
    reached = fold.reaches(op.flight)
    fold.end_kernel(f"operation {step} ({type(op).__name__.lower()})")
    fold.reset_machine(step)
    fold.fly(op.flight, step, reached=reached)


def _saved(fold: EventFold, op: Save, outcome: Outcome, _step: int) -> None:
    fold.aloft = op.flight
    marks = {each["liobn"]: each.get("default") for each in outcome.fields.get("windows", ())}
    fold.defaults = {liobn: mark for liobn, mark in marks.items() if mark is not None}


def _loaded(fold: EventFold, _op: Load, _outcome: Outcome, _step: int) -> None:
    """All goes on as it was, in another QEMU; but of an edu it knows nothing (hw/misc/edu.c has no vmstate)."""
    for device in fold.devices.values():
        device.moved()
    fold.lost(fold.aloft, "its device is another QEMU's now, which knows nothing of it")
    fold.aloft = None


def _odd(container: ContainerModel, phb: Phb) -> bool:
    """It has removed the default window, or made another in its place."""
    low = next((each for each in container.windows if each.table.liobn == phb.liobn), None)
    if low is None:
        return container.made or container.cancelled
    return (low.size, low.table.page_shift) != (phb.window_size, window.PAGE_SHIFT)


def _kexeced(fold: EventFold, op: Kexec, _outcome: Outcome, step: int) -> None:
    """Windows stay. The second kernel clears those that its device tree has, from its first look at a bus on
    (arch/powerpc/kernel/iommu.c, iommu_table_clear): the default ones, and those that containers made. One that
    firmware made from outside is in no tree.
    """
    theirs = {
        each.table.liobn
        for group in fold.groups.values()
        if group.container is not None
        for each in group.container.windows
    }
    for group in fold.groups.values():
        if group.container is not None and _odd(group.container, group.phb):
            fold.unknown.append(
                f"step {step} starts another kernel while a container has no default window like the platform's: nobody"
                " knows what the device tree then tells"
            )
    fold.end_kernel(f"operation {step} (kexec)")
    fold.fly(op.flight, step)  # the first kernel is gone, and has had no device master the bus any more
    for windows in fold.windows.values():
        default, high = windows.liobns
        kept = {high} - theirs
        windows.inherited = high in theirs and high in windows.present
        if windows.inherited and KEXEC_KEEPS in fold.facts.quirks:
            kept.add(default)
        for table in windows.active:
            if table.liobn in kept:
                table.hand_over(step, memory=False)
            else:
                table.clear(0, table.entries, step)


def _crashed(fold: EventFold, op: Crash, _outcome: Outcome, step: int) -> None:
    """A crash kernel leaves all entries that it finds: devices may still be using them (iommu_table_clear,
    is_kdump_kernel). It runs in memory of its own: what they lead to stays as it is.
    """
    fold.fly(op.flight, step)
    for table in fold.tables.values():
        table.hand_over(step, memory=True)
    fold.end_kernel(f"operation {step} (crash)", parts=False)


def _plugged(fold: EventFold, op: MemoryAdd, outcome: Outcome, step: int) -> None:
    address, size = outcome.fields.get("address"), outcome.fields.get("size")
    if outcome.value != 0 or size != op.mib << 20 or type(address) is not int:
        fold.unknown.append(f"MemoryAdd of step {step} did not tell where its memory lies")
        return
    fold.direct.plugged(op.dimm, Piece(address, size), step)


def _pulled(fold: EventFold, op: MemoryRemove, outcome: Outcome, step: int) -> None:
    if outcome.value == 0 and op.dimm in fold.direct.pieces:
        fold.direct.pulled(op.dimm, step)


LIFE: Final[Mapping[type, Callable[[EventFold, Any, Outcome, int], None]]] = {
    Reset: _restarted,
    Reboot: _restarted,
    Kexec: _kexeced,
    Crash: _crashed,
    DeviceAdd: hotplug.device_added,
    DeviceRemove: hotplug.device_removed,
    BridgeAdd: hotplug.bridge_added,
    BridgeRemove: hotplug.bridge_removed,
    MemoryAdd: _plugged,
    MemoryRemove: _pulled,
    Save: _saved,
    Load: _loaded,
}


class LivingFold(EventFold):
    """The fold of a whole run, events included."""

    def event(self, op: LifeOp, outcome: Outcome, step: int) -> None:
        """Fold in an event that succeeded."""
        rule = LIFE.get(type(op))
        if rule is None:
            super().event(op, outcome, step)
        else:
            rule(self, op, outcome, step)
