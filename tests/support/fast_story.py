"""What tests of the fast engine share: a PE with an edu and a disk, memory mapped for both, and its queue."""

from __future__ import annotations

from tcelab.program import Checkpoint, Dma, Engine, Ioctl, Master, Op, Page, Program, Transfer
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


def program(*ops: Op, isolation: bool = False) -> Program:
    """Set up, the operations, and a look at what they left."""
    whole = [*opened(), engine(), Checkpoint(label="before"), *ops, Checkpoint(label="after")]
    return Program(name="fast", topology=FAST, ops=whole, isolation=isolation)
