"""The comparison of two runs, and the second opinion that holds a run against a reference and names known defects."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from two_runs import (
    BOTH,
    FIRST,
    NONCE,
    OTHER,
    PAGE,
    READ,
    SECOND,
    WRITE,
    Two,
    facts,
    frames,
    ours,
    snapshot,
    table,
    theirs,
)

import rowkit
from rows.linux_v2_defects import below_a_page, closed_first, in_part, in_use, not_made, nothing, spoilt
from rows.row import (
    LAST,
    NOBODY,
    PE2,
    WINDOW,
    charged,
    closed,
    edge,
    enable,
    enabled,
    ended,
    joined,
    look,
    mapping,
    open_container,
    open_group,
    unmapping,
)
from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences, second_opinion
from tcelab.errors import GuestLost, Unsupported
from tcelab.judge import Judge, Ledger
from tcelab.judge.laws.difference import MOST, EmulatorComparison
from tcelab.judge.ledger import joined as ledgers_joined
from tcelab.judge.models.comparison import Comparison, _of_list
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Exit,
    Frames,
    Ioctl,
    Master,
    Open,
    Page,
    Program,
    Put,
    Read,
    Repeat,
    Spawn,
    Tag,
)
from tcelab.program.pagetags import compact, tag
from tcelab.program.topology import topology
from tcelab.quirks import (
    BELOW_PAGE,
    BINDS_EARLY,
    CLOSE_STRANDS,
    CREATE_CHARGES,
    MISALIGNED,
    NOT_AT_ZERO,
    NOTHING_WARNS,
    ONE_PAGE,
    PART_REGISTERS,
    PIN_FOR_WRITE,
    QUIRKS,
    REFUSED_SPOILS,
    ROLLBACK,
    UNREGISTERS_IN_USE,
)
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, QuirkHit, Refusal, Snapshot, Step

SMALL = topology("two-small")
MAPS = {"flags": BOTH, "vaddr": Page("m", 2), "iova": 0, "size": 2 * PAGE}
OK = Outcome(value=0)


@pytest.fixture
def two():
    it = Two()
    it.buffer()
    return it


# -- where a map leads that runs off its buffer


def test_the_rest_of_a_buffers_last_cpu_page_is_known_without_a_map_of_it():
    two = Two()
    both = facts("reference", views=("emulator",)), facts("guest")
    two.comparison = Comparison(*(replace(each, page_size=1 << 16) for each in both))
    made = Buffer(name="m", pages=2)
    assert two.done(made, Outcome(value=0x7000_0000), Outcome(value=0x7000_0000)) == []
    lies = [Outcome(value=0, frames=[base, base + PAGE]) for base in (0x10_0000, 0x90_0000)]
    assert two.done(Frames(buffer="m"), *lies) == []
    assert two.looked(snapshot(table({5: 0x10_F003})), snapshot(table({5: 0x90_F003}))) == []
    (difference,) = two.looked(snapshot(table({5: 0x10_F003})), snapshot(table({5: 0x90_E003})))
    assert difference.ioba == 5 * PAGE


def test_what_lies_right_behind_a_buffer_is_the_next_one_of_its_process(two):
    for name, at in (("n", 4), ("o", 4)):
        by = "p" if name == "o" else ""
        made = Buffer(name=name, pages=2, by=by)
        assert two.done(made, *(Outcome(value=base + at * PAGE) for base in (0x7000_0000, 0x6000_0000))) == []
        bases = [base + (by != "") * 2 * PAGE for base in (0x50_0000, 0xA0_0000)]
        lies = [Outcome(value=0, frames=[base, base + PAGE]) for base in bases]
        assert two.done(Frames(buffer=name, by=by), *lies) == []
    op = Ioctl(file="c", request="MAP_DMA", fields={**MAPS, "vaddr": Page("m", 3), "size": 3 * PAGE})
    sides = (0x10_9000, 0x50_0000), (0x90_9000, 0xA0_0000)
    seen = [Outcome(value=0, frames=[frame, base, base + PAGE]) for frame, base in sides]
    assert two.done(op, *seen) == [], "the pages behind are said to be those of `n`, where `n` lies"


# -- outcomes


@pytest.mark.parametrize(
    ("op", "expected", "seen", "texts"),
    [
        (Ioctl(file="c", request="ENABLE"), OK, Outcome(errno="EPERM"), ("errno EPERM", "value 0")),
        (Ioctl(file="c", request="ENABLE"), Outcome(errno="EBUSY"), OK, ("value 0", "EBUSY")),
        (Ioctl(file="c", request="ENABLE"), Outcome(errno="EBUSY"), Outcome(errno="EPERM"), ("EPERM", "EBUSY")),
        (Ioctl(file="c", request="UNMAP_DMA"), OK, Outcome(value=1), ("value 1", "value 0")),
        (Ioctl(file="c", request="MAP_DMA"), Outcome(value=1), Outcome(errno="EINVAL"), ("EINVAL", "value 1")),
        (Ioctl(file="c", request="ENABLE"), OK, Outcome(), ("value None", "value 0")),
        (Open(file="c", path="/dev/null"), Outcome(value=5), Outcome(value=-1), ("value -1", "value made")),
        (Open(file="c", path="/dev/null"), Outcome(errno="EBUSY"), Outcome(value=5), ("value made", "EBUSY")),
        (Read(what="vmlck"), Outcome(value=64), Outcome(value=60), ("value 60", "value 64")),
        (Master(file="d"), Outcome(value=6), Outcome(value=2), ("value 2", "value 6")),
        (Spawn(process="p"), OK, Outcome(errno="EAGAIN"), ("EAGAIN", "value 0")),
    ],
)
def test_what_an_operation_returned_is_compared(op, expected, seen, texts):
    (message,) = Two().done(op, expected, seen)
    assert message.startswith("operation 0 gives ")
    got, _, wanted = message.partition(", reference gives ")
    assert texts[0].removeprefix("errno ") in got
    assert texts[1] in wanted
    assert Two().done(op, expected, expected) == Two().done(op, seen, seen) == []


@pytest.mark.parametrize(
    ("op", "one", "other"),
    [
        (Open(file="c", path="/dev/null"), 5, 9),
        (Buffer(name="m", pages=1), 0x7000_0000, 0x6000_0000),
        (Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}), 7, 8),
        (Ioctl(file="g", request=0x20003B6A, fields={"name": "pe1"}), 7, 8),
        (Ioctl(file="g", request="ENABLE", into="d"), 7, 8),
    ],
)
def test_which_descriptor_or_address_it_became_is_each_kernels_own(op, one, other):
    assert Two().done(op, Outcome(value=one), Outcome(value=other)) == []


def test_output_fields_are_compared_each(two):
    op = Ioctl(file="c", request="SPAPR_TCE_GET_INFO")
    expected = Outcome(value=0, fields={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0x1000})
    seen = Outcome(value=0, fields={"flags": 0, "dma32_window_start": 0, "dma32_window_size": 0x2000})
    (message,) = two.done(op, expected, seen)
    assert "dma32_window_size 0x2000, reference gives dma32_window_size 0x1000" in message
    assert "flags" not in message
    (message,) = two.done(op, expected, Outcome(value=0, fields={"flags": 0, "dma32_window_start": 0}))
    assert "reference gives dma32_window_size 0x1000" in message
    (message,) = two.done(op, OK, seen)
    assert "flags 0x0" in message


def test_of_a_bound_device_all_is_compared_but_what_depends_on_the_order_of_finding_it(two):
    fields = {"address": "0001:00:01.0", "group": 1, "liobn": FIRST, "window_start": 0, "window_size": 64, "buid": 7}
    op = Bind(device="pe1")
    assert two.done(op, Outcome(value=0, fields=fields), Outcome(value=0, fields=fields | {"group": 4})) == []
    for name in ("liobn", "window_start", "window_size", "buid"):
        seen = Outcome(value=0, fields=fields | {name: 99})
        (message,) = two.done(op, Outcome(value=0, fields=fields), seen)
        assert f"gives {name} 0x63" in message


def test_of_a_repeat_the_calls_are_compared_and_not_its_time(two):
    op = Repeat(ops=[Ioctl(file="c", request="MAP_DMA", fields=MAPS)], times=9)
    one, other = ({"calls": 9, "seconds": seconds} for seconds in (0.0, 1.5))
    assert two.done(op, Outcome(value=0, fields=one), Outcome(value=0, fields=other)) == []
    (message,) = two.done(op, Outcome(value=0, fields=one), Outcome(errno="EFAULT", fields=other | {"calls": 3}))
    assert "EFAULT" in message
    assert "calls 3" in message
    (message,) = two.done(op, Outcome(errno="EFAULT", fields=one), Outcome(errno="EFAULT", fields=other | {"calls": 3}))
    assert message == "operation 4 gives calls 3, reference gives calls 9"


def test_locked_memory_is_compared_as_it_is_and_pins_from_the_first_reading_on(two):
    assert two.done(Read(what="pins"), Outcome(value=0), Outcome(value=7)) == []
    assert two.done(Read(what="pins"), Outcome(value=4), Outcome(value=11)) == []
    (message,) = two.done(Read(what="pins"), Outcome(value=4), Outcome(value=10))
    assert message == "operation 4 gives value 3, reference gives value 4"
    (message,) = two.done(Read(what="pins"), Outcome(errno="EACCES"), Outcome(value=11))
    assert "EACCES" in message
    assert len(two.done(Read(what="vmlck"), Outcome(value=0), Outcome(value=7))) == 1


def test_that_pages_are_there_is_compared_and_not_where(two):
    op = Ioctl(file="c", request="MAP_DMA", fields=MAPS)
    assert two.done(op, frames(2), frames(2, 0xA00)) == []
    (message,) = two.done(op, frames(2), Outcome(value=0, frames=[0xA00000, 0]))
    assert message.endswith("gives 1 of 2 frames, reference gives 2 of 2 frames")
    assert len(two.done(op, frames(2), OK)) == 1
    assert len(two.done(op, frames(2), frames(3))) == 1


def test_a_checkpoint_that_gave_nothing_is_not_compared(two):
    steps = (Step(0, Checkpoint(), snapshot=each) for each in (snapshot(), None))
    assert two.comparison.compare(*steps) == []


# -- tables


def test_tables_are_the_same_when_their_entries_lead_to_the_same_pages(two):
    expected = snapshot(table({0: ours(0), 9: ours(3, READ)}))
    assert two.looked(expected, snapshot(table({0: theirs(0), 9: theirs(3, READ)}))) == []


@pytest.mark.parametrize(
    ("live", "number", "texts"),
    [
        ({0: theirs(0)}, 9, ("m:3 (read)", "0 (empty)")),
        ({0: theirs(0), 9: theirs(3, READ), 12: theirs(1)}, 12, ("0 (empty)", "m:1 (read-write)")),
        ({0: theirs(0), 9: theirs(3, WRITE)}, 9, ("m:3 (read)", "m:3 (write)")),
        ({0: theirs(0), 9: theirs(2, READ)}, 9, ("m:3 (read)", "m:2 (read)")),
        ({0: theirs(1), 9: theirs(3, READ)}, 0, ("m:0 (read-write)", "m:1 (read-write)")),
        ({0: theirs(0), 9: 0x555001}, 9, ("m:3 (read)", "0x0000000000555001 (page 0x555000, read)")),
        ({0: theirs(0), 9: ours(3, READ)}, 9, ("m:3 (read)", "0x0000000000109001 (page 0x109000, read)")),
        ({0: theirs(0), 9: theirs(3, 0)}, 9, ("m:3 (read)", "m:3 (none)")),
    ],
    ids=["missing", "extra", "permission", "page", "first", "raw", "the other's frame", "no permission"],
)
def test_an_entry_that_differs_is_told_in_words(two, live, number, texts):
    (found,) = two.looked(snapshot(table({0: ours(0), 9: ours(3, READ)})), snapshot(table(live)))
    assert (found.liobn, found.ioba, found.expected, found.seen) == (FIRST, number * PAGE, *texts)
    where = f"LIOBN {FIRST:#x} IOBA {number * PAGE:#x}"
    assert found.message == f"{where}: the entry is {texts[1]}, reference has {texts[0]}"


def test_every_table_is_compared(two):
    expected = snapshot(table({}), table({1: ours(0)}, SECOND))
    assert two.looked(expected, snapshot(table({}), table({1: theirs(0)}, SECOND))) == []
    found = two.looked(expected, snapshot(table({1: theirs(0)}), table({}, SECOND)))
    assert [(each.liobn, each.ioba) for each in found] == [(FIRST, PAGE), (SECOND, PAGE)]


def test_a_table_of_another_size_or_that_one_alone_has_is_told(two):
    (found,) = two.looked(snapshot(table({})), snapshot(table({}, entries=8)))
    assert (found.message, found.liobn) == (f"LIOBN {FIRST:#x} has 8 entries, reference has 16", FIRST)
    found, entry = two.looked(snapshot(table({})), snapshot(table({}), table({1: 0x1003}, SECOND)))
    assert found.message == f"LIOBN {SECOND:#x} has 16 entries, reference has 0"
    assert (entry.liobn, entry.ioba, entry.expected) == (SECOND, PAGE, "0 (empty)")
    found, entry = two.looked(snapshot(table({}), table({1: 0x1003}, SECOND)), snapshot(table({})))
    assert found.message == f"LIOBN {SECOND:#x} has 0 entries, reference has 16"
    assert (entry.liobn, entry.ioba, entry.seen) == (SECOND, PAGE, "0 (empty)")
    (entry,) = two.looked(snapshot(table({})), snapshot(table({}), table({1: 0x1003}, SECOND, entries=0)))
    assert (entry.liobn, entry.ioba) == (SECOND, PAGE)
    assert two.looked(snapshot(table({})), snapshot(table({}), table({}, SECOND, entries=0))) == []


def test_no_view_at_all_is_no_empty_table(two):
    assert len(two.looked(snapshot(table({})), snapshot())) == 1
    assert len(two.looked(snapshot(table({})), snapshot(table({}, view="emulator")))) == 1


def test_the_view_of_every_checkpoint_is_compared_and_the_other_where_there_is_none(two):
    right, wrong = {0: theirs(0)}, {0: theirs(1)}
    expected = snapshot(table({0: ours(0)}))
    assert two.looked(expected, snapshot(table(wrong, view="stream"), table(right, view="live"))) == []
    assert len(two.looked(expected, snapshot(table(right, view="stream"), table(wrong, view="live")))) == 1
    assert len(two.looked(expected, snapshot(table(wrong, view="stream")))) == 1


def test_an_entry_is_the_same_difference_when_it_is_seen_again_and_another_one_when_it_changes(two):
    keys = [
        two.looked(snapshot(table({0: ours(0)})), snapshot(table({0: seen})))[0].key
        for seen in (theirs(1), theirs(1), theirs(2))
    ]
    assert keys[0] == keys[1] != keys[2]


# -- which frame is which page


def test_a_page_is_known_by_what_a_map_told_while_it_was_pinned():
    two = Two()
    assert two.done(Buffer(name="m", pages=4), Outcome(value=1 << 20), Outcome(value=1 << 21)) == []
    mapped = Ioctl(file="c", request="MAP_DMA", fields=MAPS)
    assert two.done(mapped, frames(2), frames(2, 0x900)) == []
    (found,) = two.looked(snapshot(table({0: ours(0)})), snapshot(table({0: theirs(1)})))
    assert (found.expected, found.seen) == ("m:2 (read-write)", "m:3 (read-write)")


def test_the_same_tables_are_compared_anew_once_more_frames_are_known():
    two = Two()
    assert two.done(Buffer(name="m", pages=4), Outcome(value=1 << 20), Outcome(value=1 << 21)) == []
    tables = table({0: ours(0)}, view="emulator"), table({0: theirs(0)})
    looks = [Step(0, Checkpoint(), snapshot=snapshot(each)) for each in tables]
    assert [len(two.comparison.compare(*looks)) for _ in range(2)] == [1, 1], "they are just numbers"
    assert two.done(Ioctl(file="c", request="MAP_DMA", fields=MAPS), frames(2), frames(2, 0x900)) == []
    assert two.comparison.compare(*looks) == []


def test_a_page_is_known_by_the_address_that_was_mapped():
    two = Two()
    assert two.done(Buffer(name="m", pages=4), Outcome(value=1 << 20), Outcome(value=1 << 20)) == []
    by_number = Ioctl(file="c", request="MAP_DMA", fields=MAPS | {"vaddr": (1 << 20) + 3 * PAGE, "size": PAGE})
    assert two.done(by_number, frames(1), frames(1, 0x900)) == []
    (found,) = two.looked(snapshot(table({0: ours(0)})), snapshot(table({})))
    assert found.expected == "m:3 (read-write)"


def test_memory_that_is_in_no_buffer_is_known_by_its_address():
    two = Two()
    mapped = Ioctl(file="c", request="MAP_DMA", fields=MAPS | {"vaddr": 0x5000})
    assert two.done(mapped, frames(2), frames(2, 0x900)) == []
    assert two.looked(snapshot(table({0: ours(0), 1: ours(1)})), snapshot(table({0: theirs(0), 1: theirs(1)}))) == []
    assert len(two.looked(snapshot(table({0: ours(0)})), snapshot(table({0: theirs(1)})))) == 1


def test_a_page_that_moved_is_known_by_its_new_frame(two):
    moved = Outcome(value=0, frames=[0xABC000])
    mapped = Ioctl(file="c", request="MAP_DMA", fields=MAPS | {"vaddr": Page("m"), "size": PAGE})
    assert two.done(mapped, frames(1), moved) == []
    assert two.looked(snapshot(table({0: ours(0)})), snapshot(table({0: 0xABC003}))) == []


def test_frames_that_nobody_told_are_compared_as_they_are():
    two = Two()
    assert two.looked(snapshot(table({0: 0x5003})), snapshot(table({0: 0x5003}))) == []
    assert len(two.looked(snapshot(table({0: 0x5003})), snapshot(table({0: 0x6003})))) == 1
    assert len(two.looked(snapshot(table({0: 0x5003})), snapshot(table({0: 0x5001})))) == 1


def test_a_frame_that_nobody_told_is_never_a_page_of_a_buffer(two):
    """Not even when the number of the frame is that of the page among all pages that are known."""
    for number in range(4):
        assert len(two.looked(snapshot(table({0: ours(number)})), snapshot(table({0: number * PAGE | BOTH})))) == 1


def test_an_address_in_the_rest_of_a_buffers_last_page_of_the_cpu_is_the_buffers():
    two, at = Two(), Outcome(value=0x7000_0000)
    sides = facts("reference", views=("emulator",)), facts()
    two.comparison = Comparison(*(replace(each, page_size=1 << 16) for each in sides))
    assert two.done(Buffer(name="m", pages=1), at, at) == []
    assert two.done(Frames(buffer="m"), frames(1), frames(1, 0x900)) == []
    fields = {"flags": BOTH, "vaddr": at.value + 8 * PAGE, "iova": 0, "size": PAGE}
    assert two.done(Ioctl(file="c", request="MAP_DMA", fields=fields), frames(1, 0x108), frames(1, 0x908)) == []


def test_entries_may_lead_to_memory_that_is_no_buffer(two):
    """It goes by the address that was mapped."""
    fields = {"flags": BOTH, "vaddr": 0x1234_5000, "iova": 0, "size": 2 * PAGE}
    assert two.done(Ioctl(file="c", request="MAP_DMA", fields=fields), frames(2, 0x500), frames(2, 0xA00)) == []
    one, other = 0x500 * PAGE | BOTH, 0xA00 * PAGE | BOTH
    assert two.looked(snapshot(table({0: one})), snapshot(table({0: other}))) == []
    assert len(two.looked(snapshot(table({0: one})), snapshot(table({0: other + 3 * PAGE})))) == 1


def test_entries_may_lead_to_memory_of_a_process_that_is_gone():
    two = Two()
    assert two.done(Spawn(process="p"), OK, OK) == []
    two.buffer("m", by="p")
    assert two.done(Exit(process="p"), OK, OK) == []
    assert two.looked(snapshot(table({0: ours(1)})), snapshot(table({0: theirs(1)}))) == []
    (found,) = two.looked(snapshot(table({0: ours(1)})), snapshot(table({0: theirs(2)})))
    assert (found.expected, found.seen) == ("m:1 (read-write)", "m:2 (read-write)")


def test_of_a_list_the_first_that_differs_is_told():
    one, other = [int(text) for text in ("1000000", "7", "8")], [int(text) for text in ("1000000", "9", "5")]
    assert (_of_list("ends", one, other), _of_list("ends", other, one)) == ("ends[1] 7", "ends[1] 9")
    assert _of_list("ends", one, one[:2]) == "3 ends"


# -- memory


def tagged(sequence, nonce=NONCE):
    return compact(tag(nonce, FIRST, 0, sequence) * 64)


def contents(one, other):
    """Snapshots with the content of page m:1 on either side."""
    return snapshot(pages={0x103 * PAGE: one}), snapshot(pages={0x903 * PAGE: other})


def test_memory_is_compared_byte_by_byte_where_both_runs_have_one_nonce(two):
    assert two.looked(*contents(tagged(1), tagged(1))) == []
    (found,) = two.looked(*contents(tagged(1), tagged(2)))
    assert "buffer m page 1 holds tag of LIOBN 0x80000100, IOBA 0x0, sequence 2" in found.message
    assert "reference has tag of LIOBN 0x80000100, IOBA 0x0, sequence 1" in found.message
    stray = bytearray(tagged(1) * 64)
    stray[4095] ^= 1
    assert len(two.looked(*contents(tagged(1), bytes(stray)))) == 1


def test_memory_is_compared_in_the_frames_that_are_known_by_then():
    two = Two()
    told = contents(tagged(1), tagged(2))
    assert two.looked(*told) == []
    assert two.done(Spawn(process="p"), OK, OK) == []
    two.buffer("m", by="p")
    assert len(two.looked(*told)) == 1
    assert two.done(Exit(process="p"), OK, OK) == []
    assert two.looked(*told) == []


def test_memory_is_not_compared_where_each_run_has_a_nonce_of_its_own():
    two = Two(nonce=OTHER)
    two.buffer()
    assert two.looked(*contents(tagged(1), tagged(1, OTHER))) == []


def test_memory_that_was_not_read_is_not_compared_and_one_that_is_not_there_differs(two):
    assert two.looked(snapshot(), contents(None, tagged(1))[1]) == []
    (found,) = two.looked(*contents(None, tagged(1)))
    assert found.expected == "no RAM"
    (found,) = two.looked(*contents(tagged(1), None))
    assert found.seen == "no RAM at that address"


def test_memory_of_a_process_that_is_gone_is_somebody_elses():
    two = Two()
    two.buffer("m", by="p")
    assert len(two.looked(*contents(tagged(1), tagged(2)))) == 1
    assert two.done(Exit(process="p"), OK, OK) == []
    assert two.looked(*contents(tagged(1), tagged(2))) == []


# -- refusals


def refused(address, size=8, direction="read"):
    return Refusal(direction, address, size, "line")


def refusals(expected, seen):
    return [
        (each.message, each.expected, each.seen, each.ioba)
        for each in Two().looked(snapshot(refusals=expected), snapshot(refusals=seen))
    ]


def test_an_access_that_one_refuses_and_the_other_does_not_is_told():
    none, some = "0 bytes refused", "4 bytes refused"
    text = "device reads at 0x5000"
    assert refusals([refused(0x5000, 4)], []) == [(f"{text}: {none}, reference says {some}", some, none, 0x5000)]
    assert refusals([], [refused(0x5000, 4)]) == [(f"{text}: {some}, reference says {none}", none, some, 0x5000)]
    assert len(refusals([refused(0x5000)], [refused(0x5000, direction="write")])) == 2
    assert len(refusals([refused(0x5000)], [refused(0x6000)])) == 2
    assert refusals([], []) == []


def test_an_access_may_be_told_in_words_that_begin_before_it():
    words = [refused(address) for address in range(0x4FF8, 0x5040, 8)]
    pieces = [refused(0x4FFE, 2), refused(0x5000, 0x3E)]
    assert refusals(pieces, words) == []
    assert len(refusals(pieces, words[:4])) == 1


def test_each_of_two_equal_accesses_must_be_refused_and_each_whole():
    assert refusals([refused(0x5000, 64)] * 2, [refused(0x5000 + i, 8) for i in range(0, 64, 8)] * 2) == []
    assert len(refusals([refused(0x5000, 64)] * 2, [refused(0x5000 + i, 8) for i in range(0, 64, 8)])) == 1
    assert len(refusals([refused(0x5000, 4096)], [refused(0x5000, 8)])) == 1


def test_two_pages_that_are_said_to_lie_in_one_frame_differ(two):
    (message,) = two.done(Frames(buffer="m"), frames(3), Outcome(value=0, frames=[0xA00000, 0xA01000, 0xA00000]))
    assert message.endswith("says that m:2 lies at 0xa00000, where m:0 lies")


def test_a_byte_of_a_disk_that_differs_is_told(two):
    one, other = (replace(snapshot(), disks={"disk1": bytes(600) + byte}) for byte in (b"\1", b"\2"))
    (found,) = two.looked(one, other)
    assert found.message == "the disk of disk1 holds 02 at byte 0x258, reference has 01"


def test_what_one_kernel_alone_says_differs(two):
    warn = ("WARNING: at x",)
    (alone,) = two.looked(snapshot(), snapshot(console=warn))
    assert (alone.message, alone.seen) == ("the kernel says WARNING: at x, reference says no trouble", warn[0])
    assert [each.expected for each in two.looked(snapshot(console=warn), snapshot())] == [warn[0]]
    assert two.looked(snapshot(console=warn), snapshot(console=warn)) == []


# -- the second opinion, of a reference that does as it is told


class Oracles:
    """:param answers: what a reference with these quirks says of a step; :param meets: which quirks it then met."""

    def __init__(self, answers, meets=lambda quirks, step: (), known=()):
        self.known = known
        self.asked = []
        self._answers, self._meets = answers, meets

    def open(self, quirks):
        met = []

        def follow(step):
            self.asked.append((quirks, step.number))
            met.extend(self._meets(quirks, step))
            answer = self._answers(quirks, step)
            if isinstance(answer, Exception):
                raise answer
            return replace(step, outcome=answer) if isinstance(answer, Outcome) else replace(step, snapshot=answer)

        def take():
            taken = [*met]
            met.clear()
            return taken

        return SimpleNamespace(facts=facts("reference"), follow=follow, take_quirk_hits=take)


CALLS = [Ioctl(file="c", request="ENABLE"), Ioctl(file="c", request="DISABLE"), Ioctl(file="c", request="ENABLE")]
LONG = Program(name="calls", topology=SMALL, ops=[*CALLS * 40, Read(what="vmlck"), Checkpoint()])


def opinion(references, *, declared=(), ledger=None, blame=lambda difference: None):
    ledger = ledger or Ledger(LONG, 200)
    return EmulatorComparison(ledger, facts(quirks=declared), references, blame), ledger


def feed(it, ledger, number, seen):
    op = LONG.ops[number]
    ledger.step = number
    step = Step(number, op, snapshot=seen) if isinstance(seen, Snapshot) else Step(number, op, seen)
    it.feed(step)


def opined(references, seen, **more):
    """Findings on a run whose operations gave these outcomes."""
    it, ledger = opinion(references, **more)
    for number, outcome in enumerate(seen):
        feed(it, ledger, number, outcome)
    it.explain()
    return ledger


def only(quirks, then, otherwise=OK, at=1):
    """Answers of references that give `then` for one step if they have these quirks."""
    return lambda has, step: then if step.number == at and has >= set(quirks) else otherwise


WRONG = Outcome(errno="EPERM")


def test_what_agrees_is_judged_and_told_to_nobody():
    ledger = opined(Oracles(lambda _, step: OK), [OK] * 3)
    assert (ledger.total, ledger.evidence.laws["difference"].judged) == (0, 3)


def test_what_differs_is_a_finding_with_its_operation():
    ledger = opined(Oracles(lambda _, step: OK), [OK, WRONG, OK])
    (finding,) = ledger.findings
    assert (finding.law, finding.step, finding.quirk) == ("difference", 1, "")
    assert (finding.expected, finding.seen) == ("value 0", "EPERM")
    assert finding.message == "operation 1 gives EPERM, reference gives value 0"
    assert finding.operation == '#1 {"op":"ioctl","file":"c","request":"DISABLE"}'


def test_a_counter_or_a_table_that_differs_is_blamed_on_what_came_before():
    asked = []

    def blame(difference):
        asked.append((difference.liobn, difference.ioba))
        return 2

    answers = {120: Outcome(value=5), 121: snapshot(table({3: 0x1003}))}
    it, ledger = opinion(Oracles(lambda _, step: answers[step.number]), blame=blame)
    feed(it, ledger, 120, Outcome(value=6))
    feed(it, ledger, 121, snapshot(table({})))
    assert [finding.operation[:2] for finding in ledger.findings] == ["#2", "#2"]
    assert asked == [(None, None), (FIRST, 3 * PAGE)]
    assert (ledger.findings[1].liobn, ledger.findings[1].ioba) == (FIRST, 3 * PAGE)


def test_a_counter_that_stays_off_by_as_much_is_told_once_of_what_did_it():
    it, ledger = opinion(Oracles(lambda *_: Outcome(value=14)))
    told = []
    for number, value in enumerate((14, 13, 13, 13, 12, 14, 13)):
        ledger.step = number
        it.feed(Step(number, Read(what="vmlck"), Outcome(value=value)))
        told.append(ledger.total)
    assert told == [0, 1, 1, 1, 2, 2, 3]


def test_a_declared_quirk_that_is_met_counts_and_one_that_is_not_is_told_with_0():
    references = Oracles(
        lambda *_: OK, meets=lambda quirks, step: [QuirkHit("a")] if step.number else [], known=("a", "b")
    )
    ledger = opined(references, [OK] * 3, declared=("a", "b"))
    assert (ledger.total, ledger.evidence.quirks) == (0, {"a": 2, "b": 0})


def test_what_a_declared_quirk_lost_is_excused_only_where_nothing_differs():
    lost = [QuirkHit("a", ((FIRST, 3),))]
    references = Oracles(lambda *_: WRONG, meets=lambda *_: lost, known=("a",))
    it, ledger = opinion(references, declared=("a",))
    feed(it, ledger, 0, WRONG)
    assert it.quirk_hits == lost
    feed(it, ledger, 1, OK)
    assert it.quirk_hits == []


def test_an_undeclared_quirk_that_explains_a_difference_is_named():
    references = Oracles(only(["b"], WRONG), known=("a", "b", "c"))
    (finding,) = opined(references, [OK, WRONG, OK]).findings
    assert finding.quirk == "b"
    assert finding.message.endswith("reference gives value 0; known and not declared: b")


def test_a_quirk_that_explains_only_without_another_one_is_named():
    hides = Oracles(
        lambda has, step: WRONG if step.number == 1 and has == {"a"} else OK,
        lambda has, step: [QuirkHit("b")] if "b" in has else [],
        known=("a", "b"),
    )
    (finding,) = opined(hides, [OK, WRONG, OK]).findings
    assert finding.quirk == "a"


def test_where_no_quirk_is_met_no_combination_of_them_is_asked():
    references = Oracles(only([], OK), known=("a", "b", "c"))
    opined(references, [OK, WRONG, OK, WRONG])
    assert {quirks for quirks, _ in references.asked} == {frozenset(), frozenset("abc")}


def test_two_quirks_that_are_needed_together_are_named_both_and_no_third():
    references = Oracles(only(["d", "b"], WRONG), known=("a", "b", "c", "d"))
    (finding,) = opined(references, [OK, WRONG, OK]).findings
    assert finding.quirk == "b, d"


def test_each_difference_is_explained_by_itself():
    def answers(has, step):
        wrong = {0: {"a"}, 1: {"b"}, 2: {"no such"}}[step.number] <= has
        return WRONG if wrong else OK

    ledger = opined(Oracles(answers, known=("a", "b")), [WRONG] * 3)
    assert [finding.quirk for finding in ledger.findings] == ["a", "b", ""]


def test_what_an_undeclared_quirk_explains_beside_a_declared_one_is_named_alone():
    references = Oracles(only(["a", "b"], WRONG), known=("a", "b"))
    (finding,) = opined(references, [OK, WRONG, OK], declared=("a",)).findings
    assert finding.quirk == "b"


def test_a_declared_quirk_that_does_not_show_is_named():
    references = Oracles(only(["a"], WRONG), lambda *_: [QuirkHit("a")], known=("a", "b"))
    (finding,) = opined(references, [OK] * 3, declared=("a", "b")).findings
    assert finding.quirk == "a"
    assert finding.message.endswith("; the declared quirk a does not show here")


def test_a_declared_quirk_that_the_oracle_did_not_meet_is_not_asked_about():
    references = Oracles(only(["a"], WRONG), lambda *_: [QuirkHit("b")], known=("a", "b", "c"))
    opined(references, [OK] * 3, declared=("a", "b", "c"))
    assert {quirks for quirks, _ in references.asked} == {frozenset("abc"), frozenset("ac")}


def test_what_no_quirk_explains_has_no_name():
    references = Oracles(only(["a"], Outcome(errno="EBUSY")), known=("a", "b"))
    (finding,) = opined(references, [OK, WRONG, OK]).findings
    assert (finding.quirk, finding.message) == ("", "operation 1 gives EPERM, reference gives value 0")


def test_without_a_difference_no_other_oracle_is_asked():
    references = Oracles(only(["a"], WRONG), known=("a", "b"))
    opined(references, [OK] * 3)
    assert {quirks for quirks, _ in references.asked} == {frozenset()}


def test_an_oracle_that_cannot_go_on_is_no_pass_and_is_asked_no_more():
    cannot = Unsupported("not modelled")
    references = Oracles(lambda _, step: cannot if step.number == 1 else OK)
    ledger = opined(references, [WRONG, OK, WRONG])
    assert ledger.reasons == ["the reference cannot follow from operation 1 on: not modelled"]
    assert [finding.step for finding in ledger.findings] == [0], "what was found before stands"
    assert [number for quirks, number in references.asked if not quirks] == [0, 1]
    assert ledger.evidence.laws["difference"].judged == 1


def test_an_oracle_that_dies_is_no_pass_either():
    ledger = opined(Oracles(lambda *_: GuestLost("gone", kernel_died=True)), [OK])
    assert (ledger.total, ledger.reasons) == (0, ["the reference cannot follow from operation 0 on: gone"])


def test_quirks_with_which_an_oracle_cannot_follow_explain_nothing():
    def answers(has, step):
        return Unsupported("no") if "a" in has and step.number == 0 else OK

    (finding,) = opined(Oracles(answers, known=("a",)), [OK, WRONG, OK]).findings
    assert finding.quirk == ""


def test_the_same_difference_is_told_once():
    expected, seen = snapshot(table({3: 0x1003})), snapshot(table({}))
    it, ledger = opinion(Oracles(lambda *_: expected))
    for _ in range(3):
        feed(it, ledger, 121, seen)
    assert (ledger.total, len(ledger.findings)) == (1, 1)


def test_the_first_differences_are_told_and_the_others_are_counted():
    ledger = opined(Oracles(lambda *_: OK), [WRONG] * (MOST + 7))
    assert [finding.step for finding in ledger.findings] == list(range(MOST))
    assert (ledger.total, ledger.evidence.laws["difference"].findings) == (MOST + 7, MOST + 7)


def test_parts_of_a_program_have_opinions_of_their_own():
    references = Oracles(lambda *_: snapshot(table({3: 0x1003})))
    both = [opinion(references), opinion(references)]
    for it, ledger in both:
        feed(it, ledger, 121, snapshot(table({})))
    assert ledgers_joined(LONG, [ledger for _, ledger in both]).total == 2


# -- the second opinion, of the emulator


class Guest:
    """A guest with known defects: an emulated machine that calls itself another platform, with frames of its own."""

    def __init__(self, has=(), declared=(), profile="linux-v1", where=SMALL):
        self.where = where
        self._machine = EmulatorSession(where, quirks=has, seed=77, nonce=NONCE, profile_name=profile)
        self.facts = replace(self._machine.facts, platform="guest", quirks=frozenset(declared))

    def __getattr__(self, name):
        return getattr(self._machine, name)


LOSES = (*enabled(), mapping(0, 2), mapping(0, 4, edge(2), None), look(), unmapping(0, 2), *closed())
POOR = Spawn(process="p", uid=NOBODY, memlock=WINDOW - 1)
MEETS = {
    MISALIGNED: (*enabled(), mapping(8, expect=None), look(), *closed()),
    ONE_PAGE: (*enabled(), unmapping(LAST, 2, None), mapping(LAST, 2, expect=None), look(), *closed()),
    PIN_FOR_WRITE: (*enabled(), mapping(0, 1, Page("ro"), None, READ), look(), *closed()),
    BINDS_EARLY: (*joined(), POOR, enable("ENOMEM", by="p"), enable(None), look(), ended("p"), *closed()),
    ROLLBACK: LOSES,
    NOT_AT_ZERO: (*enabled(), mapping(0, expect="ENXIO"), look(), *closed()),
    UNREGISTERS_IN_USE: (*in_use("p", None, None, None, None), look()),
    CLOSE_STRANDS: (*closed_first("p", None), look()),
    NOTHING_WARNS: (*nothing(None), look()),
    BELOW_PAGE: (*below_a_page(None, None), look()),
    PART_REGISTERS: (*in_part(None), look()),
    REFUSED_SPOILS: (*spoilt("p", "q", None, None), look()),
    CREATE_CHARGES: not_made("p", None, None, None),
}
WHERE = dict.fromkeys(MEETS, SMALL) | {NOT_AT_ZERO: topology("high-window")}
"""Programs that meet one quirk each. What they expect is what both kernels do; no expectation: it is the difference."""


def judged(guest, ops):
    tags = Tag(buffer="m", count=64, liobn=PE2)
    proof = (*enabled(2), mapping(0, pe=2), look(), *closed("g2", "c2"))
    made = Program(name="met", topology=guest.where, ops=[*rowkit.PROLOGUE, tags, *proof, charged(0), *ops, look()])
    judge = Judge(made, guest.facts, references=EmulatorReferences(guest.where, guest.facts))
    return judge.verdict(perform_program(made, guest, judge))


def test_there_is_a_program_for_each_quirk_of_a_call():
    assert MEETS.keys() == {name for name, quirk in QUIRKS.items() if not (quirk.event or quirk.apart)}


@pytest.mark.parametrize("quirk", MEETS)
def test_a_kernel_with_a_declared_quirk_passes_and_the_quirk_is_met(quirk):
    verdict = judged(Guest(has=[quirk], declared=[quirk], where=WHERE[quirk]), MEETS[quirk])
    assert ([finding.message for finding in verdict.findings], verdict.could_not) == ([], [])
    assert verdict.evidence.quirks.keys() == {quirk}
    assert verdict.evidence.quirks[quirk] >= 1


@pytest.mark.parametrize("quirk", MEETS)
def test_a_quirk_that_was_not_declared_is_a_finding_that_has_its_name(quirk):
    verdict = judged(Guest(has=[quirk], where=WHERE[quirk]), MEETS[quirk])
    assert verdict.exit_code == 1
    differences = [finding for finding in verdict.findings if finding.law == "difference"]
    assert differences
    assert {finding.quirk for finding in differences} == {quirk}


@pytest.mark.parametrize("quirk", MEETS)
def test_a_declared_quirk_that_the_kernel_does_not_have_is_a_finding(quirk):
    verdict = judged(Guest(declared=[quirk], where=WHERE[quirk]), MEETS[quirk])
    assert verdict.exit_code == 1
    differences = [finding for finding in verdict.findings if finding.law == "difference"]
    assert {finding.quirk for finding in differences} == {quirk}
    assert all("does not show here" in finding.message for finding in differences)


def test_a_kernel_with_no_quirk_passes_what_meets_them_all():
    for quirk, ops in MEETS.items():
        verdict = judged(Guest(where=WHERE[quirk]), ops)
        assert ([finding.message for finding in verdict.findings], verdict.result) == ([], "pass")


def test_more_entries_than_a_declared_quirk_loses_are_findings():
    class Worse(Guest):
        def perform(self, ops):
            out = []
            for op in ops:
                out += self._machine.perform([op])
                if out[-1].errno == "EFAULT":
                    self._machine.machine.pes[1].table.put(2, 0)
            return out

    ops = (*enabled(), mapping(0, 3), mapping(0, 4, edge(2), None), look(), *closed())
    verdict = judged(Worse(has=[ROLLBACK], declared=[ROLLBACK]), ops)
    assert {(finding.law, finding.ioba) for finding in verdict.findings} >= {
        ("difference", 2 * PAGE),
        ("table", 2 * PAGE),
    }
    assert not {finding.ioba for finding in verdict.findings} & {0, PAGE}
    assert verdict.evidence.quirks[ROLLBACK] >= 1


class Elsewhere(Guest):
    """A guest whose memory and descriptors are nowhere near where the emulator would have them."""

    def __init__(self):
        super().__init__()
        self.made = []

    def perform(self, ops):
        out = []
        for op in ops:
            if isinstance(op, Buffer | Open):
                self.made.append(0x1000_0000 * (len(self.made) + 1) if isinstance(op, Buffer) else 100 + len(self.made))
                self._machine.place(op, self.made[-1])
            out += self._machine.perform([op])
            assert not isinstance(op, Buffer | Open) or out[-1].value == self.made[-1]
        return out


def test_the_oracle_has_memory_and_descriptors_where_the_guest_had_them():
    """So that structs in memory, which name either, are the same bytes."""
    ops = (
        open_container(),
        open_group(),
        Put(buffer="rw", request="GROUP_SET_CONTAINER", fields={"container": "c"}),
        Ioctl(file="g", request="GROUP_SET_CONTAINER", value=Page("rw"), expect="ok"),
        Put(buffer="rw", request="MAP_DMA", offset=64, fields=MAPS | {"vaddr": Page("m", 3)}),
        look(),
        *closed(),
    )
    verdict = judged(Elsewhere(), ops)
    assert [finding.message for finding in verdict.findings] == []
    assert verdict.evidence.laws["difference"].judged > len(ops)


def test_a_profile_that_the_facts_name_is_the_one_that_is_asked():
    ops = (*joined(), mapping(0), mapping(0, expect="EBUSY"), look(), *closed())
    verdict = judged(Guest(profile="seed2013"), ops)
    assert [finding.message for finding in verdict.findings] == []


def test_a_guest_is_held_against_the_emulator_and_the_emulator_against_nothing():
    own = EmulatorSession(SMALL).facts
    assert second_opinion(SMALL, own) is None
    references = second_opinion(SMALL, replace(own, platform="qemu", page_size=65536))
    assert references.open(frozenset({ROLLBACK})).facts == replace(
        EmulatorSession(SMALL, quirks=[ROLLBACK], page_size=65536, nonce=own.nonce).facts
    )
