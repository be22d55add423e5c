"""The same defect has the same key on another seed, machine, address, topology and page; another defect has another."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import msgspec
import pytest

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.fuzz.generate import generate
from tcelab.history.signature import signature
from tcelab.history.wording import difference
from tcelab.judge import Finding, Judge
from tcelab.judge.verdict import of_several
from tcelab.leakcheck.leakresult import LeakFinding
from tcelab.program import Checkpoint, Program, inject
from tcelab.program.topology import TOPOLOGIES, topology
from tcelab.quirks import MISALIGNED, PIN_FOR_WRITE
from tcelab.run.loop import perform_program


def found(program, defect=None, seed=0, declared=()):
    """What is found in a program on a machine whose driver has a defect."""
    session = EmulatorSession(program.topology, quirks={defect, *declared} if defect else declared, seed=seed)
    session.facts = dataclasses.replace(session.facts, platform="qemu", quirks=frozenset(declared))
    judge = Judge(program, session.facts, references=EmulatorReferences(program.topology, session.facts))
    return judge.verdict(perform_program(program, session, judge))


def signatures(findings):
    return {signature(each) for each in findings}


def test_a_flipped_bit_is_the_same_finding_on_each_topology_seed_and_machine():
    seen = Counter()
    for name in TOPOLOGIES:
        for seed in range(4):
            program = Program(name="empty", topology=topology(name), ops=[Checkpoint(stream=True)], seed=seed)
            seen.update(signatures(found(inject.flip(program), seed=seed).findings))
    assert {(each.law, each.operation, each.difference): times for each, times in seen.items()} == {
        ("table", "", "LIOBN N IOBA N: there is an entry that no operation made"): 4 * len(TOPOLOGIES),
        ("difference", "flip", "LIOBN N IOBA N: the entry is a TCE, emulator has empty"): 4 * len(TOPOLOGIES),
    }


@pytest.mark.parametrize(
    ("defect", "programs", "known"),
    [
        (
            MISALIGNED,
            {("one-pe", 1), ("one-pe", 6), ("two-small", 1), ("two-small", 3)},
            {
                ("ioctl MAP_DMA", "EINVAL", "operation N gives value N, emulator gives EINVAL"),
                ("ioctl UNMAP_DMA", "EINVAL", "operation N gives value N, emulator gives EINVAL"),
            },
        ),
        (
            PIN_FOR_WRITE,
            {("one-pe", 12), ("two-small", 5), ("two-small", 6)},
            {
                (
                    "ioctl MAP_DMA",
                    "EFAULT",
                    "operation N gives N of N frames, EFAULT, emulator gives value 0, N of N frames",
                )
            },
        ),
    ],
    ids=["misaligned", "pin for write"],
)
def test_random_programs_find_a_drivers_defect_by_few_keys(defect, programs, known):
    seen = []
    for name, seed in programs:
        program = generate(random.Random(seed), topology(name), 50).program
        seen.append({(s.operation, s.errno, s.difference) for s in signatures(found(program, defect, seed).findings)})
    assert set().union(*seen) == known
    assert all(seen)


def test_the_name_of_a_quirk_is_no_part_of_the_key():
    """It is the same defect on the day after it got a name."""
    program = generate(random.Random(3), topology("one-pe"), 50).program
    named = found(program, MISALIGNED).findings[0]
    assert MISALIGNED in named.message
    plain = msgspec.structs.replace(named, message=named.message.partition(";")[0], quirk="")
    assert signature(plain) == signature(named)


def of(law, message, operation="", **fields):
    return signature(Finding(law=law, step=fields.pop("step", 7), message=message, operation=operation, **fields))


MAP = '#{} {{"op":"ioctl","file":"{}","request":"MAP_DMA","fields":{{"iova":"{}"}}}}'
ONE_MAP, OTHER_MAP = MAP.format(12, "c1", "0x10000"), MAP.format(341, "pe2", "0xfe000")
STRAY = "there is an entry that no operation made; expected 0 (empty), seen"
OLD = "WARNING: CPU: 0 PID: 81 at arch/powerpc/kernel/iommu.c:1021 iommu_tce_xchg+0x38/0x1c0"
NEW = "WARNING: arch/powerpc/kernel/iommu.c:1077 at iommu_tce_xchg.constprop.0+0x40/0x1e0, CPU#1: python3/97"

SAME = {
    "table": (
        of("table", f"LIOBN 0x80000100 IOBA 0x0: {STRAY} 0x0000000000005003 (page 0x5000, read-write)", ONE_MAP),
        of("table", f"LIOBN 0x80000203 IOBA 0xff000: {STRAY} 0x1 (page 0x0, read); guest RAM there: zeros", OTHER_MAP),
    ),
    "guessed operation": (
        of("table", f"LIOBN 0x1 IOBA 0x0: {STRAY} 0x1 (page 0x0, read); it came between step 3 and step 9", ONE_MAP),
        of("table", f"LIOBN 0x1 IOBA 0x0: {STRAY} 0x1 (page 0x0, read); it came before step 3", '#2 {"op":"read"}'),
    ),
    "permissions": (
        of(
            "table",
            "LIOBN 0x1 IOBA 0x0: an entry has the wrong permissions; expected 0x5001 (page 0x5000, read) = a:5,"
            " seen 0x5003 (page 0x5000, read-write)",
        ),
        of(
            "table",
            "LIOBN 0x1 IOBA 0x0: an entry has the wrong permissions; expected b12:0, read, frame not reported,"
            " seen 0x9003 (page 0x9000, read-write); guest RAM there: not read",
        ),
    ),
    "topology of several": (
        of("pins", "page pins: expected 2 pages, seen 1 (1 page missing)"),
        of("pins", "four-pe: page pins: expected 32 pages, seen 12 (20 pages missing)"),
    ),
    "views": (
        of(
            "views",
            "LIOBN 0x1 IOBA 0x0: live memory shows 0 (empty), the state stream 0x3 (page 0x0, read-write);"
            " the operations agree with live memory",
        ),
        of(
            "views",
            "LIOBN 0x2 IOBA 0x1000: live memory shows 0x5003 (page 0x5000, read-write), the state stream 0"
            " (empty); the operations agree with live memory",
        ),
    ),
    "tag": (
        of(
            "tag",
            "LIOBN 0x1 IOBA 0x0: the entry leads to 0x5000 (0x5003 (page 0x5000, read-write) = a:1), guest RAM"
            " there must hold tag of LIOBN 0x1, IOBA 0x0, sequence 1, nonce ab, seen zeros",
            ONE_MAP,
        ),
        of(
            "tag",
            "LIOBN 0x1 IOBA 0x0: the entry leads to 0x5000 (b2:1, read, frame not reported), guest RAM there must"
            " hold 7a7b at byte 8, seen no RAM at that address",
            OTHER_MAP,
        ),
    ),
    "memory": (
        of(
            "memory",
            "buffer a page 1 at 0x1000, which no entry leads to, must hold 7a at byte 0, seen 7b at byte 0 (1"
            " byte differs)",
            '#3 {"op":"read"}',
        ),
        of(
            "memory",
            "buffer b3 page 9 at 0x9000, which no entry leads to, must hold a page of guest RAM, seen zeros;"
            " the last refused write was at LIOBN 0x1 IOBA 0x0",
            '#9 {"op":"checkpoint"}',
        ),
    ),
    "a transfer": (
        of(
            "refusals",
            "LIOBN 0x1: pe1's read of 0x10000..0x10fff must be refused (no entry), QEMU refused nothing there",
            '#1 {"op":"dma","file":"pe1"}',
        ),
        of(
            "refusals",
            "LIOBN 0x2: disk2's read of 0x0..0x1ff must be refused (no entry), QEMU refused nothing there",
            '#1 {"op":"burst","file":"disk2"}',
        ),
    ),
    "part or whole": (
        of(
            "outcome",
            "operation 3 (dma): the transfer was to be refused; its table lets it through at IOBA 0x1000 (all passed)",
        ),
        of(
            "outcome",
            "operation 4 (burst): each transfer was to be refused; its table lets it through (2 of 9 pieces passed)",
        ),
    ),
    "pe": (
        of("isolation", "PE 1 was to be isolated by the DMA of operation 4 (pe1b writes 0x1000, no entry): it was not"),
        of(
            "isolation",
            "PE 30 was to be isolated by the DMA of operation 9 (disk1 writes 0xf000, no entry): it was not",
        ),
    ),
    "warnings of two kernels": (
        of("kernel", f"the kernel said, before step 3: {OLD}"),
        of("kernel", f"the kernel said, between step 3 and step 19: {NEW}"),
    ),
    "warnings that differ": (
        of("difference", f"the kernel says {OLD}, emulator says no trouble"),
        of("difference", f"the kernel says {NEW}, emulator says no trouble"),
    ),
    "a death": (
        of(
            "kernel",
            f"the kernel died during {ONE_MAP}: the guest's kernel died: watchdog: BUG: soft lockup - CPU#0 stuck"
            " for 26s! [python3:81]",
            ONE_MAP,
        ),
        of(
            "kernel",
            f"the kernel died during {OTHER_MAP}: the guest's kernel died: watchdog: BUG: soft lockup - CPU#1"
            " stuck for 23s! [python3:97]",
            OTHER_MAP,
        ),
    ),
    "processes": (
        of("charges", "VmLck of process c: expected 4 KiB, seen 8 (4 KiB not given back or too much)"),
        of("charges", "VmLck of process p12: expected 64 KiB, seen 68 (4 KiB not given back or too much)"),
    ),
    "a console's colours": (
        of("kernel", "the kernel said, before step 3: \x1b[31mBUG: Unable to handle  data access at 0xc008"),
        of("kernel", "the kernel said, before step 3: BUG: Unable to handle data access at 0xc00a\r"),
    ),
    "another page": (
        of("difference", "buffer a page 1 holds 7a at byte 0 (1 byte differs), emulator has 7b at byte 0"),
        of("difference", "buffer b page 9 holds zeros, emulator has tag of LIOBN 0x1, IOBA 0x0, sequence 1, nonce ab"),
    ),
    "a disk": (
        of("disk", "the disk of disk1 must hold 7a at byte 512, seen 7b (1 byte differs)"),
        of("disk", "the disk of disk2 must hold 7a00 at byte 0, seen 7b11 (2 bytes differ)"),
    ),
    "another disk": (
        of("difference", "the disk of disk1 holds 7a7b at byte 512, emulator has 7c7d"),
        of("difference", "the disk of disk2 holds 11 at byte 0, emulator has 22"),
    ),
    "buffers whose names have a hyphen": (
        of("difference", "LIOBN 0x1 IOBA 0x0: the entry is batches-remap:3 (read-write), emulator has 0 (empty)"),
        of("difference", "LIOBN 0x2 IOBA 0x3000: the entry is a:26 (read), emulator has 0 (empty)"),
    ),
    "a read entry": (
        of("hypercalls", "H_GET_TCE gives another TCE: expected 0 (empty), seen 0x5003 (page 0x5000, read-write)"),
        of("hypercalls", "H_GET_TCE gives another TCE: expected 0 (empty), seen 0x9003 (page 0x9000, read-write)"),
    ),
    "bare hexadecimal": (of("kernel", "NIP c00000000abc1234"), of("kernel", "NIP c0000000000f1230")),
    "a loop": (
        of("outcome", "operation 3 (repeat) gave EINVAL after 1 call, expected ok"),
        of("outcome", "operation 9 (repeat) gave EINVAL after 200 calls, expected ok"),
    ),
    "shape of a table": (
        of("inventory", "LIOBN 0x1 has the wrong size: expected 1 entry, seen 512 entries"),
        of("inventory", "LIOBN 0x2 has the wrong size: expected 4096 entries, seen 1 entry"),
    ),
    "counters from 0 on": (
        of("difference", "operation 62 gives value 0, emulator gives value 9", ONE_MAP),
        of("difference", "operation 3 gives value 12, emulator gives value 8", OTHER_MAP),
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_what_the_next_night_changes_leaves_no_trace(what):
    one, other = SAME[what]
    assert one == other
    assert one.key() == other.key()


def leak(law, message, **fields):
    return signature(LeakFinding(law=law, message=message, **fields))


def test_of_a_leak_check_the_driver_and_the_law_are_told_apart_and_nothing_else():
    entry = "LIOBN 0x80000100 IOBA {}: 0x0000000000005003 (page 0x5000, {}) "
    stayed = leak("leak", entry.format("0x1000", "read-write") + "stayed", device="net1")
    assert leak("leak", entry.format("0xf000", "read") + "stayed; and 12 more like it", device="net2") == stayed
    some = "{} of these {} entries have no place in what was there before: IOBA {}"
    unknown = leak("leak", some.format(1, 2, "0x1000, 0x2000"), device="net1")
    assert leak("leak", some.format(9, 40, "0x1000, 0x2000, 0x3000, ..."), device="net1") == unknown
    shared = "LIOBN 0x1 IOBA 0x0: an entry was stored while it stood for another mapping (stored by: {})"
    several = "LIOBN 0x1 IOBA 0x0: 3 entries from there on were stored while they stood for another mapping"
    one = leak("shared", shared.format("stored before the trace began"), device="net1")
    assert (
        leak("shared", f"{several} (stored by: H_PUT_TCE of 1 entry, 0.1 s after the baseline)", device="net1") == one
    )
    others = {
        leak("leak", entry.format("0x1000", "read") + "stayed, and outlived the driver", device="net1"),
        leak("unbind", entry.format("0x1000", "read") + "stayed when the driver was unbound", device="net1"),
        leak("leak", entry.format("0x1000", "read") + "stayed", device="disk1"),
        leak("direction", entry.format("0x1000", "read") + "gives read, and its driver asked for DMA_FROM_DEVICE"),
        leak("direction", entry.format("0x1000", "read") + "gives read, and its driver asked for DMA_BIDIRECTIONAL"),
        leak("limit", "LIOBN 0x1 IOBA 0x0: H_STUFF_TCE of 513 entries"),
        leak("limit", "LIOBN 0x1 IOBA 0x0: H_STUFF_TCE of 513 entries was refused with status -4"),
        leak("limit", "LIOBN 0x1 IOBA 0x0: H_STUFF_TCE of 13 entries was refused with status -1"),
    }
    assert len({stayed, unknown, one, *others}) == 3 + len(others)


RTAS = '#4 {{"op":"rtas","call":"{}","device":"pe1","option":{}}}'
HCALL = '#4 {{"op":"hcall","call":{{"opcode":"{}","args":["0x1"]}}}}'
APART = [
    *(
        of("table", f"LIOBN 0x1 IOBA 0x0: {how}; expected 0 (empty), seen 0x3 (page 0x0, read)")
        for how in (
            "an entry leads to the wrong page",
            "an entry survived its removal",
            "an entry that was mapped is missing",
            "there is an entry that no operation made",
            "there is an entry past the end of the table",
        )
    ),
    SAME["permissions"][0],
    of(
        "table",
        "LIOBN 0x1 IOBA 0x0: an entry has the wrong permissions; expected 0x5003 (page 0x5000, read-write) = a:5,"
        " seen 0x5001 (page 0x5000, read)",
    ),
    of("table", f"LIOBN 0x1 IOBA 0x0: {STRAY} 0x3 (page 0x0, read)", ONE_MAP),
    of("table", f"LIOBN 0x1 IOBA 0x0: {STRAY} 0x3 (page 0x0, read)", HCALL.format("H_PUT_TCE")),
    of("table", f"LIOBN 0x1 IOBA 0x0: {STRAY} 0x3 (page 0x0, read)", HCALL.format("H_STUFF_TCE")),
    of("outcome", "operation 4 (ioctl MAP_DMA) gave EINVAL, expected EBUSY", ONE_MAP, expected="EBUSY", seen="EINVAL"),
    of("outcome", "operation 4 (ioctl MAP_DMA) gave EBUSY, expected EINVAL", ONE_MAP, expected="EINVAL", seen="EBUSY"),
    of("outcome", "operation 4 (hcall H_PUT_TCE) gave value -4, expected 0", HCALL.format("H_PUT_TCE")),
    of("outcome", "operation 4 (hcall H_PUT_TCE) gave value 0, expected -4", HCALL.format("H_PUT_TCE")),
    of("outcome", "operation 4 (hcall H_PUT_TCE) gave value -1, expected 0", HCALL.format("H_PUT_TCE")),
    of("isolation", "operation 4 gave -3, expected 0: PE 1 is normal", RTAS.format("ibm,set-eeh-option", 2)),
    of("isolation", "operation 4 gave -3, expected 0: PE 1 is normal", RTAS.format("ibm,set-eeh-option", 3)),
    of("isolation", "operation 4 gave -3, expected 0: PE 1 is stopped", RTAS.format("ibm,set-eeh-option", 3)),
    of("hypercalls", "a hypercall changed r4, which is no output of it: expected 0x1, seen 0x2"),
    of("hypercalls", "a hypercall changed r5, which is no output of it: expected 0x1, seen 0x2"),
    of("pins", "page pins: expected 2 pages, seen 1 (1 page missing)"),
    of("pins", "page pins: expected 2 pages, seen 3 (1 page not given back or too much)"),
    of("kernel", f"the kernel said, before step 3: {OLD}"),
    of("kernel", f"the kernel said, before step 3: {OLD.replace('iommu_tce_xchg', 'iommu_release_ownership')}"),
    of("refusals", "LIOBN 0x1: pe1's read of 0x0..0xf must be refused (no entry), QEMU refused nothing there"),
    of("hypercalls", "H_GET_TCE gives another TCE: expected 0 (empty), seen 0x5003 (page 0x5000, read-write)"),
    of("hypercalls", "H_GET_TCE gives another TCE: expected 0x5003 (page 0x5000, read-write), seen 0 (empty)"),
    of("refusals", "LIOBN 0x1: pe1's read of 0x0..0xf must be refused (permission), QEMU refused nothing there"),
    of("difference", "the kernel says no trouble, emulator says WARNING: at destroy_context: WARN_ON_ONCE(x)"),
    of("difference", "the kernel says WARNING: at destroy_context: WARN_ON_ONCE(x), emulator says no trouble"),
    of("views", SAME["views"][0].difference.replace("live memory and", "neither and")),
]


def test_different_defects_have_different_keys():
    assert [text for text, times in Counter(each.key() for each in APART).items() if times > 1] == []


def test_of_several_runs_together_a_finding_is_what_it_is_of_one():
    program = Program(name="empty", topology=topology("pair"), ops=[Checkpoint(stream=True)], seed=3)
    verdict = found(inject.flip(program))
    joint = of_several({"pair": verdict}, ["pair"])
    assert joint.findings[0].message != verdict.findings[0].message
    assert signatures(joint.findings) == signatures(verdict.findings)


def test_keys_of_yesterdays_history_are_those_of_today():
    """Whoever changes a rule on purpose makes these findings new in every history that there is: say so in the
    changelog.
    """
    assert {name: pair[0].key() for name, pair in SAME.items()} == KEYS


KEYS = {
    "table": "2a6b684e053bb4ab",
    "guessed operation": "4167fb7351f4e0ff",
    "permissions": "85a6b5266d91382e",
    "topology of several": "45f426d92d3cbcbe",
    "views": "e676ea982134d3fd",
    "tag": "9d08a5629eabcd90",
    "memory": "b34699f39d7eab5f",
    "a transfer": "0a9a5e84473a3911",
    "part or whole": "76c093db8df40215",
    "pe": "dcde5d7ffd349ece",
    "warnings of two kernels": "f4d07da3e61288eb",
    "warnings that differ": "24acdc483a017382",
    "a death": "5f6cbfcee6c97908",
    "processes": "12f1909f2cdf4322",
    "a console's colours": "d9c368b9833f6047",
    "another page": "889372f2ed8e7e0b",
    "a disk": "d6d8eff9eadefd4c",
    "another disk": "eb3348baaf5caaf8",
    "buffers whose names have a hyphen": "41ac07dd7a927404",
    "a read entry": "a2e5462cf8d03c33",
    "bare hexadecimal": "16cd98cb972c27b8",
    "a loop": "9e65bac7518a6aa0",
    "shape of a table": "4403d5b841865a1a",
    "counters from 0 on": "23ab1f4ca0c4408c",
}


def test_a_message_that_no_rule_knows_loses_its_numbers_alone():
    assert (
        difference("frobnication of 0x12 gave 3.5 ms, r4 and H_P2 at 1..9")
        == "frobnication of N gave N ms, r4 and H_P2 at N"
    )
