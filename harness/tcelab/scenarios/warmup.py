"""A small program on the spare PE: shows that a guest works, and makes QEMU translate its code before timing matters.

Of the PEs under test it only binds the devices, before a guest is saved for forks: no container is opened on them.
"""

from __future__ import annotations

import msgspec

from tcelab.papr import tce
from tcelab.program import Bind, Op, Page, Program
from tcelab.program.topology import SPARE, Topology
from tcelab.scenarios import vocabulary as b


def warm_up(topology: Topology, *, thorough: bool = False) -> Program:
    """Map two pages, look at them, unmap them and leave.

    :param thorough: bind every device first, look by every view, read the kernel's counters, and have the spare device
        carry data both ways.
    """
    pe = b.Pe(SPARE, "warm")
    page = Page("warm")
    files = [pe.group, pe.container]
    counters = [*b.vmlck(), *b.pins()] if thorough else []
    out: list[Op] = [*counters, *b.buffer("warm", 2, 1)]
    if thorough:
        out += [Bind(device=device.name, expect="ok") for device in topology.devices if device not in topology.driven]
    out += [*b.bind(pe), *b.open_container(pe), *b.get_info(pe), *b.enable(pe)]
    out += b.tag(page, 2, pe.liobn, 0, 1)
    out += b.map_dma(pe, page, 0, 2, tce.PERMISSIONS)
    if thorough:
        out += [*b.open_device(pe), *b.dma(pe, 0, 64, to_memory=False), *b.dma(pe, 4096, 64, to_memory=True)]
        files.insert(0, pe.device)
    out += b.checkpoint("mapped", stream=thorough)
    out += [*b.unmap_dma(pe, 0, 2), *b.disable(pe), *b.close(*files)]
    out += [*counters, *b.checkpoint("end")]
    whole = msgspec.structs.replace(topology, phbs=topology.added)
    return Program(name="warm-up", topology=whole, ops=out)
