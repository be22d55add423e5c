"""A vfio-user server: this process is the PCI device of a virtual machine.

QEMU's own VFIO code drives the device (`-device vfio-user-pci`). Each change of the device's IOMMU arrives as a message
in the middle of the hypercall that makes it, and each DMA in message mode is judged by QEMU's own table::

    class Echo(PciDevice):
        bars = (Bar(0, 4096),)
        ...

    async with Server(Echo()) as server:
        print(server.path)
        await server.serve()

- `configspace`: the configuration space of a device: identity, BARs, capabilities
- `connection`: one client: frames, replies, requests of our own
- `dmamaps`: what the client has mapped: the stream of DMA_MAP and DMA_UNMAP, folded
- `interrupts`: INTx and MSI, by event descriptors
- `pcidevice`: the base class of a device
- `protocol`: messages as tables; strict parsing
- `requests`: requests of our own, and the client's replies
- `server`: the socket, and one device behind it

Source: QEMU docs/interop/vfio-user.rst, version 0.0 of the protocol.
"""

from tcelab.device.vfio_user.dmamaps import Change, DmaMaps, Mapping
from tcelab.device.vfio_user.pcidevice import Bar, PciDevice
from tcelab.device.vfio_user.protocol import DmaRefused, LinkLost, ProtocolError, RequestError
from tcelab.device.vfio_user.server import Server

__all__ = [
    "Bar",
    "Change",
    "DmaMaps",
    "DmaRefused",
    "LinkLost",
    "Mapping",
    "PciDevice",
    "ProtocolError",
    "RequestError",
    "Server",
]
