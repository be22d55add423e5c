"""`dma-api`: what drivers do with the kernel's DMA API, under every mask, by devices that tell what they reach.

Each device goes through the masks by turns. Under each, memory is mapped in every way and direction, also in lists with
odd starts and lengths, used by the device, looked at, and unmapped in another order; at last once the driver is gone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final, get_args

from tceagent import edu
from tcelab.errors import UsageError
from tcelab.program import (
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaSync,
    DmaUnbind,
    DmaUnmap,
    Fill,
    Op,
    Page,
    Part,
    Tag,
)
from tcelab.program.dmaops import GRANTS, Direction
from tcelab.program.topology import Phb, Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE

TOPOLOGIES: Final = ("dma-api", "dma-api-default")
MASKS: Final = (32, 64, 33, 40, 64, 47, 63)
"""Bits, in this order: each change of the way that a device takes, and what is between."""
WIDE: Final = 64
REACHES: Final = 60
"""Bits of a mask that reaches a window at 1 << 59, once there is one."""
EVERYTHING: Final = (1 << WIDE) - 1
"""Mask of a device that leaves addresses as they are."""
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
PAGES: Final = 24
"""Of the buffer of a device."""
PARTS: Final = 12
"""Of a list."""
LARGE: Final = 256
WHOLE: Final = 512
"""Pages that the kernel maps with one hypercall, as many as one may have."""
MANY: Final = 20
"""Allocations of so many pages fill any small window: the last ones are refused."""
_LENGTH: Final = 64


class _Story:
    """One device. Names, seeds and sequences are distinct."""

    def __init__(self, phb: Phb, name: str, seed: int, numbers: Iterator[int], *, wide: bool) -> None:
        """:param wide: with a mask of 64 bits it may reach all RAM."""
        self._wide = wide
        device = next(each for each in phb.devices if each.name == name)
        self.name, self.liobn = name, phb.liobn
        self.only_writes = device.model == "testdev"
        self.buffer = f"dma-{name}"
        self.ops: list[Op] = []
        self._rng = random.Random(f"{seed} {name}")  # noqa: S311 - repeatable on purpose
        self._numbers = numbers
        self._live: list[tuple[str, Direction, int]] = []

    def look(self, label: str) -> None:
        self.ops += [*b.pins(), *b.checkpoint(f"dma-api: {self.name}: {label}", stream=True)]

    def begin(self) -> None:
        self.ops += [*b.buffer(self.buffer, PAGES, next(self._numbers)), DmaBind(device=self.name, expect="ok")]

    def mask(self, bits: int, *, which: str = "both") -> None:
        self.ops.append(DmaMask(device=self.name, bits=bits, which=which, expect="ok"))  # type: ignore[arg-type]

    def tag(self) -> None:
        """Every page of the buffer gets a name of its own."""
        tag = Tag(buffer=self.buffer, count=PAGES, liobn=self.liobn, ioba=0, sequence=next(self._numbers), expect="ok")
        self.ops.append(tag)

    def map_all(self) -> None:
        """In every way and direction, at odd places."""
        self.tag()
        for direction, how in itertools.product(DIRECTIONS, ("single", "page")):
            page, size = self._somewhere()
            name = self._new(direction, size)
            made = DmaMap(device=self.name, name=name, page=page, size=size, direction=direction, how=how, expect="ok")  # type: ignore[arg-type]
            self.ops.append(made)
        for direction in DIRECTIONS:
            parts = [Part(*self._somewhere()) for _ in range(PARTS)]
            name = self._new(direction, min(part.size for part in parts))
            self.ops.append(DmaMapSg(device=self.name, name=name, parts=parts, direction=direction, expect="ok"))

    def _somewhere(self) -> tuple[Page, int]:
        """Some bytes of a page; now and then all of it, or its last one."""
        index = self._rng.randrange(PAGES)
        start = self._rng.choice((0, self._rng.randrange(PAGE), PAGE - 1))
        return Page(self.buffer, index, start), self._rng.randint(1, PAGE - start)

    def _new(self, direction: Direction, size: int) -> str:
        name = f"{self.name}-{next(self._numbers)}"
        self._live.append((name, direction, size))
        return name

    def allocate(self, pages: int = 2) -> str:
        """Coherent memory, with something in it."""
        name = f"{self.name}-{next(self._numbers)}"
        self.ops.append(DmaAlloc(device=self.name, buffer=name, pages=pages, expect="ok"))
        self.ops.append(Fill(buffer=name, offset=0, size=pages * PAGE, seed=next(self._numbers), expect="ok"))
        return name

    def use(self, coherent: str, bits: int) -> None:
        """The device reads and writes: what it is allowed to, and what it is not, unless it may reach all RAM."""
        anything = self._wide and bits >= REACHES
        kinds = {direction: name for name, direction, size in self._live if size >= _LENGTH}
        for direction, name in kinds.items():
            for to_memory in (True,) if self.only_writes else (False, True):
                granted = GRANTS[direction] & (2 if to_memory else 1)
                self.move(name, _LENGTH, to_memory=to_memory, expect="passed" if granted or anything else "refused")
        self.move(coherent, _LENGTH, to_memory=True, expect="passed", plus=PAGE - 7)

    def move(self, name: str, size: int, *, to_memory: bool, expect: str, plus: int = 0) -> None:
        """One transfer; an edu's from or to another place of its buffer each time."""
        offset = 0 if self.only_writes else self._rng.randrange(edu.LONGEST - size)
        made = DmaMove(name=name, size=size, to_memory=to_memory, plus=plus, offset=offset, expect=expect)
        self.ops.append(made)

    def sync(self) -> None:
        """Some are handed over and back."""
        for name, _, _ in self._live[::3]:
            self.ops += [DmaSync(name=name, whom="cpu", expect="ok"), DmaSync(name=name, whom="device", expect="ok")]

    def unmap(self, names: Sequence[str]) -> None:
        """Unmap these, in the order given."""
        self.ops += [DmaUnmap(name=name, expect="ok") for name in names]
        self._live = [each for each in self._live if each[0] not in names]

    def shuffled(self) -> list[str]:
        names = [name for name, _, _ in self._live]
        self._rng.shuffle(names)
        return names

    def round(self, bits: int, *, device_too: bool) -> None:
        """All under one mask."""
        self.mask(bits)
        self.map_all()
        coherent = self.allocate()
        self.look(f"mapped under {bits} bits")
        if device_too:
            self.use(coherent, bits)
        self.sync()
        names = self.shuffled()
        half = len(names) // 2
        self.unmap(names[:half])
        self.ops.append(DmaFree(buffer=coherent, expect="ok"))
        self.look("half of it unmapped")
        self.unmap(names[half:])
        self.look("all of it unmapped")


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: the topology has no device for it."""
    numbers = itertools.count(random.Random(seed).randrange(1 << 20))  # noqa: S311 - repeatable on purpose
    stories = [
        _Story(phb, device.name, seed, numbers, wide=topology.wide)
        for phb in topology.phbs
        for device in phb.devices
        if phb.plugged and device.plugged and device.model in {"edu", "testdev"} and device.mask == EVERYTHING
    ]
    if not stories:
        raise UsageError(
            f"scenario dma-api needs an edu without a mask or a testdev, and topology {topology.name} has none"
        )
    out: list[Op] = [*b.checkpoint("dma-api: at first", stream=True)]
    for story in stories[:-1] or stories:
        out += _one(story)
    return out


def _one(story: _Story) -> list[Op]:
    story.begin()
    story.look("bound")
    _full(story)
    for turn, bits in enumerate(MASKS):
        story.round(bits, device_too=story.only_writes or turn < 2)  # noqa: PLR2004 - an edu takes its time
    _two_masks(story)
    _late(story)
    return story.ops


def _full(story: _Story) -> None:
    """As many entries as go with one hypercall. Then more coherent memory than the window has: some is refused, and
    nothing of that stays.

    Only allocations that are so large lie side by side (arch/powerpc/kernel/iommu.c, iommu_range_alloc: each small one
    begins a block of 16 entries): who frees one too many takes the first entry of the next, while that is still there.
    """
    whole = f"{story.name}-whole"
    story.ops.append(DmaAlloc(device=story.name, buffer=whole, pages=WHOLE))
    story.look("a whole list")
    story.ops.append(DmaFree(buffer=whole))
    names = [f"{story.name}-large-{turn}" for turn in range(MANY)]
    story.ops += [DmaAlloc(device=story.name, buffer=name, pages=LARGE) for name in names]
    story.look("full")
    story.ops += [DmaFree(buffer=name) for name in names[::2]]
    story.look("every other one freed")
    story.ops += [DmaFree(buffer=name) for name in names[1::2]]
    story.look("empty again")


def _two_masks(story: _Story) -> None:
    """The streaming mask and the coherent one are set by themselves, in either order."""
    for first, second in (("streaming", "coherent"), ("coherent", "streaming")):
        for wide, narrow in ((64, 32), (32, 64), (47, 40)):
            story.mask(wide, which=first)
            story.mask(narrow, which=second)
            story.map_all()
            coherent = story.allocate(1)
            story.look(f"{first} of {wide} bits, {second} of {narrow}")
            story.unmap(story.shuffled())
            story.ops.append(DmaFree(buffer=coherent, expect="ok"))
    story.look("after two masks")


def _late(story: _Story) -> None:
    """The driver lets go of its device with something mapped, and unmaps it then; and once more, in good order."""
    story.mask(32)
    story.map_all()
    coherent = story.allocate()
    story.ops.append(DmaUnbind(device=story.name, late=True, expect="ok"))
    story.look("unbound, and still mapped")
    story.unmap(story.shuffled())
    story.ops.append(DmaFree(buffer=coherent, expect="ok"))
    story.look("unmapped late")
    story.ops.append(DmaBind(device=story.name, expect="ok"))
    story.map_all()
    story.allocate()
    story.look("bound again")
    story.ops.append(DmaUnbind(device=story.name, expect="ok"))
    story._live.clear()  # noqa: SLF001 - the same module
    story.look("unbound with all that it had")
