"""The law of pins."""

from __future__ import annotations

from typing import Final

from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.meters import Meter, report_counter
from tcelab.program import Read
from tcelab.run.record import Outcome, Step

LAW: Final = Law(
    "pins",
    says="the kernel holds one page pin for each entry that VFIO mapped (v2: for each registered page)",
    needs="the operation read of pins",
    finds="follows the counter from its first reading on",
)


class PinsLaw:
    """Page pins: one per live entry of any LIOBN (v1), or per registered CPU page (v2).

    Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_use_page, tce_iommu_unuse_page, mm_iommu_do_alloc.
    """

    def __init__(self) -> None:
        self._meter = Meter()

    def __call__(self, ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
        if "pins" in fold.facts.cannot:
            return  # nobody has read them
        if isinstance(step.op, Read) and step.op.what == "pins" and got.value is not None:
            self._judge(ledger, fold, step.op.by, got.value)

    def _judge(self, ledger: Ledger, fold: Fold, _process: str, reading: int) -> None:
        if fold.pins.lost:
            self._meter, fold.pins.lost = Meter(), False
        ledger.judged("pins")
        ledger.evidence.pins += 1
        off = self._meter.changed(reading, fold.live)
        if off is not None:
            report_counter(ledger, "pins", "page pins", "page", (reading, reading - off, off))
