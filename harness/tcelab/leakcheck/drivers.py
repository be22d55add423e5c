"""What is typed at a guest's shell so that the kernel's own drivers drive their devices, and let go of them again.

A device is found by its slot, which it has alone of all PHBs.
"""

from __future__ import annotations

from typing import Final

from tcelab.topology import KERNEL_DRIVERS, Device

SETTLE: Final = "sync; echo 3 >/proc/sys/vm/drop_caches"
"""Dirty pages are written, and pages that a driver has mapped only for the cache are let go of. The kernel itself puts
nothing off: on pseries an unmap reaches the table before it returns (arch/powerpc/kernel/iommu.c, __iommu_free)."""

GATEWAY: Final = "10.0.2.2"
"""What answers a guest behind QEMU's own network (-netdev user)."""

_FOLDER: Final = "/lib/modules-tcelab"
_TURNS: Final = 100
"""Of a tenth of a second, for a driver to bring its device up."""

_DRIVER: Final = {"disk": "/sys/bus/virtio/drivers/virtio_blk", "e1000": "/sys/bus/pci/drivers/e1000"}


def bind(device: Device) -> str:
    """Load the driver, unless the kernel has it built in, and have the device work: rings that live as long as the
    driver, or as long as an interface is up, are there once it ends well.
    """
    module = KERNEL_DRIVERS[device.model]
    lines = [
        f"[ -e {_DRIVER[device.model]} ] || insmod {_FOLDER}/{module}.ko || exit 1",
        f"d=$(echo {_place(device)})",
    ]
    if device.model == "disk":
        # Once its partitions have been looked for, it is there.
        lines += [_wait("ls $d/virtio*/block/* >/dev/null 2>&1", f"{module} makes no disk of {device.name}")]
        lines += ["n=$(ls $d/virtio*/block)", _wait("[ -b /dev/$n ]", f"there is no /dev/$n for {device.name}")]
        return "\n".join(lines)
    lines += [_wait("ls $d/net/* >/dev/null 2>&1", f"{module} makes no interface of {device.name}")]
    # An interface that says nothing of its own accord: what is counted then is what the command asked for.
    quiet = "/proc/sys/net/ipv6/conf/$n/disable_ipv6"
    lines += ["n=$(ls $d/net)", f"[ ! -e {quiet} ] || echo 1 >{quiet}"]
    lines += [f"ifconfig $n 10.0.2.{14 + device.slot} netmask 255.255.255.0 up || exit 1"]
    lines += [_wait('[ "$(cat $d/net/$n/carrier)" = 1 ]', f"$n of {device.name} has no link")]
    # Its receive ring begins one buffer short, and is full after the first packet (drivers/net/ethernet/intel/e1000,
    # E1000_DESC_UNUSED; a buffer of which a short packet was copied stays where it is).
    lines += [f"ping -c 1 -W 10 {GATEWAY} >/dev/null || {{ echo $n of {device.name} gets no answer; exit 1; }}"]
    return "\n".join(lines)


def unbind(device: Device) -> str:
    """Take the device away from its driver, whichever it has."""
    lines = [
        f"d=$(echo {_place(device)})",
        "[ ! -e $d/driver ] || echo ${d##*/} >$d/driver/unbind",
        "[ ! -e $d/driver ]",
    ]
    return "\n".join(lines)


def _place(device: Device) -> str:
    return f"/sys/bus/pci/devices/*:00:{device.slot:02x}.0"


def _wait(until: str, why: str) -> str:
    return f'i=0; until {until}; do i=$((i+1)); [ $i -lt {_TURNS} ] || {{ echo "{why}"; exit 1; }}; sleep 0.1; done'
