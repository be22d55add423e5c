"""What runs on a worker of a cluster. dask calls it in a thread of the worker's process."""

from __future__ import annotations

import uuid
from typing import Any, Final

import msgspec
from distributed import get_worker

from tcelab.cluster import fit, perform
from tcelab.cluster.task import Task
from tcelab.nightly.provision import Need

_AT_WORK: Final = ("executing", "long-running")


def topic(campaign: str) -> str:
    """Under which workers tell what they do."""
    return f"tcelab-{campaign}"


def run(data: bytes) -> bytes:
    """Run a task: a `Returned`, encoded. Its beginning and its verdict are told before it is returned: a result that
    is lost with its worker is known all the same.

    :param data: the task, encoded.
    """
    worker = get_worker()
    mine, turn = worker.get_current_task(), uuid.uuid4().hex
    task = msgspec.msgpack.decode(data, type=Task)
    key = task.key()

    def tell(what: str, **more: str) -> None:
        worker.log_event(topic(task.campaign), {"what": what, "key": key, "turn": turn, **more})

    def gone() -> bool:
        state: Any = worker.state.tasks.get(mine)
        return worker.status.name not in {"running", "paused"} or state is None or state.state not in _AT_WORK

    tell("began", worker=worker.address)
    returned = perform.perform(task, worker.address, gone)
    tell("verdict", verdict=returned.verdict)
    return msgspec.msgpack.encode(returned)


def facts(needs: list[Need]) -> bytes:
    """What this worker is; see `fit.facts`."""
    return msgspec.msgpack.encode(fit.facts([(what, name) for what, name in needs]))


def forget(campaign: str) -> None:
    """The client has all results of a campaign."""
    perform.forget(campaign)
