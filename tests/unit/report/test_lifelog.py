"""What a result says of the events in the life of a table."""

from tcelab.emulator import EmulatorSession
from tcelab.program import Program, Reset
from tcelab.program.topology import topology
from tcelab.report.lifelog import HypercallCount, LifeEvent, life, life_lines
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, RunRecord, Step
from tcelab.scenarios import vocabulary as b


def test_each_event_has_its_boot_and_its_hypercalls():
    where = topology("one-pe")
    program = Program(name="life", topology=where, ops=[Reset(), *b.checkpoint("x"), Reset()])
    run = perform_program(program, EmulatorSession(where))
    assert [(each.step, each.event, each.boot, each.hypercalls) for each in life(run)] == [
        (0, "reset", 2, []),
        (2, "reset", 3, []),
    ]
    calls = [{"liobn": 0x80000100, "kind": "H_STUFF_TCE", "calls": 8}]
    told = RunRecord(program, run.facts, [Step(0, Reset(), Outcome(value=0, fields={"hypercalls": calls}), boot=2)])
    assert life(told)[0].hypercalls == [HypercallCount(liobn=0x80000100, kind="H_STUFF_TCE", calls=8)]


def test_a_line_says_what_the_guest_did_meanwhile():
    rows = [HypercallCount(liobn=0x80000000 + number, kind="H_GET_TCE", calls=4096) for number in range(8)]
    few, many = life_lines(
        [LifeEvent(step=3, event="crash", boot=2), LifeEvent(step=4, event="kexec", boot=3, hypercalls=rows)]
    )
    assert few == "step 3, crash: boot 2; meanwhile no hypercall on a table"
    assert many.startswith("step 4, kexec: boot 3; meanwhile 4,096 H_GET_TCE on LIOBN 0x80000000, ")
    assert many.endswith("and 2 more")
