"""`smp`: several processes, each on a CPU of its own, that use one table and several tables at the same time: by raw
hypercalls, by containers of their own, by the kernel's DMA API, and by several of them.

Whatever they leave must be what some order of their calls would have left. Each has pages of its own, so each entry
tells who wrote it. Afterwards the PEs are handed over, many times over: a container takes each, all at the same time,
maps, and gives it back to the kernel. At last a driver of the DMA API has them: loops map and unmap lists, and look at
the entries meanwhile; what is kept mapped beside them stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec

from tceagent.huge import HUGE_PAGE
from tcelab.papr import tce
from tcelab.program import (
    AtOnce,
    Buffer,
    Call,
    DmaBind,
    DmaMapSg,
    DmaRepeat,
    DmaUnbind,
    DmaUnmap,
    Exit,
    GuestOp,
    HcallBatch,
    Op,
    Page,
    Part,
    Spawn,
    Tce,
    is_guest,
)
from tcelab.program.dmaops import GRANTS
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("two-small-smp", "four-cpus", "four-cpus-pools")
LEAST: Final = 4
"""Processes, on however many CPUs."""
PAGES: Final = 16
"""Of each process's buffer: a whole CPU page of any kernel."""
ROUNDS: Final = 2000
"""Of single calls; of calls with many entries, a quarter."""
TURNS: Final = 4
"""Hand-overs of each PE."""
POOLS: Final = 1 << 30
"""Bytes of a window from which on the kernel's allocator has several pools."""
LOOPS: Final = 400
"""Rounds of a loop of the DMA API."""
LISTS: Final = 4
"""Of each round; each has as many parts as the process has pages."""
LONGEST: Final = 8 * PAGE
"""Bytes of a part of several pages."""


def ops(topology: Topology, seed: int) -> list[Op]:
    """Two PEs are used, or the only one."""
    pes = b.pes(topology, "smp")[:2]
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    names = [f"smp-{number}" for number in range(max(LEAST, topology.cpus))]
    out: list[Op] = [*b.pins(), *(op for pe in pes for op in b.bind(pe))]
    for number, name in enumerate(names):
        out.append(Spawn(process=name, expect="ok"))
        own = [*b.buffer(name, PAGES, chance.randrange(1 << 30)), *b.tag(Page(name), PAGES, 0, 0, number)]
        out += _by(name, own)
    if pes[0].entries * PAGE < POOLS:
        out += _hammered(pes, names, chance)
        out += _containers(pes, names, chance)
        out += _handed_over(pes, names, chance)
    # Nothing else changes hands, see `tcelab.program.drivenpes`; nor what has a second device later.
    edus = {phb.index for phb in topology.phbs if [each.model for each in phb.devices] == ["edu"]}
    if alone := [pe for pe in pes if pe.phb.index in edus]:
        out += _driven(alone, names, chance)
    out += [Exit(process=name, expect="ok") for name in names]
    return [*out, *b.pins(), *b.checkpoint("smp: end", stream=True)]


def _by(process: str, ops: Sequence[Op]) -> list[GuestOp]:
    return [msgspec.structs.replace(op, by=process) for op in ops if is_guest(op)]


def _at_once(*each: GuestOp) -> list[Op]:
    return [AtOnce(count=len(each)), *each] if len(each) > 1 else [*each]


def _calls(name: str, calls: Sequence[Call], times: int) -> GuestOp:
    return HcallBatch(calls=list(calls), times=times, by=name, expect=0)


def _put(pe: Pe, entry: int, name: str, page: int) -> Call:
    return Call("H_PUT_TCE", [pe.liobn, pe.iova(entry), Tce(name, page % PAGES)])


def _indirect(pe: Pe, entry: int, name: str, pages: Sequence[int]) -> Call:
    return Call("H_PUT_TCE_INDIRECT", [pe.liobn, pe.iova(entry), 0, len(pages)], [Tce(name, page) for page in pages])


def _empty(pe: Pe, entry: int, count: int) -> Call:
    return Call("H_STUFF_TCE", [pe.liobn, pe.iova(entry), 0, count])


# -- hypercalls


def _hammered(pes: Sequence[Pe], names: Sequence[str], chance: random.Random) -> list[Op]:
    one, count = pes[0], len(names)
    first = chance.randrange(1, one.entries - count * PAGES)
    clear = HcallBatch(calls=[_empty(pe, first, count * PAGES) for pe in pes], expect=0)
    alone = [
        _calls(name, [_put(one, first + page * count + lane, name, page) for page in range(PAGES)], ROUNDS)
        for lane, name in enumerate(names)
    ]
    same = [
        _calls(name, [_put(one, first + page, name, page) for page in chance.sample(range(PAGES), PAGES)], ROUNDS)
        for name in names
    ]
    whole = [_calls(name, _wide(one, first, name, chance), ROUNDS // 4) for name in names]
    several = [
        _calls(
            name, [call for pe in chance.sample(pes, len(pes)) for call in _wide(pe, first, name, chance)], ROUNDS // 4
        )
        for name in names
    ]
    out: list[Op] = []
    for label, each in (
        ("entries of their own, side by side", alone),
        ("the same entries, one by one", same),
        ("the same entries, many in a call", whole),
        ("two tables", several),
    ):
        out += [*_at_once(*each), *b.checkpoint(f"smp: {label}", stream=True)]
    return [*out, clear, *b.checkpoint("smp: emptied", stream=True)]


def _wide(pe: Pe, first: int, name: str, chance: random.Random) -> list[Call]:
    """Ranges that overlap one another's: many entries in a call, some removed, one by one in between."""
    places = [chance.randrange(PAGES) for _ in range(3)]
    return [
        _indirect(pe, first + places[0], name, range(PAGES)),
        _empty(pe, first + places[1], PAGES // 2),
        _put(pe, first + places[2], name, places[2]),
        _indirect(pe, first + places[1], name, range(PAGES // 4)),
    ]


# -- containers


def _containers(pes: Sequence[Pe], names: Sequence[str], chance: random.Random) -> list[Op]:
    """A process for each PE maps and unmaps, while the others make hypercalls for other entries of the same tables."""
    users = list(zip(pes, names, strict=False))
    others = names[len(pes) :]
    low, high = (chance.randrange(1, pes[0].entries // 4) for _ in range(2))
    beside = pes[0].entries // 2 + high
    out: list[Op] = []
    for pe, name in users:
        out += _by(name, [*b.vmlck(), *b.open_container(pe), *b.enable(pe)])
    both = [[*_mapped(pe, name, low), *b.unmap_dma(pe, pe.iova(low), PAGES)] for pe, name in users]
    # The first map of a container makes the window anew, and takes along what hypercalls have stored there.
    out += [op for each, (_, name) in zip(both, users, strict=True) for op in _by(name, each)]
    maps = [_by(name, b.repeat(each, ROUNDS // 8))[0] for each, (_, name) in zip(both, users, strict=True)]
    hammer = [_calls(name, [call for pe in pes for call in _wide(pe, beside, name, chance)], 40) for name in others]
    out += [*_at_once(*maps, *hammer), *b.checkpoint("smp: containers and hypercalls", stream=True)]
    clear = HcallBatch(calls=[_empty(pe, beside, 2 * PAGES) for pe in pes], expect=0)
    kept = [_by(name, _mapped(pe, name, low))[0] for pe, name in users]
    out += [clear, *_tagged(users, low), *_at_once(*kept), *b.checkpoint("smp: mapped", stream=True)]
    for pe, name in users:
        out += _by(name, [*b.unmap_dma(pe, pe.iova(low), PAGES), *b.close(pe.group, pe.container), *b.vmlck()])
    return [*out, *b.checkpoint("smp: closed", stream=True)]


def _tagged(users: Sequence[tuple[Pe, str]], entry: int) -> list[Op]:
    """Each buffer for the mapping that it is meant for."""
    return [op for pe, name in users for op in _by(name, b.tag(Page(name), PAGES, pe.liobn, pe.iova(entry), entry))]


def _mapped(pe: Pe, name: str, entry: int) -> list[Op]:
    return b.map_dma(pe, Page(name), pe.iova(entry), PAGES, tce.PERMISSIONS)


# -- hand-overs


def _handed_over(pes: Sequence[Pe], names: Sequence[str], chance: random.Random) -> list[Op]:
    """Both PEs at once, step by step: from the kernel's own table to a container's, and back."""
    out: list[Op] = []
    for turn in range(TURNS):
        users = [(Pe(pe.phb, f"smp-{turn}"), name) for pe, name in zip(pes, names, strict=False)]
        entry = chance.randrange(1, pes[0].entries - PAGES)
        taken = [_by(name, [*b.open_container(pe), *b.enable(pe), *_mapped(pe, name, entry)]) for pe, name in users]
        out += _tagged(users, entry)
        given = [_by(name, b.close(pe.group, pe.container)) for pe, name in users]
        for steps, label in ((taken, "taken"), (given, "given back")):
            for each in zip(*steps, strict=True):
                out += _at_once(*each)
            out += b.checkpoint(f"smp: turn {turn}, {label}", stream=label == "taken")
    return out


# -- the kernel's DMA API


def _driven(pes: Sequence[Pe], names: Sequence[str], chance: random.Random) -> list[Op]:
    """Loops in the kernel on one table and on all, then beside containers and hypercalls on another PE."""
    out: list[Op] = [*b.buffer("kept", PAGES, chance.randrange(1 << 30))]
    large = pes[0].entries * PAGE >= POOLS
    if large:
        out += [Buffer(name=_large(name), pages=HUGE_PAGE // PAGE, huge=True, by=name) for name in names]
    out += [DmaBind(device=pe.name, expect="ok") for pe in pes]
    out += [*b.tag(Page("kept"), PAGES, pes[0].liobn, 0, chance.randrange(1 << 20)), *_kept(pes)]
    # Neighbours: on two CPUs, every second process is on the same one, and those never meet.
    spread = [pes[number * len(pes) // len(names)] for number in range(len(names))]
    for label, where in (("one table", [pes[0]] * len(names)), ("several tables", spread)):
        loops = [_loop(pe, name, chance, large=large) for pe, name in zip(where, names, strict=True)]
        out += [*_at_once(*loops), *b.checkpoint(f"smp: the DMA API, {label}", stream=True)]
    maps = [_list(pe, name, chance) for pe, name in zip(spread, names, strict=True)]
    out += [*_at_once(*maps), *b.checkpoint("smp: the DMA API, mapped at once", stream=True)]
    more = [_loop(pes[0], name, chance) for name in names]
    out += [*_at_once(*more), *b.checkpoint("smp: the DMA API, loops beside what is mapped", stream=True)]
    unmaps: list[GuestOp] = [DmaUnmap(name=_mapping(name), by=name, expect="ok") for name in names]
    out += [*_at_once(*unmaps), *b.checkpoint("smp: the DMA API, unmapped at once", stream=True)]
    if len(pes) > 1:
        out += _beside(pes[0], pes[1], names, chance)
    for pe in pes[: 1 if len(pes) > 1 else None]:
        out += [DmaUnmap(name=f"kept-{pe.name}", expect="ok"), DmaUnbind(device=pe.name, expect="ok")]
    return out


def _kept(pes: Sequence[Pe]) -> list[Op]:
    """What the agent has mapped on each PE all the while."""
    out: list[Op] = []
    for pe in pes:
        parts = [Part(Page("kept", page, 16 * page), PAGE - 16 * page) for page in range(PAGES)]
        out.append(DmaMapSg(device=pe.name, name=f"kept-{pe.name}", parts=parts, direction="to-device", expect="ok"))
    return out


def _mapping(process: str) -> str:
    return f"{process}-list"


def _parts(name: str, chance: random.Random) -> list[Part]:
    """All pages of a process in any order, of each some bytes."""
    starts = [chance.randrange(PAGE) for _ in range(PAGES)]
    pages = chance.sample(range(PAGES), PAGES)
    return [
        Part(Page(name, page, start), chance.randint(1, PAGE - start))
        for page, start in zip(pages, starts, strict=True)
    ]


def _list(pe: Pe, name: str, chance: random.Random) -> GuestOp:
    direction = chance.choice(tuple(GRANTS))
    parts = _parts(name, chance)
    return DmaMapSg(device=pe.name, name=_mapping(name), parts=parts, direction=direction, by=name, expect="ok")


def _large(process: str) -> str:
    return f"{process}-large"


def _long_parts(name: str, chance: random.Random) -> list[Part]:
    """Of several pages each, which the kernel stores with one hypercall from a list that each CPU has."""
    sizes = [chance.randint(PAGE, LONGEST) for _ in range(PAGES)]
    starts = [chance.randrange(HUGE_PAGE - size) for size in sizes]
    return [Part(Page(_large(name), *divmod(start, PAGE)), size) for start, size in zip(starts, sizes, strict=True)]


def _loop(pe: Pe, name: str, chance: random.Random, *, large: bool = False) -> GuestOp:
    lists = [(_long_parts if large and number % 2 else _parts)(name, chance) for number in range(LISTS)]
    direction = chance.choice(tuple(GRANTS))
    return DmaRepeat(
        device=pe.name, lists=lists, times=LOOPS, direction=direction, loop="checked", by=name, expect="ok"
    )


def _beside(pe: Pe, other: Pe, names: Sequence[str], chance: random.Random) -> list[Op]:
    """Two processes loop on one PE, one has another PE by VFIO, and the rest make hypercalls for entries of that."""
    other_again = Pe(other.phb, "smp-beside")
    loopers, rest, user = names[:2], names[2:], "smp-beside"
    low = chance.randrange(1, other.entries // 4)
    high = other.entries // 2 + chance.randrange(1, other.entries // 4)
    out: list[Op] = [DmaUnmap(name=f"kept-{other.name}", expect="ok"), DmaUnbind(device=other.name, expect="ok")]
    out += [*b.bind(other_again), *b.checkpoint("smp: the DMA API, one PE given away", stream=True)]
    out.append(Spawn(process=user, expect="ok"))  # who was spawned before does not know the group
    opened = [*b.open_container(other_again), *b.enable(other_again)]
    out += _by(user, [*b.buffer(user, PAGES, chance.randrange(1 << 30)), *opened])
    both = [*_mapped(other_again, user, low), *b.unmap_dma(other_again, other_again.iova(low), PAGES)]
    out += _by(user, both)
    again = _by(user, b.repeat(both, ROUNDS // 8))[0]
    loops = [_loop(pe, name, chance) for name in loopers]
    hammer = [_calls(name, _wide(other_again, high, name, chance), ROUNDS // 4) for name in rest]
    out += [*_at_once(*loops, again, *hammer), *b.checkpoint("smp: the DMA API beside others", stream=True)]
    out += [HcallBatch(calls=[_empty(other_again, high, 2 * PAGES)], expect=0)]
    out += _by(user, b.close(other_again.group, other_again.container))
    return [*out, Exit(process=user, expect="ok")]
