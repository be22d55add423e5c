"""A short program in which two CPUs use the kernel's DMA API at once, on one table and on two."""

from __future__ import annotations

from tcelab.program import (
    AtOnce,
    Buffer,
    Checkpoint,
    DmaBind,
    DmaMapSg,
    DmaRepeat,
    DmaUnmap,
    Page,
    Part,
    Program,
    Spawn,
    Tag,
)
from tcelab.program.topology import topology

WHERE = topology("two-small-smp")
ONE, TWO = (phb.liobn for phb in WHERE.phbs)
NAMES = ("left", "right")
PAGES = 16
KEPT = 5
"""Number of the operation that maps what stays mapped."""
TOGETHER, APART, MAPPED = 13, 17, 21
"""Numbers of the beginnings: both loops on one table, on two, and two lists that stay mapped."""


def parts(name):
    return [Part(Page(name, page, 7 * page), 4096 - 9 * page) for page in range(PAGES)]


def loop(name, device, times, how="checked"):
    """Two lists, of the same pages."""
    return DmaRepeat(device=device, lists=[parts(name)] * 2, times=times, loop=how, by=name, expect="ok")


def listed(name, device="pe1"):
    return DmaMapSg(device=device, name=f"list-{name}", parts=parts(name), direction="to-device", by=name, expect="ok")


def story(times=400, *more):
    ops = [
        Buffer(name="kept", pages=PAGES, seed=3),
        Tag(buffer="kept", count=PAGES, liobn=ONE, ioba=0, sequence=9),
        DmaBind(device="pe1", expect="ok"),
        DmaBind(device="pe2", expect="ok"),
        Checkpoint(label="bound"),
        DmaMapSg(device="pe1", name="kept", parts=parts("kept"), direction="to-device", expect="ok"),
    ]
    for number, name in enumerate(NAMES):
        ops += [
            Spawn(process=name, expect="ok"),
            Buffer(name=name, pages=PAGES, seed=number, by=name),
            Tag(buffer=name, count=PAGES, liobn=ONE, ioba=0, sequence=number, by=name),
        ]
    ops += [
        Checkpoint(label="mapped"),
        AtOnce(count=2),
        *(loop(name, "pe1", times) for name in NAMES),
        Checkpoint(label="one table", stream=True),
        AtOnce(count=2),
        *(loop(name, device, times) for name, device in zip(NAMES, ("pe1", "pe2"), strict=True)),
        Checkpoint(label="two tables", stream=True),
        AtOnce(count=2),
        *map(listed, NAMES),
        Checkpoint(label="mapped at once", stream=True),
        *more,
        AtOnce(count=2),
        *(DmaUnmap(name=f"list-{name}", by=name, expect="ok") for name in NAMES),
        DmaUnmap(name="kept", expect="ok"),
        Checkpoint(label="end", stream=True),
    ]
    return Program(name="loops", topology=WHERE, ops=ops)
