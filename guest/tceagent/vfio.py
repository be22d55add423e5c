"""Steps of the VFIO flow that are more than one system call: binding a device, finding its regions."""

from __future__ import annotations

import struct

from tceagent import uapi
from tceagent.errors import RefusedError

TYPE_CHECKING = False

if TYPE_CHECKING:
    from tceagent.seam import Kernel

DEVICES = "/sys/bus/pci/devices"
TREE = "/sys/firmware/devicetree/base"
DMA_WINDOW = "ibm,dma-window"
"""Of a PHB in the device tree."""
SAVED_WINDOW = "ibm,dma-window-saved"
"""What it said before the kernel removed the window (arch/powerpc/platforms/pseries/iommu.c, copy_property)."""
WINDOW = struct.Struct(">IQQ")  # LIOBN, bus address, size


def bind(kernel: Kernel, buid: int, slot: int) -> dict[str, str | int]:
    """Have vfio-pci drive the device at a slot of the PHB with that BUID.

    :return: address, group, liobn, window_start and window_size (bytes), buid. The window is read from the device tree
        before VFIO takes ownership, because then the kernel drops the property.
    :raise LookupError: no such device, or its PHB has no DMA window.
    :raise RefusedError: sysfs refused a write; ENODEV: vfio-pci did not take the device, the kernel's log says why.
    """
    address = find(kernel, buid, slot)
    folder = f"{DEVICES}/{address}"
    told = window_of(kernel, buid)
    try:
        drive(kernel, folder, address)
        group = int(_last(kernel.readlink(f"{folder}/iommu_group")))
    except OSError as error:
        raise RefusedError(error) from error
    return {"address": address, "group": group, **told}


def window_of(kernel: Kernel, buid: int, names: tuple[str, ...] = (DMA_WINDOW,)) -> dict[str, int]:
    """The default window of a PHB, by its device tree: liobn, window_start, window_size (bytes), buid.

    :param names: of the properties that may say it; the first that is there does.
    :raise LookupError: it has none.
    """
    window = None
    for name in names:
        try:
            window = kernel.read_file(f"{TREE}/pci@{buid:x}/{name}")
            break
        except FileNotFoundError:
            continue
    if window is None:
        raise LookupError(f"PHB {buid:#x} has no {DMA_WINDOW}: somebody owns it already")
    liobn, window_start, window_size = WINDOW.unpack(window)
    return {"liobn": liobn, "window_start": window_start, "window_size": window_size, "buid": buid}


def find(kernel: Kernel, buid: int, slot: int) -> str:
    """The PCI address, as in `0001:00:01.0`, of function 0 at a slot of the PHB with that BUID."""
    seen = []
    for address in kernel.listdir(DEVICES):
        domain, bus, slot_function = address.split(":")
        path = node(kernel, address, f"{domain}:{bus}")
        seen.append(f"{address} ({path})")
        if f"pci@{buid:x}" in path.split("/") and slot_function == f"{slot:02x}.0":
            return address
    raise LookupError(f"no device at slot {slot} of PHB {buid:#x}; there are: {', '.join(seen) or 'none'}")


def region(kernel: Kernel, fd: int, index: int) -> tuple[int, int]:
    """Where a region of a device lies in its file: offset, size.

    :raise RefusedError: it is no device file, or has no such region.
    """
    layout = uapi.LAYOUTS["DEVICE_GET_REGION_INFO"]
    request = uapi.NUMBERS["DEVICE_GET_REGION_INFO"]
    _, refusal, raw = kernel.ioctl(fd, request, layout.pack({"index": index}))
    if refusal:
        raise RefusedError(refusal)
    info = layout.unpack(raw)
    return info["offset"], info["size"]


def drive(kernel: Kernel, folder: str, address: str, name: str = "vfio-pci") -> None:
    """Have a driver drive a device, whoever did before.

    :raise OSError, RefusedError: as `bind`.
    """
    if driver(kernel, folder) == name:
        return
    if driver(kernel, folder):
        kernel.write_file(f"{folder}/driver/unbind", address.encode())
    kernel.write_file(f"{folder}/driver_override", name.encode())
    kernel.write_file("/sys/bus/pci/drivers_probe", address.encode())
    if driver(kernel, folder) != name:
        raise RefusedError("ENODEV")


def driver(kernel: Kernel, folder: str) -> str:
    """Of a device; "": none."""
    try:
        return _last(kernel.readlink(f"{folder}/driver"))
    except FileNotFoundError:
        return ""


def node(kernel: Kernel, address: str, bus: str) -> str:
    """The device-tree node of a device or, where it has none, of its bus; "" if neither has one."""
    for path in (f"{DEVICES}/{address}/of_node", f"/sys/class/pci_bus/{bus}/of_node"):
        try:
            return kernel.readlink(path)
        except FileNotFoundError:
            continue
    return ""


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]
