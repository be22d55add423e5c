"""Programs that tcelab knows by name. Scenarios know programs, not platforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tcelab.errors import UsageError
from tcelab.program import Op, Program
from tcelab.scenarios import batches, dma, flow
from tcelab.topology import Topology

DEFAULT: Final = "main"


@dataclass(frozen=True, slots=True)
class Scenario:
    """:ivar about: one line for lists.

    :ivar ops: the operations on a topology, for a seed; the same for the same arguments.
    """

    name: str
    about: str
    ops: Callable[[Topology, int], list[Op]]

    def make(self, topology: Topology, seed: int) -> Program:
        """:raise UsageError: the topology has no device, or a window that is too small."""
        if not topology.devices:
            raise UsageError(f"topology {topology.name!r} has no device under test")
        return Program(name=self.name, topology=topology, ops=self.ops(topology, seed), seed=seed)


def _main(topology: Topology, seed: int) -> list[Op]:
    return [op for part in (flow, batches, dma) for op in part.ops(topology, seed)]


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("main", "flow, batches and dma, one after the other in one guest", _main),
        Scenario("flow", "bind, map 1 MiB, unmap and close on each PE, looked at after every step", flow.ops),
        Scenario("batches", "maps of 1..32 pages, partial unmaps and remaps; each whole table after each", batches.ops),
        Scenario("dma", "the device carries data where it may, and is refused everywhere else", dma.ops),
    )
}


def build(name: str, topology: Topology, seed: int) -> Program:
    """The program of a scenario.

    :raise UsageError: no scenario of that name, or none for that topology.
    """
    try:
        scenario = SCENARIOS[name]
    except KeyError:
        raise UsageError(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}") from None
    return scenario.make(topology, seed)
