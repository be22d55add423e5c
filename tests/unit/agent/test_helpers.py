"""Hot plug by the guest's own programs: what is run, and what is waited for."""

import pytest
from agent_fake import FakeKernel

from tceagent import helpers, hotplug, vfio, wire
from tceagent.agent import Agent
from tceagent.state import State

BUID = 0x800000020000003
DRC, BRIDGE = 0x40030008, 0x20000003
DEVICE = {"name": "pe3", "buid": BUID, "slot": 1}
PHB = {"name": "", "buid": BUID, "slot": "PHB 3"}


class Guest(FakeKernel):
    """One in which something comes to pass a few looks later.

    :ivar turns: what has come to pass, look by look; the last one stays.
    """

    def __init__(self, *turns):
        super().__init__()
        self.turns, self.waited, self.beats = list(turns), 0.0, 0

    def monotonic(self):
        return self.waited

    def sleep(self, seconds):
        self.waited += seconds
        self.turns = self.turns[1:] or self.turns

    def beat(self):
        self.beats += 1


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    """What is run. A look tells whether the device, or PHB, is there, and whether drmgr runs."""
    run = []
    monkeypatch.setattr(hotplug, "exists", lambda _path: True)
    monkeypatch.setattr(helpers, "_run", lambda _kernel, words: run.append(" ".join(words)) or 0)
    monkeypatch.setattr(helpers, "_device_is_there", lambda kernel, _where: kernel.turns[0][0])
    monkeypatch.setattr(helpers, "_bridge_is_there", lambda kernel, _where: kernel.turns[0][0])
    monkeypatch.setattr(
        helpers, "running", lambda kernel, *names: [7] if names == ("drmgr",) and kernel.turns[0][1] else []
    )
    monkeypatch.setattr(helpers, "_discard_events", lambda: run.append("discard"))
    return run


@pytest.mark.parametrize(
    ("do", "drc", "where", "words"),
    [
        ("take device", DRC, DEVICE, "-c pci -a -s 0x40030008 -n"),
        ("leave device", DRC, DEVICE, "-c pci -r -s 0x40030008 -n"),
        ("take bridge", BRIDGE, PHB, "-c phb -a -s 0x20000003 -n"),
        ("leave bridge", BRIDGE, PHB, "-c phb -r -s 0x20000003 -n"),
    ],
)
def test_drmgr_is_called_as_an_administrator_would_and_nothing_else_is_done(programs, do, drc, where, words):
    state = State(Guest())
    state.bound = {"pe1": {"group": 1}, "pe3": {"group": 3}}
    assert helpers.perform(state, do, drc, "drmgr", **where) == {"errno": "", "step": ""}
    assert (programs, state.kernel.calls) == ([f"/usr/sbin/drmgr {words}"], [])
    assert ("pe3" in state.bound) == (where is PHB), "a device that comes or goes is bound no more"


def test_a_program_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(helpers, "_run", lambda _kernel, _words: 3)
    told = helpers.perform(State(Guest()), "take device", DRC, "drmgr", **DEVICE)
    assert told == {"errno": "EIO", "step": "drmgr, which gives 3"}


def test_the_host_chooses_who_does_it(programs):
    about = {"do": "ready", "drc": 0}
    agent = Agent(Guest())
    for plug in (about, {**about, "by": "drmgr"}, {**about, "by": "rtas_errd"}):
        assert agent.answer(wire.encode({"id": 1, "plug": plug})) == {"id": 1, "plug": {"errno": "", "step": ""}}
    assert programs == ["discard", "/usr/sbin/rtas_errd"]


def test_the_daemon_is_started_once_and_hears_nothing_of_before(programs):
    state = State(Guest())
    for _ in range(2):
        assert helpers.perform(state, "ready", 0, "rtas_errd")["errno"] == ""
    assert programs == ["discard", "/usr/sbin/rtas_errd"]


@pytest.mark.parametrize(
    ("do", "turns", "looks"),
    [
        ("take device", [(False, False), (False, True), (True, True), (True, False)], 3),
        ("leave device", [(True, False), (True, True), (False, True), (False, False)], 3),
        ("take bridge", [(False, True), (True, False)], 1),
        ("leave bridge", [(True, True), (False, False)], 1),
    ],
)
def test_the_daemon_is_waited_for_until_drmgr_has_ended(programs, do, turns, looks):
    kernel = Guest(*turns)
    assert helpers.perform(State(kernel), do, DRC, "rtas_errd", **(DEVICE if "device" in do else PHB))["errno"] == ""
    assert (programs, kernel.calls, kernel.beats) == ([], [], looks)


def test_a_daemon_that_does_nothing_is_told():
    kernel = Guest((False, False))
    told = helpers.perform(State(kernel), "take device", DRC, "rtas_errd", **DEVICE)
    assert told == {"errno": "ETIMEDOUT", "step": "rtas_errd"}
    assert helpers.LIMIT <= kernel.waited < helpers.LIMIT + 1


def test_the_next_program_finds_no_daemon(monkeypatch):
    state, alive, killed = State(Guest()), [[41], [41], []], []
    monkeypatch.setattr(helpers, "running", lambda _kernel, *_names: alive.pop(0))
    monkeypatch.setattr(helpers.posix, "kill", lambda *what: killed.append(what))
    state.renew()
    assert killed == [], "none was started"
    state.daemon = lambda: helpers.stop(state.kernel)
    state.renew()
    assert (killed, alive, state.daemon) == ([(41, 15)], [], None)


def test_what_is_there_is_seen_in_the_guests_own_files(monkeypatch):
    monkeypatch.undo()
    kernel = FakeKernel()
    kernel.files[f"{vfio.TREE}/pci@{BUID:x}/name"] = b"pci"
    assert helpers._bridge_is_there(kernel, PHB)
    assert not helpers._bridge_is_there(kernel, {"buid": BUID + 1})
    monkeypatch.setattr(vfio, "find", lambda _kernel, buid, slot: "0003:00:01.0")
    assert helpers._device_is_there(kernel, DEVICE)
