"""Programs that tcelab knows by name. Scenarios know programs, not platforms.

- `batches`: the scenario `batches`
- `dma`: the scenario `dma`
- `dmaapi`: the scenario `dma-api`
- `effects`: what a PE must show in each of its conditions
- `endpoint`: one PE in the scenario `isolation`
- `flow`: the scenario `flow`
- `groups`: the scenario `groups`
- `handover`: the scenario `handover`
- `hcallcases`: the cases of the scenario `hcalls`
- `hcalls`: the scenario `hcalls`
- `hotplug`: the scenarios `hotplug` and `hotplug-isolation`
- `isolation`: the scenario `isolation`
- `isolationstory`: what is done on one of its guests
- `kvmcases`: the same under KVM
- `legal`: legal transfers by the thousand
- `lengths`: transfers of 1 byte to 1 MiB by a probe's doorbells
- `lifecycle`: the scenarios `lifecycle` and `lifecycle-isolation`
- `memory`: the scenario `memory`
- `migration`: the scenarios `migration` and `migration-isolation`
- `places`: entries that expose a fault of address decoding
- `proof`: the minimum for a pass
- `races`: the scenario `races`
- `rules`: the scenario `rules`
- `secondkernel`: the scenarios `kexec`, `kexec-isolation` and `kdump`
- `smp`: the scenario `smp`
- `stories`: the stories of the scenario `isolation`
- `sweep`: transfers all over a window
- `violations`: the violations of the scenario `isolation`
- `vocabulary`: the words of scenarios: each function returns operations
- `warmup`: a small program that shows that a guest works
- `windows`: the scenario `windows`
- `windowsisolation`: the scenario `windows-isolation`
- `windowsremoved`: the scenario `windows-removed`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from tcelab.errors import UsageError, meant
from tcelab.program import Fresh, Op, Program
from tcelab.program.topology import CRASHKERNEL, Topology
from tcelab.scenarios import (
    batches,
    dma,
    dmaapi,
    flow,
    groups,
    handover,
    hcalls,
    hotplug,
    isolation,
    lifecycle,
    memory,
    migration,
    races,
    rules,
    secondkernel,
    smp,
    windows,
    windowsisolation,
    windowsremoved,
)

DEFAULT: Final = "main"
OVER_SSH: Final = "behaviour"
"""The scenario that is run if none is named, where nobody looks from outside."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """:ivar about: one line for lists.

    :ivar ops: returns the operations for a topology and a seed; deterministic.
    :ivar isolation: the scenario is for a platform that isolates PEs.
    :ivar topologies: the topologies that it runs on in turn by default; empty: `two-pe`.
    :ivar crashkernel: MiB that a guest keeps for a crash kernel, if its topology does not say how many.
    :ivar raced: it proves nothing on a topology that is not raced.
    """

    name: str
    about: str
    ops: Callable[[Topology, int], list[Op]]
    isolation: bool = False
    topologies: tuple[str, ...] = ()
    crashkernel: int = 0
    raced: bool = False

    def make(self, topology: Topology, seed: int) -> Program:
        """:raise UsageError: the topology has no device, too small a window, or a PE that cannot be isolated."""
        if not topology.devices:
            raise UsageError(f"topology {topology.name!r} has no device under test")
        if self.isolation and (topology.direct or "testdev" in topology.models):
            raise UsageError(
                f"scenario {self.name} isolates PEs, and one of topology {topology.name} is of the kernel's own driver"
            )
        if self.isolation and topology.raced:
            raise UsageError(
                f"scenario {self.name} isolates PEs, and each probe of topology {topology.name} is refused on purpose",
                next_step="leave --topology out, or name another one, as probe",
            )
        if self.raced and not topology.raced:
            raise UsageError(
                f"scenario {self.name} is about what probes do between two hypercalls, and no probe of topology"
                f" {topology.name} does",
                next_step=f"leave --topology out, or name one of {', '.join(self.topologies)}",
            )
        if self.crashkernel and not topology.crashkernel:
            topology = msgspec.structs.replace(topology, crashkernel=self.crashkernel)
        ops = self.ops(topology, seed)
        return Program(name=self.name, topology=topology, ops=ops, seed=seed, isolation=self.isolation)


def _main(topology: Topology, seed: int) -> list[Op]:
    """In parts of about the same length, each on a guest of its own."""
    half = len(batches.SIZES) // 2
    small, large = batches.SIZES[:half], batches.SIZES[half:]
    return [
        *rules.ops(topology, seed),
        *dma.ops(topology, seed),
        Fresh(),
        *flow.ops(topology, seed),
        *batches.ops(topology, seed, small),
        Fresh(),
        *batches.ops(topology, seed, large),
    ]


def _behaviour(topology: Topology, seed: int) -> list[Op]:
    """What of `main` needs nobody outside: `dma` asks firmware by QEMU."""
    return [
        *rules.ops(topology, seed),
        *flow.ops(topology, seed),
        Fresh(),
        *batches.ops(topology, seed),
    ]


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "main",
            "flow, batches, dma and rules, side by side on three guests",
            _main,
            topologies=dma.TOPOLOGIES,
        ),
        Scenario(
            OVER_SSH,
            "flow, batches and rules: what is judged of a machine over ssh, if no scenario is named",
            _behaviour,
        ),
        Scenario("flow", "bind, map 1 MiB, unmap and close on each PE, looked at after every step", flow.ops),
        Scenario("batches", "maps of 1..32 pages, partial unmaps and remaps; each whole table after each", batches.ops),
        Scenario(
            "dma",
            "the devices carry data where they may, all over their windows, and are refused everywhere else",
            dma.ops,
            topologies=dma.TOPOLOGIES,
        ),
        Scenario("rules", "what the driver must do and must refuse, once each, on one PE", rules.ops),
        Scenario(
            "races",
            "probes reach for each page between any two hypercalls of maps and unmaps: nothing early, nothing late",
            races.ops,
            topologies=races.TOPOLOGIES,
            raced=True,
        ),
        Scenario(
            "isolation",
            "each violation isolates its PE and nothing else, until firmware's services bring it back",
            isolation.ops,
            isolation=True,
            topologies=isolation.TOPOLOGIES,
        ),
        Scenario(
            "hotplug",
            "devices and bridges come and go, with and without the guest's consent; used by VFIO in between",
            hotplug.ops,
            topologies=hotplug.TOPOLOGIES,
        ),
        Scenario(
            "hotplug-isolation",
            "the same with PEs that are isolated: a device that goes and comes thaws nothing, a bridge comes new",
            hotplug.isolated,
            isolation=True,
            topologies=hotplug.TOPOLOGIES,
        ),
        Scenario(
            "hcalls",
            "every TCE hypercall, right and wrong, by the kernel and by a process; all tables after each",
            hcalls.ops,
            topologies=(hcalls.TOPOLOGY,),
        ),
        Scenario(
            "windows",
            "windows with pages of 4 KiB, 64 KiB and 2 MiB are made, used by the device above 2^59, and removed",
            windows.ops,
            topologies=windows.TOPOLOGIES,
        ),
        Scenario(
            "windows-isolation",
            "a violation of either window isolates the PE, windows of 64 bits with pages of 4 KiB, 64 KiB and 2 MiB",
            windowsisolation.ops,
            isolation=True,
            topologies=windowsisolation.TOPOLOGIES,
        ),
        Scenario(
            "groups",
            "two groups in one v2 container: no window while both are there; they leave and come back in any order",
            groups.ops,
            topologies=groups.TOPOLOGIES,
        ),
        Scenario(
            "memory",
            "memory comes and goes: the kernel's window of all RAM follows exactly, and no other entry changes",
            memory.ops,
            topologies=memory.TOPOLOGIES,
        ),
        Scenario(
            "dma-api",
            "the kernel's own DMA API under every mask: each handle leads to its bytes, in its direction, and no more",
            dmaapi.ops,
            topologies=dmaapi.TOPOLOGIES,
        ),
        Scenario(
            "handover",
            "a PE goes from the kernel's DMA API to VFIO and back, again and again; nothing is lost or left",
            handover.ops,
            topologies=handover.TOPOLOGIES,
        ),
        Scenario(
            "windows-removed",
            "the second window is taken: the kernel removes the default one for its driver, and maps all RAM instead",
            windowsremoved.ops,
            topologies=windowsremoved.TOPOLOGIES,
        ),
        Scenario(
            "lifecycle",
            "reset and reboot, with entries in a default and in a 64-bit window",
            lifecycle.ops,
            topologies=lifecycle.TOPOLOGIES,
        ),
        Scenario(
            "lifecycle-isolation",
            "reset and reboot of a machine with an isolated PE",
            lifecycle.isolated,
            isolation=True,
            topologies=lifecycle.TOPOLOGIES,
        ),
        Scenario(
            "kexec",
            "a kernel with entries in default and 64-bit windows starts another one, which must clear them",
            secondkernel.kexec,
            topologies=secondkernel.TOPOLOGIES,
        ),
        Scenario(
            "kexec-isolation",
            "a PE that is isolated stays so over kexec and kdump",
            secondkernel.isolated,
            isolation=True,
            topologies=secondkernel.CRASH_TOPOLOGIES,
            crashkernel=CRASHKERNEL,
        ),
        Scenario(
            "kdump",
            "a kernel with entries in default and 64-bit windows crashes; its crash kernel leaves them all",
            secondkernel.kdump,
            topologies=secondkernel.CRASH_TOPOLOGIES,
            crashkernel=CRASHKERNEL,
        ),
        Scenario(
            "smp",
            "several CPUs use one table and several at once: hypercalls, containers, the DMA API; PEs change hands",
            smp.ops,
            topologies=smp.TOPOLOGIES,
        ),
        Scenario(
            "migration",
            "save and load into a fresh QEMU, with entries in both windows, v1 and v2, and a child process",
            migration.ops,
            topologies=migration.TOPOLOGIES,
        ),
        Scenario(
            "migration-isolation",
            "save and load of a machine with an isolated PE",
            migration.isolated,
            isolation=True,
            topologies=migration.TOPOLOGIES[:1],
        ),
    )
}


def build(name: str, topology: Topology, seed: int) -> Program:
    """The program of a scenario.

    :raise UsageError: no scenario of that name, or none for that topology.
    """
    try:
        scenario = SCENARIOS[name]
    except KeyError:
        there = f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}"
        raise UsageError(there, next_step=meant(name, SCENARIOS)) from None
    return scenario.make(topology, seed)
