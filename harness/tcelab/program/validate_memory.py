"""The part of `tcelab.program.validate` about memory that is plugged in and pulled."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from tcelab.program.lifeops import MemoryAdd, MemoryRemove
from tcelab.program.topology import Topology

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}")
_BLOCK: Final = 256
"""MiB: memory of a pseries machine comes in blocks (include/hw/ppc/spapr.h, SPAPR_MEMORY_BLOCK_SIZE)."""


def add(topology: Topology, dimms: dict[str, int], op: MemoryAdd) -> str:
    """Why memory cannot be plugged in; empty if it can, and then it is.

    :param dimms: MiB of what is plugged in, by name.
    """
    name, slots, maxmem = topology.name, topology.slots, topology.maxmem
    rules = {
        f"the RAM of topology {name} does not grow: it has no maxmem and no slots": bool(slots),
        f"{op.dimm} is plugged in already": op.dimm not in dimms,
        f"not a name for memory: {op.dimm!r}": bool(_NAME.fullmatch(op.dimm)),
        f"{op.mib} MiB of memory: a pseries machine takes multiples of {_BLOCK} MiB": op.mib > 0
        and not op.mib % _BLOCK,
        f"no slot is free: topology {name} has {slots}": len(dimms) < slots,
        f"maxmem of topology {name} is {maxmem} MiB, with what is there at the start": sum(dimms.values()) + op.mib
        <= maxmem - _BLOCK,
    }
    problem = next((text for text, held in rules.items() if not held), "")
    if not problem:
        dimms[op.dimm] = op.mib
    return problem


def remove(dimms: dict[str, int], unused: Collection[str], op: MemoryRemove) -> str:
    """Why memory cannot be pulled; empty if it can. The guest may keep it: it counts as gone if that is required.

    :param unused: what the kernel does not use, since it has booted with it.
    """
    if op.dimm not in dimms:
        hint = f'add a `memoryadd` with "dimm": "{op.dimm}"'
        return f"no memory {op.dimm!r} was plugged in before: {hint}"
    if op.dimm in unused:
        return f"the kernel has booted since {op.dimm} was plugged in, does not use it, and so cannot give it back"
    if op.expect in ("ok", 0):
        del dimms[op.dimm]
    return ""
