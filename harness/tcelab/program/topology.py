"""The PHBs of the machine, each one partitionable endpoint (PE), and their devices.

PHB 0 always belongs to tcelab: it has the agent's channel, in a PE of its own, so that results get out whatever happens
to a PE under test. The last PHB belongs to tcelab as well: a spare PE with which it tries a guest. Programs see those
between.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from tcelab.errors import UsageError, meant
from tcelab.papr import window

CHANNEL_PHB: Final = 0
SMALL_WINDOW: Final = 16 << 20
"""Bytes of the windows on PHBs that are not under test: fewer entries to clear at boot and to read at checkpoints."""

PROBE: Final = "probe"
"""Name of the topology with probes."""
RACES: Final = ("races", "races-smp")
"""Names of those that are raced as well, with one CPU and with two."""
PROBES: Final = 2
"""Probes on a PHB that has any."""

CRASHKERNEL: Final = 192
"""MiB in which a crash kernel runs, with its initrd and the agent."""

CHANNEL_SLOT: Final = 31
SPARE_PHB: Final = 30
"""The last one whose MMIO windows QEMU places (hw/ppc/spapr.c, spapr_phb_placement)."""


_SLOTS: Final = 32
_CPUS: Final = 8
_BITS: Final = 64
_FOUR_GIB: Final = 1 << 32
_NARROW: Final = (1 << 28) - 1
"""An edu's default mask in QEMU (hw/misc/edu.c, dma_mask): 28 bits, which is more than a small window."""
EDUS: Final = frozenset({"edu", "probe"})
"""Models that their driver in the guest drives as an edu."""
KERNEL_DRIVERS: Final = {"disk": "virtio_blk", "e1000": "e1000"}
"""Models that no program drives, and the kernel module that drives each."""

VERSIONED: Final = re.compile(r"pseries-\d+\.\d+")
"""A machine type that stays the same from one version of QEMU to the next (hw/ppc/spapr.c, DEFINE_SPAPR_MACHINE)."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}")
_TAKEN: Final = ("ram", "qmp", "qtest", "console", "agent", "agent-port", "channel", "dma-api", "dma-api-port")
"""Names that mean something else on QEMU's command line."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device under test, called `name` by programs.

    :ivar model: programs drive an edu or a virtio-blk; a disk (virtio-blk as well) or an e1000 is for the kernel's own
        driver, see `KERNEL_DRIVERS`; a testdev (iommu-testdev) is for programs that use the DMA API; a probe is an edu
        to its driver, and a process on the host: QEMU's `vfio-user-pci`.
    :ivar mask: an edu ANDs its bus addresses with it.
    :ivar plugged: it is there when the machine starts; otherwise a `deviceadd` plugs it in.
    """

    name: str
    slot: int
    model: Literal["edu", "virtio-blk", "disk", "e1000", "testdev", "probe"] = "edu"
    mask: int = (1 << _BITS) - 1
    plugged: bool = True


class Phb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A PCI host bridge: one IOMMU group, one PE. Its default window starts at bus address `window_start` and has
    `window_size` bytes, a power of two.

    :ivar plugged: it is there when the machine starts; otherwise a `bridgeadd` plugs it in, with its devices.
    :ivar page_shifts: log2 of the page sizes that firmware offers for windows; by default all that QEMU has.
    """

    index: int
    devices: tuple[Device, ...] = ()
    window_size: int = window.DEFAULT_WINDOW_SIZE
    window_start: int = 0
    plugged: bool = True
    page_shifts: tuple[int, ...] = tuple(window.SHIFTS)

    @property
    def restricted(self) -> bool:
        """Firmware offers fewer page sizes than QEMU has."""
        return len(self.page_shifts) < len(window.SHIFTS)

    @property
    def liobn(self) -> int:
        return window.liobn(self.index)

    @property
    def entries(self) -> int:
        """Number of entries of the default window."""
        return self.window_size >> window.PAGE_SHIFT

    @property
    def window_end(self) -> int:
        """Bus address of the first byte after the default window."""
        return self.window_start + self.window_size


NESTED_RAM: Final = 256 << 20
"""Bytes of RAM of a guest inside a guest."""

SPARE: Final = Phb(SPARE_PHB, (Device("spare", slot=SPARE_PHB),), SMALL_WINDOW)
"""A PE that every machine has: tcelab tries a guest with it before it touches those under test."""


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The PHBs under test. The channel's and the spare one are not listed: every machine has them.

    :ivar cpus: number of the guest's CPUs.
    :ivar maxmem: MiB that the guest's RAM may grow to, `slots`: in how many pieces; 0: it does not grow.
    :ivar direct: the kernel's own drivers may have windows of 64 bits, in which the kernel maps all RAM.
    :ivar crashkernel: MiB that the kernel keeps free for a crash kernel; 0: none.
    :ivar nested: the device is passed through to a guest inside the guest, see `tcelab.passthrough`.
    :ivar raced: at each map and unmap of a PE that has probes, these reach for its pages between any two hypercalls.
    :ivar machine_type: a versioned one, as `pseries-10.0`, for a `load` into another QEMU; empty: QEMU's newest.
    """

    name: str
    phbs: tuple[Phb, ...]
    cpus: int = 1
    maxmem: int = 0
    slots: int = 0
    crashkernel: int = 0
    direct: bool = False
    machine_type: str = ""
    nested: bool = False
    raced: bool = False

    def __post_init__(self) -> None:
        indexes = [phb.index for phb in self.phbs]
        names = [device.name for phb in self.machine for device in phb.devices]
        own = [index for index in indexes if index != SPARE_PHB or SPARE not in self.phbs]
        if len(set(indexes)) != len(indexes) or not all(CHANNEL_PHB < index < SPARE_PHB for index in own):
            raise ValueError(f"PHB indexes must be distinct and within 1..{SPARE_PHB - 1}: {indexes}")
        if not 1 <= self.cpus <= _CPUS:
            raise ValueError(f"a guest has 1..{_CPUS} CPUs, not {self.cpus}")
        if bool(self.maxmem) != bool(self.slots) or min(self.maxmem, self.slots, self.crashkernel) < 0:
            raise ValueError(f"maxmem and slots come together: {self.maxmem} MiB in {self.slots} slots")
        if self.direct and "virtio-blk" in self.models:
            raise ValueError("a virtio-blk that programs drive has its kernel keep to default windows: not direct")
        if self.raced and PROBE not in self.models:
            raise ValueError("only probes race: a topology that is raced has some")
        if self.machine_type and not VERSIONED.fullmatch(self.machine_type):
            raise ValueError(f"not a versioned machine type, as pseries-10.0: {self.machine_type!r}")
        if len(set(names)) != len(names):
            raise ValueError(f"device names must be distinct: {names}")
        for name in names:
            if not _NAME.fullmatch(name) or name in _TAKEN:
                raise ValueError(f"not a name for a device: {name!r}")
        _check_slots(self.machine)
        for phb in self.phbs:
            _check_window(phb)
            _check_probes(phb)

    @property
    def machine(self) -> tuple[Phb, ...]:
        """Every PHB of the machine, the channel's first, the spare one last."""
        return (Phb(CHANNEL_PHB, window_size=SMALL_WINDOW), *self.added)

    @property
    def added(self) -> tuple[Phb, ...]:
        """The PHBs that QEMU is told to make besides the channel's."""
        return (*(phb for phb in self.phbs if phb != SPARE), SPARE)

    @property
    def at_start(self) -> Topology:
        """What of it is plugged in when the machine starts."""
        there = (phb for phb in self.phbs if phb.plugged)
        phbs = tuple(
            msgspec.structs.replace(phb, devices=tuple(each for each in phb.devices if each.plugged)) for phb in there
        )
        return msgspec.structs.replace(self, phbs=phbs)

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(device for phb in self.phbs for device in phb.devices)

    @property
    def models(self) -> set[str]:
        """Models of the devices under test."""
        return {device.model for device in self.devices}

    @property
    def mapped(self) -> tuple[Phb, ...]:
        """PHBs with a window in which the kernel maps all RAM: a disk's driver asks for addresses of 64 bits."""
        return tuple(phb for phb in self.phbs if self.direct and any(device.model == "disk" for device in phb.devices))

    @property
    def wide(self) -> bool:
        """The kernel may make windows of 64 bits for its own drivers. For a virtio-blk that programs drive it may not,
        nor where nobody asks for it.
        """
        ours = self.models & {*KERNEL_DRIVERS, "testdev"}
        return "virtio-blk" not in self.models and (self.direct or not ours)

    @property
    def driven(self) -> tuple[Device, ...]:
        """Devices that the kernel's own drivers drive."""
        return tuple(device for device in self.devices if device.model in KERNEL_DRIVERS)


def _check_slots(phbs: tuple[Phb, ...]) -> None:
    """Slots differ, since QEMU's log names a device by its slot, not its PHB (hw/pci/trace-events, pci_cfg_write)."""
    owners = {CHANNEL_SLOT: "channel"}
    for device in (device for phb in phbs for device in phb.devices):
        if not 0 <= device.slot < _SLOTS:
            raise ValueError(f"device {device.name!r} has slot {device.slot}: slots are within 0..{_SLOTS - 1}")
        other = owners.setdefault(device.slot, device.name)
        if other != device.name:
            raise ValueError(
                f"devices {other!r} and {device.name!r} both have slot {device.slot}: slots must be distinct over all"
                f" PHBs, the spare PE's device has {SPARE_PHB} and the agent's channel {CHANNEL_SLOT}"
            )
        if not 0 <= device.mask < 1 << _BITS or (device.model != "edu" and device.mask != Device("", 0).mask):
            raise ValueError(f"device {device.name!r} cannot have the mask {device.mask:#x}")


def _check_window(phb: Phb) -> None:
    if not phb.page_shifts or len({*phb.page_shifts} & window.SHIFTS.keys()) < len(phb.page_shifts):
        there = ", ".join(map(str, sorted(window.SHIFTS)))
        raise ValueError(f"page_shifts of PHB {phb.index} are some of {there}, each once: {phb.page_shifts}")
    if phb.window_size < window.PAGE_SIZE or phb.window_size & (phb.window_size - 1):
        raise ValueError(f"window_size of PHB {phb.index} must be a power of two: {phb.window_size:#x}")
    # The kernel keeps the start of its default window in 32 bits (struct iommu_table_group, tce32_start).
    if phb.window_start % phb.window_size or not 0 <= phb.window_start < _FOUR_GIB:
        raise ValueError(
            f"window_start of PHB {phb.index} must be a multiple of its window_size below 4 GiB: {phb.window_start:#x}"
        )


def _check_probes(phb: Phb) -> None:
    """QEMU 11.1 bears two vfio-user devices on a PHB, and not every other number (hw/ppc/spapr_pci_vfio.c). At boot,
    each entry of the window is a message to each.
    """
    probes = [device for device in phb.devices if device.model == "probe"]
    if not probes:
        return
    if probes != list(phb.devices) or len(probes) != PROBES or not all(each.plugged for each in probes):
        raise ValueError(f"PHB {phb.index}: a PHB with a probe has {PROBES} of them from the start, and nothing else")
    if phb.window_size > SMALL_WINDOW:
        raise ValueError(f"window_size of PHB {phb.index}, which has probes, is at most {SMALL_WINDOW:#x}")


def _pes(
    name: str, count: int, window_size: int = window.DEFAULT_WINDOW_SIZE, cpus: int = 1, crashkernel: int = 0
) -> Topology:
    """`count` PHBs, each with one edu; slots differ so that a log line can name the device."""
    phbs = tuple(Phb(i, (Device(f"pe{i}", slot=i),), window_size) for i in range(1, count + 1))
    return Topology(name, phbs, cpus, crashkernel=crashkernel)


def _unlike(name: str, first: Phb) -> Topology:
    """A special PE, and an ordinary one beside it."""
    return Topology(name, (first, Phb(2, (Device("pe2", slot=2),), SMALL_WINDOW)))


def _dma_api(name: str, *, direct: bool) -> Topology:
    """A PE with both devices that the driver of the DMA API knows, one with an edu, and one that nobody touches."""
    first = Phb(1, (Device("pe1", slot=1), Device("test1", slot=3, model="testdev")), SMALL_WINDOW)
    others = (Phb(2, (Device("pe2", slot=2),), SMALL_WINDOW), Phb(3, (Device("pe3", slot=4),), SMALL_WINDOW))
    return Topology(name, (first, *others), direct=direct)


_PROBES: Final = {"pe1": 1, "pe1b": 3}
_PROBED: Final = 8 << 20
"""Bytes of their window: at boot, each of its entries is a message to each, and every scenario has room in it."""


def _probes(name: str) -> Topology:
    return _unlike(name, Phb(1, tuple(Device(each, slot, "probe") for each, slot in _PROBES.items()), _PROBED))


def _raced() -> tuple[Topology, ...]:
    """The same, raced, with one CPU and with two."""
    return tuple(msgspec.structs.replace(_probes(name), cpus=cpus, raced=True) for cpus, name in enumerate(RACES, 1))


def _pages() -> Topology:
    """PEs whose firmware offers smaller pages, so that a window of all RAM has many entries."""
    first = Phb(1, (Device("pe1", slot=1), Device("test1", slot=3, model="testdev")), SMALL_WINDOW, page_shifts=(12,))
    second = Phb(2, (Device("pe2", slot=2),), SMALL_WINDOW, page_shifts=(12, 16))
    third = Phb(3, (Device("pe3", slot=4),), SMALL_WINDOW, page_shifts=(12, 16, 21))
    return Topology("direct-pages", (first, second, third), direct=True)


TOPOLOGIES: Final = {
    topology.name: topology
    for topology in (
        _pes("one-pe", 1),
        _pes("two-pe", 2),
        _pes("three-pe", 3),
        # The same two with a fast device: a window of 1 GiB has too many places for an edu alone.
        Topology(
            "two-pe-disk",
            (
                Phb(1, (Device("pe1", slot=1),)),
                Phb(2, (Device("pe2", slot=2), Device("disk2", slot=3, model="virtio-blk"))),
            ),
        ),
        # Windows of 16 MiB: a container of 1 GiB takes 0.3 s to release.
        _pes("two-small", 2, SMALL_WINDOW),
        _pes("two-small-smp", 2, SMALL_WINDOW, cpus=2),
        _pes("four-cpus", 2, SMALL_WINDOW, cpus=4),
        # From 1 GiB on, the kernel's allocator has a pool for each of several CPUs (kernel/iommu.c, iommu_init_table).
        _pes("four-cpus-pools", 2, cpus=4),
        _pes("two-small-kdump", 2, SMALL_WINDOW, crashkernel=CRASHKERNEL),
        # A DMA master on the host, with a view of its own; and an edu, whose PE is left as it is elsewhere.
        _probes(PROBE),
        *_raced(),
        Topology("pair", (Phb(1, (Device("pe1", slot=1), Device("pe1b", slot=2)), SMALL_WINDOW),)),
        _pes("four-pe", 4, SMALL_WINDOW),
        # A machine that other versions of QEMU have as well.
        Topology("versioned", _pes("", 2, SMALL_WINDOW).phbs, machine_type="pseries-10.0"),
        _unlike("fast", Phb(1, (Device("pe1", slot=1), Device("disk1", slot=3, model="virtio-blk")), SMALL_WINDOW)),
        _unlike("high-window", Phb(1, (Device("pe1", slot=1),), SMALL_WINDOW, window_start=0x40000000)),
        # To be plugged in: a device beside one that is there, and a whole PHB. The second PE is left alone.
        Topology(
            "hotplug",
            (
                Phb(1, (Device("pe1", slot=1), Device("hot1", slot=5, plugged=False)), SMALL_WINDOW),
                Phb(2, (Device("pe2", slot=2),), SMALL_WINDOW),
                Phb(3, (Device("pe3", slot=3),), SMALL_WINDOW, plugged=False),
            ),
        ),
        Topology(
            "memory",
            (
                Phb(1, (Device("pe1", slot=1),), SMALL_WINDOW),
                Phb(2, (Device("disk2", slot=3, model="disk"),), SMALL_WINDOW),
            ),
            maxmem=4096,
            slots=4,
            direct=True,
        ),
        _dma_api("dma-api", direct=True),
        _dma_api("dma-api-default", direct=False),
        _pages(),
        _unlike("narrow-mask", Phb(1, (Device("pe1", slot=1, mask=_NARROW),), SMALL_WINDOW)),
    )
}


DRIVERS: Final = Topology(
    "drivers",
    (
        Phb(1, (Device("disk1", slot=1, model="disk"),)),
        Phb(2, (Device("net1", slot=2, model="e1000"),)),
        Phb(3, (Device("pe3", slot=3),), SMALL_WINDOW),
    ),
)
"""A machine for the kernel's own drivers, each device in a PE of its own, and an edu that a command may use through
VFIO. It is not in `TOPOLOGIES`: no program can drive those devices.
"""


PASSTHROUGH: Final = Topology("passthrough", (Phb(1, (Device("pe1", slot=1),), SMALL_WINDOW),), nested=True)
"""The machine of `--passthrough`. Small: an outer container sweeps its window whenever the inner one is made anew. It
is not in `TOPOLOGIES`: few commands have such a guest.
"""


def topology(name: str) -> Topology:
    """A topology by its name.

    :raise UsageError: no topology of that name.
    """
    try:
        return TOPOLOGIES[name]
    except KeyError:
        there = f"no topology {name!r}; there are: {', '.join(TOPOLOGIES)}"
        raise UsageError(there, next_step=meant(name, TOPOLOGIES)) from None
