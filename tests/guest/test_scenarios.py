"""Each scenario passes on the real kernel, and each lie about its table is found."""

from itertools import pairwise

import pytest

from tcelab import scenarios
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.papr import tce
from tcelab.program import Checkpoint, Flip, Ioctl, Program
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as build

pytestmark = [pytest.mark.guest, pytest.mark.tcelab(topology="two-pe", needs="edu")]

TWO = topology("two-pe")
FIRST, SECOND = 0x80000100, 0x80000200
LAST = (1 << 30) - 4096


def judged(program, session):
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    return judge.verdict(perform_program(program, session, judge))


@pytest.mark.parametrize("name", ["flow", "dma", "rules"])
def test_a_scenario_passes(session, name):
    verdict = judged(scenarios.build(name, TWO, 11), session)
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not
    assert verdict.evidence.steps["live"] == verdict.evidence.checkpoints
    assert verdict.evidence.steps["stream"] > 0
    assert verdict.evidence.tags > 0


def around(*middle):
    """32 pages mapped at the start and one at the end of pe1's window; `middle`; then all is closed."""
    pe = next(iter(build.pes(TWO, "lie")))
    window_end = build.Page("b", 40)
    return Program(
        name="lie",
        topology=TWO,
        ops=[
            *build.bind(pe),
            *build.open_container(pe),
            *build.enable(pe),
            *build.buffer("b", 64, 5),
            *build.tag(build.Page("b"), 32, FIRST, 0, 1),
            *build.map_dma(pe, build.Page("b"), 0, 32, tce.PERMISSIONS),
            *build.tag(window_end, 1, FIRST, LAST, 2),
            *build.map_dma(pe, window_end, LAST, 1, tce.READ),
            Checkpoint(),
            *middle,
            Checkpoint(stream=True),
            *build.unmap_dma(pe, 0, 32),
            *build.unmap_dma(pe, LAST, 1),
            *build.disable(pe),
            *build.close(pe.group, pe.container),
            Checkpoint(stream=True),
        ],
    )


@pytest.mark.parametrize(
    ("liobn", "ioba", "bit"),
    [
        (FIRST, 0x1F000, 0),
        (FIRST, 0x5000, 12),
        (FIRST, LAST, 1),
        (FIRST, 0x20000, 1),
        (SECOND, LAST, 63),
        (0x80000000, 0, 0),
    ],
    ids=["permission", "frame", "last entry", "past the batch", "other PE", "the channel's PE"],
)
def test_one_flipped_bit_anywhere_is_found(session, liobn, ioba, bit):
    """Also what was live before: the bit is put back before the kernel unmaps, so the guest stays whole."""
    lie = Flip(liobn=liobn, ioba=ioba, bit=bit, expect="ok")
    verdict = judged(around(lie, Checkpoint(), lie), session)
    assert [(each.law, each.liobn, each.ioba) for each in verdict.findings] == [
        ("table", liobn, ioba),
        ("difference", liobn, ioba),
    ]
    assert verdict.findings[0].view == "live, stream"
    assert verdict.exit_code == 1


def test_a_defect_of_the_real_driver_is_found_and_the_map_that_did_it_is_named(session):
    """A map of two pages from the window's last page on fails half way, and its rollback clears the entry that was
    live there before (Linux up to 7.2: iommu_tce_check_ioba looks at the first page only). A kernel without the
    defect refuses the map and loses nothing.
    """
    crossing = {"flags": 3, "vaddr": build.Page("b", 50), "iova": LAST, "size": 8192}
    map_ = Ioctl(file=next(iter(build.pes(TWO, "lie"))).container, request="MAP_DMA", fields=crossing)
    program = around(map_)
    judge = Judge(program, session.facts)
    record = perform_program(program, session, judge)
    verdict = judge.verdict(record)
    (outcome,) = [step.outcome for step in record.steps if step.op == map_]
    if outcome.errno == "EINVAL":
        assert verdict.findings == []
        return
    assert outcome.errno == "EINTR"
    (finding,) = verdict.findings
    assert (finding.law, finding.liobn, finding.ioba, finding.seen) == ("table", FIRST, LAST, "0 (empty)")
    assert finding.operation.startswith(f"#{program.ops.index(map_)} ")


def test_the_same_program_without_a_lie_passes(session):
    verdict = judged(around(), session)
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not


def test_scattered_buffers_have_scattered_frames(session):
    """Were frames consecutive, a driver that maps the first frame and counts up would pass."""
    ops = build.buffer("scattered", 64, 9)
    frames = session.perform(ops)[1].frames
    page = session.facts.page_size
    starts = sorted({frame // page for frame in frames}, key=[frame // page for frame in frames].index)
    consecutive = sum(after == before + 1 for before, after in pairwise(starts))
    assert len(starts) == 64 * 4096 // page
    assert consecutive < len(starts) // 4


def test_an_ioctl_that_fails_is_an_outcome(session):
    ops = [
        *build.open_container(pe := next(iter(build.pes(TWO, "fails")))),
        Ioctl(file=pe.container, request="MAP_DMA", fields={"flags": 3, "size": 4096}),
        *build.close(pe.group, pe.container),
    ]
    outcomes = session.perform([*build.bind(pe), *ops])
    assert outcomes[-3].errno == "EPERM"
