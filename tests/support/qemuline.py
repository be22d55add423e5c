"""QEMU's command line, taken apart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
from fake_guest import abilities

from tcelab.program.topology import topology
from tcelab.qemu.machine import Descriptors, QemuOptions, arguments

FDS = Descriptors(qmp=11, qtest=17, console=12, agent=13, log=14, ram=15, state=16, roms={"edu": 19})
FORK = msgspec.structs.replace(FDS, base=18)
LOADED = msgspec.structs.replace(FDS, stream=18)


def options(where="two-pe", **more):
    return QemuOptions(
        Path("/k/vmlinux"), Path("/i/initrd"), topology(where) if isinstance(where, str) else where, **more
    )


def line(where="two-pe", can=None, fds=FDS, **more):
    return arguments(options(where, **more), can or abilities(), fds)


def values(words, option):
    """What was given with each occurrence of an option."""
    return [after for word, after in pairwise(words) if word == option]


def devices(words, kind):
    """The `-device` of one kind, as dicts of their properties."""
    split = [each.split(",") for each in values(words, "-device")]
    return [dict(part.split("=", 1) for part in rest) for first, *rest in split if first == kind]
