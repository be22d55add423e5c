"""The cost of a fresh guest: a boot, a fork, a fork that is kept ready, four at once; and the memory of each."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import kept, told
from tcelab.errors import HarnessError, Unsupported
from tcelab.job import setup
from tcelab.logs import NOTE
from tcelab.papr import tce
from tcelab.program import Fresh, GuestOp, HostOp, Op, Page
from tcelab.program.topology import Topology
from tcelab.qemu.ahead import Ahead
from tcelab.qemu.fork import Forks
from tcelab.qemu.guest import Guest
from tcelab.qemu.qemusession import QemuSession
from tcelab.scenarios import vocabulary as b

_LOG: Final = logging.getLogger(__name__)

AT_ONCE: Final = 4
_KIB: Final = 1024.0


def measure(job: BenchJob) -> Measured:
    """Boot and fork in turns; measure the seconds until the first VFIO program is done on each, and its memory (MiB).

    :raise Unsupported: this QEMU cannot fork.
    """
    with kept() as root:
        return _measured(job, _Folders(root))


def _measured(job: BenchJob, folder: _Folders) -> Measured:
    ready = setup.prepare(job.choice)
    timed = _Timed(job.choice.topology)

    def forks(*, boot: bool = False) -> Forks:
        return Forks(ready.qemu, ready.options, digest=ready.digest, limits=job.limits, boot=boot)

    with (
        closing(forks()) as forked,
        closing(forks(boot=True)) as booted,
        Ahead(forks(), folder, 1) as ahead,
        # This guest makes the base if there is none; while it lives, QEMU's own pages are shared and do not count.
        forked.open(folder()) as first,
    ):
        if "base" not in first.facts.versions:
            raise Unsupported("there is nothing to measure: this guest cannot be forked")
        for turn in range(job.repeat):
            _LOG.info("turn %d of %d", turn + 1, job.repeat, extra=NOTE)
            boot = timed.program("boot", lambda: booted.open(folder()))
            fork = timed.program("fork", lambda: forked.untried(folder(), timed.loaded))
            timed.add("boot / fork", boot / fork)
            ahead.prepare()
            timed.program("kept ahead", lambda: ahead.take(0))
            timed.at_once(lambda: forked.untried(folder()))
        return Measured(figures=timed.figures(), on=told(first.facts))


class _Folders:
    """Makes a folder for the artefacts of each guest."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._numbers = itertools.count()

    def __call__(self) -> Path:
        new = self._root / f"{next(self._numbers)}"
        new.mkdir(mode=0o700)
        return new


class _Timed:
    """Times the opening of guests, and collects values by figure."""

    def __init__(self, topology: Topology) -> None:
        self._program = first_program(topology)
        self._values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)

    def program(self, kind: str, opening: Callable[[], QemuSession]) -> float:
        """Open a guest and run a first VFIO program on it: seconds for both."""
        began = time.perf_counter()
        with opening() as session:
            opened = time.perf_counter()
            if kind == "fork":
                self.add("fork: loaded", session.reached["loaded"])
                self.add("fork: first reply", session.reached["ready"])
            outcomes = session.perform(self._program)
            done = time.perf_counter()
            if refused := [each.errno for each in outcomes if each.errno]:
                raise HarnessError(f"the program that is timed fails here: {refused[0]}", next_step="tcelab run flow")
            if kind == "fork":
                self.add("memory of a fork: first program", own_memory(session.guest.pid))
        if kind == "kept ahead":
            self.add("kept ahead: handed out", opened - began)
            self.add("kept ahead: first program", done - opened)
        else:
            self.add(f"{kind}: first program", done - began)
        return done - began

    def loaded(self, guest: Guest) -> None:
        """A fork is loaded: measure its private memory."""
        self.add("memory of a fork: loaded", own_memory(guest.pid))

    def at_once(self, opening: Callable[[], QemuSession]) -> None:
        """Fork several together: seconds until the last is loaded, and until the last has answered."""
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sessions = list(pool.map(lambda _: opening(), range(AT_ONCE)))
        for what in ("loaded", "ready"):
            self.add(f"{AT_ONCE} at once: {what}", max(each.began + each.reached[what] for each in sessions) - began)
        for each in sessions:
            each.close()

    def figures(self) -> list[Figure]:
        return [Figure(name, _unit(name), values) for name, values in self._values.items()]


def _unit(name: str) -> str:
    return "MiB" if name.startswith("memory") else "ratio" if "/" in name else "s"


def first_program(topology: Topology) -> list[GuestOp]:
    """What a user of VFIO does first: bind, open, enable, map a page and unmap it."""
    pe = b.pes(topology, "first")[0]
    page = Page("first")
    ops: list[Op] = [*b.buffer("first", 1, 1), *b.bind(pe), *b.open_container(pe), *b.enable(pe)]
    ops += [*b.map_dma(pe, page, pe.start, 1, tce.PERMISSIONS), *b.unmap_dma(pe, pe.start, 1)]
    return [op for op in ops if not isinstance(op, HostOp | Fresh)]


def own_memory(pid: int) -> float:
    """MiB that belong to a process alone (USS): /proc/PID/smaps_rollup, proc(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / _KIB
