"""The guests of benchmarks, and the description of the host."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from tcelab import report
from tcelab.bench import BenchJob
from tcelab.job import artefacts, replayline, setup
from tcelab.job.keeping import Keeper
from tcelab.judge import Verdict
from tcelab.logs import NOTE, LogFile
from tcelab.program import Program
from tcelab.qemu import fork
from tcelab.qemu.limits import Limits
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Facts, RunRecord

_LOG: Final = logging.getLogger(__name__)


@contextmanager
def opened(
    ready: setup.PreparedMachine,
    limits: Limits,
    folder: Path | None = None,
    *,
    boot: bool = False,
) -> Iterator[QemuSession]:
    """A session on a guest of its own.

    :param folder: for artefacts; it exists, private. A new one if not given.
    :param boot: boot it, whether or not it could be forked.
    """
    with kept() if folder is None else nullcontext(folder) as where:
        digest = ready.digest
        with fork.opened(ready.qemu, ready.options, where, digest=digest, limits=limits, boot=boot) as session:
            yield session


@contextmanager
def kept() -> Iterator[Path]:
    """A new folder for artefacts, private; meanwhile, its log.txt is written."""
    folder = artefacts.folder(None)
    with LogFile(folder):
        yield folder


def keep_failed(folder: Path, job: BenchJob, program: Program, record: RunRecord, verdict: Verdict) -> None:
    """Keep what was judged and did not pass, and say how to repeat it."""
    keeper = Keeper(folder)
    keeper.write("result.json", report.to_json(report.make(record, verdict)))
    again = replayline.line("run", folder / "program.json", job.choice, limits=job.limits)
    said = f"to repeat it: {again}" if keeper.write("program.json", program.to_json()) else keeper.lost()
    _LOG.warning("%s", said, extra=NOTE)


def told(facts: Facts) -> dict[str, str]:
    """What the figures depend on: host, QEMU, kernel."""
    qemu, guest = facts.versions.get("qemu", {}), facts.versions.get("guest", {})
    return {
        "host": host_cpu(),
        "qemu": f"{qemu.get('version', '?')}, TCG, {qemu.get('firmware', '?')}, {qemu.get('cpu', '?')}",
        "kernel": f"{guest.get('kernel', '?')}, {facts.page_size >> 10} KiB pages",
    }


def host_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "cpu\t"))]
    return names[0] if names else platform.machine()
