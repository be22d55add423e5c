"""The vocabulary of scenarios: each function gives a list of operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from tceagent import uapi
from tcelab.papr import isolationrules, window
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Ddw,
    Dma,
    Fill,
    Flight,
    Frames,
    Ioctl,
    Look,
    Master,
    Op,
    Open,
    Page,
    Read,
    Repeat,
    Rtas,
    Tag,
    Together,
)
from tcelab.program.topology import Phb, Topology

SPAPR_TCE: Final = uapi.SPAPR_TCE_IOMMU
SPAPR_TCE_V2: Final = uapi.SPAPR_TCE_V2_IOMMU
"""VFIO container types, include/uapi/linux/vfio.h."""

PAGE: Final = window.PAGE_SIZE
_ALOFT: Final = 64
"""Bytes of a transfer in flight over an event."""


@dataclass(frozen=True, slots=True)
class Pe:
    """A PE under test, and what a scenario calls its files. `scenario` keeps names of different scenarios apart."""

    phb: Phb
    scenario: str

    @property
    def name(self) -> str:
        return self.phb.devices[0].name

    @property
    def liobn(self) -> int:
        return self.phb.liobn

    @property
    def entries(self) -> int:
        return self.phb.entries

    @property
    def start(self) -> int:
        """Bus address of the window."""
        return self.phb.window_start

    @property
    def end(self) -> int:
        """Bus address of the first page after the window."""
        return self.phb.window_end

    def iova(self, entry: int) -> int:
        """Bus address of an entry."""
        return self.start + entry * PAGE

    @property
    def container(self) -> str:
        return f"{self.scenario}-{self.name}-container"

    @property
    def group(self) -> str:
        return f"{self.scenario}-{self.name}-group"

    @property
    def device(self) -> str:
        return self.file_of(self.name)

    def file_of(self, device: str) -> str:
        """What the file of one of its devices is called."""
        return f"{self.scenario}-{device}-device"


def pes(topology: Topology, scenario: str) -> list[Pe]:
    """The PEs of a topology that carry a device which programs drive when the machine starts."""
    return [Pe(phb, scenario) for phb in topology.at_start.phbs if set(phb.devices) - set(topology.driven)]


def bind(pe: Pe) -> list[Op]:
    return [Bind(device=each.name, expect="ok") for each in pe.phb.devices]


def open_container(pe: Pe, kind: int = SPAPR_TCE) -> list[Op]:
    """Open container and group, look at both, and join them, by default as type v1."""
    return [
        Open(file=pe.container, path="/dev/vfio/vfio", expect="ok"),
        Ioctl(file=pe.container, request="GET_API_VERSION", expect=0),
        Ioctl(file=pe.container, request="CHECK_EXTENSION", value=kind, expect=1),
        Open(file=pe.group, path=f"/dev/vfio/${pe.name}", expect="ok"),
        Ioctl(file=pe.group, request="GROUP_GET_STATUS", expect="ok"),
        Ioctl(file=pe.group, request="GROUP_SET_CONTAINER", fields={"container": pe.container}, expect="ok"),
        Ioctl(file=pe.container, request="SET_IOMMU", value=kind, expect="ok"),
        Ioctl(file=pe.group, request="GROUP_GET_STATUS", expect="ok"),
    ]


def ask(pe: Pe, request: str, expect: str | int | None = "ok", **fields: int | Page) -> list[Op]:
    """Any request to a PE's container."""
    words: dict[str, int | str | Page] = {**fields}
    return [Ioctl(file=pe.container, request=request, fields=words, expect=expect)]


def ddw(
    pe: Pe,
    call: Literal["query", "create", "remove", "reset"],
    expect: str | int = "ok",
    *,
    page_shift: int = 0,
    window_shift: int = 0,
    liobn: int = 0,
) -> list[Op]:
    """A firmware service for the windows of a PE."""
    where = {"page_shift": page_shift, "window_shift": window_shift, "liobn": liobn}
    return [Ddw(call=call, device=pe.name, expect=expect, **where)]


def get_info(pe: Pe) -> list[Op]:
    return [Ioctl(file=pe.container, request="SPAPR_TCE_GET_INFO", expect="ok")]


def enable(pe: Pe) -> list[Op]:
    return [Ioctl(file=pe.container, request="ENABLE", expect="ok")]


def disable(pe: Pe) -> list[Op]:
    return [Ioctl(file=pe.container, request="DISABLE", expect="ok")]


def open_device(pe: Pe) -> list[Op]:
    """Get the device's file and let it master the bus."""
    fields: dict[str, int | str | Page] = {"name": pe.name}
    return [
        Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=pe.device, expect="ok"),
        *master(pe, on=True),
    ]


def master(pe: Pe, *, on: bool) -> list[Op]:
    return master_of(pe.device, on=on)


def master_of(file: str, *, on: bool) -> list[Op]:
    """The same for any device's file."""
    return [Master(file=file, on=on, expect="ok")]


def buffer(name: str, pages: int, seed: int) -> list[Op]:
    """Allocate a buffer, and learn the frames of its pages."""
    return [Buffer(name=name, pages=pages, seed=seed, expect="ok"), Frames(buffer=name, expect="ok")]


def tag(page: Page, count: int, liobn: int, iova: int, sequence: int) -> list[Op]:
    """Tag `count` pages from `page` on for the mapping at `iova`."""
    name, first = page.buffer, page.index
    return [Tag(buffer=name, first=first, count=count, liobn=liobn, ioba=iova, sequence=sequence, expect="ok")]


def fill(page: Page, size: int, seed: int) -> list[Op]:
    """Unique data into `size` bytes from `page` on."""
    return [Fill(buffer=page.buffer, offset=page.index * PAGE + page.plus, size=size, seed=seed, expect="ok")]


def map_dma(pe: Pe, page: Page, iova: int, pages: int, permissions: int) -> list[Op]:
    """Map `pages` IOMMU pages from `page` on at bus address `iova`."""
    fields: dict[str, int | str | Page] = {"flags": permissions, "vaddr": page, "iova": iova, "size": pages * PAGE}
    return [Ioctl(file=pe.container, request="MAP_DMA", fields=fields, expect="ok")]


def unmap_dma(pe: Pe, iova: int, pages: int) -> list[Op]:
    fields: dict[str, int | str | Page] = {"iova": iova, "size": pages * PAGE}
    return [Ioctl(file=pe.container, request="UNMAP_DMA", fields=fields, expect="ok")]


def repeat(ops: list[Op], times: int, loop: Literal["c", "python"] = "c") -> list[Op]:
    """Do maps and unmaps `times` times in one operation. Each call must give what the single operation expects."""
    calls = [msgspec.structs.replace(op, expect=None) for op in ops if isinstance(op, Ioctl)]
    return [Repeat(ops=calls, times=times, loop=loop, expect="ok")]


def aloft(pe: Pe, iova: int) -> Flight | None:
    """Its device is about to write over the end of a page, from which on two are mapped; only an edu can be."""
    device = next(device for device in pe.phb.devices if device.name == pe.name)
    if device.model != "edu":
        return None
    return Flight(device=pe.name, iova=iova + PAGE - _ALOFT // 2, size=_ALOFT, to_memory=True)


def dma(pe: Pe, iova: int, size: int, *, to_memory: bool, offset: int = 0) -> list[Op]:
    return [Dma(file=pe.device, iova=iova, size=size, to_memory=to_memory, offset=offset, expect="ok")]


def together(transfers: Sequence[Dma]) -> list[Op]:
    """Transfers of several edus at the same time, all of which begin and end."""
    return [Together(ops=list(transfers), expect=0)]


def look(file: str, *, identity: int, command: int) -> list[Op]:
    """A device as its driver sees it, see `Look`."""
    return [
        Look(file=file, what="identity", expect=identity),
        Look(file=file, what="command", expect=command),
    ]


def rtas(device: str, call: str, option: int, status: int) -> list[Op]:
    """A firmware service for the PE of a device."""
    return [Rtas(call=call, device=device, option=option, expect=status)]


def close(*files: str) -> list[Op]:
    return [Close(file=file, expect="ok") for file in files]


def vmlck() -> list[Op]:
    return [Read(what="vmlck", expect="ok")]


def pins() -> list[Op]:
    return [Read(what="pins", expect="ok")]


def checkpoint(label: str, *, stream: bool = False, batch: int = 0) -> list[Op]:
    return [Checkpoint(label=label, stream=stream, batch=batch)]


def states(pes: Sequence[Pe]) -> list[Op]:
    """What firmware says of each PE."""
    return [op for pe in pes for op in rtas(pe.name, isolationrules.READ_STATE, 0, isolationrules.SUCCESS)]


def let_go(pe: Pe) -> list[Op]:
    """Close the device, the group and the container, in this order."""
    return close(pe.device, pe.group, pe.container)
