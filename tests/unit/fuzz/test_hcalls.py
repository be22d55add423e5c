"""Random programs with raw hypercalls: on a PE of their own, the same for a seed, right, and shrunk like the rest."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.fuzz import simpler
from tcelab.fuzz.generate import generate
from tcelab.fuzz.shrink import shrink, whole
from tcelab.judge import Judge
from tcelab.program import Bind, Buffer, Call, Checkpoint, Hcall, HcallBatch, Open, Page, Program, Tag, Tce, from_json
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program
from thorough import often

SMALL = topology("two-small")
VFIO, RAW = (phb.liobn for phb in SMALL.phbs)
STEPS = 1200
END = Checkpoint(label="end", stream=True)


def made(seed, where=SMALL, steps=STEPS, *, hypercalls=True):
    return generate(random.Random(seed), where, steps, every=25, hypercalls=hypercalls).program


def calls(program):
    ops = [op for op in program.ops if isinstance(op, Hcall | HcallBatch)]
    return [call for op in ops for call in (op.calls if isinstance(op, HcallBatch) else [op.call])]


@pytest.fixture(scope="module")
def many():
    return [made(seed) for seed in range(often(6, 20))]


# -- what is generated


def test_the_same_seed_gives_the_same_program():
    assert [made(seed) for seed in range(3)] == [made(seed) for seed in range(3)]


def test_a_kernel_without_hypercalls_is_asked_for_none():
    for seed in range(5):
        assert calls(made(seed, hypercalls=False)) == []


@pytest.mark.parametrize("name", ["two-small", "three-pe", "fast", "high-window", "one-pe", "pair"])
def test_every_program_is_whole_and_the_same_once_it_was_a_file(name):
    for seed in range(often(2, 5)):
        program = made(seed, topology(name))
        validate(program)
        assert from_json(program.to_json(), "file") == program


@pytest.mark.parametrize("name", ["one-pe", "pair"])
def test_where_there_is_but_one_pe_it_is_vfios(name):
    assert calls(made(1, topology(name))) == []


def test_a_pe_of_hypercalls_is_not_vfios(many):
    raw = {device.name for device in SMALL.phbs[1].devices}
    for program in many:
        assert {op.device for op in program.ops if isinstance(op, Bind)}.isdisjoint(raw)
        assert not any(op.path.removeprefix("/dev/vfio/$") in raw for op in program.ops if isinstance(op, Open))


def test_nothing_is_written_to_a_table_of_vfios(many):
    for program in many:
        assert {call.opcode for call in calls(program) if call.args[0] == VFIO} <= {"H_GET_TCE"}


def test_all_kinds_are_there(many):
    ops = [op for program in many for op in program.ops]
    made_ = [call for program in many for call in calls(program)]
    assert Counter(call.opcode for call in made_).keys() == {
        "H_GET_TCE",
        "H_PUT_TCE",
        "H_STUFF_TCE",
        "H_PUT_TCE_INDIRECT",
    }
    assert any(op.problem_state for op in ops if isinstance(op, Hcall))
    assert any(op.by for op in ops if isinstance(op, Hcall))
    assert any(op.times > 1 for op in ops if isinstance(op, HcallBatch))
    assert any(isinstance(word, Tce) for call in made_ for word in call.tces or ())
    assert {call.args[3] for call in made_ if len(call.args) > 3} > {0, 1, 32, 512, 513, 4097}
    share = len([op for op in ops if isinstance(op, Hcall | HcallBatch)]) / len(ops)
    assert 0.05 < share < 0.4


def test_what_hypercalls_stored_is_cleared_at_the_end(many):
    for program in many:
        assert isinstance(program.ops[-1], Checkpoint)
        whole_window = Call("H_STUFF_TCE", [RAW, 0, 0, 4096])
        assert any(op == Hcall(call=whole_window) for op in program.ops[-6:])


# -- what comes of it


@pytest.mark.parametrize("seed", range(8))
def test_the_laws_and_another_emulator_find_nothing(seed):
    program = made(seed, steps=often(600, STEPS))
    session = EmulatorSession(SMALL, seed=seed)
    judge = Judge(program, session.facts, references=EmulatorReferences(SMALL, session.facts))
    done = perform_program(program, session, judge)
    verdict = judge.verdict(done)
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert verdict.evidence.laws["hypercalls"].judged > 100


class Leaky(EmulatorSession):
    """Every third entry that a hypercall stores shows in the other PE's table too."""

    def __init__(self):
        super().__init__(SMALL, seed=1)
        self._count = 0

    def perform(self, ops):
        out = []
        for op in ops:
            out += super().perform([op])
            if isinstance(op, Hcall) and op.call.opcode == "H_PUT_TCE" and op.call.args[0] == RAW and not out[-1].value:
                self._count += 1
                if self._count % 3 == 0:
                    tables = [pe.table for pe in self.machine.pes.values()]
                    tables[1].put(3000, 5)
        return out


def judged(program, session):
    judge = Judge(program, session.facts)
    done = perform_program(program, session, judge)
    return judge.verdict(done)


def test_what_shows_in_another_pes_table_is_found_and_shrunk():
    def fails(program):
        return any(each.law == "table" and each.liobn == VFIO for each in judged(program, Leaky()).findings)

    program = made(4)
    assert fails(program)
    small = shrink(program, fails)
    assert fails(small)
    assert [type(op) for op in small.ops[:-1]] == [Hcall] * 3
    assert all(op.call.args[1:3] == [0, 0] for op in small.ops[:-1])


# -- simpler forms


def shrunk(*ops, fails):
    given = Program(name="p", topology=SMALL, ops=[*ops, END])
    validate(given)
    result = shrink(given, fails)
    assert fails(result)
    return list(result.ops[:-1])


def test_a_batch_becomes_the_one_hypercall_that_matters():
    batch = HcallBatch(
        calls=[Call("H_GET_TCE", [RAW, 4096]), Call("H_STUFF_TCE", [RAW, 0x5000, 7, 40]), Call("H_GET_TCE", [RAW, 0])],
        times=9,
    )
    left = shrunk(batch, fails=lambda program: any(call.opcode == "H_STUFF_TCE" for call in calls(program)))
    assert left == [Hcall(call=Call("H_STUFF_TCE", [RAW, 0, 0, 0]))]


def test_a_batch_that_must_stay_gets_small():
    batch = HcallBatch(calls=[Call("H_GET_TCE", [RAW, 4096])] * 5, times=900)
    left = shrunk(batch, fails=lambda program: any(op.times > 2 for op in program.ops if isinstance(op, HcallBatch)))
    assert left == [HcallBatch(calls=[Call("H_GET_TCE", [RAW, 0])], times=3)]


def test_a_list_and_its_pages_shrink_together():
    tces = [Tce("b", 5), 0x7003, Tce("b", 3, 1, 8)]
    call = Call("H_PUT_TCE_INDIRECT", [RAW, 0x9000, 0, 3], tces)

    def fails(program):
        lists = [call.tces for call in calls(program) if call.tces and len(call.tces) == call.args[3]]
        return any(isinstance(word, Tce) for each in lists for word in each)

    left = shrunk(Buffer(name="b", pages=8, seed=4), Hcall(call=call), fails=fails)
    assert [op.call for op in left if isinstance(op, Hcall)] == [Call("H_PUT_TCE_INDIRECT", [RAW, 0, 0, 1], [Tce("b")])]
    assert left[0] == Buffer(name="b", pages=1)


def test_a_page_moves_with_its_buffer():
    ops = [
        Buffer(name="a", pages=2),
        Buffer(name="b", pages=8),
        Tag(buffer="b", first=6),
        Hcall(call=Call("H_PUT_TCE", [RAW, 0x3000, Tce("b", 6)])),
    ]

    def same_page(program):
        tags = [Page(op.buffer, op.first) for op in program.ops if isinstance(op, Tag)]
        words = [
            Page(word.buffer, word.index) for call in calls(program) for word in call.args if isinstance(word, Tce)
        ]
        return bool(set(tags) & set(words))

    left = shrunk(*ops, fails=same_page)
    assert [type(op) for op in left] == [Buffer, Tag, Hcall]
    assert left[0].pages == 1
    assert left[2].call.args == [RAW, 0, Tce(left[0].name)]


def test_a_number_that_matters_stays():
    def fails(program):
        return any(call.args[1] == 0x5001 for call in calls(program))

    left = shrunk(Hcall(call=Call("H_PUT_TCE", [RAW, 0x5001, 99]), problem_state=True), fails=fails)
    assert left == [Hcall(call=Call("H_PUT_TCE", [RAW, 0x5001, 0]))]


def test_every_simpler_form_comes_to_an_end(many):
    for op in [op for op in many[0].ops if isinstance(op, Hcall | HcallBatch)][:25]:
        taken = 0
        current = op
        while isinstance(current, Hcall | HcallBatch):
            following = next(iter(simpler.alone(current)), None)
            if following is None:
                break
            current = following[0]
            taken += 1
            assert taken < 3000


def test_operations_without_their_buffers_are_left_out():
    op = Hcall(call=Call("H_PUT_TCE", [RAW, 0, Tce("gone")]))
    assert whole(Program(name="p", topology=SMALL, ops=[]), [op, END]) == [END]
