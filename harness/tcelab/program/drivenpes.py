"""What the kernel's drivers have of a program's devices, as far as the program tells: who may have a PE after whom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from tcelab.papr import window
from tcelab.program.hostops import Ddw
from tcelab.program.lifeops import RESETS, MemoryAdd, MemoryRemove
from tcelab.program.topology import Topology

LOW: Final = 16
"""log2 of the bytes of RAM that belong to no driver. A window that firmware made at the same bus address as the
kernel's lies over its start (QEMU system/memory.c: of two regions, the one that was added last).
"""
BEARS: Final = (*RESETS, MemoryAdd, MemoryRemove)
"""Events that leave a driver's mappings as they are, or end its kernel."""

SHARED: Final = "a PE of several devices does not change hands, because not every kernel survives that"


@dataclass(slots=True)
class Mapped:
    """:ivar sizes: bytes of its parts; `live`: it is mapped, if it could be.

    :ivar by: the process that has mapped it.
    """

    device: str
    sizes: list[int]
    coherent: bool = False
    live: bool = True
    by: str = ""


@dataclass(slots=True)
class Drivers:
    """What the driver of a program has, on the kernel as it is now.

    :ivar bound: its devices. `pes`: PHBs whose devices it has or had; `vfio`: likewise, of VFIO.
    :ivar wide: devices that may have gone around the tables; `stale`: those for which the kernel still thinks so, after
        VFIO had their PE.
    :ivar beside: by PHB, log2 of the bytes of a window that firmware was asked for beside the default one; `without`:
        PHBs whose default window it was asked to remove.
    :ivar removed_for: by PHB, the device for which its kernel may have removed the default window.
    :ivar coherent: bits of coherent masks, by device.
    """

    topology: Topology
    bound: set[str] = field(default_factory=set)
    pes: set[int] = field(default_factory=set)
    vfio: set[int] = field(default_factory=set)
    maps: dict[str, Mapped] = field(default_factory=dict)
    wide: set[str] = field(default_factory=set)
    stale: set[str] = field(default_factory=set)
    beside: dict[int, int] = field(default_factory=dict)
    without: set[int] = field(default_factory=set)
    removed_for: dict[int, str] = field(default_factory=dict)
    coherent: dict[str, int] = field(default_factory=dict)
    _models: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._models = {each.name: each.model for each in self.topology.devices}

    def phb(self, device: str) -> int:
        """Index of the PHB that has a device; -1: there is no such device."""
        return next((phb.index for phb in self.topology.phbs for each in phb.devices if each.name == device), -1)

    @property
    def restricted(self) -> set[str]:
        """Devices whose firmware offers fewer page sizes than QEMU has."""
        return {each.name for phb in self.topology.phbs if phb.restricted for each in phb.devices}

    def model(self, device: str) -> str:
        return self._models.get(device, "")

    def has(self, device: str) -> str:
        """Why nobody else can make or remove windows of a device's PE; empty if they can."""
        if self.phb(device) in self.pes:
            return "a driver of the DMA API has its PE, or had: its windows are the kernel's"
        return ""

    def alone(self, device: str) -> bool:
        """It has its PE for itself."""
        return any([each.name for each in phb.devices] == [device] for phb in self.topology.phbs)

    def hand_over(self, device: str, by: str) -> str:
        """Why VFIO cannot have a device; empty if it can, and then it has it."""
        index = self.phb(device)
        live = next((name for name, each in self.maps.items() if each.live and each.device == device), "")
        if index not in self.pes:
            why = ""
        elif not self.alone(device):
            why = f"a driver of the DMA API has its PE, or had: {SHARED}"
        elif device in self.bound:
            why = "the driver of the DMA API has it: add a `dmaunbind` before"
        elif live:
            why = f"{live!r} is mapped: VFIO gets the group all the same, and nobody keeps its entries"
        elif index in self.removed_for:
            why = "its kernel may have removed the default window, and nobody knows what VFIO makes of that"
        else:
            why = "only the agent itself hands it over" if by else ""
        if not why:
            self.vfio.add(index)
        return why

    def exit(self, process: str) -> None:
        """A process ends, and with it what it has mapped."""
        for each in self.maps.values():
            each.live = each.live and each.by != process

    def asked(self, op: Ddw) -> None:
        """Firmware is asked for windows from outside, and no kernel knows it."""
        index = self.phb(op.device)
        if op.call == "create":
            self.beside[index] = max(self.beside.get(index, 0), op.window_shift)
        elif op.call == "reset":
            self.beside.pop(index, None)
            self.without.discard(index)
        elif op.call == "remove" and window.window_of(op.liobn):
            self.beside.pop(window.phb_of(op.liobn), None)
        elif op.call == "remove":
            self.without.add(window.phb_of(op.liobn))

    def take_back(self, device: str, used: Collection[str]) -> str:
        """Why the kernel's driver cannot have a device after VFIO; empty if it can.

        :param used: devices whose files, or whose groups', are open.
        """
        if self.phb(device) not in self.vfio:
            return ""
        if device in used:
            return f"VFIO has {device}: close the files of it and of its group before"
        if not self.alone(device):
            return f"VFIO has the PE of {device}, or had: {SHARED}"
        if device in self.wide:
            self.stale.add(device)
        return ""

    def event(self, op: object) -> str:
        """Why an event cannot be; empty if it can."""
        if not self.pes or isinstance(op, BEARS):
            return ""
        return "nobody knows what it makes of mappings of the kernel's own driver: reset the machine before"


def unexpected(drivers: Drivers, device: str) -> str:
    """Why the windows of a device's PE are not those that its kernel expects; empty if they are."""
    index = drivers.phb(device)
    if index in drivers.without:
        return f"firmware was asked to remove the default window of {device}'s PE, and its kernel does not know"
    if (shift := drivers.beside.get(index, 0)) > LOW:
        return (
            f"firmware was asked for a window of 2^{shift} bytes for {device}'s PE, and one of more than 2^{LOW} lies"
            " over the one that the kernel may make"
        )
    return shut_out(drivers, device)


def shut_out(drivers: Drivers, device: str) -> str:
    """Why a device has no table any more; empty if it has, or needs none."""
    owner = drivers.removed_for.get(drivers.phb(device), device)
    if owner == device:
        return ""
    return f"the kernel may have removed the default window of its PE for {owner}, and {device} does not know it"
