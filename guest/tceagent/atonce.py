"""Operations that are begun at once, each by a process of its own on a CPU of its own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tceagent.seam import Kernel, Op, Outcome
    from tceagent.state import State


def perform(state: State, count: int, group: list[Op]) -> list[Outcome]:
    """Begin operations, then wait for all: the outcome of the beginning, with when each began and ended, and theirs.

    :raise Exception: one of them cannot be done, or its process has died.
    """
    if len(group) != count:
        raise ValueError(f"{count} operations are begun at once, and here come {len(group)}")
    begun = []
    for cpu, op in enumerate(group):
        arguments = dict(op)
        process = arguments.pop("by")
        child = state.child(process)
        child.begin(dict(arguments, cpu=cpu))
        begun.append((process, child))
    outcomes: list[Outcome] = []
    spans: list[Any] = []
    for process, child in begun:
        try:
            outcome = child.answer()
        except Exception as error:
            raise RuntimeError(f"process {process!r} could not do it: {error}") from error
        spans.append(outcome.pop("span"))
        outcomes.append(outcome)
    return [{"value": 0, "fields": {"spans": spans}}, *outcomes]


def serve(kernel: Kernel, do: Callable[[Op], Outcome], op: Op) -> Outcome:
    """In the process: do one operation, on a CPU of its own if it is begun with others."""
    if "cpu" not in op:
        return do(op)
    kernel.pin(op.pop("cpu"))
    began = kernel.monotonic()
    outcome = do(op)
    return dict(outcome, span=[began, kernel.monotonic()])
