"""Counters of the kernel that must move as the fold does."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tcelab.judge.ledger import Ledger, last_ioctl
from tcelab.judge.models.fold import Fold
from tcelab.program import Read
from tcelab.run.record import Outcome, Step


@dataclass(slots=True)
class Meter:
    """A counter that must move as the fold does; its first reading gives the zero point."""

    zero: int | None = None
    error: int = 0

    def changed(self, reading: int, folded: int) -> int | None:
        """How far the reading is off, None when that is not new."""
        if self.zero is None:
            self.zero = reading - folded
        error, self.error = self.error, reading - self.zero - folded
        return None if self.error in (0, error) else self.error


class Meters:
    """The laws of counters; state: a meter of pins, and one of charges for each process."""

    def __init__(self) -> None:
        self.vmlck: defaultdict[str, Meter] = defaultdict(Meter)
        self.pins = Meter()

    def __call__(self, ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
        if isinstance(step.op, Read) and got.value is not None:
            law = {"vmlck": self._charges, "pins": self._pins}.get(step.op.what)
            if law is not None:
                law(ledger, fold, step.op.by, got.value)

    def _charges(self, ledger: Ledger, fold: Fold, process: str, reading: int) -> None:
        """VmLck: the window while enabled (v1) or the memory that is registered (v2), and the table of each window from
        its creation until it is removed or released, of the process that enabled the container.

        Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable, tce_iommu_create_table.
        """
        folded = fold.charge(process)
        if folded is None:
            return
        if process in fold.driver.doubted:
            # A call that failed left something there: from now on that is the zero point.
            fold.driver.doubted.discard(process)
            self.vmlck[process].zero = None
        ledger.judged("charges")
        off = self.vmlck[process].changed(reading, folded)
        if off is not None:
            name = f"VmLck of process {process}" if process else "VmLck"
            self._report(ledger, "charges", name, "KiB", (reading, reading - off, off))

    def _pins(self, ledger: Ledger, fold: Fold, _process: str, reading: int) -> None:
        """Page pins: one per live entry of any LIOBN (v1), or per CPU page that is registered (v2).

        Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_use_page, tce_iommu_unuse_page, mm_iommu_do_alloc.
        """
        ledger.judged("pins")
        ledger.evidence.pins += 1
        off = self.pins.changed(reading, fold.live)
        if off is not None:
            self._report(ledger, "pins", "page pins", "pages", (reading, reading - off, off))

    @staticmethod
    def _report(ledger: Ledger, law: str, name: str, unit: str, numbers: tuple[int, int, int]) -> None:
        reading, expected, off = numbers
        kind = "not given back or too much" if off > 0 else "missing"
        ledger.report(
            law,
            (ledger.step, reading),
            f"{name}: expected {expected} {unit}, seen {reading} ({abs(off)} {unit} {kind})",
            expected=f"{expected} {unit}",
            seen=f"{reading} {unit}",
            operation=last_ioctl(ledger),
        )
