"""Reset and reboot of a real guest: what they leave is judged, and what QEMU's memory keeps is named with its owner.

The lie is told in QEMU's memory, once the event is over: an entry is put back that the reset has emptied.
"""

from contextlib import closing

import pytest
from turnedentry import TurnedEntry

from tcelab.emulator.reference import second_opinion
from tcelab.errors import GuestLost
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.program import Page, Program, Reboot, Reset
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks
from tcelab.qemu.typist import Typist
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY = topology("two-small")
ONE, TWO = b.pes(TOPOLOGY, "life")
PAGES, FIRST = 16, 0x20000
LEFT = FIRST + 5 * b.PAGE


@pytest.fixture
def fresh(tmp_path):
    ready = setup.prepare(setup.MachineChoice(topology=TOPOLOGY, restarts=True))
    with closing(Forks(ready.qemu, ready.options, digest=ready.digest)) as forks, forks.open(tmp_path) as session:
        yield session


def mapped():
    return [
        *b.bind(ONE),
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.buffer("b", PAGES, 1),
        *b.tag(Page("b"), PAGES, ONE.liobn, FIRST, 1),
        *b.map_dma(ONE, Page("b"), FIRST, PAGES, 3),
    ]


@pytest.mark.parametrize("event", [Reset, Reboot])
def test_an_entry_that_qemu_keeps_over_the_event_is_named_with_its_owner(fresh, event):
    ops = [*mapped(), *b.checkpoint("before"), event(expect="ok"), *b.checkpoint("after it", stream=True)]
    ops += b.checkpoint("after the lie", stream=True)
    program = Program(name="life", topology=TOPOLOGY, ops=ops)
    judge = Judge(program, fresh.facts, references=second_opinion(TOPOLOGY, fresh.facts))
    run = perform_program(program, TurnedEntry(fresh, ONE.liobn, LEFT), judge)
    verdict = judge.verdict(run)
    assert {(each.liobn, each.ioba, each.step) for each in verdict.findings} == {(ONE.liobn, LEFT, len(ops) - 1)}
    found = {each.law: each.message for each in verdict.findings}
    assert found.keys() == {"outliving", "difference"}
    assert f"container {ONE.container} of the agent, gone with its kernel" in found["outliving"]
    assert [step.boot for step in run.steps[-3:]] == [2, 2, 2]
    assert fresh.boot == 2


def test_a_guest_that_reboots_when_nobody_has_asked_is_lost(fresh):
    """Only the operation may reboot it: another reboot must not go by as if it were none."""
    with pytest.raises(GuestLost, match="guest-reset"):
        Typist(fresh, 20).run("reboot -f", 60)
    assert not fresh.alive
