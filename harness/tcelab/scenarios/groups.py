"""`groups`: two groups in one container of type v2, which on pSeries have no window in common.

They join before and after the container's type, and leave in any order. While both are there, no window can be made,
and what is tried leaves both tables as they were. Once one has left, the other one's windows work as they always do; a
container with a window takes no other group, and the refusal changes nothing of what is mapped.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import window
from tcelab.program import Dma, Ioctl, Op, Open, Page
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, SPAPR_TCE, SPAPR_TCE_V2, Pe

TOPOLOGIES: Final = ("two-small", "high-window")
TOGETHER: Final = 2
"""Groups of a container here."""
PAGES: Final = 64
"""Of each buffer: a whole number of pages of any kernel."""
SIZE: Final = 1 << 28
"""Bytes of a window beside the default one."""
LENGTH: Final = 512
"""Bytes of a transfer."""
SHIFTS: Final = (12, 16, 21, 24)
BUFFER: Final = "groups"


@dataclass(slots=True)
class GroupsStory:
    """:ivar container: the file of the container that the groups share.

    :ivar groups: by PE, the file of its group; `devices`: that of its device.
    :ivar made: numbers of the files that were opened.
    """

    pes: Sequence[Pe]
    rng: random.Random
    ops: list[Op] = field(default_factory=list)
    container: str = ""
    groups: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    made: Iterator[int] = field(default_factory=itertools.count)

    # -- the container and its groups

    def open(self) -> None:
        """A fresh container without groups."""
        self.container = f"groups-{next(self.made)}-container"
        self.ops.append(Open(file=self.container, path="/dev/vfio/vfio", expect="ok"))

    def open_group(self, pe: Pe) -> None:
        self.groups[pe.name] = f"groups-{next(self.made)}-{pe.name}-group"
        self.ops.append(Open(file=self.groups[pe.name], path=f"/dev/vfio/${pe.name}", expect="ok"))

    def open_device(self, pe: Pe) -> None:
        """A file of its device, which masters the bus."""
        file = self.devices[pe.name] = f"groups-{next(self.made)}-{pe.name}-device"
        fields: dict[str, int | str | Page] = {"name": pe.name}
        asked = Ioctl(file=self.groups[pe.name], request="GROUP_GET_DEVICE_FD", fields=fields, into=file, expect="ok")
        self.ops += [asked, *b.master_of(file, on=True)]

    def close_device(self, pe: Pe) -> None:
        self.ops += b.close(self.devices[pe.name])

    def join(self, pe: Pe, expect: str = "ok") -> None:
        fields: dict[str, int | str | Page] = {"container": self.container}
        self.ops.append(Ioctl(file=self.groups[pe.name], request="GROUP_SET_CONTAINER", fields=fields, expect=expect))
        self.ops.append(Ioctl(file=self.groups[pe.name], request="GROUP_GET_STATUS", expect="ok"))

    def leave(self, pe: Pe, expect: str = "ok") -> None:
        self.ops.append(Ioctl(file=self.groups[pe.name], request="GROUP_UNSET_CONTAINER", expect=expect))

    def set_type(self, kind: int = SPAPR_TCE_V2, expect: str = "ok") -> None:
        self.ops.append(Ioctl(file=self.container, request="SET_IOMMU", value=kind, expect=expect))

    def ask(self, request: str, expect: str = "ok", **fields: int | Page) -> None:
        words: dict[str, int | str | Page] = {**fields}
        self.ops.append(Ioctl(file=self.container, request=request, fields=words, expect=expect))

    # -- what is done with it

    def register(self, expect: str = "ok") -> None:
        self.ask("SPAPR_REGISTER_MEMORY", expect, vaddr=Page(BUFFER), size=PAGES * PAGE)

    def map(self, pe: Pe, page: int, iova: int, expect: str = "ok", *, high: bool = False) -> None:
        """One page, tagged first if it is to be mapped."""
        if expect == "ok":
            self.ops += b.tag(Page(BUFFER, page), 1, pe.liobn | high, iova, self.rng.randrange(1 << 30))
        self.ask("MAP_DMA", expect, flags=3, vaddr=Page(BUFFER, page), iova=iova, size=PAGE)

    def create(self, shift: int, size: int = SIZE, expect: str = "ok") -> None:
        self.ask("SPAPR_TCE_CREATE", expect, page_shift=shift, window_size=size, levels=1)

    def none(self, pe: Pe) -> None:
        """No window can be made, and what is tried costs nothing."""
        self.map(pe, 0, pe.start, "EPERM")
        self.ask("UNMAP_DMA", "EPERM", iova=pe.start, size=PAGE)
        for shift in SHIFTS:
            self.create(shift, SIZE, "EPERM")
        self.create(window.PAGE_SHIFT, pe.phb.window_size, "EPERM")
        self.ask("SPAPR_TCE_REMOVE", "EINVAL", start_addr=window.SECOND_START)

    def transfers(self, pe: Pe, iova: int) -> None:
        """The device reads and writes, or is refused."""
        file = self.devices[pe.name]
        self.ops += [Dma(file=file, iova=iova, size=LENGTH, to_memory=False, expect="ok")]
        self.ops += [Dma(file=file, iova=iova + PAGE // 2, size=LENGTH, to_memory=True, expect="ok")]

    def look(self, label: str) -> None:
        self.ops += [*b.vmlck(), *b.pins(), *b.checkpoint(f"groups: {label}", stream=True)]


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: fewer PEs than two."""
    pes = b.pes(topology, "groups")[:TOGETHER]
    if len(pes) < TOGETHER:
        raise UsageError(f"scenario groups needs two PEs, topology {topology.name} has {len(pes)}")
    story = GroupsStory(pes, random.Random(seed))  # noqa: S311 - repeatable on purpose
    story.ops += [*b.vmlck(), *b.pins(), *b.buffer(BUFFER, PAGES, story.rng.randrange(1 << 30))]
    for pe in pes:
        story.ops += b.bind(pe)
        story.open_group(pe)
    for first, later in itertools.permutations(pes):
        _late(story, first, later)
    for first, later in itertools.permutations(pes):
        _early(story, first, later)
    _closed(story)
    return story.ops


def _late(story: GroupsStory, first: Pe, later: Pe) -> None:
    """A group joins a container that has a type, and no window yet."""
    story.open()
    story.join(first)
    story.set_type()
    story.join(later)
    story.ask("SPAPR_TCE_GET_INFO")
    story.register()
    story.none(first)
    story.none(later)
    for pe in (first, later):
        story.open_device(pe)
        story.transfers(pe, pe.start)
    story.look("two groups, no window")
    story.leave(later, "EBUSY")
    story.close_device(later)
    story.leave(later)
    _alone(story, first, later)
    _beside(story, first, later)
    story.ask("SPAPR_TCE_REMOVE", start_addr=window.SECOND_START)
    story.join(later, "EPERM")
    story.ask("SPAPR_TCE_REMOVE", start_addr=first.start)
    story.transfers(first, first.start)
    story.join(later)
    story.map(first, 0, first.start, "ENXIO")
    story.create(window.PAGE_SHIFT, first.phb.window_size, "EPERM")
    story.create(SHIFTS[1], SIZE, "EPERM")
    story.look("two groups again, no window")
    story.close_device(first)
    story.leave(first)
    story.create(window.PAGE_SHIFT, later.phb.window_size)
    story.map(later, 5, later.start)
    story.look("the group that came first has left")
    story.ops += b.close(story.container)
    story.leave(later)
    story.look("nobody")


def _alone(story: GroupsStory, pe: Pe, other: Pe) -> None:
    """The group that stays has windows; the other one cannot come back, and nothing of what is mapped changes."""
    story.map(pe, 1, pe.start + PAGE)
    story.create(window.PAGE_SHIFT)
    story.map(pe, 2, window.SECOND_START, high=True)
    story.look("one group, two windows")
    story.join(other, "EPERM")
    story.transfers(pe, pe.start + PAGE)
    story.transfers(pe, window.SECOND_START)
    story.look("a second group is refused")


def _beside(story: GroupsStory, pe: Pe, other: Pe) -> None:
    """The other group has a container of its own: the same page is mapped in both, and each table holds its own."""
    shared = story.container
    story.open()
    story.join(other)
    story.set_type()
    story.register()
    story.map(other, 3, other.start + 2 * PAGE)
    story.open_device(other)
    story.transfers(other, other.start + 2 * PAGE)
    story.transfers(pe, pe.start + PAGE)
    story.transfers(other, window.SECOND_START)
    story.look("two containers")
    story.close_device(other)
    story.leave(other)
    story.ops += b.close(story.container)
    story.container = shared
    story.look("the other container is closed")


def _early(story: GroupsStory, first: Pe, later: Pe) -> None:
    """Both groups join before there is a type. Type v1 takes one group."""
    story.open()
    story.join(first)
    story.join(later)
    story.set_type(SPAPR_TCE, "EBUSY")
    story.set_type()
    story.ask("SPAPR_TCE_GET_INFO")
    story.register()
    story.none(first)
    story.leave(first)
    story.map(later, 4, later.start)
    story.look("the group that joined first has left")
    story.ask("UNMAP_DMA", iova=later.start, size=PAGE)
    story.leave(later)
    story.look("the type goes with the last group")
    story.join(first)
    story.set_type(SPAPR_TCE)
    story.join(later, "EBUSY")
    story.leave(first)
    story.ops += b.close(story.container)


def _closed(story: GroupsStory) -> None:
    """Two groups and their container are closed in every order."""
    names = [pe.name for pe in story.pes]
    story.ops += b.close(*story.groups.values())
    for number, order in enumerate(itertools.permutations((*names, ""))):
        story.open()
        for pe in story.pes:
            story.open_group(pe)
            story.join(pe)
        story.set_type()
        story.register()
        story.map(story.pes[0], 0, story.pes[0].start, "EPERM")
        story.ops += b.close(*(story.groups.get(name, story.container) for name in order))
        story.look(f"closed, order {number}")
