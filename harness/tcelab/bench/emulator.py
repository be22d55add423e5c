"""The emulator against a forked guest, one program on both; its MAP through an ioctl's bytes; the fuzzer's rate."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Final

from tceagent import uapi
from tcelab import commandline, scenarios
from tcelab.bench import BenchJob, Figure, Measured
from tcelab.bench.benchguests import kept, opened, told
from tcelab.emulator import EmulatorSession
from tcelab.errors import HarnessError
from tcelab.fuzz.campaign import Campaign
from tcelab.image import hosttools
from tcelab.job import artefacts, replayline, setup
from tcelab.job.pool import Guests
from tcelab.logs import NOTE, screened
from tcelab.papr import tce, window
from tcelab.program import Program
from tcelab.run.loop import perform_program
from tcelab.run.session import Session
from tcelab.scenarios import vocabulary as b

_LOG: Final = logging.getLogger(__name__)

_PAGES: Final = 32
_CALLS: Final = 2000
_STEPS: Final = 20_000
"""Operations of the fuzzer: enough for its guests' code to be warm."""


def measure(job: BenchJob) -> Measured:
    """Each turn runs the batch program (n = 1..32, every checkpoint) on the emulator and on a fresh fork."""
    ready = setup.prepare(job.choice)
    program = scenarios.build("batches", job.choice.topology, seed=1)
    figures: dict[str, list[float]] = {}
    on = {}
    for turn in range(job.repeat):
        _LOG.info("turn %d of %d", turn + 1, job.repeat, extra=NOTE)
        mine = _seconds(program, EmulatorSession(job.choice.topology, seed=turn))
        with screened(lambda _: False), opened(ready, job.limits) as guest:
            on = told(guest.facts)
            its = _seconds(program, guest)
        for name, value in (
            ("batch program on the emulator, s", mine),
            ("batch program on a fork, s", its),
            ("fork / emulator", its / mine),
            (f"MAP of {_PAGES} pages, calls/s", _maps(job)),
            ("import tcelab, ms", _import()),
        ):
            figures.setdefault(name, []).append(value)
    figures["fuzz on guests, operations/s"] = [_fuzz(job)]
    return Measured(figures=[Figure(name, "", values) for name, values in figures.items()], on=on)


def _seconds(program: Program, session: Session) -> float:
    """Seconds of a program without a judge.

    :raise HarnessError: it did not come to its end.
    """
    began = time.perf_counter()
    record = perform_program(program, session)
    if record.ending is not None:
        raise HarnessError(f"the program ended early: {record.ending.error.message}")
    return time.perf_counter() - began


def _maps(job: BenchJob) -> float:
    """Calls a second of MAP_DMA over live entries, each parsed from its bytes."""
    session = EmulatorSession(job.choice.topology)
    pe = b.pes(job.choice.topology, "bench")[0]
    outcomes = session.perform([*b.bind(pe), *b.open_container(pe), *b.enable(pe), *b.buffer("m", _PAGES, 1)])  # type: ignore[list-item]
    address = outcomes[-2].value or 0
    fields = {"flags": tce.PERMISSIONS, "vaddr": address, "size": _PAGES * window.PAGE_SIZE}
    kernel, fd = session.kernel, session.descriptor(pe.container)
    request, raw = uapi.NUMBERS["MAP_DMA"], uapi.LAYOUTS["MAP_DMA"].pack(fields)
    began = time.perf_counter()
    for _ in range(_CALLS):
        kernel.ioctl(fd, request, raw)
    return _CALLS / (time.perf_counter() - began)


def _import() -> float:
    """Milliseconds of `import tcelab`, without the interpreter's own start."""
    code = "import time; began = time.perf_counter(); import tcelab; print(time.perf_counter() - began)"
    return 1e3 * float(hosttools.run([sys.executable, "-c", code], hosttools.RunLimit("import tcelab", 30)))


def _fuzz(job: BenchJob) -> float:
    """Operations a second of a campaign, guests, checkpoints and comparison included.

    :raise HarnessError: it found something, so there is no rate.
    """
    with kept() as folder:
        return _fuzzed(job, folder)


def _fuzzed(job: BenchJob, folder: Path) -> float:
    guests = Guests(job.choice, artefacts.numbered(folder / "guests"), limits=job.limits)
    try:
        campaign = Campaign(1, lambda name: guests.fresh(name, None), folder, usual="two-small", give_up=guests.close)
        campaign.run(_STEPS)
    finally:
        guests.close()
    if campaign.tally.found or campaign.tally.could_not:
        again = [*replayline.chosen(job.choice), *replayline.opening(job.limits, boot=False)]
        words = ["fuzz", "--seed", "1", "--topology", "two-small", "--steps", str(_STEPS), *again]
        raise HarnessError("the fuzzer found something", next_step=commandline.typed(words))
    return campaign.tally.operations / campaign.tally.spent
