"""What QEMU's command line, or `device_add`, says of PHBs and of their devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from tcelab.program.topology import SPARE, Device, Phb
from tcelab.qemu import probes


class Behind(Protocol):
    """File descriptors that QEMU inherits, by device: `machine.Descriptors`."""

    @property
    def roms(self) -> dict[str, int]: ...

    @property
    def disks(self) -> dict[str, int]: ...

    @property
    def probes(self) -> dict[str, int]: ...


def host_bridge(phb: Phb) -> str:
    out = f"spapr-pci-host-bridge,index={phb.index},id=phb{phb.index},dma_win_size={phb.window_size:#x},ddw=on"
    if phb.restricted:
        out += f",pgsz={sum(1 << shift for shift in phb.page_shifts):#x}"
    if phb.window_start:
        out += f",dma_win_addr={phb.window_start:#x}"
    if has_disk(phb.devices):
        # The BAR that has a virtio device's registers would lie in the 64-bit window, where no ROM can be.
        out += ",mem64_win_size=0"
    return out


def plugging(phb: Phb, device: Device | None, fds: Behind) -> dict[str, object]:
    """The arguments of `device_add` for a PHB, or for one of its devices, as it would be on the command line. What is
    behind a device is there from the machine's start.
    """
    driver, *properties = (host_bridge(phb) if device is None else options(phb, device, fds)[-1]).split(",")
    return {"driver": driver} | {
        name: typed(name, text) for name, _, text in (each.partition("=") for each in properties)
    }


_TEXTS: Final = {"id", "bus", "addr", "romfile", "drive", "netdev"}
"""Properties that are texts, whatever they look like; of the others QEMU wants numbers and truth values as such."""


def typed(name: str, text: str) -> str | int | bool:
    if name in _TEXTS:
        return text
    return text == "on" if text in {"on", "off"} else int(text, 0)


def _at(phb: Phb, device: Device) -> str:
    return f"id={device.name},bus=phb{phb.index}.0,addr={device.slot:#x}"


def edu(phb: Phb, device: Device) -> str:
    """Without an option ROM."""
    return f"edu,{_at(phb, device)},dma_mask={device.mask:#x}"


def options(phb: Phb, device: Device, fds: Behind) -> list[str]:
    at = _at(phb, device)
    if device.model == "e1000":
        # Nothing listens, and nothing gets out: only the guest's own gateway answers.
        net = f"net-{phb.index}-{device.slot}"
        user = f"user,id={net},restrict=on,ipv6=off"
        return ["-netdev", user, "-device", f"e1000,{at},netdev={net},romfile="]
    rom = "" if phb == SPARE else f",romfile=/proc/self/fd/{fds.roms.get(device.model, 0)}"
    if device.model == "probe":
        return probes.option(device, f"phb{phb.index}.0", fds.probes.get(device.name, 0), fds.roms.get(device.model, 0))
    if device.model == "testdev":
        return ["-device", f"iommu-testdev,{at}"]
    if device.model == "edu":
        return ["-device", f"{edu(phb, device)}{rom}"]
    node = f"disk-{phb.index}-{device.slot}"
    file = f"/proc/self/fd/{fds.disks.get(device.name, 0)}"
    # Without ioeventfd a doorbell is answered before the guest goes on.
    plain = f"drive={node},iommu_platform=on,disable-legacy=on,num-queues=1,ioeventfd=off"
    if device.model == "disk":
        rom = ",romfile="
    return [
        *("-blockdev", f"driver=file,node-name={node},filename={file},locking=off"),
        *("-device", f"virtio-blk-pci,{at},{plain}{rom}"),
    ]


def has_disk(devices: Iterable[Device]) -> bool:
    """A disk that a program drives."""
    return any(device.model == "virtio-blk" for device in devices)
