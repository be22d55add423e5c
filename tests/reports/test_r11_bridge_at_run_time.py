"""R11: a bridge, or an adapter, that comes at run time."""

import pytest
from publicreports import Report

from tcelab import scenarios
from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import BridgeAdd, BridgeRemove, Program
from tcelab.program.parts import parts
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.vocabulary import Pe

REPORT = Report(
    id="R11",
    title="a bridge or an adapter at run time",
    reported="A bridge that was plugged in had no IOMMU of its own in the kernel, so that VFIO found no group there;"
    " its removal warned.",
    where=("Linux ed8b94f6e0ac (2024-01)", "linuxppc/issues#459"),
    versions="Right on 6.12.95 with QEMU 7.2, 10.0 and 11.1.",
    right="It equals one that was there at boot: the shape of its LIOBN, its windows and what firmware offers, and DMA."
    " It takes all of that along, each time.",
    shown="It plugs a bridge in and pulls it, three times, and has VFIO use it in between, with containers of both"
    " types. What it shows of itself is compared with what a bridge shows that was there at boot.",
)

pytestmark = pytest.mark.guest

WHERE = topology("hotplug")
BOOT, NEW = b.pes(WHERE, "r11")[1], Pe(WHERE.phbs[2], "r11")


def shown(pe):
    """What a bridge shows of itself."""
    return [
        *b.bind(pe),
        *b.open_container(pe, b.SPAPR_TCE_V2),
        *b.get_info(pe),
        *b.ddw(pe, "query"),
        *b.ask(pe, "SPAPR_TCE_CREATE", page_shift=16, window_size=1 << 30, levels=1),
        *b.get_info(pe),
        *b.ddw(pe, "query"),
        *b.close(pe.group, pe.container),
    ]


def told(steps, pe):
    """Outcomes without what a kernel counts, and with LIOBNs as the bridge's own."""
    out = []
    for step in steps:
        fields = {name: each for name, each in step.outcome.fields.items() if name not in {"address", "group", "buid"}}
        if "liobn" in fields:
            fields["liobn"] -= pe.liobn
        opens = getattr(step.op, "path", "")
        out.append((type(step.op).__name__, None if opens else step.outcome.value, step.outcome.errno, fields))
    return out


@pytest.mark.night
def test_a_bridge_comes_and_goes_three_times(judged):
    _devices, bridges, *_ = parts(scenarios.build("hotplug", WHERE, 5))
    assert [op.phb for op in bridges.ops if isinstance(op, BridgeRemove)].count(3) == 2
    ops = [*bridges.ops, BridgeRemove(phb=3, expect="ok"), *b.checkpoint("gone", stream=True)]
    verdict = judged(Program(name="r11", topology=WHERE, ops=ops))
    assert (verdict.findings, verdict.result) == ([], "pass"), verdict.could_not


@pytest.fixture
def fresh(_tcelab_guests):
    return lambda: _tcelab_guests.fresh(WHERE.name, 0)


def test_it_shows_what_one_shows_that_was_there_at_boot(fresh):
    old, new = shown(BOOT), shown(NEW)
    ops = [*old, BridgeAdd(phb=3, expect="ok"), *new, *b.checkpoint("closed", stream=True)]
    with fresh() as session:
        program = Program(name="r11", topology=WHERE, ops=ops)
        judge = Judge(program, session.facts, references=second_opinion(WHERE, session.facts))
        record = perform_program(program, session, judge)
        assert judge.verdict(record).findings == []
    steps = record.steps
    assert told(steps[: len(old)], BOOT) == told(steps[len(old) + 1 : -1], NEW)
