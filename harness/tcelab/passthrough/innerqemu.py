"""The command line of L1's QEMU, and what of a topology it can bear.

It is started by L1's agent, which knows the files of the ports and the PCI address: `{NAME}` stands for them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.program.topology import CHANNEL_PHB, CHANNEL_SLOT, NESTED_RAM, SMALL_WINDOW, Phb, Topology
from tcelab.qemu import machine
from tcelab.qemu.channel import PORT
from tcelab.qemu.machine import QemuOptions
from tcelab.qemu.nested import PORTS

MEMORY: Final = NESTED_RAM >> 20
"""MiB of L2's RAM."""
OUTER_MEMORY: Final = 1024
"""MiB of L1's: its files are in RAM, and L2's RAM is locked in it."""

FOLDER: Final = "usr/lib/tcelab/inner"
KERNEL: Final = f"{FOLDER}/vmlinux"
INITRD: Final = f"{FOLDER}/initrd"
"""In L1."""

QEMU: Final = "/usr/bin/qemu-system-ppc64"
RAM: Final = "memfd:memory-backend-memfd"
"""What QEMU calls the mapping of such a backend (backends/hostmem-memfd.c)."""

LARGEST: Final = 512 << 20
"""Bytes of the largest window of L2 that an L1 with pages of 4 KiB makes in L0."""

_FINE: Final = 4096


def check(topology: Topology) -> None:
    """:raise UsageError: what L1's QEMU does not bear, or nobody has tried."""
    wrong = next(iter(_wrong(topology)), "")
    if wrong:
        raise UsageError(
            f"--passthrough: topology {topology.name} {wrong}", next_step="leave --topology out, or name one-small"
        )


def _wrong(topology: Topology) -> list[str]:
    devices = [device for phb in topology.phbs for device in phb.devices]
    tests = {
        "has not exactly one PHB with one device": len(topology.phbs) != 1 or len(devices) != 1,
        "has another device than an edu": topology.models != {"edu"},
        "has several CPUs": topology.cpus != 1,
        "has memory that grows": bool(topology.slots),
        "keeps memory for a crash kernel": bool(topology.crashkernel),
        "has a machine type of its own": bool(topology.machine_type),
        "has a device or a PHB that is to be plugged in": topology.at_start != topology,
        "has a window that does not start at bus address 0": any(phb.window_start for phb in topology.phbs),
        f"has a window of more than {LARGEST >> 20} MiB": any(phb.window_size > LARGEST for phb in topology.phbs),
    }
    return [what for what, bad in tests.items() if bad]


def inner_options(outer: QemuOptions) -> QemuOptions:
    """L2's machine, for what the host has to know of it."""
    plain = msgspec.structs.replace(outer.topology, nested=False)
    return msgspec.structs.replace(outer, memory=MEMORY, topology=plain)


def argv(outer: QemuOptions, page_size: int) -> list[str]:
    """The command of L1's QEMU.

    :param page_size: bytes of a CPU page of L1: one of 4 KiB backs no larger page of a hash table.
    """
    options = inner_options(outer)
    fine = f",cap-hpt-max-page-size={_FINE}" if page_size == _FINE else ""
    agent, console = PORTS.values()
    return [
        QEMU,
        *("-M", f"pseries,x-vof=on,{machine.QUIET},ic-mode=xics,memory-backend=ram{fine}"),
        *("-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", f"{MEMORY}M"),
        *("-object", f"memory-backend-memfd,id=ram,size={MEMORY}M"),
        *("-nodefaults", "-display", "none", "-vga", "none", "-action", "panic=pause,reboot=shutdown"),
        *("-chardev", f"pipe,id=console,path={{{console}}}", "-serial", "chardev:console"),
        *("-global", f"spapr-pci-host-bridge.dma_win_size={SMALL_WINDOW:#x}"),
        *("-global", "spapr-pci-host-bridge.ddw=off"),
        *("-device", f"virtio-serial-pci,id=channel,bus=pci.{CHANNEL_PHB},addr={CHANNEL_SLOT:#x},romfile="),
        *("-chardev", f"pipe,id=agent,path={{{agent}}}"),
        *("-device", f"virtserialport,bus=channel.0,chardev=agent,name={PORT},id=agent-port"),
        *(word for phb in options.topology.phbs for word in _phb(phb)),
        *("-kernel", f"/{KERNEL}", "-initrd", f"/{INITRD}", "-append", machine.command_line(options)),
    ]


def _phb(phb: Phb) -> list[str]:
    """As L0 has it, so that L2 knows PHB, LIOBN and device by the same numbers."""
    (device,) = phb.devices
    bridge = f"spapr-pci-host-bridge,index={phb.index},id=phb{phb.index},dma_win_size={phb.window_size:#x},ddw=on"
    passed = f"vfio-pci,host={{device}},bus=phb{phb.index}.0,addr={device.slot:#x},id={device.name}"
    return ["-device", bridge, "-device", passed]
