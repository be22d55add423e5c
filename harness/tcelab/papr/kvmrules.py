"""The four TCE hypercalls as KVM answers them for a guest whose device is passed through.

The kernel keeps a table of its own, which the guest reads, and enters pages in the table of the machine beneath. What
is too hard for it, it hands to QEMU, which stores a TCE as it is and has VFIO map its page, with less distinction.
Checks are data as in `tcelab.papr.hcallrules`, and in the order of the source.

Source: Linux 6.12 arch/powerpc/kvm/book3s_64_vio.c and arch/powerpc/kernel/iommu.c; QEMU 10.0 hw/ppc/spapr_iommu.c and
hw/vfio/listener.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Final

import numpy as np

from tcelab.papr.hcallnumbers import (
    H_GET_TCE,
    H_PARAMETER,
    H_PUT_TCE,
    H_PUT_TCE_INDIRECT,
    H_STUFF_TCE,
    H_SUCCESS,
    LIST_MOST,
    LIST_PAGE,
)
from tcelab.papr.hcallrules import (
    LIOBN_TOO_WIDE,
    LIOBN_UNKNOWN,
    HypercallCheck,
    Hypercalls,
    TceRequest,
)
from tcelab.papr.tcetable import Table
from tcelab.papr.window import PAGE_SIZE

_VIO: Final = "arch/powerpc/kvm/book3s_64_vio.c"
_IOMMU: Final = "arch/powerpc/kernel/iommu.c"
_READ, _WRITE = 1, 2
_PERMISSIONS: Final = _READ | _WRITE
_OFFSET: Final = PAGE_SIZE - 1

Copies = MutableMapping[tuple[int, int], tuple[int, int]]
"""By LIOBN and entry: what the guest reads, and what the table beneath held then. An entry that is not here, or that
holds something else by now, reads as it is.
"""


def _ioba(name: str, fails: Callable[[TceRequest], bool]) -> HypercallCheck[TceRequest]:
    return HypercallCheck(name, fails, H_PARAMETER, f"{_IOMMU}, iommu_tce_check_ioba")


MISALIGNED: Final = _ioba("IOBA not aligned to a page", lambda request: request.ioba % PAGE_SIZE != 0)
OUTSIDE: Final = _ioba("IOBA outside the window", lambda request: request.index >= request.entries)
"""Of the first page alone; what follows is not compared with the window, and no program may have it."""
TOO_MANY: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "more pages than a list holds",
    lambda request: request.npages > LIST_MOST,
    H_PARAMETER,
    f"{_VIO}, kvmppc_h_put_tce_indirect",
)
LIST_MISALIGNED: Final[HypercallCheck[TceRequest]] = TOO_MANY._replace(
    name="list not aligned to 4 KiB", fails=lambda request: request.tce_list % LIST_PAGE != 0
)
WITH_PERMISSIONS: Final[HypercallCheck[TceRequest]] = HypercallCheck(
    "a TCE with permissions",
    lambda request: request.tce & _PERMISSIONS != 0,
    H_PARAMETER,
    f"{_VIO}, kvmppc_h_stuff_tce",
)

# A LIOBN that KVM does not know is too hard, and QEMU does not know it either.
_FIND: Final = (LIOBN_TOO_WIDE, LIOBN_UNKNOWN)

CHECKS: Final[Mapping[int, tuple[HypercallCheck[TceRequest], ...]]] = {
    H_GET_TCE: (*_FIND, MISALIGNED, OUTSIDE),
    H_PUT_TCE: (*_FIND, MISALIGNED, OUTSIDE),
    H_STUFF_TCE: (*_FIND, MISALIGNED, OUTSIDE, WITH_PERMISSIONS),
    H_PUT_TCE_INDIRECT: (*_FIND, TOO_MANY, LIST_MISALIGNED, MISALIGNED, OUTSIDE),
}


class KvmHypercalls(Hypercalls):
    """The platform's side of them; see `Hypercalls`."""

    def __init__(
        self,
        tables: Mapping[int, Table],
        read: Callable[[int, int], bytes],
        *,
        own: Callable[[int], bool],
        copies: Copies,
        checks: Mapping[int, Sequence[HypercallCheck[TceRequest]]] = CHECKS,
    ) -> None:
        """:param tables: of the machine beneath.
        :param own: is an address one of the guest's RAM?
        :param copies: kept from one call to the next.
        """
        super().__init__(tables, read, checks=checks)
        self._own, self._copies = own, copies

    def get(self, liobn: int, ioba: int) -> tuple[int, int]:
        """H_GET_TCE: from KVM's own table."""
        status, word = super().get(liobn, ioba)
        if status != H_SUCCESS:
            return status, word
        at = liobn, self._tables[liobn].index(ioba)
        copy, beneath = self._copies.get(at, (word, word))
        return status, copy if beneath == word else word

    def put(self, liobn: int, ioba: int, tce: int) -> int:
        """H_PUT_TCE."""
        request = TceRequest(self._tables, liobn, ioba)
        refused = self._refusal(H_PUT_TCE, request)
        if refused is not None:
            return refused.status
        self._enter(request, [tce], hard=self._hard(tce))
        return H_SUCCESS

    def stuff(self, liobn: int, ioba: int, tce: int, npages: int) -> int:
        """H_STUFF_TCE: nothing is entered beneath, whatever the TCE is."""
        request = TceRequest(self._tables, liobn, ioba, npages, tce=tce)
        refused = self._refusal(H_STUFF_TCE, request)
        if refused is not None:
            return refused.status
        self._enter(request, [tce] * npages, hard=False)
        return H_SUCCESS

    def indirect(self, liobn: int, ioba: int, tce_list: int, npages: int) -> int:
        """H_PUT_TCE_INDIRECT: all TCEs are looked at first; one that is too hard makes all of them so."""
        request = TceRequest(self._tables, liobn, ioba, npages, tce_list)
        refused = self._refusal(H_PUT_TCE_INDIRECT, request)
        if refused is not None:
            return refused.status
        words = [int(word) for word in np.frombuffer(self._read(tce_list, 8 * npages), ">u8")]
        if any(map(self._hard, words)):
            self._enter(request, words, hard=True)
            return H_SUCCESS
        # The address of each is looked up, also of one without permissions; those before it stay entered.
        good = next((number for number, word in enumerate(words) if not self._own(word & ~_OFFSET)), npages)
        self._enter(request, words[:good], hard=False, listed=True)
        return H_SUCCESS if good == npages else H_PARAMETER

    def _hard(self, tce: int) -> bool:
        """Too hard: with permissions, and no page of the guest's, or with further bits (kvmppc_tce_validate)."""
        address, bits = tce & ~_OFFSET, tce & _OFFSET
        return bool(bits & _PERMISSIONS) and (bool(bits & ~_PERMISSIONS) or not self._own(address))

    def _enter(self, request: TceRequest, words: Sequence[int], *, hard: bool, listed: bool = False) -> None:
        for number, word in enumerate(words, request.index):
            beneath = self._beneath(word, request.table.get(number), hard=hard, listed=listed)
            request.table.put(number, beneath)
            self._copies[request.table.liobn, number] = word, beneath

    def _beneath(self, word: int, before: int, *, hard: bool, listed: bool) -> int:
        """What the entry beneath is then."""
        address, bits = word & ~_OFFSET, word & _OFFSET
        if not bits & _PERMISSIONS:
            # kvmppc_h_put_tce_indirect maps each TCE, with whatever direction, and kvmppc_tce_to_ua keeps other bits.
            return word if listed and not hard else 0
        if not hard:
            return word
        # vfio_iommu_map_notify maps to be read, and to be written if it says so; what is no memory, not at all.
        return address | (_PERMISSIONS if bits & _WRITE else _READ) if self._own(address) else before
