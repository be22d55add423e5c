"""R15: a driver in user space that grows a window, or takes its steps in another order than the kernel wants."""

import itertools

import pytest
from publicreports import Report

from tcelab.papr import window
from tcelab.program import Buffer, Dma, Flip, Frames, Page, Program
from tcelab.program.topology import topology
from tcelab.quirks import UNREGISTERS_IN_USE
from tcelab.scenarios import vocabulary as b
from thorough import often

REPORT = Report(
    id="R15",
    title="user-space drivers that grow or order their windows",
    reported="A driver registered, created, mapped, unmapped, removed and unregistered in an order of its own: a map"
    " before its window or before its memory, a window removed with entries in it, memory unregistered while it was"
    " mapped; a second segment of memory did not fit, and what was mapped before was lost when the window grew.",
    where=(
        "DPDK 998c89f148ee, e072d16f8920 and 986f2134c336",
        "DPDK 2d0a972cd66b, 0cbce3a167f1 and db90b4969e2e",
    ),
    versions="6.12.95 with QEMU 11.1: each wrong order has its errno and changes nothing, but for memory that is"
    " unregistered while an entry leads to it. A second map of the same addresses is no EBUSY, as DPDK expected: it"
    " exchanges the entries. In the place of the default window, a larger one does not begin at 0, but at 2^59.",
    right="MAP without registered memory is EPERM, of other memory EINVAL, without a window ENXIO; UNMAP likewise;"
    " what is registered twice is EBUSY, unregistered twice ENOENT, unregistered while it is mapped EBUSY; a window"
    " that is not there is EINVAL, a third one ENOSPC. A window that is removed takes its entries along. A larger"
    " window takes what was mapped and a second segment.",
    shown="It swaps each two of the six steps, and repeats some of them, with windows of pages of 64 KiB and of 2 MiB,"
    " each order in a container of its own, and compares every table after each; then it grows a window for a second"
    " segment, and the device carries data through both. Broken on purpose, in QEMU's memory: an entry of the first"
    " segment is not mapped again. At night with both sizes of pages, else with 64 KiB.",
    quirk=UNREGISTERS_IN_USE,
)

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small")
ONE = b.pes(TOPOLOGY, "r15")[0]
NUMBER = itertools.count()
HIGH = window.SECOND_START
HUGE = 512
"""Pages of a segment: a huge page."""
BYTES = HUGE * 4096
SHIFTS = often((16,), (16, 21))
SIZE = BYTES
"""Bytes of the window: one segment fits."""

ORDERS = {
    # as it should be, and each two of the six swapped
    "RCMUDN": "ok ok ok ok ok ok",
    "CRMUDN": "ok ok ok ok ok ok",
    "MCRUDN": "EPERM ok ok ok ok ok",
    "UCMRDN": "EPERM ok EPERM ok ok ok",
    "DCMURN": "EINVAL ok EPERM EPERM ok ok",
    "NCMUDR": "ENOENT ok EPERM EPERM ok ok",
    "RMCUDN": "ok ENXIO ok ok ok ok",
    "RUMCDN": "ok ENXIO ENXIO ok ok ok",
    "RDMUCN": "ok EINVAL ENXIO ENXIO ok ok",
    "RNMUDC": "ok ok ENXIO ENXIO EINVAL ok",
    "RCUMDN": "ok ok ok ok ok ok",
    "RCDUMN": "ok ok ok ENXIO ENXIO ok",
    "RCNUDM": "ok ok ok ok ok ENXIO",
    "RCMDUN": "ok ok ok ok ENXIO ok",
    "RCMUND": "ok ok ok ok ok ok",
    # one of them twice, or what was there before is gone
    "RRCMUDN": "ok EBUSY ok ok ok ok ok",
    "RCMMUDN": "ok ok ok ok ok ok ok",
    "RCMUUDN": "ok ok ok ok ok ok ok",
    "RCMUDDN": "ok ok ok ok ok EINVAL ok",
    "RCMUDNN": "ok ok ok ok ok ok ENOENT",
    "RNCMUD": "ok ok ok EINVAL ok ok",
}
"""R registers memory, C creates a window, M maps, U unmaps, D removes the window, N unregisters. What each gives."""
IN_USE = {"RCMNDU": "ok ok ok ok ok ENXIO"}
"""The swap that is left, on a kernel with the quirk: the memory stays registered for good."""


def steps(pe, shift, *, buffer="r15"):
    whole = {"vaddr": Page(buffer), "size": BYTES}
    return {
        "R": ("SPAPR_REGISTER_MEMORY", whole),
        "C": ("SPAPR_TCE_CREATE", {"page_shift": shift, "window_size": SIZE, "levels": 1}),
        "M": ("MAP_DMA", {"flags": 3, "iova": HIGH, **whole}),
        "U": ("UNMAP_DMA", {"iova": HIGH, "size": BYTES}),
        "D": ("SPAPR_TCE_REMOVE", {"start_addr": HIGH}),
        "N": ("SPAPR_UNREGISTER_MEMORY", whole),
    }


def opened():
    """A container, without the default window, as DPDK does."""
    pe = b.Pe(ONE.phb, f"r15-{next(NUMBER)}")
    return pe, [*b.open_container(pe, b.SPAPR_TCE_V2), *b.ask(pe, "SPAPR_TCE_REMOVE", start_addr=pe.start)]


def in_order(order, expected, shift, *, buffer="r15"):
    """A container, each step with what it must give, and a look at every table; then it is closed."""
    pe, ops = opened()
    for step, expect in zip(order, expected.split(), strict=True):
        request, fields = steps(pe, shift, buffer=buffer)[step]
        ops += b.ask(pe, request, expect, **fields)
    ops += [*b.vmlck(), *b.pins(), *b.checkpoint(f"R15: {order}, shift {shift}")]
    return [*ops, *b.close(pe.group, pe.container), *b.vmlck(), *b.pins()]


def unregistered():
    """The memory stays registered for good, so it is its own."""
    orders = [op for order, gives in IN_USE.items() for op in in_order(order, gives, 16, buffer="in-use")]
    return [*huge("in-use"), *orders]


def huge(name, segments=1):
    return [Buffer(name=name, pages=segments * HUGE, huge=True, expect="ok"), Frames(buffer=name, expect="ok")]


def proven():
    """One page that is mapped and used: what is not there elsewhere would be seen."""
    pe, ops = opened()
    for step in "RC":
        ops += b.ask(pe, *steps(pe, 16)[step][:1], **steps(pe, 16)[step][1])
    ops += b.tag(Page("r15"), HUGE, pe.liobn | 1, HIGH, 1)
    ops += b.ask(pe, "MAP_DMA", **steps(pe, 16)["M"][1])
    ops += [*b.open_device(pe), *b.dma(pe, HIGH, 512, to_memory=False), *b.dma(pe, HIGH + 4096, 512, to_memory=True)]
    return [*ops, *b.checkpoint("R15: mapped", stream=True), *b.let_go(pe)]


def program(*ops):
    begin = [*b.vmlck(), *b.pins(), *huge("r15"), *b.bind(ONE), *proven()]
    return Program(name="r15", topology=TOPOLOGY, ops=[*begin, *ops, *b.checkpoint("R15: end", stream=True)])


def grown(shift, *lie):
    """A second segment does not fit: all is unmapped, the window grows, both are mapped, and the device uses both."""
    name = f"grown-{shift}"
    pe, ops = opened()
    first, second = ({"vaddr": Page(name, number * HUGE), "size": BYTES} for number in (0, 1))

    def put(segment, number, expect="ok"):
        tagged = b.tag(Page(name, number * HUGE), HUGE, pe.liobn | 1, HIGH + number * BYTES, number)
        asked = b.ask(pe, "MAP_DMA", expect, flags=3, iova=HIGH + number * BYTES, **segment)
        return [*(tagged if expect == "ok" else []), *asked]

    def create(size):
        return b.ask(pe, "SPAPR_TCE_CREATE", page_shift=shift, window_size=size, levels=1)

    def carries(number):
        at = {"file": pe.device, "iova": HIGH + number * BYTES, "size": 512, "expect": "ok"}
        return [Dma(to_memory=False, **at), Dma(to_memory=True, **at)]

    return [
        *huge(name, 2),
        *ops,
        *create(SIZE),
        *b.ask(pe, "SPAPR_REGISTER_MEMORY", **first),
        *put(first, 0),
        *b.open_device(pe),
        *carries(0),
        *b.ask(pe, "SPAPR_REGISTER_MEMORY", **second),
        *put(second, 1, "ENXIO"),
        *b.checkpoint("R15: one segment", stream=True),
        *b.ask(pe, "UNMAP_DMA", iova=HIGH, size=BYTES),
        *b.ask(pe, "SPAPR_TCE_REMOVE", start_addr=HIGH),
        *create(2 * SIZE),
        *put(first, 0),
        *put(second, 1),
        *lie,
        *b.checkpoint("R15: two segments", stream=True),
        *carries(0),
        *carries(1),
        *b.ask(pe, "UNMAP_DMA", iova=HIGH, size=2 * BYTES),
        *b.checkpoint("R15: unmapped"),
        *b.let_go(pe),
    ]


def test_each_wrong_order_has_its_errno_and_changes_nothing(judged):
    orders = [op for shift in SHIFTS for order, gives in ORDERS.items() for op in in_order(order, gives, shift)]
    last = [
        *huge("in-use"),
        *(op for order, gives in IN_USE.items() for op in in_order(order, gives, 16, buffer="in-use")),
    ]
    verdict = judged(program(*orders, *last))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


@pytest.mark.night
def test_memory_in_use_that_can_be_unregistered_is_a_finding_unless_it_is_declared(judged):
    verdict = judged(program(*unregistered()), {UNREGISTERS_IN_USE})
    assert verdict.result == "finding"
    assert "difference" in {each.law for each in verdict.findings}


def test_a_window_grows_for_a_second_segment_and_no_mapping_is_lost(judged):
    verdict = judged(program(*(op for shift in SHIFTS for op in grown(shift))))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


@pytest.mark.night
def test_an_entry_that_is_not_mapped_again_is_named(judged):
    at = HIGH + (3 << 16)
    verdict = judged(program(*grown(16, Flip(liobn=ONE.liobn | 1, ioba=at, bit=0))))
    assert ("table", ONE.liobn | 1, at) in {(each.law, each.liobn, each.ioba) for each in verdict.findings}
