"""A PCI device as vfio-pci shows it: its file, its regions, its interrupts.

Source: drivers/vfio/vfio_main.c, drivers/vfio/pci/vfio_pci_core.c (6.12).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tceagent import uapi
from tcelab.emulator import edu
from tcelab.emulator.checks import Call, Check, NotModelledError, Request, copies_in, give, long_enough, number_of
from tcelab.emulator.files import File
from tcelab.emulator.process import Process, RefusedError

if TYPE_CHECKING:
    from tcelab.emulator.core import Group
    from tcelab.emulator.platform import Machine


class DeviceFile(File):
    """A device of a group. It holds the group's file."""

    def __init__(self, machine: Machine, group: Group, device: edu.Edu) -> None:
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
            raise RefusedError("ENOTTY")
        return asked.perform(Call(self.machine, process, self, argument), frozenset())

    def pread(self, size: int, offset: int) -> bytes:
        """vfio_pci_rw, of the configuration space."""
        start = self._config(offset)
        return bytes(self.device.config[start : start + size])

    def pwrite(self, data: bytes, offset: int) -> int:
        """vfio_pci_rw, of the configuration space: of its command register, only bus mastering is to be had."""
        start = self._config(offset)
        if start == edu.COMMAND and data:
            self.device.master = bool(data[0] & edu.MASTER)
        return len(data)

    @staticmethod
    def _config(offset: int) -> int:
        region, start = divmod(offset, 1 << REGION_SHIFT)
        if region != uapi.CONFIG_REGION:
            raise RefusedError("EINVAL")
        return start

    def map(self, offset: int, size: int, process: Process) -> edu.Registers:
        """Mmap of BAR 0.

        :raise RefusedError: EINVAL: another region, or past its end.
        """
        if offset or size > edu.BAR_SIZE:
            raise RefusedError("EINVAL")
        self.get()
        registers = edu.Registers(self.device, lambda: self._unmap(registers, process))
        process.mapped.append(registers)
        return registers

    def _unmap(self, registers: edu.Registers, process: Process) -> None:
        process.mapped.remove(registers)
        self.put(process)

    def release(self, process: Process) -> None:
        """vfio_device_fops_release."""
        self.device.opens -= 1
        if not self.device.opens:  # vfio_pci_core_disable
            self.device.master = False
        self.group.devices -= 1
        self.group.put(process)


@dataclass(frozen=True, slots=True)
class Region:
    """What DEVICE_GET_REGION_INFO says: flags READ 1, WRITE 2, MMAP 4."""

    size: int = 0
    flags: int = 0


REGION_SHIFT: Final = 40
"""VFIO_PCI_OFFSET_SHIFT."""
REGIONS: Final = {
    uapi.BAR0_REGION: Region(edu.BAR_SIZE, 7),
    **{index: Region() for index in range(1, 7)},
    uapi.CONFIG_REGION: Region(edu.CONFIG_SIZE, 3),
}
"""VGA, number 8, is none of this device's: EINVAL (vfio_pci_ioctl_get_region_info)."""

INTERRUPTS: Final = {0: (1, 7), 1: (1, 9), 2: (0, 9), 4: (1, 9)}
"""Count and flags (EVENTFD 1, MASKABLE 2, AUTOMASKED 4, NORESIZE 8) of INTx, MSI, MSI-X and REQ; ERR, number 3, is for
PCI Express only (vfio_pci_ioctl_get_irq_info)."""

PCI: Final = 2
NUMBER_OF_REGIONS, NUMBER_OF_IRQS = 9, 5


def _info(call: Call) -> int:
    call.param |= {"flags": PCI, "num_regions": NUMBER_OF_REGIONS, "num_irqs": NUMBER_OF_IRQS}
    return give(call, "DEVICE_GET_INFO")


def _region(call: Call) -> int:
    index = call.param["index"]
    region = REGIONS[index]
    call.param |= {"size": region.size, "flags": region.flags, "offset": index << REGION_SHIFT}
    return give(call, "DEVICE_GET_REGION_INFO")


def _interrupt(call: Call) -> int:
    count, flags = INTERRUPTS[call.param["index"]]
    call.param |= {"count": count, "flags": flags}
    return give(call, "DEVICE_GET_IRQ_INFO")


NOT_MODELLED: Final = {
    10: "DEVICE_SET_IRQS",
    12: "DEVICE_GET_PCI_HOT_RESET_INFO",
    13: "DEVICE_PCI_HOT_RESET",
    16: "DEVICE_IOEVENTFD",
    17: "DEVICE_FEATURE",
}
"""Requests of a device that share their numbers with those of a container."""


def _not_modelled(name: str) -> Callable[[Call], int]:
    def refuse(_call: Call) -> int:
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
                lambda call: call.param["index"] not in REGIONS,
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
