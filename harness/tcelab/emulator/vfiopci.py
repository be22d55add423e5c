"""A PCI device as vfio-pci shows it: its file, its regions, its interrupts.

Source: drivers/vfio/vfio_main.c, drivers/vfio/pci/vfio_pci_core.c (6.12).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from tceagent import uapi
from tcelab.emulator import pci
from tcelab.emulator.checks import Check, IoctlCall, Request, copies_in, give, long_enough, number_of
from tcelab.emulator.process import OpenFile, Process
from tcelab.emulator.syscallerrors import NotModelledError, SyscallError

if TYPE_CHECKING:
    from tcelab.emulator.platform import EmulatedPe, Machine


class OpenGroup(Protocol):
    """The group of a device, as far as its devices need it: each of their files holds it open."""

    pe: EmulatedPe
    devices: int

    def get(self) -> object: ...

    def put(self, process: Process) -> None: ...


class DeviceFile(OpenFile):
    """A device of a group. It holds the group's file."""

    def __init__(self, machine: Machine, group: OpenGroup, device: pci.PciDevice) -> None:
        super().__init__()
        self.machine = machine
        self.group = group
        self.device = device
        group.get()
        group.devices += 1
        self.device.opens += 1
        if self.device.opens == 1:  # vfio_pci_core_enable
            self.device.master = False

    def ioctl(self, process: Process, request: int, argument: int) -> int:
        """vfio_device_fops_unl_ioctl, vfio_pci_core_ioctl."""
        asked = DEVICE_REQUESTS.get(number_of(request))
        if asked is None:
            raise SyscallError("ENOTTY")
        return asked.perform(IoctlCall(self.machine, process, self, argument), frozenset())

    def pread(self, size: int, offset: int) -> bytes:
        """vfio_pci_rw, of the configuration space."""
        start = self._config(offset)
        return self.device.shown(start, size)

    def pwrite(self, data: bytes, offset: int) -> int:
        """vfio_pci_rw, of the configuration space: of its command register, only bus mastering is to be had."""
        start = self._config(offset)
        if start == pci.COMMAND and data:
            self.device.master = bool(data[0] & pci.MASTER)
            if self.device.wish:
                self.group.pe.mastered(self.device)
        return len(data)

    @staticmethod
    def _config(offset: int) -> int:
        region, start = divmod(offset, 1 << REGION_SHIFT)
        if region != uapi.CONFIG_REGION:
            raise SyscallError("EINVAL")
        return start

    def map(self, offset: int, size: int, process: Process) -> pci.EmulatedRegisters:
        """Mmap of the BAR that holds the registers.

        :raise RefusedError: EINVAL: another region, or past its end.
        """
        index, start = divmod(offset, 1 << REGION_SHIFT)
        if index != self.device.bar or start or size > self.device.regions[index].size:
            raise SyscallError("EINVAL")
        self.get()
        registers = pci.EmulatedRegisters(self.device, lambda: self._unmap(registers, process))
        process.mapped.append(registers)
        return registers

    def _unmap(self, registers: pci.EmulatedRegisters, process: Process) -> None:
        process.mapped.remove(registers)
        self.put(process)

    def release(self, process: Process) -> None:
        """vfio_device_fops_release."""
        self.device.opens -= 1
        if not self.device.opens:  # vfio_pci_core_disable
            self.device.master = False
        self.group.devices -= 1
        self.group.put(process)


REGION_SHIFT: Final = 40
"""VFIO_PCI_OFFSET_SHIFT."""

INTERRUPTS: Final = {0: 7, 1: 9, 2: 9, 4: 9}
"""Flags (EVENTFD 1, MASKABLE 2, AUTOMASKED 4, NORESIZE 8) of INTx, MSI, MSI-X and REQ; ERR, number 3, is for PCI
Express only (vfio_pci_ioctl_get_irq_info)."""

PCI: Final = 2
NUMBER_OF_REGIONS, NUMBER_OF_IRQS = 9, 5


def _info(call: IoctlCall) -> int:
    call.param |= {"flags": PCI, "num_regions": NUMBER_OF_REGIONS, "num_irqs": NUMBER_OF_IRQS}
    return give(call, "DEVICE_GET_INFO")


def _region(call: IoctlCall) -> int:
    index = call.param["index"]
    region = call.on.device.region(index)
    call.param |= {"size": region.size, "flags": region.flags, "offset": index << REGION_SHIFT}
    return give(call, "DEVICE_GET_REGION_INFO")


def _interrupt(call: IoctlCall) -> int:
    msi, msix = call.on.device.vectors
    index = call.param["index"]
    call.param |= {"count": {1: msi, 2: msix}.get(index, 1), "flags": INTERRUPTS[index]}
    return give(call, "DEVICE_GET_IRQ_INFO")


NOT_MODELLED: Final = {
    10: "DEVICE_SET_IRQS",
    12: "DEVICE_GET_PCI_HOT_RESET_INFO",
    13: "DEVICE_PCI_HOT_RESET",
    16: "DEVICE_IOEVENTFD",
    17: "DEVICE_FEATURE",
}
"""Requests of a device that share their numbers with those of a container."""


def _not_modelled(name: str) -> Callable[[IoctlCall], int]:
    def refuse(_call: IoctlCall) -> int:
        raise NotModelledError(f"the emulator has no {name}")

    return refuse


DEVICE_REQUESTS: Final = {
    7: Request("DEVICE_GET_INFO", (copies_in("DEVICE_GET_INFO"), long_enough("DEVICE_GET_INFO")), _info),
    8: Request(
        "DEVICE_GET_REGION_INFO",
        (
            copies_in("DEVICE_GET_REGION_INFO"),
            long_enough("DEVICE_GET_REGION_INFO"),
            Check(
                "no such region",
                lambda call: call.on.device.region(call.param["index"]) is None,
                "EINVAL",
                "vfio_pci_core.c, vfio_pci_ioctl_get_region_info",
            ),
        ),
        _region,
    ),
    9: Request(
        "DEVICE_GET_IRQ_INFO",
        (
            copies_in("DEVICE_GET_IRQ_INFO"),
            long_enough("DEVICE_GET_IRQ_INFO"),
            Check(
                "no such interrupt",
                lambda call: call.param["index"] not in INTERRUPTS,
                "EINVAL",
                "vfio_pci_core.c, vfio_pci_ioctl_get_irq_info",
            ),
        ),
        _interrupt,
    ),
    **{number: Request(name, (), _not_modelled(name)) for number, name in NOT_MODELLED.items()},
    11: Request(
        "DEVICE_RESET",
        (Check("no reset", lambda _: True, "EINVAL", "vfio_pci_core.c, vfio_pci_ioctl_reset: !reset_works"),),
        lambda _: 0,
    ),
}
