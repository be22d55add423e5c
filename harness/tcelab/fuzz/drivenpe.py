"""What a random program's driver of the kernel's DMA API has: devices of one PE, and what is mapped for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tcelab.papr.window import PAGE_SIZE
from tcelab.program.drivenpes import Drivers
from tcelab.program.topology import Device, Phb, Topology

EVERYTHING: Final = (1 << 64) - 1
BLOCK: Final = 16
"""Entries at whose multiples small mappings begin (arch/powerpc/kernel/iommu.c, it_blocksize)."""


@dataclass(slots=True)
class MadeDrivers:
    """What the driver has.

    :ivar models: devices that it may be given. `wide`: masks of 64 bits are asked for.
    :ivar rules: what was done, as the validator follows it.
    :ivar sure: names of coherent memory that was there for certain: its window had room.
    :ivar names: of what was mapped, the last ones. `filled`: how often its window was.
    """

    phb: Phb
    models: list[Device]
    wide: bool
    rules: Drivers
    names: list[str] = field(default_factory=list)
    filled: int = 0
    sure: set[str] = field(default_factory=set)

    @property
    def roomy(self) -> bool:
        """Most of its window is free, however what is mapped lies there."""
        live = [each for each in self.rules.maps.values() if each.live]
        taken = sum(sum(each.sizes) // PAGE_SIZE + 2 * len(each.sizes) + BLOCK for each in live)
        return taken < self.phb.entries // 8

    def live(self, device: str = "", *, coherent: bool | None = None) -> list[str]:
        """Names of what is mapped, for a device if it is named."""
        return [
            name
            for name, each in self.rules.maps.items()
            if each.live and device in {"", each.device} and coherent in {None, each.coherent}
        ]


def candidates(phb: Phb) -> list[Device]:
    """Devices of a PE that the driver takes, and that leave addresses as they are."""
    return [each for each in phb.devices if each.model in {"edu", "testdev"} and each.mask == EVERYTHING]


def on(topology: Topology, phb: Phb) -> MadeDrivers:
    """A driver that has nothing yet."""
    wide = topology.wide and "testdev" in topology.models
    return MadeDrivers(phb, candidates(phb), wide, Drivers(topology))
