"""Which process has which container, group or device open, and what the last close removes.

Sources: drivers/vfio/container.c, drivers/vfio/group.c; a fork shares open files (kernel/fork.c, copy_files).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tceagent import uapi
from tcelab.judge.models.edumodel import DeviceModel
from tcelab.judge.models.tablemodel import LiveEntry, TableModel
from tcelab.judge.models.windowmodel import KernelWindow, WindowModel
from tcelab.program import Ddw
from tcelab.program.topology import Phb


@dataclass(slots=True, eq=False)
class ContainerModel:
    """:ivar groups: the driver makes windows for the first of them: the one that joined last, but of those that joined
        before SET_IOMMU the first (each of two lists is in the reverse order of the one before it: list_add).

    :ivar made: the default window's table was created, and charged; `cancelled`: it was removed before that.

    :ivar payer: the process that is charged, once one has enabled it or registered memory.
    :ivar windows: all that were created, the default one too.
    :ivar users: of type v2, by LIOBN and number, the entries that it counts as mapped (it_userspace), even if a
        hypercall has overwritten them.
    :ivar sweep: clears a group's windows, as its driver does on detach; None: it has no driver.
    :ivar regions: memory that is registered: address and bytes.
    :ivar parting: called before the state is removed.
    """

    groups: list[GroupModel] = field(default_factory=list)
    kind: int | None = None
    enabled: bool = False
    made: bool = False
    cancelled: bool = False
    payer: str | None = None
    windows: list[KernelWindow] = field(default_factory=list)
    regions: set[tuple[int, int]] = field(default_factory=set)
    users: dict[tuple[int, int], LiveEntry] = field(default_factory=dict)
    sweep: Callable[[ContainerModel, GroupModel, int], None] | None = None
    parting: Callable[[ContainerModel], None] | None = None

    def found(self, table: TableModel) -> None:
        """Firmware has created a table again: it is used like the one that had its LIOBN."""
        self.windows = [
            replace(each, table=table) if each.table.liobn == table.liobn else each for each in self.windows
        ]

    def forget(self) -> None:
        """The last group takes the driver's state along (vfio_group_detach_container)."""
        parting, self.parting = self.parting, None
        if parting is not None:
            parting(self)
        self.kind, self.enabled, self.made, self.cancelled, self.payer = None, False, False, False, None
        self.windows, self.regions, self.users, self.sweep = [], set(), {}, None


def _nobody(_group: GroupModel, _step: int) -> None: ...


@dataclass(slots=True, eq=False)
class GroupModel:
    """A PE.

    :ivar references: its own open files and those of its devices, each of which holds the group's.
    :ivar parting: told before it leaves its container.
    :ivar given_back: when it leaves its container, the platform creates its default window again (today's kernel).
    """

    phb: Phb
    windows: WindowModel
    container: ContainerModel | None = None
    references: int = 0
    given_back: bool = True
    parting: Callable[[GroupModel, int], None] = _nobody

    @property
    def table(self) -> TableModel:
        """Of its default window."""
        return self.windows.default

    def is_aside(self, op: Ddw) -> bool:
        """Firmware may create or remove a high window here without any container being affected."""
        if self.container is None:
            return True
        high = self.phb.liobn | 1
        theirs = any(each.table.liobn == high for each in self.container.windows)
        made = self.container.kind == uapi.SPAPR_TCE_V2_IOMMU and self.phb.liobn in self.windows.present
        return made and not theirs and (op.call == "create" or (op.call == "remove" and op.liobn == high))

    def join(self, container: ContainerModel) -> None:
        """It is in a container from now on."""
        self.container = container
        container.groups.insert(len(container.groups) if container.kind is None else 0, self)

    def not_taken(self, step: int) -> None:
        """A container's driver does not take it: VFIO gives its PE back (vfio_container_attach_group)."""
        if self.container is None:
            self._come_back(step)

    def _come_back(self, step: int) -> None:
        """The platform has its PE again, and creates its default window again."""
        if self.given_back:
            self.windows.restore()
            self.table.clear(0, self.table.entries, step)

    def leave(self, step: int) -> None:
        """Leave its container, if it is in one."""
        container, self.container = self.container, None
        if container is None:
            return
        self.parting(self, step)
        if container.sweep is not None:
            container.sweep(container, self, step)
        self._come_back(step)
        container.groups.remove(self)
        container.windows = [each for each in container.windows if each.table.liobn not in self.windows.liobns]
        if not container.groups:
            container.forget()


@dataclass(slots=True, eq=False)
class DeviceFileModel:
    device: DeviceModel
    group: GroupModel


Target: TypeAlias = ContainerModel | GroupModel | DeviceFileModel


@dataclass(slots=True, eq=False)
class _OpenFile:
    """One open file: `processes` counts those that have it."""

    target: Target
    processes: int = 1


class Files:
    """Of each living process, by the names that the program gave them; the agent itself is process ""."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str | int, _OpenFile]] = {"": {}}

    def get(self, process: str, name: str) -> Target | None:
        file = self._of[process].get(name)
        return None if file is None else file.target

    def open(self, process: str, name: str | int, target: Target) -> None:
        """:param name: a number for a file that the program cannot close."""
        self._of[process][name] = _OpenFile(target)
        match target:
            case GroupModel():
                target.references += 1
            case DeviceFileModel():
                target.group.references += 1
                target.device.open()

    def fork(self, child: str) -> None:
        """A child of the agent has all its files."""
        self._of[child] = dict(self._of[""])
        for file in self._of[child].values():
            file.processes += 1

    def close(self, process: str, name: str | int, step: int) -> None:
        """Only the last close by a process has an effect."""
        file = self._of[process].pop(name, None)
        if file is None:
            return
        file.processes -= 1
        if file.processes:
            return
        match file.target:
            case GroupModel() as group:
                _dereference(group, step)
            case DeviceFileModel(device, group):
                device.close()
                _dereference(group, step)

    def exit(self, process: str, step: int) -> None:
        for name in list(self._of[process]):
            self.close(process, name, step)
        del self._of[process]


def _dereference(group: GroupModel, step: int) -> None:
    # A device file holds the group's file: only the last of them leaves the container (vfio_group_fops_release).
    group.references -= 1
    if not group.references:
        group.leave(step)
