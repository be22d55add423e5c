"""The machine of a program as a plain QEMU command line: no socket, file or option of tcelab's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tcelab.program import Program
from tcelab.qemu import devicewords

MEMORY: Final = "1G"


def line(program: Program, devices: Collection[str]) -> str:
    """For a shell, on several lines. Kernel and initrd are the reader's.

    :param devices: names of those that the program uses; others are left out, and their PHBs stay.
    """
    topology = program.topology
    machine = f"-M {topology.machine_type or 'pseries'} -accel tcg -cpu power9 -smp {topology.cpus} -m {MEMORY}"
    words = [
        f"qemu-system-ppc64 {machine}",
        "-nodefaults -nographic -serial mon:stdio",
    ]
    for phb in topology.phbs:
        words.append(f"-device {devicewords.host_bridge(phb)}")
        words += [f"-device {devicewords.edu(phb, each)}" for each in phb.devices if each.name in devices]
    words.append('-kernel vmlinux -initrd initrd -append "console=hvc0"')
    return " \\\n    ".join(words)
