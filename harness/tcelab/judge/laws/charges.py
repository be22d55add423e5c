"""The law of charges."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.meters import Meter, report_counter
from tcelab.program import Read
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "charges",
    says="locked memory is charged for windows, tables and registered memory, and refunded",
    needs="the operation read of vmlck",
    finds="follows the counter from its first reading on, for each process",
)


class ChargesLaw:
    """VmLck of the process that enabled the container: the window while enabled (v1) or the registered memory (v2), and
    the table of each window from its creation until it is removed or released.

    Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable, tce_iommu_create_table.
    """

    def __init__(self) -> None:
        self._meters: defaultdict[str, Meter] = defaultdict(Meter)
        self._boots = 0

    def __call__(self, ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
        if isinstance(step.op, Read) and step.op.what == "vmlck" and got.value is not None:
            self._judge(ledger, fold, step.op.by, got.value)

    def _judge(self, ledger: Ledger, fold: Fold, process: str, reading: int) -> None:
        folded = fold.charge(process)
        if folded is None:
            return
        if self._boots != fold.boots:
            self._meters.clear()
            self._boots = fold.boots
        if process in fold.driver.doubted:
            # A failed call left an unknown charge: this reading is the new zero point.
            fold.driver.doubted.discard(process)
            self._meters[process].zero = None
        ledger.judged("charges")
        off = self._meters[process].changed(reading, folded)
        if off is not None:
            name = f"VmLck of process {process}" if process else "VmLck"
            report_counter(ledger, "charges", name, "KiB", (reading, reading - off, off))
