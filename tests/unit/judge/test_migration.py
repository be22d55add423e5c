"""What the judge says of a guest that is saved and loaded: nothing if all arrives, and what does not by its name.

The platform is the emulator, and what a load loses is lost in its machine.
"""

import msgspec
import pytest

from tcelab import scenarios
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.judge import Judge
from tcelab.program import Dma, Load, Page, Program, Save
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

SMALL = topology("two-small")
ONE, TWO = b.pes(SMALL, "moved")
PAGE = Page("moved")
MAPPED = [
    *b.buffer("moved", 16, 1),
    *b.bind(ONE),
    *b.open_container(ONE),
    *b.enable(ONE),
    *b.tag(PAGE, 16, ONE.liobn, ONE.start, 1),
    *b.map_dma(ONE, PAGE, ONE.start, 16, 3),
    *b.open_device(ONE),
    *b.dma(ONE, ONE.start, 64, to_memory=False),
    *b.checkpoint("before"),
]
MOVE = [Save(expect="ok"), Load(expect="ok")]
NUMBER = len(MAPPED) + 1


class Losing:
    """An emulated machine that does not arrive whole.

    :ivar lose: what becomes of the machine, and `tell`, of the windows that the load tells.
    """

    def __init__(self, lose=lambda _: None, tell=lambda _: None):
        self._session, self._lose, self._tell = EmulatorSession(SMALL), lose, tell

    def __getattr__(self, name):
        return getattr(self._session, name)

    def intervene(self, op, frames):
        if isinstance(op, Load):
            self._lose(self._session.machine)
        result = self._session.intervene(op, frames)
        if isinstance(op, Save | Load):
            fields = msgspec.json.decode(msgspec.json.encode(result.fields))
            for each in fields["windows"]:
                each["default"] = True
            if isinstance(op, Load):
                self._tell({each["liobn"]: each for each in fields["windows"]})
            result = msgspec.structs.replace(result, fields=fields)
        return result


def judged(session, *after):
    program = Program(name="moved", topology=SMALL, ops=[*MAPPED, *MOVE, *after, *b.checkpoint("after")])
    judge = Judge(program, session.facts)
    return judge.verdict(perform_program(program, session, judge))


def told(verdict):
    return [(each.law, each.liobn, each.ioba, each.operation.partition(" ")[0]) for each in verdict.findings]


@pytest.mark.parametrize("name", ["migration", "migration-isolation"])
@pytest.mark.parametrize("where", ["two-small", "versioned"])
def test_all_that_arrives_is_right(name, where):
    program = scenarios.build(name, topology(where), 3)
    guard = "freeze" if program.isolation else "off"
    session = EmulatorSession(program.topology, isolates=program.isolation, guard=guard)
    judge = Judge(program, session.facts)
    verdict = judge.verdict(perform_program(program, session, judge))
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")


def test_marks_that_are_told_twice_and_are_the_same_are_right():
    verdict = judged(Losing())
    assert (verdict.findings, verdict.result) == ([], "pass")


def test_an_entry_that_is_lost_is_named_and_the_load_is_to_blame():
    verdict = judged(Losing(lambda machine: machine.pes[1].table.put(5, 0)))
    assert told(verdict) == [("table", ONE.liobn, ONE.iova(5), f"#{NUMBER}")]
    assert "an entry that was mapped is missing" in verdict.findings[0].message


def test_an_entry_that_comes_from_nowhere_is_named_and_the_load_is_to_blame():
    verdict = judged(Losing(lambda machine: machine.pes[2].table.put(7, 0x5003)))
    assert told(verdict) == [("table", TWO.liobn, TWO.iova(7), f"#{NUMBER}")]


ARRIVE = {
    "elsewhere": (
        lambda windows: windows[TWO.liobn].update(start=0x1000000),
        "0x0, the default one, seen 4096 entries, page shift 12, bus offset 0x1000000, the default one",
    ),
    "smaller": (lambda windows: windows[TWO.liobn].update(entries=2048), "seen 2048 entries, page shift 12"),
    "with other pages": (lambda windows: windows[TWO.liobn].update(page_shift=16), "seen 4096 entries, page shift 16"),
    "as another one": (lambda windows: windows[TWO.liobn].update(default=False), "0x0, not the default one"),
}


@pytest.mark.parametrize("how", ARRIVE)
def test_a_window_that_arrives_otherwise_is_named_with_the_load(how):
    tell, said = ARRIVE[how]
    verdict = judged(Losing(tell=tell))
    assert told(verdict) == [("inventory", TWO.liobn, None, f"#{NUMBER}")]
    assert f"LIOBN {TWO.liobn:#x} does not arrive as it was" in verdict.findings[0].message
    assert said in verdict.findings[0].message


def test_a_window_that_does_not_arrive_or_came_from_nowhere_is_named():
    def other(windows):
        windows[TWO.liobn]["liobn"] = TWO.liobn | 1

    verdict = judged(Losing(tell=other))
    assert [each.message.partition(": ")[2] for each in verdict.findings] == [
        "expected 4096 entries, page shift 12, bus offset 0x0, seen no window",
        "expected no window, seen 4096 entries, page shift 12, bus offset 0x0",
    ]


def test_the_buffer_of_an_edu_is_empty_after_a_load_and_what_was_in_it_is_gone():
    """The device writes what it has: zeros, and not what it read before."""
    after = [Dma(file=ONE.device, iova=ONE.iova(1), size=64, to_memory=True, expect="passed")]
    verdict = judged(Losing(), *after)
    assert (verdict.findings, verdict.result) == ([], "pass")

    def kept(machine):
        (device,) = machine.pes[1].devices.values()
        device.move = lambda: None

    verdict = judged(Losing(kept), *after)
    assert {each.law for each in verdict.findings} == {"tag"}
