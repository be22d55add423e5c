"""The cost of the events in the life of a table: each until its guest answers again, beside a cold boot of the same
machine.

Events are gone through on a fork of a kept base; an entry is mapped before each, and the tables are judged after it.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import kept, told
from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge, Verdict
from tcelab.logs import NOTE
from tcelab.papr import window
from tcelab.program import Kexec, LifeOp, Load, Op, Page, Program, Reboot, Reset, Save
from tcelab.program.topology import Topology
from tcelab.qemu.fork import Forks
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.loop import Recorder
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

_LOG: Final = logging.getLogger(__name__)
_PAGES: Final = 16
EVENTS: Final[dict[str, tuple[LifeOp, ...]]] = {
    "reset": (Reset(expect="ok"),),
    "reboot": (Reboot(expect="ok"),),
    "kexec": (Kexec(expect="ok"),),
    "save and load": (Save(expect="ok"), Load(expect="ok")),
}
"""What is timed as a whole, by the figure's name."""
FULL: Final = {"save and load"}
"""Events of a guest that has two full windows."""
_CHUNK: Final = 4096
"""Pages of the buffer to which full windows lead."""


def measure(job: BenchJob) -> Measured:
    """Boot a guest, and go through each event on a fork, in turns: seconds, and their ratios to the boot's."""
    choice = msgspec.structs.replace(job.choice, restarts=True)
    ready = setup.prepare(choice)
    values: dict[str, list[float]] = {}
    numbers = itertools.count()
    with (
        kept() as root,
        closing(Forks(ready.qemu, ready.options, digest=ready.digest, limits=job.limits)) as forks,
        closing(Forks(ready.qemu, ready.options, digest=ready.digest, limits=job.limits, boot=True)) as boots,
    ):
        for turn in range(job.repeat):
            _LOG.info("turn %d of %d", turn + 1, job.repeat, extra=NOTE)
            began = time.perf_counter()
            with boots.open(_folder(root, numbers)):
                boot = time.perf_counter() - began
            values.setdefault("boot", []).append(boot)
            for name, events in EVENTS.items():
                with forks.open(_folder(root, numbers)) as session:
                    on = told(session.facts)
                    before = _full if name in FULL else _mapped
                    took, verdict = _timed(session, choice.topology, before(b.pes(choice.topology, "life")[0]), events)
                if verdict.exit_code:
                    return Measured(figures=[], on=on, verdict=verdict)
                values.setdefault(name, []).append(took)
                values.setdefault(f"{name} / boot", []).append(took / boot)
    units = {name: "ratio" if "/" in name else "s" for name in values}
    return Measured(figures=[Figure(name, units[name], each) for name, each in values.items()], on=on, verdict=verdict)


def _folder(root: Path, numbers: Iterable[int]) -> Path:
    folder = root / f"guest-{next(iter(numbers))}"
    folder.mkdir(mode=0o700)
    return folder


def _mapped(pe: Pe) -> list[Op]:
    """A v1 container with some entries."""
    before: list[Op] = [*b.buffer("life", _PAGES, 1), *b.bind(pe), *b.open_container(pe), *b.enable(pe)]
    before += b.tag(Page("life"), _PAGES, pe.liobn, pe.start, 1)
    return [*before, *b.map_dma(pe, Page("life"), pe.start, _PAGES, 3)]


def _full(pe: Pe) -> list[Op]:
    """A v2 container with two windows of the same size, in which every entry leads to a page of one buffer."""
    pages, size = min(pe.entries, _CHUNK), pe.entries * b.PAGE
    before: list[Op] = [*b.buffer("life", pages, 1), *b.bind(pe), *b.open_container(pe, b.SPAPR_TCE_V2)]
    before += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=Page("life"), size=pages * b.PAGE)
    before += b.ask(pe, "SPAPR_TCE_CREATE", page_shift=window.PAGE_SHIFT, window_size=size, levels=1)
    before += b.tag(Page("life"), pages, pe.liobn, pe.start, 1)
    for start in (pe.start, window.SECOND_START):
        for at in range(start, start + size, pages * b.PAGE):
            before += b.map_dma(pe, Page("life"), at, pages, 3)
    return before


def _timed(
    session: QemuSession, topology: Topology, before: list[Op], events: tuple[LifeOp, ...]
) -> tuple[float, Verdict]:
    """Seconds of the events, and the verdict on what they left."""
    before = [*before, *b.checkpoint("before", stream=True)]
    after = b.checkpoint("after", stream=True)
    program = Program(name="life", topology=topology, ops=[*before, *events, *after])
    judge = Judge(program, session.facts, references=second_opinion(topology, session.facts))
    recorder = Recorder(program, session, judge)
    recorder.perform(before)
    began = time.perf_counter()
    recorder.perform(events)
    took = time.perf_counter() - began
    recorder.perform(after)
    recorder.finish()
    return took, judge.verdict(recorder.run)
