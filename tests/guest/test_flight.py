"""A device in flight over events of a real guest: what it must do then, and what it does once somebody interferes.

Whoever interferes writes into QEMU's memory, between the event and the end of the transfer; or lets a device do its
transfer before QEMU lets go of it.
"""

from contextlib import closing

import pytest
from aloft import AFTER, FIRST, PAGES, SECOND, THIRD, across, changed, judged, mapped
from turnedentry import TurnedEntry

from tcelab.job import setup
from tcelab.papr import tce, window
from tcelab.program import Call, Checkpoint, Ddw, DeviceRemove, Flight, Hcall, Load, Page, Reset, Save, Tce
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks
from tcelab.qemu.life.flight import InFlight
from tcelab.qemu.portal import portal
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY, HOT = topology("two-small"), topology("hotplug")
ONE, PULLED = b.pes(TOPOLOGY, "aloft")[0], b.pes(HOT, "aloft")[0]
HIGH, HIGH_AT = ONE.liobn | 1, window.SECOND_START
STALE = HIGH_AT + 5 * b.PAGE


def raw():
    """An entry that is nobody's, and stays when its device goes."""
    put = Hcall(call=Call("H_PUT_TCE", [PULLED.liobn, FIRST, Tce("b")]), expect=0)
    return [*b.buffer("b", PAGES, 1), *b.tag(Page("b"), 1, PULLED.liobn, FIRST, 1), put, *b.checkpoint("before")]


@pytest.fixture
def on(_tcelab_guests):
    return lambda where: _tcelab_guests.fresh(where.name, 0)


@pytest.fixture
def restarting(tmp_path):
    """A guest that may be reset."""
    ready = setup.prepare(setup.MachineChoice(topology=TOPOLOGY, restarts=True))
    with closing(Forks(ready.qemu, ready.options, digest=ready.digest)) as forks, forks.open(tmp_path) as session:
        yield session


@pytest.fixture
def meanwhile(monkeypatch):
    """Does something while a transfer is under way, and the guest stands still or has nothing to do."""

    def doing(what):
        real = InFlight.over

        def over(flight):
            what(flight)
            real(flight)

        monkeypatch.setattr(InFlight, "over", over)

    return doing


def entry(session, liobn, ioba, value):
    """Write an entry in QEMU's memory."""
    at = session.guest.log.tables.at[liobn] + 8 * (ioba >> window.PAGE_SHIFT)
    session.views.live._memory.write(at, value.to_bytes(8, "little"))


def about(verdict, law="flight"):
    return [each for each in verdict.findings if each.law == law]


def test_a_device_that_goes_never_ends_its_transfer_and_one_that_stays_does(on):
    with on(HOT) as session:
        aloft = Flight(device=PULLED.name, iova=FIRST, size=64, to_memory=True)
        told, verdict = judged(session, HOT, [*raw(), DeviceRemove(device="pe1", expect="ok", flight=aloft), *AFTER])
        assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
        assert (told["started"], told["refused"], changed(told)) == (True, [], {FIRST: False})
    with on(HOT) as session:
        ops = [*mapped(PULLED), DeviceRemove(device="pe1", consent=False, expect="ok", flight=across(PULLED)), *AFTER]
        told, verdict = judged(session, HOT, ops)
        assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
        assert changed(told) == {SECOND: True, THIRD: True}


def test_one_that_ends_its_transfer_before_qemu_lets_go_of_it_is_named(on, monkeypatch):
    """It masters the bus and its entry is there: only its end keeps it from writing."""
    real = InFlight.start

    def late(flight, **how):
        real(flight, **how)
        standstill = flight._session.guest.standstill
        portal().call(standstill.end())
        flight.over()
        portal().call(standstill.begin())

    monkeypatch.setattr(InFlight, "start", late)
    with on(HOT) as session:
        aloft = Flight(device=PULLED.name, iova=FIRST + 8, size=64, to_memory=True)
        _, verdict = judged(session, HOT, [*raw(), DeviceRemove(device="pe1", expect="ok", flight=aloft), *AFTER])
    (found,) = about(verdict)
    assert (found.liobn, found.ioba) == (PULLED.liobn, FIRST)
    assert "is never done (its device is gone): guest RAM at 0x" in found.message


def both_windows():
    """A v2 container with the same entries in the default window and in a 64-bit one."""
    return [
        *b.bind(ONE),
        *b.open_container(ONE, b.SPAPR_TCE_V2),
        *b.buffer("b", PAGES, 1),
        *b.ask(ONE, "SPAPR_REGISTER_MEMORY", vaddr=Page("b"), size=PAGES * b.PAGE),
        *b.ask(ONE, "SPAPR_TCE_CREATE", page_shift=12, window_size=1 << 24, levels=1),
        *b.tag(Page("b"), PAGES, ONE.liobn, FIRST, 1),
        *b.map_dma(ONE, Page("b"), FIRST, PAGES, tce.PERMISSIONS),
        *b.map_dma(ONE, Page("b"), HIGH_AT, PAGES, tce.PERMISSIONS),
        *b.open_device(ONE),
        *b.dma(ONE, FIRST, 64, to_memory=False),
        *b.checkpoint("before", stream=True),
    ]


class StaleWindow(TurnedEntry):
    """A session that has QEMU make the 64-bit window again, and puts its entry back."""

    def intervene(self, op, frames):
        if isinstance(op, Checkpoint) and op.label == "after the lie":
            made = self._session.intervene(Ddw(call="create", device=ONE.name, page_shift=12, window_shift=24), [])
            assert made.fields == {"liobn": HIGH, "start": HIGH_AT}
        return super().intervene(op, frames)


@pytest.mark.night
def test_what_a_reset_does_not_end_is_named(restarting, meanwhile):
    """An entry that is back before the transfer ends lets it write; a 64-bit window that is back has an owner."""

    def put_back(flight):
        entry(flight._session, ONE.liobn, THIRD, tce.pack(flight._frames[THIRD], tce.PERMISSIONS))

    meanwhile(put_back)
    ops = [*both_windows(), Reset(expect="ok", flight=across(ONE)), *AFTER]
    ops += b.checkpoint("after the lie", stream=True)
    told, verdict = judged(StaleWindow(restarting, HIGH, STALE), TOPOLOGY, ops)
    assert changed(told) == {SECOND: False, THIRD: True}
    found = about(verdict)
    assert {(each.liobn, each.ioba) for each in found} == {(ONE.liobn, THIRD)}
    assert any("must be refused (bus master off): guest RAM at 0x" in each.message for each in found)
    assert any(
        "must be refused (bus master off): 16 bytes at 0x22000; expected refused" in each.message for each in found
    )
    (window_,) = about(verdict, "inventory")
    assert (window_.liobn, window_.step) == (HIGH, len(ops) - 1)
    (outlived,) = about(verdict, "outliving")
    assert (outlived.liobn, outlived.ioba, outlived.step) == (HIGH, STALE, len(ops) - 1)
    assert (
        f"an entry outlives its owner, container {ONE.container} of the agent, gone with its kernel" in outlived.message
    )
    assert not about(verdict, "table")


def test_a_load_knows_nothing_of_a_transfer_under_way(on):
    with on(TOPOLOGY) as session:
        told, verdict = judged(
            session, TOPOLOGY, [*mapped(ONE), Save(expect="ok", flight=across(ONE)), Load(expect="ok"), *AFTER]
        )
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert (told["started"], changed(told)) == (True, {SECOND: False, THIRD: False})


def test_one_that_violates_the_table_over_an_event_isolates_its_pe(tmp_path):
    ready = setup.prepare(setup.MachineChoice(topology=HOT, isolates=True, guard="freeze"))
    violating = Flight(device=PULLED.name, iova=PULLED.end, size=64, to_memory=True)
    asked = DeviceRemove(device="pe1", consent=False, expect="ok", flight=violating)
    ops = [*mapped(PULLED), asked, *b.states(b.pes(HOT, "aloft")[:2]), *AFTER]
    with closing(Forks(ready.qemu, ready.options, digest=ready.digest)) as forks, forks.open(tmp_path) as session:
        told, verdict = judged(session, HOT, ops)
        freezes = [each.isolation.freezes for each in session.guard.pes.values()]
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert told["refused"] == [(PULLED.end, 64)]
    assert freezes == [1, 0, 0]
