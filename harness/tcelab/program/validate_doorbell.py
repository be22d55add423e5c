"""The part of `tcelab.program.validate` about the doorbells of probes."""

from __future__ import annotations

from typing import Final

from tceagent import doorbell
from tcelab.papr import window
from tcelab.program.operations import Doorbell
from tcelab.program.topology import Topology
from tcelab.program.validated import Made

MOST_PAGES: Final = 65_536
"""Pages of 4 KiB that the transfers of one doorbell touch, one page of each transfer more than its length may need."""
_END: Final = 1 << 64


class BellRules(Made):
    """The rule of the operation, see `tcelab.program.validate`."""

    _topology: Topology

    def _doorbell(self, op: Doorbell) -> str:
        return self._file(op.file) or problem(op, self._device_of.get(op.file, ""), self._topology)


def problem(op: Doorbell, device: str, topology: Topology) -> str:
    """Why a doorbell cannot be rung; empty if it can.

    :param device: whose file it is, empty if that is not known.
    """
    models = {each.name: each.model for each in topology.devices}
    if models.get(device, "probe") != "probe":
        return f"{device} is no probe: topology probe has some"
    if not 0 < op.size <= doorbell.LONGEST:
        return f"a transfer of {op.size} bytes; a doorbell does 1..{doorbell.LONGEST}"
    pages = -(-op.size // window.PAGE_SIZE) + 1
    if not 0 < op.count <= MOST_PAGES or op.count * pages > max(MOST_PAGES, pages):
        return f"{op.count} transfers of {op.size} bytes; a doorbell does at least 1, in {MOST_PAGES} pages at most"
    for name, word in (("iova", op.iova), ("stride", op.stride), ("pattern", op.pattern)):
        if not 0 <= word < _END:
            return f"{name} {word:#x}: a word has 64 bits"
    beyond = next((each.iova for each in op.transfers() if each.iova + each.size > _END), None)
    return "" if beyond is None else f"{op.size} bytes at {beyond:#x} end beyond all bus addresses"
