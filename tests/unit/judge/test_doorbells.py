"""What a probe tells the guest that rang its doorbell is judged."""

import zlib

import pytest
from rung import AT, ONLY_READ, PAGES, PE, bell, judged, outcomes, told

from tcelab.program import Master, pagetags

END = PE.end


@pytest.mark.parametrize(
    "ring",
    [
        bell(size=1),
        bell(AT + 4095, 2, to_memory=True, pattern=0x1122334455667788),
        bell(size=1 << 20),
        bell(size=1 << 20, to_memory=True, pattern=3),
        bell(AT + 3, 65536, to_memory=True, count=8, stride=65537, pattern=7),
        bell(ONLY_READ, 4096, interrupt=False),
    ],
)
def test_what_the_table_lets_through_is_told_so(ring):
    record, verdict = judged(ring)
    (outcome,) = outcomes(record)
    assert (verdict.result, verdict.findings) == ("pass", [])
    assert (outcome.fields["allowed"], outcome.fields["refused"], outcome.fields["errno"]) == (ring.count, 0, 0)
    assert outcome.fields.get("interrupts") == (1 if ring.interrupt else None)


@pytest.mark.parametrize(
    ("ring", "first"),
    [
        (bell(END - 1, 1), END - 1),
        (bell(END, 1, to_memory=True), END),
        (bell(AT - 1, 65536), AT - 1),
        (bell(AT + 8, 1 << 20, count=3, stride=PAGES * 4096 - (1 << 20)), AT + PAGES * 4096 + 4096),
        (bell(ONLY_READ - 1, 2, to_memory=True), ONLY_READ),
        (bell((1 << 32) - 1, 65536), (1 << 32) - 1),
        (bell(1 << 59, 1 << 20, to_memory=True), 1 << 59),
        (bell((1 << 64) - 1, 1), (1 << 64) - 1),
    ],
)
def test_the_first_refused_page_is_told_with_its_errno(ring, first):
    record, verdict = judged(ring)
    (outcome,) = outcomes(record)
    assert (verdict.result, verdict.findings) == ("pass", [])
    assert (outcome.fields["errno"], outcome.fields["first_refused"]) == (19, first)
    assert outcome.fields["interrupts"] == 1


def test_the_digest_is_that_of_what_was_read():
    record, _ = judged(bell(AT + 7, 5000), bell(END - 8, 8))
    data = pagetags.data(record.facts.nonce, 9, PAGES * 4096)
    assert [each.fields["digest"] for each in outcomes(record)] == [zlib.crc32(data[7:5007]), zlib.crc32(bytes(8))]


@pytest.mark.parametrize(
    ("ring", "lie", "seen"),
    [
        (bell(), {"allowed": 2}, "tells allowed 0x2; expected 0x1"),
        (bell(), {"refused": 1}, "tells refused 0x1; expected 0x0"),
        (bell(END, 1), {"errno": 14}, "tells errno 0xe; expected 0x13"),
        (bell(END, 1), {"errno": 0}, "tells errno 0x0; expected 0x13"),
        (bell(END - 1, 2), {"first_refused": END}, f"tells first_refused {END:#x}; expected {END - 1:#x}"),
        (bell(), {"digest": 5}, "tells digest 0x5"),
        (bell(), {"interrupts": 0}, "tells interrupts 0x0; expected 0x1"),
        (bell(), {"interrupts": 2}, "tells interrupts 0x2; expected 0x1"),
        (bell(), {"allowed": None}, "tells allowed nothing; expected 0x1"),
    ],
)
def test_a_probe_that_tells_otherwise_is_found(ring, lie, seen):
    _, verdict = judged(ring, lie=told(**lie))
    assert [finding.law for finding in verdict.findings] == ["doorbells"]
    assert seen in verdict.findings[0].message


def test_without_an_msi_there_is_no_verdict():
    _, verdict = judged(bell(), lie=told(interrupts=None, no_interrupt="ENOSPC"))
    assert verdict.result == "could-not-judge"
    assert any("the kernel gave no MSI to the doorbell of operation" in reason for reason in verdict.could_not)


def test_a_device_that_may_not_master_the_bus_sends_no_msi():
    record, verdict = judged(bell(), Master(file="d", on=True), bell(), master=False)
    assert verdict.findings == []
    assert [each.fields["interrupts"] for each in outcomes(record)] == [0, 1]


def test_a_violation_isolates_before_the_next_page_and_can_tell_nothing():
    record, verdict = judged(bell(AT - 1, 65536, to_memory=True, pattern=7, count=3), isolation=True)
    (outcome,) = outcomes(record)
    assert verdict.findings == []
    assert outcome.fields == {"interrupts": 0}
    assert [event.kind for event in outcome.events] == ["isolated", "blocked", "blocked"]
    count = verdict.evidence.lengths["64 KiB"]
    assert (count.transfers, count.refused, count.isolated) == (3, 3, 1)


def test_one_that_tells_in_spite_of_its_isolation_is_found():
    _, verdict = judged(bell(AT - 1, 2), isolation=True, lie=told(allowed=0))
    assert [finding.law for finding in verdict.findings] == ["doorbells"]
