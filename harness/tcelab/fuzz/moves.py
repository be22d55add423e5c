"""What a random program does next, and how often."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from tcelab.fuzz import drivers, faults, lifecycle, mapping, processes, randomhcalls, regions
from tcelab.fuzz.madethings import MadeContainer, MadeDevice, MadeGroup
from tcelab.fuzz.world import World

SOUND: Final = 2 / 3
"""The share of moves that the kernel should grant."""

TRIES: Final = 6
"""Impossible moves in a row, after which the next step of a container's life is taken instead."""


@dataclass(frozen=True, slots=True)
class Move:
    """:ivar make: adds operations; False: it is not possible now."""

    weight: int
    make: Callable[[World], bool]


IN_ORDER: Final = (
    Move(320, mapping.map_pages),
    Move(12, mapping.map_large),
    Move(80, mapping.overwrite),
    Move(6, mapping.map_nothing),
    Move(200, mapping.unmap_live),
    Move(90, mapping.unmap_some),
    Move(4, mapping.unmap_all),
    Move(8, mapping.repeat),
    Move(120, lifecycle.advance),
    Move(12, lifecycle.another_container),
    Move(16, lifecycle.move),
    Move(8, lifecycle.leave),
    Move(25, lifecycle.open_device),
    Move(6, lifecycle.close_one(MadeContainer)),
    Move(6, lifecycle.close_one(MadeGroup)),
    Move(20, lifecycle.close_one(MadeDevice)),
    Move(12, lifecycle.disable),
    Move(20, lifecycle.get_info),
    Move(15, lifecycle.get_status),
    Move(8, lifecycle.api_version),
    Move(12, lifecycle.check_extension),
    Move(10, processes.new_buffer),
    Move(12, processes.fill),
    Move(20, processes.unprotect),
    Move(15, processes.master),
    Move(4, processes.dma),
    Move(5, processes.spawn),
    Move(6, processes.exit_child),
    Move(16, processes.hand_over),
)
"""What the kernel should grant."""

OUT_OF_ORDER: Final = (
    Move(20, faults.bad_map(faults.no_permission)),
    Move(20, faults.bad_map(faults.unknown_flags)),
    Move(20, faults.bad_map(faults.short_argsz)),
    Move(8, faults.bad_map(faults.long_argsz)),
    Move(25, faults.bad_map(faults.misaligned("iova"))),
    Move(20, faults.bad_map(faults.misaligned("vaddr"))),
    Move(20, faults.bad_map(faults.misaligned("size"))),
    Move(8, faults.bad_map(faults.empty)),
    Move(15, faults.bad_map(faults.at_the_end)),
    Move(50, faults.bad_map(faults.over_the_end)),
    Move(15, faults.bad_map(faults.beyond)),
    Move(15, faults.bad_map(faults.at_the_top)),
    Move(20, faults.bad_map(faults.nowhere)),
    Move(8, faults.bad_map(faults.huge)),
    Move(40, faults.bad_map(faults.off_the_buffer)),
    Move(40, faults.bad_map(faults.protected)),
    Move(15, faults.bad_unmap(faults.unknown_flags)),
    Move(15, faults.bad_unmap(faults.short_argsz)),
    Move(8, faults.bad_unmap(faults.long_argsz)),
    Move(20, faults.bad_unmap(faults.misaligned("iova"))),
    Move(15, faults.bad_unmap(faults.misaligned("size"))),
    Move(10, faults.bad_unmap(faults.empty)),
    Move(12, faults.bad_unmap(faults.at_the_end)),
    Move(35, faults.bad_unmap(faults.over_the_end)),
    Move(12, faults.bad_unmap(faults.beyond)),
    Move(12, faults.bad_unmap(faults.at_the_top)),
    Move(8, faults.unreadable("MAP_DMA")),
    Move(8, faults.unreadable("UNMAP_DMA")),
    Move(8, faults.unreadable("SPAPR_TCE_GET_INFO")),
    Move(30, processes.premature),
    Move(60, processes.foreign),
    Move(8, processes.odd_master),
    Move(20, lifecycle.odd_info),
    Move(10, lifecycle.odd_status),
    Move(30, lifecycle.odd_type),
    Move(30, lifecycle.odd_join),
    Move(5, lifecycle.crowd),
    Move(25, lifecycle.odd_leave),
    Move(30, lifecycle.odd_enable),
    Move(15, lifecycle.odd_disable),
    Move(25, lifecycle.odd_device),
    Move(15, lifecycle.open_again),
    Move(4, lifecycle.open_nothing),
    Move(20, lifecycle.use_nothing),
    Move(12, lifecycle.unknown_request),
    Move(20, lifecycle.misplaced_request),
)
"""What it should refuse, mostly."""

RAW: Final = (Move(180, randomhcalls.single), Move(60, randomhcalls.batch))
RAW_OUT_OF_ORDER: Final = (
    Move(120, randomhcalls.odd),
    Move(40, randomhcalls.mixed),
    Move(25, randomhcalls.by_a_process),
)
"""Raw hypercalls, where the guest can make them."""


V2: Final = (
    Move(70, regions.register),
    Move(20, regions.unregister),
    Move(45, regions.create),
    Move(24, regions.remove),
    Move(220, regions.map_registered),
    Move(150, regions.unmap_registered),
    Move(60, lifecycle.gather),
)
V2_OUT_OF_ORDER: Final = (
    Move(50, regions.odd_memory),
    Move(30, regions.odd_window),
    Move(90, regions.odd_map),
    Move(30, regions.stranger),
)
"""Moves of v2 containers, where the kernel has them."""


DRIVERS: Final = tuple(Move(*each) for each in drivers.IN_ORDER)
DRIVERS_OUT_OF_ORDER: Final = tuple(Move(*each) for each in drivers.MOVES)
"""Moves of a driver of the kernel's DMA API, where there is one."""


def _weighed(table: tuple[Move, ...]) -> tuple[tuple[Move, ...], list[int]]:
    return table, list(accumulate(move.weight for move in table))


TABLES: Final = {
    (hypercalls, v2, driven): (
        _weighed(IN_ORDER + RAW * hypercalls + V2 * v2 + DRIVERS * driven),
        _weighed(OUT_OF_ORDER + RAW_OUT_OF_ORDER * hypercalls + V2_OUT_OF_ORDER * v2 + DRIVERS_OUT_OF_ORDER * driven),
    )
    for hypercalls in (False, True)
    for v2 in (False, True)
    for driven in (False, True)
}
"""The moves by what else the guest has."""


def step(w: World) -> None:
    """Add the operations of one move."""
    moves, weights = TABLES[w.hypercalls, w.v2, w.drivers is not None][w.random() > SOUND]
    # Drawn before any is made, as many as may be needed: what a move draws for itself comes after them.
    for drawn in [w.random() * weights[-1] for _ in range(TRIES)]:
        if moves[bisect(weights, drawn, 0, len(moves) - 1)].make(w):
            return
    if not lifecycle.advance(w):
        lifecycle.close_one(MadeContainer, MadeGroup, MadeDevice)(w)
