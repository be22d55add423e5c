"""Each lie of the world gives exactly the one finding that names the law, LIOBN and IOBA, or could-not-judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ideal import Ideal, bound
from lies import LANDING, LAST_CLOSE, MAP, SECOND_MAP, STRADDLE, THIRD_MAP, UNMAP, put, ram, say_refusal
from msgspec import structs
from story import BOTH, CHANNEL, FIRST, SECOND, SMALL, SPARE, after, nth, on, see, story, with_entry

from tcelab.errors import GuestLost, HarnessError, Scene
from tcelab.judge import Judge, judge
from tcelab.program import Checkpoint, Flip, Program
from tcelab.program.pagetags import tag
from tcelab.run.loop import perform_program
from tcelab.run.record import Ending, Outcome
from tcelab.scenarios import vocabulary as b


def judged(**lies):
    program = story()
    session = Ideal(program, **lies)
    watch = Judge(program, session.facts)
    record = perform_program(program, session, watch)
    verdict = watch.verdict(record)
    again = judge(record)
    again.evidence.seconds = verdict.evidence.seconds
    assert again == verdict, "judging afterwards gives the same"
    return verdict


def drop_refusals(session):
    session.refused[:] = [each for each in session.refused if each.address >> 12 == 0x50]


def set_base(name, by):
    return lambda s: setattr(s, name, getattr(s, name) + by)


def swap_frames(session):
    """Two entries lead to each other's page, and the guest's pagemap says so too."""
    session.ram[session.buffers["b"][0]], session.ram[session.buffers["b"][1]] = (
        session.ram[session.buffers["b"][1]],
        session.ram[session.buffers["b"][0]],
    )


OTHER_TAG = tag(b"\1" * 16, FIRST, 0x10000, 1) * 64
TABLE_LIES = {
    "an entry is dropped": (after(MAP, put(FIRST, 0x12, lambda _: 0)), ("table", FIRST, 0x12000), "missing"),
    "the first entry of a batch is dropped": (
        after(MAP, put(FIRST, 0x10, lambda _: 0)),
        ("table", FIRST, 0x10000),
        "missing",
    ),
    "an entry too many, on the same PE": (
        after(MAP, put(FIRST, 0x80, lambda _: 0x7003)),
        ("table", FIRST, 0x80000),
        "no operation made",
    ),
    "an entry too many, on the other PE": (
        after(MAP, put(SECOND, 0x10, lambda _: 0x7001)),
        ("table", SECOND, 0x10000),
        "no operation made",
    ),
    "an entry too many, on the channel's PHB": (
        after(MAP, put(CHANNEL, 0xFFF, lambda _: 0x7001)),
        ("table", CHANNEL, 0xFFF000),
        "no operation made",
    ),
    "an entry too many, on the spare PE": (
        after(MAP, put(SPARE, 0xFFF, lambda _: 0x7001)),
        ("table", SPARE, 0xFFF000),
        "no operation made",
    ),
    "an entry without permissions": (
        after(MAP, put(SECOND, 0x11 + 0x20, lambda _: 0x1000)),
        ("table", SECOND, 0x31000),
        "no operation made",
    ),
    "one page more than the batch": (
        after(MAP, put(FIRST, 0x14, lambda _: 0x9003)),
        ("table", FIRST, 0x14000),
        "no operation made",
    ),
    "a permission too many": (
        after(SECOND_MAP, put(SECOND, 0x21, lambda t: t | 2)),
        ("table", SECOND, 0x21000),
        "wrong permissions",
    ),
    "a permission too few": (
        after(MAP, put(FIRST, 0x13, lambda t: t & ~1)),
        ("table", FIRST, 0x13000),
        "wrong permissions",
    ),
    "a frame bit flipped": (
        after(MAP, put(FIRST, 0x10, lambda t: t ^ 0x1000)),
        ("table", FIRST, 0x10000),
        "wrong page",
    ),
    "a frame outside guest RAM": (
        after(MAP, put(FIRST, 0x11, lambda t: t | 1 << 50)),
        ("table", FIRST, 0x11000),
        "none at that address",
    ),
    "an entry past the end": (see(on(FIRST, with_entry(1100, 0x7003))), ("table", FIRST, 1100 << 12), "past the end"),
    "an entry survives its unmap": (
        after(UNMAP, put(FIRST, 0x11, lambda _: 0x5003)),
        ("table", FIRST, 0x11000),
        "survived",
    ),
    "an entry appears where only empty ones were unmapped": (
        after(LAST_CLOSE, put(SECOND, 0x300, lambda _: 0x5001)),
        ("table", SECOND, 0x300000),
        "no operation made",
    ),
    "an unmap takes a neighbour along": (
        after(UNMAP, put(FIRST, 0x12, lambda _: 0)),
        ("table", FIRST, 0x12000),
        "missing",
    ),
    "an entry survives the release": (
        after(LAST_CLOSE, put(SECOND, 0x20, lambda _: 0x5001)),
        ("table", SECOND, 0x20000),
        "survived",
    ),
    "the stream shows another value": (
        see(on(CHANNEL, with_entry(7, 0x7003)), view="stream", label="closed"),
        ("views", CHANNEL, 0x7000),
        "agree with live memory",
    ),
    "the stream lacks a live entry": (
        see(on(SECOND, lambda t: replace(t, index=t.index[1:], tce=t.tce[1:])), view="stream", label="unmapped"),
        ("views", SECOND, 0x20000),
        "agree with live memory",
    ),
    "the live view shows another value": (
        see(on(SECOND, with_entry(7, 0x7003)), view="live", label="closed"),
        ("views", SECOND, 0x7000),
        "agree with the state stream",
    ),
}

WORLD_LIES = {
    "another page's tag": (after(MAP, ram("a", 1, OTHER_TAG)), ("tag", FIRST, 0x11000), "nonce 01010101"),
    "two pages swapped in RAM": (after(SECOND_MAP, swap_frames), ("tag", SECOND, 0x20000), "IOBA 0x21000"),
    "one stray byte in a mapped page": (
        after(MAP, lambda s: s.ram[s.buffers["a"][2]].__setitem__(4095, 7)),
        ("tag", FIRST, 0x12000),
        "1 byte differs",
    ),
    "a page is not in RAM": (
        after(THIRD_MAP, lambda s: s.ram.pop(s.buffers["a"][3])),
        ("tag", FIRST, 0x13000),
        "no RAM",
    ),
    "a canary is overwritten": (after(MAP, ram("a", 6, b"\0" * 8)), ("memory", None, None), "a page 6"),
    "a fresh page is no longer zeros": (after(MAP, ram("b", 3, b"x")), ("memory", None, None), "b page 3"),
    "a refused write lands on a read-only page": (
        after(LANDING, ram("a", 5, b"\0" * 0x100 + b"z" * 64)),
        ("tag", FIRST, 0x50000),
        "at byte 0x100",
    ),
    "a refused write lands on a canary": (
        after(STRADDLE, ram("a", 4, b"z" * 64)),
        ("memory", FIRST, 0x61000),
        "a page 4",
    ),
    "an allowed write does not land": (
        after(STRADDLE, lambda s: s.ram[s.buffers["a"][7]].__setitem__(slice(0xFC0, 0x1000), b"o" * 64)),
        ("tag", FIRST, 0x60000),
        "at byte 0xfc0",
    ),
    "a refusal is not told": (after(STRADDLE, drop_refusals), ("refusals", FIRST, 0x61000), "no entry"),
    "a refusal that nothing explains": (
        after(LANDING, say_refusal("read", 0x123000)),
        ("refusals", None, 0x123000),
        "no operation explains",
    ),
    "a refusal just past the end of a refused range": (
        after(LANDING, say_refusal("write", 0x50140)),
        ("refusals", None, 0x50140),
        "no operation explains",
    ),
    "a refusal in the other direction": (
        after(LANDING, say_refusal("read", 0x50100)),
        ("refusals", None, 0x50100),
        "no operation explains",
    ),
    "locked memory is not refunded": (
        after(LAST_CLOSE, set_base("base_vmlck", 1024)),
        ("charges", None, None),
        "1024 KiB not given back",
    ),
    "locked memory is not charged": (
        after(MAP, set_base("base_vmlck", -1)),
        ("charges", None, None),
        "1 KiB missing",
    ),
    "a pin leaks": (after(UNMAP, set_base("base_pins", 1)), ("pins", None, None), "1 page not given back"),
    "a pin is missing": (after(MAP, set_base("base_pins", -1)), ("pins", None, None), "1 page missing"),
    "a wrong errno": (
        after(nth("GROUP_GET_STATUS"), lambda _: Outcome(errno="EPERM")),
        ("outcome", None, None),
        "gave EPERM, expected ok",
    ),
    "a wrong value": (
        after(nth("CHECK_EXTENSION"), lambda _: Outcome(value=0)),
        ("outcome", None, None),
        "gave value 0, expected 1",
    ),
    "a map that returns 1": (
        after(nth("SPAPR_TCE_GET_INFO"), lambda _: Outcome(value=1)),
        ("outcome", None, None),
        "gave value 1, expected ok",
    ),
    "a group that is not viable": (
        after(nth("GROUP_GET_STATUS"), lambda _: Outcome(value=0, fields={"flags": 0})),
        ("inventory", None, None),
        "reports flags 0x0,",
    ),
    "a group that does not tell its status": (
        after(nth("GROUP_GET_STATUS"), lambda _: Outcome(value=0)),
        ("inventory", None, None),
        "reports flags None",
    ),
    "another window than the topology's": (
        after(
            nth("SPAPR_TCE_GET_INFO"),
            lambda _: Outcome(value=0, fields={"dma32_window_start": 0, "dma32_window_size": 1 << 30}),
        ),
        ("inventory", None, None),
        "dma32_window_size",
    ),
    "another LIOBN than the topology's": (
        after(nth("Bind"), lambda s: Outcome(value=0, fields=bound(s.pes["pe1"], liobn=SECOND))),
        ("inventory", None, None),
        "liobn",
    ),
    "a warning of the kernel": (
        after(MAP, lambda s: s.console.append("WARNING: CPU: 0 PID: 1 at drivers/vfio/x.c:1")),
        ("kernel", None, None),
        "WARNING: CPU: 0",
    ),
}

INVENTORY_LIES = {
    "a table is missing": (lambda _: None, FIRST, "no table"),
    "a table has the wrong size": (lambda t: replace(t, entries=512), FIRST, "wrong size"),
    "a table has another page shift": (lambda t: replace(t, page_shift=16), FIRST, "wrong shape"),
    "a table starts elsewhere": (lambda t: replace(t, bus_offset=1 << 30), SECOND, "wrong shape"),
    "a second window is active": (lambda t: replace(t, entries=16), FIRST + 1, "has a table"),
    "the channel's table has another size": (lambda t: replace(t, entries=1 << 18), CHANNEL, "wrong size"),
    "the spare PE's table is missing": (lambda _: None, SPARE, "has no table"),
    "the spare PE's table has another size": (lambda t: replace(t, entries=1 << 18), SPARE, "wrong size"),
}


@pytest.mark.parametrize("lie", TABLE_LIES | WORLD_LIES)
def test_a_lie_gives_exactly_its_finding(lie):
    how, where, said = (TABLE_LIES | WORLD_LIES)[lie]
    verdict = judged(**how)
    law, liobn, ioba = where
    assert [(f.law, f.liobn, f.ioba) for f in verdict.findings[:1]] == [where], verdict.findings
    # Swapped pages are wrong in both their places; any other lie is told once.
    assert len(verdict.findings) == (2 if "swapped" in lie else 1), verdict.findings
    finding = verdict.findings[0]
    assert said in finding.message
    assert "\n" not in finding.message
    assert not finding.operation or finding.operation.partition(" ")[2] not in finding.message, "it is told once"
    assert liobn is None or f"{ioba:#x}" in finding.message
    assert (verdict.result, verdict.exit_code) == ("finding", 1)
    assert verdict.evidence.laws[law].findings == len(verdict.findings)


@pytest.mark.parametrize("lie", INVENTORY_LIES)
def test_a_table_that_the_topology_does_not_have_is_named(lie):
    change, liobn, said = INVENTORY_LIES[lie]
    verdict = judged(**see(on(liobn, change)))
    assert [(f.law, f.liobn) for f in verdict.findings] == [("inventory", liobn)]
    assert said in verdict.findings[0].message


def test_a_table_shown_twice_or_of_an_unknown_liobn_is_named():
    def twice(_session, _number, op, snapshot):
        return replace(snapshot, tables=(*snapshot.tables, snapshot.tables[1])) if op.label == "mapped" else snapshot

    assert [(f.law, f.liobn) for f in judged(warp=twice).findings] == [("inventory", FIRST)]

    def stranger(_session, _number, op, snapshot):
        table = replace(snapshot.tables[1], liobn=0x71000001)
        return replace(snapshot, tables=(*snapshot.tables, table)) if op.label == "mapped" else snapshot

    assert [(f.law, f.liobn) for f in judged(warp=stranger).findings] == [("inventory", 0x71000001)]


def test_a_table_finding_tells_expected_seen_operation_views_and_batch():
    verdict = judged(**after(MAP, put(FIRST, 0x10, lambda t: t ^ 0x1000)))
    finding = verdict.findings[0]
    assert finding.expected.endswith("read-write) = a:0")
    assert finding.seen.startswith("0x")
    assert finding.operation.startswith(f"#{MAP} {{")
    assert '"request":"MAP_DMA"' in finding.operation
    assert (finding.view, finding.batch, finding.step) == ("live, stream", 4, nth("mapped"))


def test_what_lands_on_a_mapped_page_is_blamed_on_the_refused_write():
    how, _, _ = WORLD_LIES["a refused write lands on a read-only page"]
    assert judged(**how).findings[0].operation.startswith(f"#{LANDING} ")


def test_views_that_differ_and_are_both_wrong_are_told_by_both_laws():
    def warp(_session, _number, op, snapshot):
        if op.label != "closed":
            return snapshot
        tables = [
            with_entry(7, 0x7001 if t.view == "live" else 0x8001)(t) if t.liobn == FIRST else t for t in snapshot.tables
        ]
        return replace(snapshot, tables=tuple(tables))

    found = judged(warp=warp).findings
    assert [(f.law, f.view) for f in found] == [("views", "live, stream"), ("table", "live"), ("table", "stream")]
    assert "agree with neither" in found[0].message
    assert {f.operation.partition(" ")[0] for f in found} == {f"#{nth('Close', 1)}"}, "the last that concerned it"


def test_a_wrong_entry_does_not_hide_the_same_entry_of_another_window():
    def do(session):
        put(SECOND, 0x12, lambda _: 0x7001)(session)
        ram("a", 2, b"x")(session)

    found = {(f.law, f.liobn, f.ioba) for f in judged(**after(THIRD_MAP, do)).findings}
    assert found == {("table", SECOND, 0x12000), ("tag", FIRST, 0x12000)}


@pytest.mark.parametrize(("number", "batch"), [(MAP, 4), (UNMAP, 0)])
def test_a_finding_of_an_operation_belongs_to_the_batch_size_of_the_next_checkpoint(number, batch):
    found = judged(**after(number, lambda _: Outcome(errno="EINTR"))).findings
    assert (found[0].law, found[0].batch) == ("outcome", batch)


def test_suspicion_is_confirmed_by_the_stream_and_then_told_once():
    verdict = judged(**after(MAP, put(SECOND, 0x70, lambda _: 0x7003)))
    assert verdict.evidence.steps == {"live": 6, "stream": 3}
    assert len(verdict.findings) == 1


def test_a_missing_stream_is_could_not_judge():
    verdict = judged(cannot={"stream": "no such command"})
    assert verdict.exit_code == 125
    assert any("stream view is missing: cannot" in reason for reason in verdict.could_not)


@pytest.mark.parametrize("view", ["live", "stream"])
def test_a_view_that_is_silently_absent_is_could_not_judge(view):
    verdict = judged(**see(lambda _: None, view=view, label="closed"))
    assert verdict.exit_code == 125
    assert any(f"{view} view is missing" in reason for reason in verdict.could_not)


def test_a_kernel_that_dies_is_a_finding_that_names_the_operation_in_flight():
    class Dying(Ideal):
        def perform(self, ops):
            if self.number > MAP:
                raise GuestLost("oops", kernel_died=True, in_flight=0)
            return super().perform(ops)

    program = story()
    record = perform_program(program, Dying(program))
    verdict = judge(record)
    blamed = nth("mapped") + 1
    assert [(f.law, f.operation.split()[0]) for f in verdict.findings] == [("kernel", f"#{blamed}")]
    assert '"op":"dma"' in verdict.findings[0].message
    assert verdict.exit_code == 1


@pytest.mark.parametrize(("said", "seen"), [("[ 5.1] Oops: x", "[ 5.1] Oops: x"), ("", "nothing on its console")])
def test_what_is_seen_of_a_death_is_the_line_that_tells_it_and_not_the_consoles_last(said, seen):
    class Dying(Ideal):
        def perform(self, ops):
            scene = Scene(console=["[ 5.1] Oops: x", "tcelab# "])
            raise GuestLost("oops", kernel_died=True, in_flight=0, said=said, scene=scene)

    program = story()
    (finding,) = judge(perform_program(program, Dying(program))).findings
    assert (finding.law, finding.seen) == ("kernel", seen)


def test_a_warning_after_the_last_checkpoint_is_a_finding_too():
    class Late(Ideal):
        def intervene(self, op, frames):
            result = super().intervene(op, frames)
            if op.label == "closed":
                self.console.append("WARNING: CPU: 0 PID: 1 at drivers/vfio/x.c:1")
            return result

    program = story()
    verdict = judge(perform_program(program, Late(program)))
    assert [(each.law, each.seen[:7]) for each in verdict.findings] == [("kernel", "WARNING")]


@pytest.mark.parametrize("error", [GuestLost("silent"), HarnessError("QEMU ended")])
def test_any_other_early_end_is_could_not_judge(error):
    class Ending(Ideal):
        def intervene(self, op, frames):
            if op.label == "unmapped":
                raise error
            return super().intervene(op, frames)

    program = story()
    verdict = judge(perform_program(program, Ending(program)))
    assert (verdict.exit_code, verdict.findings) == (125, [])
    assert any(error.message in reason for reason in verdict.could_not)


@pytest.mark.parametrize(("ioba", "said"), [(0x12000, "wrong page"), (0x7000, "no operation made")])
def test_a_flipped_bit_in_the_live_table_is_named(ioba, said):
    program = story()
    at = nth("control")
    ops = [*program.ops[:at], Flip(liobn=SECOND - 0x100, ioba=ioba), *program.ops[at:]]
    program = structs.replace(program, ops=ops)
    verdict = judge(perform_program(program, Ideal(program)))
    assert [(f.law, f.liobn, f.ioba) for f in verdict.findings] == [("table", FIRST, ioba)]
    assert said in verdict.findings[0].message


def test_a_finding_beats_could_not_judge():
    verdict = judged(**after(MAP, put(FIRST, 0x12, lambda _: 0)), cannot={"stream": "no"})
    assert verdict.could_not
    assert verdict.exit_code == 1


def test_an_operation_after_the_last_checkpoint_is_no_pass():
    """What it did to the tables, nobody has seen."""
    program = story()
    program = structs.replace(program, ops=[*program.ops, program.ops[0]])
    verdict = judge(perform_program(program, Ideal(program)))
    assert verdict.exit_code == 125
    assert "nobody looked after operation" in verdict.could_not[0]


def test_a_guest_that_dies_of_the_last_operation_is_no_pass():
    class Dying(Ideal):
        def finish(self):
            raise GuestLost("panicked", kernel_died=True)

    program = story()
    assert judge(perform_program(program, Dying(program))).exit_code == 1


def test_a_kernel_that_dies_of_nobody_knows_what_is_of_no_batch_size():
    program = Program(name="p", topology=SMALL, ops=[*b.buffer("m", 1, 1), Checkpoint(label="x", batch=4)])
    record = perform_program(program, Ideal(program))
    record.ending = Ending(GuestLost("panicked", kernel_died=True), None)
    (finding,) = judge(record).findings
    assert (finding.batch, finding.operation) == (0, "")


def test_a_run_that_stops_short_without_an_error_is_no_pass():
    program = story()
    record = perform_program(program, Ideal(program))
    record.steps.pop()
    assert judge(record).exit_code == 125
    program = structs.replace(program, ops=[*program.ops, program.ops[0], program.ops[-1]])
    record = perform_program(program, Ideal(program))
    record.steps.pop()
    verdict = judge(record)
    assert verdict.could_not == [f"only {len(program.ops) - 1} of {len(program.ops)} operations were done"]


def test_a_page_whose_frame_only_the_map_told_is_a_canary_after_its_unmap():
    def hide(session, number, op, outcome):
        if number == nth("DISABLE"):
            session.ram[session.buffers["a"][2]][0] ^= 1
        return Outcome(value=0) if type(op).__name__ == "Frames" else outcome

    program = story()
    at = nth("DISABLE") + 1
    stay = structs.replace(program.ops[nth("UNMAP_DMA")], fields={"iova": 0x10000, "size": 0x4000})
    program = structs.replace(program, ops=[*program.ops[: at - 2], stay, *program.ops[at - 2 :]])
    found = judge(perform_program(program, Ideal(program, tamper=hide))).findings
    assert [(f.law, "buffer a page 2" in f.message) for f in found] == [("memory", True)]


def test_frames_that_the_agent_does_not_tell_are_no_pass_and_no_finding():
    def forget(_session, number, _op, outcome):
        return Outcome(value=0) if number == MAP else outcome

    verdict = judged(tamper=forget)
    assert (verdict.exit_code, verdict.findings) == (125, [])
    assert "reported 0 frames for 4 pages" in verdict.could_not[0]


def test_frames_that_the_agent_does_not_tell_still_leave_tags_and_permissions_to_judge():
    def forget(session, number, _op, outcome):
        if number != MAP:
            return outcome
        session.pes["pe1"].table[0x13] ^= 2
        del session.pes["pe1"].table[0x11]
        session.ram[session.buffers["a"][2]][5] ^= 1
        return Outcome(value=0)

    found = {(f.law, f.ioba) for f in judged(tamper=forget).findings}
    assert found == {("table", 0x13000), ("table", 0x11000), ("tag", 0x12000)}


def test_findings_beyond_the_cap_are_counted():
    def flood(_session, _number, op, snapshot):
        if op.label != "mapped":
            return snapshot
        tables = [t if t.liobn != SECOND else many(t) for t in snapshot.tables]
        return replace(snapshot, tables=tuple(tables))

    def many(table):
        for number in range(100, 250):
            table = with_entry(number, number << 12 | BOTH)(table)
        return table

    program = story()
    watch = Judge(program, Ideal(program).facts, keep=10)
    record = perform_program(program, Ideal(program, warp=flood), watch)
    verdict = watch.verdict(record)
    assert (len(verdict.findings), verdict.more) == (10, 140)


def test_a_table_full_of_rubbish_is_counted_whole_and_once():
    program = story()
    rubbish = np.arange(1024, dtype=np.uint32)

    def fill(table):
        return replace(table, index=rubbish, tce=(rubbish.astype(np.uint64) << 12) | 3)

    def warp(_session, _number, _op, snapshot):
        tables = [fill(t) if t.liobn == CHANNEL else t for t in snapshot.tables]
        return replace(snapshot, tables=tuple(tables))

    assert judge(perform_program(program, Ideal(program, warp=warp))).evidence.laws["table"].findings == 1024
