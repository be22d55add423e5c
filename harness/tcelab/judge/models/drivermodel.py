"""The effects of a container's driver: maps, registered memory, created and removed windows.

Source: drivers/vfio/vfio_iommu_spapr_tce.c (tce_iommu_ioctl and what it calls).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from tceagent import uapi
from tcelab.judge.models.files import ContainerModel, GroupModel
from tcelab.judge.models.memorymodel import BufferModel, PageModel
from tcelab.judge.models.pinmodel import Pins
from tcelab.judge.models.requests import ARGSZ, FLAGS, NOT_REACHED
from tcelab.judge.models.tablemodel import LiveEntry, TableModel
from tcelab.judge.models.windowmodel import KernelWindow
from tcelab.papr import tce, window
from tcelab.program import Ioctl, Word, pagetags
from tcelab.quirks import CLOSE_STRANDS, REFUSED_SPOILS
from tcelab.run.record import Outcome

V2: Final = uapi.SPAPR_TCE_V2_IOMMU
"""VFIO_SPAPR_TCE_v2_IOMMU."""
_CREATE: Final = "SPAPR_TCE_CREATE"
_MAY_CHARGE: Final = {"EINVAL", "ENODEV", "EPERM", "ENOMEM"}
"""Errnos of a TCE_CREATE that may have charged for the table before it failed (tce_iommu_create_table). A MAP or UNMAP
for which there is no default window may have as well: ENODEV.
"""

Place: TypeAlias = tuple[BufferModel, int]
Handler = Callable[[object, Ioctl, Outcome, int], None]


class DriverModel:
    """The driver's effects on all containers.

    :ivar handlers: by request.
    :ivar doubted: processes whose charges are unknown after a failed call.
    :ivar stranded: memory that stays registered although it was unregistered: process, address and bytes.
    :ivar lost: bytes of such memory whose process has ended: they are pinned for good.
    """

    def __init__(
        self,
        number: Callable[[Word], int | None],
        place: Callable[[Word, str], Place | None],
        pins: Pins,
        unknown: list[str],
        *,
        quirks: frozenset[str],
    ) -> None:
        """:param number: the number of a word, None if unknown.
        :param place: a buffer of a process, and how many bytes into it, that a word leads to.
        :param pins: called with entries that v1 containers clear or replace.
        :param unknown: gets reasons why something could not be folded.
        :param quirks: that are declared. Some calls have another effect with a quirk, which their outcome does not
            show.
        """
        self._number, self._place, self._unknown = number, place, unknown
        self.pins = pins
        self.doubted: set[str] = set()
        self._quirks = quirks
        self.stranded: set[tuple[str, int, int]] = set()
        self.lost = 0
        self._lingering: dict[tuple[str, int, int], list[PageModel]] = {}
        self._registrars: list[ContainerModel] = []
        self._counted: list[LiveEntry] = []  # of type v2, for ever: their users are not looked up any more
        self._spoilt: set[int] = set()  # indices of PHBs
        self.handlers: dict[str, Handler] = {
            "ENABLE": self._enable,
            "DISABLE": self._disable,
            "MAP_DMA": self._map,
            "UNMAP_DMA": self._unmap,
            "SPAPR_REGISTER_MEMORY": self._register,
            "SPAPR_UNREGISTER_MEMORY": self._unregister,
            _CREATE: self._create,
            "SPAPR_TCE_REMOVE": self._remove,
        }

    def exit(self, process: str) -> None:
        """Nobody can unregister what the process left."""
        left = {each for each in self.stranded if each[0] == process}
        self.stranded -= left
        self.lost += sum(size for _, _, size in left)

    # -- what a call does even if it fails

    def reached(self, container: ContainerModel, name: str, op: Ioctl, outcome: Outcome, step: int) -> None:
        """A call of `ARGSZ` was made."""
        self._pending_window(container, name, op, outcome, step)
        if outcome.value == 0:
            return
        if name == _CREATE and outcome.errno == "ENODEV" and REFUSED_SPOILS in self._quirks:
            self._spoilt.update(group.phb.index for group in container.groups[:1])
        tables = _MAY_CHARGE if name == _CREATE and container.kind == V2 else {"ENODEV"}
        if outcome.errno in tables and not _in_vain(container, outcome):  # which refunds (tce_iommu_free_table)
            self.doubted.add(op.by if container.payer is None else container.payer)
        if name != _CREATE:
            self._failed(container, op, step)

    def _pending_window(self, container: ContainerModel, name: str, op: Ioctl, outcome: Outcome, step: int) -> None:
        # The first MAP, UNMAP or TCE_CREATE that passes the checks of its struct creates the default window, even if it
        # then fails (tce_iommu_ioctl: tce_iommu_create_default_window comes before the window is looked up).
        may = container.kind == V2 if name == _CREATE else container.enabled
        if _in_vain(container, outcome) and container.payer in {None, op.by}:
            self._try(container, name, op, step)
            return
        never = NOT_REACHED[name] | ({"ENOMEM"} if len(container.groups) > 1 else set())
        if not may or container.made or container.cancelled or outcome.errno in never:
            return
        if outcome.errno == "ENODEV" and any(group.phb.index in self._spoilt for group in container.groups[:1]):
            return
        passed = self._passed(name, op)
        if passed is None and outcome.errno == "EFAULT":
            return  # not even the struct could be read
        argsz, flags = passed or (None, None)
        if argsz is None or flags is None:
            self._unknown.append(f"{name} of step {step} may have made the default window: its struct is not known")
        elif name == _CREATE and outcome.errno == "ENOMEM":
            self._unknown.append(f"{name} of step {step} may have made the default window before it was over the limit")
        elif argsz >= ARGSZ[name] and not flags & ~FLAGS[name]:
            self._make_default(container, step)
            container.payer = op.by if container.payer is None else container.payer

    def _try(self, container: ContainerModel, name: str, op: Ioctl, step: int) -> None:
        """A window was made for the first of several groups, and removed again.

        The platform makes its default window anew before it is the container's (restore_default_dma_window). Without
        it, no MAP and no UNMAP makes any, and a CREATE the one that it asks for.
        """
        if name != _CREATE and (not container.enabled or container.cancelled):
            return
        shift, size = (self._number(op.fields.get(each, 0)) for each in ("page_shift", "window_size"))
        first = container.groups[0]
        container.payer = op.by
        if op.value is not None and container.cancelled:
            self._unknown.append(f"{name} of step {step} has emptied a table, or not: its struct is not known")
        elif not container.cancelled or (shift == window.PAGE_SHIFT and (size or 0) <= first.phb.window_size):
            first.windows.restore()
            first.table.clear(0, first.table.entries, step)

    def _make_default(self, container: ContainerModel, step: int) -> None:
        container.made = True
        for group in container.groups:
            if group.given_back:  # the driver of 2013 creates none, and has its own entries there
                group.windows.restore()  # ibm,reset-pe-dma-window
                if group.table.live:
                    group.table.clear(0, group.table.entries, step)
            container.windows.append(KernelWindow(group.table, group.phb.window_size))

    def _passed(self, name: str, op: Ioctl) -> tuple[int | None, int | None] | None:
        """What the kernel read as argsz and flags, None where not known; None when there was nothing to read."""
        if op.value is None and isinstance(op.request, int):
            return None  # a request by its number takes no fields, and so leads nowhere
        if op.value is None:
            return self._number(op.fields.get("argsz", ARGSZ[name])), self._number(op.fields.get("flags", 0))
        place = self._place(op.value, op.by)
        return None if place is None or place[0].access == "none" else (None, None)

    def _failed(self, container: ContainerModel, op: Ioctl, step: int) -> None:
        """A failed map or unmap must have changed nothing: note it, to blame it if something is wrong there."""
        for table, first, end in self._concerned(container, op) or ():
            table.tried(first, end, step)

    # -- what a call does that succeeds

    def _enable(self, handle: object, op: Ioctl, outcome: Outcome, _step: int) -> None:
        if outcome.value == 0 and isinstance(handle, ContainerModel):
            handle.enabled, handle.payer = True, op.by

    def _disable(self, handle: object, _op: Ioctl, outcome: Outcome, _step: int) -> None:
        if outcome.value == 0 and isinstance(handle, ContainerModel):
            handle.enabled = False

    def _map(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value != 0 or not isinstance(handle, ContainerModel):
            return
        concerned = self._concerned(handle, op)
        size, flags = self._number(op.fields.get("size", 0)), self._number(op.fields.get("flags", 0))
        if concerned is None or size is None or flags is None:
            self._unknown.append(f"MAP_DMA of step {step} has fields whose values are unknown")
            return
        count = size >> window.PAGE_SHIFT
        frames: list[int | None] = list(outcome.frames)
        if len(frames) != count:
            self._unknown.append(f"MAP_DMA of step {step} reported {len(frames)} frames for {count} pages")
            frames = [None] * count
        buffer, start = self._from(op)
        pages: list[PageModel | None] = []
        for number, frame in enumerate(frames, start):
            page = buffer.pages[number] if buffer and 0 <= number < len(buffer.pages) else None
            if page is not None and frame is not None:
                page.frame = frame
            pages.append(page)
        name = buffer.name if buffer else ""
        for table, first, end in concerned:
            each = 1 << table.page_shift - window.PAGE_SHIFT
            entries = [
                LiveEntry(
                    flags & tce.PERMISSIONS,
                    name,
                    start + i,
                    pages[i],
                    frames[i],
                    step,
                    rest=(*pages[i + 1 : i + each],),
                    pinned=handle.kind != V2,
                )
                for i in range(0, min(count, (end - first) * each), each)
            ]
            if entries and handle.kind == V2:
                self._use(handle, table, first, entries)
                table.put(first, entries, step)
            elif entries:
                self.pins.cleared(table.put(first, entries, step), step)

    def _from(self, op: Ioctl) -> tuple[BufferModel | None, int]:
        """The buffer that a map began in, and the number of the page."""
        place = self._place(op.fields.get("vaddr", 0), op.by)
        return (None, 0) if place is None else (place[0], place[1] // pagetags.PAGE)

    def _unmap(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value != 0 or not isinstance(handle, ContainerModel):
            return
        concerned = self._concerned(handle, op)
        if concerned is None:
            self._unknown.append(f"UNMAP_DMA of step {step} has fields whose values are unknown")
        for table, first, end in concerned or ():
            self._clear(handle, table, (first, end), step)

    def _clear(self, container: ContainerModel, table: TableModel, numbers: tuple[int, int], step: int) -> None:
        """tce_iommu_clear: for an entry without permissions, it does not look up the user."""
        first, end = numbers
        if container.kind == V2:
            used = [where for where in container.users if where[0] == table.liobn and first <= where[1] < end]
            for where in used:
                if table.permissions(where[1]):
                    del container.users[where]
            table.clear(first, end, step)
        elif all(group.given_back for group in container.groups):
            self.pins.cleared(table.clear(first, end, step), step)
        else:  # the driver of 2013 passes over what gives no permission (iommu_clear_tce)
            kept = {number: each for number, each in table.live.items() if each.untold or not each.permissions}
            self.pins.cleared(table.clear(first, end, step), step)
            for number, entry in kept.items():
                table.put(number, [entry], step)

    def _use(self, container: ContainerModel, table: TableModel, first: int, entries: Sequence[LiveEntry]) -> None:
        """Entries are about to be stored: the use counted there is dropped only if the old entry has a permission."""
        for number, entry in enumerate(entries, first):
            where = table.liobn, number
            if where in container.users and not table.permissions(number):
                self._counted.append(container.users[where])
            container.users[where] = entry

    def excuse(self, container: ContainerModel | None, table: TableModel, number: int, step: int) -> None:
        """A failed map has emptied an entry that it had replaced, because of a quirk."""
        gone = table.clear(number, number + 1, step)
        if container is not None and container.kind == V2:
            container.users.pop((table.liobn, number), None)
        else:
            self.pins.cleared(gone, step)

    def sweep(self, container: ContainerModel, group: GroupModel, step: int) -> None:
        """Clear all windows before a group is detached. The driver of 2013 clears the group's only window."""
        own = [each for each in container.windows if each.table.liobn in group.windows.liobns]
        if not group.given_back:
            self._clear(container, group.table, (0, group.table.entries), step)
        for each in own if group.given_back else ():
            self._let_go(container, each, step)

    def _let_go(self, container: ContainerModel, window_: KernelWindow, step: int) -> None:
        """Remove a window: uses that are still counted there stay counted for ever."""
        self._clear(container, window_.table, (0, window_.entries), step)
        for where in [where for where in container.users if where[0] == window_.table.liobn]:
            self._counted.append(container.users.pop(where))

    def _concerned(self, container: ContainerModel, op: Ioctl) -> list[tuple[TableModel, int, int]] | None:
        """The entries `first .. end-1` of a table that a map or unmap concerns, for each group; None when we cannot
        know them.
        """
        iova, size = self._number(op.fields.get("iova", 0)), self._number(op.fields.get("size", 0))
        if iova is None or size is None:
            return None
        tables = [_window_of(container, group, iova) for group in container.groups]
        return [(table, table.number(iova), table.number(iova + size)) for table in tables]

    def _register(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        region = self._region(handle, op, outcome, step)
        if isinstance(handle, ContainerModel) and region is not None:
            handle.regions.add(region)
            if handle not in self._registrars:
                self._registrars.append(handle)
                handle.parting = self._parting
            handle.enabled = True
            handle.payer = op.by if handle.payer is None else handle.payer

    def _unregister(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        region = self._region(handle, op, outcome, step)
        if not isinstance(handle, ContainerModel) or region is None:
            return
        handle.regions.discard(region)
        # The driver ignored mm_iommu_put's error for memory in use; otherwise there would be an errno.
        if self._in_use(handle, op.by, region):
            self.stranded.add((op.by, *region))

    def _parting(self, container: ContainerModel) -> None:
        """The driver forgets a container, whose own entries are gone."""
        self._registrars.remove(container)
        for region in container.regions:
            if (pages := self._in_use(container, container.payer or "", region)) and CLOSE_STRANDS in self._quirks:
                self.stranded.add((container.payer or "", *region))
            elif pages:
                self._lingering[container.payer or "", *region] = pages

    def _in_use(self, container: ContainerModel, process: str, region: tuple[int, int]) -> list[PageModel]:
        """Pages of a region that its last container unregisters while an entry leads to one of them: that keeps the
        whole region (mm_iommu_put).
        """
        if any(region in each.regions for each in self._registrars if each.payer == container.payer):
            return []
        place = self._place(region[0], process)
        first = place[1] // pagetags.PAGE if place else 0
        pages = place[0].pages[first : first + (region[1] >> window.PAGE_SHIFT)] if place else []
        return pages if self._led_to(pages) else []

    def _led_to(self, pages: list[PageModel]) -> bool:
        """An entry leads to one of them."""
        live = {id(page) for each in self._registrars for page in _led_to(each.users.values())}
        live.update(id(page) for page in _led_to(self._counted))
        return any(id(page) in live for page in pages)

    def kept(self) -> set[tuple[str, int, int]]:
        """Memory that stays registered although it was unregistered: process, address and bytes."""
        self._lingering = {region: pages for region, pages in self._lingering.items() if self._led_to(pages)}
        return self.stranded | self._lingering.keys()

    def _region(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> tuple[int, int] | None:
        if outcome.value != 0 or not isinstance(handle, ContainerModel):
            return None
        start, size = self._number(op.fields.get("vaddr", 0)), self._number(op.fields.get("size", 0))
        if start is None or size is None:
            self._unknown.append(f"{op.request} of step {step} has fields whose values are unknown")
            return None
        return start, size

    def _create(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value != 0 or not isinstance(handle, ContainerModel):
            return
        shift, size = self._number(op.fields.get("page_shift", 0)), self._number(op.fields.get("window_size", 0))
        start = outcome.fields.get("start_addr")
        if shift is None or size is None or type(start) is not int or len(handle.groups) != 1:
            self._unknown.append(f"{_CREATE} of step {step}: which window it made is not known")
            return
        (group,) = handle.groups
        handle.payer = op.by if handle.payer is None else handle.payer
        made = group.windows.create(size, shift, start)
        if not made.made:
            made.table.clear(0, made.table.entries, step)
        handle.windows.append(made)

    def _remove(self, handle: object, op: Ioctl, outcome: Outcome, step: int) -> None:
        if outcome.value != 0 or not isinstance(handle, ContainerModel):
            return
        start = self._number(op.fields.get("start_addr", 0))
        if start is None:
            self._unknown.append(f"{op.request} of step {step} has fields whose values are unknown")
            return
        if not handle.made and not handle.cancelled and start == 0:
            handle.cancelled = True
            return
        for each in [each for each in handle.windows if each.has(start)]:
            handle.windows.remove(each)
            self._let_go(handle, each, step)
            for group in handle.groups if each.made else ():
                group.windows.remove(each.table.liobn)


def _in_vain(container: ContainerModel, outcome: Outcome) -> bool:
    """Several groups have no window in common, on platforms where a table is its PE's alone (spapr_tce_set_window)."""
    return outcome.errno == "EPERM" and container.kind == V2 and len(container.groups) > 1


def _window_of(container: ContainerModel, group: GroupModel, iova: int) -> TableModel:
    """The table that has a bus address, as the container knows the group's windows; the default one if none has."""
    own = (each for each in container.windows if each.table.liobn in group.windows.liobns)
    return next((each.table for each in own if each.has(iova)), group.table)


def _led_to(entries: Iterable[LiveEntry]) -> Iterator[PageModel | None]:
    """The pages that entries lead to."""
    for entry in entries:
        yield entry.page
        yield from entry.rest
