"""The part of `tcelab.program.validate` about operations that are begun at once."""

from __future__ import annotations

from typing import Final

from tcelab.papr import hcallnumbers
from tcelab.program.operations import AtOnce, Close, Hcall, HcallBatch, Ioctl, Op, Open, Repeat

MOST: Final = 16
"""Operations that are begun at once."""
_READS: Final = ("H_GET_TCE", hcallnumbers.H_GET_TCE)
KINDS: Final = (Hcall, HcallBatch, Repeat, Ioctl, Open, Close)


class Group:
    """Follows a program.

    :ivar left: how many operations are still to follow that are begun at once.
    """

    def __init__(self, *, guarded: bool) -> None:
        self._guarded = guarded
        self._processes: set[str] = set()
        self.left = 0

    def problem(self, op: Op) -> str:
        """Why an operation cannot stand where it stands; empty if it can."""
        if self.left:
            self.left -= 1
            return self._member(op)
        if not isinstance(op, AtOnce):
            return ""
        self.left, self._processes = op.count, set()
        if self._guarded:
            return "the PEs are guarded, and a guard waits for what comes of each operation"
        return "" if 1 < op.count <= MOST else f"{op.count} operations; 2..{MOST} are begun at once"

    def _member(self, op: Op) -> str:
        if not isinstance(op, KINDS):
            names = ", ".join(kind.__name__.lower() for kind in KINDS)
            return f"it is to be begun at once with others, and only these can: {names}"
        if not op.by or op.by in self._processes:
            return "what is begun at once is done by as many processes, none of them the agent itself"
        self._processes.add(op.by)
        calls = [op.call] if isinstance(op, Hcall) else op.calls if isinstance(op, HcallBatch) else []
        if any(call.opcode in _READS for call in calls):
            return "what H_GET_TCE gives would depend on which of the operations comes first"
        return ""
