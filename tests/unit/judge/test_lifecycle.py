"""Reset and reboot as the judge sees them: the laws alone, on the emulator, whose machine is told to do it wrongly."""

from dataclasses import replace

import msgspec
import pytest

from tcelab.emulator import EmulatorSession
from tcelab.judge import Judge
from tcelab.judge.models.comparison import Comparison
from tcelab.papr import isolationrules, window
from tcelab.program import Checkpoint, Close, Page, Program, Read, Reboot, Reset
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import build
from tcelab.scenarios import vocabulary as b

TOPOLOGY = topology("two-small")
ONE, TWO = b.pes(TOPOLOGY, "life")
HIGH = TWO.liobn | 1
PAGES = 4
V1, FAR = 0x5000, window.SECOND_START + 0x3000


def before():
    """Entries of a v1 container on one PE, of a v2 container in a 64-bit window of the other."""
    return [
        *b.buffer("b", PAGES, 1),
        *b.bind(ONE),
        *b.bind(TWO),
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.tag(Page("b"), PAGES, ONE.liobn, V1, 1),
        *b.map_dma(ONE, Page("b"), V1, PAGES, 3),
        *b.open_container(TWO, b.SPAPR_TCE_V2),
        *b.ask(TWO, "SPAPR_REGISTER_MEMORY", vaddr=Page("b"), size=PAGES * b.PAGE),
        *b.ask(TWO, "SPAPR_TCE_CREATE", page_shift=12, window_size=1 << 24, levels=1),
        *b.map_dma(TWO, Page("b"), FAR, 1, 3),
        *b.checkpoint("before"),
    ]


class Wrong:
    """A session on which something is done behind the judge's back before the checkpoint `after`, given the machine and
    what its tables were at `before`, by LIOBN.
    """

    def __init__(self, session, how):
        self._session, self._how, self._were = session, how, {}

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        if isinstance(op, Checkpoint) and op.label == "after":
            self._how(self._session.machine, self._were)
        result = self._session.intervene(op, frames)
        if isinstance(op, Checkpoint):
            self._were = {table.liobn: table for table in result.tables}
        return result


def nothing(machine, were):
    """An honest machine."""


def judged(event, how=nothing, ops=None):
    ops = [*(before() if ops is None else ops), event, *b.checkpoint("after")]
    program = Program(name="life", topology=TOPOLOGY, ops=ops)
    session = EmulatorSession(TOPOLOGY)
    judge = Judge(program, session.facts)
    return judge.verdict(perform_program(program, Wrong(session, how), judge))


def put_back(machine, were, liobn=ONE.liobn, ioba=V1 + b.PAGE):
    table = were[liobn]
    value = next(
        int(tce) for number, tce in zip(table.index, table.tce, strict=True) if table.ioba(int(number)) == ioba
    )
    machine.pes[liobn >> 8 & 0xFF].table.put(ioba >> 12, value)


@pytest.mark.parametrize("event", [Reset(expect="ok"), Reboot(expect="ok")])
def test_a_machine_that_was_reset_is_as_at_its_start(event):
    verdict = judged(event)
    assert verdict.findings == []
    assert verdict.evidence.laws["outliving"].judged


@pytest.mark.parametrize("event", [Reset(expect="ok"), Reboot(expect="ok")])
def test_an_entry_that_a_reset_keeps_is_named_with_its_owner(event):
    (found,) = judged(event, put_back).findings
    assert (found.law, found.liobn, found.ioba) == ("outliving", ONE.liobn, V1 + b.PAGE)
    assert f"its owner, container {ONE.container} of the agent, gone with its kernel by operation" in found.message
    assert found.operation.startswith(f'#{len(before())} {{"op":"{type(event).__name__.lower()}"')


def test_a_64_bit_window_that_outlives_a_reset_is_found_and_so_is_the_entry_in_it():
    def stale(machine, were):
        pe = machine.pes[TWO.phb.index]
        pe.create_window(12, 24)
        pe.windows.high.put((FAR - window.SECOND_START) >> 12, int(were[HIGH].tce[0]))

    found = judged(Reset(expect="ok"), stale).findings
    assert {(each.law, each.liobn, each.ioba) for each in found} == {
        ("inventory", HIGH, None),
        ("outliving", HIGH, FAR),
    }


def test_what_is_mapped_anew_where_an_entry_was_outlives_nobody():
    ops = [*before(), Reset(expect="ok"), *before()]
    assert judged(Reset(expect="ok"), ops=ops).findings == []


def test_an_entry_that_a_container_leaves_behind_is_named_with_it():
    ops = [*before(), Close(file=ONE.group)]
    (found,) = judged(Read(what="vmlck"), put_back, ops=ops).findings
    assert found.law == "outliving"
    assert f"container {ONE.container} of the agent, which let go of it in operation {len(ops) - 1}" in found.message


def test_another_value_in_that_place_is_nobodys_and_the_law_of_tables_tells_it():
    def other(machine, _were):
        machine.pes[ONE.phb.index].table.put(V1 >> 12, 0x1234003)

    (found,) = judged(Reset(expect="ok"), other).findings
    assert found.law == "table"


def test_counters_begin_anew_with_another_kernel():
    counted = [Read(what="vmlck"), Read(what="pins")]
    ops = [*counted, *before(), *counted, Reset(expect="ok"), *counted, *before(), *counted]
    verdict = judged(Reset(expect="ok"), ops=ops)
    assert verdict.findings == []
    assert verdict.evidence.laws["pins"].judged == 4


def test_every_step_knows_its_boot():
    program = build("lifecycle-isolation", TOPOLOGY, 1)
    ops = program.ops[: next(number for number, op in enumerate(program.ops) if isinstance(op, Reset)) + 2]
    session = EmulatorSession(TOPOLOGY, isolates=True, guard="freeze")
    run = perform_program(msgspec.structs.replace(program, ops=ops), session)
    assert [step.boot for step in run.steps] == [1] * (len(ops) - 2) + [2, 2]


def test_a_pe_that_is_still_isolated_after_a_reset_is_found():
    program = build("lifecycle-isolation", TOPOLOGY, 1)
    end = next(number for number, op in enumerate(program.ops) if isinstance(op, Reset))
    state = b.rtas(ONE.name, isolationrules.READ_STATE, 0, isolationrules.SUCCESS)
    program = msgspec.structs.replace(program, ops=[*program.ops[: end + 1], *b.checkpoint("after"), *state])

    def isolated(machine, _were):
        machine.pes[ONE.phb.index].isolation.violate()

    session = EmulatorSession(TOPOLOGY, isolates=True, guard="freeze")
    judge = Judge(program, session.facts)
    verdict = judge.verdict(perform_program(program, Wrong(session, isolated), judge))
    assert [(each.law, each.step) for each in verdict.findings] == [("isolation", end + 2)]


def test_of_a_command_register_only_what_the_driver_writes_is_compared():
    """SLOF enables SERR#, VOF nothing: that is no difference of the kernel's."""
    ops = [*before(), *b.open_device(ONE)]
    program = Program(name="life", topology=TOPOLOGY, ops=ops)
    session = EmulatorSession(TOPOLOGY)
    run = perform_program(program, session)
    step = run.steps[-1]
    one, other = (msgspec.structs.replace(step.outcome, value=value) for value in (0x106, 0x2))
    compare = Comparison(session.facts, session.facts).compare
    assert compare(step, replace(step, outcome=one)) == []
    assert [each.seen for each in compare(step, replace(step, outcome=other))] == ["value 2"]
