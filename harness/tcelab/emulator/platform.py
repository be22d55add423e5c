"""The emulated machine: PHBs with their tables and devices, RAM, a clock, and the kernel's log.

Source: QEMU hw/ppc/spapr_pci.c, spapr_iommu.c; kernel arch/powerpc/platforms/pseries/iommu.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NoReturn

from tceagent.huge import HUGE_PAGE
from tcelab.emulator.addressspaces import FRAMES, EmulatedRam, Space
from tcelab.emulator.dmastate import DmaApi
from tcelab.emulator.edudevice import Edu
from tcelab.emulator.emulatedguard import EmulatedGuard
from tcelab.emulator.growth import Growth
from tcelab.emulator.pci import PciDevice
from tcelab.emulator.probedevice import EmulatedProbe
from tcelab.emulator.process import OpenFile
from tcelab.emulator.syscallerrors import KernelDiedError, NotModelledError
from tcelab.emulator.testdevice import TestDevice
from tcelab.emulator.virtiodevice import VirtioBlk
from tcelab.papr import dmarules, kvmrules, window, windowcreation
from tcelab.papr.isolationrules import Condition, Isolation
from tcelab.papr.tcetable import Table
from tcelab.program import Ddw, Rtas
from tcelab.program.plugged import Plugged
from tcelab.program.topology import Device, Phb, Topology
from tcelab.run.record import Direction, Guarding, Outcome, QuirkHit, Refusal

_TURN: Final = attrgetter("turn")
_IN_RAM: Final = 256 << 20
"""Bytes of RAM in which frames lie where a program may have all RAM mapped: half of it."""
_HOLDS: Final = 1 << 25
"""Entries of a table: 256 MiB."""


class EmulatedPe:
    """A PHB and what hangs there: one table, one group, one PE.

    :ivar windows: as the platform has them.
    :ivar isolation: its condition.
    :ivar group_file: its open file, if it is open.
    :ivar bound: names of devices that vfio-pci drives.
    :ivar driven: names of those that the driver of the DMA API has; `keep`: what it has mapped outlives it.
    :ivar first: number of the window's first entry, counted from bus address 0 (it_offset).
    :ivar window_size: bytes, as its group says it. `has_group`, `has_table`: its table knows its group and its group
        its table, unless a defect breaks that.
    :ivar owned: VFIO owns it: the kernel has dropped the default window from its own view.
    :ivar kernel_uses: entries that the kernel's own DMA API has in use or keeps back, by number: the one of bus
        address 0 (iommu_init_table).
    :ivar refused_window: firmware did not make a window that the kernel asked it for (failed_ddw_pdn_list).
    :ivar scanned: its bus was scanned anew since its kernel booted.
    :ivar inherited: its 64-bit window was made by a container under a kernel before.
    :ivar behind: what a driver without bounds checks stored past the table's end.
    """

    def __init__(self, phb: Phb, machine: Machine) -> None:
        self.phb = phb
        self.isolation = Isolation()
        self._guard = machine.guard
        self.group = phb.index
        self.bus = f"{phb.index:04x}:00"
        low = Table(phb.liobn, phb.entries, bus_offset=phb.window_start)
        self.windows = windowcreation.Windows(low, phb.page_shifts)
        self.first = phb.window_start >> window.PAGE_SHIFT
        self.has_group = self.has_table = True
        self.window_size = phb.window_size
        self.group_file: OpenFile | None = None
        self.bound: set[str] = set()
        self.driven: set[str] = set()
        self.keep = False
        self.owned = False
        self.kernel_uses = set() if self.first else {0}
        self.refused_window = self.inherited = self.scanned = False
        self.behind: dict[int, int] = {}
        self.devices: dict[str, PciDevice] = {}

    def _made(self, device: Device, machine: Machine) -> PciDevice:
        made: PciDevice
        if device.model == "probe":
            made = EmulatedProbe(device.name, self.table, machine.ram, machine.refuse, isolation=self.isolation)
            made.freezes = machine.guard.mode == "freeze"
        elif device.model == "edu":
            made = Edu(device.name, self.table, machine.ram, machine.refuse, device.mask, isolation=self.isolation)
        elif device.model == "testdev":
            made = TestDevice(device.name, self.table, machine.ram, machine.refuse, self.isolation)
        else:
            made = VirtioBlk(device.name, self.table, machine.ram, machine.refuse, self.isolation)

        def on_bus(pieces: Sequence[dmarules.Piece], direction: Direction) -> None:
            machine.guard.transferred(self.phb.index, made, self.windows, pieces, direction)

        made.on_bus = on_bus
        made.real = lambda table, address: machine.dma.real(table, address)  # noqa: PLW0108 - of the kernel then
        return made

    def plug(self, devices: Sequence[Device], machine: Machine) -> None:
        """Have these devices and no others: those that come are as new."""
        names = [device.name for device in devices]
        self.bound.intersection_update(names)
        kept = {name: device for name, device in self.devices.items() if name in names}
        self.devices = kept | {each.name: self._made(each, machine) for each in devices if each.name not in kept}
        self.connect()

    @property
    def table(self) -> Table:
        """Of its default window, as the platform holds it."""
        return self.windows.low

    @property
    def window_start(self) -> int:
        """Bus address of the default window, as its kernel was told at boot."""
        return self.first << window.PAGE_SHIFT

    def renew(self) -> None:
        """As at the start: not isolated, and no device wants to master the bus."""
        self.isolation.condition, self.isolation.freezes, self.isolation.untold = Condition.NORMAL, 0, False
        for device in self.devices.values():
            device.renew()

    def end_kernel(self) -> None:
        """The kernel that drove it ends."""
        self.group_file = None
        self.bound.clear()
        self.driven.clear()
        self.owned = self.refused_window = self.scanned = False
        self.kernel_uses = set() if self.first else {0}
        self.behind.clear()
        for device in self.devices.values():
            device.renew()

    def mastered(self, device: PciDevice) -> None:
        """The driver of one of its devices has let it master the bus."""
        self._guard.mastered(self.phb.index, self.phb.liobn, device)

    def address_of(self, name: str) -> str:
        """The PCI address of a device."""
        slot = next(device.slot for device in self.phb.devices if device.name == name)
        return f"{self.bus}:{slot:02x}.0"

    def at(self, address: str) -> PciDevice | None:
        """The device that vfio-pci drives at a PCI address."""
        return next((self.devices[name] for name in self.bound if self.address_of(name) == address), None)

    def set_window(self, start: int, size: int) -> None:
        """A default window other than the topology's: bus address and bytes."""
        self.window_size = size
        self.first = start >> window.PAGE_SHIFT
        self.kernel_uses = set() if self.first else {0}
        low = Table(self.phb.liobn, size >> window.PAGE_SHIFT, bus_offset=start)
        self.windows = windowcreation.Windows(low, self.phb.page_shifts)
        self.connect()

    def connect(self) -> None:
        """Its devices meet its windows as they are now."""
        for device in self.devices.values():
            device.table, device.second = self.windows.tables

    def exchange(self, entry: int, new: int) -> int:
        """Put one entry, counted from bus address 0, and what it held before: H_GET_TCE and H_PUT_TCE.

        :raise IndexError: H_PARAMETER, the entry is past the end of the window.
        """
        number = entry - self.first
        old = self.table.get(number)
        self.table.put(number, new)
        return old

    def dma_window(self) -> bytes:
        """The device tree's `ibm,dma-window`: LIOBN, bus address (2 cells), size (2 cells), big endian."""
        start, size = (number.to_bytes(8, "big") for number in (self.window_start, self.window_size))
        return self.phb.liobn.to_bytes(4, "big") + start + size

    def create_window(self, page_shift: int, window_shift: int) -> windowcreation.WindowAnswer:
        """ibm,create-pe-dma-window."""
        if 1 << max(window_shift - page_shift, 0) >= _HOLDS:
            raise NotModelledError(
                f"the emulator holds no table of a window with 2^{window_shift - page_shift} entries"
            )
        answer = self.windows.create(page_shift, window_shift)
        self.connect()
        return answer

    def reset(self) -> None:
        """ibm,reset-pe-dma-window: an empty default window (QEMU hw/ppc/spapr_rtas_ddw.c)."""
        self.inherited = False
        self.windows.reset()
        self.connect()


class Machine:
    """:ivar log: all that the kernel said; `trouble`: its WARN, BUG and Oops, until somebody takes them.

    :ivar refusals: accesses that the platform refused, likewise.

    :ivar now: seconds since the start; only waiting advances it.
    :ivar on: what is to happen once a driver's container was attached, or enabled; see `tcelab.emulator.preset_states`.
    :ivar without_mm: the driver sees no mm, whoever calls.
    :ivar detaches: the core detaches a group before it releases the driver's container.
    :ivar quirks: that its kernel has.
    :ivar plugged: what is plugged in, and so what `pes` and their devices are.
    :ivar memory: how much it has.
    :ivar dma: what its kernel's DMA API has.
    :ivar met: how often each quirk made a difference; `quirk_hits`: the same one by one, until somebody takes them.
    """

    def __init__(
        self, topology: Topology, page_size: int, seed: int, guard: Guarding = "off", huge_page: int = HUGE_PAGE
    ) -> None:
        self.page_size = page_size
        self.now = 0.0
        self.guard = EmulatedGuard(guard, lambda: self.now)
        self.log: list[str] = []
        self.trouble: list[str] = []
        self.refusals: list[Refusal] = []
        self.on: dict[str, list[Callable[[Any], None]]] = {}
        self.without_mm = False
        self.detaches = True
        self.quirks: frozenset[str] = frozenset()
        self.met: Counter[str] = Counter()
        self.quirk_hits: list[QuirkHit] = []
        self.memory = Growth(topology)
        self.dma = DmaApi(topology.wide)
        self._warned: set[str] = set()
        # What is mapped as a whole must have all of it; of a guest inside a guest, the RAM's size matters.
        within = topology.direct or topology.nested
        self.ram = EmulatedRam(page_size, seed, huge_page, _IN_RAM // page_size if within else FRAMES)
        self.copies: kvmrules.Copies | None = {} if topology.nested else None
        self.plugged = Plugged(topology)
        self.pes: dict[int, EmulatedPe] = {}
        self._topology = topology
        self.plug()

    def plug(self) -> None:
        """Have what is plugged in, and nothing else."""
        ours = self._topology.phbs
        for phb in self._topology.machine:
            if phb in ours and not self.plugged.there(phb.index):
                self.pes.pop(phb.index, None)
                continue
            if phb.index not in self.pes:
                self.pes[phb.index] = EmulatedPe(phb, self)
            pe = self.pes[phb.index]
            pe.plug(self.plugged.on(phb) if phb in ours else phb.devices, self)
        self._devices = [device for pe in self.pes.values() for device in pe.devices.values()]

    @property
    def windows(self) -> dict[int, windowcreation.Windows]:
        """Those of each PE, by its PHB."""
        return {index: pe.windows for index, pe in self.pes.items()}

    def taken(self, pe: EmulatedPe) -> None:
        """VFIO takes a PE. The window that the kernel had made for its own drivers goes; what it had told them of it
        stays (pseries/iommu.c, spapr_tce_take_ownership, remove_dynamic_dma_windows).
        """
        if self.memory.unmap_all(pe.phb.index):
            pe.windows.remove(pe.phb.liobn | 1)
            pe.connect()

    def refuse(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def disks(self) -> dict[str, bytes]:
        """What is on each disk, by device."""
        devices = (device for pe in self.pes.values() for device in pe.devices.values())
        return {device.name: device.content for device in devices if isinstance(device, VirtioBlk)}

    def rtas(self, op: Rtas) -> Outcome:
        """Perform a firmware service for the PE of a device."""
        pe = next(pe for pe in self.pes.values() if op.device in pe.devices)
        return self.guard.call(op, pe.isolation, list(pe.devices.values()))

    def ddw(self, op: Ddw) -> Outcome:
        """Perform a firmware service for windows. A window is removed by its LIOBN alone, whichever PE owns it."""
        pe = next(pe for pe in self.pes.values() if op.device in pe.devices)
        if op.call == "remove":
            pe = next((pe for pe in self.pes.values() if pe.phb.liobn == op.liobn & ~1), pe)
        windows = pe.windows
        answer = {
            "query": windows.query,
            "create": lambda: pe.create_window(op.page_shift, op.window_shift),
            "remove": lambda: windows.remove(op.liobn),
            "reset": windows.reset,
        }[op.call]()
        pe.connect()
        return Outcome(value=answer.status, fields=answer.outputs)

    def renew(self) -> None:
        """For another program: nothing was refused, and no PE is isolated."""
        self.refusals.clear()
        self.guard.take()
        for pe in self.pes.values():
            pe.renew()

    def move(self) -> None:
        """Another QEMU takes it in, with all that QEMU saves."""
        for pe in self.pes.values():
            for device in pe.devices.values():
                device.move()

    def end_kernel(self, *, memory: bool = False) -> None:
        """Its kernel ends, and all that it held: memory, files, drivers. Tables and PEs stay as they are.

        :param memory: what was in it stays, and nobody uses it.
        """
        self._warned.clear()
        self.dma = DmaApi(self._topology.wide)
        if memory:
            self.ram.let_go()
        else:
            self.ram.clear()
        for pe in self.pes.values():
            pe.end_kernel()

    def reset(self) -> None:
        """As at the machine's start (QEMU hw/ppc/spapr.c, spapr_machine_reset). Disks keep what is on them."""
        self.guard.take()
        self.plugged.reset()
        self.plug()
        for pe in self.pes.values():
            pe.reset()
            pe.renew()

    def happened(self, event: str, container: object) -> None:
        """Report an event that a preset state may wait for."""
        for react in self.on.get(event, ()):
            react(container)

    def hit_quirk(self, quirk: str, lost: tuple[tuple[int, int], ...] = ()) -> None:
        self.met[quirk] += 1
        self.quirk_hits.append(QuirkHit(quirk, lost))

    def say(self, line: str) -> None:
        """A line of the kernel's log."""
        self.log.append(line)

    def warn(self, where: str) -> None:
        """The kernel says WARN, and goes on."""
        self.say(f"WARNING: at {where}")
        self.trouble.append(self.log[-1])

    def warn_once(self, where: str) -> bool:
        """WARN_ON_ONCE: the kernel says WARN, unless it has said this one before. Returns whether it does."""
        first = where not in self._warned
        if first:
            self._warned.add(where)
            self.warn(where)
        return first

    def let_go(self, space: Space) -> None:
        """Mmdrop; behind the last one, arch/powerpc/mm/book3s64/mmu_context.c, destroy_context."""
        space.holders -= 1
        if not space.holders and space.regions:
            self.warn_once("destroy_context: WARN_ON_ONCE(!list_empty(&mm->context.iommu_group_mem_list))")

    def bug(self, where: str) -> NoReturn:
        """:raise KernelDiedError: always."""
        self.die(f"kernel BUG at {where}")

    def oops(self, where: str) -> NoReturn:
        """:raise KernelDiedError: always."""
        self.die(f"BUG: Kernel NULL pointer dereference in {where}")

    def die(self, line: str) -> NoReturn:
        """:raise KernelDiedError: always."""
        self.say(line)
        self.trouble.append(line)
        raise KernelDiedError(line)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._devices.sort(key=_TURN)
        for device in self._devices:
            device.tick(self.now)
        self.guard.settle()
