"""Which hypercalls a program may ask for, and what it is told on a kernel that has none."""

from __future__ import annotations

import dataclasses

import pytest

from tcelab.emulator import EmulatorSession
from tcelab.errors import Unsupported, UsageError
from tcelab.job.parallel import ParallelRun
from tcelab.program import Buffer, Call, Checkpoint, Hcall, HcallBatch, Program, Spawn, Tce, from_json
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.run import exitcode
from tcelab.run.loop import perform_program

SMALL = topology("two-small")
LIOBN = 0x80000100
MEMORY = Buffer(name="b", pages=2)


def put(*args, **more):
    return Hcall(call=Call("H_PUT_TCE", list(args)), **more)


def indirect(tces, *args):
    return Hcall(call=Call("H_PUT_TCE_INDIRECT", [LIOBN, 0, *args], tces))


def check(*ops):
    validate(Program(name="p", topology=SMALL, ops=[MEMORY, *ops]))


def test_a_program_with_hypercalls_is_the_same_once_it_was_a_file():
    calls = [
        Call("H_GET_TCE", [LIOBN, 0]),
        Call(0x21, [Tce("b", 1, 2, 8)]),
        Call("H_PUT_TCE_INDIRECT", [], [1, Tce("b")]),
    ]
    program = Program(name="p", topology=SMALL, ops=[MEMORY, HcallBatch(calls=calls, times=7), put(1, 2, Tce("b"))])
    assert from_json(program.to_json(), "file") == program


@pytest.mark.parametrize(
    "op",
    [
        put(LIOBN, (1 << 64) - 1, Tce("b", 1)),
        put(),
        put(1, 2, 3, 4),
        put(LIOBN, 0, Tce("b", 0, 0xFF8, 7)),
        Hcall(call=Call((1 << 64) - 1, [])),
        indirect([0] * 512, 0xFFF, 513),
        HcallBatch(calls=[Call("H_GET_TCE", [])] * 1024, times=10_000_000),
        put(1, 2, 3, problem_state=True),
    ],
)
def test_right_and_wrong_hypercalls_may_be_asked_for(op):
    check(op)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Hcall(call=Call("H_FREE", [])), "no hypercall 'H_FREE'; there are: H_GET_TCE, H_PUT_TCE"),
        (put(1, 2, 3, 4, 5), "5 arguments; a hypercall has at most 4"),
        (put(1 << 64), "a register has 64 bits, and 18446744073709551616 has not"),
        (put(-1), "a register has 64 bits, and -1 has not"),
        (Hcall(call=Call(1 << 64, [])), "a register has 64 bits"),
        (put(LIOBN, 0, Tce("none")), "no buffer 'none' was made before"),
        (put(LIOBN, 0, Tce("b", 2)), "outside buffer 'b' of 2 pages"),
        (put(LIOBN, 0, Tce("b", -1)), "outside buffer 'b'"),
        (put(LIOBN, 0, Tce("b", 0, 4096)), "a Tce leads to its own page"),
        (put(LIOBN, 0, Tce("b", 0, 4095, 1)), "a Tce leads to its own page"),
        (put(LIOBN, 0, Tce("b"), by="c"), "buffer 'b' belongs to the agent itself, not to process 'c'"),
        (indirect([0] * 513), "513 TCEs; a list page holds 1..512"),
        (indirect([]), "0 TCEs; a list page holds 1..512"),
        (Hcall(call=Call("H_PUT_TCE", [LIOBN, 0, 0], [1])), "only H_PUT_TCE_INDIRECT has a list"),
        (Hcall(call=Call(0x21, [], [1])), "only H_PUT_TCE_INDIRECT has a list"),
        (indirect([1 << 64]), "a register has 64 bits"),
        (
            Hcall(call=Call("H_PUT_TCE_INDIRECT", [], [1]), problem_state=True),
            "a hypercall of a process has no list page",
        ),
        (HcallBatch(calls=[]), "0 calls; an HcallBatch does 1..1024"),
        (HcallBatch(calls=[Call(0, [])] * 1025), "1025 calls"),
        (HcallBatch(calls=[Call(0, [])], times=0), "0 rounds; an HcallBatch does 1..10000000"),
        (HcallBatch(calls=[Call(0, [])], times=10_000_001), "10000001 rounds"),
        (HcallBatch(calls=[Call("H_GET_TCE", []), Call("no", [])]), "no hypercall 'no'"),
    ],
)
def test_what_cannot_be_asked_for_is_told_with_its_number(op, why):
    with pytest.raises(UsageError, match=rf"operation 2 \({type(op).__name__}\): .*{why}"):
        check(Spawn(process="c"), op)


def test_a_kernel_without_the_module_is_told_before_anything_is_done(monkeypatch):
    session = EmulatorSession(SMALL)
    monkeypatch.setattr(session, "perform", pytest.fail)
    session.facts = dataclasses.replace(session.facts, hypercalls=False, versions={"guest": {"kernel": "6.1.0"}})
    program = Program(name="p", topology=SMALL, ops=[MEMORY, put(LIOBN, 0, Tce("b")), Checkpoint()])
    with pytest.raises(
        Unsupported, match=r"^kernel 6\.1\.0 has no raw hypercalls: its module tce_hcall is not loaded$"
    ):
        perform_program(program, session)


def test_a_command_ends_the_guest_and_tells_it_in_one_line(monkeypatch):
    session = EmulatorSession(SMALL)
    session.facts = dataclasses.replace(session.facts, hypercalls=False)
    closed = []
    monkeypatch.setattr(session, "close", lambda: closed.append(True))
    program = Program(name="p", topology=SMALL, ops=[MEMORY, HcallBatch(calls=[Call("H_GET_TCE", [])]), Checkpoint()])
    with pytest.raises(Unsupported, match="has no raw hypercalls") as told:
        ParallelRun(program, lambda _: session).run()
    assert exitcode.of_error(told.value) == 125
    assert closed == [True]


def test_a_program_without_hypercalls_needs_no_module():
    session = EmulatorSession(SMALL)
    session.facts = dataclasses.replace(session.facts, hypercalls=False)
    assert perform_program(Program(name="p", topology=SMALL, ops=[MEMORY, Checkpoint()]), session).ending is None
