"""What probes are told: each lie about it is a finding that names the probe; silence is could-not-judge."""

import pytest
from heard import AT, Heard, nth, program
from msgspec import structs

from tcelab.judge import Judge
from tcelab.judge.laws.messages import _tellable
from tcelab.judge.ledger import MOST
from tcelab.judge.models.tablemodel import LiveEntry, TableModel
from tcelab.run.loop import perform_program
from tcelab.run.record import Apart, Run

MAP, UNMAP, READ = nth("MAP_DMA"), nth("UNMAP_DMA"), nth("Read")


SILENT = "QEMU complains of a probe: timed out"


def judged(**lies):
    session = Heard(**lies)
    watch = Judge(program(), session.facts)
    return watch.verdict(perform_program(program(), session, watch))


def test_what_is_told_truly_is_no_finding():
    verdict = judged()
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert verdict.evidence.steps["messages"] == 3
    assert verdict.evidence.laws["messages"].judged > 6
    assert verdict.evidence.told == 2 * (6 + 4)
    assert verdict.evidence.untold == 2 * 2  # the write-only entry, at two checkpoints


def one(change):
    """A lie to one probe about the first checkpoint."""
    return lambda label, device, live: change(live) if (label, device) == ("mapped", "pe1b") else live


def without(at):
    return lambda live: {key: each for key, each in live.items() if key != at}


def where(change, at=AT):
    return lambda live: {**live, at: change(live.get(at, (0x5000, 3, 4096)))}


@pytest.mark.parametrize(
    ("change", "ioba"),
    [
        (without(AT + 0x2000), AT + 0x2000),
        (without(AT + 0x10000), AT + 0x10000),
        (where(lambda each: each, AT + 0x5000), AT + 0x5000),
        (where(lambda each: (each[0] ^ 0x1000, *each[1:])), AT),
        (where(lambda each: (each[0], 1, 4096)), AT),
        (where(lambda each: (each[0], 3, 4096), AT + 0x20000), AT + 0x20000),
        (where(lambda each: (each[0], 1, 4096), AT + 0x10000), AT + 0x10000),
        (where(lambda each: (*each[:2], 8192)), AT),
        (where(lambda each: each, 1 << 32), 1 << 32),
    ],
    ids=[
        "missing",
        "missing write-only",
        "too many",
        "other page",
        "read-only",
        "writable",
        "not writable",
        "longer",
        "far",
    ],
)
def test_a_mapping_that_is_told_otherwise_is_a_finding(change, ioba):
    verdict = judged(live=one(change))
    assert [(each.law, each.ioba, each.view) for each in verdict.findings] == [("messages", ioba, "messages")]
    assert "pe1b" in verdict.findings[0].message


def test_what_is_mapped_in_no_window_is_counted_to_the_last():
    far = {(1 << 32) + 4096 * number: (0x5000, 3, 4096) for number in range(MOST + 3)}
    verdict = judged(live=one(lambda live: {**live, **far}))
    assert verdict.evidence.laws["messages"].findings >= MOST + 3


def told(number, *runs):
    return lambda at, device, true: [Run(*each) for each in runs] if (at, device) == (number, "pe1") else true


@pytest.mark.parametrize(
    "lie",
    [
        told(UNMAP),
        told(UNMAP, (False, AT + 0x1000, 4096, 1)),
        told(UNMAP, (False, AT + 0x1000, 4096, 3)),
        told(UNMAP, (False, AT + 0x2000, 4096, 1), (False, AT + 0x1000, 4096, 1)),
        told(UNMAP, (True, AT + 0x1000, 4096, 2)),
        told(UNMAP, (False, AT + 0x1000, 8192, 1)),
        told(UNMAP, (False, 0, 4096, 9), (False, AT + 0x1000, 4096, 2)),
        told(MAP, (False, 0, 4096, 4096)),
        told(MAP, (True, 0, 4096, 1), (True, AT, 4096, 4)),
        told(READ, (False, AT, 4096, 1)),
        told(nth("Tag"), (True, AT, 4096, 1)),
    ],
    ids=[
        *("none", "one too few", "one too many", "out of order", "of the other kind", "two in one"),
        *("a window that was there is emptied", "after emptying none", "mapped while emptied", "late", "from nowhere"),
    ],
)
def test_messages_other_than_one_for_each_page_in_order_are_a_finding(lie):
    verdict = judged(during=lie)
    assert [each.law for each in verdict.findings] == ["messages"]
    assert verdict.findings[0].liobn == 0x80000100
    assert "the probe pe1 got other messages during operation" in verdict.findings[0].message


def test_an_unmap_that_is_told_one_message_late_is_a_finding_in_both_ways():
    late = {
        "during": lambda at, device, true: [structs.replace(true[-1], count=1)] if at == UNMAP else true,
        "live": lambda label, _, live: {**live, AT + 0x2000: (0, 3, 4096)} if label == "unmapped" else live,
    }
    found = judged(**late).findings
    assert {(each.law, each.ioba) for each in found} == {("messages", None), ("messages", AT + 0x2000)}


def test_a_view_that_is_missing_is_no_pass():
    verdict = judged(missing="QEMU complains of a probe: timed out")
    assert verdict.exit_code == 125
    assert any(
        "the messages view is missing: QEMU complains of a probe: timed out" in each for each in verdict.could_not
    )


def transfer(number, *piece):
    return lambda at, device: [Apart(*piece)] if (at, device) == (number, "pe1b") else []


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ((AT, 64, True, 0, 14), "QEMU's table says allowed, the probe's own, made of messages, EFAULT"),
        ((AT + 0x20000, 64, True, 19, 0), "to write 64 bytes at 0x30000: QEMU's table says ENODEV"),
        ((AT + 0x30000, 64, False, 19, 0), "to read 64 bytes at 0x40000: QEMU's table says ENODEV"),
        ((AT + 0x10000, 64, True, 19, 0), "to write 64 bytes at 0x20000: QEMU's table says ENODEV"),
    ],
)
def test_two_verdicts_on_one_transfer_are_a_finding(piece, said):
    (found,) = judged(apart=transfer(READ, *piece)).findings
    assert (found.law, found.ioba, found.view) == ("messages", piece[0], "messages")
    assert said in found.message


def test_of_a_read_through_a_write_only_entry_no_message_tells():
    piece = {"to_memory": False, "theirs": 19, "own": 0}
    assert judged(apart=transfer(READ, AT + 0x10000, 64, *piece.values())).findings == []


@pytest.mark.parametrize(
    ("word", "told", "untold"),
    [
        (0x5000, None, 1),
        (0x5001, 0x5001, 0),
        (0x5002, 0x5003, 1),
        (0x5003, 0x5003, 0),
        (0x5FFF, 0x5003, 0),
        (1 << 28 | 3, None, 1),
        ((1 << 28) - 4096 | 3, (1 << 28) - 4096 | 3, 0),
        (1 << 63 | 3, None, 1),
    ],
)
def test_an_entry_is_told_as_far_as_a_message_can(word, told, untold):
    model = TableModel(0x80000100, 4096)
    model.put(7, [LiveEntry(word & 3, "", 0, None, None, 1, raw=word)], 1)
    (index, words), count = _tellable(model, 1 << 28)
    seen = dict(zip(index.tolist(), words.tolist(), strict=True))
    assert (seen, count) == ({} if told is None else {7: told}, untold)
