"""The machine: its command line, and the files that it is given.

Every connection to the harness is an inherited descriptor: nothing is left in the file system, nothing listens, and no
connect can race. Source of the options: QEMU docs/system/ppc/pseries.rst, qemu-options.hx.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from tcelab.coverage.cover import NOTHING, Cover
from tcelab.errors import Unsupported, UsageError
from tcelab.leakcheck.dmaapi import PORT as DMA_API
from tcelab.papr import window
from tcelab.program.diskcontent import SIZES as DISKS
from tcelab.program.topology import CHANNEL_PHB, CHANNEL_SLOT, SMALL_WINDOW, Topology
from tcelab.qemu import devicewords, nested
from tcelab.qemu.channel import PORT
from tcelab.qemu.probe import TRACES, Abilities, Qemu
from tcelab.qemu.ram import MIB
from tcelab.run.record import Guarding

Firmware = Literal["auto", "vof", "slof"]
CpuName = Literal["power8", "power9", "power9-hash", "power10", "power11"]

CPU: Final = "power9"
"""Where nobody says which."""

CPUS: Final[dict[CpuName, tuple[str, str]]] = {
    "power8": ("power8", ""),
    "power9": ("power9", ""),
    "power9-hash": ("power9", "disable_radix"),
    "power10": ("power10", ""),
    "power11": ("power11", ""),
}
"""A CPU to its model in QEMU (target/ppc/cpu-models.c) and what the kernel is told about it: one of POWER9 or later
takes the radix MMU unless it may not (arch/powerpc/mm/init_64.c), POWER8 has the hash MMU alone.
"""

NETWORK: Final = "ssh-net"
NETWORK_SLOT: Final = 29
MEMORY: Final = 512
"""MiB of guest RAM by default."""
GRANULE: Final = 256 * MIB
"""The RAM of a pseries machine comes in logical memory blocks of 256 MiB (include/hw/ppc/spapr.h)."""

_RESERVED: Final = 16 * MIB
"""Top of RAM that is hidden from the kernel and belongs to the host; QEMU puts the device tree there at start."""

SCRATCH: Final = _RESERVED // 2
"""Bytes below the top of RAM where the host's own RTAS calls keep their arguments: the tree is above."""

_TREE_LIMIT: Final = 2048 * MIB
"""QEMU puts the device tree below the top of RAM, but never above this (hw/ppc/spapr.c, FDT_MAX_ADDR)."""

QUIET: Final = "cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"
"""Capabilities that TCG does not have; asking for them only causes warnings."""

_CMDLINE: Final = (
    "console=hvc0 panic=-1 oops=panic softlockup_panic=1 hung_task_panic=1"
    " transparent_hugepage=never rcupdate.rcu_expedited=1 watchdog_thresh=20"
)
"""The guest's clock goes on while a busy host lets QEMU wait, so its watchdog has twice the usual time: lockups of 20 s
(hard) and 40 s (soft) are told, and still before the agent's silence of 60 s is.
"""

_DISK: Final = " disable_ddw pci=resource_alignment=16@pci:1af4:1042"
"""What a virtio-blk asks of the kernel. Its own virtio-pci would make a 64-bit window (virtio_pci_modern_dev.c asks for
a mask of 64 bits), and where that fails halfway, as on QEMU up to 10.0, VFIO gets no window any more. With pages of
64 KiB, VFIO maps the device's registers only if they have a page to themselves (vfio_pci_probe_mmaps).
"""
_DRIVEN: Final = " disable_ddw"
"""What the devices of the kernel's own drivers ask of it: with a 64-bit window that maps all RAM once and for ever, no
mapping would reach a table (arch/powerpc/platforms/pseries/iommu.c, enable_ddw).
"""


class QemuOptions(msgspec.Struct, frozen=True):
    """The machine that QEMU is started as: the user's choice, provisioned. These fields decide which base a fork may
    use.

    :ivar memory: MiB of guest RAM, a multiple of 256.
    :ivar cpu: one of `CPUS`.
    :ivar append: added to the kernel's command line.
    :ivar quirks: known defects that are declared for the kernel.
    :ivar network: it has a network card, beside the channel; see `_network`.
    :ivar order: of the devices on the command line: each behind its PHB, or all behind the last PHB and from the last
        device on. PHBs keep theirs: QEMU tells their state apart by it (hw/ppc/spapr_pci.c, vmstate_spapr_pci).
    :ivar others: QEMUs by name that the guest may be loaded into.
    :ivar restarts: it may boot again, so that a fork as well needs its kernel and its initrd.
    :ivar papr: what the guest asks of its platform is listened to. A base is made with it, so it makes no other base.
    :ivar cover: what is recorded of the code that it executes; it makes no other base.
    :ivar isolates: the platform is to isolate PEs; `guard`: what is done for it, see `tcelab.run.record.Facts`.
    """

    kernel: Path
    initrd: Path
    topology: Topology
    memory: int = MEMORY
    cpu: CpuName = CPU
    firmware: Firmware = "auto"
    append: str = ""
    quirks: frozenset[str] = frozenset()
    isolates: bool = False
    guard: Guarding = "off"
    network: bool = False
    restarts: bool = False
    order: Literal["same", "reversed"] = "same"
    others: dict[str, tuple[Qemu, Abilities]] = {}
    papr: bool = True
    cover: Cover = NOTHING


class Descriptors(msgspec.Struct, frozen=True):
    """Numbers of the descriptors that QEMU inherits.

    :ivar state: a file for device state that QEMU writes.
    :ivar roms: of ones, by the model of the device that they are for; see `tcelab.qemu.rom`.
    :ivar disks: by device; see `tcelab.qemu.disks`.
    :ivar dma_api: see `tcelab.qemu.dmaapilog`; None: the machine has no such port.
    :ivar base: the state that a fork begins with; None: a boot.
    :ivar stream: what a guest begins with that was saved, RAM and all; see `tcelab.qemu.transit`.
    :ivar dimms: for memory that is plugged in; see `tcelab.qemu.dimms`.
    :ivar coverage: see `tcelab.coverage.covermap`; None: nothing is recorded.
    :ivar probes: sockets by device; see `tcelab.qemu.probes`.
    :ivar inner_agent: of a guest that this guest runs; likewise `inner_console`.
    :ivar gdb: of QEMU's gdbstub; see `tcelab.qemu.gdb`.
    """

    qmp: int
    qtest: int
    console: int
    agent: int
    log: int
    ram: int
    state: int
    roms: dict[str, int] = {}
    disks: dict[str, int] = {}
    dma_api: int | None = None
    base: int | None = None
    stream: int | None = None
    dimms: tuple[int, ...] = ()
    coverage: int | None = None
    probes: dict[str, int] = {}
    inner_agent: int | None = None
    inner_console: int | None = None
    gdb: int | None = None

    def all(self) -> tuple[int, ...]:
        single = [number for number in msgspec.structs.astuple(self) if isinstance(number, int)]
        return (*single, *self.roms.values(), *self.disks.values(), *self.dimms, *self.probes.values())


def firmware(options: QemuOptions, abilities: Abilities) -> Literal["vof", "slof"]:
    """Which firmware: VOF where this QEMU has it, for it costs nothing; SLOF costs seconds.

    :raise Unsupported: VOF was asked for and is not there.
    """
    if options.firmware == "vof" and not abilities.vof:
        raise Unsupported(f"QEMU {abilities.version} has no VOF", next_step="use --firmware slof")
    if options.firmware == "auto":
        return "vof" if abilities.vof else "slof"
    return options.firmware


def check(abilities: Abilities, topology: Topology, cpu: CpuName = CPU) -> None:
    """:raise Unsupported: this QEMU lacks what the topology, the CPU or any verdict needs."""
    if CPUS[cpu][0] not in abilities.cpus:
        raise Unsupported(
            f"QEMU {abilities.version} has no CPU {CPUS[cpu][0]}",
            next_step=f"use --cpu {CPU}, or a newer QEMU: tcelab's own has them all, leave --qemu out",
        )
    if topology.devices and not abilities.edu:
        raise Unsupported(
            f"QEMU {abilities.version} has no edu device, so no device can do DMA",
            next_step="use a QEMU that was built with it (Debian's are), or tcelab's own: leave --qemu out",
        )
    if "testdev" in topology.models and not abilities.testdev:
        raise Unsupported(
            f"QEMU {abilities.version} has no iommu-testdev, and topology {topology.name} has one",
            next_step="use QEMU 11.1 or newer, or tcelab's own: leave --qemu out",
        )
    if "probe" in topology.models and not abilities.vfio_user:
        raise Unsupported(
            f"QEMU {abilities.version} has no vfio-user-pci, and topology {topology.name} has a probe",
            next_step="use QEMU 11.1 or newer, or tcelab's own: leave --qemu out",
        )
    if topology.models & DISKS.keys() and not abilities.virtio_blk:
        raise Unsupported(
            f"QEMU {abilities.version} has no virtio-blk-pci, and topology {topology.name} has one",
            next_step="use a QEMU that was built with it (Debian's are), or tcelab's own: leave --qemu out",
        )
    if topology.machine_type and topology.machine_type not in abilities.machines:
        raise Unsupported(
            f"QEMU {abilities.version} has no machine type {topology.machine_type}, as topology {topology.name} says",
            next_step="use a QEMU that is as new, or tcelab's own: leave --qemu out",
        )
    if topology.slots and not abilities.dimm:
        raise Unsupported(
            f"QEMU {abilities.version} has no pc-dimm, and topology {topology.name} has slots for memory",
            next_step="use a QEMU that was built with it (Debian's are), or tcelab's own: leave --qemu out",
        )
    if TRACES[0] not in abilities.traces and not abilities.device_state:
        raise Unsupported(f"QEMU {abilities.version} shows its tables neither by trace nor by device state")


def parent_death(abilities: Abilities) -> tuple[list[str], list[str]]:
    """What makes QEMU die with its parent: (a command before it, options of it)."""
    if abilities.exit_with_parent:
        return [], ["-run-with", "exit-with-parent=on"]
    return ["setpriv", "--pdeathsig", "KILL", "--"], []


def expect_forkable(options: QemuOptions, abilities: Abilities) -> None:
    """:raise Unsupported: a guest of this machine cannot be forked."""
    if "probe" in options.topology.models:
        raise Unsupported("QEMU saves nothing of a probe, and tells it nothing when a guest is loaded")
    if not abilities.private_ram:
        raise Unsupported(f"QEMU {abilities.version} cannot map a read-only RAM file copy-on-write")
    if options.topology.cpus > 1 and not abilities.all_cpus_go_on:
        raise Unsupported(f"QEMU {abilities.version} loads a guest with several CPUs, and only the first goes on")
    if options.memory * MIB > _TREE_LIMIT:
        # With more, the tree lies amidst RAM that the guest uses.
        raise Unsupported(f"with more than {_TREE_LIMIT // MIB} MiB, QEMU writes its device tree into the fork's RAM")


def arguments(options: QemuOptions, abilities: Abilities, fds: Descriptors) -> list[str]:
    """QEMU's arguments, without the program.

    A fork gets neither kernel nor initrd, unless it may boot again: they lie in its RAM, where QEMU leaves them
    (hw/core/loader.c, rom_reset, writes nothing while a state is awaited).
    """
    vof = (",x-vof=on" if firmware(options, abilities) == "vof" else "") + nested.capability(options.topology)
    ram = f"memory-backend-file,id=ram,size={options.memory}M,mem-path=/proc/self/fd/{fds.ram}"
    return [
        *("-M", f"{options.topology.machine_type or 'pseries'},{QUIET},ic-mode=xics,memory-backend=ram{vof}"),
        *(
            "-accel",
            "tcg",
            *nested.clock(options.topology),
            "-cpu",
            CPUS[options.cpu][0],
            "-smp",
            str(options.topology.cpus),
        ),
        *("-m", f"{options.memory}M{_room(options.topology)}"),
        *("-object", f"{ram},share=on" if fds.base is None else f"{ram},share=off,readonly=on,rom=off"),
        *("-nodefaults", "-display", "none", "-vga", "none", "-action", "panic=pause,reboot=shutdown"),
        *_sockets(fds, nested.sockets(options.topology)),
        # PHB 0 is made by the machine itself, so only a global reaches it; no dynamic window there, or the channel's
        # own driver would fill one.
        *("-global", f"spapr-pci-host-bridge.dma_win_size={SMALL_WINDOW:#x}"),
        *("-global", "spapr-pci-host-bridge.ddw=off"),
        *("-device", f"virtio-serial-pci,id=channel,bus=pci.{CHANNEL_PHB},addr={CHANNEL_SLOT:#x},romfile="),
        *("-device", f"virtserialport,bus=channel.0,chardev=agent,name={PORT},id=agent-port"),
        *(_network() if options.network else ()),
        *nested.ports(options.topology),
        *_phbs(options, fds),
        *(_boot(options) if fds.base is None or options.restarts else ()),
        *(() if fds.base is None and fds.stream is None else ("-S", "-incoming", "defer")),
        *(_driven(fds) if options.topology.driven and not options.topology.direct else ()),
        *_watching(abilities, fds.log),
    ]


def _room(topology: Topology) -> str:
    """To grow."""
    return f",slots={topology.slots},maxmem={topology.maxmem}M" if topology.slots else ""


def _driven(fds: Descriptors) -> tuple[str, ...]:
    """For the kernel's own drivers: the time of each hypercall, and a port for their DMA API trace."""
    port = f"virtserialport,bus=channel.0,chardev=dma-api,name={DMA_API},id=dma-api-port"
    # A guest that was loaded goes on with its trace.
    append = "" if fds.stream is None else ",append=on"
    file = f"file,id=dma-api,path=/proc/self/fd/{fds.dma_api or 0}{append}"
    return ("-msg", "timestamp=on", "-chardev", file, "-device", port)


def _network() -> tuple[str, ...]:
    """A card from which nothing gets out. A port of the host's loopback, which the host's kernel chooses, leads to the
    guest's sshd; the monitor tells which (`info usernet`).
    """
    user = f"user,id={NETWORK},restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"
    card = f"virtio-net-pci,id={NETWORK}-card,netdev={NETWORK},bus=pci.{CHANNEL_PHB},addr={NETWORK_SLOT:#x},romfile="
    return ("-netdev", user, "-device", card)


def _boot(options: QemuOptions) -> list[str]:
    return ["-kernel", str(options.kernel), "-initrd", str(options.initrd), "-append", command_line(options)]


def command_line(options: QemuOptions, *, crash: bool = False) -> str:
    """The kernel's; that of a crash kernel, which has one CPU, and the memory that its device tree tells."""
    usable = options.memory - _RESERVED // MIB
    disk = _DISK if devicewords.has_disk(options.topology.devices) else ""
    driven = "" if disk or options.topology.wide else _DRIVEN
    crashkernel = options.topology.crashkernel
    memory = f" mem={usable}M" + (f" crashkernel={crashkernel}M" if crashkernel else "")
    words = (f"{_CMDLINE}{' nr_cpus=1' if crash else memory}{disk}{driven}", CPUS[options.cpu][1], options.append)
    return " ".join(filter(None, words))


def _sockets(fds: Descriptors, sockets: Iterable[str]) -> list[str]:
    out = []
    for name in sockets:
        out += ["-chardev", f"socket,id={name},fd={getattr(fds, name)}"]
    return [*out, "-qmp", "chardev:qmp", "-serial", "chardev:console", "-qtest", "chardev:qtest", "-qtest-log", "none"]


def _phbs(options: QemuOptions, fds: Descriptors) -> list[str]:
    out: list[str] = []
    last: list[str] = []
    for phb in options.topology.added:
        if phb.plugged:
            out += ["-device", devicewords.host_bridge(phb)]
        for device in phb.devices:
            *backend, option, front = devicewords.options(phb, device, fds)
            told = [*backend, *((option, front) if phb.plugged and device.plugged else ())]
            out += told if options.order == "same" else ()
            last = [*told, *last]
    return out if options.order == "same" else out + last


def _watching(abilities: Abilities, log: int) -> list[str]:
    out = ["-D", f"/proc/self/fd/{log}"]
    if abilities.log_flags:
        out += ["-d", ",".join(abilities.log_flags)]
    for event in abilities.traces:
        out += ["-trace", event]
    return out


def default_windows(topology: Topology) -> dict[int, window.Shape]:
    """LIOBN of each default window of the machine, and its shape."""
    return {phb.liobn: window.Shape(phb.entries, start=phb.window_start) for phb in topology.machine}


def usable(ram: int) -> int:
    """Bytes of guest RAM that the kernel may use."""
    return ram - _RESERVED


def check_memory(memory: int) -> None:
    """:raise UsageError: not a size that a pseries machine can have."""
    if memory <= 0 or memory * MIB % GRANULE:
        raise UsageError(f"{memory} MiB of memory: a pseries machine takes multiples of 256 MiB from 256 on")


def loggable(prefix: Sequence[str], arguments_: Sequence[str]) -> str:
    """The command line as a person can read it in the log."""
    import shlex  # noqa: PLC0415 - once per boot

    return shlex.join([*prefix, *arguments_])
