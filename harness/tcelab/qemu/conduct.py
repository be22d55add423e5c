"""What a guest asks of its platform: hypercalls that store many entries, and windows that are made, by QEMU's trace;
windows that are refused, which QEMU does not trace, by what the kernel prints on its console (at its level `info`, so
until the guest's init has it print warnings alone).

Not traced are single H_PUT_TCEs: the release of one window of 1 GiB makes 262,144 of them. QEMU drops the offset of an
H_STUFF_TCE's IOBA within its page before it traces it, refuses an H_PUT_TCE_INDIRECT of more than 512 entries without a
trace, and tells of a list its last entry only.

Sources: QEMU hw/ppc/trace-events (spapr_iommu_pci_stuff, _indirect, spapr_iommu_ddw_create); hw/ppc/spapr_rtas_ddw.c,
rtas_ibm_create_pe_dma_window (traces on success alone); Linux arch/powerpc/platforms/pseries/iommu.c, query_ddw and
create_ddw (their dev_info lines).
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from tcelab.papr import conductrules, window
from tcelab.papr.conductrules import CREATE, QUERY, Offer
from tcelab.run.conduct import Breach, Conduct

TRACES: Final = ("spapr_iommu_pci_stuff", "spapr_iommu_pci_indirect")
"""Trace events that are listened to besides those of windows."""
HCALLS: Final = "spapr_iommu_pci_"
"""In the names of all trace events of hypercalls on PCI tables."""
SAID: Final = "pe-dma-window"
"""In each line of the kernel about such a request."""
_ROOM: Final = 1 << 14
"""Different breaches between two snapshots that are told one by one; of further ones, not where they were."""

_HEX: Final = r"(?:0x)?([0-9a-f]+)"
_STUFF: Final = re.compile(rf"spapr_iommu_pci_stuff liobn={_HEX} ioba={_HEX} tcevalue={_HEX} npages=(\d+) ret=(-?\d+)")
_INDIRECT: Final = re.compile(
    rf"spapr_iommu_pci_indirect liobn={_HEX} ioba={_HEX} tcelist={_HEX} iobaN={_HEX} tceN={_HEX} ret=(-?\d+)"
)
_MADE: Final = re.compile(rf"spapr_iommu_ddw_create buid={_HEX} addr=\S+ page size={_HEX},? requested={_HEX},? start")
_QUERIED: Final = re.compile(
    rf"{QUERY}s?\([0-9a-f]+\) [0-9a-f]+ ([0-9a-f]+ [0-9a-f]+) returned (-?\d+), lb=([0-9a-f]+)"
    r" ps=([0-9a-f]+) wn=(\d+)"
)
_CREATED: Final = re.compile(
    rf"{CREATE}\([0-9a-f]+\) [0-9a-f]+ ([0-9a-f]+ [0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) returned (-?\d+)"
)
_MASK: Final = (1 << 64) - 1


class Heard:
    """What was heard of one guest. Lines come on the log's thread and on the loop; `take` is called by whoever has
    stopped the guest.

    :ivar shapes: of the windows that RTAS created, by LIOBN, as they are now.
    """

    def __init__(self) -> None:
        self.shapes: Mapping[int, window.Shape] = {}
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._breaches: Counter[Breach] = Counter()
        self._offers: dict[int, Offer] = {}
        self._boot, self._tell_boot = Conduct(), False

    def trace(self, line: str) -> None:
        """A line of QEMU's about tables."""
        with self._lock:
            if found := _STUFF.search(line):
                liobn, end, word = (int(each, 16) for each in found.groups()[:3])
                shift, entries = self._shift(liobn), int(found[4])
                # It tells the address behind the last entry, or of the one that it could not store.
                ioba = (end - (entries << shift)) & _MASK if found[5] == "0" else None
                self._stored("H_STUFF_TCE", liobn, ioba, entries, word)
            elif found := _INDIRECT.search(line):
                liobn, ioba, _, last, word = (int(each, 16) for each in found.groups()[:5])
                self._stored("H_PUT_TCE_INDIRECT", liobn, ioba, last + 1, word)
            elif found := _MADE.search(line):
                buid, page, size = (int(each, 16) for each in found.groups())
                offer = self._offers.get(buid)
                # How many are left, it may have asked without a word.
                self._asked(page.bit_length() - 1, size.bit_length() - 1, offer and offer._replace(windows=1))

    def said(self, line: str) -> None:
        """A line of the kernel's about windows."""
        with self._lock:
            if found := _QUERIED.search(line):
                self._calls[QUERY] += 1
                if found[2] == "0":
                    self._offers[_buid(found[1])] = Offer(int(found[5]), int(found[3], 16), int(found[4], 16))
            elif (found := _CREATED.search(line)) and found[4] != "0":  # of the others, the trace tells
                self._asked(int(found[2], 16), int(found[3], 16), self._offers.get(_buid(found[1])))

    def _asked(self, page_shift: int, window_shift: int, offer: Offer | None) -> None:
        self._calls[CREATE] += 1
        if why := conductrules.of_window(page_shift, window_shift, offer):
            self._broke(Breach(call=CREATE, why=why, page_shift=page_shift, window_shift=window_shift))

    def _stored(self, call: str, liobn: int, ioba: int | None, entries: int, word: int) -> None:
        self._calls[call] += 1
        shift = self._shift(liobn)
        if why := conductrules.of_call(ioba or 0, entries, word, shift):
            self._broke(Breach(call=call, why=why, liobn=liobn, ioba=ioba, entries=entries, page_shift=shift))

    def _broke(self, breach: Breach) -> None:
        if breach not in self._breaches and len(self._breaches) >= _ROOM:
            breach = Breach(call=breach.call, why=f"{breach.why} (among many)", liobn=breach.liobn)
        self._breaches[breach] += 1

    def _shift(self, liobn: int) -> int:
        shape = self.shapes.get(liobn)
        return window.PAGE_SHIFT if shape is None else shape.page_shift

    # -- what is made of it

    def booted(self) -> None:
        """All until now belongs to the boot, of which each program on this guest is told."""
        boot = self._take()
        boot.breaches = [(msgspec.structs.replace(breach, boot=True), times) for breach, times in boot.breaches]
        self._boot, self._tell_boot = boot, True

    def forked(self, boot: Conduct) -> None:
        """It is a fork, and this its base has heard. The console's lines of then are no news."""
        self._take()
        self._boot, self._tell_boot = boot, True

    @property
    def boot(self) -> Conduct:
        """What was heard of the boot."""
        return self._boot

    def renew(self) -> None:
        """Another program begins: it is told of the boot, and of nothing that the one before it did."""
        self._take()
        self._tell_boot = True

    def take(self) -> Conduct:
        """What was heard since the last call, or since another program began."""
        out = self._take()
        if self._tell_boot:
            out, self._tell_boot = _joined(self._boot, out), False
        return out

    def _take(self) -> Conduct:
        with self._lock:
            out = Conduct(calls=dict(self._calls), breaches=list(self._breaches.items()))
            self._calls.clear()
            self._breaches.clear()
        return out


def _joined(one: Conduct, another: Conduct) -> Conduct:
    breaches = Counter(dict(one.breaches)) + Counter(dict(another.breaches))
    calls = dict(Counter(one.calls) + Counter(another.calls))
    return Conduct(calls=calls, breaches=list(breaches.items()))


def _buid(halves: str) -> int:
    high, low = (int(each, 16) for each in halves.split())
    return high << 32 | low
