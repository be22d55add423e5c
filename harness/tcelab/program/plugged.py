"""What of a topology is plugged in, as events go by.

Where a guest is not asked, an event is only begun: QEMU has a device that the guest does not see, or waits for a guest
to let go of one. A reset of the machine ends both (QEMU hw/ppc/spapr_drc.c, spapr_drc_reset).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias, get_args

from tcelab.program.lifeops import BridgeAdd, BridgeRemove, Consent, DeviceAdd, DeviceRemove
from tcelab.program.topology import Device, Phb, Topology

HotPlug: TypeAlias = DeviceAdd | DeviceRemove | BridgeAdd | BridgeRemove
HOT_PLUG: Final = tuple(each.__name__ for each in get_args(HotPlug))
"""Names of these operations."""
HELPERS: Final[tuple[str, ...]] = get_args(get_args(Consent)[1])
"""Programs of a guest that do its part."""
DAEMON: Final = "rtas_errd"


@dataclass(slots=True)
class Plugged:
    """On one machine.

    :ivar devices: names of devices that the guest has; `phbs`: indexes of PHBs that it has.
    :ivar offered: names of devices and indexes of PHBs that QEMU has, and the guest was not asked to take.
    :ivar leaving: those that QEMU is to take away, and the guest was not asked to leave.
    """

    topology: Topology
    devices: set[str] = field(default_factory=set)
    phbs: set[int] = field(default_factory=set)
    offered: set[str | int] = field(default_factory=set)
    leaving: set[str | int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.phbs = {phb.index for phb in self.topology.phbs if phb.plugged}
        self.devices = {device.name for phb in self.topology.phbs if phb.plugged for device in with_it(phb)}

    def phb(self, index: int) -> Phb | None:
        """The topology's."""
        return next((phb for phb in self.topology.phbs if phb.index == index), None)

    def place(self, name: str) -> tuple[Phb, Device] | None:
        """A device of the topology, and its PHB."""
        every = ((phb, device) for phb in self.topology.phbs for device in phb.devices)
        return next((place for place in every if place[1].name == name), None)

    def on(self, phb: Phb) -> list[Device]:
        """The devices that the guest has there."""
        return [device for device in phb.devices if device.name in self.devices]

    @property
    def missing(self) -> set[str]:
        """Names of the devices that the guest does not have."""
        return {device.name for device in self.topology.devices} - self.devices

    def there(self, index: int) -> bool:
        """QEMU has the PHB, whatever its guest knows."""
        return index in self.phbs or index in self.offered

    def happened(self, op: HotPlug) -> None:
        """An event succeeded."""
        match op:
            case DeviceAdd(device=what) | BridgeAdd(phb=what) if not op.consent:
                self.offered.add(what)
            case DeviceRemove(device=what) | BridgeRemove(phb=what) if not op.consent:
                self.leaving.add(what)
            case DeviceAdd(device=name):
                self._comes(name)
            case DeviceRemove(device=name):
                self._goes(name)
            case BridgeAdd(phb=index):
                self._bridge_comes(index)
            case BridgeRemove(phb=index):
                self._bridge_goes(index)

    def reset(self) -> None:
        """The machine was reset."""
        for what in [*self.leaving]:
            self._bridge_goes(what) if isinstance(what, int) else self._goes(what)
        for what in [*self.offered]:
            if isinstance(what, int):
                self.offered.discard(what)
                self.phbs.add(what)  # by itself: its devices were never offered
            else:
                self._comes(what)

    def _comes(self, name: str) -> None:
        self.offered.discard(name)
        self.devices.add(name)

    def _goes(self, name: str) -> None:
        self.leaving.discard(name)
        self.devices.discard(name)

    def _bridge_comes(self, index: int) -> None:
        self.offered.discard(index)
        self.phbs.add(index)
        phb = self.phb(index)
        self.devices |= {device.name for device in with_it(phb)} if phb is not None else set()

    def _bridge_goes(self, index: int) -> None:
        self.leaving.discard(index)
        self.phbs.discard(index)
        phb = self.phb(index)
        for device in () if phb is None else phb.devices:
            self._goes(device.name)
            self.offered.discard(device.name)


def with_it(phb: Phb) -> list[Device]:
    """The devices that come with a PHB; the others are plugged in one by one."""
    return [device for device in phb.devices if device.plugged]
