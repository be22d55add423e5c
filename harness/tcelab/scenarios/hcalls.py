"""`hcalls`: every TCE hypercall, right and wrong, by the guest's kernel and by a process; all tables after each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from tcelab.program import Call, Hcall, HcallBatch, Op, Page, Tce
from tcelab.program.topology import Phb, Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.hcallcases import (
    BUFFER,
    GET,
    LIST_PAGE,
    MARKED,
    PAGE,
    PAGES,
    PUT,
    STUFF,
    Case,
    at,
)
from tcelab.scenarios.kvmcases import cases

TOPOLOGY: Final = "two-small"


def ops(topology: Topology, seed: int) -> list[Op]:
    """:raise UsageError: the first PE's window is too small."""
    every = cases(topology)
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    one = next(phb for phb in topology.phbs if phb.devices)
    out: list[Op] = [*b.pins(), *b.buffer(BUFFER, PAGES, chance.randrange(1 << 30))]
    out += b.tag(Page(BUFFER), MARKED, one.liobn, at(one), 1)
    out += b.fill(Page(BUFFER, LIST_PAGE), PAGE, chance.randrange(1 << 30))
    standing = _standing(topology)
    for page, (liobn, ioba) in standing.items():
        out += b.tag(Page(BUFFER, page), 1, liobn, ioba, page)
    out += [_all([*_stand(standing, None)]), *b.checkpoint("hcalls: standing", stream=True)]
    for case in every:
        out += _case(case, topology, standing)
    clear = [Call(STUFF, [liobn, ioba, 0, 1]) for liobn, ioba in standing.values()]
    return [*out, _all(clear), *b.pins(), *b.checkpoint("hcalls: end", stream=True)]


def _standing(topology: Topology) -> dict[int, tuple[int, int]]:
    """Pages of the buffer, and entries that lead to them throughout: the first and the last of two windows. They expose
    a write beside its place, or in the wrong table.
    """
    phbs = [phb for phb in topology.phbs if phb.devices][:2]
    ends = [(phb.liobn, at(phb, entry)) for phb in phbs for entry in (0, phb.entries - 1)]
    return dict(enumerate(ends, PAGES - len(ends)))


def _stand(standing: dict[int, tuple[int, int]], liobn: int | None) -> list[Call]:
    return [
        Call(PUT, [owner, ioba, Tce(BUFFER, page)])
        for page, (owner, ioba) in standing.items()
        if liobn in (None, owner)
    ]


def _all(calls: Sequence[Call]) -> Op:
    """Hypercalls that must all succeed."""
    return HcallBatch(calls=list(calls), expect=0)


def _case(case: Case, topology: Topology, standing: dict[int, tuple[int, int]]) -> list[Op]:
    """A case between two checkpoints, and its reversal. The second checkpoint uses every view."""
    out: list[Op] = []
    if case.before:
        out += [_all(case.before), *b.checkpoint("hcalls: before")]
    if isinstance(case.expected, str):
        out.append(Hcall(call=case.calls[0], expect=case.expected))
    elif len(case.calls) > 1:
        out.append(HcallBatch(calls=list(case.calls), expect=0))
    else:
        out.append(Hcall(call=case.calls[0], problem_state=case.problem_state, expect=case.expected[0]))
    out += b.checkpoint(case.label, stream=True)
    undone = _undone([*case.before, *case.calls] if case.written or case.before else [], topology, standing)
    return [*out, _all(undone), *b.checkpoint("hcalls: undone")] if undone else out


def _undone(calls: Sequence[Call], topology: Topology, standing: dict[int, tuple[int, int]]) -> list[Call]:
    """Hypercalls that clear everything the cases may have written, and keep the standing entries."""
    windows = {phb.liobn: phb for phb in topology.machine}
    out: list[Call] = []
    concerned: dict[int, None] = {}
    for each in calls:
        liobn, ioba = each.args[0], each.args[1]
        phb = windows.get(liobn) if isinstance(liobn, int) else None
        if each.opcode != GET and phb is not None and isinstance(ioba, int):
            out += _cleared(phb, ioba, each)
            concerned[phb.liobn] = None
    return [*out, *(call for liobn in concerned for call in _stand(standing, liobn))]


def _cleared(phb: Phb, ioba: int, call: Call) -> list[Call]:
    npages = call.args[3] if len(call.args) > 3 else 1  # noqa: PLR2004 - r7
    first = ioba & -PAGE
    room = (phb.window_end - first) // PAGE
    assert isinstance(npages, int)
    count = min(npages, room)
    return [Call(STUFF, [phb.liobn, first, 0, count])] if count > 0 else []
