"""What a leak check found: plain data that goes into `result.json`."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

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

    :ivar seconds: after the baseline; negative: before it.
    :ivar ioba: of the first entry of the call, which has `entries`; `number`: of the entry within it, from 1.
    """

    hypercall: str
    seconds: float
    ioba: int
    entries: int
    number: int


class LeakFinding(Finding, kw_only=True):
    """One broken law, or entry that stayed. There is no program, and so no step.

    :ivar law: a name of `LAWS`.
    :ivar device: in whose table it is; empty for another PE's.
    :ivar origin: None: unknown, or stored before anybody looked.
    :ivar outlived: the entry outlived the driver as well.
    """

    step: int = 0
    device: str = ""
    tce: int | None = None
    origin: Origin | None = None
    outlived: bool = False


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """Hypercalls of one kind and size on one table, in one phase."""

    phase: Phase
    liobn: int
    hypercall: str
    entries: int
    calls: int


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """TCEs that the trace told, by their permissions."""

    phase: Phase
    liobn: int
    permissions: str
    tces: int


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Hypercalls that failed, by what they returned."""

    phase: Phase
    liobn: int
    status: int
    calls: int


class AskedMappings(msgspec.Struct, frozen=True, kw_only=True):
    """Mappings that drivers got of the DMA API, by what they asked for. `direction`: without the DMA_."""

    liobn: int
    direction: str
    mappings: int


class TableAt(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries a table held.

    :ivar exchanged: entries of the baseline that others have taken the place of.
    """

    liobn: int
    device: str
    baseline: int = 0
    after: int = 0
    exchanged: int = 0
    unbound: int = 0


class LeakResult(ResultFile, kw_only=True):
    """Of a leak check. The verdict is the judge's, but its parts stand beside the others.

    :ivar command: as it was typed; `status`: its exit status, None if it did not end.
    :ivar output: its last lines.
    :ivar tables: of each LIOBN that ever held an entry, and of each device.
    :ivar views: entries compared, by what with live memory: the state stream, the replay of the trace. `asked
        stored` and `asked live`: entries of the trace and of live memory that were held against what drivers asked for.
    :ivar verdict: nobody has judged until somebody has.
    :ivar judged: the check came to its end.
    :ivar could_not: why there is no pass although nothing was found.
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
    laws: dict[str, str] = msgspec.field(default_factory=lambda: dict(LAWS))

    def conclude(self) -> Verdict:
        """The judge's verdict on what was found and seen so far; from now on it is the result's."""
        could_not = self.could_not or ([] if self.judged else ["the check did not come to its end"])
        verdict = of_findings(self.findings, could_not, self.laws if self.judged else ())
        self.verdict, self.exit_code, self.could_not = verdict.result, verdict.exit_code, verdict.could_not
        return verdict
