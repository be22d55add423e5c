"""What the platform answers to each TCE hypercall, and what it leaves in the tables.

The numbers are typed from QEMU's include/hw/ppc/spapr.h, the model is its hw/ppc/spapr_iommu.c, page by page.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcelab.papr import hcallnumbers
from tcelab.papr.hcallrules import CHECKS, DISPATCH, PAPR_DIFFERENCES, Hypercalls
from tcelab.papr.tcetable import Table

TOP = 1 << 64
DYNAMIC = 1 << 59

GET, PUT, STUFF, INDIRECT = 0x1C, 0x20, 0x138, 0x13C
EACH = (GET, PUT, STUFF, INDIRECT)
NAMES = {GET: "get", PUT: "put", STUFF: "stuff", INDIRECT: "indirect"}

SMALL, INACTIVE, LARGE, MIDDLE, HUGE, GIANT, OVER, ODD = range(0x80000100, 0x80000108)
WINDOWS = {
    # LIOBN: page shift, bus offset, entries
    SMALL: (12, 0, 16),
    INACTIVE: (0, 0, 0),
    LARGE: (12, 0, 2048),
    MIDDLE: (16, DYNAMIC, 16),
    HUGE: (21, DYNAMIC, 16),
    GIANT: (24, 0, 16),
    OVER: (12, TOP - 0x8000, 16),
    ODD: (12, 0x800, 16),
}
UNKNOWN = 0x80000200
WIDE = 1 << 32 | SMALL

LIST = 0x10000
VALUES = [0x0123456789ABCD00 + i for i in range(512)]
RAM = bytearray(LIST) + struct.pack(">512Q", *VALUES) + bytearray(0x1000)
OLD = 0xAA003
NEW = 0x0123456789ABCDEF


def read(address, size):
    return bytes(RAM[address : address + size]).ljust(size, b"\0")


def machine(**rules):
    tables = {
        liobn: Table(liobn, entries, page_shift=shift, bus_offset=offset)
        for liobn, (shift, offset, entries) in WINDOWS.items()
    }
    for table in tables.values():
        table.fill(0, table.entries, OLD)
    return Hypercalls(tables, read, **rules), tables


def registers(opcode, liobn=SMALL, ioba=0, *, npages=1, at=LIST, tce=NEW):
    return {
        GET: (liobn, ioba),
        PUT: (liobn, ioba, tce),
        STUFF: (liobn, ioba, tce, npages),
        INDIRECT: (liobn, ioba, at, npages),
    }[opcode]


def written(tables):
    """Entries that no longer hold what they held: (LIOBN, number) to TCE."""
    return {
        (liobn, index): table.get(index)
        for liobn, table in tables.items()
        for index in np.flatnonzero(table.words != OLD).tolist()
    }


def ask(opcode, *where, problem_state=False, **more):
    """Status and what was written."""
    hypercalls, tables = machine()
    args = registers(opcode, *where, **more)
    status, after = hypercalls.call(opcode, args, problem_state=problem_state)
    assert after == ((OLD, *args[1:]) if opcode == GET and status == 0 else args)
    return status, written(tables)


def first(opcode, liobn, index):
    """What a successful call for one page has written."""
    return {GET: {}, INDIRECT: {(liobn, index): VALUES[0]}}.get(opcode, {(liobn, index): NEW})


each = pytest.mark.parametrize("opcode", EACH, ids=NAMES.values())
many = pytest.mark.parametrize("opcode", [STUFF, INDIRECT], ids=["stuff", "indirect"])


def test_opcodes_and_status_codes_are_those_of_papr():
    assert (hcallnumbers.H_GET_TCE, hcallnumbers.H_PUT_TCE) == (0x1C, 0x20)
    assert (hcallnumbers.H_STUFF_TCE, hcallnumbers.H_PUT_TCE_INDIRECT) == (0x138, 0x13C)
    assert hcallnumbers.STATUS_NAMES == {
        0: "H_SUCCESS",
        -2: "H_FUNCTION",
        -3: "H_PRIVILEGE",
        -4: "H_PARAMETER",
        -16: "H_RESOURCE",
        -44: "H_NOT_ENOUGH_RESOURCES",
    }
    assert all(getattr(hcallnumbers, name) == status for status, name in hcallnumbers.STATUS_NAMES.items())


# -- on the way in


@each
def test_problem_state_is_not_privileged(opcode):
    assert ask(opcode, problem_state=True) == (-3, {})


@pytest.mark.parametrize("opcode", [0, 0x1D, 0x24, 0x134, 0x140, 0xF000, TOP - 1])
def test_an_opcode_of_no_hypercall_is_no_function(opcode):
    hypercalls, tables = machine()
    args = registers(STUFF)
    assert hypercalls.call(opcode, args) == (-2, args)
    assert hypercalls.call(opcode, ()) == (-2, ())
    assert written(tables) == {}


def test_problem_state_is_asked_before_the_opcode():
    hypercalls, _ = machine()
    assert hypercalls.call(0x24, (1, 2), problem_state=True) == (-3, (1, 2))


@each
def test_registers_beyond_the_arguments_come_back_as_they_are(opcode):
    hypercalls, _ = machine()
    args = (*registers(opcode), 11, 12, 13)
    status, after = hypercalls.call(opcode, args)
    assert status == 0
    assert after == ((OLD, *args[1:]) if opcode == GET else args)


# -- LIOBN


@each
def test_a_liobn_of_more_than_32_bits_is_refused_though_its_lower_half_names_a_table(opcode):
    assert ask(opcode, WIDE) == (-4, {})
    assert ask(opcode, TOP - 1) == (-4, {})


@each
def test_an_unknown_liobn_is_refused(opcode):
    assert ask(opcode, UNKNOWN) == (-4, {})
    assert ask(opcode, 0) == (-4, {})


@each
def test_a_window_that_is_not_active_takes_nothing(opcode):
    assert ask(opcode, INACTIVE) == (-4, {})


@many
def test_a_window_that_is_not_active_does_not_even_take_no_pages(opcode):
    assert ask(opcode, INACTIVE, npages=0) == (-4, {})


# -- IOBA


@each
@pytest.mark.parametrize(
    ("liobn", "ioba", "index"),
    [
        (SMALL, 0x0, 0),
        (SMALL, 0xF000, 15),
        (MIDDLE, DYNAMIC, 0),
        (MIDDLE, DYNAMIC + 0xF0000, 15),
        (HUGE, DYNAMIC + 0x1E00000, 15),
        (GIANT, 0xF000000, 15),
        (OVER, TOP - 0x1000, 7),
        (OVER, 0, 8),
    ],
)
def test_an_ioba_within_the_window_names_its_entry(opcode, liobn, ioba, index):
    assert ask(opcode, liobn, ioba) == (0, first(opcode, liobn, index))


@each
@pytest.mark.parametrize(
    ("liobn", "ioba", "index"),
    [
        (SMALL, 0x1001, 1),
        (SMALL, 0xFFFF, 15),
        (MIDDLE, DYNAMIC + 0x1F000, 1),
        (HUGE, DYNAMIC + 0x3FFFFF, 1),
        (GIANT, 0x1FFFFFF, 1),
    ],
)
def test_an_ioba_that_is_not_aligned_is_rounded_down(opcode, liobn, ioba, index):
    assert ask(opcode, liobn, ioba) == (0, first(opcode, liobn, index))


@each
def test_an_ioba_is_rounded_down_before_the_windows_start_is_taken_off(opcode):
    assert ask(opcode, ODD, 0x1FFF) == (0, first(opcode, ODD, 0))
    assert ask(opcode, ODD, 0x800) == (-4, {})


@each
@pytest.mark.parametrize(
    ("liobn", "ioba"),
    [
        (SMALL, 0x10000),
        (SMALL, 1 << 63),
        (SMALL, TOP - 1),
        (MIDDLE, 0),
        (MIDDLE, DYNAMIC - 1),
        (MIDDLE, DYNAMIC + 0x100000),
        (HUGE, DYNAMIC + 0x2000000),
        (GIANT, 0x10000000),
        (OVER, TOP - 0x8001),
        (OVER, 0x8000),
    ],
)
def test_an_ioba_outside_the_window_is_refused(opcode, liobn, ioba):
    assert ask(opcode, liobn, ioba) == (-4, {})


@many
def test_a_range_that_begins_outside_is_refused_though_it_would_reach_in(opcode):
    assert ask(opcode, MIDDLE, DYNAMIC - 0x10000, npages=2) == (-4, {})


# -- GET and PUT


def test_get_gives_the_tce():
    hypercalls, tables = machine()
    tables[SMALL].put(3, TOP - 1)
    assert hypercalls.get(SMALL, 0x3000) == (0, TOP - 1)
    assert hypercalls.call(GET, (SMALL, 0x3000)) == (0, (TOP - 1, 0x3000))


def test_a_get_that_fails_leaves_the_liobn_in_r4():
    hypercalls, _ = machine()
    assert hypercalls.get(SMALL, 0x10000) == (-4, 0x80000100)
    assert hypercalls.call(GET, (WIDE, 0)) == (-4, (0x180000100, 0))


@pytest.mark.parametrize(
    "tce",
    [0, 1, 2, 0x1234000, 0x1234003, 0x1234FFC, 0x7FFFFFFFF000 | 3, TOP - 1],
    ids=["empty", "read", "write", "no permission", "page", "reserved bits", "outside RAM", "all ones"],
)
def test_put_and_stuff_store_any_tce_as_it_is(tce):
    assert ask(PUT, SMALL, 0x2000, tce=tce) == (0, {(SMALL, 2): tce})
    assert ask(STUFF, SMALL, 0x2000, tce=tce, npages=2) == (0, {(SMALL, 2): tce, (SMALL, 3): tce})


# -- npages


@many
def test_no_pages_are_refused(opcode):
    assert ask(opcode, npages=0) == (-4, {})
    assert ask(opcode, LARGE, npages=0) == (-4, {})


def test_stuff_of_more_pages_than_entries_writes_nothing():
    assert ask(STUFF, npages=17) == (-4, {})
    assert ask(STUFF, LARGE, npages=2049) == (-4, {})
    assert ask(STUFF, npages=TOP - 1) == (-4, {})


@pytest.mark.parametrize("npages", [511, 512, 513, 2048])
def test_stuff_takes_as_many_pages_as_the_table_has_entries(npages):
    assert ask(STUFF, LARGE, npages=npages) == (0, {(LARGE, i): NEW for i in range(npages)})


@pytest.mark.parametrize("npages", [513, 1024, TOP - 1])
def test_indirect_of_more_than_512_pages_writes_nothing(npages):
    assert ask(INDIRECT, LARGE, npages=npages) == (-4, {})


@pytest.mark.parametrize("npages", [1, 2, 511, 512])
def test_indirect_takes_up_to_512_pages(npages):
    assert ask(INDIRECT, LARGE, 0x1000, npages=npages) == (0, {(LARGE, 1 + i): VALUES[i] for i in range(npages)})


def test_indirect_of_more_pages_than_entries_fills_the_table_and_fails():
    assert ask(INDIRECT, npages=17) == (-4, {(SMALL, i): VALUES[i] for i in range(16)})
    assert ask(INDIRECT, npages=512) == (-4, {(SMALL, i): VALUES[i] for i in range(16)})


def test_stuff_past_the_end_keeps_what_it_wrote_before():
    assert ask(STUFF, SMALL, 0xE000, npages=3) == (-4, {(SMALL, 14): NEW, (SMALL, 15): NEW})
    assert ask(STUFF, SMALL, 0x1000, npages=16) == (-4, {(SMALL, i): NEW for i in range(1, 16)})


def test_indirect_past_the_end_keeps_what_it_wrote_before():
    assert ask(INDIRECT, SMALL, 0xE000, npages=3) == (-4, {(SMALL, 14): VALUES[0], (SMALL, 15): VALUES[1]})


@many
def test_up_to_the_very_end_is_fine(opcode):
    status, after = ask(opcode, SMALL, 0xE000, npages=2)
    assert (status, sorted(after)) == (0, [(SMALL, 14), (SMALL, 15)])


@many
def test_addresses_wrap_at_64_bits_within_a_call(opcode):
    status, after = ask(opcode, OVER, TOP - 0x2000, npages=4)
    assert (status, sorted(after)) == (0, [(OVER, i) for i in (6, 7, 8, 9)])


@many
@pytest.mark.parametrize("liobn", [SMALL, GIANT])
def test_no_call_wraps_round_into_the_window(opcode, liobn):
    assert ask(opcode, liobn, TOP - 0x1000, npages=4) == (-4, {})


# -- the list


@pytest.mark.parametrize("at", [LIST + 1, LIST + 8, LIST + 0x800, LIST - 8, LIST + 0xFFF])
@pytest.mark.parametrize("liobn", [SMALL, MIDDLE])
def test_a_list_that_is_not_aligned_to_4k_is_refused(liobn, at):
    assert ask(INDIRECT, liobn, DYNAMIC if liobn == MIDDLE else 0, at=at) == (-4, {})


def test_a_list_that_is_not_aligned_is_refused_before_anything_is_stored():
    assert ask(INDIRECT, SMALL, 0xE000, at=LIST + 8, npages=3) == (-4, {})


def test_a_list_is_aligned_to_4k_even_for_a_window_of_larger_pages():
    assert ask(INDIRECT, MIDDLE, DYNAMIC, at=LIST + 0x1000) == (0, {(MIDDLE, 0): 0})


@pytest.mark.parametrize("at", [0x100000, 1 << 32 | LIST, 1 << 60, TOP - 0x1000])
def test_a_list_outside_ram_reads_as_zeros_and_is_stored(at):
    assert ask(INDIRECT, at=at, npages=2) == (0, {(SMALL, 0): 0, (SMALL, 1): 0})


def test_a_list_is_big_endian():
    hypercalls = Hypercalls({SMALL: (table := Table(SMALL, 16))}, lambda _at, _size: bytes([1, 2, 3, 4, 5, 6, 7, 8]))
    assert hypercalls.indirect(SMALL, 0, 0, 1) == 0
    assert table.get(0) == 0x0102030405060708


def test_the_list_is_read_at_its_real_address():
    asked = []
    table = Table(SMALL, 16)
    hypercalls = Hypercalls({SMALL: table}, lambda at, size: asked.append((at, size)) or bytes(size))
    hypercalls.indirect(SMALL, 0, 0x123000, 3)
    assert asked == [(0x123000, 24)]


# -- which tables


def test_tables_are_looked_up_at_each_call():
    hypercalls, tables = machine()
    tables[UNKNOWN] = Table(UNKNOWN, 4)
    assert hypercalls.put(UNKNOWN, 0, 5) == 0
    assert tables[UNKNOWN].get(0) == 5
    del tables[UNKNOWN]
    assert hypercalls.put(UNKNOWN, 0, 5) == -4


# -- the rules as data


CELLS = [
    registers(opcode, *where, npages=npages, at=at)
    for opcode in EACH
    for where in [(SMALL, 0), (SMALL, 0xE000), (SMALL, 0x10000), (LARGE, 0), (WIDE, 0), (UNKNOWN, 0), (INACTIVE, 0)]
    for npages in (0, 1, 3, 17, 513)
    for at in (LIST, LIST + 8)
]


def answers(opcode, **rules):
    out = []
    for args in [args for args in CELLS if len(args) == len(registers(opcode))]:
        for problem_state in (False, True):
            hypercalls, tables = machine(**rules)
            try:
                out.append((hypercalls.call(opcode, args, problem_state=problem_state), written(tables)))
            except Exception as error:  # noqa: BLE001 -- a rule that is missing may end anyhow
                out.append(type(error))
    return out


@pytest.mark.parametrize(
    ("opcode", "place"),
    [(opcode, place) for opcode in EACH for place in range(len(CHECKS[opcode]))],
    ids=[f"{NAMES[opcode]}: {check.name}" for opcode in EACH for check in CHECKS[opcode]],
)
def test_no_check_can_be_left_out_unseen(opcode, place):
    rules = CHECKS[opcode]
    assert answers(opcode, checks={**CHECKS, opcode: rules[:place] + rules[place + 1 :]}) != answers(opcode)


@pytest.mark.parametrize("rules", [DISPATCH[1:], DISPATCH[:1], DISPATCH[::-1]], ids=["first", "second", "order"])
def test_neither_the_way_in_nor_its_order_can_be_changed_unseen(rules):
    def ways(**rules):
        hypercalls, _ = machine(**rules)
        asked = [(PUT, True), (PUT, False), (0x24, True), (0x24, False)]
        return [hypercalls.call(opcode, registers(STUFF), problem_state=problem) for opcode, problem in asked]

    try:
        seen = ways(dispatch=rules)
    except KeyError:
        return
    assert seen != ways()


def test_every_check_names_its_source():
    for opcode, rules in CHECKS.items():
        assert opcode in EACH
        assert len({check.name for check in rules}) == len(rules)
        assert all(check.source.startswith("hw/ppc/spapr_iommu.c, ") for check in rules)
    assert [check.source for check in DISPATCH] == [
        "hw/ppc/spapr.c, emulate_spapr_hypercall",
        "hw/ppc/spapr_hcall.c, spapr_hypercall",
    ]


# -- where QEMU is not as PAPR or KVM


def test_each_difference_is_how_qemu_answers():
    beyond = 0x7FFFFFFFF003
    hypercalls, tables = machine()
    tables[SMALL].put(0, beyond)
    shown = {
        "PUT of a page that is not the partition's": ask(PUT, tce=beyond) == (0, {(SMALL, 0): beyond}),
        "GET of an entry that leads out of the partition": hypercalls.get(SMALL, 0) == (0, beyond),
        "STUFF of more than 512 pages": ask(STUFF, LARGE, npages=2048)[0] == 0,
        "STUFF past the window's end": ask(STUFF, SMALL, 0xF000, npages=2) == (-4, {(SMALL, 15): NEW}),
        "STUFF of no pages": ask(STUFF, npages=0) == (-4, {}),
        "INDIRECT past the window's end": ask(INDIRECT, SMALL, 0xF000, npages=2) == (-4, {(SMALL, 15): VALUES[0]}),
        "INDIRECT with one bad TCE in the list": ask(INDIRECT, npages=1) == (0, {(SMALL, 0): VALUES[0]}),
        "INDIRECT with a list outside RAM": ask(INDIRECT, at=1 << 60) == (0, {(SMALL, 0): 0}),
        "INDIRECT of no pages": ask(INDIRECT, npages=0) == (-4, {}),
        "INDIRECT with a negative LIOBN, a count of LIOBNs in the list": ask(INDIRECT, TOP - 2) == (-4, {}),
        "IOBA not aligned to a page": ask(PUT, SMALL, 0x1001) == (0, {(SMALL, 1): NEW}),
        "STUFF of a TCE with permissions": ask(STUFF, tce=3) == (0, {(SMALL, 0): 3}),
    }
    assert [difference.case for difference in PAPR_DIFFERENCES] == list(shown)
    assert [case for case, so in shown.items() if not so] == []
    assert {difference.whose for difference in PAPR_DIFFERENCES} == {"PAPR", "KVM"}


# -- any sequence of calls


class Model:
    """hw/ppc/spapr_iommu.c, as it stands there: one page after the other, a dict for each table."""

    def __init__(self):
        self.tables = {liobn: dict.fromkeys(range(entries), OLD) for liobn, (_, _, entries) in WINDOWS.items()}

    def find(self, liobn):
        if liobn & 0xFFFFFFFF00000000:
            return None
        return liobn if liobn in WINDOWS else None

    def put_tce_emu(self, liobn, ioba, tce):
        shift, offset, nb_table = WINDOWS[liobn]
        index = (ioba - offset) % TOP >> shift
        if index >= nb_table:
            return -4
        self.tables[liobn][index] = tce
        return 0

    def loop(self, liobn, ioba, tces):
        size = 1 << WINDOWS[liobn][0]
        ioba &= ~(size - 1)
        ret = -4
        for tce in tces:
            ret = self.put_tce_emu(liobn, ioba, tce)
            if ret:
                break
            ioba = (ioba + size) % TOP
        return ret

    def get(self, liobn, ioba):
        if self.find(liobn) is None:
            return -4, (liobn, ioba)
        shift, offset, nb_table = WINDOWS[liobn]
        index = ((ioba & ~((1 << shift) - 1)) - offset) % TOP >> shift
        if index >= nb_table:
            return -4, (liobn, ioba)
        return 0, (self.tables[liobn][index], ioba)

    def put(self, liobn, ioba, tce):
        return -4 if self.find(liobn) is None else self.loop(liobn, ioba, [tce])

    def stuff(self, liobn, ioba, tce, npages):
        if self.find(liobn) is None or npages > WINDOWS[liobn][2]:
            return -4
        return self.loop(liobn, ioba, [tce] * npages)

    def indirect(self, liobn, ioba, at, npages):
        if self.find(liobn) is None or npages > 512 or at & 0xFFF:
            return -4
        return self.loop(liobn, ioba, [int.from_bytes(read(at + 8 * i, 8), "big") for i in range(npages)])

    def call(self, opcode, args):
        if opcode == GET:
            return self.get(*args)
        return {PUT: self.put, STUFF: self.stuff, INDIRECT: self.indirect}[opcode](*args), args


tces = st.one_of(st.integers(0, TOP - 1), st.sampled_from([0, 1, 3, TOP - 1]))


# Each is made once: to make one is dearer than to draw from it.
either = st.booleans()
some_liobns = st.sampled_from([*WINDOWS, UNKNOWN, WIDE])
some_pages = {entries: st.integers(-2, entries + 2) for _, _, entries in WINDOWS.values()}
edges = {entries: st.sampled_from([0, entries - 1]) for entries in some_pages}
into_pages = {shift: st.sampled_from([0, 0, 1, 8, (1 << shift) - 1]) for shift, _, _ in WINDOWS.values()}
far = st.one_of(st.just(None), st.just(None), st.integers(0, TOP - 1))
some_opcodes = st.sampled_from(EACH)
numbers_of_pages = st.one_of(st.integers(0, 18), st.sampled_from([511, 512, 513, 2047, 2048, 2049, TOP - 1]))
lists = st.sampled_from([LIST, LIST, LIST + 0x1000, 0, 0x100000, LIST + 8])


@st.composite
def places(draw):
    """A LIOBN, and an address on, near or far from its window."""
    liobn = draw(some_liobns)
    shift, offset, entries = WINDOWS.get(liobn, (12, 0, 16))
    page = draw(some_pages[entries]) if draw(either) else draw(edges[entries])
    near = offset + (page << shift) + draw(into_pages[shift])
    elsewhere = draw(far)
    return liobn, near % TOP if elsewhere is None else elsewhere


somewhere = places()


@st.composite
def calls(draw):
    opcode, npages, at = draw(some_opcodes), draw(numbers_of_pages), draw(lists)
    return opcode, registers(opcode, *draw(somewhere), npages=npages, at=at, tce=draw(tces))


@given(st.lists(calls(), max_size=12))
def test_tables_are_the_fold_of_the_calls(sequence):
    hypercalls, tables = machine()
    model = Model()
    for opcode, args in sequence:
        assert hypercalls.call(opcode, args) == model.call(opcode, args)
    for liobn, table in tables.items():
        assert table.words.tolist() == [model.tables[liobn][i] for i in range(table.entries)]


@given(calls())
def test_a_call_changes_no_table_but_its_own(call):
    opcode, args = call
    hypercalls, tables = machine()
    hypercalls.call(opcode, args)
    assert {liobn for liobn, _ in written(tables)} <= {args[0]}


@given(calls(), st.booleans())
def test_a_call_that_fails_writes_nothing_unless_it_ran_past_the_end(call, problem_state):
    opcode, args = call
    hypercalls, tables = machine()
    status, after = hypercalls.call(opcode, args, problem_state=problem_state)
    if status != 0:
        assert after == args
        numbers = [index for _, index in written(tables)]
        if numbers:
            assert opcode in (STUFF, INDIRECT)
            assert max(numbers) == tables[args[0]].entries - 1
            assert len(numbers) < args[3]


@given(calls(), st.sampled_from([0, 0x1D, 0x24]))
def test_what_is_refused_on_the_way_in_changes_nothing(call, other):
    opcode, args = call
    hypercalls, tables = machine()
    assert hypercalls.call(opcode, args, problem_state=True) == (-3, args)
    assert hypercalls.call(other, args) == (-2, args)
    assert written(tables) == {}


@given(st.sampled_from([12, 16, 21, 24]), st.sampled_from([0, DYNAMIC]), st.integers(0, 15), tces, st.data())
def test_get_gives_what_put_stored(shift, offset, index, tce, data):
    hypercalls = Hypercalls({SMALL: Table(SMALL, 16, page_shift=shift, bus_offset=offset)}, read)
    within = st.integers(0, (1 << shift) - 1)
    ioba = offset + (index << shift)
    assert hypercalls.put(SMALL, ioba + data.draw(within), tce) == 0
    assert hypercalls.get(SMALL, ioba + data.draw(within)) == (0, tce)


@given(calls())
def test_the_direct_methods_are_the_calls(call):
    opcode, args = call
    hypercalls, tables = machine()
    direct, others = machine()
    method = {GET: direct.get, PUT: direct.put, STUFF: direct.stuff, INDIRECT: direct.indirect}[opcode]
    status, after = hypercalls.call(opcode, args)
    assert method(*args) == ((status, after[0]) if opcode == GET else status)
    assert written(tables) == written(others)
