"""The law of disks, and what the judge makes of transfers that went wrong, late, or in part."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from fast_story import FAST, ONE, RING, at, engine, gives, opened, program, read, takes, write

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.program import Burst, Checkpoint, Close, Fill, Ioctl, Master, Page, Program, Put, Rtas, Spawn, diskcontent
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, Refusal, Snapshot
from tcelab.scenarios import vocabulary as b

FRESH = diskcontent.fresh("disk1")


class Liar(EmulatorSession):
    """What the emulator says, changed: `lies` by the number of the operation or, of a snapshot, by its label."""

    def __init__(self, lies=None, **how):
        super().__init__(FAST, nonce=b"n" * 16, **how)
        self._lies = lies or {}
        self._count = 0

    def perform(self, ops):
        out = []
        for outcome in super().perform(ops):
            out.append(self._lies.get(self._count, lambda it: it)(outcome))
            self._count += 1
        return out

    def intervene(self, op, frames):
        self._count += 1
        result = super().intervene(op, frames)
        lie = self._lies.get(getattr(op, "label", None))
        return lie(result) if lie and isinstance(result, Snapshot) else result


def judged(whole, lies=None, *, reference=False, whole_way=True, **how):
    session = Liar(lies, **how)
    judge = Judge(whole, session.facts, references=EmulatorReferences(FAST, session.facts) if reference else None)
    record = perform_program(whole, session, judge)
    assert (record.ending is None) == whole_way
    return judge.verdict(record)


def after(*ops):
    """Number of the last of some operations in the program that has them."""
    return len(opened()) + 2 + len(ops) - 1


def other_disk(at_, byte):
    def lie(snapshot):
        content = bytearray(snapshot.disks["disk1"])
        content[at_] ^= byte
        return dataclasses.replace(snapshot, disks={"disk1": bytes(content)})

    return lie


def outcome(**changes):
    return lambda it: msgspec.structs.replace(it, **changes)


def told(verdict):
    return [(each.law, each.operation.partition(" ")[0]) for each in verdict.findings]


SOME = [
    takes(at(0), 4096, 8192),
    gives(at(0, 2048), 4096, 4096),
    takes(at(9), 512, 0),
    takes(at(6), 1024, 512),
    gives(at(7, 100), 512, 8192),
]


@pytest.mark.parametrize("reference", [False, True])
def test_an_honest_disk_passes(reference):
    ops = [Burst(file="disk", transfers=SOME), read(at(1)), write(at(3), 1536, 1 << 19), read(at(2), 4096, 512)]
    verdict = judged(program(*ops), reference=reference)
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert verdict.evidence.laws["disk"].judged == 2
    assert verdict.evidence.laws["tag"].judged == 2, "of the one table that has entries"
    assert verdict.evidence.disk == 2 << 20
    dma = verdict.evidence.dma
    assert (dma.transfers, dma.allowed, dma.refused) == (8, 8, 1)


def test_a_disk_that_was_not_set_up_has_no_ring_to_miss():
    whole = Program(name="fast", topology=FAST, ops=[*opened(), write(at(0)), Checkpoint(label="after")])
    verdict = judged(whole)
    assert (verdict.findings, verdict.could_not) == ([], [])


# -- the law


def test_a_wrong_byte_on_the_disk_names_the_transfer_that_wrote_there():
    ops = [read(at(0), 512, 512), read(at(0), 1024, 1024), write(at(1))]
    verdict = judged(program(*ops), {"after": other_disk(1500, 4)})
    (finding,) = verdict.findings
    assert (finding.law, finding.step) == ("disk", after(*ops) + 1)
    assert finding.operation.startswith(f"#{after(*ops[:2])} ")
    assert "the disk of disk1 must hold" in finding.message
    assert "at byte 0x5dc" in finding.message
    assert finding.seen.endswith("(1 byte differs)")


def test_a_wrong_byte_where_nothing_was_written_names_the_transfer_since_the_checkpoint_before():
    verdict = judged(program(write(at(0))), {"after": other_disk((1 << 20) - 1, 1)})
    assert told(verdict) == [("disk", f"#{after(1)}")]


def test_what_was_wrong_once_is_told_once():
    whole = program(write(at(0)), Checkpoint(label="middle"), write(at(1), 512, 4096))
    assert told(judged(whole, {"middle": other_disk(5, 1), "after": other_disk(5, 1)})) == [("disk", f"#{after(1)}")]


def test_a_disk_that_was_not_read_cannot_be_judged():
    verdict = judged(program(write(at(0))), {"after": lambda it: dataclasses.replace(it, disks={})})
    assert verdict.findings == []
    assert "the disk of disk1 was not read" in verdict.could_not[0]


def test_the_oracle_compares_disks_as_well():
    verdict = judged(program(read(at(0))), {"after": other_disk(700, 1)}, reference=True)
    (difference,) = (each for each in verdict.findings if each.law == "difference")
    assert "the disk of disk1 holds" in difference.message
    assert "at byte 0x2bc" in difference.message


# -- lies about transfers


@pytest.mark.parametrize("op", [read(at(0)), Burst(file="disk", transfers=[takes(at(0), 512, 0)])])
def test_a_transfer_that_is_said_to_be_done_and_was_not_leaves_its_trace_on_the_disk(op):
    """It is said to be done although the device was not set up."""
    whole = program(Master(file="disk", on=False), Master(file="disk", on=True), op)
    verdict = judged(whole, {after(1, 2, 3): outcome(value=0, fields={"done": 1, "seconds": 0.0})})
    assert ("disk", f"#{after(1, 2, 3)}") in told(verdict)


def test_a_transfer_to_memory_that_was_not_done_leaves_its_trace_there():
    whole = program(Master(file="disk", on=False), Master(file="disk", on=True), write(at(0)))
    (finding,) = judged(whole, {after(1, 2, 3): outcome(value=0)}).findings
    assert (finding.law, finding.ioba) == ("tag", at(0))


def test_a_burst_that_does_not_tell_how_far_it_came_cannot_be_judged():
    whole = program(Burst(file="disk", transfers=SOME))
    for fields in ({}, {"done": 6}, {"done": "5"}):
        verdict = judged(whole, {after(1): outcome(fields=fields)})
        assert "did not tell how many of its transfers were done" in " ".join(verdict.could_not)


@pytest.mark.parametrize("errno", ["ETIMEDOUT", "EIO"])
def test_a_transfer_that_did_not_end_cannot_be_judged(errno):
    verdict = judged(program(read(at(0))), {after(1): outcome(value=None, errno=errno)})
    assert f"ended with {errno}" in " ".join(verdict.could_not)


UNKNOWN = [
    Put(buffer="m", request="DEVICE_GET_INFO"),
    Ioctl(file="disk", request="DEVICE_GET_INFO", value=Page("m"), expect="ok"),
]
"""What the kernel writes there, nobody knows: neither do we then know the page."""


def test_what_a_device_took_from_memory_that_nobody_knows_is_taken_as_it_is():
    """And is known from the next look on."""
    whole = program(*UNKNOWN, read(at(0), 512, 0), Checkpoint(label="middle"), write(at(1), 512, 4096))
    assert judged(whole).findings == []
    assert told(judged(whole, {"after": other_disk(100, 1)})) == [("disk", f"#{after(1, 2, 3) + 2}")]
    wrong = other_disk(600, 1)
    assert told(judged(whole, {"middle": wrong, "after": wrong})) == [("disk", f"#{after(1, 2, 3)}")]


def test_what_nobody_knows_of_the_disk_is_not_known_in_memory_either():
    assert judged(program(*UNKNOWN, read(at(0)), write(at(1)))).findings == []


def test_a_transfer_to_memory_that_belongs_to_no_buffer_changes_nothing_that_is_known():
    fields = {"flags": 3, "vaddr": 0x1234000, "iova": at(2), "size": 4096}
    whole = program(Ioctl(file=ONE.container, request="MAP_DMA", fields=fields), read(at(2)), write(at(2)))
    assert judged(whole).findings == []


# -- its queue


def test_the_queue_is_the_devices_to_write():
    whole = program(*[op for i in range(4) for op in (write(at(0), 512, 512 * i), Checkpoint(label=f"{i}"))])
    assert judged(whole).findings == []


def test_memory_that_was_a_queue_is_judged_again_once_it_was_written():
    fresh = Fill(buffer="ring", offset=0, size=8192, seed=3)
    ops = [Close(file="disk"), *b.unmap_dma(ONE, RING, 2), fresh]
    assert judged(program(write(at(0)), *ops)).findings == []
    ring = {}

    def lie(snapshot):
        page = next(address for address in snapshot.pages if address in ring)
        return dataclasses.replace(snapshot, pages={**snapshot.pages, page: b"\1" * 4096})

    session = EmulatorSession(FAST, nonce=b"n" * 16)
    outcomes = session.perform(opened())
    ring.update(dict.fromkeys(outcomes[3].frames))
    (finding,) = judged(program(write(at(0)), *ops), {"after": lie}).findings
    assert finding.law == "memory"
    assert "buffer ring" in finding.message


def test_a_queue_that_the_device_cannot_reach_cannot_be_judged():
    verdict = judged(program(*b.unmap_dma(ONE, RING, 1), write(at(0))), whole_way=False)
    assert "queue of disk1" in " ".join(verdict.could_not)


def test_a_device_that_may_not_master_the_bus_must_look_for_its_queue_in_vain():
    ops = [Master(file="disk", on=False), engine(), write(at(0))]
    assert judged(program(*ops), reference=True).findings == []
    silent = judged(program(*ops), {"after": lambda it: dataclasses.replace(it, refusals=())})
    assert "the watcher cannot see refused accesses of disk1" in " ".join(silent.could_not)
    first = [write(at(2)), *ops]
    gone = {"after": lambda it: dataclasses.replace(it, refusals=it.refusals[:1])}
    findings = judged(program(*first), gone).findings
    assert {each.law for each in findings} == {"refusals"}
    assert {each.ioba for each in findings} == {RING + 2048, RING + 1026}


def test_whose_queue_it_is_not_does_not_even_try():
    ops = [Spawn(process="c"), msgspec.structs.replace(write(at(0)), by="c"), write(at(0))]
    assert judged(program(*ops), reference=True).findings == []


def test_an_access_to_the_queue_that_was_refused_without_reason_is_found():
    stray = Refusal("write", RING + 2050, 2, "Invalid write at addr 0x800802")
    verdict = judged(program(write(at(0))), {"after": lambda it: dataclasses.replace(it, refusals=(stray,))})
    assert told(verdict) == [("refusals", f"#{after(1)}")]


# -- isolated


FREEZE = {"isolates": True, "guard": "freeze"}
THAW = {"call": "ibm,set-eeh-option", "device": "disk1"}


def recovered():
    """A violation; thawed half; ready, and blocked; thawed wholly, and ready again."""
    half = [Rtas(option=2, **THAW), write(at(0)), engine(), write(at(0), 1024), Master(file="disk")]
    return [read(at(1, 2048), 4096), write(at(0)), *half, Rtas(option=3, **THAW), write(at(0)), engine(), write(at(0))]


def test_a_disk_that_is_isolated_and_comes_back_passes():
    verdict = judged(program(*recovered(), isolation=True), reference=True, **FREEZE)
    assert (verdict.findings, verdict.could_not) == ([], [])


def test_a_device_may_be_isolated_before_it_says_that_a_transfer_is_done():
    """QEMU's guard comes while the transfer goes on: then what the device says to its queue is refused."""
    late = (Refusal("read", RING + 1024, 2, "Invalid read"), Refusal("write", RING + 2052, 8, "Invalid write"))
    lies = {"after": lambda it: dataclasses.replace(it, refusals=(*it.refusals, *late))}
    whole = program(read(at(2)), isolation=True)
    assert judged(whole, lies, reference=True, **FREEZE).findings == []
    assert {law for law, _ in told(judged(program(read(at(0))), lies, reference=True))} == {"refusals"}


def test_a_blocked_transfer_that_landed_all_the_same_is_found():
    """The event was told, and the memory shows it."""
    ops = [read(at(2)), Rtas(option=2, **THAW), engine(), write(at(0))]
    whole = program(*ops, isolation=True)
    assert judged(whole, **FREEZE).findings == []
    findings = judged(whole, {after(*ops): outcome(value=0)}, **FREEZE).findings
    assert {each.law for each in findings} >= {"refusals"}


def test_no_isolation_where_one_had_to_come_is_found():
    verdict = judged(program(read(at(2)), isolation=True), isolates=True, guard="off")
    assert told(verdict) == [("isolation", f"#{after(1)}")]
    assert "PE 1 must be isolated" in verdict.findings[0].message


def test_a_violation_in_a_burst_cannot_be_followed():
    burst = Burst(file="disk", transfers=[gives(at(0), 512, 0), gives(at(2), 512, 0), *SOME])
    verdict = judged(program(burst, isolation=True), **FREEZE)
    assert verdict.findings == []
    assert "Burst of step" in " ".join(verdict.could_not)
    assert judged(program(burst), reference=True).findings == []


def test_a_burst_out_of_reach_ends_at_once():
    burst = Burst(file="disk", transfers=SOME)
    whole = program(read(at(2)), burst, isolation=True)
    assert judged(whole, reference=True, **FREEZE).findings == []
    reached = {after(1, 2): lambda _: Outcome(value=0, fields={"done": 5, "seconds": 0.0})}
    assert "isolation" in {law for law, _ in told(judged(whole, reached, **FREEZE))}
