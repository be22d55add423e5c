"""Devices that are processes of the host: PCI devices of our own behind QEMU's `vfio-user-pci`.

- `vfio_user`: the protocol, a server, and the base class of a device
- `probe`: the probe device, a DMA master that attacks on command
"""
