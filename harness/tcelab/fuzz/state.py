"""What the things are that a random program makes: processes, memory, files, containers, groups, devices.

A guess that steers the choice of operations, no oracle: where the kernel does something else, the program goes on and
what follows is merely odder than it was meant to be. Sources: drivers/vfio/container.c, drivers/vfio/group.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tcelab.topology import Device as Model
from tcelab.topology import Phb

Access: TypeAlias = Literal["none", "read", "write"]
MOST_LIVE: Final = 64
"""Maps of a container that are remembered."""


@dataclass(slots=True, eq=False)
class Memory:
    """A buffer.

    :ivar next: the page after those that were used last.
    """

    name: str
    pages: int
    access: Access = "write"
    next: int = 0

    def take(self, pages: int) -> int:
        """Number of the first of so many pages, those that were not used for longest."""
        first = self.next if self.next + pages <= self.pages else 0
        self.next = first + pages
        return first


@dataclass(slots=True, eq=False)
class Process:
    """:ivar limit: of what it may lock, in bytes; None: as much as it likes.

    :ivar root: it may open the file of a group.
    """

    name: str
    root: bool = True
    limit: int | None = None
    files: list[File] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)

    @property
    def writable(self) -> list[Memory]:
        return [each for each in self.memory if each.access == "write"]


@dataclass(slots=True, eq=False)
class Container:
    """:ivar typed: SET_IOMMU was done.

    :ivar owner: the process to which it is bound.
    :ivar live: (bus address, pages) of maps that were not unmapped since.
    """

    groups: list[Group] = field(default_factory=list)
    typed: bool = False
    enabled: bool = False
    owner: Process | None = None
    live: list[tuple[int, int]] = field(default_factory=list)

    def mapped(self, iova: int, pages: int) -> None:
        if pages:
            self.live.append((iova, pages))
            del self.live[:-MOST_LIVE]


@dataclass(slots=True, eq=False)
class Group:
    """:ivar file: stays open while a process or a device holds it, and there is only one.

    :ivar devices: how many device files are open.
    """

    phb: Phb
    file: File | None = None
    container: Container | None = None
    devices: int = 0


@dataclass(slots=True, eq=False)
class Device:
    model: Model
    group: Group
    master: bool = False


What: TypeAlias = Container | Group | Device | None


@dataclass(slots=True, eq=False)
class File:
    """An open file, held by the process that opened it and by children that inherited it.

    :ivar what: None: it could not be opened, and every use of it is EBADF.
    """

    name: str
    what: What
    holders: list[Process]
