"""Firmware's services for dynamic DMA windows, as QEMU has them, asked for from outside.

Source: PAPR 7.3.31; QEMU hw/ppc/spapr_rtas_ddw.c (cells of 32 bits; a number of 64 bits is in two).
"""

from __future__ import annotations

from typing import Final

from tcelab.papr import window
from tcelab.program import Ddw
from tcelab.qemu.qtest import Qtest, RtasCall
from tcelab.run.record import Outcome

_SIGN: Final = 1 << 31
_CELL: Final = 1 << 32


async def call(port: Qtest, op: Ddw, phb: int, slot: int) -> Outcome:
    """One service for the PE of the device in a slot of a PHB.

    :raise HarnessError: this QEMU has no such service.
    """
    buid = window.buid(phb)
    place = (slot << 11, buid >> 32, buid % _CELL)
    arguments, results = {
        "query": (place, 6),
        "create": ((*place, op.page_shift, op.window_shift), 4),
        "remove": ((op.liobn,), 1),
        "reset": (place, 1),
    }[op.call]
    ((status, *cells),) = await port.calls([RtasCall(f"ibm,{op.call}-pe-dma-window", arguments, results)])
    fields: dict[str, int] = {}
    if not status and op.call == "query":
        left, high, low, sizes, migration = cells
        fields = {"left": left, "largest": high * _CELL + low, "page_sizes": sizes, "migration": migration}
    elif not status and op.call == "create":
        liobn, high, low = cells
        fields = {"liobn": liobn, "start": high * _CELL + low}
    return Outcome(value=status - _CELL if status & _SIGN else status, fields=fields)
