"""Each finding names the operation that did it, says addresses in hex, and where the first difference is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from ideal import Ideal
from lies import CONTROL, MAP, UNMAP, put, ram, say_refusal
from msgspec import structs
from story import FIRST, ONE, SECOND, SMALL, TWO, after, nth, on, see, story

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.judge.blame import _touches, difference
from tcelab.judge.ledger import last_ioctl, op_text
from tcelab.program import Burst, Call, Checkpoint, Dma, Hcall, Ioctl, Page, Program, Tce, Transfer, pagetags
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome
from tcelab.scenarios import vocabulary as b

LATER = [
    *b.buffer("c", 1, 9),
    *b.dma(ONE, 0x60000, 16, to_memory=False),
    *b.dma(ONE, 0x60000, 16, to_memory=True),
    *b.checkpoint("later", stream=True),
]
"""Operations behind the checkpoint `unmapped` of the story: of which the table knows nothing, and two transfers."""


def longer(*more):
    """The story with operations behind its checkpoint `unmapped`."""
    ops = list(story().ops)
    at = nth("unmapped") + 1
    ops[at:at] = more
    return Program(name="story", topology=SMALL, ops=ops, seed=1)


def judged(program, **lies):
    session = Ideal(program, **lies)
    watch = Judge(program, session.facts)
    return watch.verdict(perform_program(program, session, watch))


def named(finding):
    return int(finding.operation.split()[0][1:])


def only(verdict):
    (finding,) = verdict.findings
    return finding


def test_a_size_that_differs_names_the_last_that_was_stored_before_and_nothing_that_comes_later():
    ops = [*b.buffer("c", 1, 9), Checkpoint(label="early"), *b.map_dma(ONE, Page("c"), 0, 1, 3)]
    early, mapped = len(ops) - 2, len(ops) - 1
    ops += [Checkpoint(label="late"), Checkpoint(label="later"), *b.unmap_dma(ONE, 0, 1)]
    where = ("size", 0x80000100), (0x80000100, None)
    for step, named_ in ((early, None), (mapped + 1, mapped), (mapped + 2, mapped), (mapped + 4, mapped + 3)):
        ledger = SimpleNamespace(program=Program(name="p", topology=SMALL, ops=ops), step=step)
        assert difference(ledger, SimpleNamespace(tables={}), *where) == named_
        assert last_ioctl(ledger) == named_


@pytest.mark.parametrize(
    ("iova", "size", "touched"),
    [(0x5000, 0x1000, [5]), (0x5FFF, 1, [5]), (0x5FFF, 2, [5, 6]), (0x5000, 0, [5]), (0x4FFF, 0x1002, [4, 5, 6])],
)
def test_a_transfer_touches_each_page_that_it_has_a_byte_of(iova, size, touched):
    transfer = Transfer(iova, size, to_memory=True)
    assert [page for page in range(3, 8) if _touches(transfer, page * 4096)] == touched


# -- entries


def test_an_entry_in_the_table_of_another_pe_names_what_was_done_since_it_was_not_there():
    finding = only(judged(story(), **after(UNMAP, put(SECOND, 0x70, lambda _: 0x7003))))
    assert (finding.liobn, finding.ioba, named(finding)) == (SECOND, 0x70000, UNMAP)
    assert f"it came between step {nth('refused')} and step {nth('unmapped')}" in finding.message


def test_an_entry_that_comes_before_the_first_checkpoint_names_the_last_map():
    finding = only(judged(story(), **after(MAP, put(SECOND, 0x70, lambda _: 0x7003))))
    assert named(finding) == nth("MAP_DMA", 3)
    assert "it came before step" in finding.message


def test_an_entry_that_comes_long_after_an_unmap_there_is_new_and_blamed_on_what_was_done_since():
    """The entry at 0x11000 was unmapped, and looked at: what comes there now, that unmap has not left."""
    program = longer(*b.unmap_dma(TWO, 0x20000, 1), *b.checkpoint("other"))
    at = nth("unmapped") + 1
    finding = only(judged(program, **after(at, put(FIRST, 0x11, lambda _: 0x5003))))
    assert named(finding) == at
    assert "there is an entry that no operation made" in finding.message


def test_an_entry_that_survives_its_own_unmap_is_blamed_on_that():
    finding = only(judged(story(), **after(UNMAP, put(FIRST, 0x11, lambda _: 0x5003))))
    assert named(finding) == UNMAP
    assert "survived its removal" in finding.message
    assert "it came" not in finding.message


def test_a_table_that_is_missing_names_what_may_have_removed_it():
    verdict = judged(story(), **see(on(SECOND, lambda _: None), label="unmapped"))
    assert {named(each) for each in verdict.findings} == {UNMAP}


def test_where_only_transfers_were_done_the_last_of_them_is_named():
    program = longer(*LATER)
    at = nth("unmapped") + len(LATER) - 1
    finding = only(judged(program, **after(at, put(SECOND, 0x70, lambda _: 0x7003))))
    assert named(finding) == at


# -- tables of another page size


def test_a_table_of_another_page_size_is_that_and_no_difference_of_the_views():
    """The state stream shows 16 times as few entries, each in its place."""

    def coarse(shown):
        return replace(shown, page_shift=16, entries=64, index=shown.index[:1], tce=shown.tce[:1])

    verdict = judged(story(), **see(on(SECOND, coarse), view="stream", label="unmapped"))
    assert [(each.law, each.view) for each in verdict.findings] == [("inventory", "stream")]


def test_a_table_with_pages_of_another_size_in_both_views_is_one_finding():
    def coarse(shown):
        return replace(shown, page_shift=16, index=shown.index // 16, tce=shown.tce)

    def both(shown):
        found = coarse(shown)
        _, first = np.unique(found.index, return_index=True)
        return replace(found, index=found.index[first], tce=found.tce[first])

    verdict = judged(story(), **see(on(FIRST, both), label="unmapped"))
    assert [(each.law, each.view) for each in verdict.findings] == [("inventory", "live, stream")]
    assert "page shift 16" in verdict.findings[0].seen


# -- memory and transfers


def test_what_a_transfer_left_in_a_page_names_the_transfer():
    at = nth("unmapped") + len(LATER) - 1
    verdict = judged(longer(*LATER), **after(at, ram("a", 7, b"zz")))
    assert named(only(verdict)) == at


def test_what_changes_on_a_canary_while_only_a_device_wrote_names_its_transfer():
    at = nth("unmapped") + len(LATER) - 1
    finding = only(judged(longer(*LATER), **after(at, ram("a", 6, b"zz"))))
    assert (finding.law, named(finding)) == ("memory", at)


def test_an_unexplained_refusal_names_the_transfer_to_that_page_or_the_last_one():
    finding = only(judged(story(), **after(nth("Dma", 2), say_refusal("read", 0x60010))))
    assert named(finding) == nth("Dma", 3)
    finding = only(judged(story(), **after(CONTROL, say_refusal("read", 0x123000))))
    assert named(finding) == CONTROL


def test_a_warning_names_the_last_operation_that_asked_the_kernel_for_something():
    finding = only(judged(story(), **after(UNMAP, lambda s: s.console.append("WARNING: CPU: 0 PID: 1 at x.c:1"))))
    assert named(finding) == UNMAP
    assert f"between step {nth('refused')} and step {nth('unmapped')}" in finding.message


class Guest:
    """An emulated machine that calls itself another platform, and changes a page after the operation `at`."""

    def __init__(self, at, change):
        self._machine = EmulatorSession(SMALL, seed=77, nonce=bytes(16))
        self.facts = replace(self._machine.facts, platform="guest")
        self._at, self._change, self._number, self.frames = at, change, -1, {}

    def perform(self, ops):
        out = []
        for op in ops:
            self._number += 1
            (outcome,) = self._machine.perform([op])
            if type(op).__name__ == "Frames":
                self.frames[op.buffer] = outcome.frames
            if self._number == self._at:
                self._change(self._machine, self.frames)
            out.append(outcome)
        return out

    def intervene(self, op, frames):
        self._number += 1
        return self._machine.intervene(op, frames)

    def __getattr__(self, name):
        return getattr(self._machine, name)


def test_a_difference_in_what_a_transfer_left_names_the_transfer():
    """And not the last ioctl before it."""
    program = longer(*LATER)
    at = nth("unmapped") + len(LATER) - 1

    def change(machine, frames):
        machine.machine.ram.write(frames["a"][7] + 40, b"zz")

    session = Guest(at, change)
    watch = Judge(program, session.facts, references=EmulatorReferences(SMALL, session.facts))
    verdict = watch.verdict(perform_program(program, session, watch))
    assert {each.law for each in verdict.findings} == {"difference", "tag"}
    assert {named(each) for each in verdict.findings} == {at}
    assert all("at byte 0x28" in each.message for each in verdict.findings)


# -- words


def page(*changes, base=b""):
    content = bytearray((base or bytes(range(64))) * 64)
    for at, byte in changes:
        content[at] = byte
    return pagetags.compact(bytes(content))


@pytest.mark.parametrize("at", [0, 33, 63])
def test_data_that_differs_behind_its_first_32_bytes_is_shown_where_it_differs(at):
    other = bytearray(range(64))
    other[at] ^= 0xFF
    expected, seen = pagetags.contrast(bytes(range(64)), bytes(other))
    assert expected != seen.split(" (")[0]
    assert expected.endswith(f" at byte {at:#x}")
    assert seen.endswith(f" at byte {at:#x} (64 bytes differ)")


def test_a_tag_whose_page_ends_in_other_bytes_is_shown_where_it_ends():
    own = pagetags.tag(bytes(16), FIRST, 0x1000, 1)
    expected, seen = pagetags.contrast(own, page((4000, own[4000 % 64] ^ 1), base=own))
    assert expected.endswith("at byte 0xfa0")
    assert seen.endswith("at byte 0xfa0 (1 byte differs)")


def test_tags_and_zeros_are_told_by_name_and_data_by_its_bytes():
    own, other = (pagetags.tag(bytes(16), FIRST, ioba, 1) for ioba in (0x1000, 0x2000))
    assert pagetags.contrast(own, other) == (pagetags.describe(own), pagetags.describe(other))
    assert pagetags.contrast(own, bytes(64)) == (pagetags.describe(own), "zeros")
    assert pagetags.contrast(bytes(64), bytes(range(64)))[0] == "zeros"
    assert pagetags.contrast(bytes(64), bytes(range(64)))[1].startswith("0102030405")
    assert pagetags.contrast(None, own) == ("a page of guest RAM", pagetags.describe(own))
    assert pagetags.contrast(own, None)[1] == "no RAM at that address"


def test_addresses_in_operations_are_hex():
    told = [
        op_text(Dma(file="d", iova=0x60000, size=64, to_memory=True)),
        op_text(Ioctl(file="c", request="UNMAP_DMA", fields={"iova": 0x11000, "size": 0})),
        op_text(Ioctl(file="c", request="MAP_DMA", fields={"vaddr": 0x7FFF0000, "iova": 0, "size": 4096, "flags": 3})),
        op_text(Hcall(call=Call("H_PUT_TCE", [FIRST, 0x12000, Tce("m", 1)]))),
        op_text(Burst(file="d", transfers=[Transfer(0x5000 + i, 8, to_memory=True) for i in range(9)])),
    ]
    assert '"iova":"0x60000"' in told[0]
    assert '"fields":{"iova":"0x11000","size":0}' in told[1]
    assert '"vaddr":"0x7fff0000","iova":"0x0","size":4096' in told[2]
    assert '"args":["0x80000100","0x12000",{' in told[3]
    assert '"transfers":[["0x5000",8,true,0],["0x5001",8,true,0],["0x5002",8,true,0],"and 6 more"]' in told[4]
    assert all(msgspec.json.decode(each) for each in told)


def test_an_outcome_that_is_wrong_is_told_with_addresses_in_hex():
    finding = judged(story(), **after(UNMAP, lambda _: Outcome(value=1))).findings[0]
    assert finding.law == "outcome"
    assert "(ioctl UNMAP_DMA) gave value 1, expected ok" in finding.message
    assert '"iova":"0x11000"' in finding.operation
    assert str(0x11000) not in finding.message + finding.operation


def test_a_register_that_differs_is_the_one_that_is_told_in_hex():
    ops = [
        *b.buffer("m", 1, 1),
        Hcall(call=Call("H_GET_TCE", [FIRST, 0x3000])),
        *b.checkpoint("end"),
    ]
    program = Program(name="p", topology=SMALL, ops=ops)

    class Other(Guest):
        def perform(self, ops):
            out = super().perform(ops)
            return [
                structs.replace(each, fields={**each.fields, "registers": [0x5003, *each.fields["registers"][1:]]})
                if isinstance(op, Hcall)
                else each
                for op, each in zip(ops, out, strict=True)
            ]

    session = Other(-1, None)
    watch = Judge(program, session.facts, references=EmulatorReferences(SMALL, session.facts))
    found = watch.verdict(perform_program(program, session, watch)).findings
    (difference,) = [each for each in found if each.law == "difference"]
    assert difference.seen.startswith("r4 of call 0 page ")
    assert str(FIRST) not in difference.message
