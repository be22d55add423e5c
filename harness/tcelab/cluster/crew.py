"""The workers that do the work: processes of this machine, or of machines that a scheduler knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tcelab.cluster.address import Scheduler
from tcelab.errors import UsageError, counted
from tcelab.nightly import process
from tcelab.nightly.provision import Need


@dataclass(frozen=True)
class Workers:
    """Who is to do the work.

    :ivar count: how many; None: all that the scheduler has.
    :ivar scheduler: None: processes of this machine.
    """

    count: int | None
    scheduler: Scheduler | None

    def words(self) -> list[str]:
        """As options of a command line."""
        words = [] if self.count is None else ["--workers", str(self.count)]
        if self.scheduler is None:
            return words
        words += ["--scheduler", self.scheduler.address]
        files = {"--tls-ca": self.scheduler.ca, "--tls-cert": self.scheduler.cert, "--tls-key": self.scheduler.key}
        return [*words, *(word for name, path in files.items() if path is not None for word in (name, str(path)))]


@dataclass(frozen=True)
class Crew:
    """Who does it.

    :ivar slots: tasks side by side.
    :ivar starts: starts one.
    :ivar told: for people.
    :ivar lost: how many tasks were lost with their workers by now.
    """

    slots: int
    starts: process.Starts
    told: str
    lost: Callable[[], int] = lambda: 0


@contextmanager
def opened(workers: Workers, needs: Sequence[Need], campaign: str) -> Iterator[Crew]:
    """While the block lasts, they are there.

    :param needs: image and QEMU that must be the same on all machines.
    :raise UsageError: no scheduler is there, or none of its workers fits.
    """
    if workers.scheduler is None:
        count = workers.count or 1
        yield Crew(count, process.here, counted(count, "worker"))
        return
    try:
        import distributed  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise UsageError(
            "--scheduler needs dask.distributed", next_step='pip install "tcelab[cluster]", or leave --scheduler out'
        ) from None
    from tcelab.cluster.far import FarCrew  # noqa: PLC0415 - likewise

    with FarCrew(workers.scheduler, workers.count, needs, campaign) as far:
        yield Crew(far.slots, far.start, far.told, far.lost)
