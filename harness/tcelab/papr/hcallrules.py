"""The four TCE hypercalls, as QEMU's pseries machine answers them without KVM.

The checks before a hypercall does its work are data: `DISPATCH` for all hypercalls, then `CHECKS` for each, in the
order of the source, for comparison line by line.

Source: QEMU 10 hw/ppc/spapr_iommu.c, hw/ppc/spapr_hcall.c, hw/ppc/spapr.c, include/hw/ppc/spapr.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np

from tcelab.papr.hcallnumbers import (
    H_FUNCTION,
    H_GET_TCE,
    H_PARAMETER,
    H_PRIVILEGE,
    H_PUT_TCE,
    H_PUT_TCE_INDIRECT,
    H_STUFF_TCE,
    H_SUCCESS,
    LIST_MOST,
    LIST_PAGE,
    OPCODES,
)
from tcelab.papr.tcetable import Table


class IncomingCall(NamedTuple):
    """A hypercall as it comes in."""

    opcode: int
    problem_state: bool


class TceRequest:
    """A TCE hypercall with its table found.

    :ivar known: whether the LIOBN names a table. If not, `table`, `entries` and `index` are not there.
    :ivar index: number of the first entry; not below `entries` when it is outside the window.
    :ivar npages: number of entries, 1 for H_GET_TCE and H_PUT_TCE.
    :ivar tce_list: real address of the list of H_PUT_TCE_INDIRECT; `tce`: that of H_STUFF_TCE, where it matters.
    """

    __slots__ = ("entries", "index", "ioba", "known", "liobn", "npages", "table", "tce", "tce_list")

    table: Table
    entries: int
    index: int

    def __init__(  # noqa: PLR0917 - registers
        self, tables: Mapping[int, Table], liobn: int, ioba: int, npages: int = 1, tce_list: int = 0, tce: int = 0
    ) -> None:
        self.liobn, self.ioba, self.tce = liobn, ioba, tce
        self.npages = npages
        self.tce_list = tce_list
        # As in QEMU, only the width check keeps a wider LIOBN from naming the table of its lower 32 bits.
        table = tables.get(liobn & 0xFFFFFFFF)
        self.known = table is not None
        if table is not None:
            self.table = table
            self.entries = table.entries
            self.index = table.index(ioba)


T = TypeVar("T")


class HypercallCheck(NamedTuple, Generic[T]):
    """One reason to refuse.

    :ivar fails: whether the check refuses a call that passed all checks before it.
    :ivar source: QEMU file and function.
    :ivar partial: the entries inside the window are stored nevertheless.
    """

    name: str
    fails: Callable[[T], bool]
    status: int
    source: str
    partial: bool = False


IOMMU: Final = "hw/ppc/spapr_iommu.c"

PROBLEM_STATE: Final[HypercallCheck[IncomingCall]] = HypercallCheck(
    "called from problem state",
    lambda entry: entry.problem_state,
    H_PRIVILEGE,
    "hw/ppc/spapr.c, emulate_spapr_hypercall",
)
NO_SUCH_HYPERCALL: Final[HypercallCheck[IncomingCall]] = HypercallCheck(
    "no hypercall has this opcode",
    lambda entry: entry.opcode not in OPCODES,
    H_FUNCTION,
    "hw/ppc/spapr_hcall.c, spapr_hypercall",
)

LIOBN_TOO_WIDE: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "LIOBN of more than 32 bits",
    lambda request: request.liobn >> 32 != 0,
    H_PARAMETER,
    f"{IOMMU}, spapr_tce_find_by_liobn",
)
LIOBN_UNKNOWN: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "LIOBN names no table",
    lambda request: not request.known,
    H_PARAMETER,
    f"{IOMMU}, spapr_tce_find_by_liobn",
)
STUFF_TOO_MANY: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "more pages than the table has entries",
    lambda request: request.npages > request.entries,
    H_PARAMETER,
    f"{IOMMU}, h_stuff_tce",
)
STUFF_NONE: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "no pages",  # the loop over them is what sets H_SUCCESS
    lambda request: request.npages == 0,
    H_PARAMETER,
    f"{IOMMU}, h_stuff_tce",
)
INDIRECT_TOO_MANY: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "more pages than a list holds",
    lambda request: request.npages > LIST_MOST,
    H_PARAMETER,
    f"{IOMMU}, h_put_tce_indirect",
)
LIST_MISALIGNED: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "list not aligned to 4 KiB",
    lambda request: request.tce_list % LIST_PAGE != 0,
    H_PARAMETER,
    f"{IOMMU}, h_put_tce_indirect",
)
INDIRECT_NONE: Final[HypercallCheck[TceRequest]] = STUFF_NONE._replace(source=f"{IOMMU}, h_put_tce_indirect")
OUTSIDE_GET: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "IOBA outside the window",
    lambda request: request.index >= request.entries,
    H_PARAMETER,
    f"{IOMMU}, get_tce_emu",
)
OUTSIDE_PUT: Final[HypercallCheck[TceRequest]] = OUTSIDE_GET._replace(source=f"{IOMMU}, put_tce_emu")
PAST_THE_END: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "a page outside the window",  # asked at each page in turn: those before the first one outside are stored
    lambda request: request.index + request.npages > request.entries,
    H_PARAMETER,
    f"{IOMMU}, put_tce_emu",
    partial=True,
)

DISPATCH: Final = (PROBLEM_STATE, NO_SUCH_HYPERCALL)

CHECKS: Final[Mapping[int, tuple[HypercallCheck[TceRequest], ...]]] = {
    H_GET_TCE: (LIOBN_TOO_WIDE, LIOBN_UNKNOWN, OUTSIDE_GET),
    H_PUT_TCE: (LIOBN_TOO_WIDE, LIOBN_UNKNOWN, OUTSIDE_PUT),
    H_STUFF_TCE: (LIOBN_TOO_WIDE, LIOBN_UNKNOWN, STUFF_TOO_MANY, STUFF_NONE, PAST_THE_END),
    H_PUT_TCE_INDIRECT: (
        LIOBN_TOO_WIDE,
        LIOBN_UNKNOWN,
        INDIRECT_TOO_MANY,
        LIST_MISALIGNED,
        INDIRECT_NONE,
        PAST_THE_END,
    ),
}


class Hypercalls:
    """The platform's side of `sc 1`, for the TCE hypercalls.

    All numbers are registers: 0 .. 2**64 - 1.
    """

    def __init__(
        self,
        tables: Mapping[int, Table],
        read: Callable[[int, int], bytes],
        *,
        dispatch: Sequence[HypercallCheck[IncomingCall]] = DISPATCH,
        checks: Mapping[int, Sequence[HypercallCheck[TceRequest]]] = CHECKS,
    ) -> None:
        """:param tables: by LIOBN, also those of windows that are not active; looked up at each call.
        :param read: that many bytes of the guest's memory from a real address on, zeros where there is no RAM.
        """
        self._tables = tables
        self._read = read
        self._dispatch = dispatch
        self._checks = checks

    def call(self, opcode: int, args: tuple[int, ...], *, problem_state: bool = False) -> tuple[int, tuple[int, ...]]:
        """Any hypercall: its status (r3), and the registers from r4 on as they are after it.

        :param args: the registers from r4 on: as many as the hypercall takes, or more. They come back as they are; only
            an H_GET_TCE that succeeds changes one, the first.
        """
        entry = IncomingCall(opcode, problem_state)
        for check in self._dispatch:
            if check.fails(entry):
                return check.status, args
        if opcode == H_GET_TCE:
            status, r4 = self.get(args[0], args[1])
            return status, (r4, *args[1:])
        if opcode == H_PUT_TCE:
            return self.put(*args[:3]), args
        if opcode == H_STUFF_TCE:
            return self.stuff(*args[:4]), args
        return self.indirect(*args[:4]), args

    def get(self, liobn: int, ioba: int) -> tuple[int, int]:
        """H_GET_TCE: status and r4, which is the TCE, or still the LIOBN when it fails."""
        request = TceRequest(self._tables, liobn, ioba)
        refused = self._refusal(H_GET_TCE, request)
        if refused is not None:
            return refused.status, liobn
        return H_SUCCESS, request.table.get(request.index)

    def put(self, liobn: int, ioba: int, tce: int) -> int:
        """H_PUT_TCE: any TCE is stored as it is."""
        request = TceRequest(self._tables, liobn, ioba)
        refused = self._refusal(H_PUT_TCE, request)
        if refused is not None:
            return refused.status
        request.table.put(request.index, tce)
        return H_SUCCESS

    def stuff(self, liobn: int, ioba: int, tce: int, npages: int) -> int:
        """H_STUFF_TCE: one TCE into many entries."""
        request = TceRequest(self._tables, liobn, ioba, npages)
        refused = self._refusal(H_STUFF_TCE, request)
        if refused is None or refused.partial:
            request.table.fill(request.index, npages, tce)
        return H_SUCCESS if refused is None else refused.status

    def indirect(self, liobn: int, ioba: int, tce_list: int, npages: int) -> int:
        """H_PUT_TCE_INDIRECT: a list in the guest's memory, big-endian, into as many entries."""
        request = TceRequest(self._tables, liobn, ioba, npages, tce_list)
        refused = self._refusal(H_PUT_TCE_INDIRECT, request)
        if refused is None or refused.partial:
            tces = np.frombuffer(self._read(tce_list, 8 * npages), ">u8")
            request.table.store(request.index, tces.astype(np.uint64))
        return H_SUCCESS if refused is None else refused.status

    def _refusal(self, opcode: int, request: TceRequest) -> HypercallCheck[TceRequest] | None:
        for check in self._checks[opcode]:
            if check.fails(request):
                return check
        return None


class QemuDifference(NamedTuple):
    """A case in which QEMU's answer differs from PAPR's or KVM's.

    :ivar whose: "PAPR" or "KVM".
    :ivar theirs: what PAPR or KVM does.
    :ivar source: PAPR section, or kernel file and function.
    """

    case: str
    whose: str
    theirs: str
    qemu: str
    source: str


_VIO: Final = "arch/powerpc/kvm/book3s_64_vio.c"

PAPR_DIFFERENCES: Final = (
    QemuDifference(
        "PUT of a page that is not the partition's",
        "PAPR",
        "H_PARAMETER",
        "stored, H_SUCCESS",
        "PAPR, H_PUT_TCE; so H_STUFF_TCE and H_PUT_TCE_INDIRECT",
    ),
    QemuDifference(
        "GET of an entry that leads out of the partition",
        "PAPR",
        "H_PARTIAL, all ones in place of the page number",
        "the TCE as it is, H_SUCCESS",
        "PAPR, H_GET_TCE",
    ),
    QemuDifference(
        "STUFF of more than 512 pages", "PAPR", "H_P4", "allowed up to the table's size", "PAPR, H_STUFF_TCE"
    ),
    QemuDifference(
        "STUFF past the window's end",
        "PAPR",
        "H_PARAMETER, nothing stored",
        "H_PARAMETER, stored up to the end",
        "PAPR, H_STUFF_TCE",
    ),
    QemuDifference("STUFF of no pages", "PAPR", "H_SUCCESS, as KVM", "H_PARAMETER", "PAPR, H_STUFF_TCE"),
    QemuDifference(
        "INDIRECT past the window's end",
        "PAPR",
        "H_PARAMETER, nothing stored",
        "H_PARAMETER, stored up to the end",
        "PAPR, H_PUT_TCE_INDIRECT",
    ),
    QemuDifference(
        "INDIRECT with one bad TCE in the list",
        "PAPR",
        "H_PARAMETER, nothing stored: all are looked at first",
        "all stored, H_SUCCESS",
        "PAPR, H_PUT_TCE_INDIRECT",
    ),
    QemuDifference(
        "INDIRECT with a list outside RAM",
        "PAPR",
        "H_PARAMETER",
        "zeros stored, H_SUCCESS",
        "PAPR, H_PUT_TCE_INDIRECT",
    ),
    QemuDifference("INDIRECT of no pages", "PAPR", "H_SUCCESS, as KVM", "H_PARAMETER", "PAPR, H_PUT_TCE_INDIRECT"),
    QemuDifference(
        "INDIRECT with a negative LIOBN, a count of LIOBNs in the list",
        "PAPR",
        "H_FUNCTION without the multi-TCE-table option",
        "H_PARAMETER: a LIOBN of more than 32 bits",
        "PAPR, H_PUT_TCE_INDIRECT",
    ),
    QemuDifference(
        "IOBA not aligned to a page",
        "KVM",
        "H_PARAMETER",
        "rounded down",
        "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba",
    ),
    QemuDifference(
        "STUFF of a TCE with permissions",
        "KVM",
        "H_PARAMETER",
        "stored, H_SUCCESS",
        f"{_VIO}, kvmppc_h_stuff_tce",
    ),
)
"""KVM passes the hypercalls that the kernel cannot handle to QEMU, with QEMU's rules: an unknown LIOBN, a page that is
not the guest's, an unreadable list. So in some cases marked PAPR, KVM behaves like QEMU.
"""
