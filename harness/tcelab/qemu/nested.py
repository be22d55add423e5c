"""What a machine has whose guest runs a guest of its own by KVM: see `Topology.nested`, `tcelab.passthrough`.

Sources: QEMU hw/ppc/spapr_caps.c (nested-hv), hw/ppc/spapr_nested.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tcelab.program.topology import Topology

PORTS: Final = {"inner_agent": "org.tcelab.inner.agent", "inner_console": "org.tcelab.inner.console"}
"""By which agent and console of the guest inside reach the host: the field of `Descriptors`, and the name by which the
guest that runs it knows the port.
"""
GDB: Final = "gdb"
"""The chardev of QEMU's gdbstub, which a machine that is raced has; see `tcelab.qemu.gdb`."""
_SOCKETS: Final = ("qmp", "qtest", "console", "agent")


def sockets(topology: Topology) -> tuple[str, ...]:
    """What QEMU is connected with by a pair of sockets: names of fields of `Descriptors`."""
    return (*_SOCKETS, *(PORTS if topology.nested else ()), *((GDB,) if topology.raced else ()))


def capability(topology: Topology) -> str:
    """Of the machine."""
    return ",cap-nested-hv=on" if topology.nested else ""


def clock(topology: Topology) -> tuple[str, ...]:
    """It counts instructions: by a clock of real time, nearly all that a guest inside does is to be interrupted by its
    timer.
    """
    return ("-icount", "shift=0") if topology.nested else ()


def ports(topology: Topology) -> Iterator[str]:
    """On the channel's bus."""
    for name, port in PORTS.items() if topology.nested else ():
        yield from ("-device", f"virtserialport,bus=channel.0,chardev={name},name={port},id={name}-port")
