"""The part of `tcelab.program.validate` about operations that are begun at once."""

from __future__ import annotations

from typing import Final

from tcelab.papr import hcallnumbers
from tcelab.program.dmaops import DmaMap, DmaMapSg, DmaRepeat, DmaUnmap
from tcelab.program.operations import AtOnce, Close, Hcall, HcallBatch, Ioctl, Op, Open, Repeat
from tcelab.program.topology import Topology

MOST: Final = 16
"""Operations that are begun at once."""
_READS: Final = ("H_GET_TCE", hcallnumbers.H_GET_TCE)
DMA: Final = (DmaRepeat, DmaMap, DmaMapSg, DmaUnmap)
KINDS: Final = (Hcall, HcallBatch, Repeat, Ioctl, Open, Close, *DMA)


class Group:
    """Follows a program.

    :ivar left: how many operations are still to follow that are begun at once.
    """

    def __init__(self, topology: Topology, *, guarded: bool) -> None:
        self._guarded = guarded
        self._processes: set[str] = set()
        self._phb_of = {device.name: phb for phb in topology.phbs for device in phb.devices}
        self._kernels: set[int] = set()
        self._written: set[int] = set()
        self._maps = False
        self.left = 0

    def problem(self, op: Op) -> str:
        """Why an operation cannot stand where it stands; empty if it can."""
        if self.left:
            self.left -= 1
            return self._member(op)
        if not isinstance(op, AtOnce):
            return ""
        self.left, self._processes = op.count, set()
        self._kernels, self._written, self._maps = set(), set(), False
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
        self._written.update(call.args[0] for call in calls if call.args and isinstance(call.args[0], int))
        return self._dma(op) or self._together()

    def _dma(self, op: Op) -> str:
        """Why an operation of the DMA API cannot be begun at once with those before; empty if it can."""
        if isinstance(op, DmaRepeat) and op.loop == "agent":
            return "at once with others, only the driver's own loops are repeated: they tell whether they met"
        if isinstance(op, DmaUnmap) and self._maps:
            return "what is unmapped at once with others stands before what is mapped: that may get its entries"
        if isinstance(op, DmaMap | DmaMapSg):
            self._maps = True
        if isinstance(op, DmaRepeat | DmaMap | DmaMapSg) and op.device in self._phb_of:
            liobn = self._phb_of[op.device].liobn
            self._kernels |= {liobn, liobn | 1}
        return ""

    def _together(self) -> str:
        """Why all so far cannot be begun at once; empty if they can."""
        both = self._kernels & self._written
        return f"hypercalls write LIOBN {min(both):#x}, whose entries the kernel gives to a driver" if both else ""
