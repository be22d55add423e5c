"""What is right after hot plug.

A PHB comes with an empty default window and a PE that is not isolated, as at the machine's start, and takes all its
windows along. A device comes and goes by itself: tables and the condition of its PE stay as they are. Sources: QEMU
hw/ppc/spapr_pci.c (spapr_phb_realize, spapr_phb_unrealize); Linux drivers/pci/hotplug/rpadlpar_core.c.
"""

from __future__ import annotations

from collections import deque

from tcelab.judge.models.eventfold import EventFold
from tcelab.papr.isolationrules import Isolation
from tcelab.program import BridgeAdd, BridgeRemove, DeviceAdd, DeviceRemove
from tcelab.run.record import Outcome


def device_added(fold: EventFold, op: DeviceAdd, _outcome: Outcome, _step: int) -> None:
    fold.plugged.happened(op)
    if op.consent:
        fold.devices[op.device].replaced()


def device_removed(fold: EventFold, op: DeviceRemove, _outcome: Outcome, step: int) -> None:
    _flies(fold, op, step)
    fold.plugged.happened(op)
    if op.consent:
        _pulled(fold, op.device, fold.group_of[op.device].windows.liobns, step)


def bridge_added(fold: EventFold, op: BridgeAdd, _outcome: Outcome, _step: int) -> None:
    if op.phb not in fold.plugged.offered:  # it is there from the moment that QEMU has it
        fold.windows[op.phb] = fold.groups[op.phb].windows
        fold.windows[op.phb].restore()
        fold.pes.pes[op.phb].isolation = Isolation()
    fold.plugged.happened(op)
    for device in fold.pes.pes[op.phb].devices:
        device.replaced()


def bridge_removed(fold: EventFold, op: BridgeRemove, _outcome: Outcome, step: int) -> None:
    group = fold.groups[op.phb]
    _flies(fold, op, step)
    if op.consent:
        for device in fold.plugged.on(group.phb):
            _pulled(fold, device.name, group.windows.liobns, step)
        fold.without(op.phb, f"gone with PHB {op.phb} by operation {step} (bridgeremove)")
    fold.plugged.happened(op)


def _flies(fold: EventFold, op: DeviceRemove | BridgeRemove, step: int) -> None:
    """The transfer of a device that goes is never done (hw/misc/edu.c, pci_edu_uninit). Of one that stays, it is."""
    if op.consent:
        fold.lost(op.flight, "its device is gone")
    else:
        fold.fly(op.flight, step)


def _pulled(fold: EventFold, name: str, liobns: tuple[int, ...], step: int) -> None:
    """A device is gone: whoever had entries for its PE went before."""
    for liobn in liobns:
        if liobn in fold.partings:
            kept = fold.partings[liobn]
            more = (each._replace(how=f"{each.how}; {name} was pulled in operation {step}") for each in kept)
            fold.partings[liobn] = deque(more, kept.maxlen)
