"""`kexec`, `kexec-isolation` and `kdump`: what a second kernel inherits of tables, windows and PEs.

Firmware has no part in it: what the first kernel has left is what the second one finds. By kexec, it must clear each
window that its device tree tells it of; after a crash, it must leave every entry as it found it, for a device may still
be using it. A reset ends both: then everything is as at the machine's start.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.papr import isolationrules, tce, window
from tcelab.program import Crash, Dma, Fresh, Kexec, Look, Op, Page, Reset, Spawn
from tcelab.program.topology import Topology
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import ONES
from tcelab.scenarios.vocabulary import PAGE, Pe

TOPOLOGIES: Final = ("two-small",)
CRASH_TOPOLOGIES: Final = ("two-small-kdump",)
PAGES: Final = 16
"""Of each buffer: a whole CPU page of any kernel."""
_SHIFT: Final = 12
_SIZE: Final = 1 << 24
"""Page shift and bytes of the 64-bit window."""
_LENGTH: Final = 64


def kexec(topology: Topology, seed: int) -> list[Op]:
    """A kernel with entries in all kinds of windows starts another one, which uses one of them again.

    :raise UsageError: the kernel's own driver has a window.
    """
    _expect_no_direct(topology)
    pes = b.pes(topology, "kexec")
    aloft = b.aloft(pes[0], pes[0].iova(_number(pes[0], seed)))
    out = [*_inherited(pes, seed), Kexec(expect="ok", flight=aloft)]
    out += [*b.checkpoint("kexec: the second kernel", stream=True)]
    out += [*_v1(pes[0], "again", seed + 1), *b.checkpoint("kexec: used again", stream=True)]
    out += [Reset(expect="ok"), *b.checkpoint("kexec: reset", stream=True)]
    return [*out, *_last(pes[-1], seed + 2)]


def kdump(topology: Topology, seed: int) -> list[Op]:
    """A kernel with entries in all kinds of windows crashes; its crash kernel leaves them.

    :raise UsageError: as `kexec`.
    """
    _expect_no_direct(topology)
    pes = b.pes(topology, "kdump")
    aloft = b.aloft(pes[0], pes[0].iova(_number(pes[0], seed)))
    out = [*_inherited(pes, seed), Crash(expect="ok", flight=aloft)]
    out += [*b.checkpoint("kdump: the crash kernel", stream=True)]
    out += [Reset(expect="ok"), *b.checkpoint("kdump: reset", stream=True)]
    return [*out, *_last(pes[-1], seed + 2)]


def isolated(topology: Topology, seed: int) -> list[Op]:
    """A PE that is isolated stays so under the second kernel: nobody calls firmware. It is recovered there."""
    out: list[Op] = []
    events: dict[str, Op] = {"kexec": Kexec(expect="ok"), "crash": Crash(expect="ok")}
    for name, event in events.items():
        pes = b.pes(topology, "kexec")
        pe = pes[0]
        out += [Fresh()] if out else []
        out += [*_v1(pe, name, seed), Dma(file=pe.device, iova=pe.end, size=_LENGTH, to_memory=True, expect="refused")]
        out += [*b.states(pes), *b.checkpoint(f"kexec: isolated before a {name}", stream=True), event]
        out += [*b.states(pes), *b.checkpoint(f"kexec: isolated after a {name}", stream=True)]
        if name == "kexec":
            out += _out_of_reach(pe, seed + 1)
        out += _recover(pe)
        if name == "kexec":
            out += [*b.master(pe, on=True), *b.dma(pe, pe.iova(_number(pe, seed + 1)), _LENGTH, to_memory=False)]
            out += b.let_go(pe)
        out += [*b.states(pes), *b.checkpoint(f"kexec: recovered after a {name}", stream=True)]
    return out


def _out_of_reach(pe: Pe, seed: int) -> list[Op]:
    """The second kernel's driver maps for the isolated PE, and does not get through to its device."""
    *ops, transfer = _v1(pe, "again", seed)
    look = Look(file=pe.device, what="identity", expect=ONES)
    tried = msgspec.structs.replace(transfer, expect=None)
    return [*ops, look, tried, *b.checkpoint("kexec: still out of reach", stream=True)]


def _expect_no_direct(topology: Topology) -> None:
    if topology.direct:
        raise UsageError(
            f"a second kernel finds windows of the kernel's own driver on topology {topology.name}: nobody knows what"
            " it makes of them"
        )


def _inherited(pes: list[Pe], seed: int) -> list[Op]:
    """The first PE has a v1 container of the agent, the last one a v2 container of a child with both windows."""
    pe = pes[-1]
    if pe is pes[0]:
        return [*_v1(pe, "first", seed), *b.checkpoint("before", stream=True)]
    name = f"{pe.scenario}-child"
    page, number = Page(name), _number(pe, seed)
    ops = [
        *b.buffer(name, PAGES, seed),
        *b.open_container(pe, b.SPAPR_TCE_V2),
        *b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=page, size=PAGES * PAGE),
        *b.tag(page, PAGES, pe.liobn, pe.iova(number), seed + 1),
        *b.map_dma(pe, page, pe.iova(number), PAGES, tce.PERMISSIONS),
        *b.ask(pe, "SPAPR_TCE_CREATE", page_shift=_SHIFT, window_size=_SIZE, levels=1),
        *b.tag(page, PAGES, pe.liobn | 1, window.SECOND_START, seed + 2),
        *b.map_dma(pe, page, window.SECOND_START, PAGES, tce.PERMISSIONS),
    ]
    child = f"{pe.scenario}-owner"
    theirs = [_by(op, child) for op in ops]
    first = [*_v1(pes[0], "first", seed), *b.bind(pe), Spawn(process=child, expect="ok"), *theirs]
    return [*first, *b.checkpoint(f"{pe.scenario}: before", stream=True)]


def _by(op: Op, process: str) -> Op:
    """The operation, performed by a process."""
    return msgspec.structs.replace(op, by=process)


def _number(pe: Pe, seed: int) -> int:
    rng = random.Random(f"{pe.name} {seed}")  # noqa: S311 - repeatable on purpose
    return rng.randrange(1, pe.entries // PAGES) * PAGES


def _v1(pe: Pe, name: str, seed: int) -> list[Op]:
    """A v1 container with entries, which the device uses."""
    page, number = Page(f"{pe.scenario}-{name}"), _number(pe, seed)
    return [
        *b.buffer(page.buffer, PAGES, seed),
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.tag(page, PAGES, pe.liobn, pe.iova(number), seed),
        *b.map_dma(pe, page, pe.iova(number), PAGES, tce.PERMISSIONS),
        *b.open_device(pe),
        *b.dma(pe, pe.iova(number), _LENGTH, to_memory=False),
    ]


def _recover(pe: Pe) -> list[Op]:
    """Firmware resets an isolated PE and configures it anew."""
    steps = (
        (isolationrules.SET_RESET, isolationrules.HOT),
        (isolationrules.SET_RESET, isolationrules.DEACTIVATE),
        (isolationrules.CONFIGURE, 0),
    )
    return [op for call, option in steps for op in b.rtas(pe.name, call, option, isolationrules.SUCCESS)]


def _last(pe: Pe, seed: int) -> list[Op]:
    """All is as at the machine's start."""
    ops = [*_v1(pe, "last", seed), *b.checkpoint(f"{pe.scenario}: as at the start", stream=True)]
    return [*ops, *b.let_go(pe), *b.checkpoint(f"{pe.scenario}: closed", stream=True)]
