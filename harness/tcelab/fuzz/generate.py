"""Random programs: what users of VFIO do, and what they should not do, with regular checkpoints."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import msgspec

from tcelab.fuzz import drivers as drivers_
from tcelab.fuzz import moves
from tcelab.fuzz.world import LARGE, World
from tcelab.program import Bind, Call, Checkpoint, Hcall, Program, Read
from tcelab.program.topology import Topology
from tcelab.scenarios import proof
from tcelab.scenarios import vocabulary as b

COUNTED: Final = 0.7
"""The share of checkpoints before which counters are read."""
STREAMED: Final = 0.2
"""The share of checkpoints that use every view."""

USUAL: Final = 480
"""Pages of the buffer for ordinary maps."""


@dataclass(frozen=True, slots=True)
class Generated:
    """:ivar left_out: operations left out because they would hang the kernel, by quirk, see `tcelab.fuzz.hazard`."""

    program: Program
    left_out: dict[str, int]


def generate(
    rng: random.Random,
    topology: Topology,
    steps: int,
    *,
    every: int = 50,
    quirks: Collection[str] = (),
    hypercalls: bool = False,
    v2: bool = False,
    huge: bool = True,
    drivers: bool = False,
) -> Generated:
    """A random program of about `steps` operations that ends with everything closed; the same for the same `rng`.

    :param every: guest operations between two checkpoints.
    :param quirks: known defects of the kernel.
    :param hypercalls: the guest can make raw hypercalls: they are mixed in, on a PE of their own if there is one.
    :param v2: the kernel makes containers of type v2: they are mixed in.
    :param huge: the kernel has huge pages.
    :param drivers: a driver can use the kernel's DMA API: it is mixed in, on a PE of its own if there are several.
    :raise UsageError: the topology has no device.
    """
    w = World(rng, topology, frozenset(quirks), hypercalls=hypercalls, v2=v2, huge=huge, drivers=drivers)
    steps += _begin(w, topology)
    looked = len(w.ops)
    while len(w.ops) < steps:
        moves.step(w)
        if len(w.ops) - looked >= every:
            if w.chance(COUNTED):
                _count(w)
            w.ops.append(Checkpoint(label=f"after {len(w.ops)}", stream=w.chance(STREAMED)))
            looked = len(w.ops)
    _end(w)
    return Generated(Program(name="fuzz", topology=topology, ops=w.ops), w.left_out)


def _begin(w: World, topology: Topology) -> int:
    """The same for every `rng`; the number of operations that only prove an entry by its tag."""
    _count(w)
    w.ops.append(Checkpoint(label="begin"))
    own = {*(w.raw.devices if w.hypercalls else ()), *(w.drivers.phb.devices if w.drivers else ())}
    there = set(topology.at_start.devices) - set(topology.driven)
    w.ops += [Bind(device=each.name) for each in topology.devices if each in there and each not in own]
    # By chance, a short program may never look at an entry while its page holds the tag.
    free = [pe for pe in b.pes(topology, "proof") if own.isdisjoint(pe.phb.devices)]
    proven = [*proof.entry(free[0]), *b.close(free[0].group, free[0].container)] if free else []
    w.ops += [msgspec.structs.replace(op, expect=None) for op in proven]  # it is the emulator that says what is right
    w.allocate(w.agent, USUAL)
    w.allocate(w.agent, LARGE)
    return len(proven)


def _count(w: World) -> None:
    w.ops += [Read(by=process.name, what="vmlck") for process in w.processes]
    w.ops.append(Read(what="pins"))


def _end(w: World) -> None:
    for child in w.children:
        w.exit(child)
    while w.agent.files:
        w.close(w.agent, w.pick(w.agent.files))
    if w.drivers:
        drivers_.end(w)
    if w.hypercalls:
        # Their entries stay until somebody clears them, and another program may follow on the same guest.
        whole = Call("H_STUFF_TCE", [w.raw.liobn, w.raw.window_start, 0, w.raw.entries])
        w.ops += [Checkpoint(label="hypercalls"), Hcall(call=whole)]
    _count(w)
    w.ops.append(Checkpoint(label="end", stream=True))
