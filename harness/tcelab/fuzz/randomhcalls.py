"""Random hypercalls, right and wrong, on PEs that VFIO does not use; they must have no effect anywhere else.

An entry that a hypercall stored has no pin, and a driver that clears such an entry drops a pin that it never took. So
hypercalls have PEs of their own.
"""

from __future__ import annotations

from typing import Final

from tcelab.fuzz.mapping import PLACES
from tcelab.fuzz.world import World
from tcelab.papr import window
from tcelab.papr.hcallnumbers import LIST_MOST
from tcelab.papr.window import PAGE_SIZE
from tcelab.program import Call, Hcall, HcallBatch, Tce

GET, PUT, STUFF, INDIRECT = "H_GET_TCE", "H_PUT_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT"
MIX: Final = (PUT, PUT, PUT, GET, GET, STUFF, STUFF, INDIRECT, INDIRECT)
MOST_CALLS: Final = 12
"""Of a batch."""
MOST_LIST: Final = 64
"""TCEs of most lists."""
TOP: Final = (1 << 64) - 1
NO_RAM: Final = 1 << 45
"""A real address where there is no RAM."""
_ODD_TCES: Final = (0, 3, 0xFFC, NO_RAM | 3, NO_RAM | 0x1000, TOP, 1 << 63 | 1)


def _entry(w: World, pages: int) -> int:
    """An entry of the window from which that many pages end within it, if they fit."""
    room = max(w.raw.entries - pages + 1, 1)
    first, end = w.pick(PLACES)(room)
    return first + w.below(min(end, room) - first)


def _ioba(w: World, entry: int) -> int:
    return w.raw.window_start + entry * PAGE_SIZE


def _tce(w: World) -> int | Tce:
    memory = w.agent.writable
    if not memory or w.chance(0.15):
        return w.pick(_ODD_TCES)
    some = w.pick(memory)
    return Tce(some.name, w.below(some.pages), w.below(4))


def _pages(w: World, most: int) -> int:
    """The size of an ordinary batch, now and then the largest size."""
    return min(1 + w.below(32 if w.chance(0.9) else most), w.raw.entries)


def _sound(w: World) -> Call:
    """One that should succeed."""
    hypercall = w.pick(MIX)
    liobn = w.raw.liobn
    if hypercall == GET:
        if w.chance(0.3) and w.groups:
            phb = w.pick(w.groups).phb  # a table of VFIO's
            return Call(GET, [phb.liobn, phb.window_start + w.below(min(phb.entries, 160)) * PAGE_SIZE])
        return Call(GET, [liobn, _ioba(w, _entry(w, 1))])
    if hypercall == PUT:
        return Call(PUT, [liobn, _ioba(w, _entry(w, 1)), _tce(w)])
    if hypercall == STUFF:
        pages = _pages(w, 2 * LIST_MOST)
        return Call(STUFF, [liobn, _ioba(w, _entry(w, pages)), 0 if w.chance(0.6) else _tce(w), pages])
    pages = _pages(w, MOST_LIST)
    return Call(INDIRECT, [liobn, _ioba(w, _entry(w, pages)), 0, pages], [_tce(w) for _ in range(pages)])


def _odd(w: World) -> Call:
    """A hypercall with an error in it, or an unusual one."""
    call = _sound(w)
    args = [*call.args]
    wrong = w.below(5)
    if wrong == 0:
        others = (0, TOP, 1 << 32 | w.raw.liobn, window.liobn(w.raw.index, 1), window.VIO_LIOBN, window.liobn(29))
        args[0] = w.pick(others)
    elif wrong == 1:
        args[1] = _ioba(w, _entry(w, 1)) + 1 + w.below(PAGE_SIZE - 1)
    elif wrong == 2:  # noqa: PLR2004 - one of five
        args[1] = w.pick((_ioba(w, w.raw.entries), _ioba(w, w.raw.entries - 1), TOP, _ioba(w, w.raw.entries - 16)))
    elif len(args) < 4:  # noqa: PLR2004 - r7
        args[0] = w.raw.liobn | 1
    elif wrong == 3:  # noqa: PLR2004 - one of five
        args[3] = w.pick((0, LIST_MOST, LIST_MOST + 1, w.raw.entries, w.raw.entries + 1, TOP))
    elif call.opcode == INDIRECT:
        args[2] = w.pick((1, 8, 0xFF8, PAGE_SIZE))
    if call.opcode == INDIRECT and args[2] == PAGE_SIZE:
        return Call(INDIRECT, [*args[:2], NO_RAM, args[3]])  # zeros
    return Call(call.opcode, args, call.tces)


def single(w: World) -> bool:
    w.ops.append(Hcall(call=_sound(w)))
    return True


def batch(w: World) -> bool:
    calls = [_sound(w) for _ in range(1 + w.below(MOST_CALLS))]
    w.ops.append(HcallBatch(calls=calls, times=1 if w.chance(0.8) else 2 + w.below(3)))
    return True


def odd(w: World) -> bool:
    w.ops.append(Hcall(call=_odd(w)))
    return True


def mixed(w: World) -> bool:
    """Right and wrong in one batch."""
    calls = [_odd(w) if w.chance(0.5) else _sound(w) for _ in range(2 + w.below(MOST_CALLS))]
    w.ops.append(HcallBatch(calls=calls))
    return True


def by_a_process(w: World) -> bool:
    """Directly from problem state, or through the module, which only root may use."""
    by = w.pick(w.processes)
    call = Call(w.pick((GET, PUT, STUFF)), [w.raw.liobn, _ioba(w, _entry(w, 1)), 0, 1])
    w.ops.append(Hcall(by=by.name, call=call, problem_state=w.chance(0.5)))
    return True
