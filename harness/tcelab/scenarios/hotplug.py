"""`hotplug`: devices and PHBs come and go, with and without the guest's consent, and are used by VFIO in between.

A PE that is not touched has entries all the while. Each device that comes carries data, and each PHB has its windows,
as one that was there at boot has. Whoever uses a device lets go of it before it is pulled.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from tcelab.papr import isolationrules, tce, window
from tcelab.program import BridgeAdd, BridgeRemove, DeviceAdd, DeviceRemove, Dma, Flight, Fresh, Ioctl, Op, Page, Reset
from tcelab.program.plugged import HotPlug, Plugged
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("hotplug",)
ROUNDS: Final = 3
"""How often a PHB comes and goes."""
PAGES: Final = 16
"""Of each buffer: a whole CPU page of any kernel."""
_SHIFT: Final = 12
_SIZE: Final = 1 << 24
"""Page shift and bytes of the 64-bit window."""
_LENGTH: Final = 64


class _Story:
    """One guest. Names, seeds and sequences are distinct.

    :ivar first: a PE with a device that is there, `here`, and one that comes and goes, `hot`: the same, if need be.
    :ivar still: a PE that nobody touches, if there is another one.
    :ivar bridge: a PE whose PHB comes and goes.
    """

    def __init__(self, topology: Topology, seed: int) -> None:
        self._plugged = Plugged(topology)
        # A disk stays where it is.
        whole, *others = (
            phb for phb in topology.phbs if phb.plugged and {each.model for each in phb.devices} == {"edu"}
        )
        self.first = Pe(whole, "hotplug")
        self.still = Pe(others[0], "hotplug") if others else None
        self.bridge = Pe(next((phb for phb in topology.phbs if not phb.plugged), whole), "hotplug")
        self.here = next(device.name for device in whole.devices if device.plugged)
        self.hot = next((device.name for device in whole.devices if not device.plugged), self.here)
        self.ops: list[Op] = []
        self._uses: dict[int, Pe] = {}
        self._rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._turn: Iterator[int] = itertools.count(1)

    @property
    def index(self) -> int:
        """Of the PHB that comes and goes."""
        return self.bridge.phb.index

    def plug(self, op: HotPlug) -> None:
        """Plug in or out, and look."""
        what = op.device if isinstance(op, DeviceAdd | DeviceRemove) else f"PHB {op.phb}"
        how = "comes" if isinstance(op, DeviceAdd | BridgeAdd) else "goes"
        self._plugged.happened(op)
        self.look(f"{what} {how}" if op.consent else f"{what} {how}, and the guest is not asked", op)

    def without(self, what: str | int) -> None:
        """A device, or a PHB, is not there."""
        if what in self._plugged.devices:
            self.plug(DeviceRemove(device=str(what), expect="ok"))
        elif what in self._plugged.phbs:
            self.plug(BridgeRemove(phb=int(what), expect="ok"))

    def look(self, label: str, *ops: Op) -> None:
        """Do something, and look at every table."""
        self.ops += [*ops, *b.checkpoint(f"hotplug: {label}", stream=True)]

    def rest(self, *, begins: bool) -> None:
        """The PE that nobody touches begins, or ends, to have entries."""
        if self.still is not None and begins:
            self.map(self.still, [self.still.name])
        elif self.still is not None:
            self.leave(self.still, [self.still.name])

    def map(self, pe: Pe, devices: Sequence[str], kind: int = b.SPAPR_TCE) -> int:
        """A container with entries, which each of these devices uses both ways. Returns their first bus address."""
        turn = next(self._turn)
        pe = self._uses[pe.liobn] = _with(pe, devices, f"hotplug-{turn}")
        page, iova = Page(f"hotplug-{turn}"), self._iova(pe)
        self.ops += [*b.buffer(page.buffer, PAGES, turn), *b.bind(pe), *b.open_container(pe, kind)]
        if kind == b.SPAPR_TCE:
            self.ops += b.enable(pe)
        else:
            self.ops += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=page, size=PAGES * PAGE)
        self.ops += [*b.tag(page, PAGES, pe.liobn, iova, turn), *b.map_dma(pe, page, iova, PAGES, tce.PERMISSIONS)]
        for name in devices:
            self.ops += _device(pe, name)
        self.carry(pe, devices, iova)
        if kind == b.SPAPR_TCE_V2:
            self._second(pe, page, devices, turn)
        self.look(f"{pe.name} is used by {' and '.join(devices)}")
        return iova

    def carry(self, pe: Pe, devices: Sequence[str], iova: int) -> None:
        """Each device writes what it holds, which is nothing when it has just come; reads a page; and writes that."""
        pe = self._uses[pe.liobn]
        for number, name in enumerate(devices):
            at = iova + (number * 3 + 1) * PAGE
            for page, to_memory in enumerate((True, False, True)):
                self.ops += _dma(pe, name, at + page * PAGE, to_memory=to_memory)

    def violate(self, pe: Pe, name: str) -> list[Op]:
        """A transfer past the window."""
        file = self._uses[pe.liobn].file_of(name)
        return [Dma(file=file, iova=pe.end, size=_LENGTH, to_memory=True, expect="refused")]

    def leave(self, pe: Pe, devices: Sequence[str], *, label: str = "") -> None:
        """Close everything."""
        pe = self._uses[pe.liobn]
        files = [*(pe.file_of(name) for name in devices), pe.group, pe.container]
        self.look(label or f"{pe.name} is closed", *b.close(*files))

    def _iova(self, pe: Pe) -> int:
        return pe.iova(self._rng.randrange(1, pe.entries - PAGES) // PAGES * PAGES)

    def _second(self, pe: Pe, page: Page, devices: Sequence[str], turn: int) -> None:
        """A 64-bit window beside the default one, with entries."""
        self.ops += [
            *b.ask(pe, "SPAPR_TCE_CREATE", page_shift=_SHIFT, window_size=_SIZE, levels=1),
            *b.tag(page, PAGES, pe.liobn | 1, window.SECOND_START, turn),
            *b.ask(pe, "MAP_DMA", flags=tce.PERMISSIONS, vaddr=page, iova=window.SECOND_START, size=PAGES * PAGE),
        ]
        self.carry(pe, devices, window.SECOND_START)


def ops(topology: Topology, seed: int) -> list[Op]:
    """Devices; bridges; the guest not asked; a reset in between. Each on a guest of its own."""
    stories = [tell(_Story(topology, seed)) for tell in (_devices, _bridges, _unasked, _reset)]
    return [op for number, each in enumerate(stories) for op in ([Fresh()] if number else []) + each]


def _devices(story: _Story) -> list[Op]:
    """A device comes to a PE that may have one, goes, and comes again; so does the one that was there at boot."""
    first, here, hot = story.first, story.here, story.hot
    story.rest(begins=True)
    for turn in range(2):
        story.without(hot)
        story.plug(DeviceAdd(device=hot, expect="ok"))
        users = [hot] if turn or hot == here else [here, hot]
        story.map(first, users)
        story.leave(first, users)
    story.without(hot)
    story.without(here)
    story.plug(DeviceAdd(device=here, expect="ok"))
    story.map(first, [here])
    story.leave(first, [here])
    story.rest(begins=False)
    return story.ops


def _bridges(story: _Story) -> list[Op]:
    """A PHB comes and goes, and is used by containers of both types; at last so does one that was there at boot."""
    story.rest(begins=True)
    for turn in range(ROUNDS):
        story.without(story.index)
        story.plug(BridgeAdd(phb=story.index, expect="ok"))
        story.map(story.bridge, [story.bridge.name], (b.SPAPR_TCE, b.SPAPR_TCE_V2)[turn % 2])
        story.leave(story.bridge, [story.bridge.name])
    first = story.first.phb.index
    story.without(first)
    story.plug(BridgeAdd(phb=first, expect="ok"))
    story.map(story.first, [story.here])
    story.leave(story.first, [story.here])
    story.rest(begins=False)
    return story.ops


def _unasked(story: _Story) -> list[Op]:
    """QEMU plugs in and is to pull, and the guest does nothing about it: what it has goes on."""
    first, hot, bridge = story.first, story.hot, story.bridge
    story.without(hot)
    story.plug(DeviceAdd(device=hot, consent=False, expect="ok"))
    story.plug(DeviceAdd(device=hot, expect="ok"))
    iova = story.map(first, [hot])
    story.plug(DeviceRemove(device=hot, consent=False, expect="ok", flight=_aloft(hot, iova)))
    story.carry(first, [hot], iova)
    story.leave(first, [hot])
    story.plug(DeviceRemove(device=hot, expect="ok", flight=_aloft(hot, iova)))
    story.without(story.index)
    story.plug(BridgeAdd(phb=story.index, consent=False, expect="ok"))
    story.plug(BridgeAdd(phb=story.index, expect="ok"))
    iova = story.map(bridge, [bridge.name])
    aloft = _aloft(bridge.name, iova)
    story.plug(BridgeRemove(phb=story.index, consent=False, expect="ok", flight=aloft))
    story.carry(bridge, [bridge.name], iova)
    story.leave(bridge, [bridge.name])
    story.plug(BridgeRemove(phb=story.index, expect="ok", flight=aloft))
    return story.ops


def _reset(story: _Story) -> list[Op]:
    """A reset ends what the guest was not asked to end: what was offered is there, what was to go is gone."""
    here = story.here
    if story.index != story.first.phb.index:
        story.plug(BridgeAdd(phb=story.index, consent=False, expect="ok"))
    story.plug(DeviceRemove(device=here, consent=False, expect="ok"))
    story.look("reset", Reset(expect="ok"))
    story.plug(DeviceAdd(device=here, expect="ok"))
    story.map(story.first, [here])
    story.leave(story.first, [here])
    return story.ops


def isolated(topology: Topology, seed: int) -> list[Op]:
    """A PE is isolated, and its device goes and comes: the PE still is. With its PHB, it comes new."""
    story = _Story(topology, seed)
    first, here, hot, bridge = story.first, story.here, story.hot, story.bridge
    story.rest(begins=True)
    story.map(first, [here])
    story.ops += [*story.violate(first, here), *_state(here)]
    story.leave(first, [here], label="isolated")
    if hot != here:
        story.plug(DeviceAdd(device=hot, expect="ok"))
        story.ops += _state(hot)
    story.without(here)
    story.plug(DeviceAdd(device=here, expect="ok"))
    story.ops += _state(here)
    for option in (isolationrules.HOT, isolationrules.DEACTIVATE):
        story.ops += b.rtas(here, isolationrules.SET_RESET, option, isolationrules.SUCCESS)
    story.ops += [*b.rtas(here, isolationrules.CONFIGURE, 0, isolationrules.SUCCESS), *_state(here)]
    users = [here] if hot == here else [here, hot]
    story.map(first, users)
    story.leave(first, users)
    if story.index != first.phb.index:
        story.plug(BridgeAdd(phb=story.index, expect="ok"))
    story.map(bridge, [bridge.name])
    story.ops += [*story.violate(bridge, bridge.name), *_state(bridge.name), *_state(here)]
    story.leave(bridge, [bridge.name], label=f"PHB {story.index} is isolated")
    story.without(story.index)
    story.plug(BridgeAdd(phb=story.index, expect="ok"))
    story.ops += [*_state(bridge.name), *_state(here)]
    story.map(bridge, [bridge.name])
    story.leave(bridge, [bridge.name])
    story.rest(begins=False)
    return story.ops


def _aloft(name: str, iova: int) -> Flight:
    """A device is about to write over the end of a page, from which on two are mapped."""
    return Flight(device=name, iova=iova + PAGE - _LENGTH // 2, size=_LENGTH, to_memory=True)


def _with(pe: Pe, devices: Sequence[str], use: str) -> Pe:
    """A PE with some of its devices, and names of its own for the files."""
    kept = tuple(device for device in pe.phb.devices if device.name in devices)
    return Pe(msgspec.structs.replace(pe.phb, devices=kept), use)


def _device(pe: Pe, name: str) -> list[Op]:
    """Get a device's file and let it master the bus."""
    fields: dict[str, int | str | Page] = {"name": name}
    get = Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=pe.file_of(name), expect="ok")
    return [get, *b.master_of(pe.file_of(name), on=True)]


def _dma(pe: Pe, name: str, iova: int, *, to_memory: bool) -> list[Op]:
    return [Dma(file=pe.file_of(name), iova=iova, size=_LENGTH, to_memory=to_memory, expect="ok")]


def _state(name: str) -> list[Op]:
    """What firmware says of the PE of a device."""
    return b.rtas(name, isolationrules.READ_STATE, 0, isolationrules.SUCCESS)
