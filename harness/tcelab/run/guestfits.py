"""Does a guest fit a program? Checked once the guest is up, before anything is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tceagent.huge import SIZES
from tcelab.errors import Unsupported
from tcelab.program.dmaops import DmaBind
from tcelab.program.operations import (
    Buffer,
    Burst,
    Dma,
    Doorbell,
    Engine,
    Hcall,
    HcallBatch,
    Ioctl,
    Look,
    Native,
    Op,
    Together,
)
from tcelab.program.plugged import HotPlug
from tcelab.program.program import Program
from tcelab.program.soundness import sizes

if TYPE_CHECKING:
    from tcelab.run.record import Facts

_DEVICE: Final = "GROUP_GET_DEVICE_FD"
_SIZES: Final = " or ".join(str(size >> 20) for size in SIZES)


def require(program: Program, facts: Facts) -> None:
    """Check once the guest is up, before anything is judged.

    :raise Unsupported: the program is for kernels with other CPU pages; or it has huge pages or makes hypercalls, and
        the kernel cannot; or an event that the platform cannot do.

    A program is never rewritten for another page size: IOMMU pages keep their size, so the result would be another
    program that shows something else.
    """
    if program.page_sizes and facts.page_size not in program.page_sizes:
        raise Unsupported(
            f"program {program.name!r} is made for kernels with pages of {sizes(program.page_sizes)},"
            f" and this one has {sizes([facts.page_size])}: it would prove nothing here",
            next_step="take such a kernel, or write the program for this one and add its page size to `page_sizes`",
        )
    if not facts.huge and any(isinstance(op, Buffer) and op.huge for op in program.ops):
        raise Unsupported(
            f"program {program.name!r} has a buffer in huge pages, and this kernel has none of {_SIZES} MiB",
            next_step="take --cpu power9 or later: by default QEMU gives the hash MMU no pages of that size",
        )
    require_hypercalls(program.ops, facts)
    _require_drivers(program.ops, facts)
    _require_models(program, facts)
    _require_events(program.ops, facts)


_DRIVES: Final = (Dma, Burst, Doorbell, Engine, Look)


def _require_models(program: Program, facts: Facts) -> None:
    """Devices that are only bound and mapped for may be of any model."""
    if not facts.unlike:
        return
    files = {
        op.into: op.fields.get("name")
        for op in program.ops
        if isinstance(op, Ioctl) and op.request == _DEVICE and op.into
    }
    for number, op in enumerate(program.ops):
        moved = op.ops if isinstance(op, Together) else [op] if isinstance(op, _DRIVES) else []
        for name in (files.get(each.file) for each in moved):
            if name in facts.unlike:
                raise Unsupported(
                    f"operation {number} ({type(op).__name__.lower()}) drives {name}, which is no such device here",
                    next_step="run a scenario in which no device moves data, such as flow; or give it such a device",
                )


def _require_events(ops: Sequence[Op], facts: Facts) -> None:
    for number, op in enumerate(ops):
        name = type(op).__name__
        by = op.consent if isinstance(op, HotPlug) else ""
        if why := facts.impossible.get(name) or facts.impossible.get(str(by)):
            raise Unsupported(f"operation {number} ({name.lower()}) is impossible here: {why}")


def require_hypercalls(ops: Sequence[Op], facts: Facts) -> None:
    """:raise Unsupported: operations make hypercalls, and the platform cannot."""
    if facts.hypercalls or not any(map(_asks, ops)):
        return
    kernel = facts.versions.get("guest", {}).get("kernel", "under test")
    why = facts.cannot.get("hypercalls", "its module tce_hcall is not loaded")
    raise Unsupported(
        f"kernel {kernel} has no raw hypercalls: {why}",
        next_step="take the image's own kernel, or build guest/kmod for this one: see docs/own-kernel.md",
    )


def _require_drivers(ops: Sequence[Op], facts: Facts) -> None:
    if facts.drivers or not any(isinstance(op, DmaBind) for op in ops):
        return
    kernel = facts.versions.get("guest", {}).get("kernel", "under test")
    why = facts.cannot.get("drivers", "its module tce_dma is not loaded")
    raise Unsupported(
        f"kernel {kernel} has no driver that uses the DMA API: {why}",
        next_step="take the image's own kernel, or build guest/kmod for this one: see docs/own-kernel.md",
    )


def _asks(op: Op) -> bool:
    return isinstance(op, Hcall | HcallBatch) or (isinstance(op, Native) and op.program == "fuzz_hcall")
