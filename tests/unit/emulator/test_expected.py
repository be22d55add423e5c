"""What a program expects is judged of each operation, or is refused: no `expect` is passed over."""

from __future__ import annotations

import json

import fast_story as fast
import pytest
from every_operation import BEFORE, DMA, ONE_OF_EACH, before, checked, named
from isolation_story import TWO_DEVICES, opened, program, read, write
from msgspec import structs
from story import ONE, SMALL

from tcelab import program as p
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.reference import second_opinion
from tcelab.errors import UsageError
from tcelab.judge import Judge
from tcelab.judge.laws.outcome import as_expected
from tcelab.program import Program
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, Step

NOTHING = 77777
"""What nothing gives."""
BLIND = (p.Checkpoint, p.Fresh)
TRANSFERS = (p.Dma, p.Together, p.Burst, p.Doorbell, p.DmaMove)


@pytest.mark.parametrize("expect", ["ok", "EINVAL", "EIO", 0, NOTHING], ids=str)
@pytest.mark.parametrize("op", ONE_OF_EACH, ids=named)
def test_each_operation_honours_what_is_expected_of_it_or_refuses_it(op, expect):
    op = structs.replace(op, expect=expect)
    why = checked(op)
    if isinstance(op, BLIND):
        assert f"expect {expect!r} of a {named(op).lower()}, which gives nothing that could be expected" in why
        return
    assert "expect" not in why
    first = before(op)
    made = Program(name="p", topology=SMALL, ops=[*first, op])
    watch = Judge(made, EmulatorSession(SMALL).facts)
    for number, each in enumerate(first):
        watch.feed(Step(number, each, Outcome(value=0, fields={"group": "1"})))
    watch.feed(Step(len(first), op, Outcome(errno="EXDEV")))
    (found,) = [each for each in watch.ledger.findings if each.law == "outcome"]
    assert (found.expected, found.seen.split()[0]) == (str(expect), "EXDEV")


@pytest.mark.parametrize("op", [op for op in ONE_OF_EACH if not isinstance(op, BLIND)], ids=named)
def test_what_honours_it_gives_something_that_can_be_held_against_it(op):
    """Of a session: an outcome, and no look at the guest, of which no law of outcomes hears."""
    if isinstance(op, p.Native):
        return  # a real guest's own program; the agent gives its outcomes as it does all others
    ops = [*before(op), structs.replace(op, expect=NOTHING)]
    done = perform_program(Program(name="p", topology=SMALL, ops=ops), EmulatorSession(SMALL))
    assert done.ending is None
    assert done.steps[-1].outcome is not None
    assert not as_expected(done.steps[-1], done.steps[-1].outcome)


@pytest.mark.parametrize("word", ["passed", "refused"])
@pytest.mark.parametrize("op", ONE_OF_EACH, ids=named)
def test_transfers_alone_are_passed_or_refused(op, word):
    why = checked(structs.replace(op, expect=word))
    if isinstance(op, TRANSFERS):
        assert "expect" not in why
    elif not isinstance(op, BLIND):
        assert why.endswith(f"expect {word!r} is for transfers alone: dma, together, burst, doorbell, dmamove")
    else:
        assert "gives nothing" in why


@pytest.mark.parametrize("word", ["passed", "refused"])
@pytest.mark.parametrize(
    "op",
    [
        structs.replace(DMA, size=0),
        p.Together(ops=[structs.replace(DMA, size=0)]),
        p.Burst(file=ONE.device, transfers=[p.Transfer(0, 8, to_memory=False), p.Transfer(0, 0, to_memory=False)]),
    ],
    ids=named,
)
def test_a_transfer_of_nothing_is_neither_passed_nor_refused(op, word):
    assert checked(structs.replace(op, expect=word)).endswith(
        f"expect {word!r} of a transfer of 0 bytes, which is none"
    )
    assert checked(structs.replace(op, expect="ok")) == ""


@pytest.mark.parametrize("word", ["passed", "refused"])
def test_what_is_done_together_has_it_as_a_whole(word):
    assert "no by or expect of their own" in checked(p.Together(ops=[structs.replace(DMA, expect=word)]))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ({"op": "checkpoint", "expect": "EINVAL"}, "expect 'EINVAL' of a checkpoint, which gives nothing"),
        ({"op": "fresh", "expect": "EIO"}, "expect 'EIO' of a fresh, which gives nothing"),
        ({"op": "bind", "device": "pe1", "expect": "refused"}, "expect 'refused' is for transfers alone"),
        ({"op": "dma", "file": "d", "iova": 0, "size": 8, "to_memory": True, "expect": "pased"}, "passed is one"),
    ],
)
def test_a_file_with_what_cannot_be_expected_is_no_program(op, why):
    data = json.dumps({"name": "p", "topology": "one-pe", "ops": [{"op": "checkpoint"}, op]}).encode()
    with pytest.raises(UsageError, match=why) as caught:
        p.from_json(data, "mine.json")
    assert caught.value.message.startswith("mine.json, operation 1: ")


# -- what became of a transfer


def judged(made, session=EmulatorSession):
    """What is found, and what could not be judged."""
    validate(made)
    there = session(made.topology)
    watch = Judge(made, there.facts, references=second_opinion(made.topology, there.facts))
    verdict = watch.verdict(perform_program(made, there, watch))
    return [(each.law, each.message) for each in verdict.findings], verdict.could_not


def found(made, *, number):
    """The one finding of a program; empty if there is none."""
    findings, could_not = judged(made)
    assert could_not == []
    if not findings:
        return ""
    ((law, message),) = findings
    assert (law, message.split()[:2]) == ("outcome", ["operation", str(number)])
    return message.partition("): ")[2]


NO_ENTRY = "its table refuses it: no entry at IOBA 0x40000"
ALONE = [
    (write("pe1"), "", "the transfer must be refused; its table lets it through at IOBA 0x20000 (all passed)"),
    (read("pe1", 0x30000), "", "its table lets it through at IOBA 0x30000 (all passed)"),
    (read("pe1", 0x40000), f"the transfer must pass; {NO_ENTRY} (all refused)", ""),
    (write("pe1", 0x30000), "its table refuses it: no permission at IOBA 0x30000 (all refused)", ""),
    (write("pe1", 4 << 20), "it is refused: outside the window at IOBA 0x400000 (all refused)", ""),
    (
        write("pe1", 0x20FC0, 128),
        "no entry at IOBA 0x21000 (1 of 2 pieces refused)",
        "lets it through at IOBA 0x20fc0 (1 of 2 pieces passed)",
    ),
    (
        p.Together(ops=[read("pe1"), write("pe2")]),
        "",
        "each transfer must be refused; its table lets it through at IOBA 0x20000 (all passed)",
    ),
    (
        p.Together(ops=[read("pe1"), write("pe2", 0x40000)]),
        f"each transfer must pass; {NO_ENTRY} (1 of 2 pieces refused)",
        "(1 of 2 pieces passed)",
    ),
    (p.Together(ops=[read("pe1", 0x40000), write("pe2", 0x40000)]), f"{NO_ENTRY} (all refused)", ""),
]


@pytest.mark.parametrize("word", ["passed", "refused"])
@pytest.mark.parametrize(("op", "not_passed", "not_refused"), ALONE)
def test_a_transfer_is_held_against_what_is_to_become_of_it(op, not_passed, not_refused, word):
    said = found(program(structs.replace(op, expect=word), isolation=False), number=len(opened()))
    wanted = not_passed if word == "passed" else not_refused
    assert wanted in said
    assert bool(wanted) == bool(said)


def test_so_is_one_of_a_device_that_may_not_master_the_bus():
    off = p.Master(file="pe1", on=False)
    ops = [off, structs.replace(write("pe1"), expect="refused"), structs.replace(write("pe1"), expect="passed")]
    said = found(program(*ops, isolation=False), number=len(opened()) + 2)
    assert said == "the transfer must pass; it is refused: bus master off at IOBA 0x20000 (all refused)"


HOLE, READS = fast.gives(fast.at(2)), fast.takes(fast.at(0))


@pytest.mark.parametrize("word", ["passed", "refused"])
@pytest.mark.parametrize(
    ("transfers", "not_passed", "not_refused"),
    [
        ([READS] * 5, "", "each transfer must be refused; its table lets it through (all passed)"),
        ([READS, HOLE, READS], "no entry at IOBA 0x12000 (1 of 3 pieces refused)", "(2 of 3 pieces passed)"),
        ([HOLE, HOLE], "each transfer must pass; its table refuses it: no entry at IOBA 0x12000 (all refused)", ""),
    ],
)
def test_so_is_a_burst_of_a_disk(transfers, not_passed, not_refused, word):
    made = fast.program(p.Burst(file="disk", transfers=transfers, expect=word))
    findings, _ = judged(made)
    said = "".join(message for law, message in findings if law == "outcome")
    wanted = not_passed if word == "passed" else not_refused
    assert wanted in said
    assert bool(wanted) == bool(findings)


@pytest.mark.parametrize("word", ["passed", "refused"])
@pytest.mark.parametrize("got", [Outcome(value=(1 << 64) - 1), Outcome(errno="ETIMEDOUT"), Outcome()], ids=str)
def test_a_transfer_that_did_not_end_is_neither(word, got):
    ops = [*opened(), structs.replace(write("pe1"), expect=word)]
    there = EmulatorSession(TWO_DEVICES)
    watch = Judge(Program(name="p", topology=TWO_DEVICES, ops=ops), there.facts)
    perform_program(Program(name="p", topology=TWO_DEVICES, ops=ops[:-1]), there, watch)
    assert watch.ledger.findings == []
    watch.feed(Step(len(ops) - 1, ops[-1], got))
    (outcome,) = [each for each in watch.ledger.findings if each.law == "outcome"]
    assert outcome.expected == word


def test_a_transfer_of_a_file_that_is_no_device_could_not_be_judged():
    """Whoever says that it ended."""
    op = structs.replace(DMA, file=ONE.group, expect="refused")
    first = before(op)
    made = Program(name="p", topology=SMALL, ops=[*first, op])
    watch = Judge(made, EmulatorSession(SMALL).facts)
    for number, each in enumerate(made.ops):
        watch.feed(Step(number, each, Outcome(value=0, fields={"group": "1"})))
    assert f"nobody knows what became of the transfer of operation {len(BEFORE)}" in watch.ledger.reasons
