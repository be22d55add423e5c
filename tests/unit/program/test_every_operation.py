"""Whoever is given an operation knows what it does, or refuses it: nobody passes over one without a rule."""

import typing

import pytest
from every_operation import BEFORE, BEFORE_IT, ONE_OF_EACH, checked, named
from ideal import Ideal
from msgspec import structs
from story import ONE, SMALL

from tceagent import ops as agent
from tceagent.state import State
from tcelab import program as p
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.errors import HarnessError, TcelabError, Unsupported
from tcelab.judge.models.lifemodel import LivingFold
from tcelab.program import Program, guestop, hostops, operations
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Outcome, Step

EVERY = typing.get_args(operations.Op)
GUEST = typing.get_args(operations.GuestOp)
HOST = typing.get_args(operations.HostOp)


class GuestDummy(guestop._GuestOp, frozen=True, kw_only=True):
    """A new operation of the agent's, of which nobody has thought yet."""


class HostDummy(hostops._Op, frozen=True, kw_only=True):
    """One of the host's."""


DUMMIES = (GuestDummy(), HostDummy())


def test_there_is_one_of_each_here():
    assert [type(op) for op in ONE_OF_EACH] == list(EVERY)
    assert {*GUEST, *HOST, p.Fresh} == set(EVERY)


# -- the validator


@pytest.mark.parametrize("op", ONE_OF_EACH, ids=named)
def test_the_validator_has_a_rule(op):
    assert "there is no rule for it" not in checked(op)


@pytest.mark.parametrize("op", DUMMIES, ids=named)
def test_the_validator_refuses_what_it_has_no_rule_for(op):
    said = f"program 'every', operation {len(BEFORE)} ({named(op)}): there is no rule for it"
    assert checked(op).startswith(said)


# -- the fold


def folded(op, outcome=None):
    """What the fold cannot tell once an operation has succeeded."""
    program = Program(name="every", topology=SMALL, ops=[])
    fold = LivingFold(program, Ideal(program).facts)
    gave = {"group": "1", "done": 1, "calls": 1, "statuses": [0], "registers": [0] * 4, "ends": [0], "seconds": 0.1}
    for number, each in enumerate((*BEFORE, op)):
        last = number == len(BEFORE)
        fold.apply(Step(number, each, (outcome if last else None) or Outcome(value=0, fields=gave)))
    return [reason for reason in fold.unknown if reason.startswith("there is no rule")]


@pytest.mark.parametrize("op", [op for op in ONE_OF_EACH if not isinstance(op, p.Checkpoint)], ids=named)
def test_the_fold_has_a_rule(op):
    assert folded(op) == []


@pytest.mark.parametrize("op", DUMMIES, ids=named)
def test_the_fold_says_that_it_cannot_know_what_it_has_no_rule_for(op):
    assert folded(op) == [f"there is no rule for what {named(op)} of step {len(BEFORE)} has done"]


@pytest.mark.parametrize("request_", [0x20003BFF, "DEVICE_RESET", "EEH_PE_OP"])
def test_nor_what_a_request_has_done_that_it_does_not_follow(request_):
    op = p.Ioctl(file=ONE.container, request=request_)
    assert folded(op) == [f"there is no rule for what request {request_} of step {len(BEFORE)} has done"]
    assert folded(op, Outcome(errno="ENOTTY")) == []


# -- the emulator


def emulated(op):
    """What ended an operation on the emulator; empty: it was done, whatever it gave."""
    session = EmulatorSession(SMALL)
    session.perform(BEFORE)
    for each in BEFORE_IT.get(type(op), ()):
        session.perform([each]) if isinstance(each, guestop._GuestOp) else session.intervene(each, [])
    try:
        if isinstance(op, guestop._GuestOp):
            session.perform([op])
        else:
            session.intervene(op, [])
    except TcelabError as error:
        return error.message
    return ""


@pytest.mark.parametrize("op", [op for op in ONE_OF_EACH if not isinstance(op, p.Fresh)], ids=named)
def test_the_emulator_has_a_rule(op):
    said = emulated(op)
    assert "no rule" not in said
    assert "no handler" not in said


def test_the_emulator_refuses_what_it_has_no_rule_for():
    guest, host = DUMMIES
    assert "the agent has no handler for operation 'guestdummy'" in emulated(guest)
    assert emulated(host) == "the emulator has no rule for operation HostDummy"
    assert emulated(p.Fresh()) == "the emulator has no rule for operation Fresh"


def test_a_real_guests_session_refuses_it_as_well():
    """Before it touches the guest, of which there is none here."""
    session = object.__new__(QemuSession)
    session.scene = lambda: None
    with pytest.raises(Unsupported, match=r"^nobody knows how to do operation HostDummy$"):
        session.intervene(DUMMIES[1], [])


# -- the agent


def test_the_agent_has_a_handler_for_each_of_its_operations():
    assert set(agent.HANDLERS) == {op.__struct_config__.tag for op in GUEST}


@pytest.mark.parametrize("by", ["", "child"])
def test_the_agent_and_its_children_refuse_what_they_have_no_handler_for(by):
    session = EmulatorSession(SMALL)
    session.perform(BEFORE)
    with pytest.raises(HarnessError, match="no handler for operation 'guestdummy'"):
        session.perform([structs.replace(DUMMIES[0], by=by)])
    with pytest.raises(LookupError, match="the agent has no handler for operation 'explode'"):
        agent.perform(State(session.kernel), {"op": "explode"})
