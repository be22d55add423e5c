"""R16: devices that cannot reach a window at 1 << 59."""

from functools import partial

import dma_story
import pytest
from dma_story import WHERE, story, told
from publicreports import Report

from tcelab.program import Checkpoint, DmaAlloc, DmaBind, DmaFree, DmaMap, DmaMask, DmaUnmap, Page, Program

REPORT = Report(
    id="R16",
    title="handles above the mask of a device",
    reported="A device that cannot reach a window at 1 << 59 got handles there, or its driver was refused its mask.",
    where=("open-gpu-kernel-modules#683 (2024-07)", "Linux 67dfc11982f7 (2025-01)"),
    versions="Right on 6.12.95. What a mask of 33 to 63 bits leaves behind there: its PE never gets a window of 64 bits"
    " any more, unless it had one before.",
    right="No handle is above the mask that its kind of mapping has; a mask that does not reach the window of 64 bits"
    " gives handles in the default one.",
    shown="Masks of 32, 33, 40, 47, 63 and 64 bits, each on a PE that has no other window and on one that has, and the"
    " streaming and the coherent mask by themselves. Broken on purpose: a handle is told one bit too high.",
)

pytestmark = pytest.mark.guest

MASKS = (32, 33, 40, 47, 63, 64)
HIGH = 1 << 59
FRESH, AGAIN = 3, 3 + 7


def mapped(bits, which, turn):
    return [
        DmaMask(device="pe2", bits=bits, which=which, expect="ok"),
        DmaMap(device="pe2", name=f"m{turn}", page=Page("b", turn % 8, 13), size=77, expect="ok"),
        DmaAlloc(device="pe2", buffer=f"own{turn}", pages=1, expect="ok"),
        Checkpoint(label=f"{bits} bits, {which}", stream=True),
        DmaUnmap(name=f"m{turn}", expect="ok"),
        DmaFree(buffer=f"own{turn}", expect="ok"),
        Checkpoint(label="unmapped"),
    ]


def program(*asked):
    ops = [*story().ops[:2], DmaBind(device="pe2", expect="ok")]
    for turn, (bits, which) in enumerate(asked):
        ops += mapped(bits, which, turn)
    return Program(name="r16", topology=WHERE, ops=ops)


@pytest.fixture
def done(_tcelab_guests):
    return partial(dma_story.done, _tcelab_guests)


def places(guest, turns):
    """Whether the mapping and the allocation of each turn lie high."""
    numbers = [FRESH + 7 * turn for turn in range(turns)]
    segments = [[guest.outcomes[number + more].fields["segments"][0] for more in (1, 2)] for number in numbers]
    return [tuple(handle >= HIGH for handle, _ in each) for each in segments]


@pytest.mark.parametrize("bits", [pytest.param(bits, marks=[pytest.mark.night] * (bits != 40)) for bits in MASKS])
def test_no_handle_is_above_its_mask(done, bits):
    verdict, guest = done(program((bits, "both"), (64, "both"), (bits, "both")))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")
    # With 33 to 63 bits first, the kernel asks firmware for a window below the mask, in vain, and never again.
    spoilt = 32 < bits < 64
    assert places(guest, 3) == [(bits == 64,) * 2, (not spoilt,) * 2, (bits == 64,) * 2]


@pytest.mark.night
def test_a_mask_that_reaches_the_window_may_use_one_that_is_there(done):
    verdict, guest = done(program((64, "both"), *((bits, "both") for bits in MASKS)))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")
    assert places(guest, 7) == [(True,) * 2, *((bits in (63, 64),) * 2 for bits in MASKS)]


@pytest.mark.night
def test_each_kind_of_mapping_has_the_mask_of_its_own(done):
    asked = [(64, "both"), (32, "streaming"), (64, "streaming"), (32, "coherent"), (40, "coherent"), (64, "coherent")]
    verdict, _ = done(program(*asked))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


def test_a_handle_above_its_mask_is_named(done):
    def higher(outcome):
        ((handle, size),) = outcome.fields["segments"]
        return told(outcome, segments=[[handle | 1 << 33, size]])

    verdict, _ = done(program((33, "both")), number=FRESH + 1, change=higher)
    found = next(each for each in verdict.findings if each.law == "handles")
    assert "is above its mask" in found.message
    assert "0x1ffffffff (33 bits)" in found.expected
    assert found.operation.startswith(f"#{FRESH + 1} ")
