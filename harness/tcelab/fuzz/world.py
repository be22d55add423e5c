"""A program under construction: its operations so far, and the state that they have probably produced."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, TypeVar

from tceagent import uapi
from tcelab import quirks
from tcelab.errors import UsageError
from tcelab.fuzz.drivenpe import MadeDrivers, candidates, on
from tcelab.fuzz.hazard import endless
from tcelab.fuzz.madethings import V2, Access, MadeContainer, MadeDevice, MadeFile, MadeGroup, MadeMemory, MadeProcess
from tcelab.papr.window import PAGE_SHIFT, PAGE_SIZE
from tcelab.program import (
    Buffer,
    Close,
    Exit,
    Frames,
    Ioctl,
    Master,
    Op,
    Open,
    Page,
    Protect,
    Put,
    Spawn,
    Word,
)
from tcelab.program.topology import Topology

SPAPR_TCE: Final = uapi.SPAPR_TCE_IOMMU
"""VFIO_SPAPR_TCE_IOMMU, include/uapi/linux/vfio.h."""
SPAPR_TCE_V2: Final = uapi.SPAPR_TCE_V2_IOMMU
"""VFIO_SPAPR_TCE_v2_IOMMU."""

MOST_PAGES: Final = 2048
"""Pages of the buffers of a process, all of which a checkpoint reads."""

BATCH: Final = 32
"""Pages of the largest ordinary maps."""

LARGE: Final = 512
"""Pages of the buffer for large maps, and of the largest of those."""

CHILDS_PAGES: Final = range(64, 193)
"""Of the first buffer of a child."""

MEMLOCK: Final = 8 << 20
"""RLIMIT_MEMLOCK of a process that nobody gave another, bytes (kernel include/uapi/linux/resource.h, MLOCK_LIMIT)."""

TCE_SIZE: Final = 8
"""Bytes of an entry."""

BY_POINTER: Final = 0.03
"""The share of maps and unmaps whose struct lies in a buffer."""

T = TypeVar("T")


class World:
    """:ivar ops: the program so far.

    :ivar left_out: how many operations were left out, by the quirk that causes it.
    :ivar hypercalls: there are raw hypercalls, on the PE `raw`; `v2`: there are containers of type v2.
    :ivar huge: there are huge pages.
    :ivar drivers: what the driver of the DMA API has; None: there is none.
    :ivar dmas: how many transfers there are, each of which takes 0.1 s.
    """

    def __init__(
        self,
        rng: random.Random,
        topology: Topology,
        declared: frozenset[str],
        *,
        hypercalls: bool = False,
        v2: bool = False,
        huge: bool = True,
        drivers: bool = False,
    ) -> None:
        """:param hypercalls: the last PE, if there are several, is reserved for raw hypercalls.
        :param drivers: likewise one for a driver of the DMA API; of two PEs, it is the one that hypercalls would have.
        :raise UsageError: nothing to work on.
        """
        self.rng = rng
        self.random = rng.random
        self.quirks = declared
        self.ops: list[Op] = []
        self.left_out: dict[str, int] = {}
        self.dmas = 0
        self.agent = MadeProcess("")
        self.processes = [self.agent]
        self.groups = [MadeGroup(phb) for phb in topology.at_start.phbs if set(phb.devices) - set(topology.driven)]
        if not self.groups:
            raise UsageError(f"topology {topology.name!r} has no device under test")
        self.drivers = self._driven(topology) if drivers else None
        self.hypercalls = hypercalls and len(self.groups) > 1
        self.v2 = v2
        self.huge = huge
        self.raw = self.groups.pop().phb if self.hypercalls else self.groups[-1].phb
        self.windows = [(group.phb.window_start, group.phb.window_end) for group in self.groups]
        self._named: dict[str, int] = {}

    def _driven(self, topology: Topology) -> MadeDrivers | None:
        """Give a PE to the driver of the DMA API, one with an iommu-testdev if any; None: there is no other."""
        able = [group for group in self.groups if candidates(group.phb)] if len(self.groups) > 1 else []
        if not able:
            return None
        chosen = next((each for each in able if any(it.model == "testdev" for it in each.phb.devices)), able[-1])
        self.groups.remove(chosen)
        return on(topology, chosen.phb)

    # -- chance

    def below(self, end: int) -> int:
        return int(self.random() * end)

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, things: Sequence[T]) -> T:
        return things[int(self.random() * len(things))]

    # -- what there is

    def name(self, kind: str) -> str:
        """A name that was not used before."""
        number = self._named[kind] = self._named.get(kind, 0) + 1
        return f"{kind}{number}"

    @property
    def children(self) -> list[MadeProcess]:
        return self.processes[1:]

    @property
    def containers(self) -> list[tuple[MadeFile, MadeContainer]]:
        """Containers that some process has open."""
        files = {file: None for process in self.processes for file in process.files}
        return [(file, file.what) for file in files if isinstance(file.what, MadeContainer)]

    @property
    def working(self) -> list[tuple[MadeFile, MadeContainer, MadeProcess]]:
        """Those that can map, each with the process that may."""
        return [
            (file, it, it.owner)
            for file, it in self.containers
            if it.enabled and it.owner is not None and it.owner in file.holders and self.may_map(it.owner, it)
        ]

    def bounds_of(self, container: MadeContainer) -> tuple[int, int]:
        """Start and end bus address of its window, or of any window when it has none."""
        phb = container.groups[0].phb if container.groups else self.groups[0].phb
        return phb.window_start, phb.window_end

    def window_of(self, container: MadeContainer) -> int:
        """Bytes of its window, or of some window when it has none."""
        start, end = self.bounds_of(container)
        return end - start

    def may_enable(self, by: MadeProcess, container: MadeContainer) -> bool:
        """Do owner and limit permit it? ENABLE locks as many bytes as the window has."""
        enough = by.limit is None or self.window_of(container) <= by.limit
        return enough and container.owner in {None, by}

    def may_map(self, by: MadeProcess, container: MadeContainer) -> bool:
        """Do owner and limit permit MAP_DMA? The first one locks the table as well."""
        window = self.window_of(container)
        enough = by.limit is None or window + (window >> PAGE_SHIFT) * TCE_SIZE <= by.limit
        return enough and container.owner in {None, by}

    # -- files

    def opened(self, by: MadeProcess, file: MadeFile) -> MadeFile:
        by.files.append(file)
        return file

    def open_container(self, by: MadeProcess) -> MadeFile:
        file = self.opened(by, MadeFile(self.name("c"), MadeContainer(), [by]))
        self.ops.append(Open(by=by.name, file=file.name, path="/dev/vfio/vfio"))
        return file

    def open_group(self, by: MadeProcess, group: MadeGroup) -> MadeFile:
        possible = group.file is None and by.root
        file = self.opened(by, MadeFile(self.name("g"), group if possible else None, [by]))
        if possible:
            group.file = file
        self.ops.append(Open(by=by.name, file=file.name, path=f"/dev/vfio/${group.phb.devices[0].name}"))
        return file

    def open_nothing(self, by: MadeProcess, path: str) -> None:
        file = self.opened(by, MadeFile(self.name("x"), None, [by]))
        self.ops.append(Open(by=by.name, file=file.name, path=path))

    def open_device(self, by: MadeProcess, file: MadeFile, name: str) -> None:
        """Request a device by name from a file that should be a group."""
        group = file.what
        model = None
        if isinstance(group, MadeGroup) and group.container is not None and group.container.typed:
            model = next((each for each in group.phb.devices if each.name == name), None)
        device = None
        if model is not None and isinstance(group, MadeGroup):
            device = MadeDevice(model, group)
            group.devices += 1
        into = self.opened(by, MadeFile(self.name("d"), device, [by]))
        self.ioctl(by, file, "GROUP_GET_DEVICE_FD", {"name": name}, into=into.name)

    def close(self, by: MadeProcess, file: MadeFile) -> None:
        self.ops.append(Close(by=by.name, file=file.name))
        by.files.remove(file)
        self._drop(by, file)

    def _drop(self, by: MadeProcess, file: MadeFile) -> None:
        file.holders.remove(by)
        if file.holders:
            return
        match file.what:
            case MadeGroup() as group:
                self._last_reference(group)
            case MadeDevice(group=group):
                group.devices -= 1
                self._last_reference(group)

    def _last_reference(self, group: MadeGroup) -> None:
        # A device file holds the group's file, and the group its container (vfio_group_use_container).
        if not group.devices and group.file is not None and not group.file.holders:
            group.file = None
            self.detach(group)

    # -- processes

    def spawn(self, uid: int | None, memlock: int | None) -> MadeProcess:
        limit = None if uid is None else MEMLOCK if memlock is None else memlock
        child = MadeProcess(self.name("p"), root=uid is None, limit=limit, files=list(self.agent.files))
        for file in child.files:
            file.holders.append(child)
        self.processes.append(child)
        self.ops.append(Spawn(process=child.name, uid=uid, memlock=memlock))
        return child

    def exit(self, child: MadeProcess) -> None:
        self.ops.append(Exit(process=child.name))
        self.processes.remove(child)
        for file in child.files:
            self._drop(child, file)

    # -- memory

    def allocate(self, by: MadeProcess, pages: int, *, huge: bool = False) -> MadeMemory:
        memory = MadeMemory(self.name("b"), pages, huge=huge)
        by.memory.append(memory)
        self.ops.append(Buffer(by=by.name, name=memory.name, pages=pages, seed=self.below(1 << 30), huge=huge))
        self.ops.append(Frames(by=by.name, buffer=memory.name))
        return memory

    def room(self, by: MadeProcess, pages: int) -> bool:
        return sum(each.pages for each in by.memory) + pages <= MOST_PAGES

    def protect(self, by: MadeProcess, memory: MadeMemory, access: Access) -> None:
        memory.access = access
        self.ops.append(Protect(by=by.name, buffer=memory.name, access=access))

    def some_memory(self, by: MadeProcess, pages: int) -> MadeMemory:
        """A buffer that the process may write, made if necessary. Large maps use a buffer of their own, if there is
        one.
        """
        if writable := by.writable:
            small = [each for each in writable if each.pages < LARGE]
            if not small or pages > BATCH:
                return max(writable, key=lambda each: each.pages)
            return self.rng.choices(small, [each.pages for each in small])[0]
        if self.room(by, CHILDS_PAGES[-1]):
            return self.allocate(by, self.pick(CHILDS_PAGES))
        memory = self.pick(by.memory)
        self.protect(by, memory, "write")
        return memory

    # -- requests

    def ioctl(  # noqa: PLR0917  who asks which file what: the order is an ioctl's own
        self,
        by: MadeProcess,
        file: MadeFile,
        request: str | int,
        fields: dict[str, Word] | None = None,
        value: int | Page | None = None,
        into: str = "",
    ) -> None:
        self.ops.append(Ioctl(by=by.name, file=file.name, request=request, fields=fields or {}, value=value, into=into))

    def struct(self, by: MadeProcess, file: MadeFile, request: str, fields: dict[str, Word]) -> None:
        """A request with its struct, now and then in a buffer of the process."""
        if self.random() < BY_POINTER and by.writable:
            memory = self.pick(by.writable)
            offset = 8 * self.below((memory.pages * PAGE_SIZE - 64) // 8)
            self.ops.append(Put(by=by.name, buffer=memory.name, request=request, offset=offset, fields=fields))
            place = Page(memory.name, *divmod(offset, PAGE_SIZE))
            self.ioctl(by, file, request, value=place)
        else:
            self.ioctl(by, file, request, fields)

    def unmap(self, by: MadeProcess, file: MadeFile, fields: dict[str, Word]) -> bool:
        """:return: False if it was left out, see `tcelab.fuzz.hazard`."""
        iova, size = fields["iova"], fields["size"]
        assert isinstance(iova, int)
        assert isinstance(size, int)
        if endless(self.windows, iova, size):
            self.left_out[quirks.ONE_PAGE] = self.left_out.get(quirks.ONE_PAGE, 0) + 1
            return False
        self.struct(by, file, "UNMAP_DMA", fields)
        return True

    def master(self, by: MadeProcess, file: MadeFile, *, on: bool) -> None:
        self.ops.append(Master(by=by.name, file=file.name, on=on))
        if isinstance(file.what, MadeDevice):
            file.what.master = on

    # -- the life of a container

    def set_container(self, by: MadeProcess, group_file: MadeFile, file: MadeFile) -> None:
        group, container = group_file.what, file.what
        self.ioctl(by, group_file, "GROUP_SET_CONTAINER", {"container": file.name})
        if not isinstance(group, MadeGroup) or not isinstance(container, MadeContainer) or group.container is not None:
            return
        if not (container.typed and container.groups):
            group.container = container
            container.groups.append(group)
        elif container.v2 is not None and not container.v2.made:
            group.container = container
            container.groups.insert(0, group)

    def unset_container(self, by: MadeProcess, file: MadeFile) -> None:
        self.ioctl(by, file, "GROUP_UNSET_CONTAINER")
        if isinstance(file.what, MadeGroup) and not file.what.devices:
            self.detach(file.what)

    def detach(self, group: MadeGroup) -> None:
        container, group.container = group.container, None
        if container is None:
            return
        container.groups.remove(group)
        container.live.clear()
        if not container.groups:  # the last group takes the driver's state along (vfio_group_detach_container)
            container.typed, container.enabled, container.owner, container.v2 = False, False, None, None

    def set_iommu(self, by: MadeProcess, file: MadeFile, kind: int) -> None:
        self.ioctl(by, file, "SET_IOMMU", value=kind)
        container = file.what
        if not isinstance(container, MadeContainer) or not container.groups or container.typed:
            return
        if container.shared and kind == SPAPR_TCE:
            return
        if kind in {SPAPR_TCE, SPAPR_TCE_V2}:
            container.typed = True
            container.v2 = V2() if kind == SPAPR_TCE_V2 else None

    def enable(self, by: MadeProcess, file: MadeFile) -> None:
        self.ioctl(by, file, "ENABLE")
        container = file.what
        if not isinstance(container, MadeContainer) or not container.typed or container.owner not in {None, by}:
            return
        if container.v2 is not None:
            return
        if self.may_enable(by, container):
            container.owner, container.enabled = by, True
        elif quirks.BINDS_EARLY in self.quirks:
            container.owner = by

    def disable(self, by: MadeProcess, file: MadeFile) -> None:
        self.ioctl(by, file, "DISABLE")
        container = file.what
        if isinstance(container, MadeContainer) and container.owner in {None, by}:
            container.enabled = False
