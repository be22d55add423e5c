"""After an event: QEMU's windows by its memory map (`info mtree`), held against what its trace has told.

A pointer into a table that is gone leads into memory that QEMU uses for something else, and reads as entries. Source:
QEMU hw/ppc/spapr_iommu.c (spapr_tce_table_realize: a region `tce-root-LIOBN`; spapr_tce_table_do_enable: in it,
`tce-iommu-LIOBN` of the window's size).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tcelab.errors import HarnessError
from tcelab.papr import window
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession

_REGION: Final = re.compile(
    r"^ *([0-9a-f]{16})-([0-9a-f]{16}) \(prio [-0-9]+, i/o\): tce-iommu-([0-9a-f]+)\r?$", re.MULTILINE
)


def windows(text: str) -> dict[int, tuple[int, int]]:
    """LIOBN of each active window, its first and its last bus address, by the output of `info mtree`."""
    found = ((int(liobn, 16), int(first, 16), int(last, 16)) for first, last, liobn in _REGION.findall(text))
    return {liobn: (first, last) for liobn, first, last in found}


def now(session: QemuSession) -> dict[int, tuple[int, int]]:
    """The active windows of a guest that stands still; all that QEMU has traced until then has been read."""
    text = portal().call(session.guest.qmp("human-monitor-command", **{"command-line": "info mtree"}))
    session.guest.log.drain()
    return windows(str(text))


def check(session: QemuSession) -> None:
    """:raise HarnessError: the windows that QEMU has are not those of which its trace has told."""
    if "live" in session.facts.cannot:  # the trace tells nothing
        return
    guest = session.guest
    portal().call(guest.standstill.begin())
    try:
        mapped = now(session)
    finally:
        portal().call(guest.standstill.end())
    told = {liobn: session.views.shape(liobn) for liobn in guest.log.tables.at}
    if problem := difference(mapped, told):
        raise HarnessError(
            f"QEMU's memory map and its trace do not agree on its windows: {problem}",
            next_step="no table can be read like this; please report it, with qemu.log",
            scene=session.scene(),
        )


def difference(mapped: Mapping[int, tuple[int, int]], told: Mapping[int, window.Shape | None]) -> str:
    """Where they differ; empty if nowhere."""
    for liobn in sorted(mapped.keys() | told.keys()):
        if liobn not in mapped:
            return f"LIOBN {liobn:#x} has a table by the trace, and no window in the memory map"
        if liobn not in told:
            return f"LIOBN {liobn:#x} has a window in the memory map, and no table by the trace"
        shape, (first, last) = told[liobn], mapped[liobn]
        if shape is not None and (shape.start, shape.start + (shape.entries << shape.page_shift) - 1) != (first, last):
            return (
                f"LIOBN {liobn:#x} has {shape.entries} entries of 2^{shape.page_shift} bytes from {shape.start:#x} on"
                f" by the trace, and {first:#x}..{last:#x} in the memory map"
            )
    return ""
