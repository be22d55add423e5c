"""Does a guest fit a program? Checked once the guest is up, before anything is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tceagent.huge import SIZES
from tcelab.errors import Unsupported
from tcelab.program.operations import Buffer, Hcall, HcallBatch, Native, Op
from tcelab.program.program import Program
from tcelab.program.soundness import sizes

if TYPE_CHECKING:
    from tcelab.run.record import Facts

_SIZES: Final = " or ".join(str(size >> 20) for size in SIZES)


def require(program: Program, facts: Facts) -> None:
    """Check once the guest is up, before anything is judged.

    :raise Unsupported: the program is for kernels with other CPU pages; or it has huge pages or makes hypercalls, and
        the kernel cannot.

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


def require_hypercalls(ops: Sequence[Op], facts: Facts) -> None:
    """:raise Unsupported: operations make hypercalls, and the platform cannot."""
    if facts.hypercalls or not any(map(_asks, ops)):
        return
    kernel = facts.versions.get("guest", {}).get("kernel", "under test")
    raise Unsupported(
        f"kernel {kernel} has no raw hypercalls: its module tce_hcall is not loaded",
        next_step="take the image's own kernel, or build guest/kmod for this one: see docs/own-kernel.md",
    )


def _asks(op: Op) -> bool:
    return isinstance(op, Hcall | HcallBatch) or (isinstance(op, Native) and op.program == "fuzz_hcall")
