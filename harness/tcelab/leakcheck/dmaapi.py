"""Drivers' requests to the kernel's DMA API, from its trace events: device, bus address, size and direction.

Generic code records the driver's arguments, after the platform's code has stored the entries. So the events witness the
request, and the hypercalls witness the result.

Source: Linux include/trace/events/dma.h (6.12 and newer) and kernel/dma/mapping.c; for "[LOST ...]"
kernel/trace/trace.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from tcelab.papr import hcallnumbers, window

PORT: Final = "org.tcelab.dma-api"
"""The guest's port for this trace, next to the agent's."""

EVENTS: Final = (
    "dma_map_page",
    "dma_map_phys",
    "dma_map_resource",
    "dma_map_sg",
    "dma_alloc",
    "dma_alloc_pages",
    "dma_alloc_sgt",
)
"""Events that give a driver a bus address; each kernel has some of them."""

RAW: Final = "tcelab_raw"
"""Our own event: a program hands a batch of hypercalls to /dev/tce_hcall (guest/kmod/tce_hcall.c)."""

Direction = Literal["BIDIRECTIONAL", "TO_DEVICE", "FROM_DEVICE", "NONE"]
"""Of enum dma_data_direction, without the DMA_."""

_VERSION: Final = 1
_CALLS: Final = 1024
"""TCE_HCALL_VERSION and TCE_HCALL_CALLS of guest/kmod/tce_hcall.c."""

_FAILED: Final = (1 << 64) - 1
"""DMA_MAPPING_ERROR."""

_LINE: Final = re.compile(r".*?: (\w+): (.*)")
_ONE: Final = re.compile(r"(\S+) dir=(\w+) dma_addr=([0-9a-f]+) size=(\d+) ")
_LIST: Final = re.compile(r"(\S+) dir=(\w+) (.*?)dma_addrs=\{([^}]*)\} sizes=\{([^}]*)\}")
_CALL: Final = re.compile(r".*version=(\S+) count=(\S+) opcode=(\S+) liobn=(\S+) ioba=(\S+) value=(\S+) entries=(\S+)")
_REFUSED: Final = re.compile(r"opcode=(\d+) retval=(-?\d+)")
_LOST: Final = re.compile(r".*\[LOST (\d+) EVENTS\]")


class Asked(NamedTuple):
    """A mapping that a driver got.

    :ivar device: as the kernel calls it, `0001:00:01.0`.
    :ivar first: bus address of its first IOMMU page; `entries`: how many it has.
    """

    device: str
    direction: str
    first: int
    entries: int


class Raw(NamedTuple):
    """A batch of hypercalls that a program made itself.

    :ivar batch: how many calls; `opcode` and the rest describe the first one. 0: nothing could be read.
    """

    batch: int
    opcode: int
    liobn: int
    ioba: int
    value: int
    entries: int


class Turned(NamedTuple):
    """A refused TCE hypercall, whoever made it; QEMU's trace does not contain all of these."""

    opcode: int
    status: int


class Mark(NamedTuple):
    """All earlier requests have been reported."""

    text: str


class Lost(NamedTuple):
    """Lost events, or a line that cannot be parsed."""

    what: str


Event = Asked | Raw | Turned | Mark | Lost


class Reader:
    """Takes the text of a trace in pieces.

    :param page_size: of the guest's kernel, in bytes: what dma_alloc gives are whole pages of it
        (arch/powerpc/kernel/iommu.c, iommu_alloc_coherent).
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._partial = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events of the lines that end in this piece."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            yield from self._line(line.decode("utf-8", "replace").rstrip("\r"))

    def _line(self, line: str) -> Iterator[Event]:
        if found := _LOST.match(line):
            yield Lost(f"{found[1]} events of the DMA API")
            return
        found = _LINE.match(line)
        if found is None:
            if line.strip():
                yield Lost(f"a line of the kernel's trace is not understood: {line.strip()}")
            return
        name, text = found[1], found[2]
        if name == "tracing_mark_write":
            yield Mark(text.strip())
        elif name == RAW:
            yield from _raw(text)
        elif name == "hcall_exit" and (found := _REFUSED.match(text)):
            yield Turned(int(found[1]), int(found[2]))
        elif name in EVENTS:
            yield from self._asked(name, text)

    def _asked(self, name: str, text: str) -> Iterator[Event]:
        if found := _ONE.match(text):
            device, direction, address, size = found.groups()
            pieces = [(int(address, 16), int(size))]
        elif found := _LIST.match(text):
            device, direction, flags, addresses, sizes = found.groups()
            pieces = list(zip(_numbers(addresses), _numbers(sizes), strict=False))
            if "[TRUNCATED]" in flags:
                yield Lost("the end of a long list of dma_map_sg")
        else:
            yield Lost(f"a line of the kernel's trace is not understood: {name}: {text.strip()}")
            return
        for address, size in pieces:
            if address == _FAILED or not size:
                continue
            if name.startswith("dma_alloc"):
                size = -(-size // self._page_size) * self._page_size  # noqa: PLW2901 - whole pages
            first = address & -window.PAGE_SIZE
            yield Asked(device, direction, first, (address + size - first + window.PAGE_SIZE - 1) >> window.PAGE_SHIFT)


def _numbers(words: str) -> list[int]:
    return [int(word, 0) for word in words.split(",") if word]


def _raw(text: str) -> Iterator[Event]:
    found = _CALL.match(text)
    try:
        if found is not None:
            version, batch, opcode, liobn, ioba, value, entries = (int(word, 0) for word in found.groups())
            # Anything else is no batch and makes no call; a shell writes a long batch in two pieces.
            if version == _VERSION and 0 < batch <= _CALLS:
                one = opcode == hcallnumbers.H_PUT_TCE
                yield Raw(batch, opcode, liobn, ioba & -window.PAGE_SIZE, value, 1 if one else entries)
            return
    except ValueError:  # the kernel writes "(fault)" where it could not look
        pass
    yield Raw(0, 0, 0, 0, 0, 0)


def raw_event() -> str:
    """The line for the kernel's file kprobe_events that makes it report programs' own hypercalls: the write that hands
    over a batch, with its first call (guest/kmod/tce_hcall.c, struct tce_hcall_batch and tce_hcall_call). Of a call,
    what counts its entries is the fourth argument.
    """
    places = {
        "version": (0, "u32"),
        "count": (4, "u32"),
        "opcode": (16, "u64"),
        "liobn": (24, "u64"),
        "ioba": (32, "u64"),
    }
    places |= {"value": (40, "u64"), "entries": (48, "u64")}
    words = " ".join(f"{name}=+u{at}(%gpr4):{kind}" for name, (at, kind) in places.items())
    return f"p:tcelab/{RAW} tce_hcall_write {words}"
