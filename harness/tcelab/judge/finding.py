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
    "hypercalls",
    "views",
    "tag",
    "memory",
    "disk",
    "refusals",
    "isolation",
    "charges",
    "pins",
    "kernel",
    "difference",
    "evidence",
)
"""The laws, in the order of results: each is a file of `tcelab.judge.laws`, which says what it is."""


class Finding(msgspec.Struct, kw_only=True):
    """One broken law.

    :ivar law: one of `LAW_NAMES`.
    :ivar step: number of the program's operation at which it was seen.
    :ivar message: one line.
    :ivar ioba: bus address of the entry or access.
    :ivar expected: what the law demands, as text; TCEs as `papr.tce.describe` writes them.
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
    """How often a law was judged, and how many findings it gave (also those not shown)."""

    judged: int = 0
    findings: int = 0


class Batch(msgspec.Struct):
    """What was done and seen for one batch size.

    :ivar live: checkpoints judged by live memory.
    :ivar stream: checkpoints judged by the state stream.
    :ivar tags: entries proven by their own tag in guest RAM.
    :ivar entries: table entries compared, empty ones too.
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
        """Of the same size, on two guests."""
        pairs = zip(msgspec.structs.astuple(self)[1:], msgspec.structs.astuple(other)[1:], strict=True)
        return Batch(self.size, *(one + another for one, another in pairs))


class DmaCount(msgspec.Struct):
    """Device transfers, in page pieces; `control`: devices of which the watcher saw a refusal."""

    transfers: int = 0
    allowed: int = 0
    refused: int = 0
    reasons: dict[str, int] = {}
    control: list[str] = []


class Seconds(msgspec.Struct):
    """Cost of one part of the checkpoints."""

    times: int
    median: float
    worst: float


class Evidence(msgspec.Struct, kw_only=True):
    """What the verdict rests on.

    :ivar steps: checkpoints judged, per view (those taken on suspicion too).
    :ivar tags: live entries proven by their own tag; `contents`: by other expected bytes.
    :ivar entries: table entries compared, empty ones too, over all checkpoints and views.
    :ivar pages: buffer pages compared in guest RAM that no entry led to.
    :ivar disk: bytes of disks compared.
    :ivar pins: readings of the page-pin counters.
    :ivar quirks: declared quirks, and how often each made a difference.
    :ivar seconds: per part of `Snapshot.seconds`, and `judge`.
    """

    operations: int = 0
    checkpoints: int = 0
    steps: dict[str, int] = {}
    tags: int = 0
    contents: int = 0
    entries: int = 0
    pages: int = 0
    disk: int = 0
    pins: int = 0
    dma: DmaCount = msgspec.field(default_factory=DmaCount)
    laws: dict[str, LawCount] = msgspec.field(default_factory=lambda: {law: LawCount() for law in LAW_NAMES})
    batches: list[Batch] = []
    quirks: dict[str, int] = {}
    seconds: dict[str, Seconds] = {}


def added(all_: Sequence[Evidence]) -> Evidence:
    """The sum of what several judgements rest on, at least one: counts are added. Batches, and what checkpoints cost,
    are left out: they cannot be.
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
    """:ivar exit_code: of `result`, by `tcelab.run.exitcode`.

    :ivar findings: the first ones; `more` others were counted and not kept.
    :ivar by_step: by number of the step, how many findings of which law it gave, also those that were not kept.
    :ivar could_not: why there is no pass although nothing was found.
    """

    result: Result
    exit_code: int
    findings: list[Finding]
    could_not: list[str]
    evidence: Evidence
    more: int = 0
    by_step: dict[int, dict[str, int]] = {}

    def found(self, begin: int, end: int) -> dict[str, int]:
        """By law, how many findings the steps `begin .. end-1` gave."""
        out: dict[str, int] = {}
        for step, laws in self.by_step.items():
            for law, count in laws.items() if begin <= step < end else ():
                out[law] = out.get(law, 0) + count
        return out
