"""What a program says of itself: is it sound, and is a guest what it was made for?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tceagent.huge import HUGE_PAGE
from tcelab.errors import Unsupported, UsageError
from tcelab.papr import window
from tcelab.program import validate_hypercalls
from tcelab.program.operations import Buffer
from tcelab.program.program import Program
from tcelab.quirks import check as check_quirks

if TYPE_CHECKING:
    from tcelab.run.record import Facts


def check(program: Program) -> None:
    """Before anything boots.

    :raise UsageError: it names a device that no program can drive, a quirk that nobody knows, or a page size that no
        kernel has.
    """
    if driven := program.topology.driven:
        raise UsageError(f"device {driven[0].name!r} ({driven[0].model}) is for the kernel's own driver")
    check_quirks(program.shows)
    if odd := next((size for size in program.page_sizes if size < window.PAGE_SIZE or size & size - 1), None):
        raise UsageError(f"program {program.name!r} is made for pages of {odd} bytes, which no kernel has")


def require(program: Program, facts: Facts) -> None:
    """Once the guest is there, before anything is judged.

    :raise Unsupported: the program is for kernels with other CPU pages; or it has huge pages or makes hypercalls, and
        the kernel cannot.

    A program is never rewritten for another page size: IOMMU pages keep theirs, so the result would be another program,
    of which nobody knows what it shows.
    """
    if program.page_sizes and facts.page_size not in program.page_sizes:
        raise Unsupported(
            f"program {program.name!r} is made for kernels with pages of {sizes(program.page_sizes)},"
            f" and this one has {sizes([facts.page_size])}: it would prove nothing here",
            next_step="take such a kernel, or write the program for this one and add its page size to `page_sizes`",
        )
    if not facts.huge and any(isinstance(op, Buffer) and op.huge for op in program.ops):
        raise Unsupported(
            f"program {program.name!r} has a buffer in huge pages of {HUGE_PAGE >> 20} MiB, and this kernel has none",
            next_step="take a kernel with the radix MMU: with the hash MMU, huge pages have another size",
        )
    validate_hypercalls.require(program.ops, facts)


def sizes(numbers: Iterable[int]) -> str:
    """Page sizes as text: `4 KiB or 64 KiB`."""
    return " or ".join(f"{number >> 10} KiB" for number in sorted(numbers))
