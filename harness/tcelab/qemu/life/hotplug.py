"""Hot plug of devices and PHBs: QEMU's part by its monitor, and the guest's by the agent, without a daemon.

QEMU has a device at once, and tells the guest. The guest takes it, or lets go of it, by DR indicators and its own steps
(`tceagent.hotplug`), or by a program of its own where the program asks for that (`tceagent.helpers`); only then is a
device that is to go gone, and QEMU says so (DEVICE_DELETED). Source: QEMU hw/ppc/spapr_drc.c, hw/ppc/spapr_pci.c
(drc_id_from_devfn), include/hw/ppc/spapr_drc.h; PAPR 13.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tcelab.errors import HarnessError
from tcelab.papr import window
from tcelab.program import BridgeAdd, BridgeRemove, DeviceAdd, DeviceRemove
from tcelab.program.plugged import HotPlug, with_it
from tcelab.program.topology import Device, Phb
from tcelab.qemu.life.flight import InFlight
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.qtest import RtasCall
from tcelab.run.record import Outcome

_PHB: Final = 0x20000000
_PCI: Final = 0x40000000
"""Kinds of DR connectors."""
_ISOLATION: Final = 9001
"""A DR indicator: 0 gives a device back (PAPR 13.5)."""


class _RefusedError(Exception):
    """The guest's kernel refused a step."""

    def __init__(self, errno: str, step: str) -> None:
        self.errno, self.step = errno, step


def device_add(session: QemuSession, op: DeviceAdd) -> Outcome:
    phb, device = _place(session, op.device)

    def add() -> None:
        if device.name not in session.plugged.offered:
            _plug(session, phb, device, _by(op))
        if op.consent:
            _take(session, phb, device, _by(op))

    return _outcome(session, op, add)


def device_remove(session: QemuSession, op: DeviceRemove) -> Outcome:
    phb, device = _place(session, op.device)
    flown: dict[str, Any] = {}

    def remove() -> None:
        if op.consent:
            _leave(session, phb, device, op, flown)
        elif device.name not in session.plugged.leaving:
            in_flight = _aloft(session, op)
            _pull(session, device.name)
            flown.update(in_flight.arrive() if in_flight is not None else {})

    return _outcome(session, op, remove, flown)


def bridge_add(session: QemuSession, op: BridgeAdd) -> Outcome:
    phb = _phb(session, op.phb)

    def add() -> None:
        if phb.index not in session.plugged.offered:
            _plug(session, phb, None, _by(op))
        if not op.consent:
            return
        _bridge(session, "take bridge", phb, _by(op))
        if session.guard is not None:
            session.guard.new_pe(phb.index)
        for device in with_it(phb):
            _plug(session, phb, device, _by(op))
            _take(session, phb, device, _by(op))

    return _outcome(session, op, add)


def bridge_remove(session: QemuSession, op: BridgeRemove) -> Outcome:
    phb = _phb(session, op.phb)
    name = f"phb{phb.index}"
    flown: dict[str, Any] = {}

    def remove() -> None:
        if not op.consent:
            in_flight = _aloft(session, op)
            _pull(session, name)
            flown.update(in_flight.arrive() if in_flight is not None else {})
            return
        _guest(session, "ready", 0, _by(op))
        for device in session.plugged.on(phb):
            _leave(session, phb, device, op, flown)
        if phb.index not in session.plugged.leaving:
            _pull(session, name, _by(op))
        _bridge(session, "leave bridge", phb, _by(op))
        _deleted(session, name)

    return _outcome(session, op, remove, flown)


def _outcome(
    session: QemuSession, op: HotPlug, work: Callable[[], None], flown: Mapping[str, Any] | None = None
) -> Outcome:
    """Do it. A refusal of the guest's kernel is the outcome.

    :param flown: gets what came of a device in flight.
    """
    events = session.happened()
    try:
        work()
    except _RefusedError as refused:
        return Outcome(errno=refused.errno, fields={"step": refused.step}, events=events)
    session.plugged.happened(op)
    fields = {"flight": flown} if flown else {}
    return Outcome(value=0, fields=fields, events=[*events, *session.happened()])


def _by(op: HotPlug) -> str:
    """The program that does the guest's part; empty: the agent does, or nobody."""
    return op.consent if isinstance(op.consent, str) else ""


def _place(session: QemuSession, name: str) -> tuple[Phb, Device]:
    place = session.plugged.place(name)
    assert place is not None, name  # validated
    return place


def _phb(session: QemuSession, index: int) -> Phb:
    phb = session.plugged.phb(index)
    assert phb is not None, index  # validated
    return phb


# -- QEMU's part


def _plug(session: QemuSession, phb: Phb, device: Device | None, by: str) -> None:
    """The guest's slot drivers are there before: a slot that they did not see then they never see."""
    _guest(session, "ready", 0, by)
    portal().call(session.guest.plug(phb, device))


def _pull(session: QemuSession, name: str, by: str = "") -> None:
    if by:
        _guest(session, "ready", 0, by)
    session.guest.deleted.discard(name)
    portal().call(session.guest.qmp("device_del", id=name))


def _deleted(session: QemuSession, name: str) -> None:
    """Wait until QEMU says that a device is gone."""
    portal().call(session.guest.gone(name))


# -- the guest's part


def _take(session: QemuSession, phb: Phb, device: Device, by: str) -> None:
    place = _named(phb, device) if by else {}
    _guest(session, "take device", _drc(phb, device), by, **place)
    if session.guard is not None:
        session.guard.arrived(device.name)


def _leave(
    session: QemuSession, phb: Phb, device: Device, op: DeviceRemove | BridgeRemove, flown: dict[str, Any]
) -> None:
    """Have it pulled, unless it was already, and wait until it is gone.

    :param flown: gets what came of a flight of this device.
    """
    if session.guard is not None:
        # Before: a register that the guest writes on the way out is no longer there when the guard would answer.
        session.guard.left(session.guard.devices[device.name])
    if device.name not in session.plugged.leaving:
        _pull(session, device.name, _by(op))
    if op.flight is None or op.flight.device != device.name:
        _guest(session, "leave device", _drc(phb, device), _by(op), **_named(phb, device))
        _deleted(session, device.name)
        return
    _guest(session, "leave device", _drc(phb, device), gives_back=False, **_named(phb, device))
    in_flight, standstill = InFlight(session, op.flight), session.guest.standstill
    portal().call(standstill.begin())
    in_flight.start(masters=True)
    call = RtasCall("set-indicator", (_ISOLATION, _drc(phb, device), 0), 1)
    ((status,),) = portal().call(session.guest.qtest.calls([call]))
    portal().call(standstill.end())
    if status:
        raise _RefusedError("EIO", f"set-indicator {_ISOLATION}, which gives {status}")
    _deleted(session, device.name)
    if session.guard is not None:
        session.guard.left(session.guard.devices[device.name])  # its registers were written once more
    flown.update(in_flight.arrive())


def _aloft(session: QemuSession, op: DeviceRemove | BridgeRemove) -> InFlight | None:
    """Before QEMU asks a guest that does nothing about it."""
    if op.consent or op.flight is None:
        return None
    in_flight = InFlight(session, op.flight)
    in_flight.depart()
    return in_flight


def _bridge(session: QemuSession, do: str, phb: Phb, by: str) -> None:
    place = {"name": "", "buid": window.buid(phb.index)} if by else {}
    _guest(session, do, _PHB | phb.index, by, slot=f"PHB {phb.index}", **place)


def _named(phb: Phb, device: Device) -> dict[str, Any]:
    return {"name": device.name, "buid": window.buid(phb.index), "slot": device.slot}


def _drc(phb: Phb, device: Device) -> int:
    return _PCI | phb.index << 16 | device.slot << 3


def _guest(session: QemuSession, do: str, drc: int, by: str = "", **where: object) -> None:
    """:raise _RefusedError: its kernel refused a step."""
    answer = session.request("plug", {"do": do, "drc": drc, **({"by": by} if by else {}), **where})
    if answer["errno"] and do == "ready":
        raise HarnessError(f"the guest cannot {answer['step']}: {answer['errno']}", scene=session.scene())
    if answer["errno"]:
        raise _RefusedError(answer["errno"], answer["step"])
