"""Virtio-serial ports, found by their names."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tceagent.seam import Kernel

PORT = "org.tcelab.agent"
_PORT_LIMIT = 5.0
"""Seconds in which a port must appear. It exists at once, unless its driver is a module that was just loaded."""


def find_port(kernel: Kernel, name: str = PORT) -> str:
    """The device file of a virtio-serial port, by default the agent's, found without udev.

    :raise LookupError: no such port.
    """
    limit = kernel.monotonic() + _PORT_LIMIT
    while True:
        port = _port(kernel, name)
        if port:
            return f"/dev/{port}"
        if kernel.monotonic() >= limit:
            raise LookupError(f"no virtio-serial port is called {name}; are VIRTIO_PCI and VIRTIO_CONSOLE there?")
        kernel.sleep(0.01)


def _port(kernel: Kernel, name: str) -> str:
    """The device of the port of that name; "" while there is none."""
    folder = "/sys/class/virtio-ports"
    try:
        ports = kernel.listdir(folder)
    except FileNotFoundError:  # no driver
        return ""
    for port in ports:
        try:
            if kernel.read_file(f"{folder}/{port}/name").strip() == name.encode():
                return port
        except FileNotFoundError:  # QEMU has not named it yet
            continue
    return ""
