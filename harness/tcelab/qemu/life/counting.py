"""Counts the hypercalls on TCE tables while a guest goes through an event, by kind and LIOBN.

Source: QEMU hw/ppc/trace-events, spapr_iommu_pci_put, _get, _stuff, _indirect.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tcelab.qemu.conduct import TRACES
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession

KINDS: Final = {
    "put": "H_PUT_TCE",
    "get": "H_GET_TCE",
    "stuff": "H_STUFF_TCE",
    "indirect": "H_PUT_TCE_INDIRECT",
}
"""By the end of a trace event's name, the hypercall."""
_CALL: Final = re.compile(rf"spapr_iommu_pci_({'|'.join(KINDS)}) liobn=(?:0x)?([0-9a-f]+) ")


class HypercallCounts:
    """What the trace has told."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[int, str]] = Counter()

    def line(self, line: str) -> None:
        """A line about tables."""
        if found := _CALL.search(line):
            self._calls[int(found[2], 16), KINDS[found[1]]] += 1

    def told(self) -> list[dict[str, Any]]:
        """By LIOBN and kind, ascending."""
        return [{"liobn": liobn, "kind": kind, "calls": calls} for (liobn, kind), calls in sorted(self._calls.items())]


@contextmanager
def counted(session: QemuSession) -> Iterator[HypercallCounts]:
    """Count in the block. A QEMU without these traces tells nothing, and where a leak check counts, it alone does."""
    guest, counts = session.guest, HypercallCounts()
    log, before = guest.log, guest.log.tables_listener

    heard = TRACES if session.options.papr else ()

    def trace(*, on: bool) -> None:
        for name in (name for end in KINDS if (name := f"spapr_iommu_pci_{end}") not in heard):
            portal().call(guest.qmp("trace-event-set-state", name=name, enable=on, **{"ignore-unavailable": True}))

    if before is not None:  # it has asked for the traces, and needs them afterwards
        yield counts
        return
    log.drain()
    log.tables_listener = counts.line
    trace(on=True)
    yield counts
    log.drain()
    trace(on=False)
    log.tables_listener = None
