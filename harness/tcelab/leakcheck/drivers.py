"""The commands typed at a guest's shell to bind the kernel's own drivers to their devices, and to unbind them.

A device is found by its slot, which is unique among all PHBs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tcelab.leakcheck import dmaapi
from tcelab.leakcheck.dmaapi import PORT
from tcelab.papr import hcallnumbers
from tcelab.program.topology import KERNEL_DRIVERS, Device

SETTLE: Final = "sync; echo 3 >/proc/sys/vm/drop_caches"
"""Write dirty pages, and drop pages that are mapped only for the cache. The kernel defers no unmap: on pseries it
reaches the table before it returns (arch/powerpc/kernel/iommu.c, __iommu_free).
"""

GATEWAY: Final = "10.0.2.2"
"""The address that answers a guest on QEMU's own network (-netdev user)."""

RAW_UNTOLD: Final = "hypercalls of programs are not told"

_TRACING: Final = "/sys/kernel/tracing"
_OWN: Final = "instances/tcelab"
_BUFFER: Final = 8192
"""KiB of trace buffer for events that the host has not read yet."""

_FOLDER: Final = "/lib/modules-tcelab"
LARGEST: Final = 4 << 20
"""Bytes of the largest request: two lists of 512 entries where its memory is in one piece."""

_REQUESTS: Final = 4
_PINGS: Final = (56, 1400, 8000)
"""Bytes; the last one is several packets."""

_TURNS: Final = 100
"""Tenths of a second for a driver to bring up its device."""

_DRIVER: Final = {"disk": "/sys/bus/virtio/drivers/virtio_blk", "e1000": "/sys/bus/pci/drivers/e1000"}


def listen() -> str:
    """Trace the drivers' requests to the DMA API, and the hypercalls that programs make themselves, in a trace instance
    of tcelab's own that is sent to the host. The last line is `RAW_UNTOLD` if the hypercalls cannot be traced.
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
            # QEMU's trace does not contain a list that is too long.
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
    """Put a mark into that trace: all earlier requests precede it."""
    return f"echo {text} >{_TRACING}/{_OWN}/trace_marker"


def bind(device: Device) -> str:
    """Load the driver, unless it is built in, and start the device: once this succeeds, the rings that live as long as
    the driver or the interface exist. A driver that is already bound is bound again, so that all its requests are
    traced.
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
        # It is ready once its partitions have been scanned.
        lines += [_wait("ls $d/virtio*/block/* >/dev/null 2>&1", f"{module} makes no disk of {device.name}")]
        lines += ["n=$(ls $d/virtio*/block)", _wait("[ -b /dev/$n ]", f"there is no /dev/$n for {device.name}")]
        return "\n".join(lines)
    lines += [_wait("ls $d/net/* >/dev/null 2>&1", f"{module} makes no interface of {device.name}")]
    # An interface that sends nothing by itself, so that only the command's requests are counted.
    quiet = "/proc/sys/net/ipv6/conf/$n/disable_ipv6"
    lines += ["n=$(ls $d/net)", f"[ ! -e {quiet} ] || echo 1 >{quiet}"]
    lines += [f"ifconfig $n 10.0.2.{14 + device.slot} netmask 255.255.255.0 up || exit 1"]
    lines += [_wait('[ "$(cat $d/net/$n/carrier)" = 1 ]', f"$n of {device.name} has no link")]
    # Its receive ring begins one buffer short, and is full after the first packet (drivers/net/ethernet/intel/e1000,
    # E1000_DESC_UNUSED; a buffer of which a short packet was copied stays where it is).
    lines += [f"ping -c 1 -W 10 {GATEWAY} >/dev/null || {{ echo $n of {device.name} gets no answer; exit 1; }}"]
    return "\n".join(lines)


def exercise(devices: Iterable[Device]) -> str:
    """The commands that load each device, both ways, in transfers of all sizes up to 4 MiB: a disk without the cache,
    which splits requests; from and to memory in huge pages, where the kernel has them, because a list maps one
    contiguous piece.
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
    """Unbind the device from its driver, if it has one."""
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
