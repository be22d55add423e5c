"""A PE in a story of the scenario `isolation`: its pages, its devices, its operations, and what it must show."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from tcelab.papr import tce
from tcelab.program import Dma, Engine, Ioctl, Op, Page, diskcontent
from tcelab.program.topology import EDUS, Device
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import EFFECTS, IDENTITIES, LOST, MASTER, NO_MASTER, NOT_READY, ONES, STATE
from tcelab.scenarios.violations import (
    AFTER,
    BEFORE,
    FIRST,
    GONE,
    LARGEST,
    LAST,
    ONLY_READ,
    ONLY_WRITE,
    OWN,
    SECTOR,
    SINK,
    SOURCE,
    STALE,
    STRIDE,
    TAGGED,
    PagePlaces,
)
from tcelab.scenarios.vocabulary import PAGE, Pe

_BOTH = tce.READ | tce.WRITE
_SHORT = 64
"""Bytes of an attempt that must have no effect."""


@dataclass(slots=True)
class Endpoint:
    """:ivar base: bus address of page 0 of its buffer; each page has an address of its own, mapped or not.

    :ivar seeds: of unique data.
    :ivar far: numbers of violations.
    :ivar opened: how often its files were opened; each time they get new names.
    :ivar wishes: whether the driver of each device wants it to master the bus.
    """

    pe: Pe
    base: int
    rng: random.Random
    seeds: Iterator[int]
    far: Iterator[int]
    opened: int = 0
    wishes: dict[str, bool] = field(default_factory=dict)

    @property
    def devices(self) -> tuple[Device, ...]:
        return self.pe.phb.devices

    @property
    def edus(self) -> list[Device]:
        return [each for each in self.devices if each.model in EDUS]

    @property
    def disks(self) -> list[Device]:
        return [each for each in self.devices if each.model not in EDUS]

    @property
    def buffer(self) -> str:
        return f"isolation-{self.pe.name}"

    @property
    def pages(self) -> int:
        """Of its buffer."""
        return OWN + STRIDE * (len(self.devices) - 1)

    @property
    def place(self) -> PagePlaces:
        """For one more violation."""
        return PagePlaces(self.pe, self.base, next(self.far))

    def file(self, device: str) -> str:
        return self.pe.file_of(device)

    def iova(self, page: int) -> int:
        return PagePlaces(self.pe, self.base, 0).iova(page)

    def source(self, device: str) -> int:
        """The page that a device reads."""
        return self._own(device, SOURCE, 0)

    def sink(self, device: str) -> int:
        """The page that a device writes."""
        return self._own(device, SINK, 2)

    def ring(self, device: str) -> int:
        """The first of two pages that a disk needs for itself."""
        return self._own(device, 0, 4)

    def _own(self, device: str, first: int, further: int) -> int:
        number = [each.name for each in self.devices].index(device)
        return first if number == 0 else OWN + STRIDE * (number - 1) + further

    # -- beginning and end

    def allocate(self) -> list[Op]:
        """Its buffer, full of data, and its devices bound."""
        out = b.buffer(self.buffer, self.pages, self.rng.randrange(1 << 30))
        for page in range(self.pages):
            out += self.fill(page)
        out += b.tag(Page(self.buffer, TAGGED), 1, self.pe.liobn, self.iova(TAGGED), next(self.seeds))
        return [*out, *b.bind(self.pe)]

    def open(self) -> list[Op]:
        """Its container, with nothing mapped yet, and its devices, which master the bus."""
        self.opened += 1
        self.pe = Pe(self.pe.phb, f"isolation-{self.opened}")
        return [*b.open_container(self.pe), *b.enable(self.pe), *self.open_devices()]

    def open_devices(self, *, master: bool = True) -> list[Op]:
        out: list[Op] = []
        for each in self.devices:
            fields: dict[str, int | str | Page] = {"name": each.name}
            file = self.file(each.name)
            out += [Ioctl(file=self.pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=file, expect="ok")]
        self.wishes = dict.fromkeys(self.wishes or [each.name for each in self.devices], False)
        return out + (self.master_all() if master else [])

    def map_all(self) -> list[Op]:
        """All pages that are mapped throughout."""
        permissions = {ONLY_READ: tce.READ, ONLY_WRITE: tce.WRITE, TAGGED: tce.READ}
        permissions |= dict.fromkeys((BEFORE, AFTER, FIRST, LAST), _BOTH)
        for each in self.devices:
            permissions |= {self.source(each.name): tce.READ, self.sink(each.name): tce.WRITE}
        for each in self.disks:
            permissions |= dict.fromkeys((self.ring(each.name), self.ring(each.name) + 1), _BOTH)
        return [op for page, allowed in permissions.items() for op in self.map(page, allowed)]

    def start_disks(self, expect: int = 0) -> list[Op]:
        """Have disks set up, which they need after each reset."""
        return [op for each in self.disks for op in self.start(each.name, expect)]

    def start(self, disk: str, expect: int = 0) -> list[Op]:
        page = self.ring(disk)
        return [Engine(file=self.file(disk), ring=Page(self.buffer, page), iova=self.iova(page), expect=expect)]

    def close_all(self) -> list[Op]:
        """Its devices, its group and its container."""
        files = [self.file(each.name) for each in self.devices]
        self.wishes = dict.fromkeys(self.wishes, False)
        return b.close(*files, self.pe.group, self.pe.container)

    # -- memory

    def fill(self, page: int, size: int = PAGE) -> list[Op]:
        """Unique data into a page."""
        return b.fill(Page(self.buffer, page), size, next(self.seeds))

    def map(self, page: int, permissions: int = _BOTH) -> list[Op]:
        return b.map_dma(self.pe, Page(self.buffer, page), self.iova(page), 1, permissions)

    def unmap(self, page: int) -> list[Op]:
        return b.unmap_dma(self.pe, self.iova(page), 1)

    def live_and_gone(self) -> list[Op]:
        """A page that is mapped, used by a device, and unmapped."""
        return [*self.map(GONE), *self.use(GONE), *self.unmap(GONE)]

    def stale(self) -> list[Op]:
        """A page that is mapped and used by a device, before the container is released and replaced by another."""
        out = [*self.map(STALE), *self.use(STALE), *self.close_all()]
        return [*out, *self.open(), *self.map_all(), *self.start_disks()]

    def use(self, page: int) -> list[Op]:
        """The first device writes to a page that is mapped."""
        return self.alone(self.write(self.devices[0].name, self.iova(page), _SHORT))

    def model(self, device: str) -> str:
        return next(each.model for each in self.devices if each.name == device)

    # -- transfers

    def write(self, device: str, iova: int, size: int, offset: int = 0) -> Dma:
        return Dma(file=self.file(device), iova=iova, size=size, to_memory=True, offset=offset)

    def read(self, device: str, iova: int, size: int, offset: int = 0) -> Dma:
        return Dma(file=self.file(device), iova=iova, size=size, to_memory=False, offset=offset)

    @staticmethod
    def alone(transfer: Dma, expect: int = 0) -> list[Op]:
        return [msgspec.structs.replace(transfer, expect=expect)]

    def fresh(self, *, to_memory: bool) -> list[Op]:
        """Fresh data where the devices' next transfers begin or end."""
        pages = [self.sink(each.name) if to_memory else self.source(each.name) for each in self.devices]
        return [op for page in pages for op in self.fill(page)]

    def whole(self, *, to_memory: bool) -> list[Dma]:
        """Each edu does its largest transfer."""
        return [self._whole(each.name, LARGEST, 0, to_memory=to_memory) for each in self.edus]

    def disks_carry(self, *, to_memory: bool) -> list[Op]:
        """Each disk carries a page."""
        at = {each.name: self.sectors(PAGE) for each in self.disks}
        return [op for name in at for op in self.alone(self._whole(name, PAGE, at[name], to_memory=to_memory))]

    def _whole(self, device: str, size: int, offset: int, *, to_memory: bool) -> Dma:
        if to_memory:
            return self.write(device, self.iova(self.sink(device)), size, offset)
        return self.read(device, self.iova(self.source(device)), size, offset)

    def sectors(self, size: int) -> int:
        """A random place on a disk for so many bytes."""
        return SECTOR * self.rng.randrange((diskcontent.SIZE - size) // SECTOR + 1)

    # -- what it must show

    def shows(self, condition: str) -> list[Op]:
        """Check firmware's state, registers and command registers in a condition."""
        return [*self.ask(*STATE, 0), *self.looks(condition)]

    def looks(self, condition: str) -> list[Op]:
        """As `shows`, without firmware, which may not answer on a platform that does not isolate."""
        effects = EFFECTS[condition]
        out: list[Op] = []
        for each in self.devices:
            identity = IDENTITIES[each.model] if effects.mmio else ONES
            command = MASTER if effects.dma and self.wishes[each.name] else NO_MASTER
            out += b.look(self.file(each.name), identity=identity, command=command)
        return out

    def ask(self, call: str, option: int, status: int) -> list[Op]:
        """A service of firmware, by the name of any of its devices."""
        return b.rtas(self.rng.choice(self.devices).name, call, option, status)

    def unreachable(self) -> list[Op]:
        """Each device is told to transfer within its window, in each direction; the command must not reach it."""
        out: list[Op] = []
        for each in self.devices:
            size = _SHORT if each.model in EDUS else SECTOR
            out += self.alone(self._whole(each.name, size, 0, to_memory=True), expect=LOST)
            out += self.alone(self._whole(each.name, size, 0, to_memory=False), expect=LOST)
        return [*out, *self.start_disks(expect=LOST)]

    def blocked(self) -> list[Op]:
        """Each device transfers within its window, in each direction, without effect. An edu reads into the end of its
        memory, which earlier violations seldom touched.
        """
        at = LARGEST - _SHORT
        writes = [self._whole(each.name, _SHORT, 0, to_memory=True) for each in self.edus]
        reads = [self._whole(each.name, _SHORT, at, to_memory=False) for each in self.edus]
        out = [*self.alone_or_together(writes), *self.alone_or_together(reads)]
        for each in self.disks:
            # It was reset with its PE, and waits for no request that it cannot do.
            out += self.alone(self._whole(each.name, PAGE, 0, to_memory=True), expect=NOT_READY)
            for to_memory in (True, False):
                out += self.start(each.name)
                out += self.alone(self._whole(each.name, PAGE, 0, to_memory=to_memory), expect=NOT_READY)
        return out

    def alone_or_together(self, transfers: Sequence[Dma]) -> list[Op]:
        return b.together(transfers) if len(transfers) > 1 else self.alone(transfers[0])

    # -- bus mastering

    def master(self, device: str, *, on: bool) -> list[Op]:
        self.wishes[device] = on
        return b.master_of(self.file(device), on=on)

    def master_all(self) -> list[Op]:
        return [op for each in self.devices for op in self.master(each.name, on=True)]

    def was_reset(self) -> None:
        """After a reset by firmware, no driver's bus mastering remains."""
        self.wishes = dict.fromkeys(self.wishes, False)


def endpoints(pes: Sequence[Pe], seed: int) -> list[Endpoint]:
    """The PEs of a story, each with bus addresses that no other one uses."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    seeds, far = itertools.count(rng.randrange(1 << 30)), itertools.count(1)
    out = []
    for number, pe in enumerate(pes):
        width = (pe.entries - 2) // len(pes)
        room = width - OWN - STRIDE * len(pe.phb.devices)
        base = pe.iova(1 + number * width + rng.randrange(room))
        out.append(Endpoint(pe, base, rng, seeds, far))
    return out
