"""What happened: the record that a run leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tceagent.huge import HUGE_PAGE
from tcelab.errors import Scene, TcelabError
from tcelab.program import Op, Program
from tcelab.run.conduct import Conduct
from tcelab.run.points import Race

ViewName = Literal["live", "stream", "messages", "emulator"]
Guarding = Literal["freeze", "observe", "off"]
"""What is done about violations: `freeze` isolates the PE, `observe` only reports, `off` does not look."""
KERNELS_LOG: Final = "kernel's log"
"""Among what a platform cannot give, see `Facts`: what the kernel says of itself."""
Direction = Literal["read", "write"]
"""The device's: it reads or writes memory."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a PE during an operation, as the guard of the PEs saw it.

    :ivar kind: `isolated`: a violation that isolated the PE; `violation`: one that did not, because the guard only
        observes; `blocked`: an access of a PE whose DMA is stopped; `reapplied`: the guest enabled bus mastering of a
        device of an isolated PE, and the guard disabled it again; `unblamed`: a refused access that no PE can be blamed
        for.
    :ivar pe: index of its PHB; -1 when nobody is to blame.
    :ivar liobn: LIOBN of the table that refused the access.
    :ivar device: name of the device.
    :ivar iova: the first bus address that was refused; 0 for `reapplied`.
    :ivar start: first bus address of the whole transfer.
    :ivar size: bytes of the whole transfer.
    :ivar direction: `read`: the device read from guest RAM; `write`: it wrote to it.
    :ivar reason: one of `papr.dmarules.REASONS`; for `unblamed`, why nobody can be blamed.
    :ivar entry: the table's entry at that moment: 0 if it was empty, None outside the window.
    :ivar neighbours: the entries before and after it, where the table has them.
    :ivar count: how many equal events this operation caused, this one included.
    :ivar at: seconds since the session began; for `isolated`, the time of the first refusal.
    :ivar took: seconds from then until the PE was isolated, or bus mastering was disabled again.
    """

    kind: Literal["isolated", "violation", "blocked", "reapplied", "unblamed"]
    pe: int
    liobn: int = 0
    device: str = ""
    iova: int = 0
    start: int = 0
    size: int = 0
    direction: Literal["", "read", "write"] = ""
    reason: str = ""
    entry: int | None = None
    neighbours: list[int] = []
    count: int = 1
    at: float = 0.0
    took: float = 0.0


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Messages to a probe in a row: `count` of `size` bytes each, the first about `address`, each next one about what
    follows. :ivar maps: DMA_MAP, otherwise DMA_UNMAP.
    """

    maps: bool
    address: int
    size: int
    count: int


class Apart(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a probe's transfer that QEMU's table and the probe's own judge differently: errnos, 0 is allowed."""

    address: int
    size: int
    to_memory: bool
    theirs: int
    own: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one operation gave.

    :ivar value: what the call returned, None if it failed with an errno.
    :ivar errno: its name (`"EPERM"`), empty if none.
    :ivar fields: output struct fields, or what the operation reports.
    :ivar frames: guest physical address of each IOMMU page (4 KiB) that the operation concerned.
    :ivar events: events of PEs meanwhile, in order; only with a guard.
    :ivar told: messages that each probe got meanwhile, in order; None: nobody listened.
    :ivar apart: pieces of each probe's transfers meanwhile that were judged in two ways.
    :ivar race: its points, if it was raced.
    """

    value: int | None = None
    errno: str = ""
    fields: dict[str, Any] = {}
    frames: list[int] = []
    events: list[Event] = []
    told: dict[str, list[Run]] | None = None
    apart: dict[str, list[Apart]] = {}
    race: Race | None = None


@dataclass(frozen=True, slots=True)
class TableView:
    """One TCE table as one view saw it: only the entries that are not zero.

    :ivar entries: number of entries of the table, 0 when the window is not active.
    :ivar index: their entry numbers, ascending (shape (n,), uint32).
    :ivar tce: their values in host order (shape (n,), uint64).
    :ivar default: it is marked as the PE's default window; None: this view does not show it.
    """

    liobn: int
    view: ViewName
    entries: int
    index: npt.NDArray[np.uint32]
    tce: npt.NDArray[np.uint64]
    page_shift: int = 12
    bus_offset: int = 0
    default: bool | None = None

    def ioba(self, number: int) -> int:
        """Bus address of an entry."""
        return self.bus_offset + (number << self.page_shift)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One access that QEMU says it refused. `direction` is the device's: it reads or writes memory.

    :ivar address: as QEMU reports it: within a window, the offset from its start; see
        `tcelab.papr.dmarules.Piece.told`.
    :ivar size: bytes; in a storm, the sum of all accesses to one page from `address` on.
    """

    direction: Literal["read", "write"]
    address: int
    size: int
    line: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a probe, a device on the host, was told of its PE's windows, message by message, up to now.

    :ivar live: bus address of each mapping to (address in guest RAM, permissions, bytes). Permissions are bits as in a
        TCE; that a device may not read cannot be told: the bit is always set.
    :ivar messages: how many there were since the machine's start.
    :ivar judged: pieces of transfers since then that QEMU's table and the probe's own have both judged.
    """

    device: str
    pe: int
    live: dict[int, tuple[int, int, int]]
    messages: int
    judged: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the host saw while the guest was stopped.

    :ivar missing: views that were requested and are missing, and why.
    :ivar pages: guest physical address of an IOMMU page to its bytes, `tag.compact`ed: every page that a live entry
        leads to (None: not in guest RAM), and every page of the program's buffers.
    :ivar refusals: refusals in QEMU's log since the previous snapshot.
    :ivar disks: all that is on each disk, by device.
    :ivar seconds: what each part of the snapshot took.
    :ivar conduct: None: nobody listens.
    :ivar told: what each probe was told.
    """

    tables: tuple[TableView, ...]
    missing: dict[str, str]
    pages: dict[int, bytes | None]
    refusals: tuple[Refusal, ...]
    console: tuple[str, ...] = ()
    disks: Mapping[str, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    conduct: Conduct | None = None
    told: tuple[Told, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the program, done.

    :ivar confirmed: a second snapshot, taken with every view on suspicion.
    :ivar boot: number of the guest's boot after it, from 1 on: of kernels that came after its first one.
    """

    number: int
    op: Op
    outcome: Outcome | None = None
    snapshot: Snapshot | None = None
    confirmed: Snapshot | None = None
    boot: int = 1


@dataclass(frozen=True, slots=True)
class QuirkHit:
    """A quirk that made a difference.

    :ivar lost: (LIOBN, entry) of entries that it emptied although the operation failed.
    """

    quirk: str
    lost: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a session is: constant over the run.

    :ivar nonce: 16 bytes, fresh for each session; part of every tag.
    :ivar page_size: bytes of a CPU page of the kernel under test.
    :ivar ram: bytes of guest RAM.
    :ivar cannot: what this platform cannot give, and why: views, mostly.
    :ivar versions: versions of kernel, QEMU and so on, for the result.
    :ivar views: the platform's views of its tables; the first one is used at every checkpoint. None: nobody looks from
        outside, and a checkpoint shows what the kernel said, at most.
    :ivar behaviour_only: laws that need no view from outside are all that is asked for.
    :ivar unlike: devices that are of another model than the topology says, which no program can drive.
    :ivar profile: profile of the emulator that the driver under test is compared with.
    :ivar quirks: known defects that are declared for its kernel.
    :ivar isolates: the platform is to isolate a PE for a violation; `guard`: what tcelab does for it.
    :ivar impossible: events in the life of a table that it cannot do, by the operation's name, and why; likewise the
        programs that it has not, by theirs (`consent`).
    :ivar usable: bytes of RAM that the kernel may use, 0: all; `limit`: MiB that firmware says RAM may grow to, None:
        nobody has asked.
    :ivar direct: LIOBNs of windows in which the kernel maps all RAM.
    :ivar papr: what it asks of its platform is listened to; else why not.
    :ivar hypercalls: programs may make hypercalls; `drivers`: they may use the kernel's DMA API; `huge`: bytes of a
        huge page, 0: they may have no buffers in huge pages.
    """

    platform: str
    nonce: bytes
    page_size: int
    ram: int
    cannot: dict[str, str]
    versions: dict[str, Any]
    views: tuple[ViewName, ...] = ("live", "stream")
    profile: str = "linux-v1"
    quirks: frozenset[str] = frozenset()
    isolates: bool = False
    guard: Guarding = "off"
    hypercalls: bool = False
    drivers: bool = False
    huge: int = HUGE_PAGE
    behaviour_only: bool = False
    unlike: frozenset[str] = frozenset()
    impossible: dict[str, str] = field(default_factory=dict)
    usable: int = 0
    limit: int | None = None
    direct: frozenset[int] = frozenset()
    papr: Literal["heard", "off", "unheard"] = "unheard"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended other than by its last operation.

    :ivar in_flight: number of the program's operation that was begun and not finished, if known.
    """

    error: TcelabError
    in_flight: int | None

    @property
    def scene(self) -> Scene:
        return self.error.scene


@dataclass(frozen=True, slots=True)
class Parting:
    """What was left when the QEMU that ran the guest had ended, inside a guest that goes on.

    :ivar signal: that ended it; `problem`: why it did not end as it must, empty if it did.
    :ivar tables: of the machine beneath, then.
    :ivar pins: page pins of the kernel beneath, then; `before`: before the QEMU began.
    :ivar trouble: what that kernel said meanwhile.
    """

    signal: str
    problem: str
    tables: tuple[TableView, ...]
    pins: int
    before: int
    trouble: tuple[str, ...]


@dataclass(slots=True)
class RunRecord:
    """What happened.

    :ivar trouble: lines of kernel trouble after the last snapshot.
    :ivar parting: what the guest left, if it was ended and looked for.
    """

    program: Program
    facts: Facts
    steps: list[Step] = field(default_factory=list)
    ending: Ending | None = None
    trouble: tuple[str, ...] = ()
    parting: Parting | None = None
