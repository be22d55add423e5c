"""What a leak check found: plain data that goes into `result.json`."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from tcelab.coverage.result import Coverage
from tcelab.judge import Finding, Verdict
from tcelab.judge.verdict import of_findings
from tcelab.run import exitcode
from tcelab.run.resultfile import ResultFile

LAWS: Final = {
    "leak": "no entry made after the baseline stays, unless it replaces one of the baseline",
    "unbind": "the table of a device is empty once its driver is unbound",
    "memory": "each TCE leads to RAM that the kernel was given",
    "permission": "each TCE of the DMA API lets the device read, and holds nothing but address and permissions",
    "direction": "each TCE of the DMA API gives what its driver asked for: read to the device, write from it, or both",
    "shared": "no two mappings share an entry: an entry is removed before another is stored in its place",
    "limit": "no hypercall that the kernel makes names more than 512 entries, or is refused",
    "refusals": "QEMU refused no access of a device",
    "kernel": "no WARN, BUG, Oops or panic",
}
"""Name of each law and what it says. That an entry always lets the device read: the kernel's
arch/powerpc/platforms/pseries/iommu.c, tce_build_pSeriesLP and tce_buildmulti_pSeriesLP (TCE_PCI_READ, and
TCE_PCI_WRITE unless the direction is to the device). 512: PAPR, H_PUT_TCE_INDIRECT and H_STUFF_TCE; firmware refuses
more (Linux 9d2ccf00bddc)."""

Phase = Literal["bind", "command", "unbind"]
PHASES: Final[tuple[Phase, ...]] = ("bind", "command", "unbind")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The hypercall that stored an entry.

    :ivar hypercall: its name.
    :ivar seconds: seconds after the baseline; negative: before it.
    :ivar ioba: bus address of the first entry that the call stored.
    :ivar entries: how many entries the call stored.
    :ivar number: number of this entry among them, from 1.
    """

    hypercall: str
    seconds: float
    ioba: int
    entries: int
    number: int


class LeakFinding(Finding, kw_only=True):
    """One broken law, or one entry that stayed.

    :ivar law: a name of `LAWS`.
    :ivar step: always 0: there is no program, and so no step.
    :ivar device: the device whose table holds the entry; empty for the table of another PE.
    :ivar tce: the TCE, None if the finding is about none.
    :ivar origin: the hypercall that stored it; None if unknown, or stored before the trace began.
    :ivar outlived: the entry was still there after the driver was unbound.
    """

    step: int = 0
    device: str = ""
    tce: int | None = None
    origin: Origin | None = None
    outlived: bool = False


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """Hypercalls of one kind and size on one table, in one phase.

    :ivar phase: `bind` of the driver, the `command`, or `unbind`.
    :ivar liobn: LIOBN of the table.
    :ivar hypercall: its name.
    :ivar entries: entries that each such call names.
    :ivar calls: how many such calls there were.
    """

    phase: Phase
    liobn: int
    hypercall: str
    entries: int
    calls: int


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """TCEs of QEMU's trace, by their permissions.

    :ivar phase: as above.
    :ivar liobn: LIOBN of the table.
    :ivar permissions: what the TCE lets the device do, in words.
    :ivar tces: how many such TCEs were stored.
    """

    phase: Phase
    liobn: int
    permissions: str
    tces: int


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Hypercalls that failed, by their status.

    :ivar phase: as above.
    :ivar liobn: LIOBN of the table.
    :ivar status: what they returned.
    :ivar calls: how many there were.
    """

    phase: Phase
    liobn: int
    status: int
    calls: int


class AskedMappings(msgspec.Struct, frozen=True, kw_only=True):
    """Mappings that drivers requested from the DMA API.

    :ivar liobn: LIOBN of the table.
    :ivar direction: DMA direction that was requested, without the prefix `DMA_`.
    :ivar mappings: how many there were.
    """

    liobn: int
    direction: str
    mappings: int


class TableAt(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries a table held.

    :ivar liobn: LIOBN of the table.
    :ivar device: the device that it belongs to; empty for the table of another PE.
    :ivar baseline: live entries at the baseline.
    :ivar after: live entries after the command.
    :ivar exchanged: entries of the baseline that were replaced by others.
    :ivar unbound: live entries after the driver was unbound.
    """

    liobn: int
    device: str
    baseline: int = 0
    after: int = 0
    exchanged: int = 0
    unbound: int = 0


class LeakResult(ResultFile, kw_only=True):
    """The result of a leak check.

    :ivar verdict: one of the three answers; `could-not-judge` until the check has ended.
    :ivar exit_code: 0 for `pass`, 1 for `finding`, 125 for `could-not-judge`.
    :ivar command: the command, as it was typed.
    :ivar status: exit status of the command, None if it did not end.
    :ivar output: the last lines that the command printed.
    :ivar judged: the check came to its end.
    :ivar findings: the findings, in order.
    :ivar could_not: why there is no pass although nothing was found.
    :ivar tables: one row for each LIOBN that ever held an entry, and for each device.
    :ivar calls: the hypercalls, counted.
    :ivar permissions: the TCEs by permissions, counted.
    :ivar refused: the hypercalls that failed, counted.
    :ivar asked: the mappings that drivers requested, counted.
    :ivar views: entries compared with live memory, by view: the state stream, the replay of the trace. `asked stored`
        and `asked live`: entries of the trace, and of live memory, compared with what drivers requested.
    :ivar coverage: what was executed of the kernel; null unless `--coverage` was given.
    """

    verdict: exitcode.Result = "could-not-judge"
    exit_code: int = exitcode.COULD_NOT_JUDGE
    command: str
    status: int | None = None
    output: list[str] = msgspec.field(default_factory=list)
    judged: bool = False
    findings: list[LeakFinding] = msgspec.field(default_factory=list)
    could_not: list[str] = msgspec.field(default_factory=list)
    tables: list[TableAt] = msgspec.field(default_factory=list)
    calls: list[Calls] = msgspec.field(default_factory=list)
    permissions: list[Permissions] = msgspec.field(default_factory=list)
    refused: list[Refused] = msgspec.field(default_factory=list)
    asked: list[AskedMappings] = msgspec.field(default_factory=list)
    views: dict[str, int] = msgspec.field(default_factory=dict)
    coverage: Coverage | None = None
    laws: dict[str, str] = msgspec.field(default_factory=lambda: dict(LAWS))

    def conclude(self) -> Verdict:
        """The judge's verdict on what was found and seen so far; from now on it is the result's."""
        could_not = self.could_not or ([] if self.judged else ["the check did not come to its end"])
        verdict = of_findings(self.findings, could_not, self.laws if self.judged else ())
        self.verdict, self.exit_code, self.could_not = verdict.result, verdict.exit_code, verdict.could_not
        return verdict
