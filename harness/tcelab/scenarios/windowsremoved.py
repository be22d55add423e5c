"""`windows-removed`: firmware has no window left to give, so the kernel takes the default one away for its driver.

Stock firmware offers two windows, so Linux by itself leaves the default one. Here somebody else has taken the second
one before a driver asks for 64 bits: a window of one page, with an entry in it, which must outlast all that follows.
The kernel empties and removes the default window and maps all RAM in the one that it gets, at its LIOBN. A mask that
would need the default one is refused then; a mapping that would need it fails. Where the default window is in use, the
kernel leaves all as it is. Source: Linux arch/powerpc/platforms/pseries/iommu.c, enable_ddw.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Final, get_args

from tcelab.errors import UsageError
from tcelab.papr import window
from tcelab.program import (
    Call,
    Ddw,
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaUnbind,
    DmaUnmap,
    Fresh,
    HcallBatch,
    MemoryAdd,
    MemoryRemove,
    Op,
    Page,
    Part,
    Reset,
    Tce,
)
from tcelab.program.dmaops import Direction
from tcelab.program.topology import Device, Phb, Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE

TOPOLOGIES: Final = ("dma-api", "memory")
PAGES: Final = 16
"""Of the buffer: the last two are those of the entries that a program puts itself."""
OTHERS: Final = PAGES - 2
OWN: Final = PAGES - 1
WIDE: Final = 64
NARROW: Final = 32
BETWEEN: Final = 40
"""Bits of a mask that goes around the tables and does not reach the window of all RAM."""
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
EVERYTHING: Final = (1 << 64) - 1
"""Mask of a device that leaves addresses as they are."""
_LENGTH: Final = 64


class _Story:
    """One device. Names, seeds and sequences are distinct."""

    def __init__(self, phb: Phb, device: Device, numbers: Iterator[int], seed: int) -> None:
        self.phb, self.name = phb, device.name
        self.only_writes = device.model == "testdev"
        self.buffer = f"removed-{device.name}"
        self.ops: list[Op] = []
        self._numbers = numbers
        self._rng = random.Random(f"{seed} {device.name}")  # noqa: S311 - repeatable on purpose

    def look(self, label: str) -> None:
        self.ops += [*b.pins(), *b.checkpoint(f"windows-removed: {self.name}: {label}", stream=True)]

    def begin(self) -> None:
        """Its buffer, each page with a name of its own."""
        self.ops += b.buffer(self.buffer, PAGES, next(self._numbers))
        self.ops += b.tag(Page(self.buffer), PAGES, self.phb.liobn, 0, next(self._numbers))

    def bind(self) -> None:
        self.ops.append(DmaBind(device=self.name, expect="ok"))

    def unbind(self) -> None:
        self.ops.append(DmaUnbind(device=self.name, expect="ok"))

    def mask(self, bits: int, which: str = "both", expect: str = "ok") -> None:
        self.ops.append(DmaMask(device=self.name, bits=bits, which=which, expect=expect))  # type: ignore[arg-type]

    def take(self) -> None:
        """Somebody takes the window that is left, and makes an entry in it."""
        second = self.phb.liobn | 1
        self.ops.append(Ddw(call="create", device=self.name, page_shift=12, window_shift=12, expect="ok"))
        self.ops.append(Ddw(call="query", device=self.name, expect="ok"))
        self.ops += b.tag(Page(self.buffer, OTHERS), 1, second, window.SECOND_START, next(self._numbers))
        self.put(second, window.SECOND_START, OTHERS)

    def put(self, liobn: int, ioba: int, page: int) -> None:
        """An entry by hypercall, of which the kernel knows nothing."""
        self.ops.append(HcallBatch(calls=[Call("H_PUT_TCE", [liobn, ioba, Tce(self.buffer, page)])], expect=0))

    def map(self, expect: str = "ok") -> list[str]:
        """In each direction, at an odd place. Returns the names."""
        names = []
        for direction in DIRECTIONS:
            names.append(f"{self.name}-{next(self._numbers)}")
            page = Page(self.buffer, self._rng.randrange(OTHERS), self._rng.randrange(PAGE - _LENGTH))
            made = DmaMap(device=self.name, name=names[-1], page=page, size=_LENGTH, direction=direction, expect=expect)
            self.ops.append(made)
        return names

    def map_list(self) -> str:
        name = f"{self.name}-{next(self._numbers)}"
        parts = [Part(Page(self.buffer, number, number), PAGE - number) for number in range(OTHERS)]
        self.ops.append(DmaMapSg(device=self.name, name=name, parts=parts, expect="ok"))
        return name

    def unmap(self, names: list[str]) -> None:
        self.ops += [DmaUnmap(name=name, expect="ok") for name in names]

    def use(self, name: str) -> None:
        """The device writes there, and reads if it can."""
        for to_memory in (True,) if self.only_writes else (False, True):
            self.ops.append(DmaMove(name=name, size=_LENGTH, to_memory=to_memory, expect="passed"))

    def around(self, label: str) -> None:
        """All kinds of mappings, where all RAM is mapped."""
        names, listed, own = self.map(), self.map_list(), f"{self.name}-{next(self._numbers)}"
        self.ops.append(DmaAlloc(device=self.name, buffer=own, pages=2, expect="ok"))
        self.look(f"{label}, mapped")
        for name in (names[0], own):
            self.use(name)
        self.look(f"{label}, used")
        self.unmap([*names, listed])
        self.ops.append(DmaFree(buffer=own, expect="ok"))


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: the topology has no device for it."""
    numbers = itertools.count(random.Random(seed).randrange(1 << 20))  # noqa: S311 - repeatable on purpose
    there = [
        (phb, [each for each in phb.devices if each.model in {"edu", "testdev"} and each.mask == EVERYTHING])
        for phb in topology.at_start.phbs
    ]
    phb, devices = next(((phb, devices) for phb, devices in there if devices), (None, []))
    if phb is None or not topology.wide:
        raise UsageError(
            "scenario windows-removed needs an edu without a mask or a testdev, and a kernel that may make windows of"
            f" 64 bits; topology {topology.name} has not both"
        )
    out = _removed(_Story(phb, devices[-1], numbers, seed), topology)
    if len(devices) > 1:
        out += [Fresh(), *_in_use(*(_Story(phb, each, numbers, seed) for each in devices[:2]))]
    return out


def _removed(story: _Story, topology: Topology) -> list[Op]:
    story.look("at first")
    story.begin()
    story.take()
    story.bind()
    _low(story)
    # The kernel's own mappings of the default window are gone; what another one put there goes with the window.
    story.put(story.phb.liobn, story.phb.window_end - PAGE, OWN)
    story.look("no window is left")
    story.mask(WIDE, "streaming")
    story.look("the default one is gone")
    story.mask(WIDE, "coherent")
    story.around("in its place")
    _grown(story, topology)
    _narrow(story)
    story.unbind()
    story.look("unbound")
    story.bind()
    story.mask(WIDE)
    story.around("bound again")
    story.unbind()
    # A reset brings it back, and a driver leaves it then: there is a second one.
    story.ops.append(Reset(expect="ok"))
    story.look("after a reset")
    story.begin()
    story.bind()
    _low(story)
    story.mask(WIDE)
    story.around("beside it")
    story.unbind()
    story.look("end")
    return story.ops


def _low(story: _Story) -> None:
    """The default window in use, and empty again."""
    story.mask(NARROW)
    names = story.map()
    story.look("the default one in use")
    story.use(names[0])
    story.unmap(names)


def _grown(story: _Story, topology: Topology) -> None:
    """Memory comes and goes: the window in the default one's place follows."""
    if topology.slots:
        story.ops.append(MemoryAdd(dimm="removed", mib=256, expect="ok"))
        story.look("memory came")
        story.ops.append(MemoryRemove(dimm="removed", expect="ok"))
        story.look("memory went")


def _narrow(story: _Story) -> None:
    """What would need the default window is refused, and changes nothing."""
    story.mask(NARROW, expect="EIO")
    story.mask(BETWEEN)
    story.map("ENOMEM")
    story.look("refused")
    story.mask(WIDE)


def _in_use(one: _Story, other: _Story) -> list[Op]:
    """Another device of the PE has something mapped: the kernel leaves all as it is, and tries no more."""
    other.begin()
    other.take()
    other.bind()
    other.mask(NARROW)
    held = other.map()
    other.look("in use")
    one.begin()
    one.bind()
    one.mask(WIDE)
    names = one.map()
    one.look("not replaced")
    one.use(names[0])
    one.unmap(names)
    split = len(other.ops)
    other.use(held[0])
    other.unmap(held)
    other.look("unmapped")
    first, rest = other.ops[:split], other.ops[split:]
    one.ops += rest
    one.mask(WIDE)
    one.unmap(one.map())
    one.unbind()
    one.look("tried once")
    return [*first, *one.ops]
