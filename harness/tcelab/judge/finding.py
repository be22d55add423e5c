"""What a judgement consists of: laws, findings, evidence, verdict. Plain data that goes into `result.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tcelab.run.exitcode import Result

LAW_NAMES: Final = (
    "outcome",
    "inventory",
    "table",
    "outliving",
    "handles",
    "hypercalls",
    "papr",
    "views",
    "messages",
    "doorbells",
    "tag",
    "memory",
    "disk",
    "refusals",
    "flight",
    "races",
    "isolation",
    "charges",
    "pins",
    "release",
    "kernel",
    "difference",
    "evidence",
)
"""The laws, in the order of results; each is defined in the file of its name in `tcelab.judge.laws`."""


class Finding(msgspec.Struct, kw_only=True):
    """One broken law.

    :ivar law: one of `LAW_NAMES`.
    :ivar step: number of the program's operation at which it was seen.
    :ivar message: what is wrong, in one line.
    :ivar liobn: LIOBN of the table that it is about, None if it is about none.
    :ivar ioba: bus address of the entry or access, None if it is about none.
    :ivar expected: what the law demands, as text; TCEs as `papr.tce.describe` writes them.
    :ivar seen: what was there instead, written likewise.
    :ivar operation: `#12 {json}`: the last guest operation that concerned the entry.
    :ivar view: the views that saw it, e.g. `live, stream`.
    :ivar batch: the batch size in progress, 0 if none.
    :ivar quirk: the known defect that explains a difference, if one does.
    """

    law: str
    step: int
    message: str
    liobn: int | None = None
    ioba: int | None = None
    expected: str = ""
    seen: str = ""
    operation: str = ""
    view: str = ""
    batch: int = 0
    quirk: str = ""


class LawCount(msgspec.Struct):
    """What one law gave.

    :ivar judged: how many times the law was applied.
    :ivar findings: how many findings it gave, those not kept included.
    """

    judged: int = 0
    findings: int = 0


class Batch(msgspec.Struct):
    """What was done and seen for one batch size.

    :ivar size: pages in a batch.
    :ivar maps: map ioctls of that size.
    :ivar pages: pages that they mapped.
    :ivar checkpoints: checkpoints while that size was in progress.
    :ivar live: checkpoints judged by live memory.
    :ivar stream: checkpoints judged by the state stream.
    :ivar tags: entries proven by their own tag in guest RAM.
    :ivar entries: table entries compared, empty ones too.
    :ivar findings: findings at those checkpoints.
    """

    size: int
    maps: int = 0
    pages: int = 0
    checkpoints: int = 0
    live: int = 0
    stream: int = 0
    tags: int = 0
    entries: int = 0
    findings: int = 0

    def __add__(self, other: Batch) -> Batch:
        """The sum of two batches of the same size, on two guests."""
        pairs = zip(msgspec.structs.astuple(self)[1:], msgspec.structs.astuple(other)[1:], strict=True)
        return Batch(self.size, *(one + another for one, another in pairs))


class DmaCount(msgspec.Struct):
    """DMA transfers of devices. A transfer is judged in pieces, one for each IOMMU page.

    :ivar transfers: transfers that ended.
    :ivar allowed: pieces that passed.
    :ivar refused: pieces that were refused.
    :ivar reasons: refused pieces, by reason.
    :ivar control: devices of which QEMU's trace showed a refusal: proof that a refusal would be seen.
    """

    transfers: int = 0
    allowed: int = 0
    refused: int = 0
    reasons: dict[str, int] = {}
    control: list[str] = []


class LengthCount(msgspec.Struct):
    """Transfers of doorbells, of one class of lengths (`tcelab.program.lengths`).

    :ivar transfers: how many.
    :ivar refused: those of which a piece was refused.
    :ivar isolated: those that isolated their PE.
    """

    transfers: int = 0
    refused: int = 0
    isolated: int = 0


class Seconds(msgspec.Struct):
    """Cost of one part of the checkpoints.

    :ivar times: how often it was measured.
    :ivar median: median, seconds.
    :ivar worst: maximum, seconds.
    """

    times: int
    median: float
    worst: float


class PaprCount(msgspec.Struct):
    """What the law `papr` was judged on.

    :ivar calls: by name of the hypercall or of the firmware service, how often the guest asked, its boot included.
    :ivar programs: forbidden ones that programs asked for, which are no findings.
    :ivar off: parts of the program in which it was switched off.
    """

    calls: dict[str, int] = {}
    programs: int = 0
    off: int = 0


class LoopCount(msgspec.Struct):
    """Loops of the DMA API that were begun at once with others.

    :ivar loops: how many.
    :ivar met: how often one came into the kernel's allocator and found another one there, with the same table.
    :ivar beside: the same, with other tables.
    :ivar checked: entries that they read while they were mapped.
    """

    loops: int = 0
    met: int = 0
    beside: int = 0
    checked: int = 0

    def add(self, met: int, beside: int, checked: int) -> None:
        """Count one more."""
        self.loops += 1
        self.met += met
        self.beside += beside
        self.checked += checked


class RaceCount(msgspec.Struct):
    """What the law `races` was judged on.

    :ivar operations: maps and unmaps.
    :ivar points: at which the guest stood still, and probes reached for each page.
    :ivar calls: hypercalls, each with a point before it and one after it.
    :ivar reached: transfers that went through; `refused`: those that did not.
    :ivar large: maps and unmaps of too many pages, which were not raced.
    """

    operations: int = 0
    points: int = 0
    calls: int = 0
    reached: int = 0
    refused: int = 0
    large: int = 0


class Evidence(msgspec.Struct, kw_only=True):
    """What the verdict rests on.

    :ivar operations: operations done.
    :ivar checkpoints: checkpoints of the program that were judged.
    :ivar steps: snapshots judged, by view; those taken on suspicion are included.
    :ivar tags: live entries that lead to the tag of the page that was mapped.
    :ivar contents: live entries that lead to other bytes, as expected.
    :ivar entries: table entries compared, empty ones too, over all checkpoints and views.
    :ivar pages: unmapped buffer pages compared in guest RAM.
    :ivar disk: bytes of disks compared.
    :ivar told: mappings of probes compared with the tables; `untold`: entries of which a message cannot tell all: that
        they are write-only, or lead nowhere.
    :ivar twice: by probe, pieces of transfers that QEMU's table and the probe's own have both judged.
    :ivar pins: readings of the page-pin counters.
    :ivar dma: transfers of devices; `lengths`: those of doorbells, by class.
    :ivar loops: loops of the DMA API on several CPUs.
    :ivar papr: what the guest asked of its platform.
    :ivar races: transfers between two hypercalls.
    :ivar laws: what each law gave, by name.
    :ivar batches: what each batch size gave.
    :ivar quirks: declared quirks, and how often each made a difference.
    :ivar seconds: cost of each part of a checkpoint (as in `Snapshot.seconds`), and of `judge`.
    """

    operations: int = 0
    checkpoints: int = 0
    steps: dict[str, int] = {}
    tags: int = 0
    contents: int = 0
    entries: int = 0
    pages: int = 0
    disk: int = 0
    told: int = 0
    untold: int = 0
    twice: dict[str, int] = {}
    pins: int = 0
    dma: DmaCount = msgspec.field(default_factory=DmaCount)
    lengths: dict[str, LengthCount] = {}
    loops: LoopCount = msgspec.field(default_factory=LoopCount)
    papr: PaprCount = msgspec.field(default_factory=PaprCount)
    races: RaceCount = msgspec.field(default_factory=RaceCount)
    laws: dict[str, LawCount] = msgspec.field(default_factory=lambda: {law: LawCount() for law in LAW_NAMES})
    batches: list[Batch] = []
    quirks: dict[str, int] = {}
    seconds: dict[str, Seconds] = {}


def added(all_: Sequence[Evidence]) -> Evidence:
    """The sum of the evidence of several judgements, at least one. Counts are added; batches and the costs of
    checkpoints cannot be, and are left out.
    """
    plain = [msgspec.to_builtins(each) for each in all_]
    for each in plain:
        each["seconds"], each["batches"] = {}, []
        each["dma"]["control"] = []
    out = msgspec.convert(_sum(plain), Evidence)
    out.dma.control = list(dict.fromkeys(device for each in all_ for device in each.dma.control))
    return out


def _sum(values: Sequence[Any]) -> Any:  # noqa: ANN401 - numbers, and dicts of such
    first = values[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for each in values for key in each)
        return {key: _sum([each[key] for each in values if key in each]) for key in keys}
    return [] if isinstance(first, list) else sum(values)


class Verdict(msgspec.Struct, kw_only=True):
    """The verdict on a run.

    :ivar result: one of the three results.
    :ivar exit_code: 0 for `pass`, 1 for `finding`, 125 for `could-not-judge`.
    :ivar findings: the first findings, in order.
    :ivar could_not: why there is no pass although nothing was found.
    :ivar evidence: what was judged, and how much of it.
    :ivar more: findings that were counted and not kept.
    :ivar by_step: number of findings, by step and law, those not kept included.
    """

    result: Result
    exit_code: int
    findings: list[Finding]
    could_not: list[str]
    evidence: Evidence
    more: int = 0
    by_step: dict[int, dict[str, int]] = {}

    def found(self, begin: int, end: int) -> dict[str, int]:
        """Number of findings that the steps `begin .. end-1` gave, by law."""
        out: dict[str, int] = {}
        for step, laws in self.by_step.items():
            for law, count in laws.items() if begin <= step < end else ():
                out[law] = out.get(law, 0) + count
        return out
