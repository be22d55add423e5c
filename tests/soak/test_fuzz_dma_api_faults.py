"""A fuzzing campaign finds a kernel whose DMA API does wrong, and shrinks the program that showed it: each fault, of a
module that stands between the API and one table, in guests of its own.
"""

import pytest
from dmafaults import MODULE, dma_faults, python, unpacked

from tcelab.fuzz import campaign
from tcelab.program import DmaBind, DmaMap, DmaMapSg, load
from tcelab.program.dmaops import DmaOp
from tcelab.program.validate import validate
from tcelab.qemu.typist import Typist

pytestmark = pytest.mark.guest

LONGEST = 300
"""Seconds that anything typed may take."""
STEPS = {"one-more": 2400}
"""Of a campaign: that one shows only where two lists are neighbours, and the first goes before the other. The others
take 600.
"""
TRIES = 6
"""Guests for shrinking: each takes a while until it has the module."""
FAULTS = {
    "both-ways": "the entry at its handle gives other permissions",
    "part-off": "the entry at its handle leads elsewhere",
    "one-left": "an entry survives mapping",
    "one-more": "no entry at its handle",
}
"""What each is found by."""


@pytest.fixture
def fresh(_tcelab_guests):
    return _tcelab_guests.fresh


@pytest.fixture(scope="module")
def module():
    return python(unpacked(dma_faults()))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_campaign_finds_a_fault_of_the_dma_api_and_shrinks_its_program(fresh, module, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "TRIES", TRIES)

    def opening(name):
        session = fresh(name, None)
        ended = Typist(session, LONGEST).run(f"{module} && insmod {MODULE} slot=1 fault={fault}", LONGEST)
        assert ended is not None
        assert ended.status == 0, ended.output
        return session

    job = campaign.Campaign(7, opening, tmp_path, usual="dma-api-default")
    job.run(STEPS.get(fault, 600))
    assert job.tally.could_not == []
    found = job.tally.found[0]
    assert found.finding.law == "handles"
    assert FAULTS[fault] in found.finding.message
    program = load(found.file)
    validate(program)
    ours = [op for op in program.ops if isinstance(op, DmaOp)]
    assert any(isinstance(op, DmaBind) for op in ours)
    assert any(isinstance(op, DmaMap | DmaMapSg) for op in ours) or fault.startswith("one-")
    assert len(program.ops) < len(found.original.ops)
