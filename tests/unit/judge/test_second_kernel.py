"""Kexec and kdump as the judge sees them: the laws alone, on the emulator, whose machine is told to do it wrongly."""

import msgspec
import pytest

from tcelab.emulator import EmulatorSession
from tcelab.judge import Judge
from tcelab.judge.models.lifemodel import LivingFold
from tcelab.papr import window
from tcelab.program import Call, Checkpoint, Crash, Ddw, HcallBatch, Kexec, Page, Program, Spawn, Tce
from tcelab.program.topology import topology
from tcelab.quirks import KEXEC_KEEPS, KEXEC_LOSES
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, Step
from tcelab.scenarios import vocabulary as b

TOPOLOGY = topology("two-small-kdump")
ONE, TWO = b.pes(TOPOLOGY, "second")
HIGH = TWO.liobn | 1
PAGES = 4
PAGE = 4096
V1, V2, FAR = 0x5000, 0x9000, window.SECOND_START + 0x3000


def before():
    """Entries of a v1 container of the agent on one PE, and of a child's v2 container in both windows of the other."""
    ops = [
        *b.buffer("own", PAGES, 1),
        *b.bind(ONE),
        *b.bind(TWO),
        *b.open_container(ONE),
        *b.enable(ONE),
        *b.tag(Page("own"), PAGES, ONE.liobn, V1, 1),
        *b.map_dma(ONE, Page("own"), V1, PAGES, 3),
        Spawn(process="child"),
    ]
    theirs = [
        *b.buffer("theirs", PAGES, 2),
        *b.open_container(TWO, b.SPAPR_TCE_V2),
        *b.ask(TWO, "SPAPR_REGISTER_MEMORY", vaddr=Page("theirs"), size=PAGES * PAGE),
        *b.map_dma(TWO, Page("theirs"), V2, 1, 3),
        *b.ask(TWO, "SPAPR_TCE_CREATE", page_shift=12, window_size=1 << 24, levels=1),
        *b.tag(Page("theirs", 1), 3, HIGH, FAR, 2),
        *b.map_dma(TWO, Page("theirs", 1), FAR, 3, 3),
    ]
    return [*ops, *(msgspec.structs.replace(op, by="child") for op in theirs), *b.checkpoint("before")]


class Wrong:
    """A session on which something is done behind the judge's back before the checkpoint `after`.

    :ivar how: does it, given the machine, and what the tables held just before the event, by LIOBN.
    """

    def __init__(self, session, how):
        self._session, self._how, self._held = session, how, {}

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        machine = self._session.machine
        if isinstance(op, Kexec | Crash):
            self._held = {table.liobn: table.words.copy() for pe in machine.pes.values() for table in pe.windows.tables}
        if isinstance(op, Checkpoint) and op.label == "after":
            self._how(machine, self._held)
        return self._session.intervene(op, frames)


def verdict(*ops, how=lambda *_: None, quirks=()):
    program = Program(name="second", topology=TOPOLOGY, ops=[*ops])
    with EmulatorSession(TOPOLOGY, seed=1, quirks=quirks) as session:
        judge = Judge(program, session.facts)
        return judge.verdict(perform_program(program, Wrong(session, how), judge))


def put(liobn, ioba, value=None):
    """Store a value in an entry; None: the one that it had before the event."""

    def done(machine, held):
        pe = next(pe for pe in machine.pes.values() if pe.phb.liobn == liobn & ~1)
        table = pe.windows.high if liobn & 1 else pe.windows.low
        number = table.index(ioba)
        table.put(number, int(held[liobn][number]) if value is None else value)

    return done


def said(found):
    return [(each.law, each.liobn, each.ioba) for each in found.findings]


def test_a_second_kernel_that_clears_everything_is_right():
    found = verdict(*before(), Kexec(expect="ok"), *b.checkpoint("after"))
    assert (said(found), found.could_not) == ([], [])


@pytest.mark.parametrize(
    ("liobn", "ioba", "owner"),
    [
        (ONE.liobn, V1 + PAGE, f"container {ONE.container} of the agent"),
        (TWO.liobn, V2, f"container {TWO.container} of process child"),
        (HIGH, FAR + 2 * PAGE, f"container {TWO.container} of process child"),
    ],
    ids=["v1", "v2 below", "v2 above"],
)
def test_an_entry_that_outlives_a_kexec_is_named_with_its_owner(liobn, ioba, owner):
    found = verdict(*before(), Kexec(expect="ok"), *b.checkpoint("after"), how=put(liobn, ioba))
    assert said(found) == [("outliving", liobn, ioba)]
    assert owner in found.findings[0].message
    assert "(kexec)" in found.findings[0].message


def test_what_firmware_made_from_outside_is_in_no_device_tree_and_stays():
    made = [
        *b.buffer("own", PAGES, 1),
        Ddw(call="create", device=ONE.name, page_shift=12, window_shift=24),
        HcallBatch(
            calls=[
                Call("H_PUT_TCE", [ONE.liobn | 1, window.SECOND_START, Tce("own")]),
                Call("H_PUT_TCE", [ONE.liobn, 0, Tce("own", 1)]),
            ]
        ),
        *b.checkpoint("before"),
    ]
    assert said(verdict(*made, Kexec(expect="ok"), *b.checkpoint("after"))) == []
    emptied = verdict(
        *made,
        Kexec(expect="ok"),
        *b.checkpoint("after"),
        how=put(ONE.liobn | 1, window.SECOND_START, 0),
    )
    assert said(emptied) == [("table", ONE.liobn | 1, window.SECOND_START)]


def test_the_declared_defect_keeps_the_default_window_of_a_pe_with_a_high_one():
    program = (*before(), Kexec(expect="ok"), *b.checkpoint("after"))
    found = verdict(*program, quirks=(KEXEC_KEEPS,))
    assert (said(found), found.could_not) == ([], [])
    cured = verdict(*program, quirks=(KEXEC_KEEPS,), how=put(TWO.liobn, V2, 0))
    assert said(cured) == [("table", TWO.liobn, V2)]


def test_a_container_on_an_inherited_window_is_not_judged():
    again = [*b.buffer("more", PAGES, 3), *b.bind(TWO), *b.open_container(TWO, b.SPAPR_TCE_V2)]
    found = verdict(*before(), Kexec(expect="ok"), *b.checkpoint("after"), *again)
    assert said(found) == []
    assert any("a kernel before has made" in each for each in found.could_not)


@pytest.mark.parametrize("instead", [(), b.ask(TWO, "SPAPR_TCE_CREATE", page_shift=12, window_size=1 << 23, levels=1)])
def test_a_container_without_the_platforms_default_window_is_not_judged(instead):
    """Neither by the laws nor by the emulator: what the device tree then tells, nobody knows."""
    ops = [
        *b.bind(TWO),
        *b.open_container(TWO, b.SPAPR_TCE_V2),
        *b.buffer("b", PAGES, 1),
        *b.ask(TWO, "SPAPR_REGISTER_MEMORY", vaddr=Page("b"), size=PAGES * PAGE),
        *b.map_dma(TWO, Page("b"), V2, 1, 3),
        *b.unmap_dma(TWO, V2, 1),
        *b.ask(TWO, "SPAPR_TCE_REMOVE", start_addr=0),
        *instead,
        Kexec(expect="ok"),
    ]
    found = verdict(*ops)
    assert said(found) == []
    assert any("has no rule for a kexec while a container has no default window" in each for each in found.could_not)
    program = Program(name="second", topology=TOPOLOGY, ops=ops)
    with EmulatorSession(TOPOLOGY, seed=1) as session:
        fold = LivingFold(program, session.facts)
        for step in perform_program(program, session, Judge(program, session.facts)).steps:
            fold.apply(step)
        fold.apply(Step(len(ops) - 1, ops[-1], Outcome(value=0)))
    assert "nobody knows what the device tree then tells" in "".join(fold.unknown)


@pytest.mark.parametrize("quirks", [(), (KEXEC_LOSES,)], ids=["none", "declared"])
def test_a_container_that_has_mapped_nothing_warns_on_kernels_with_the_defect(quirks):
    """On one without it nothing is said; the lines of the other are explained by the quirk alone."""
    program = (*b.bind(ONE), *b.open_container(ONE), Kexec(expect="ok"), *b.checkpoint("after"))
    assert said(verdict(*program, quirks=quirks)) == []


def test_a_crash_kernel_that_leaves_everything_is_right_and_the_tags_of_before_still_prove_it():
    found = verdict(*before(), Crash(expect="ok"), *b.checkpoint("after"))
    assert (said(found), found.could_not) == ([], [])
    assert found.evidence.tags == 2 * (PAGES + 3), "those of before count again"


@pytest.mark.parametrize(("liobn", "ioba"), [(ONE.liobn, V1), (TWO.liobn, V2), (HIGH, FAR)], ids=["v1", "v2", "high"])
def test_a_crash_kernel_that_clears_an_entry_is_found(liobn, ioba):
    found = verdict(*before(), Crash(expect="ok"), *b.checkpoint("after"), how=put(liobn, ioba, 0))
    assert said(found) == [("table", liobn, ioba)]
    assert "an entry that was mapped is missing" in found.findings[0].message


def test_a_crash_kernel_that_uses_a_slot_of_its_own_is_found():
    """No driver of the crash kernel does DMA here: whatever is new was made by nobody."""
    found = verdict(*before(), Crash(expect="ok"), *b.checkpoint("after"), how=put(ONE.liobn, 0, 0x5003))
    assert ("table", ONE.liobn, 0) in said(found)
