"""A row: what a kernel does, as a short program with literals typed from its source, and the words rows are made of.

Rows know programs and nothing else: no row may be derived from the emulator that it judges.

A row runs on a machine on which `PROLOGUE` was done, as one of many, unless it has a `given` state, a topology of its
own, or does not end `clean`: then on a machine of its own. A clean row leaves no file, no process, no entry and no
charge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Exit,
    Frames,
    Ioctl,
    Op,
    Open,
    Page,
    Protect,
    Put,
    Read,
    Spawn,
    Word,
)

Ops: TypeAlias = tuple[Op, ...]
Entry: TypeAlias = tuple[int, str, int, int]
"""IOBA, buffer, number of its page, permissions: 1 the device may read memory, 2 it may write it."""
Tables: TypeAlias = Mapping[int, tuple[Entry, ...]]
"""All entries that are not empty, by LIOBN."""
Expect: TypeAlias = str | int | None
"""None: the operation never returns."""

SEED: Final = "drivers/vfio/vfio_iommu_spapr_tce.c (2013)"
SEED_IOMMU: Final = "arch/powerpc/kernel/iommu.c (3.18)"
NO_SEED: Final = "no kernel of today has this driver"
DRIVER: Final = "drivers/vfio/vfio_iommu_spapr_tce.c"
IOMMU: Final = "arch/powerpc/kernel/iommu.c"
NO_PROGRAM: Final = "no program can bring a kernel there"
OOPS: Final = "NULL pointer dereference|Unable to handle kernel"

PE1: Final = 0x80000100
PE2: Final = 0x80000200
"""LIOBNs of pe1 and pe2 in topology two-small. Each window has 4096 entries: IOVA 0..0xffffff."""

PAGE: Final = 0x1000
LAST: Final = 0xFFF000
"""The last page of a window."""
END: Final = 0x1000000
HIGH: Final = 0x40000000
"""Where the window of pe1 begins in topology high-window, which is two-small otherwise."""
WINDOW_KIB: Final = 16384
"""What a window costs while it is enabled, in KiB of VmLck."""
TABLE_KIB: Final = 32
"""What its table costs, from the first MAP or UNMAP on: 4096 entries of 8 bytes."""
WINDOW: Final = WINDOW_KIB * 1024
TABLE: Final = TABLE_KIB * 1024

NOBODY: Final = 65534
"""A user without capabilities."""
UNKNOWN: Final = 0x20003BFF
"""_IO(';', 255): no VFIO request."""

READ: Final = 1
WRITE: Final = 2

CONTAINER: Final = "c"
GROUP: Final = "g"
DEVICE: Final = "d"
LOOK: Final = "look"

GIVEN: Final[Mapping[str, str]] = {
    "bitmap-used": "an entry of pe1's table, not the first, is in use by the kernel when ownership is asked for",
    "bit-0-used": "the first entry of pe1's table is reserved in its bitmap, as iommu_init_table leaves it",
    "table-without-group": "pe1's table has lost its IOMMU group: it_group is NULL",
    "table-loses-group-once-enabled": "as table-without-group, but only after the first ENABLE that succeeds",
    "group-without-table": "pe1's IOMMU group has no iommudata, as the driver sees it",
    "group-loses-table": "as group-without-table, but only after the group was attached",
    "no-table": "the driver's container forgets its table as soon as a group was attached",
    "no-table-once-enabled": "as no-table, but only after the first ENABLE that succeeds",
    "no-group": "the driver's container forgets its group as soon as it was attached",
    "no-group-once-enabled": "as no-group, but only after the first ENABLE that succeeds",
    "no-mm": "the driver sees a current without mm",
    "no-mm-once-enabled": "as no-mm, but only after the first ENABLE that succeeds",
    "release-alone": "the core releases the driver's container without having detached its group",
    "window-at-0x8000000": "the window of pe1 begins at bus address 0x8000000",
    "window-4GiB": "the window of pe1 has 4 GiB",
    "window-60KiB": "the window of pe1 has 60 KiB, 15 entries",
    "window-size-0": "the table group of pe1 says that its window has no bytes",
    "cpu-pages-64KiB": "the kernel has pages of 64 KiB",
}
"""States that no program can make, set up in the emulator before the row's operations."""


@dataclass(frozen=True)
class Right:
    """The row on a kernel without any known defect: as many operations, other literals."""

    ops: Ops
    tables: Tables | None = None
    log: str = ""


@dataclass(frozen=True)
class Row:
    """:ivar name: a sentence.

    :ivar source: kernel file, function, and which part of it.
    :ivar ops: everything after the prologue; the literals are what the operations expect.
    :ivar guest: True, or why it cannot be shown on today's guest.
    :ivar quirk: the known defect that it is about. Its literals are those of a kernel that has all of them.
    :ivar right: the same without known defects.
    :ivar given: names of `GIVEN`.
    :ivar topology: by its name; a row that has one of its own has a machine of its own.
    :ivar tables: what the tables hold at the checkpoint `look`.
    :ivar says: output fields of the last operation that has any.
    :ivar log: a pattern of a line that the kernel must log, once.
    :ivar ends: `dirty`: something is left in the kernel; `dead`: the last operation never returns.
    """

    name: str
    source: str
    ops: Ops
    guest: Literal[True] | str = True
    quirk: str = ""
    right: Right | None = None
    given: tuple[str, ...] = ()
    topology: str = "two-small"
    tables: Tables | None = None
    says: Mapping[str, int] = field(default_factory=dict)
    log: str = ""
    ends: Literal["clean", "dirty", "dead"] = "clean"


def _memory(name: str, pages: int) -> Ops:
    return (Buffer(name=name, pages=pages, expect="ok"), Frames(buffer=name, expect="ok"))


PROLOGUE: Final[Ops] = (
    Bind(device="pe1", expect="ok"),
    Bind(device="pe2", expect="ok"),
    # The page behind `edge` must not be there. A process gets its memory from above: what is made next lies below what
    # was made last, and both are too big to go into a hole elsewhere.
    *_memory("fence", 256),
    *_memory("edge", 256),
    *_memory("m", 64),
    *_memory("ro", 4),
    *_memory("none", 4),
    *_memory("rw", 4),
    Protect(buffer="fence", access="none", expect="ok"),
    Protect(buffer="ro", access="read", expect="ok"),
    Protect(buffer="none", access="none", expect="ok"),
)

NOWHERE: Final = Page("none")
"""An address at which a process may not even read."""


def edge(pages: int) -> Page:
    """The address of which so many pages are there, and no more."""
    return Page("edge", 256 - pages)


def _nth(name: str, pe: int) -> str:
    return name if pe == 1 else f"{name}{pe}"


def call(request: str | int, expect: Expect = "ok", *, file: str = CONTAINER, by: str = "", **fields: Word) -> Ioctl:
    """An ioctl with a struct, or without any argument."""
    return Ioctl(file=file, request=request, fields=fields, expect=expect, by=by)


def passing(
    value: int | Page, request: str | int, expect: Expect = "ok", *, file: str = CONTAINER, by: str = ""
) -> Ioctl:
    """An ioctl with a word as it is."""
    return Ioctl(file=file, request=request, value=value, expect=expect, by=by)


def mapping(
    iova: int,
    pages: int = 1,
    vaddr: Word = Page("m"),  # noqa: B008  a frozen struct
    expect: Expect = "ok",
    flags: int = READ | WRITE,
    *,
    pe: int = 1,
    by: str = "",
    **fields: Word,
) -> Ioctl:
    words: dict[str, Word] = {"flags": flags, "vaddr": vaddr, "iova": iova, "size": pages * PAGE, **fields}
    return Ioctl(file=_nth(CONTAINER, pe), request="MAP_DMA", fields=words, expect=expect, by=by)


def unmapping(iova: int, pages: int = 1, expect: Expect = "ok", *, by: str = "", **fields: Word) -> Ioctl:
    words: dict[str, Word] = {"iova": iova, "size": pages * PAGE, **fields}
    return Ioctl(file=CONTAINER, request="UNMAP_DMA", fields=words, expect=expect, by=by)


def enable(expect: Expect = "ok", *, pe: int = 1, by: str = "") -> Ioctl:
    return call("ENABLE", expect, file=_nth(CONTAINER, pe), by=by)


def disable(expect: Expect = "ok", *, pe: int = 1, by: str = "") -> Ioctl:
    return call("DISABLE", expect, file=_nth(CONTAINER, pe), by=by)


def open_container(pe: int = 1) -> Open:
    return Open(file=_nth(CONTAINER, pe), path="/dev/vfio/vfio", expect="ok")


def open_group(pe: int = 1) -> Open:
    return Open(file=_nth(GROUP, pe), path=f"/dev/vfio/$pe{pe}", expect="ok")


def opened(pe: int = 1) -> Ops:
    return (open_container(pe), open_group(pe))


def refused(path: str, expect: str, *, by: str = "") -> Ops:
    """A file that cannot be opened, and is none."""
    return (Open(file="x", path=path, expect=expect, by=by), Close(file="x", expect="EBADF", by=by))


def set_container(expect: Expect = "ok", *, pe: int = 1, container: Word = CONTAINER) -> Ioctl:
    return call("GROUP_SET_CONTAINER", expect, file=_nth(GROUP, pe), container=container)


def unset_container(expect: Expect = "ok", *, pe: int = 1) -> Ioctl:
    return call("GROUP_UNSET_CONTAINER", expect, file=_nth(GROUP, pe))


def set_iommu(expect: Expect = "ok", *, pe: int = 1, kind: int = 2) -> Ioctl:
    return passing(kind, "SET_IOMMU", expect, file=_nth(CONTAINER, pe))


def joined(pe: int = 1) -> Ops:
    """A container of type v1 with the group of one PE."""
    return (*opened(pe), set_container(pe=pe, container=_nth(CONTAINER, pe)), set_iommu(pe=pe))


def enabled(pe: int = 1) -> Ops:
    return (*joined(pe), enable(pe=pe))


def get_device(expect: Expect = "ok", *, name: str = "pe1", file: str = "") -> Ioctl:
    """:param file: what to call the device's file; none when it is not to be had."""
    return Ioctl(file=GROUP, request="GROUP_GET_DEVICE_FD", fields={"name": name}, into=file, expect=expect)


def closing(*files: str) -> Ops:
    return tuple(Close(file=file, expect="ok") for file in files or (GROUP, CONTAINER))


def charged(kib: int | None, *, by: str = "") -> Read:
    """What VmLck of a process says."""
    return Read(what="vmlck", expect=kib, by=by)


def closed(*files: str) -> Ops:
    """The row's files are closed and nothing is left. Pins have no literal, but a law that looks at each reading."""
    return (*closing(*files), charged(0), Read(what="pins", expect="ok"))


BOTH: Final = (GROUP, GROUP + "2", CONTAINER, CONTAINER + "2")


def look() -> Checkpoint:
    return Checkpoint(label=LOOK)


def child(process: str, *, uid: int | None = None, memlock: int | None = None) -> Spawn:
    return Spawn(process=process, uid=uid, memlock=memlock, expect="ok")


def ended(process: str) -> Exit:
    return Exit(process=process, expect="ok")


def put(request: str, **fields: Word) -> Ops:
    """A struct in `rw`, which the kernel may then read but not write."""
    return (
        Put(buffer="rw", request=request, fields=fields, expect="ok"),
        Protect(buffer="rw", access="read", expect="ok"),
    )


WRITABLE: Final = Protect(buffer="rw", access="write", expect="ok")


def on_joined(*ops: Op) -> Ops:
    return (*joined(), *ops, *closed())


def on_enabled(*ops: Op) -> Ops:
    return (*enabled(), *ops, *closed())
