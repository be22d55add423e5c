"""R13: a handle that pointed at the start of its page, where pages of the IOMMU are larger than the CPU's."""

from functools import partial

import dma_story
import pytest
from dma_story import WHERE, told
from publicreports import Report

from tcelab.program import (
    Buffer,
    Checkpoint,
    DmaBind,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaUnmap,
    Page,
    Part,
    Program,
    Tag,
)

REPORT = Report(
    id="R13",
    title="a handle that points at its page's start",
    reported="With pages of the IOMMU larger than the CPU's, a mapping that began within a page got a handle that"
    " pointed at the start of that page, and its device read and wrote other bytes.",
    where=("Linux 096339ab84f3 (2023-04)",),
    versions="Right on 6.12.95.",
    right="A handle is the bus address of its entry's page, plus the place of its first byte within that page.",
    shown="Lists with odd starts and lengths, and single mappings, are used by a device both ways, with pages of 4 KiB"
    " in the default window and of 16 MiB in the window in which all RAM is mapped. Those between cannot be had: stock"
    " firmware offers pages of 16 MiB, and Linux takes the largest. Broken on purpose: the handle of a list's"
    " second part is told as the start of its page.",
)

pytestmark = pytest.mark.guest

STARTS = [(0, 4096), (1, 4095), (100, 1), (4095, 1), (2048, 77), (4032, 64), (7, 500)]
"""Place of the first byte in its page, and bytes."""
PAGES = len(STARTS)
SHORT = 64
"""Bytes of a transfer, at most."""
SINGLE, LIST = 4 + PAGES, 4 + PAGES


def program(bits):
    """Each place mapped by itself, and all in one list; a device uses those that are long enough, both ways."""
    places = [Part(Page("b", number, start), size) for number, (start, size) in enumerate(STARTS)]
    singles = [
        DmaMap(device="pe1", name=f"m{number}", page=place.page, size=place.size, expect="ok")
        for number, place in enumerate(places)
    ]
    moves = [
        DmaMove(name=f"m{number}", size=min(each.size, SHORT), to_memory=to_memory, offset=number, expect="passed")
        for number, each in list(enumerate(places))[1::2]
        for to_memory in (False, True)
    ]
    ops = [
        Buffer(name="b", pages=PAGES, seed=3),
        Tag(buffer="b", count=PAGES, liobn=0x80000100, ioba=0, sequence=1),
        DmaBind(device="pe1", expect="ok"),
        DmaMask(device="pe1", bits=bits, expect="ok"),
        *singles,
        DmaMapSg(device="pe1", name="l", parts=places, expect="ok"),
        Checkpoint(label="mapped", stream=True),
        *moves,
        DmaMove(name="l", segment=1, size=64, to_memory=True, offset=3),
        Checkpoint(label="used"),
        *(DmaUnmap(name=each.name, expect="ok") for each in singles),
        DmaUnmap(name="l", expect="ok"),
        Checkpoint(label="end", stream=True),
    ]
    return Program(name="r13", topology=WHERE, ops=ops)


@pytest.fixture
def done(_tcelab_guests):
    return partial(dma_story.done, _tcelab_guests)


@pytest.mark.parametrize(("bits", "page"), [(32, 12), pytest.param(64, 24, marks=pytest.mark.night)])
def test_a_handle_is_its_entrys_page_and_the_place_in_it(done, bits, page):
    verdict, guest = done(program(bits))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")
    handles = [segment for number in range(4, 5 + PAGES) for segment in guest.outcomes[number].fields["segments"]]
    assert [handle % 4096 for handle, _ in handles[:PAGES]] == [start for start, _ in STARTS]
    assert all((handle >= 1 << 59) == (page == 24) for handle, _ in handles)


def test_a_handle_that_points_at_its_pages_start_is_named(done):
    def start(outcome):
        first, (handle, size), *more = outcome.fields["segments"]
        return told(outcome, segments=[first, [handle & -4096, size], *more])

    verdict, _ = done(program(32), number=LIST, change=start)
    found = next(each for each in verdict.findings if each.law == "handles")
    assert "b:1 of mapping 'l'" in found.message
    assert "the entry at its handle leads elsewhere" in found.message
    assert found.operation.startswith(f"#{LIST} ")
