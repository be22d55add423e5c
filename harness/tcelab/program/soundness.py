"""Checks the devices, quirks and page sizes that a program names."""

from __future__ import annotations

from collections.abc import Iterable

from tcelab.errors import UsageError
from tcelab.papr import window
from tcelab.program.kinds import is_life
from tcelab.program.operations import AtOnce
from tcelab.program.program import Program
from tcelab.quirks import check as check_quirks


def check(program: Program, *, guarded: bool = False) -> None:
    """Check a program before anything boots.

    :raise UsageError: it names a device that no program can drive, an unknown quirk, or a page size that no kernel has;
        or it isolates PEs of which the kernel's own driver has one; or does with a probe what a probe cannot.
    """
    if program.topology.direct and guarded:
        raise UsageError(
            f"PEs of topology {program.topology.name} cannot be guarded: the kernel's own driver has a direct window"
        )
    if "testdev" in program.topology.models and guarded:
        raise UsageError(
            f"PEs of topology {program.topology.name} cannot be guarded: an iommu-testdev does DMA whoever forbids it"
        )
    if program.topology.raced and guarded:
        raise UsageError(
            f"PEs of topology {program.topology.name} cannot be guarded: its probes are refused on purpose",
            next_step="take topology probe",
        )
    if "probe" in program.topology.models:
        _expect_legal_for_probes(program)
    if (driven := program.topology.driven) and not program.topology.direct:
        raise UsageError(f"device {driven[0].name!r} ({driven[0].model}) is for the kernel's own driver")
    check_quirks(program.shows)
    if odd := next((size for size in program.page_sizes if size < window.PAGE_SIZE or size & size - 1), None):
        raise UsageError(f"program {program.name!r} is made for pages of {odd} bytes, which no kernel has")


def _expect_legal_for_probes(program: Program) -> None:
    where = f"topology {program.topology.name} has probes"
    if life := next((op for op in program.ops if is_life(op)), None):
        raise UsageError(
            f"{where}, and QEMU carries none over an event: program {program.name!r} has {type(life).__name__}"
        )
    if any(isinstance(op, AtOnce) for op in program.ops):
        raise UsageError(
            f"{where}, and of operations that are begun at once nobody could say which one told them what: program"
            f" {program.name!r} has AtOnce"
        )


def sizes(numbers: Iterable[int]) -> str:
    """Page sizes as text: `4 KiB or 64 KiB`."""
    return " or ".join(f"{number >> 10} KiB" for number in sorted(numbers))
