"""What the emulated kernel's DMA API keeps of its drivers' devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from tcelab.papr import window
from tcelab.papr.tcetable import Table
from tcelab.run.record import Outcome

PCI_MASK: Final = 32
"""Bits of both masks of a PCI device that no driver has changed (drivers/pci/probe.c, pci_setup_device)."""


@dataclass(slots=True)
class Masks:
    """Of a device."""

    streaming: int = PCI_MASK
    coherent: int = PCI_MASK
    direct: bool = False


class Holder(Protocol):
    """An open file of the driver, with what was mapped through it."""

    def has(self, device: str) -> bool:
        """Something is mapped for a device."""

    def has_entries(self, device: str) -> bool:
        """Something is, and has entries in its default window."""

    def unbound(self, device: str) -> None:
        """Its driver is gone, and all that it had is unmapped."""


@dataclass(slots=True)
class DmaApi:
    """:ivar masks: by device, also of those that have no driver any more.

    :ivar wanted: what the next mapping is to get: handles and bytes, or the name of an errno; None: what is free.
    :ivar refused: PHBs for which it made none, and tries no more (failed_ddw_pdn_list).
    :ivar files: those of the driver that are open.
    :ivar wide: the kernel may make windows of 64 bits.
    :ivar direct: LIOBNs of windows in which all RAM is mapped, once something was mapped there.
    :ivar frames: of pages that another run has elsewhere: by their real address there, what they have here.
    """

    wide: bool
    masks: dict[str, Masks] = field(default_factory=dict)
    wanted: list[tuple[int, int]] | str | None = None
    direct: set[int] = field(default_factory=set)
    frames: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    files: list[Holder] = field(default_factory=list)

    def real(self, table: Table, address: int) -> int:
        """Where an address in a table leads to here."""
        page = address & -window.PAGE_SIZE
        return self.frames[page] + address - page if table.liobn in self.direct and page in self.frames else address

    def of(self, device: str) -> Masks:
        return self.masks.setdefault(device, Masks())

    def want(self, outcome: Outcome) -> None:
        """The next mapping is to get what another one got."""
        told = outcome.fields.get("segments", [])
        self.wanted = outcome.errno or [(handle, size) for handle, size in told]
