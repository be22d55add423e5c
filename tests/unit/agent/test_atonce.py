"""Operations that are begun at once, by as many processes."""

import json

import pytest
from agent_fake import FakeKernel

from tceagent.agent import Agent

NONCE = "ab" * 16
READ = {"op": "ioctl", "file": "c", "request": "GET_API_VERSION"}


@pytest.fixture
def kernel():
    return FakeKernel()


@pytest.fixture
def agent(kernel):
    made = Agent(kernel)
    ask(made, hello={"nonce": NONCE})
    names = ("one", "two")
    ask(made, ops=[{"op": "open", "file": "c", "path": "/dev/vfio/vfio"}])
    ask(made, ops=[{"op": "spawn", "process": name} for name in names])
    kernel.calls.clear()
    return made


def ask(agent, **message):
    return agent.answer(json.dumps({"id": 7, **message}).encode())


def group(*processes, count=2):
    return [{"op": "atonce", "count": count}, *({**READ, "by": name} for name in processes)]


def test_all_are_begun_before_any_is_waited_for(agent, kernel):
    outcomes = ask(agent, ops=[*group("one", "two"), {"op": "read", "what": "pins"}])["outcomes"]
    assert [call[0] for call in kernel.did("begin", "answer")] == ["begin", "begin", "answer", "answer"]
    assert len(outcomes) == 4
    assert outcomes[1:3] == [{"value": 0}] * 2
    assert outcomes[0]["value"] == 0
    assert [len(span) for span in outcomes[0]["fields"]["spans"]] == [2, 2]


def test_each_is_done_by_its_process_on_a_cpu_of_its_own(agent, kernel):
    ask(agent, ops=group("two", "one"))
    assert [call[1] for call in kernel.did("begin")] == [{**READ, "cpu": cpu} for cpu in (0, 1)]
    assert [each.kernel.did("pin") for each in kernel.children] == [[("pin", 1)], [("pin", 0)]]
    assert [len(each.kernel.did("ioctl")) for each in kernel.children] == [1, 1]


def test_a_process_keeps_its_cpu_and_is_not_pinned_by_what_it_does_alone(agent, kernel):
    ask(agent, ops=[{**READ, "by": "one"}])
    assert kernel.children[0].kernel.did("pin") == []


def test_what_a_process_cannot_do_ends_the_request_and_names_it(agent):
    said = ask(agent, ops=[{"op": "read", "what": "pins"}, *group("one", "three")])
    assert (said["failed"]["at"], len(said["outcomes"])) == (1, 1)
    assert "no process 'three'" in said["failed"]["traceback"]


def test_fewer_than_were_said_are_not_begun(agent, kernel):
    said = ask(agent, ops=group("one", count=2))
    assert "2 operations are begun at once, and here come 1" in said["failed"]["traceback"]
    assert kernel.did("begin") == []
