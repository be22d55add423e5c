"""A session that repeats another's operations one by one, for comparison."""

from __future__ import annotations

from typing import Protocol

from tcelab.program import Flip, Fresh, is_host
from tcelab.run.record import Facts, Outcome, Step
from tcelab.run.session import Session


class FollowingSession:
    """Most of a reference; see `tcelab.judge.laws.difference.Reference`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._frames: dict[int, None] = {}

    @property
    def facts(self) -> Facts:
        """Of the session."""
        return self._session.facts

    def follow(self, step: Step) -> Step:
        """Repeat one operation.

        :raise TcelabError: it cannot be done here, or the guest died of it.
        """
        number, op = step.number, step.op
        assert not isinstance(op, Fresh)
        if isinstance(op, Flip):
            return Step(number, op)  # a fault is injected on one side only
        if not is_host(op):
            (outcome,) = self._session.perform([op])  # type: ignore[list-item]
            self._frames.update(dict.fromkeys(outcome.frames))
            return Step(number, op, outcome=outcome)
        result = self._session.intervene(op, list(self._frames))
        if isinstance(result, Outcome):
            return Step(number, op, outcome=result)
        return Step(number, op, snapshot=result)


class Renewable(Session, Protocol):
    """A guest that can begin anew."""

    def renew(self, nonce: bytes | None = None) -> None: ...
