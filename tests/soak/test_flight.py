"""A device in flight over a crash and a kexec of a real guest; over a crash, somebody empties an entry meanwhile."""

import pytest
from aloft import AFTER, SECOND, THIRD, across, changed, judged, mapped

from tcelab.papr import window
from tcelab.program import Crash, Kexec, Load, Save
from tcelab.program.topology import topology
from tcelab.qemu.life.flight import InFlight
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small-kdump")
ONE = b.pes(TOPOLOGY, "aloft")[0]
ACROSS = across(ONE)


@pytest.fixture
def fresh(_tcelab_guests):
    with _tcelab_guests.fresh(TOPOLOGY.name, 0) as session:
        yield session


def test_an_entry_that_is_emptied_over_a_crash_is_named_and_so_is_what_it_led_to(fresh, monkeypatch):
    real = InFlight.over

    def over(flight):
        at = flight._session.guest.log.tables.at[ONE.liobn] + 8 * (THIRD >> window.PAGE_SHIFT)
        flight._session.views.live._memory.write(at, bytes(8))
        real(flight)

    monkeypatch.setattr(InFlight, "over", over)
    told, verdict = judged(fresh, TOPOLOGY, [*mapped(ONE), Crash(expect="ok", flight=ACROSS), *AFTER])
    assert (changed(told), told["refused"]) == ({SECOND: True, THIRD: False}, [(THIRD, 16)])
    found = [each for each in verdict.findings if each.law == "flight"]
    assert {(each.liobn, each.ioba) for each in found} == {(ONE.liobn, THIRD)}
    assert any(
        "must pass: 16 bytes at 0x22000; expected no refusal, seen 16 bytes refused" in each.message for each in found
    )
    assert any("must pass: guest RAM at 0x" in each.message for each in found)
    missing = [each for each in verdict.findings if each.law == "table"]
    assert [(each.liobn, each.ioba) for each in missing] == [(ONE.liobn, THIRD)]


def test_a_load_knows_nothing_of_it_and_a_kexec_lets_nothing_through(fresh):
    ops = [
        *mapped(ONE),
        Save(expect="ok", flight=ACROSS),
        Load(expect="ok"),
        *AFTER,
        Kexec(expect="ok", flight=ACROSS),
        *AFTER,
    ]
    _, verdict = judged(fresh, TOPOLOGY, ops)
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    assert verdict.evidence.laws["flight"].judged == 2
