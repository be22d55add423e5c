"""The interface of a platform: a session on a topology."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tcelab.program import GuestOp, HostOp
from tcelab.run.record import Facts, Outcome, Parting, Snapshot


class Session(Protocol):
    """A platform opened on a topology. The host drives; nothing calls back."""

    @property
    def facts(self) -> Facts: ...

    @property
    def boot(self) -> int:
        """Number of the guest's boot, from 1 on."""
        ...

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """Do guest operations in order, an outcome for each.

        :raise GuestLost: the guest died or stopped answering; `in_flight` says how far it got.
        """
        ...

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:
        """Do one host operation. `frames`: addresses of the pages of buffers, to be read at a checkpoint."""
        ...

    def trouble(self) -> tuple[str, ...]:
        """Lines of kernel trouble since the last snapshot."""
        ...

    def finish(self) -> tuple[str, ...]:
        """As `trouble`, after the last operation, and after checking that the guest is still alive.

        :raise GuestLost: it is not.
        """
        ...


@runtime_checkable
class Leaving(Protocol):
    """A session whose guest is ended after a program, and what it left is looked at."""

    def leave(self) -> Parting:
        """End the guest. Nothing can be done in it any more.

        :raise TcelabError: what is beneath it does not answer.
        """
        ...
