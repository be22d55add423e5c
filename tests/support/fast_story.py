"""What tests of the fast engine share: a PE with an edu and a disk, memory mapped for both, and its queue."""

from __future__ import annotations

from tcelab.program import Burst, Checkpoint, Dma, Engine, Ioctl, Master, Op, Page, Program, Transfer
from tcelab.program.topology import topology
from tcelab.scenarios import vocabulary as b

FAST = topology("fast")
(ONE, TWO) = b.pes(FAST, "fast")
READ, WRITE, BOTH = 1, 2, 3
ONES = (1 << 64) - 1

BASE = 0x10000
"""Pages 0..9 of buffer m are at BASE and up, with the permissions of MAPPED; pages that are not there are holes."""
MAPPED = {0: BOTH, 1: BOTH, 3: BOTH, 6: READ, 7: WRITE, 9: BOTH}
RING = 0x800000
TAGGED = 0x900000
PAGES = 10


def at(page: int, plus: int = 0) -> int:
    """Bus address of a page of m."""
    return BASE + page * 4096 + plus


def opened() -> list[Op]:
    """Devices `disk` and `edu` of PE 1, both of which may master the bus; the disk is not set up."""
    ops = [*b.buffer("m", PAGES, 1), *b.buffer("ring", 2, 2), *b.buffer("t", 1, 3)]
    ops += b.fill(Page("m"), PAGES * 4096, 7)
    ops += b.tag(Page("t"), 1, ONE.liobn, TAGGED, 1)
    ops += [*b.bind(ONE), *b.open_container(ONE), *b.enable(ONE)]
    for name, file in (("disk1", "disk"), ("pe1", "edu")):
        fields: dict[str, int | str | Page] = {"name": name}
        ops += [
            Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=file, expect="ok"),
            Master(file=file, expect="ok"),
        ]
    for page, permissions in MAPPED.items():
        ops += b.map_dma(ONE, Page("m", page), at(page), 1, permissions)
    ops += b.map_dma(ONE, Page("ring"), RING, 2, BOTH)
    ops += b.map_dma(ONE, Page("t"), TAGGED, 1, READ)
    return ops


def engine(file: str = "disk") -> Engine:
    return Engine(file=file, ring=Page("ring"), iova=RING, expect=0)


def write(iova: int, size: int = 512, offset: int = 0, file: str = "disk") -> Dma:
    """The disk is read, and memory written."""
    return Dma(file=file, iova=iova, size=size, to_memory=True, offset=offset)


def read(iova: int, size: int = 512, offset: int = 0, file: str = "disk") -> Dma:
    """Memory is read, and the disk written."""
    return Dma(file=file, iova=iova, size=size, to_memory=False, offset=offset)


def gives(iova: int, size: int = 512, offset: int = 0) -> Transfer:
    """In a burst: the disk is read, and memory written."""
    return Transfer(iova, size, to_memory=True, offset=offset)


def takes(iova: int, size: int = 512, offset: int = 0) -> Transfer:
    """In a burst: memory is read, and the disk written."""
    return Transfer(iova, size, to_memory=False, offset=offset)


UP = 1 << 59
"""Where a second window begins."""


def above() -> list[Op]:
    """The disk has its queue in a window above, and carries data there and in the default one; the last transfer
    writes what it may only read.
    """
    fields: dict[str, int | str | Page] = {"name": "disk1"}

    def mapped(page: int, iova: int, count: int, permissions: int) -> list[Op]:
        return b.map_dma(ONE, Page("m", page), iova, count, permissions)

    return [
        *b.buffer("m", 16, 1),
        *b.fill(Page("m"), 16 * 4096, 7),
        *b.bind(ONE),
        *b.open_container(ONE, b.SPAPR_TCE_V2),
        *b.ask(ONE, "SPAPR_REGISTER_MEMORY", vaddr=Page("m"), size=16 * 4096),
        *b.ask(ONE, "SPAPR_TCE_CREATE", page_shift=12, window_size=1 << 28, levels=1),
        *b.tag(Page("m", 8), 1, ONE.liobn | 1, UP + TAGGED, 5),
        Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", fields=fields, into="disk", expect="ok"),
        Master(file="disk", expect="ok"),
        *mapped(0, UP + RING, 2, BOTH),
        *mapped(2, UP + BASE, 2, BOTH),
        *mapped(4, UP + BASE + 0x4000, 1, READ),
        *mapped(6, BASE, 1, BOTH),
        *mapped(8, UP + TAGGED, 1, READ),
        Engine(file="disk", ring=Page("m"), iova=UP + RING, expect=0),
        Burst(
            file="disk",
            transfers=[
                *(gives(UP + BASE + place, 512, place) for place in range(0, 4096, 512)),
                takes(UP + BASE + 0x1000, 1024, 8192),
                gives(BASE, 512, 1024),
                takes(BASE, 512, 4096),
                takes(UP + TAGGED, 4096, 16384),
            ],
            expect="passed",
        ),
        Checkpoint(label="carried", stream=True),
        write(UP + BASE + 0x4000),
        Checkpoint(label="refused", stream=True),
    ]


def program(*ops: Op, isolation: bool = False) -> Program:
    """Set up, the operations, and a look at what they left."""
    whole = [*opened(), engine(), Checkpoint(label="before"), *ops, Checkpoint(label="after")]
    return Program(name="fast", topology=FAST, ops=whole, isolation=isolation)
