"""How the ideal session can lie: at which operation, and about what."""

from __future__ import annotations

from story import CHANNEL, FIRST, SPARE, nth

from tcelab.run.record import Refusal

MAP, SECOND_MAP, THIRD_MAP = (nth("MAP_DMA", i) for i in range(3))
UNMAP, LAST_CLOSE = nth("UNMAP_DMA"), nth("Close", -1)
CONTROL, LANDING, STRADDLE = nth("Dma", 0), nth("Dma", 2), nth("Dma", 3)


def table(liobn):
    own = {CHANNEL: "channel", SPARE: "spare"}
    return lambda s: getattr(s, own[liobn]) if liobn in own else s.pes["pe1" if liobn == FIRST else "pe2"].table


def put(liobn, number, change):
    """Set an entry behind everybody's back: `change` makes it from what is there (0: empty)."""

    def do(session):
        entries = table(liobn)(session)
        entries[number] = change(entries.get(number, 0))
        if not entries[number]:
            del entries[number]

    return do


def ram(buffer, page, content):
    def do(session):
        session.ram[session.buffers[buffer][page]][: len(content)] = content

    return do


def say_refusal(direction, address):
    return lambda s: s.refused.append(Refusal(direction, address, 8, f"Invalid {direction} at {address:#x}"))
