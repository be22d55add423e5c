"""The kernel's own DMA API on a real guest: a driver maps, its device reaches exactly that, and each lie is found."""

from functools import partial

import dma_story
import pytest
from dma_story import DIRECT, LIOBN, READ, UNMAP, handle_of, story

pytestmark = pytest.mark.guest


@pytest.fixture
def judged(_tcelab_guests):
    return partial(dma_story.done, _tcelab_guests)


def test_each_handle_leads_to_its_bytes(judged):
    verdict, _ = judged(story())
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


def left(outcomes):
    return outcomes[READ].frames[0] | 1


TURNS = {
    "left": (40, UNMAP, LIOBN, handle_of(READ), left, "an entry survives mapping 'r'"),
    "all RAM": (64, READ, DIRECT, handle_of(READ), lambda _: 2, "gives other permissions"),
}


@pytest.mark.parametrize("turn", TURNS)
def test_an_entry_that_is_turned_in_qemus_memory_is_named(judged, turn):
    bits, number, liobn, where, which, said = TURNS[turn]
    verdict, guest = judged(story(bits), number=number, turn=(liobn, where, which))
    found = next(each for each in verdict.findings if each.law == "handles")
    assert said in found.message
    assert (found.liobn, found.ioba) == (liobn, guest.turned)
    assert found.view == "live, stream"
