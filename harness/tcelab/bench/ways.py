"""The ways into a table, side by side in one guest: the driver by the agent, the driver by a small C program with the
same ioctls, and the hypercalls themselves, one entry each or a whole batch in one, by the kernel's own loop.

VFIO is timed as pairs of a map and an unmap of n pages; H_PUT_TCE as n calls in a row, H_PUT_TCE_INDIRECT as one call
of n entries, over and over. They have a PE of their own, and leave its table empty. The emulator runs no C programs:
the guest's is run at checkpoints, and what it leaves is judged with all else at the next.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from tcelab.bench import Figure
from tcelab.errors import HarnessError
from tcelab.papr import tce, window
from tcelab.program import Call, Hcall, HcallBatch, Native, Op, Page, Repeat, Tce
from tcelab.run.record import Outcome
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import PAGE, Pe

TURNS: Final = 5
"""Most turns: each turn of a C program begins with a process and a container of its own."""
PAGES: Final = 8_192
"""Pages of a timed loop, approximately."""
BATCH: Final = 32
UNKNOWN: Final = window.liobn(0x7F)
"""A LIOBN without a PHB, for the cost of a hypercall without effect."""

AGENT, NATIVE, PUT, INDIRECT = "vfio by the agent", "vfio in C", "H_PUT_TCE", "H_PUT_TCE_INDIRECT"
CURVES: Final = (AGENT, NATIVE, PUT, INDIRECT)
BY_AGENT, CHEAPEST = "H_PUT_TCE_INDIRECT by the agent", "H_GET_TCE of no LIOBN"
MANY, MANY_BY_AGENT = "32 H_PUT_TCE_INDIRECT", "32 H_PUT_TCE_INDIRECT by the agent"
"""These four are timed for batches of 32 alone."""
_TIMES: Final = {AGENT: 2, NATIVE: 2, MANY: BATCH, MANY_BY_AGENT: BATCH}
"""How often a round uses each page of a batch, if not once."""
_PUT: Final = "H_PUT_TCE"
_US: Final = 1e6

RATIOS: Final = (
    ("agent / C program, map and unmap 32 pages", AGENT, NATIVE, 32, 0.9),
    ("agent / C program, map and unmap 1 page", AGENT, NATIVE, 1, 0.6),
    ("one write per INDIRECT of 32 / the module's loop", BY_AGENT, INDIRECT, 32, 0.8),
    ("one write per 32 INDIRECT of 32 / the module's loop", MANY_BY_AGENT, MANY, 32, 0.8),
    ("H_PUT_TCE / the cheapest hypercall", PUT, CHEAPEST, 32, 0.7),
)
"""Name, what is compared with what, for batches of how many pages, and the least that the ratio of their rates is to
be.
"""


def timed(one: Pe, other: Pe, buffer: str, size: int) -> dict[str, list[Op]]:
    """The operations of each way for batches of `size` pages: the first of each is timed.

    :param one: whose container is open; `other`: whose device is bound, and nothing more.
    """
    rounds = max(1, PAGES // size)
    words: list[int | Tce] = [Tce(buffer, i, tce.PERMISSIONS) for i in range(size)]
    at = other.start
    puts = [Call(_PUT, [other.liobn, at + i * PAGE, word]) for i, word in enumerate(words)]
    whole = [Call(INDIRECT, [other.liobn, at, 0, size], words)]
    clear: list[Op] = [Hcall(call=Call("H_STUFF_TCE", [other.liobn, at, 0, size]))]
    pair = [*b.map_dma(one, Page(buffer), one.start, size, tce.PERMISSIONS), *b.unmap_dma(one, one.start, size)]
    out: dict[str, list[Op]] = {
        AGENT: b.repeat(pair, rounds),
        PUT: [HcallBatch(calls=puts, times=rounds), *clear],
        INDIRECT: [HcallBatch(calls=whole, times=rounds), *clear],
    }
    if size == BATCH:
        out[BY_AGENT] = [HcallBatch(calls=whole, times=rounds, loop="agent"), *clear]
        many, fewer = whole * BATCH, max(1, rounds // BATCH)
        out[MANY] = [HcallBatch(calls=many, times=fewer), *clear]
        out[MANY_BY_AGENT] = [HcallBatch(calls=many, times=fewer, loop="agent"), *clear]
        out[CHEAPEST] = [HcallBatch(calls=[Call("H_GET_TCE", [UNKNOWN, 0])] * size, times=rounds)]
    return out


def native(other: Pe, size: int) -> Native:
    """The same pairs by the C program."""
    return Native(program="vfio_loop", args=[f"${other.name}", size, max(1, PAGES // size)])


def seconds(op: Op, outcome: Outcome) -> float:
    """Seconds of a batch, by the operation's way: of a pair of calls, of n H_PUT_TCE, of one INDIRECT.

    :raise HarnessError: it failed.
    """
    fields = outcome.fields
    if outcome.value != 0:
        raise HarnessError(f"what is timed did not succeed: {outcome}")
    if isinstance(op, Native):
        return 2 * float(fields["microseconds"]) / float(fields["calls"]) / _US
    if isinstance(op, Repeat):
        return 2 * float(fields["seconds"]) / float(fields["calls"])
    assert isinstance(op, HcallBatch)
    return float(fields["seconds"]) / op.times


def figures(values: Mapping[tuple[str, int], Sequence[float]]) -> list[Figure]:
    """Pages per second of each way (a pair counts its pages twice, once each way), and the ratios, turn by turn.

    :param values: seconds of a batch, by way and size.
    """
    rates = {
        (way, size): [size * _TIMES.get(way, 1) / each for each in taken]
        for (way, size), taken in sorted(values.items())
    }
    out = [Figure(f"{way}: {size}", "pages/s", rate) for (way, size), rate in rates.items()]
    for name, way, other, size, _ in RATIOS:
        if (way, size) in rates and (other, size) in rates:
            pairs = zip(rates[way, size], rates[other, size], strict=True)
            out.append(Figure(name, "ratio", [x / y for x, y in pairs]))
    return out


def curves(found: Sequence[Figure]) -> dict[str, dict[int, list[float]]]:
    """Pages per second by way and batch size; without what was timed for one size alone."""
    out: dict[str, dict[int, list[float]]] = {}
    for figure in found:
        way, _, size = figure.name.rpartition(": ")
        if way in CURVES:
            out.setdefault(way, {})[int(size)] = figure.values
    return out


def text(found: Sequence[Figure]) -> list[str]:
    """Lines for people: the rates by size, and the ratios beside what they are to be."""
    rates = curves(found)
    if not rates:
        return []
    out = ["ways into a table, pages/s: median", f"{'n':>3}  " + " ".join(f"{way:>18}" for way in CURVES)]
    out += [
        f"{size:3}  " + " ".join(f"{statistics.median(rates[way][size]):18,.0f}" for way in CURVES)
        for size in sorted(rates[AGENT])
    ]
    by_name = {figure.name: figure for figure in found}
    out.append(f"{'ratio, in one run':52} {'median':>6} {'least':>6} {'most':>6}  to reach")
    for name, *_, goal in RATIOS:
        if figure := by_name.get(name):
            numbers = f"{figure.median:6.2f} {min(figure.values):6.2f} {max(figure.values):6.2f}"
            out.append(f"{name:52} {numbers}  {goal:g} {'reached' if figure.median >= goal else 'MISSED'}")
    return out
