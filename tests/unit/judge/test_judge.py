"""An honest world passes, and the evidence says what the pass rests on."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ideal import NONCE, Ideal
from msgspec import structs
from story import FIRST, ONE, SECOND, SMALL, story

from tcelab.job.parallel import ParallelRun
from tcelab.judge import LAWS, Judge, judge
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.meters import Meter
from tcelab.judge.models.requests import request_name
from tcelab.judge.models.rounds import calls_done
from tcelab.program import Ioctl, Page, Program
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.run.record import Facts, Outcome, Step
from tcelab.scenarios import SCENARIOS, build
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.warmup import warm_up
from thorough import often


@cache
def honest(name, where):
    """The verdict on an honest guest: several tests ask for that of `main`."""
    program = build(name, topology(where), 5)
    return ParallelRun(program, lambda part: Ideal(program)).run()[1]


ONLY_EMULATED = {
    "windows",
    "lifecycle",
    "lifecycle-isolation",
    "kexec",
    "kexec-isolation",
    "kdump",
    "hotplug",
    "hotplug-isolation",
    "memory",
    "migration",
    "migration-isolation",
    "groups",
    "windows-isolation",
    "dma-api",
    "handover",
    "smp",
    "windows-removed",
    "races",
}
"""Scenarios of which the ideal session knows too little: of windows, of events and of the kernel's own drivers, only
the emulator knows enough.
"""


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - ONLY_EMULATED))
@pytest.mark.parametrize("where", ["one-pe", "two-pe"])
def test_an_honest_guest_passes_every_scenario(name, where):
    verdict = honest(name, where)
    assert (verdict.findings, verdict.could_not, verdict.exit_code) == ([], [], 0)


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("where", ["one-pe", "three-pe"])
def test_an_honest_guest_passes_the_small_program_that_touches_the_spare_pe_alone(where, thorough):
    program = warm_up(topology(where), thorough=thorough)
    world = Ideal(program)
    touched = set()
    for name, pe in world.pes.items():
        pe.table = type("Table", (dict,), {"__setitem__": lambda self, *it, name=name: touched.add(name)})()
    perform_program(program, world)
    assert touched == {"spare"}
    verdict = judge(perform_program(program, Ideal(program)))
    assert verdict.findings == []
    added = f'add "stream": true to a checkpoint, such as operation {len(program.ops) - 1}'
    assert verdict.could_not == ([] if thorough else [f"no checkpoint was judged by the stream view: {added}"])
    assert verdict.evidence.steps == {"live": 2} | ({"stream": 1} if thorough else {})
    assert verdict.evidence.dma.allowed == (2 if thorough else 0)


def test_a_pass_of_main_has_judged_every_law_and_every_batch_size():
    evidence = honest("main", "two-pe").evidence
    # No driver of the kernel, no hypercalls, no probe, no race, no disk, no events; no PE is isolated in it, and nobody
    # listens or was asked for an opinion.
    unjudged = [
        "handles",
        "hypercalls",
        "papr",
        "messages",
        "doorbells",
        "disk",
        "flight",
        "races",
        "isolation",
        "release",
        "difference",
    ]
    assert [law for law in LAWS if not evidence.laws[law].judged] == unjudged
    assert [batch.size for batch in evidence.batches] == list(range(1, 33))
    for batch in evidence.batches:
        assert batch.maps == 12
        assert batch.pages == 12 * batch.size
        assert batch.live == batch.checkpoints == (24 if batch.size > 1 else 21)
        assert batch.stream == 1
        assert batch.tags > batch.maps
    assert evidence.dma.control == ["pe1", "pe2"]
    assert set(evidence.dma.reasons) == {"outside the window", "no entry", "permission", "bus master off"}
    assert evidence.steps["live"] == evidence.checkpoints
    assert 750 <= evidence.checkpoints <= 900


def test_the_evidence_of_a_small_program_is_what_it_did():
    program = story()
    evidence = judge(perform_program(program, Ideal(program))).evidence
    (batch,) = evidence.batches
    assert (batch.size, batch.maps, batch.pages, batch.checkpoints, batch.live, batch.stream) == (4, 4, 8, 1, 1, 0)
    assert (evidence.operations, evidence.checkpoints) == (54, 5)
    assert evidence.operations + evidence.checkpoints == len(program.ops)
    assert evidence.steps == {"live": 5, "stream": 2}
    assert evidence.dma.reasons == {"no entry": 2, "permission": 1}
    assert (evidence.dma.transfers, evidence.dma.allowed, evidence.dma.refused) == (4, 2, 3)
    assert (evidence.laws["tag"].judged, evidence.laws["table"].judged) == (8, 28)


@pytest.mark.parametrize(
    ("outcome", "done"),
    [
        (Outcome(errno="EINTR", fields={"calls": 0}), 0),
        (Outcome(errno="EINTR", fields={"calls": 5}), 5),
        (Outcome(errno="EINTR", fields={"calls": 6}), None),
        (Outcome(errno="EINTR", fields={"calls": -1}), None),
        (Outcome(value=0, fields={"calls": 6}), 6),
        (Outcome(value=0, fields={"calls": 5}), None),
    ],
)
def test_how_many_calls_of_a_repeat_were_done_is_believed_if_it_can_be(outcome, done):
    (op,) = b.repeat([Ioctl(file="c", request="ENABLE"), Ioctl(file="c", request="DISABLE")], 3)
    assert calls_done(op, outcome) == done


def test_on_a_kernel_with_64k_pages_charges_are_whole_cpu_pages():
    program = story()
    session = Ideal(program, page_size=65536)
    # A window of 4 MiB has a table of 8 KiB: less than one such page, so it costs nothing.
    session.tamper = lambda s, n, op, out: (
        Outcome(value=out.value - sum(8 for pe in {id(p): p for p in s.pes.values()}.values() if pe.made))
        if getattr(op, "what", "") == "vmlck"
        else out
    )
    assert judge(perform_program(program, session)).exit_code == 0
    assert judge(perform_program(program, Ideal(program, page_size=65536))).exit_code == 1


def test_a_device_file_keeps_the_group_in_its_container():
    program = story()
    fold = Fold(program, Ideal(program).facts)
    record = perform_program(program, Ideal(program))
    close = [*b.close(ONE.group), *b.close(ONE.device)]
    until = next(i for i, op in enumerate(program.ops) if getattr(op, "label", "") == "mapped")
    for step in record.steps[:until]:
        fold.apply(step)
    assert len(fold.tables[FIRST].live) == 6
    fold.apply(Step(900, close[0], Outcome(value=0)))
    assert len(fold.tables[FIRST].live) == 6
    fold.apply(Step(901, close[1], Outcome(value=0)))
    assert (len(fold.tables[FIRST].live), len(fold.tables[SECOND].live)) == (0, 2)
    assert fold.tables[FIRST].last_operation(0x10) == 901


def test_a_group_that_leaves_its_container_leaves_its_table_empty():
    fold = mapped_fold()
    fold.apply(Step(9, Ioctl(file=ONE.group, request="GROUP_UNSET_CONTAINER"), Outcome(errno="EBUSY")))
    assert fold.live == 2
    assert fold.charge() == 4096 + 8
    fold.apply(Step(10, Ioctl(file=ONE.group, request="GROUP_UNSET_CONTAINER"), Outcome(value=0)))
    assert (fold.live, fold.charge()) == (0, 0)


def test_a_map_that_failed_still_creates_and_charges_the_default_window():
    fold = opened_fold()
    ioctl = b.map_dma(ONE, Page("a"), 1 << 40, 1, 3)[0]
    fold.apply(Step(7, ioctl, Outcome(errno="EPERM")))
    assert fold.charge() == 4096
    fold.apply(Step(8, ioctl, Outcome(errno="ENXIO")))
    assert fold.charge() == 4096 + 8
    assert fold.live == 0


def test_disable_refunds_the_window_alone():
    fold = mapped_fold()
    fold.apply(Step(9, b.disable(ONE)[0], Outcome(value=0)))
    assert (fold.charge(), fold.live) == (8, 2)


def test_a_container_that_is_joined_again_starts_afresh():
    fold = mapped_fold()
    fold.apply(Step(9, Ioctl(file=ONE.group, request="GROUP_UNSET_CONTAINER"), Outcome(value=1)))
    assert fold.live == 2, "it did not say 0"
    fold.apply(Step(10, Ioctl(file=ONE.group, request="GROUP_UNSET_CONTAINER"), Outcome(value=0)))
    for op in b.open_container(ONE)[5:]:
        fold.apply(Step(11, op, Outcome(value=0)))
    assert (fold.live, fold.charge()) == (0, 0)


def test_an_unmap_of_nearly_everything_is_quick_and_complete():
    fold = mapped_fold()
    fold.apply(Step(9, b.unmap_dma(ONE, 0x1000, (1 << 52) - 1)[0], Outcome(value=0)))
    assert list(fold.tables[FIRST].live) == [0]


def test_a_page_that_was_overwritten_no_longer_proves_by_its_tag():
    program = story()
    tags = judge(perform_program(program, Ideal(program))).evidence.tags
    at = next(i for i, op in enumerate(program.ops) if getattr(op, "label", "") == "mapped")
    ops = [*program.ops[:at], *b.fill(Page("a", 0), 8, 1), *program.ops[at:]]
    program = structs.replace(program, ops=ops)
    verdict = judge(perform_program(program, Ideal(program)))
    assert verdict.exit_code == 0
    assert verdict.evidence.tags == tags - 4, "page 0 is looked at four times while it is mapped"


@pytest.mark.parametrize(("liobn", "ioba"), [(ONE.liobn, 0x1000), (ONE.liobn + 1, 0)])
def test_a_tag_that_names_another_entry_is_right_content_and_no_proof(liobn, ioba):
    ops = [*MAPS[:-1], *b.tag(Page("pages"), 1, liobn, ioba, 1), MAPS[-1], *b.checkpoint("mapped")]
    program = Program(name="elsewhere", topology=story().topology, ops=ops)
    evidence = judge(perform_program(program, Ideal(program))).evidence
    assert (evidence.tags, evidence.contents) == (0, 1)


@pytest.mark.parametrize(("asked", "result"), [(False, "could-not-judge"), (True, "pass")])
def test_without_a_view_there_is_a_pass_only_where_the_behaviour_is_all_that_was_asked_for(asked, result):
    record = perform_program(story(), Ideal(story()))
    record.facts = dataclasses.replace(record.facts, views=(), cannot={}, behaviour_only=asked)
    verdict = judge(record)
    assert verdict.result == result
    assert verdict.could_not == ([] if asked else ["not seen: tables: this platform has no view of them"])


LOOK = '{"op": "checkpoint", "stream": true}'
MAPS = [
    *b.buffer("pages", 1, 0),
    *b.bind(ONE),
    *b.open_container(ONE),
    *b.enable(ONE),
    *b.map_dma(ONE, Page("pages"), 0, 1, 3),
]
TAGGED = [*MAPS[:-1], *b.tag(Page("pages"), 1, ONE.liobn, 0, 1), MAPS[-1]]


@pytest.mark.parametrize(
    ("ops", "reasons"),
    [
        (
            [],
            [
                f"by the live view: add {LOOK}",
                f"by the stream view: add {LOOK}",
                "by its tag: the program maps nothing",
            ],
        ),
        (b.checkpoint("alone"), ['view: add "stream": true to a checkpoint, such as operation 0', "maps nothing"]),
        (b.checkpoint("alone", stream=True), ["by its tag: the program maps nothing"]),
        (
            MAPS,
            [
                "nobody looked after operation 0:",
                f"add {LOOK}",
                f"add {LOOK}",
                f"put a `tag` before operation {len(MAPS) - 1}, which maps",
            ],
        ),
        (
            [*TAGGED, *b.unmap_dma(ONE, 0, 1), *b.checkpoint("late", stream=True)],
            [f"what operation {len(TAGGED) - 1} maps"],
        ),
    ],
)
def test_silence_is_never_a_pass_and_says_what_to_add(ops, reasons):
    program = Program(name="p", topology=SMALL, ops=ops)
    verdict = judge(perform_program(program, Ideal(program)))
    assert verdict.exit_code == 125
    assert [said for reason, said in zip(verdict.could_not, reasons, strict=True) if said not in reason] == []


@pytest.mark.parametrize(
    ("expect", "got", "right"),
    [
        ("EPERM", Outcome(errno="EPERM"), True),
        ("EPERM", Outcome(errno="EINVAL"), False),
        ("EPERM", Outcome(value=0), False),
        ("ok", Outcome(value=0), True),
        ("ok", Outcome(value=1), False),
        ("ok", Outcome(value=-4), False),
        ("ok", Outcome(errno="EINTR"), False),
        (1, Outcome(value=1), True),
        (1, Outcome(value=0), False),
        (0, Outcome(errno="EINVAL"), False),
        (None, Outcome(errno="EINVAL"), True),
    ],
)
def test_an_outcome_is_held_against_what_the_program_expects(expect, got, right):
    op = structs.replace(b.map_dma(ONE, Page("a"), 0, 0, 3)[0], expect=expect)
    program = Program(name="p", topology=SMALL, ops=[op])
    watch = Judge(program, Facts("ideal", NONCE, 4096, 1 << 28, {}, {}))
    assert watch.feed(Step(0, op, got)) is not right


def test_a_descriptor_is_ok_whatever_its_number():
    op = b.open_device(ONE)[0]
    watch = Judge(Program(name="p", topology=SMALL, ops=[op]), Facts("ideal", NONCE, 4096, 1 << 28, {}, {}))
    assert not watch.feed(Step(0, op, Outcome(value=17)))
    assert watch.feed(Step(1, op, Outcome(value=-1)))


def test_bus_mastering_is_off_after_every_open():
    fold = mapped_fold()

    def apply(*ops):
        for step, op in enumerate(ops, 20):
            fold.apply(Step(step, op, Outcome(value=0)))

    apply(*b.open_device(ONE), *b.dma(ONE, 0, 8, to_memory=True))
    assert fold.forbidden == []
    apply(*b.close(ONE.device), b.open_device(ONE)[0], *b.dma(ONE, 0, 8, to_memory=True))
    assert [access.reason for access in fold.forbidden] == ["bus master off"]


@pytest.mark.parametrize(
    ("readings", "news"),
    [
        ([(108, 8), (100, 0)], [None, None]),
        ([(100, 0), (108, 8), (101, 0), (109, 8), (100, 0), (99, 0)], [None, None, 1, None, None, -1]),
    ],
)
def test_a_meter_tells_each_new_error_once(readings, news):
    meter = Meter()
    assert [meter.changed(reading, folded) for reading, folded in readings] == news


def test_a_map_that_returned_one_changed_nothing():
    fold = mapped_fold()
    fold.apply(Step(9, b.unmap_dma(ONE, 0x1000, 1)[0], Outcome(value=1)))
    assert fold.live == 2


def test_an_address_of_the_agent_is_traced_to_its_buffer():
    fold = opened_fold()
    fields = {"flags": 1, "vaddr": 0x100000 + 0x2000, "iova": 0x3000, "size": 0x1000}
    fold.apply(Step(9, Ioctl(file=ONE.container, request=0x20003B71, fields=fields), Outcome(value=0, frames=[0x9000])))
    entry = fold.tables[FIRST].live[3]
    assert (entry.buffer, entry.number, entry.tce) == ("a", 2, 0x9001)


def test_request_numbers_have_their_names():
    assert request_name(0x20003B72) == "UNMAP_DMA"
    assert request_name("SPAPR_TCE_GET_INFO_DDW") == "SPAPR_TCE_GET_INFO"
    assert request_name(0x1234) == ""


RANGES = st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 32), st.integers(1, 3), st.booleans())


@settings(max_examples=often(80, 200), deadline=None)
@given(st.lists(RANGES, max_size=30))
def test_the_fold_is_what_a_plain_dictionary_says(history):
    fold, plain, last = opened_fold(), {}, {}
    for step, (is_map, first, count, flags, succeeds) in enumerate(history, 100):
        frames = [(step * 64 + i) << 12 for i in range(count)]
        op = (b.map_dma(ONE, Page("a"), first << 12, count, flags) if is_map else b.unmap_dma(ONE, first << 12, count))[
            0
        ]
        outcome = Outcome(value=0, frames=frames if is_map else []) if succeeds else Outcome(errno="EINTR")
        fold.apply(Step(step, op, outcome))
        for i in range(first, first + count):
            last[i] = step  # what failed there is to blame as well
            if succeeds:
                plain.pop(i, None)
            if succeeds and is_map:
                plain[i] = frames[i - first] | flags
        index, tces = fold.tables[FIRST].arrays()
        assert dict(zip(index.tolist(), tces.tolist(), strict=True)) == plain
        assert sorted(plain) == index.tolist()
    assert {i: fold.tables[FIRST].last_operation(i) for i in last} == last
    assert fold.live == len(plain)
    assert fold.tables[SECOND].arrays()[0].size == 0


def opened_fold():
    program = Program(name="p", topology=SMALL, ops=[])
    fold = Fold(program, Facts("ideal", NONCE, 4096, 1 << 28, {}, {}))
    ops = [*b.buffer("a", 4, 0)[:1], *b.open_container(ONE), *b.enable(ONE)]
    for op in ops:
        fold.apply(Step(0, op, Outcome(value=0x100000 if hasattr(op, "pages") else 0)))
    return fold


def mapped_fold():
    fold = opened_fold()
    fold.apply(Step(5, b.map_dma(ONE, Page("a"), 0, 2, 3)[0], Outcome(value=0, frames=[0x5000, 0x7000])))
    return fold
