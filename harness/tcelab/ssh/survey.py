"""What the machine has, and which of its devices are those of the topology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tcelab.errors import Unsupported, UsageError
from tcelab.papr import window
from tcelab.program.topology import Device, Phb, Topology
from tcelab.ssh.choice import SshChoice

_IDS: Final = {"edu": "1234:11e8", "virtio-blk": "1af4:1042"}
"""By model: PCI vendor and device (QEMU hw/misc/edu.c, include/standard-headers/linux/virtio_pci.h)."""
_VFIO: Final = "vfio-pci"
_NONE: Final = "none"


class Found(msgspec.Struct, frozen=True):
    """A PCI device of the machine, see `tceagent.remote`.

    :ivar others: devices of its group that another driver has, and which.
    :ivar window: LIOBN, bus address and bytes of the default window of its PHB.
    """

    address: str
    id: str
    driver: str
    group: int | None
    others: dict[str, str]
    buid: int | None
    slot: int | None
    window: tuple[int, int, int] | None


class Survey(msgspec.Struct, frozen=True):
    """:ivar vfio: empty if VFIO knows the IOMMU of sPAPR, else an errno, or `none`.

    :ivar log: the kernel's log can be read; `pins`: the kernel counts page pins.
    """

    uid: int
    ram: int
    vfio: str
    vfio_pci: bool
    log: bool
    pins: bool
    devices: list[Found]


class Placed(msgspec.Struct, frozen=True):
    """A device of the topology, and that of the machine which it is."""

    device: Device
    phb: Phb
    found: Found

    @property
    def same(self) -> bool:
        """It has the LIOBN that the topology says."""
        return self.found.window is not None and self.found.window[0] == self.phb.liobn

    @property
    def unlike(self) -> bool:
        """It is of another model, which no program can drive."""
        return self.found.id != _IDS.get(self.device.model, "")


def expect_able(survey: Survey, host: str) -> None:
    """:raise Unsupported: it cannot do VFIO at all, and what to do about it."""
    if survey.uid != 0:
        raise Unsupported(
            f"the agent on {host} is not root, and VFIO needs it",
            next_step="log in as root: --user root; or --python 'sudo -n python3'",
        )
    if not survey.vfio_pci:
        raise Unsupported(f"{host} has no driver vfio-pci", next_step="modprobe vfio-pci there")
    if survey.vfio == _NONE:
        raise Unsupported(
            f"VFIO of {host} does not know the IOMMU of sPAPR",
            next_step="modprobe vfio_iommu_spapr_tce there; its kernel needs CONFIG_VFIO_IOMMU_SPAPR_TCE",
        )
    if survey.vfio:
        raise Unsupported(
            f"/dev/vfio/vfio of {host} cannot be opened: {survey.vfio}", next_step="modprobe vfio there, as root"
        )


def place(survey: Survey, topology: Topology, choice: SshChoice) -> list[Placed]:
    """Each device of the topology and the one of the machine: those that were named, or those at the same places.

    :raise UsageError: a name or number of devices that the topology has not.
    :raise Unsupported: a device that is not there, that has no group, that somebody else uses, or whose window is
        another one.
    """
    by_address = {each.address: each for each in survey.devices}
    named = _named(topology, choice.places)
    placed = []
    for phb in topology.phbs:
        for device in phb.devices:
            address = named[device.name] if named else _at(survey, phb, device)
            found = by_address.get(address)
            if found is None:
                raise Unsupported(
                    f"{choice.host} has no device {address or _where(phb, device)}, which is to be {device.name}",
                    next_step=f"name its devices: --device {device.name}=ADDRESS; there are: {_list(survey)}",
                )
            _expect_usable(found, device)
            _expect_window(found, phb, topology)
            placed.append(Placed(device, phb, found))
    _expect_groups(placed)
    return placed


def _named(topology: Topology, places: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Address of each device by the topology's name, if addresses were given."""
    names = [device.name for device in topology.devices]
    if not places:
        return {}
    given = {name or names[min(i, len(names) - 1)]: address for i, (name, address) in enumerate(places)}
    if len(places) != len(names) or given.keys() != set(names) or len(set(given.values())) != len(names):
        raise UsageError(
            f"--device: topology {topology.name} has the devices {', '.join(names)}, one address is needed for each",
            next_step="take a topology with as many devices: see --topology",
        )
    return given


def _at(survey: Survey, phb: Phb, device: Device) -> str:
    """As QEMU places it in a guest of ours."""
    here = (window.buid(phb.index), device.slot)
    return next((each.address for each in survey.devices if (each.buid, each.slot) == here), "")


def _where(phb: Phb, device: Device) -> str:
    return f"at slot {device.slot} of PHB {window.buid(phb.index):#x}"


def _list(survey: Survey) -> str:
    there = (f"{each.address} ({each.id}, {each.driver or 'no driver'})" for each in survey.devices)
    return ", ".join(there) or "none"


def _expect_usable(found: Found, device: Device) -> None:
    if found.driver not in ("", _VFIO):
        raise Unsupported(
            f"{found.address}, which is to be {device.name}, is driven by {found.driver}: it is left alone",
            next_step="name another one with --device; or give it to vfio-pci there, if nobody needs it",
        )
    if found.group is None:
        raise Unsupported(
            f"{found.address}, which is to be {device.name}, is in no IOMMU group",
            next_step="its kernel needs an IOMMU driver for sPAPR; is it a pseries machine or an LPAR?",
        )
    if found.others:
        who = ", ".join(f"{address} by {driver}" for address, driver in found.others.items())
        raise Unsupported(
            f"other devices of IOMMU group {found.group} are in use ({who}): {found.address} cannot be given away",
            next_step="name a device that has a group to itself with --device",
        )


def _expect_window(found: Found, phb: Phb, topology: Topology) -> None:
    if found.window is None or found.buid is None:
        raise Unsupported(
            f"the PHB of {found.address} has no default window: somebody has taken it",
            next_step="who has a VFIO container open there? A reboot brings the window back",
        )
    _, start, size = found.window
    if (start, size) != (phb.window_start, phb.window_size):
        raise Unsupported(
            f"the window of {found.address} has {size:#x} bytes from {start:#x} on, topology {topology.name} says"
            f" {phb.window_size:#x} from {phb.window_start:#x} on",
            next_step="take a topology with such a window (--topology), or a program with a topology of its own",
        )


def _expect_groups(placed: Sequence[Placed]) -> None:
    """Devices of one PHB are in one group, those of two are not."""
    groups: dict[int, set[int | None]] = {}
    for each in placed:
        groups.setdefault(each.phb.index, set()).add(each.found.group)
    seen = [group for each in groups.values() for group in each]
    if any(len(each) > 1 for each in groups.values()) or len(set(seen)) < len(seen):
        told = ", ".join(f"{each.device.name} in {each.found.group}" for each in placed)
        raise Unsupported(
            f"the devices are not grouped as the topology says, one IOMMU group for each PHB: {told}",
            next_step="name devices of such groups with --device",
        )
