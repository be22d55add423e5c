"""What cannot be exported: named before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tcelab.errors import UsageError
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Dma,
    DmaOp,
    Exit,
    Frames,
    Fresh,
    Hcall,
    HcallBatch,
    Ioctl,
    Look,
    Master,
    Native,
    Op,
    Open,
    Program,
    Protect,
    Put,
    Read,
    Spawn,
    Tag,
    is_host,
)
from tcelab.program.operations import Fill
from tcelab.report import Result

EXPORTED: Final = (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Dma,
    Exit,
    Fill,
    Frames,
    Fresh,
    Ioctl,
    Look,
    Master,
    Open,
    Protect,
    Put,
    Read,
    Spawn,
    Tag,
)
"""Operations that have a form in C."""

COUNTERS: Final = ("vmlck", "pins")
DEVICE: Final = "edu"
"""The model of device whose registers the C file knows."""


def check(program: Program, result: Result | None) -> None:
    """Check that a program can be exported, and may be.

    :param result: of a run of it.
    :raise UsageError: it cannot, or may not.
    """
    if result is not None and not result.ended.complete:
        what = "the death of the kernel" if result.ended.kernel_died else "the loss of its guest, or before its end"
        raise UsageError(
            f"the run of {program.name!r} ended in {what}, after {result.ended.done} of {len(program.ops)} operations:"
            " what kills a kernel or QEMU is not exported",
            next_step="export the run of a program that runs to its end",
        )
    if program.isolation:
        raise UsageError(f"program {program.name!r} is for a platform that isolates PEs, and the host does that")
    for number, op in enumerate(program.ops):
        for why in _problems(program, op):
            raise UsageError(
                f"program {program.name!r}, operation {number} ({type(op).__name__.lower()}) cannot be exported: {why}",
                next_step="docs/export.md names the operations that can",
            )


def _problems(program: Program, op: Op) -> Iterator[str]:
    match op:
        case Hcall() | HcallBatch():
            yield "raw hypercalls are made by a kernel module, and a program in user space has none"
        case _ if is_host(op) and not isinstance(op, Checkpoint):
            yield "it is done from outside of the guest"
        case Native():
            yield "it is a C program already: guest/native"
        case _ if isinstance(op, DmaOp):
            yield "the kernel's DMA API is called by a driver of the kernel"
        case _ if not isinstance(op, EXPORTED):
            yield "it has no form in C"
        case Buffer(huge=True):
            yield "a buffer in huge pages has no form in C"
        case Read() if op.what not in COUNTERS:
            yield f"the counter {op.what} has no form in C"
        case Spawn(by=by) if by:
            yield "a process that another one than the first starts has no form in C"
        case Bind():
            model = next((each.model for each in program.topology.devices if each.name == op.device), DEVICE)
            if model != DEVICE:
                yield f"device {op.device} is a {model}, and the C file knows the registers of an {DEVICE} alone"
