"""The TCE hypercalls as QEMU's pseries machine answers them without KVM: rows of their own kind.

A table is what it holds beside zeros: IOBA to TCE. A list lies in RAM, as big-endian doublewords.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from rows.row import END, LAST, PAGE, PE1, PE2

Table: TypeAlias = Mapping[int, int]

H_SUCCESS: Final = 0
H_FUNCTION: Final = -2
H_PRIVILEGE: Final = -3
H_PARAMETER: Final = -4

QEMU: Final = "QEMU hw/ppc/spapr_iommu.c"
PUT: Final = f"{QEMU}, h_put_tce"
GET: Final = f"{QEMU}, h_get_tce"
STUFF: Final = f"{QEMU}, h_stuff_tce"
INDIRECT: Final = f"{QEMU}, h_put_tce_indirect"
FIND: Final = f"{QEMU}, spapr_tce_find_by_liobn"
STORE: Final = f"{QEMU}, put_tce_emu"
PRIVILEGE: Final = "QEMU hw/ppc/spapr.c, emulate_spapr_hypercall"

NO_LIOBN: Final = 0x80000F00
WIDE: Final = 0x180000100
"""Its lower half is PE1."""
SECOND: Final = 0x80000101
"""PE1's second window: there is a table, without any entry."""
LIST: Final = 0x20000
"""A real address in RAM."""
NO_RAM: Final = 0x100000000000
NO_OTHER: Final = "a kernel's module makes no other hypercalls"
TCE: Final = 0x1234003
OTHER: Final = 0x5678001


@dataclass(frozen=True)
class HcallRow:
    """:ivar call: the hypercall's name, or an opcode that has none.

    :ivar args: r4 and on.
    :ivar status: r3 afterwards, signed.
    :ivar before, after: the tables, by LIOBN; one that is not named holds nothing.
    :ivar r4: r4 afterwards, None: as it was.
    :ivar memory: lists of TCEs in RAM, by their real address.
    :ivar problem_state: it is a process that calls, not the kernel.
    :ivar guest: True, or why it cannot be shown on a guest.
    """

    name: str
    source: str
    call: str | int
    args: tuple[int, ...]
    status: int = H_SUCCESS
    before: Mapping[int, Table] = field(default_factory=dict)
    after: Mapping[int, Table] = field(default_factory=dict)
    r4: int | None = None
    memory: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    problem_state: bool = False
    guest: bool | str = True


def refused(
    name: str, source: str, call: str | int, *args: int, status: int = H_PARAMETER, problem_state: bool = False
) -> HcallRow:
    """A hypercall that changes nothing, neither in a table nor in r4."""
    held = {PE1: {0: TCE, LAST: TCE}, PE2: {PAGE: OTHER}}
    guest = NO_OTHER if isinstance(call, int) and not problem_state else True
    return HcallRow(name, source, call, args, status, held, held, None, {LIST: (OTHER,) * 513}, problem_state, guest)


PUTS: Final = (
    HcallRow("H_PUT_TCE stores", STORE, "H_PUT_TCE", (PE1, PAGE, TCE), after={PE1: {PAGE: TCE}}),
    HcallRow(
        "H_PUT_TCE overwrites, in its own table alone",
        STORE,
        "H_PUT_TCE",
        (PE1, PAGE, OTHER),
        before={PE1: {0: TCE, PAGE: TCE}, PE2: {PAGE: TCE}},
        after={PE1: {0: TCE, PAGE: OTHER}, PE2: {PAGE: TCE}},
    ),
    HcallRow("H_PUT_TCE of 0 clears", STORE, "H_PUT_TCE", (PE1, PAGE, 0), before={PE1: {PAGE: TCE}}),
    HcallRow(
        "H_PUT_TCE stores reserved bits as they are",
        STORE,
        "H_PUT_TCE",
        (PE1, 0, 0xFFFFFFFFFFFFFFFF),
        after={PE1: {0: 0xFFFFFFFFFFFFFFFF}},
    ),
    HcallRow(
        "H_PUT_TCE stores a page number without permissions",
        STORE,
        "H_PUT_TCE",
        (PE1, 0, 0x1234000),
        after={PE1: {0: 0x1234000}},
    ),
    HcallRow(
        "H_PUT_TCE stores a page that is not in RAM",
        STORE,
        "H_PUT_TCE",
        (PE1, 0, NO_RAM | 3),
        after={PE1: {0: NO_RAM | 3}},
    ),
    HcallRow(
        "H_PUT_TCE rounds the IOBA down", f"{PUT}, page_mask", "H_PUT_TCE", (PE1, 0x1FFF, TCE), after={PE1: {PAGE: TCE}}
    ),
    HcallRow("H_PUT_TCE of the last entry", STORE, "H_PUT_TCE", (PE1, END - 1, TCE), after={PE1: {LAST: TCE}}),
    refused("H_PUT_TCE at the window's end is H_PARAMETER", f"{STORE}, index", "H_PUT_TCE", PE1, END, TCE),
    refused("H_PUT_TCE far outside is H_PARAMETER", f"{STORE}, index", "H_PUT_TCE", PE1, 0xFFFFFFFFFFFFFFFF, TCE),
    refused("H_PUT_TCE of an unknown LIOBN is H_PARAMETER", FIND, "H_PUT_TCE", NO_LIOBN, 0, TCE),
    refused("H_PUT_TCE of a LIOBN beyond 32 bits is H_PARAMETER", FIND, "H_PUT_TCE", WIDE, 0, TCE),
    refused("H_PUT_TCE into a window that is not there is H_PARAMETER", f"{STORE}, index", "H_PUT_TCE", SECOND, 0, TCE),
)

GETS: Final = (
    HcallRow(
        "H_GET_TCE gives what is stored, in r4",
        GET,
        "H_GET_TCE",
        (PE1, PAGE),
        before={PE1: {PAGE: 0xFFFFFFFFFFFFFFFF}},
        after={PE1: {PAGE: 0xFFFFFFFFFFFFFFFF}},
        r4=0xFFFFFFFFFFFFFFFF,
    ),
    HcallRow("H_GET_TCE of an empty entry gives 0", GET, "H_GET_TCE", (PE1, PAGE), r4=0),
    HcallRow(
        "H_GET_TCE rounds the IOBA down",
        f"{GET}, page_mask",
        "H_GET_TCE",
        (PE1, 0x1FFF),
        before={PE1: {PAGE: TCE}},
        after={PE1: {PAGE: TCE}},
        r4=TCE,
    ),
    HcallRow(
        "H_GET_TCE of the last entry",
        GET,
        "H_GET_TCE",
        (PE1, LAST),
        before={PE1: {LAST: TCE}, PE2: {LAST: OTHER}},
        after={PE1: {LAST: TCE}, PE2: {LAST: OTHER}},
        r4=TCE,
    ),
    refused("H_GET_TCE at the window's end is H_PARAMETER", f"{QEMU}, get_tce_emu", "H_GET_TCE", PE1, END),
    refused("H_GET_TCE of an unknown LIOBN is H_PARAMETER", FIND, "H_GET_TCE", NO_LIOBN, 0),
    refused("H_GET_TCE of a LIOBN beyond 32 bits is H_PARAMETER", FIND, "H_GET_TCE", WIDE, 0),
    refused("H_GET_TCE of a window that is not there is H_PARAMETER", f"{QEMU}, get_tce_emu", "H_GET_TCE", SECOND, 0),
)


def filled(first: int, count: int, tce: int = TCE) -> Table:
    return {(first + i) * PAGE: tce for i in range(count)}


STUFFS: Final = (
    HcallRow(
        "H_STUFF_TCE stores one TCE into many entries, permissions and all",
        STUFF,
        "H_STUFF_TCE",
        (PE1, PAGE, TCE, 3),
        before={PE1: {0: OTHER, PAGE: OTHER, 4 * PAGE: OTHER}},
        after={PE1: {0: OTHER, PAGE: TCE, 2 * PAGE: TCE, 3 * PAGE: TCE, 4 * PAGE: OTHER}},
    ),
    HcallRow(
        "H_STUFF_TCE of 0 clears",
        STUFF,
        "H_STUFF_TCE",
        (PE1, 0, 0, 512),
        before={PE1: filled(0, 513)},
        after={PE1: {512 * PAGE: TCE}},
    ),
    HcallRow(
        "H_STUFF_TCE takes more than 512 pages",
        f"{STUFF}, nb_table",
        "H_STUFF_TCE",
        (PE1, PAGE, TCE, 513),
        after={PE1: filled(1, 513)},
    ),
    HcallRow(
        "H_STUFF_TCE of a whole table",
        f"{STUFF}, nb_table",
        "H_STUFF_TCE",
        (PE1, 0, TCE, 4096),
        after={PE1: filled(0, 4096)},
    ),
    HcallRow(
        "H_STUFF_TCE rounds the IOBA down",
        f"{STUFF}, page_mask",
        "H_STUFF_TCE",
        (PE1, 0x1FFF, TCE, 2),
        after={PE1: filled(1, 2)},
    ),
    HcallRow(
        "H_STUFF_TCE past the window's end stores up to the end and is H_PARAMETER",
        f"{STUFF}, the loop",
        "H_STUFF_TCE",
        (PE1, LAST - PAGE, TCE, 3),
        H_PARAMETER,
        after={PE1: {LAST - PAGE: TCE, LAST: TCE}},
    ),
    refused("H_STUFF_TCE at the window's end is H_PARAMETER", f"{STORE}, index", "H_STUFF_TCE", PE1, END, OTHER, 1),
    refused("H_STUFF_TCE of no pages is H_PARAMETER", f"{STUFF}, ret", "H_STUFF_TCE", PE1, 0, OTHER, 0),
    refused(
        "H_STUFF_TCE of more pages than the table has stores nothing",
        f"{STUFF}, nb_table",
        "H_STUFF_TCE",
        PE1,
        0,
        OTHER,
        4097,
    ),
    refused(
        "H_STUFF_TCE of ever so many pages stores nothing",
        f"{STUFF}, nb_table",
        "H_STUFF_TCE",
        PE1,
        LAST,
        OTHER,
        0xFFFFFFFFFFFFFFFF,
    ),
    refused("H_STUFF_TCE of an unknown LIOBN is H_PARAMETER", FIND, "H_STUFF_TCE", NO_LIOBN, 0, OTHER, 1),
    refused("H_STUFF_TCE of a LIOBN beyond 32 bits is H_PARAMETER", FIND, "H_STUFF_TCE", WIDE, 0, OTHER, 1),
    refused(
        "H_STUFF_TCE into a window that is not there is H_PARAMETER",
        f"{STUFF}, nb_table",
        "H_STUFF_TCE",
        SECOND,
        0,
        OTHER,
        1,
    ),
)

INDIRECTS: Final = (
    HcallRow(
        "H_PUT_TCE_INDIRECT stores a list",
        INDIRECT,
        "H_PUT_TCE_INDIRECT",
        (PE1, PAGE, LIST, 3),
        before={PE1: {PAGE: OTHER, 4 * PAGE: OTHER}},
        after={PE1: {PAGE: 0x1111001, 2 * PAGE: 0x2222002, 3 * PAGE: 0x3333003, 4 * PAGE: OTHER}},
        memory={LIST: (0x1111001, 0x2222002, 0x3333003, 0x4444003)},
    ),
    HcallRow(
        "H_PUT_TCE_INDIRECT stores what has no permissions, reserved bits or no RAM",
        INDIRECT,
        "H_PUT_TCE_INDIRECT",
        (PE1, 0, LIST, 4),
        before={PE1: {0: TCE}},
        after={PE1: {PAGE: 0x1234000, 2 * PAGE: 0xFFFFFFFFFFFFFFFF, 3 * PAGE: NO_RAM | 1}},
        memory={LIST: (0, 0x1234000, 0xFFFFFFFFFFFFFFFF, NO_RAM | 1)},
    ),
    HcallRow(
        "H_PUT_TCE_INDIRECT of 512 pages",
        f"{INDIRECT}, npages > 512",
        "H_PUT_TCE_INDIRECT",
        (PE1, 0, LIST, 512),
        after={PE1: filled(0, 512)},
        memory={LIST: (TCE,) * 513},
    ),
    HcallRow(
        "H_PUT_TCE_INDIRECT rounds the IOBA down",
        f"{INDIRECT}, page_mask",
        "H_PUT_TCE_INDIRECT",
        (PE1, 0x1FFF, LIST, 2),
        after={PE1: {PAGE: TCE, 2 * PAGE: OTHER}},
        memory={LIST: (TCE, OTHER)},
    ),
    HcallRow(
        "H_PUT_TCE_INDIRECT past the window's end stores up to the end and is H_PARAMETER",
        f"{INDIRECT}, the loop",
        "H_PUT_TCE_INDIRECT",
        (PE1, LAST - PAGE, LIST, 3),
        H_PARAMETER,
        after={PE1: {LAST - PAGE: TCE, LAST: OTHER}},
        memory={LIST: (TCE, OTHER, TCE)},
    ),
    HcallRow(
        "H_PUT_TCE_INDIRECT with a list outside RAM stores zeros",
        f"{INDIRECT}, ldq_be_phys",
        "H_PUT_TCE_INDIRECT",
        (PE1, 0, NO_RAM, 2),
        before={PE1: filled(0, 3)},
        after={PE1: {2 * PAGE: TCE}},
    ),
    refused(
        "H_PUT_TCE_INDIRECT of more than 512 pages stores nothing",
        f"{INDIRECT}, npages > 512",
        "H_PUT_TCE_INDIRECT",
        PE1,
        0,
        LIST,
        513,
    ),
    refused("H_PUT_TCE_INDIRECT of no pages is H_PARAMETER", f"{INDIRECT}, ret", "H_PUT_TCE_INDIRECT", PE1, 0, LIST, 0),
    refused(
        "H_PUT_TCE_INDIRECT with a list that begins within a page is H_PARAMETER",
        f"{INDIRECT}, SPAPR_TCE_PAGE_MASK",
        "H_PUT_TCE_INDIRECT",
        PE1,
        0,
        LIST + 8,
        1,
    ),
    refused(
        "H_PUT_TCE_INDIRECT with a list on an odd address is H_PARAMETER",
        f"{INDIRECT}, SPAPR_TCE_PAGE_MASK",
        "H_PUT_TCE_INDIRECT",
        PE1,
        0,
        LIST + 1,
        1,
    ),
    refused(
        "H_PUT_TCE_INDIRECT at the window's end is H_PARAMETER",
        f"{STORE}, index",
        "H_PUT_TCE_INDIRECT",
        PE1,
        END,
        LIST,
        1,
    ),
    refused("H_PUT_TCE_INDIRECT of an unknown LIOBN is H_PARAMETER", FIND, "H_PUT_TCE_INDIRECT", NO_LIOBN, 0, LIST, 1),
    refused("H_PUT_TCE_INDIRECT of a LIOBN beyond 32 bits is refused", FIND, "H_PUT_TCE_INDIRECT", WIDE, 0, LIST, 1),
    refused(
        "H_PUT_TCE_INDIRECT into a window that is not there is H_PARAMETER",
        f"{STORE}, index",
        "H_PUT_TCE_INDIRECT",
        SECOND,
        0,
        LIST,
        1,
    ),
)

CALLS: Final = (
    *(
        refused(f"{call} by a process is H_PRIVILEGE", PRIVILEGE, call, *args, status=H_PRIVILEGE, problem_state=True)
        for call, args in (
            ("H_GET_TCE", (PE1, 0)),
            ("H_PUT_TCE", (PE1, 0, OTHER)),
            ("H_STUFF_TCE", (PE1, 0, OTHER, 1)),
            ("H_PUT_TCE_INDIRECT", (PE1, 0, LIST, 1)),
        )
    ),
    refused(
        "A process is refused before its arguments are looked at",
        PRIVILEGE,
        "H_PUT_TCE",
        NO_LIOBN,
        0,
        OTHER,
        status=H_PRIVILEGE,
        problem_state=True,
    ),
    refused(
        "A process is refused before its opcode is looked at",
        PRIVILEGE,
        0x21,
        PE1,
        0,
        OTHER,
        status=H_PRIVILEGE,
        problem_state=True,
    ),
    refused(
        "An opcode that no hypercall has is H_FUNCTION",
        "QEMU hw/ppc/spapr_hcall.c, spapr_hypercall",
        0x21,
        PE1,
        0,
        OTHER,
        status=H_FUNCTION,
    ),
)

ROWS: Final = (*PUTS, *GETS, *STUFFS, *INDIRECTS, *CALLS)
