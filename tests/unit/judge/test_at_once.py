"""What hypercalls that were made at once have left: judged by whichever order explains it, and named if none does."""

import dataclasses

import msgspec
import pytest

from tcelab.emulator import EmulatorSession
from tcelab.emulator.reference import second_opinion
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.setup import MachineChoice
from tcelab.judge import Judge
from tcelab.program import AtOnce, Buffer, Call, Checkpoint, Frames, HcallBatch, Program, Spawn, Tag, Tce
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import build

TWO = topology("two-small-smp")
PE1, PE2 = (phb.liobn for phb in TWO.phbs)
FIRST, PAGES = 40, 4


def lane(name, own):
    """The same entries by one call, then those of another table one by one, and an entry of its own."""
    pages = [Tce(name, page) for page in range(PAGES)]
    whole = Call("H_PUT_TCE_INDIRECT", [PE1, FIRST << 12, 0, PAGES], pages)
    puts = [Call("H_PUT_TCE", [PE2, FIRST + page << 12, pages[page]]) for page in range(PAGES)]
    return HcallBatch(calls=[Call("H_PUT_TCE", [PE1, own << 12, pages[0]]), whole, *puts], times=3, by=name, expect=0)


def program(*more):
    ops = []
    for number, name in enumerate(("left", "right")):
        ops += [Spawn(process=name), Buffer(name=name, pages=PAGES, by=name), Frames(buffer=name, by=name)]
        ops += [Tag(buffer=name, count=PAGES, sequence=number, by=name)]
    return Program(name="p", topology=TWO, ops=[*ops, AtOnce(count=2), lane("left", 1), lane("right", 2), *more])


LOOK = Checkpoint(stream=True)


class Machine(EmulatorSession):
    """The emulator, in which the lane `last` comes last, and whose tables are changed before anybody looks."""

    def __init__(self, change=lambda _table: None, last="right"):
        super().__init__(TWO)
        self._change, self._last = change, last
        self.facts = dataclasses.replace(self.facts, platform="qemu")  # so that another emulator follows it

    def perform(self, ops):
        """The two in one order or the other: each has outcomes of its own."""
        outcomes = super().perform(ops)
        late = [op for op in ops if isinstance(op, HcallBatch) and op.by == self._last]
        super().perform(late)
        return outcomes

    def intervene(self, op, frames):
        tables = {table.liobn: table for pe in self.machine.pes.values() for table in pe.windows.active}
        self._change(tables)
        return super().intervene(op, frames)


def verdict(session, *more, made=None):
    made = made or program(*(more or (LOOK,)))
    judge = Judge(made, session.facts, references=second_opinion(TWO, session.facts))
    return judge.verdict(perform_program(made, session, judge))


@pytest.mark.parametrize("last", ["left", "right"])
def test_whoever_comes_last_is_right(last):
    judged = verdict(Machine(last=last))
    assert judged.findings == []
    assert judged.evidence.laws["difference"].judged > 0


def other(table, number):
    """The page that the other lane has written there, by the entries of their own."""
    own = {table.get(1), table.get(2)}
    (first,) = own - {table.get(FIRST)}
    return first + (table.get(number) - table.get(FIRST))


def lie(liobn, number, change):
    return lambda tables: tables[liobn].put(number, change(tables[liobn]))


@pytest.mark.parametrize(
    ("liobn", "number", "change", "law", "said"),
    [
        (PE1, FIRST + 1, lambda t: t.get(FIRST + 1) ^ 1 << 30, "table", "an entry leads to the wrong page"),
        (PE1, FIRST + 1, lambda _: 0, "table", "an entry that was mapped is missing"),
        (PE1, 1, lambda _: 0, "table", "an entry that was mapped is missing"),
        (PE2, FIRST + 3, lambda _: 0, "table", "an entry that was mapped is missing"),
        (PE2, 99, lambda t: t.get(FIRST), "table", "an entry"),
        (PE1, FIRST, lambda t: min({t.get(1), t.get(2)} - {t.get(FIRST)}), "hypercalls", "explains these entries"),
    ],
)
def test_what_no_order_leaves_is_a_finding_that_names_the_entry(liobn, number, change, law, said):
    findings = [each for each in verdict(Machine(lie(liobn, number, change))).findings if each.law == law]
    assert said in findings[0].message
    assert f"LIOBN {liobn:#x} IOBA {number << 12:#x}" in findings[0].message


def test_nobody_may_use_such_an_entry_before_somebody_looks():
    later = HcallBatch(calls=[Call("H_STUFF_TCE", [PE1, FIRST << 12, 0, 1])])
    assert any("came before a checkpoint" in reason for reason in verdict(Machine(), later, LOOK).could_not)
    assert not any("came before" in reason for reason in verdict(Machine(), LOOK, later, LOOK).could_not)


def test_where_nobody_knows_what_was_stored_there_is_no_pass():
    outside = Call("H_PUT_TCE", [PE1, 1 << 40, 3])
    group = [AtOnce(count=2), lane("left", 1), HcallBatch(calls=[outside], by="right")]
    assert (
        "a hypercall that was made together with others failed, or reads memory"
        in verdict(Machine(), *group, LOOK).could_not
    )


def test_the_scenario_passes_on_the_emulator():
    for name in ("two-small-smp", "four-cpus"):
        made = build("smp", topology(name), 5)
        options = RunOptions(verb="run", target="", machine=MachineChoice(topology=made.topology), platform="emulator")
        made, _ = settle(made, options)
        session = EmulatorSession(made.topology)
        judge = Judge(made, session.facts)
        judged = judge.verdict(perform_program(made, session, judge))
        assert (judged.findings, judged.could_not) == ([], [])


def test_a_program_is_kept_as_it_was_written():
    made = program(LOOK)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Program) == made
