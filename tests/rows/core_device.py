"""A group's device: how its file is had, and what an edu of QEMU says of itself through vfio-pci."""

from __future__ import annotations

from typing import Final

from rows.row import (
    DEVICE,
    GROUP,
    NOWHERE,
    UNKNOWN,
    WRITABLE,
    Ops,
    Row,
    call,
    child,
    closed,
    ended,
    get_device,
    joined,
    open_group,
    opened,
    passing,
    put,
    set_container,
)
from tcelab.program import Ioctl, Op, Page, Word

GET_DEVICE_FD: Final = "drivers/vfio/group.c, vfio_group_ioctl_get_device_fd"
PCI: Final = "drivers/vfio/pci/vfio_pci_core.c"
INFO: Final = f"{PCI}, vfio_pci_ioctl_get_info"
REGION: Final = f"{PCI}, vfio_pci_ioctl_get_region_info"
IRQ: Final = f"{PCI}, vfio_pci_ioctl_get_irq_info"
EDU: Final = "QEMU hw/misc/edu.c, pci_edu_realize"


def on_device(*ops: Op) -> Ops:
    return (*joined(), get_device(file=DEVICE), *ops, *closed("d", "g", "c"))


def ask(request: str, expect: str = "ok", **fields: Word) -> Op:
    return Ioctl(file=DEVICE, request=request, fields=fields, expect=expect)


GOT: Final = (
    Row(
        "GET_DEVICE_FD with a name that cannot be read is EFAULT",
        f"{GET_DEVICE_FD}, strndup_user",
        (*joined(), passing(NOWHERE, "GROUP_GET_DEVICE_FD", "EFAULT", file=GROUP), *closed()),
    ),
    Row(
        "GET_DEVICE_FD with a name longer than a page is EINVAL",
        f"{GET_DEVICE_FD}, strndup_user; mm/util.c",
        (*joined(), get_device("EINVAL", name="x" * 4096), *closed()),
    ),
    Row(
        "GET_DEVICE_FD of a device that the group does not have is ENODEV",
        f"{GET_DEVICE_FD}, vfio_device_get_from_name",
        (*joined(), *(get_device("ENODEV", name=name) for name in ("nothing", "", "pe2")), *closed()),
    ),
    Row(
        "GET_DEVICE_FD of a group without container is EINVAL, of an unknown device ENODEV",
        f"{GET_DEVICE_FD}, vfio_device_get_from_name before vfio_df_group_open",
        (
            *opened(),
            get_device("EINVAL"),
            get_device("ENODEV", name="nothing"),
            passing(NOWHERE, "GROUP_GET_DEVICE_FD", "EFAULT", file=GROUP),
            *closed(),
        ),
    ),
    Row(
        "GET_DEVICE_FD before SET_IOMMU is EINVAL",
        "drivers/vfio/container.c, vfio_group_use_container, iommu_driver",
        (*opened(), set_container(), get_device("EINVAL"), *closed()),
    ),
    Row(
        "A device can be opened many times, and again after it was closed",
        f"{GET_DEVICE_FD}; drivers/vfio/vfio_main.c, vfio_df_open",
        (
            *joined(),
            get_device(file=DEVICE),
            get_device(file="d2"),
            call("DEVICE_GET_INFO", file="d2"),
            *closed("d", "d2", "g", "c"),
            *joined(),
            get_device(file=DEVICE),
            *closed("d", "g", "c"),
        ),
    ),
    Row(
        "A device is open to any process that has inherited its file",
        "drivers/vfio/vfio_main.c, vfio_device_fops_unl_ioctl: no permission is asked for",
        (
            *joined(),
            get_device(file=DEVICE),
            child("device-1", uid=65534),
            call("DEVICE_GET_INFO", file=DEVICE, by="device-1"),
            ended("device-1"),
            *closed("d", "g", "c"),
        ),
        says={"flags": 2, "num_regions": 9, "num_irqs": 5},
    ),
    Row(
        "SET_CONTAINER of a device's file is EBADFD",
        "drivers/vfio/group.c, vfio_group_ioctl_set_container, the end",
        (
            *joined(),
            get_device(file=DEVICE),
            open_group(2),
            set_container("EBADFD", pe=2, container=DEVICE),
            *closed("d", "g", "g2", "c"),
        ),
    ),
)

SAID: Final = (
    Row(
        "An edu is a PCI device that cannot be reset, with 9 regions and 5 interrupts",
        INFO,
        on_device(ask("DEVICE_GET_INFO", flags=0xFF, num_regions=1, num_irqs=1)),
        says={"flags": 2, "num_regions": 9, "num_irqs": 5},
    ),
    Row(
        "DEVICE_GET_INFO checks its struct",
        f"{INFO}, copy_from_user, argsz",
        on_device(
            passing(NOWHERE, "DEVICE_GET_INFO", "EFAULT", file=DEVICE), ask("DEVICE_GET_INFO", "EINVAL", argsz=15)
        ),
    ),
    Row(
        "DEVICE_GET_INFO into memory that cannot be written is EFAULT",
        f"{INFO}, copy_to_user",
        on_device(*put("DEVICE_GET_INFO"), passing(Page("rw"), "DEVICE_GET_INFO", "EFAULT", file=DEVICE), WRITABLE),
    ),
    Row(
        "DEVICE_RESET of a device that cannot be reset is EINVAL",
        f"{PCI}, vfio_pci_ioctl_reset, reset_works",
        on_device(call("DEVICE_RESET", "EINVAL", file=DEVICE)),
    ),
    Row(
        "An unknown request to a device is ENOTTY",
        f"{PCI}, vfio_pci_core_ioctl, default",
        on_device(
            passing(0, UNKNOWN, "ENOTTY", file=DEVICE),
            call("GROUP_GET_STATUS", "ENOTTY", file=DEVICE),
            call("GET_API_VERSION", "ENOTTY", file=DEVICE),
        ),
    ),
    Row(
        "Region 0 is the registers: 1 MiB, which can be mapped",
        f"{REGION}; {EDU}",
        on_device(ask("DEVICE_GET_REGION_INFO", index=0)),
        says={"flags": 7, "cap_offset": 0, "size": 0x100000, "offset": 0},
    ),
    Row(
        "Region 1 is a BAR that the device does not have: no bytes",
        REGION,
        on_device(ask("DEVICE_GET_REGION_INFO", index=1, flags=7, size=5)),
        says={"flags": 0, "cap_offset": 0, "size": 0, "offset": 0x10000000000},
    ),
    Row(
        "Region 6 is the ROM that the device does not have: no bytes",
        REGION,
        on_device(ask("DEVICE_GET_REGION_INFO", index=6, flags=7, size=5)),
        says={"flags": 0, "cap_offset": 0, "size": 0, "offset": 0x60000000000},
    ),
    Row(
        "Region 7 is the configuration space of a conventional device: 256 bytes, which cannot be mapped",
        f"{REGION}, VFIO_PCI_CONFIG_REGION_INDEX; {EDU}",
        on_device(ask("DEVICE_GET_REGION_INFO", index=7)),
        says={"flags": 3, "cap_offset": 0, "size": 256, "offset": 0x70000000000},
    ),
    Row(
        "Region 8 is for VGA, and beyond it there is none",
        f"{REGION}, has_vga, num_regions",
        on_device(*(ask("DEVICE_GET_REGION_INFO", "EINVAL", index=index) for index in (8, 9, 0xFFFFFFFF))),
    ),
    Row(
        "DEVICE_GET_REGION_INFO checks its struct before the index",
        f"{REGION}, copy_from_user, argsz",
        on_device(
            passing(NOWHERE, "DEVICE_GET_REGION_INFO", "EFAULT", file=DEVICE),
            ask("DEVICE_GET_REGION_INFO", "EINVAL", argsz=31, index=7),
        ),
    ),
    Row(
        "Interrupt 0 is INTx: one, maskable, masked automatically",
        f"{IRQ}; {EDU}, pci_config_set_interrupt_pin",
        on_device(ask("DEVICE_GET_IRQ_INFO", index=0)),
        says={"flags": 7, "count": 1},
    ),
    Row(
        "Interrupt 1 is MSI: one",
        f"{IRQ}; {EDU}, msi_init",
        on_device(ask("DEVICE_GET_IRQ_INFO", index=1)),
        says={"flags": 9, "count": 1},
    ),
    Row(
        "Interrupt 2 is MSI-X: none",
        IRQ,
        on_device(ask("DEVICE_GET_IRQ_INFO", index=2)),
        says={"flags": 9, "count": 0},
    ),
    Row(
        "Interrupt 4 is the request to let the device go: one",
        IRQ,
        on_device(ask("DEVICE_GET_IRQ_INFO", index=4)),
        says={"flags": 9, "count": 1},
    ),
    Row(
        "Interrupt 3 is for PCI Express, and beyond 4 there is none",
        f"{IRQ}, pci_is_pcie, VFIO_PCI_NUM_IRQS",
        on_device(*(ask("DEVICE_GET_IRQ_INFO", "EINVAL", index=index) for index in (3, 5, 0xFFFFFFFF))),
    ),
    Row(
        "DEVICE_GET_IRQ_INFO checks its struct",
        f"{IRQ}, copy_from_user, argsz",
        on_device(
            passing(NOWHERE, "DEVICE_GET_IRQ_INFO", "EFAULT", file=DEVICE),
            ask("DEVICE_GET_IRQ_INFO", "EINVAL", argsz=15),
        ),
    ),
)

ROWS: Final = (*GOT, *SAID)
