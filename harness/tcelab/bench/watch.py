"""The cost of `tcelab watch` for a guest: pages per second with and without a watcher, in turns in one guest.

The watcher is the command's own, on an invisible terminal of 80 by 24, at its usual rate.
"""

from __future__ import annotations

import io
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console

from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import opened, told
from tcelab.errors import HarnessError, UsageError
from tcelab.job import setup
from tcelab.logs import NOTE
from tcelab.papr import tce
from tcelab.program import GuestOp, Page, Repeat
from tcelab.qemu.livesample import SessionLooker
from tcelab.qemu.qemusession import QemuSession
from tcelab.report.livedisplay import LiveDisplay
from tcelab.scenarios import vocabulary as b

_LOG: Final = logging.getLogger(__name__)

PAGES: Final = 32
SECONDS: Final = 2.0
"""Seconds of half a turn, approximately: eight samples."""
GOAL: Final = 1.0
"""Limit on the watcher's cost, per cent."""

_TRIAL: Final = 500
_BUFFER: Final = "watched"
_PERCENT: Final = 100.0


def measure(job: BenchJob) -> Measured:
    """Pages per second without and with a watcher, and what it costs: each turn has both, in changing order.

    :raise UsageError: no PE. :raise HarnessError: the guest does not do what is timed, or the watcher saw nothing.
    """
    pes = b.pes(job.choice.topology, _BUFFER)
    if not pes:
        raise UsageError(f"topology {job.choice.topology.name!r} has no device under test")
    pe = pes[0]
    ready = setup.prepare(job.choice)
    rates: dict[bool, list[float]] = {False: [], True: []}
    busy: list[float] = []
    with opened(ready, job.limits) as session:
        ops = [*b.buffer(_BUFFER, PAGES, 1), *b.bind(pe), *b.open_container(pe), *b.enable(pe)]
        for op, outcome in zip(ops, session.perform(ops), strict=True):  # type: ignore[arg-type]
            if outcome.errno:
                raise HarnessError(f"{type(op).__name__} failed: {outcome.errno}")
        pair = [*b.map_dma(pe, Page(_BUFFER), pe.start, PAGES, tce.PERMISSIONS), *b.unmap_dma(pe, pe.start, PAGES)]

        def timed(times: int) -> float:
            (op,) = b.repeat(pair, times)
            assert isinstance(op, Repeat)
            return seconds(session, op)

        times = int(_TRIAL * SECONDS / timed(_TRIAL)) + 1
        for turn in range(job.repeat):
            for watched in (False, True) if turn % 2 else (True, False):
                if not watched:
                    took = timed(times)
                else:
                    screen = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
                    with LiveDisplay(screen, job.choice.topology) as watcher:
                        watcher.take(SessionLooker(session, job.choice.topology))
                        took = timed(times)
                    if watcher.watching.seen < watcher.watching.looks or not any(watcher.watching.most.values()):
                        raise HarnessError(f"the watcher was to be measured: {watcher.watching.summary()}")
                    busy.append(_PERCENT * watcher.busy / took)
                rates[watched].append(times * 2 * PAGES / took)
            _LOG.info("watch: turn %d of %d", turn + 1, job.repeat, extra=NOTE)
        on = told(session.facts)
    cost = [_PERCENT * (1 - slow / fast) for slow, fast in zip(rates[True], rates[False], strict=True)]
    figures = [
        Figure("pages without a watcher", "pages/s", rates[False]),
        Figure("pages with a watcher", "pages/s", rates[True]),
        Figure("the guest loses", "%", cost),
        Figure("the watcher works", "% of a core", busy),
    ]
    return Measured(figures=figures, on=on, text=_text(figures, on))


def seconds(session: QemuSession, op: GuestOp) -> float:
    """What a `Repeat` takes by the host's clock: the guest's own could hide what a watcher takes from it.

    :raise HarnessError: one of its calls failed.
    """
    assert isinstance(op, Repeat)
    began = time.perf_counter()
    (outcome,) = session.perform([op])
    took = time.perf_counter() - began
    if outcome.value != 0 or outcome.fields["calls"] != len(op.ops) * op.times:
        raise HarnessError(f"what is timed did not succeed: {outcome}")
    return took


def _text(figures: Sequence[Figure], on: Mapping[str, str]) -> list[str]:
    out = [f"{what + ':':8}{value}" for what, value in on.items()]
    out.append(f"{'figure':26} {'median':>12} {'half of them between':>25} {'n':>4}")
    for each in figures:
        low, _, high = (
            statistics.quantiles(each.values, n=4, method="inclusive") if len(each.values) > 1 else each.values * 3
        )
        digits = 0 if each.unit == "pages/s" else 2
        numbers = f"{each.median:12,.{digits}f} {low:11,.{digits}f} .. {high:10,.{digits}f}"
        out.append(f"{each.name:26} {numbers} {len(each.values):4}  {each.unit}")
    return [*out, f"to reach: the guest loses less than {GOAL:g} %"]
