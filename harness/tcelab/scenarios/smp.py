"""`smp`: several processes, each on a CPU of its own, that use one table and several tables at the same time: by raw
hypercalls, by containers of their own, and by both.

Whatever they leave must be what some order of their calls would have left. Each has pages of its own, so each entry
tells who wrote it. Afterwards the PEs are handed over, many times over: a container takes each, all at the same time,
maps, and gives it back to the kernel.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec

from tcelab.papr import tce
from tcelab.program import AtOnce, Call, Exit, GuestOp, HcallBatch, Op, Page, Spawn, Tce, is_guest
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

TOPOLOGIES: Final = ("two-small-smp", "four-cpus")
LEAST: Final = 4
"""Processes, on however many CPUs."""
PAGES: Final = 16
"""Of each process's buffer: a whole CPU page of any kernel."""
ROUNDS: Final = 2000
"""Of single calls; of calls with many entries, a quarter."""
TURNS: Final = 4
"""Hand-overs of each PE."""


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
    out += _hammered(pes, names, chance)
    out += _containers(pes, names, chance)
    out += _handed_over(pes, names, chance)
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
