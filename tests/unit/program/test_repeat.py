"""`Repeat`: what the agent does, what a program may ask for, and that the judge believes no more than was done."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from agent_fake import FIRST_ADDRESS, FIRST_FRAME, FakeKernel
from hypothesis import given, settings
from hypothesis import strategies as st
from ideal import NONCE, Ideal
from story import BOTH, FIRST, ONE, READ, SMALL, after, see, with_entry

from tceagent import kernel as kernel_module
from tceagent import ops
from tceagent.agent import Agent
from tceagent.kernel import LinuxKernel
from tceagent.state import State
from tcelab.errors import UsageError
from tcelab.judge import judge
from tcelab.judge.ledger import op_text
from tcelab.judge.models.fold import Fold
from tcelab.program import Bind, Buffer, Ioctl, Open, Page, Program, Repeat, from_json
from tcelab.program.topology import topology
from tcelab.program.validate import MOST_CALLS, validate
from tcelab.qemu.channel import Cell
from tcelab.run.loop import perform_program
from tcelab.run.record import Facts, Outcome, Step
from tcelab.scenarios import vocabulary as b
from thorough import often

MAP, UNMAP = 0x20003B71, 0x20003B72
OK = (0, "", None)


# -- the agent


@pytest.fixture
def kernel():
    return FakeKernel()


@pytest.fixture
def state(kernel):
    state = State(kernel)
    ops.perform(state, {"op": "buffer", "name": "b", "pages": 8})
    ops.perform(state, {"op": "open", "file": "c", "path": "/dev/vfio/vfio"})
    kernel.calls.clear()
    return state


def map_(index, pages, iova=0, **more):
    fields = {"flags": 3, "vaddr": Page("b", index), "iova": iova, "size": pages * 4096}
    return Ioctl(file="c", request="MAP_DMA", fields=fields, **more)


def unmap(pages, iova=0, **more):
    return Ioctl(file="c", request="UNMAP_DMA", fields={"iova": iova, "size": pages * 4096}, **more)


def repeat(state, *calls, times, **more):
    op = Repeat(ops=list(calls), times=times, **more)
    return ops.perform(state, msgspec.json.decode(msgspec.json.encode(op)))


LOOPS = pytest.mark.parametrize("loop", ["c", "python"])


@LOOPS
def test_calls_are_made_in_order_round_after_round(state, kernel, loop):
    outcome = repeat(state, map_(1, 2, 0x5000), unmap(2, 0x5000), times=3, loop=loop)
    assert (outcome["value"], outcome["fields"]["calls"]) == (0, 6)
    mapped = struct.pack("=IIQQQ", 32, 3, FIRST_ADDRESS + 4096, 0x5000, 8192)
    unmapped = struct.pack("=IIQQ", 24, 0, 0x5000, 8192)
    assert [(call[2], bytes(call[3])) for call in kernel.did("ioctl")] == [(MAP, mapped), (UNMAP, unmapped)] * 3
    assert bool(kernel.did("ioctls")) is (loop == "c")


def test_the_time_is_that_of_the_calls(state):
    assert repeat(state, map_(0, 1), times=5)["fields"]["seconds"] == pytest.approx(5e-3)


@LOOPS
@pytest.mark.parametrize(
    ("answer", "said"), [((None, "EINTR", None), {"errno": "EINTR"}), ((1, "", None), {"value": 1})]
)
def test_the_first_call_that_does_not_return_0_ends_it(state, kernel, loop, answer, said):
    kernel.answers[UNMAP] = [OK, OK, answer]
    outcome = repeat(state, map_(0, 1), unmap(1), times=9, loop=loop)
    assert outcome.pop("frames") == [FIRST_FRAME]
    assert outcome.pop("fields")["calls"] == 5
    assert outcome == said
    assert len(kernel.did("ioctl")) == 6


@pytest.mark.parametrize(
    ("done", "frames"), [(0, []), (1, [1, 2]), (2, [1, 2]), (3, [1, 2, 5]), (4, [1, 2, 5]), (9, [1, 2, 5])]
)
def test_frames_are_those_of_every_map_that_was_done_at_all(state, kernel, done, frames):
    """Read once, after the last call."""
    fails = (None, "EFAULT", None)
    calls = [map_(1, 2), unmap(1), map_(5, 1, 0x9000)]
    maps = [i for i in range(99) if i % 3 != 1]
    kernel.answers[MAP] = [OK if i < done else fails for i in maps]
    kernel.answers[UNMAP] = [OK if i < done else fails for i in range(1, 99, 3)]
    outcome = repeat(state, *calls, times=33)
    assert outcome["fields"]["calls"] == done
    assert outcome.get("frames", []) == [FIRST_FRAME + page * 4096 for page in frames]
    last = [call[0] for call in kernel.calls if call[0] in {"ioctl", "frames"}]
    assert last == ["ioctl"] * (done + 1) + ["frames"] * ((done > 0) + (done > 2))


@LOOPS
def test_the_host_sees_signs_of_life(state, kernel, loop):
    """A round of 32 pages and 2 calls counts 34; 16384 such units are done between two signs."""
    repeat(state, map_(0, 31), unmap(1), times=2000, loop=loop)
    kinds = [call[0] for call in kernel.calls if call[0] in {"beat", "ioctl"}]
    beats = [i for i, kind in enumerate(kinds) if kind == "beat"]
    assert beats[0] == 0
    assert len(kinds) - len(beats) == 4000
    stretch = 16384 // 34
    assert [after - before for before, after in pairwise(beats)] == [2 * stretch + 1] * 4


@LOOPS
def test_a_call_that_fails_in_the_first_stretch_ends_all_of_them(state, kernel, loop):
    kernel.answers[UNMAP] = [OK, (None, "EINTR", None)]
    outcome = repeat(state, map_(0, 31), unmap(1), times=2000, loop=loop)
    assert (outcome["errno"], outcome["fields"]["calls"]) == ("EINTR", 3)
    assert (len(kernel.did("ioctl")), len(kernel.did("beat"))) == (4, 1)


def test_a_round_that_is_longer_than_a_stretch_is_still_done(state, kernel):
    assert repeat(state, map_(0, 1 << 20), times=2)["fields"]["calls"] == 2
    assert len(kernel.did("beat")) == 2


def test_a_file_that_could_not_be_opened_is_a_bad_descriptor(state, kernel):
    call = Ioctl(file="x", request="UNMAP_DMA")
    assert repeat(state, call, times=2) == {"errno": "EBADF", "fields": {"calls": 0, "seconds": 0.0}}
    assert kernel.calls == []


def test_only_maps_and_unmaps_are_repeated(state, kernel):
    with pytest.raises(ValueError, match="only MAP_DMA and UNMAP_DMA are repeated, not ENABLE"):
        repeat(state, map_(0, 1), Ioctl(file="c", request="ENABLE"), times=2)
    assert kernel.did("ioctl") == []


# -- the real kernel


@pytest.fixture
def real():
    made = LinuxKernel()
    yield made
    os.close(made._pagemap)
    os.close(made._status)


def test_a_kernel_does_each_call_with_its_own_argument(real):
    ends = os.pipe()
    os.write(ends[1], b"12345")
    first, second = bytearray(4), bytearray(4)
    assert real.ioctls(ends[0], [termios.FIONREAD] * 2, [first, second], 2) == (4, 0, "")
    assert first == second == struct.pack("=i", 5)
    assert real.ioctls(ends[0], [termios.FIONREAD, termios.TIOCGWINSZ], [first, bytearray(8)], 3) == (1, None, "ENOTTY")
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("how", [7, -4, OSError(errno.EINTR, "interrupted")])
def test_a_kernel_counts_the_calls_that_returned_0(real, monkeypatch, at, how):
    seen = []

    def ioctl(*call):
        seen.append(call)
        if len(seen) <= at:
            return 0
        if isinstance(how, OSError):
            raise how
        return how

    monkeypatch.setattr(kernel_module, "fcntl", SimpleNamespace(ioctl=ioctl))
    one, two = bytearray(b"1"), bytearray(b"2")
    returned = (None, "EINTR") if isinstance(how, OSError) else (how, "")
    assert real.ioctls(9, [100, 200], [one, two], 3) == (at, *returned)
    assert seen == [[(9, 100, one), (9, 200, two)][i % 2] for i in range(at + 1)]


def test_the_loop_is_one_in_c(real, monkeypatch):
    """Not a time: no Python function of the agent is entered once the calls have begun."""
    import sys  # noqa: PLC0415

    entered = []
    monkeypatch.setattr(kernel_module, "fcntl", SimpleNamespace(ioctl=fcntl.ioctl))
    ends = os.pipe()
    sys.setprofile(lambda frame, event, _: entered.append((event, frame.f_lineno)) if event == "call" else None)
    lines = []
    sys.settrace(lambda *_: lambda frame, event, _: lines.append(frame.f_lineno))
    try:
        real.ioctls(ends[0], [termios.FIONREAD], [bytearray(4)], 500)
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    assert len(entered) < 5
    assert len(lines) < 12
    for end in ends:
        os.close(end)


def test_the_host_reads_the_signs_of_life_where_the_agent_writes_them(real, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_module, "CELL", str(tmp_path / "cell"))
    agent = Agent(real)
    agent.answer(msgspec.json.encode({"id": 1, "hello": {"nonce": NONCE.hex()}}))
    agent.answer(msgspec.json.encode({"id": 5, "ops": [{"op": "buffer", "name": "b", "pages": 1}] * 1}))
    ram = SimpleNamespace(read=lambda _address, size: (tmp_path / "cell").read_bytes()[:size])
    cell = Cell(ram, 0, NONCE)
    assert cell.read() == (5, 0, 0)
    real.beat()
    real.beat()
    assert cell.read() == (5, 0, 2)
    agent.answer(msgspec.json.encode({"id": 6, "ops": []}))
    assert cell.read() == (5, 0, 2)


# -- the program


def program(op):
    made = [
        Buffer(name="b", pages=4),
        Bind(device="pe1"),
        Open(file="c", path="/dev/vfio/vfio"),
        Open(file="d", path="/dev/vfio/$pe1"),
    ]
    return Program(name="p", topology=topology("one-pe"), ops=[*made, op])


def test_a_repeat_comes_back_from_its_json():
    made = program(Repeat(ops=[map_(0, 1), unmap(1)], times=7, loop="python", expect="ok"))
    validate(made)
    assert from_json(made.to_json(), "here") == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loop": "rust"}, "loop"),
        ({"ops": [{"op": "close", "file": "c"}]}, r"operation 4 \(repeat\), field ops\[0\]"),
        ({"ops": [{"op": "repeat", "ops": [], "times": 1}]}, r"operation 4 \(repeat\), field ops\[0\]"),
    ],
)
def test_what_is_no_repeat_is_refused_with_the_place(change, said):
    data = msgspec.json.decode(program(Repeat(ops=[map_(0, 1)], times=1)).to_json())
    data["ops"][4].update(change)
    with pytest.raises(UsageError, match=said):
        from_json(msgspec.json.encode(data), "p.json")


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Repeat(ops=[], times=1), "0 calls; a Repeat does 1..1000000"),
        (Repeat(ops=[map_(0, 1)], times=0), "0 calls"),
        (Repeat(ops=[map_(0, 1)], times=-1), "-1 calls"),
        (Repeat(ops=[map_(0, 1), unmap(1)], times=MOST_CALLS // 2 + 1), "1000002 calls"),
        (Repeat(ops=[map_(0, 1), Ioctl(file="d", request="UNMAP_DMA")], times=1), "all its calls go to one file"),
        (Repeat(ops=[Ioctl(file="c", request="ENABLE")], times=1), "'ENABLE' cannot be repeated; can be: MAP_DMA, UN"),
        (Repeat(ops=[Ioctl(file="c", request=MAP)], times=1), f"{MAP} cannot be repeated"),
        (Repeat(ops=[Ioctl(file="c", request="MAP_DMA", value=0)], times=1), "fields alone"),
        (Repeat(ops=[map_(0, 1, into="x")], times=1), "fields alone"),
        (Repeat(ops=[map_(0, 1, expect="ok")], times=1), "fields alone"),
        (Repeat(ops=[Ioctl(file="x", request="MAP_DMA")], times=1), "no file 'x' was opened"),
        (Repeat(ops=[Ioctl(file="c", request="MAP_DMA", fields={"vaddr": Page("x")})], times=1), "no buffer 'x'"),
    ],
)
def test_a_repeat_that_cannot_be_done_is_named(op, why):
    with pytest.raises(UsageError, match=why) as caught:
        validate(program(op))
    assert "operation 4 (Repeat)" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("times", [1, MOST_CALLS // 2])
def test_as_many_calls_as_allowed_are_let_through(times):
    validate(program(Repeat(ops=[map_(0, 1), unmap(1)], times=times)))


# -- the judge


def tale(*repeats, look="repeated"):
    """a:0..7 tagged for entries 0x10.., container open; `repeats`; then all is closed. Looked at after each."""
    ops = [
        *b.vmlck(),
        *b.pins(),
        *b.buffer("a", 8, 1),
        *b.bind(ONE),
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.tag(Page("a"), 8, FIRST, 0x10000, 1),
    ]
    for one in repeats:
        ops += [*one, *b.vmlck(), *b.pins(), *b.checkpoint(look, stream=True, batch=3)]
    ops += [*b.disable(ONE), *b.close(ONE.group, ONE.container), *b.vmlck(), *b.pins()]
    return Program(name="tale", topology=SMALL, ops=[*ops, *b.checkpoint("closed", stream=True)])


def maps(index, pages, permissions=BOTH):
    """Map pages of the buffer at the entries that their tags name."""
    return b.map_dma(ONE, Page("a", index), 0x10000 + index * 4096, pages, permissions)


def unmaps(index, pages):
    return b.unmap_dma(ONE, 0x10000 + index * 4096, pages)


def judged(program, **world):
    session = Ideal(program, **{k: v for k, v in world.items() if k != "fail"})
    session.fail = world.get("fail", session.fail)
    return judge(perform_program(program, session))


MIXED = [*maps(0, 3), *unmaps(1, 1), *maps(4, 2, READ)]


def test_an_honest_repeat_passes_and_every_call_is_counted():
    verdict = judged(tale(b.repeat(MIXED, 5), b.repeat(unmaps(0, 8), 2)))
    assert (verdict.findings, verdict.could_not) == ([], [])
    (batch,) = verdict.evidence.batches
    assert (batch.maps, batch.pages) == (10, 25)
    assert verdict.evidence.tags > 0


def failing(at, **outcome):
    """The call after `at` successful ones of a Repeat fails; the first call makes the window whatever becomes of it."""

    def fail(session, done, _call):
        session.pes["pe1"].made = True
        return Outcome(**outcome) if done == at else None

    return {"fail": fail}


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("how", [{"errno": "EFAULT"}, {"value": 1}])
def test_a_repeat_that_fails_leaves_what_its_successful_calls_left(at, how):
    ops = [msgspec.structs.replace(op, expect=None) for op in b.repeat(MIXED, 3)]
    verdict = judged(tale(ops), **failing(at, **how))
    if at == 0:  # nothing is mapped, so nothing could be proven
        (reason,) = verdict.could_not
        assert verdict.findings == []
        assert reason.startswith("no live entry was proven by its tag: look ")
        return
    assert (verdict.findings, verdict.could_not) == ([], [])
    (batch,) = verdict.evidence.batches
    full, part = divmod(at, 3)
    assert (batch.maps, batch.pages) == (2 * full + (part > 0), 5 * full + (3 if part else 0))


@pytest.mark.parametrize(
    ("expect", "how", "seen"),
    [
        ("ok", {"errno": "EINTR"}, "EINTR after 4 calls"),
        ("ok", {"value": 1}, "value 1 after 4 calls"),
        ("ok", {"value": -4}, "value -4 after 4 calls"),
        ("EFAULT", {"errno": "EINTR"}, "EINTR after 4 calls"),
        ("EINTR", {"errno": "EINTR"}, ""),
        (1, {"value": 1}, ""),
        (None, {"value": 1}, ""),
    ],
)
def test_a_repeat_is_held_against_what_it_expects(expect, how, seen):
    (op,) = b.repeat(MIXED, 3)
    verdict = judged(tale([msgspec.structs.replace(op, expect=expect)]), **failing(4, **how))
    assert [finding.seen for finding in verdict.findings] == ([seen] if seen else [])
    assert [finding.law for finding in verdict.findings] == (["outcome"] if seen else [])


def test_a_repeat_that_gives_no_error_where_one_is_expected_is_found():
    (op,) = b.repeat(MIXED, 3)
    (finding,) = judged(tale([msgspec.structs.replace(op, expect="EPERM")])).findings
    assert (finding.law, finding.seen) == ("outcome", "value 0 after 9 calls")


AT = next(i for i, op in enumerate(tale(b.repeat(MIXED, 2)).ops) if isinstance(op, Repeat))


@pytest.mark.parametrize(
    ("tamper", "law"),
    [
        (lambda s: s.pes["pe1"].table.pop(0x14), "table"),
        (lambda s: s.pes["pe1"].table.update({0x11: 0x5003}), "table"),
        (lambda s: s.pes["pe1"].table.update({0x10: s.pes["pe1"].table[0x12]}), "table"),
        (lambda s: s.pes["pe1"].pinned.discard(0x10), "pins"),
        (lambda s: setattr(s.pes["pe1"], "made", False), "charges"),
    ],
    ids=["lost", "left", "wrong page", "pin", "charge"],
)
def test_a_lie_about_a_repeat_is_found_and_the_repeat_is_blamed(tamper, law):
    verdict = judged(tale(b.repeat(MIXED, 2)), **after(AT, tamper))
    found = [finding for finding in verdict.findings if finding.law == law]
    assert found
    assert all(finding.operation.startswith(f"#{AT} ") for finding in found)


def test_a_frame_that_the_agent_lies_about_is_found():
    """Two maps: the frames of the second follow those of the first."""

    def swap(session):
        outcome = Outcome(value=0, fields={"calls": 6, "seconds": 0.1}, frames=session.buffers["a"][:3] * 2)
        return msgspec.structs.replace(outcome, frames=outcome.frames[:5])

    verdict = judged(tale(b.repeat(MIXED, 2)), **after(AT, swap))
    assert {finding.ioba for finding in verdict.findings if finding.law == "table"} == {0x14000, 0x15000}


def test_a_rollback_that_takes_live_entries_along_is_found():
    """The driver that fails in the middle of a map over live entries has no excuse because it was a Repeat."""

    def roll_back(session):
        for entry in (0x10, 0x11):
            session.pes["pe1"].table.pop(entry, None)

    (op,) = b.repeat([*maps(0, 3), *maps(0, 2)], 2)
    session = after(AT, roll_back) | failing(3, errno="EINTR")
    verdict = judged(tale([msgspec.structs.replace(op, expect="EINTR")]), **session)
    assert {finding.ioba for finding in verdict.findings if finding.law == "table"} == {0x10000, 0x11000}
    assert all(finding.operation.startswith(f"#{AT} ") for finding in verdict.findings)


@pytest.mark.parametrize(
    "fields", [{}, {"calls": "6"}, {"calls": True}, {"calls": -1}, {"calls": 5}, {"calls": 7}], ids=str
)
def test_an_agent_that_does_not_tell_how_many_calls_it_did_is_not_believed(fields):
    (op,) = b.repeat(MIXED, 2)
    for expect in ("ok", None):
        verdict = judged(
            tale([msgspec.structs.replace(op, expect=expect)]),
            **after(AT, lambda _: Outcome(value=0, fields=fields, frames=[1])),
        )
        assert f"Repeat of step {AT} did not tell how many of its calls were done" in verdict.could_not
        assert ("outcome" in [finding.law for finding in verdict.findings]) is (expect == "ok")


@pytest.mark.parametrize("calls", [6, 7, -1, True, "1", None])
def test_a_number_of_calls_that_cannot_be_is_not_believed_with_an_error_either(calls):
    verdict = judged(tale(b.repeat(MIXED, 2)), **after(AT, lambda _: Outcome(errno="EINTR", fields={"calls": calls})))
    assert f"Repeat of step {AT} did not tell how many of its calls were done" in verdict.could_not


def test_that_no_call_was_done_before_an_error_is_believed():
    (op,) = b.repeat(MIXED, 2)
    verdict = judged(tale([msgspec.structs.replace(op, expect="EINTR")]), **failing(0, errno="EINTR"))
    assert [reason for reason in verdict.could_not if "did not tell" in reason] == []


def test_frames_that_are_too_few_are_no_proof():
    def fewer(session):
        return Outcome(value=0, fields={"calls": 6}, frames=session.buffers["a"][:4])

    verdict = judged(tale(b.repeat(MIXED, 2)), **after(AT, fewer))
    assert any("reported 0 frames for 3 pages" in reason for reason in verdict.could_not)


def test_an_entry_that_survives_a_repeat_that_removed_it_is_named_so():
    program = tale(b.repeat([*maps(0, 1), *unmaps(0, 1)], 2), b.repeat(maps(3, 1), 1))
    verdict = judged(program, **see(lambda t: with_entry(0x10, 0x5003)(t) if t.liobn == FIRST else t, label="repeated"))
    assert "an entry survived its removal" in verdict.findings[0].message


def test_a_repeat_is_told_without_what_is_empty():
    (op,) = b.repeat(unmaps(0, 1), 2)
    assert op_text(op) == (
        '{"op":"repeat","expect":"ok","ops":[{"op":"ioctl","file":"story-pe1-container","request":"UNMAP_DMA",'
        '"fields":{"iova":"0x10000","size":4096}}],"times":2,"loop":"c"}'
    )


def test_a_repeat_of_many_calls_is_told_by_its_first_ones():
    few, many = b.repeat(unmaps(0, 1) * 3, 2)[0], b.repeat(unmaps(0, 1) * 128, 2)[0]
    assert "more" not in op_text(few)
    assert op_text(many).count('"op":"ioctl"') == 3
    assert '},"and 125 more"],"times":2' in op_text(many)


CALLS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=5
)


@settings(max_examples=often(80, 200), deadline=None)
@given(CALLS, st.integers(1, 5), st.data())
def test_the_fold_of_a_repeat_is_that_of_its_calls_one_by_one(calls, times, data):
    listed: list[Any] = []
    for is_map, first, count, flags in calls:
        one = (
            b.map_dma(ONE, Page("a", first), first << 12, count, flags)
            if is_map
            else b.unmap_dma(ONE, first << 12, count)
        )
        listed += one
    total = len(listed) * times
    done = data.draw(st.integers(0, total))
    error = Outcome(errno="EINTR") if data.draw(st.booleans()) else Outcome(value=1)
    frames = [(index + 1) << 16 for index in range(9)]

    def alone(op):
        index, count = op.fields["iova"] >> 12, op.fields["size"] >> 12
        return frames[index : index + count] if op.request == "MAP_DMA" else []

    whole, single = opened(), opened()
    (op,) = b.repeat(listed, times)
    told = [frame for each in op.ops[:done] for frame in alone(each)]
    end = Outcome(value=0) if done == total else error
    outcome = Outcome(value=end.value, errno=end.errno, fields={"calls": done, "seconds": 0.1}, frames=told)
    whole.apply(Step(50, op, outcome))
    for number in range(done):
        each = op.ops[number % len(listed)]
        single.apply(Step(50, each, Outcome(value=0, frames=alone(each))))
    if done < total:
        single.apply(Step(50, op.ops[done % len(listed)], error))
    assert whole.unknown == single.unknown == []
    for liobn, table in single.tables.items():
        assert whole.tables[liobn].live == table.live
        assert whole.tables[liobn].removed == table.removed
    assert [table.last_operation(i) for table in whole.tables.values() for i in range(10)] == [
        table.last_operation(i) for table in single.tables.values() for i in range(10)
    ]
    assert (whole.live, whole.charge()) == (single.live, single.charge())


def opened():
    """A fold in which a container is open and enabled, with a buffer whose pages are equal if their fields are."""
    fold = Fold(Program(name="p", topology=SMALL, ops=[]), Facts("ideal", NONCE, 4096, 1 << 28, {}, {}))
    for op in [*b.buffer("a", 16, 0)[:1], *b.open_container(ONE), *b.enable(ONE)]:
        fold.apply(Step(0, op, Outcome(value=0x100000 if hasattr(op, "pages") else 0)))
    return fold
