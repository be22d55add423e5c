"""The workers of a cluster that exists, as the client sees them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec
from distributed import Client, KilledWorker, Security

from tcelab.cluster import farside, fit
from tcelab.cluster.address import Scheduler
from tcelab.cluster.book import Book
from tcelab.cluster.fit import VM, Facts
from tcelab.cluster.remote import Remote
from tcelab.cluster.task import IN, OUT, Returned, Task
from tcelab.commandline import started
from tcelab.errors import HarnessError, UsageError
from tcelab.logs import NOTE
from tcelab.nightly.provision import Need

_LOG: Final = logging.getLogger(__name__)

_CONNECT: Final = 8.0
"""Seconds in which a scheduler must answer."""
_BUILD: Final = 3600.0
"""Seconds in which a worker must say what it is: it may have an image to build."""
_LOOK: Final = 1.0
_SILENT: Final = 5.0
"""Seconds without the scheduler, after which it is gone."""
_EMPTY: Final = 60.0
"""Seconds without any worker, after which none will come."""


class FarCrew:
    """Asks workers to run tasks, and decides what counts. A context manager.

    :ivar slots: guests that all workers together may run at a time.
    :ivar book: which verdict counts.
    """

    def __init__(self, scheduler: Scheduler, count: int | None, needs: Sequence[Need], campaign: str) -> None:
        """:param count: workers to use at most.
        :raise UsageError: no scheduler is there, it does not fit, or none of its workers does.
        """
        for name in [each for each in logging.root.manager.loggerDict if each.partition(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what it says of a lost connection is told below
        self.book = Book()
        self._scheduler, self._campaign, self._needs = scheduler, campaign, list(needs)
        self._own = fit.facts(needs)
        if self._own.why:
            raise HarnessError(self._own.why)
        self._client = _connected(scheduler)
        self._lock = threading.Lock()
        self._going: dict[str, Remote] = {}
        self._futures: dict[str, Any] = {}
        self._restricted: dict[str, set[str]] = {}
        self._accepted: dict[str, int] = {}
        self._seen: set[str] = set()
        self._gone = ""
        self._over = threading.Event()
        self._heard = self._staffed = time.monotonic()
        try:
            self._check_scheduler()
            self._client.subscribe_topic(farside.topic(campaign), self._event)
            self._meet(count)
        except BaseException:
            self._client.close(timeout=_CONNECT)
            raise
        self.slots = sum(self._accepted.values())
        self._watcher = threading.Thread(target=self._watch, name="tcelab-cluster", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        for each in list(self._going.values()):
            each.end()
        with contextlib.suppress(Exception):
            if kind is None and not self._gone:
                self._client.run(farside.forget, self._campaign, on_error="ignore")
        with contextlib.suppress(Exception):
            self._client.close(timeout=_CONNECT)

    @property
    def told(self) -> str:
        """For people."""
        return f"{len(self._accepted)} workers of {self._scheduler.address}, {self.slots} guests at a time"

    def lost(self) -> int:
        """How many tasks were lost with their workers by now."""
        return self.book.lost

    def start(
        self,
        words: Sequence[str],
        output: Path,
        *,
        out: Path,
        cookie: str,
        limit: float,
        folder: Path,
        inputs: Path | None = None,
    ) -> Remote:
        """See `Starts`.

        :raise HarnessError: the scheduler is gone, or no worker is left.
        """
        if self._gone:
            raise HarnessError(self._gone)
        known = started()
        own = list(words[: len(known)]) == known
        told = [_placed(word, out, inputs) for word in (words[len(known) :] if own else words)]
        minutes = told.index("--minutes") if own and cookie.startswith(self._campaign) and "--minutes" in told else None
        more = told[minutes : minutes + 2] if minutes is not None and "--program" in told else []
        task = Task(
            campaign=self._campaign,
            title=cookie,
            words=[*told[:minutes], *told[minutes + 2 :]] if more and minutes is not None else told,
            own=own,
            more=more,
            files={each.name: each.read_bytes() for each in inputs.iterdir()} if inputs is not None else {},
            limit=limit,
            folder="" if own else str(folder),
            machine=fit.machine(self._own),
            name=cookie.rpartition("/")[2],
        )
        remote = Remote(task, out, output, self.book.flaky, self._drop)
        with self._lock:
            self._going[remote.key] = remote
        self._ask(remote)
        return remote

    # -- the scheduler and its workers

    def _check_scheduler(self) -> None:
        """A scheduler that runs the task of a dead worker again by itself would do so with verdicts."""
        failures = self._client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures)
        if failures != 0:
            raise UsageError(
                f"the scheduler at {self._scheduler.address} runs the task of a dead worker again by itself,"
                f" {failures} times",
                next_step="start it with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0",
            )

    def _workers(self) -> dict[str, Any]:
        # Not scheduler_info: the client's own periodic look, which asks for no workers, may come between.
        client = self._client
        identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_CONNECT)
        found: dict[str, Any] = identity["workers"]
        return found

    def _meet(self, count: int | None) -> None:
        """Ask each worker what it is.

        :raise UsageError: none of them fits.
        """
        there = self._workers()
        asked = {address: self._asked(address) for address in there}
        reasons = []
        for address, future in asked.items():
            why = self._refused(future, there[address]["resources"])
            self._seen.add(address)
            if why:
                reasons.append(why)
                _LOG.warning("worker %s is refused: %s", address, why, extra=NOTE)
            elif count is None or len(self._accepted) < count:
                self._accepted[address] = int(there[address]["resources"][VM])
        if not self._accepted:
            why = f"none of its {len(there)} workers may take part: {reasons[0]}" if reasons else "it has no workers"
            raise UsageError(f"the scheduler at {self._scheduler.address}: {why}", next_step="see the page Cluster")

    def _asked(self, address: str) -> Any:  # noqa: ANN401 - dask's own
        return self._client.submit(
            farside.facts,
            self._needs,
            key=f"tcelab-facts-{uuid.uuid4().hex}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )

    def _refused(self, future: Any, resources: dict[str, float]) -> str:  # noqa: ANN401 - dask's own
        try:
            other = msgspec.msgpack.decode(future.result(timeout=_BUILD), type=Facts)
        except Exception as error:  # noqa: BLE001 - whatever keeps a worker from answering keeps it out
            _LOG.debug("a worker says nothing", exc_info=error)
            other = None
        return fit.refused(self._own, other, resources)

    def _watch(self) -> None:
        """Notice the scheduler's end, and workers that come and go."""
        asked: dict[str, Any] = {}
        while not self._over.wait(_LOOK):
            try:
                if not self._is_there():
                    continue
                there = self._workers()
                for address in set(there) - self._seen:
                    self._seen.add(address)
                    asked[address] = self._asked(address)
                for address in [each for each, future in asked.items() if future.done()]:
                    self._newcomer(address, asked.pop(address), there)
                self._staff(there)
            except Exception as error:  # noqa: BLE001 - the next look may tell more; its silence is noticed
                _LOG.debug("looking at the cluster failed", exc_info=error)

    def _is_there(self) -> bool:
        now = time.monotonic()
        if self._client.status == "running":
            self._heard = now
            return True
        if now - self._heard > _SILENT:
            self._lose(f"the scheduler at {self._scheduler.address} is gone")
        return False

    def _newcomer(self, address: str, future: Any, there: dict[str, Any]) -> None:  # noqa: ANN401 - dask's own
        if address not in there:
            return
        why = self._refused(future, there[address]["resources"])
        if why:
            _LOG.warning("worker %s is refused: %s", address, why, extra=NOTE)
        else:
            _LOG.info("worker %s has come", address, extra=NOTE)
            self._accepted[address] = int(there[address]["resources"][VM])

    def _staff(self, there: dict[str, Any]) -> None:
        for address in [each for each in self._accepted if each not in there]:
            _LOG.warning("worker %s is gone", address, extra=NOTE)
            del self._accepted[address]
            self._seen.discard(address)
        now = time.monotonic()
        if self._accepted:
            self._staffed = now
            for remote in list(self._going.values()):
                if not remote.over and not remote.began and not self._restricted[remote.key] & self._accepted.keys():
                    self._ask(remote)
        elif now - self._staffed > _EMPTY:
            self._lose(f"no worker is left at {self._scheduler.address}")

    def _lose(self, why: str) -> None:
        self._gone = self._gone or why
        for each in list(self._going.values()):
            each.fail(why)

    # -- a task

    def _ask(self, remote: Remote) -> None:
        """Ask for a task, once more if need be; without workers, once one comes."""
        accepted = set(self._accepted)
        self._restricted[remote.key] = accepted
        if not accepted:
            return
        remote.turn, remote.began = self.book.ask(remote.key), False
        future = self._client.submit(
            farside.run,
            msgspec.msgpack.encode(remote.task),
            key=f"tcelab-{remote.key}-{remote.turn}",
            workers=sorted(accepted),
            allow_other_workers=False,
            resources={VM: 1},
            pure=False,
            retries=0,
        )
        self._futures[remote.key] = future
        future.add_done_callback(lambda done: self._done(remote, done))

    def _done(self, remote: Remote, future: Any) -> None:  # noqa: ANN401 - dask's own
        if remote.over or id(self._futures.get(remote.key)) != id(future):
            return  # nobody waits for it any more
        try:
            returned = msgspec.msgpack.decode(future.result(timeout=_CONNECT), type=Returned)
        except KilledWorker:
            self._again(remote, "its worker was lost")
        except Exception as error:  # noqa: BLE001 - whatever dask says, there is no result
            self._again(remote, f"no result: {type(error).__name__}: {error}")
        else:
            self.book.verdict(remote.key, f"returned {remote.turn}", returned.verdict)
            remote.done(returned)
            self._forget(remote)

    def _again(self, remote: Remote, why: str) -> None:
        if self._gone or self._client.status != "running":
            return  # the watcher tells
        if self.book.may_ask_again(remote.key):
            _LOG.warning("%s: %s: it is asked for again", remote.task.title, why, extra=NOTE)
            self._ask(remote)
        else:
            remote.fail(f"{why}, {self.book.asked(remote.key)} times")
            self._forget(remote)

    def _drop(self, remote: Remote) -> None:
        if (future := self._forget(remote)) is not None:
            with contextlib.suppress(Exception):
                future.cancel(force=True, msg="nobody wants it any more")

    def _forget(self, remote: Remote) -> Any:  # noqa: ANN401 - dask's own
        with self._lock:
            self._going.pop(remote.key, None)
        return self._futures.pop(remote.key, None)

    def _event(self, event: tuple[float, dict[str, str]]) -> None:
        """A worker tells what it does."""
        _, told = event
        if told["what"] == "began":
            self.book.began(told["key"], told["turn"])
            if (remote := self._going.get(told["key"])) is not None:
                remote.began = True
        else:
            self.book.verdict(told["key"], told["turn"], told["verdict"])


def _placed(word: str, out: Path, inputs: Path | None) -> str:
    placed = word.replace(str(out), OUT)
    return placed if inputs is None else placed.replace(str(inputs), IN)


def _connected(scheduler: Scheduler) -> Client:
    """:raise UsageError: no scheduler is there, or not one that is spoken to so."""
    more: dict[str, Any] = {}
    if scheduler.tls:
        more["security"] = Security(
            require_encryption=True,
            tls_ca_file=str(scheduler.ca),
            tls_client_cert=str(scheduler.cert),
            tls_client_key=str(scheduler.key),
        )
    try:
        return Client(scheduler.address, timeout=_CONNECT, set_as_default=False, **more)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"no scheduler answers at {scheduler.address}: {why}", next_step="is it started, with these certificates?"
        ) from None
