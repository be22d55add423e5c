"""What is typed at a guest's shell so that the kernel's own drivers drive their devices, and let go of them again.

A device is found by its slot, which it has alone of all PHBs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tcelab.leakcheck import dmaapi
from tcelab.leakcheck.dmaapi import PORT
from tcelab.papr import hcallnumbers
from tcelab.program.topology import KERNEL_DRIVERS, Device

SETTLE: Final = "sync; echo 3 >/proc/sys/vm/drop_caches"
"""Dirty pages are written, and pages that a driver has mapped only for the cache are let go of. The kernel itself puts
nothing off: on pseries an unmap reaches the table before it returns (arch/powerpc/kernel/iommu.c, __iommu_free)."""

GATEWAY: Final = "10.0.2.2"
"""What answers a guest behind QEMU's own network (-netdev user)."""

RAW_UNTOLD: Final = "hypercalls of programs are not told"

_TRACING: Final = "/sys/kernel/tracing"
_OWN: Final = "instances/tcelab"
_BUFFER: Final = 8192
"""KiB for what the host has not been given yet."""

_FOLDER: Final = "/lib/modules-tcelab"
LARGEST: Final = 4 << 20
"""Bytes of the largest request: two lists of 512 entries where its memory is in one piece."""

_REQUESTS: Final = 4
_PINGS: Final = (56, 1400, 8000)
"""Bytes; the last one is several packets."""

_TURNS: Final = 100
"""Of a tenth of a second, for a driver to bring its device up."""

_DRIVER: Final = {"disk": "/sys/bus/virtio/drivers/virtio_blk", "e1000": "/sys/bus/pci/drivers/e1000"}


def listen() -> str:
    """Have the kernel tell what drivers ask of its DMA API, and which hypercalls programs make of their own, in a trace
    that is tcelab's alone, and send it to the host. The last line is `RAW_UNTOLD` if the latter cannot be told.
    """
    refused = f"opcode == {hcallnumbers.H_PUT_TCE_INDIRECT} && retval != 0"
    return "\n".join(
        [
            f"t={_TRACING}; i=$t/{_OWN}; e=$i/events; p=",
            "[ -d $t/instances ] || mount -t tracefs tracefs $t 2>/dev/null",
            "mkdir $i 2>/dev/null || { echo it has no tracefs: CONFIG_FTRACE; exit 1; }",
            "[ -d $e/dma ] || { echo it has no events/dma: Linux 6.12, CONFIG_FTRACE; exit 1; }",
            f"echo {_BUFFER} >$i/buffer_size_kb",
            f"for n in {' '.join(dmaapi.EVENTS)}; do [ ! -d $e/dma/$n ] || echo 1 >$e/dma/$n/enable; done",
            # Of a list that is too long QEMU's trace tells nothing.
            "h=$e/powerpc/hcall_exit",
            f"[ ! -d $h ] || {{ echo '{refused}' >$h/filter; echo 1 >$h/enable; }}",
            "for n in /sys/class/virtio-ports/*; do",
            f'read -r m <$n/name; [ "$m" != {PORT} ] || p=/dev/${{n##*/}}; done',
            '[ -c "$p" ] || { echo it has no port for it: CONFIG_VIRTIO_CONSOLE; exit 1; }',
            "cat $i/trace_pipe </dev/null >$p 2>/dev/null &",
            "[ -c /dev/tce_hcall ] || exit 0",
            f"r='{dmaapi.raw_event()}'",
            f'{{ echo "$r" >>$t/kprobe_events; }} 2>/dev/null || {{ echo {RAW_UNTOLD}; exit 0; }}',
            f"echo 1 >$e/tcelab/{dmaapi.RAW}/enable",
        ]
    )


def mark(text: str) -> str:
    """Put a line into that trace: all that was asked before is told before it."""
    return f"echo {text} >{_TRACING}/{_OWN}/trace_marker"


def bind(device: Device) -> str:
    """Load the driver, unless the kernel has it built in, and have the device work: rings that live as long as the
    driver, or as long as an interface is up, are there once it ends well. A driver that has its device already takes it
    anew, so that all it asks for is heard.
    """
    module, driver = KERNEL_DRIVERS[device.model], _DRIVER[device.model]
    taken = "$d/virtio*" if device.model == "disk" else "$d"
    lines = [
        f"d=$(echo {_place(device)})",
        f"n=; for v in {taken}; do [ ! -e $v/driver ] || n=${{v##*/}}; done",
        f'[ -z "$n" ] || echo $n >{driver}/unbind || exit 1',
        f"[ -e {driver} ] || insmod {_FOLDER}/{module}.ko || exit 1",
        f'[ -z "$n" ] || echo $n >{driver}/bind || exit 1',
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


def exercise(devices: Iterable[Device]) -> str:
    """What drives each device hard, both ways, in transfers of all sizes up to 4 MiB: a disk without the cache, which
    asks in pieces of its own; from and to memory in large pieces, where the kernel has any, for a list maps one piece.
    """
    lines = ["t=/sys/kernel/mm/transparent_hugepage/enabled", "[ ! -w $t ] || echo always >$t"]
    for device in devices:
        lines += [f"d=$(echo {_place(device)})"]
        if device.model == "disk":
            lines += ["n=$(ls $d/virtio*/block)", f"echo {LARGEST >> 10} >/sys/block/$n/queue/max_sectors_kb || exit 1"]
            for size in (512, 4096, 65536, 1 << 20, LARGEST):
                both = f"bs={size} count={_REQUESTS}"
                lines += [f"dd if=/dev/zero of=/dev/$n {both} oflag=direct 2>&1 || exit 1"]
                lines += [f"dd if=/dev/$n of=/dev/null {both} iflag=direct 2>&1 || exit 1"]
        else:
            lines += [f"ping -c {_REQUESTS} -i 0.1 -s {size} {GATEWAY} || exit 1" for size in _PINGS]
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
