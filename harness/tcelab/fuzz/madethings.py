"""The things that a random program makes: processes, memory, files, containers, groups, devices.

This is a guess that steers the choice of operations, not an oracle: where the kernel does something else, the program
goes on, and what follows is merely more unusual than intended. Sources: drivers/vfio/container.c, drivers/vfio/group.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tcelab.program.topology import Device as Model
from tcelab.program.topology import Phb

Access: TypeAlias = Literal["none", "read", "write"]
MOST_LIVE: Final = 64
"""Maps of a container that are remembered."""


@dataclass(slots=True, eq=False)
class MadeMemory:
    """A buffer.

    :ivar next: the page after those that were used last.
    :ivar huge: in huge pages.
    """

    name: str
    pages: int
    access: Access = "write"
    next: int = 0
    huge: bool = False

    def take(self, pages: int) -> int:
        """Number of the first of so many pages, those that were not used for longest."""
        first = self.next if self.next + pages <= self.pages else 0
        self.next = first + pages
        return first


@dataclass(slots=True, eq=False)
class MadeProcess:
    """:ivar limit: of what it may lock, in bytes; None: as much as it likes.

    :ivar root: it may open the file of a group.
    """

    name: str
    root: bool = True
    limit: int | None = None
    files: list[MadeFile] = field(default_factory=list)
    memory: list[MadeMemory] = field(default_factory=list)

    @property
    def writable(self) -> list[MadeMemory]:
        return [each for each in self.memory if each.access == "write"]


@dataclass(slots=True, eq=False)
class MadeRegion:
    """Memory that was registered. `mapped`: entries that lead there."""

    memory: MadeMemory
    first: int
    pages: int
    mapped: int = 0

    def meets(self, other: MadeRegion) -> bool:
        same = self.memory is other.memory
        return same and self.first < other.first + other.pages and other.first < self.first + self.pages


@dataclass(frozen=True, slots=True)
class MadeWindow:
    """Of a window: bus address of its start, shift of its pages."""

    start: int
    shift: int
    entries: int


@dataclass(slots=True, eq=False)
class V2:
    """Further state of a v2 container.

    :ivar low: the default window exists, or will. `made`: some window does, probably.
    :ivar live: window, first entry, entries and memory of maps that still exist.
    """

    regions: list[MadeRegion] = field(default_factory=list)
    low: bool = True
    made: bool = False
    high: MadeWindow | None = None
    live: list[tuple[MadeWindow, int, int, MadeRegion]] = field(default_factory=list)

    def gone(self, start: int) -> None:
        """Forget a window and its entries."""
        for shape, _, units, region in self.live:
            if shape.start == start:
                region.mapped -= units
        self.live = [each for each in self.live if each[0].start != start]
        if self.high is not None and self.high.start == start:
            self.high = None
        else:
            self.low = False
        self.made = self.high is not None


@dataclass(slots=True, eq=False)
class MadeContainer:
    """:ivar groups: windows are made for the first of them.

    :ivar typed: SET_IOMMU was done. `v2`: with that type.
    :ivar owner: the process to which it is bound.
    :ivar live: (bus address, pages) of maps that still exist.
    """

    groups: list[MadeGroup] = field(default_factory=list)
    typed: bool = False
    enabled: bool = False
    owner: MadeProcess | None = None
    live: list[tuple[int, int]] = field(default_factory=list)
    v2: V2 | None = None

    @property
    def shared(self) -> bool:
        """It has several groups, and gets no window."""
        return len(self.groups) > 1

    def mapped(self, iova: int, pages: int) -> None:
        if pages:
            self.live.append((iova, pages))
            del self.live[:-MOST_LIVE]


@dataclass(slots=True, eq=False)
class MadeGroup:
    """:ivar file: stays open while a process or a device holds it, and there is only one.

    :ivar devices: how many device files are open.
    :ivar refused: firmware refused a window for it, and is asked for no other.
    """

    phb: Phb
    file: MadeFile | None = None
    container: MadeContainer | None = None
    devices: int = 0
    refused: bool = False


@dataclass(slots=True, eq=False)
class MadeDevice:
    model: Model
    group: MadeGroup
    master: bool = False


What: TypeAlias = MadeContainer | MadeGroup | MadeDevice | None


@dataclass(slots=True, eq=False)
class MadeFile:
    """An open file, held by the process that opened it and by children that inherited it.

    :ivar what: None: it could not be opened, and every use of it is EBADF.
    """

    name: str
    what: What
    holders: list[MadeProcess]
