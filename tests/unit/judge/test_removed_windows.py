"""The kernel removes the default window where firmware has no other to give: each way to do it wrong is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from tcelab import scenarios
from tcelab.emulator import EmulatorSession, effects_v2
from tcelab.emulator.growth import Growth
from tcelab.emulator.reference import EmulatorReferences
from tcelab.judge import Judge
from tcelab.papr import tce, window
from tcelab.program import Fresh, Program, programjson
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program

WHERE = topology("dma-api")
DEFAULT, OTHER = 0x80000100, 0x80000101
LAST = window.SECOND_START + (31 << 24)
"""Bus address of the last page of the window of all RAM."""
PROGRAM = scenarios.build("windows-removed", WHERE, 1)
SPLIT = PROGRAM.ops.index(Fresh())
REMOVED = Program(name="removed", topology=WHERE, ops=PROGRAM.ops[:SPLIT])
IN_USE = Program(name="in-use", topology=WHERE, ops=PROGRAM.ops[SPLIT + 1 :])
EXAMPLE = Path(__file__).parents[3] / "docs/examples/window-low.json"


def in_its_place():
    """The example of windows that a container gets in the place of the default one, the larger of them with fewer
    entries.
    """
    text = EXAMPLE.read_bytes().replace(str(1 << 46).encode(), str(1 << 30).encode())
    return programjson.decode(text, Program, "window-low")


def judged(program, memory=None, page_size=4096):
    where = program.topology
    session = EmulatorSession(where, memory=memory or Growth(where), page_size=page_size)
    judge = Judge(program, session.facts, references=EmulatorReferences(where, session.facts))
    return judge.verdict(perform_program(program, session, judge))


def found(verdict, law):
    return [(each.liobn, each.ioba) for each in verdict.findings if each.law == law]


class Broken(Growth):
    """A kernel that does more when it maps all RAM, or something else."""

    def map_all(self, index, windows):
        if index not in self._mapped:
            super().map_all(index, windows)
            self.instead(windows[index])

    def instead(self, windows):
        raise NotImplementedError


class Shorter(Broken):
    def instead(self, windows):
        windows.low.put(31, 0)


class Emptied(Broken):
    """It takes the entry of the window that is not its own."""

    def instead(self, windows):
        windows.high.put(0, 0)


class Elsewhere(Broken):
    """Its last entry leads to memory that there is not."""

    def instead(self, windows):
        windows.low.put(31, tce.pack(1 << 34, tce.PERMISSIONS))


class Other(Growth):
    """It removes the window that is not its own."""

    def map_all(self, index, windows):
        if index not in self._mapped:
            windows[index].remove(OTHER)
        super().map_all(index, windows)


@pytest.mark.parametrize("page_size", [4096, 1 << 16])
@pytest.mark.parametrize("program", [REMOVED, IN_USE], ids=["removed", "in-use"])
def test_the_scenario_breaks_no_law(program, page_size):
    verdict = judged(program, page_size=page_size)
    assert (verdict.findings, verdict.could_not) == ([], [])


@pytest.mark.parametrize(
    ("kernel", "law", "place"),
    [
        (Shorter, "table", (DEFAULT, LAST)),
        (Emptied, "table", (OTHER, window.SECOND_START)),
        (Elsewhere, "table", (DEFAULT, LAST)),
        (Other, "inventory", (OTHER, None)),
    ],
)
def test_a_kernel_that_does_it_wrong_is_found(kernel, law, place):
    assert place in found(judged(REMOVED, kernel(WHERE)), law)


def test_a_window_that_is_replaced_while_it_is_in_use_leaves_its_mappings_without_one(monkeypatch):
    monkeypatch.setattr("tcelab.emulator.dmafile.DmaFile._in_use", lambda *_: False)
    session = EmulatorSession(WHERE)
    judge = Judge(IN_USE, session.facts)
    verdict = judge.verdict(perform_program(IN_USE, session, judge))
    assert any("has a handle in no window" in each.message for each in verdict.findings)


@pytest.mark.parametrize("page_size", [4096, 1 << 16])
def test_a_window_that_a_container_gets_in_the_place_of_the_default_one_goes_with_it(page_size):
    verdict = judged(in_its_place(), page_size=page_size)
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert verdict.evidence.tags == 65536 // 4096


def test_one_that_stays_when_its_container_removes_it_is_found(monkeypatch):
    """As the platform's own does."""
    made = effects_v2.ContainerWindow
    monkeypatch.setattr(effects_v2, "ContainerWindow", lambda *given: replace(made(*given), default=True))
    assert (DEFAULT, None) in found(judged(in_its_place()), "inventory")


def test_a_default_window_where_another_one_was_asked_for_is_found(monkeypatch):
    monkeypatch.setattr(effects_v2, "_is_default", lambda _pe, number, _shift, _size: not number)
    assert (DEFAULT, None) in found(judged(in_its_place()), "inventory")
