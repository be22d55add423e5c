"""Faults of a platform that show by DMA alone: every table is as it must be, and what a device is given of it is not.

Each is done to the emulator's devices, and must be found by the laws of one run, which know no emulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from msgspec import structs

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.judge import Judge
from tcelab.papr.tcetable import Table
from tcelab.program import Dma, Program, Together
from tcelab.program.parts import parts
from tcelab.program.topology import topology
from tcelab.run.loop import Tee, perform_program
from tcelab.run.record import Step
from tcelab.scenarios import build
from tcelab.scenarios.places import CHUNK, codes, everywhere

BITS = 18
"""Of a page number in a window of 1 GiB."""


@dataclass
class Honest:
    """What a device is given for an entry, by whatever tables there are."""

    tables: list[Table] = field(default_factory=list)

    def get(self, table: Table, number: int) -> int:
        return table.get(number)

    def changing(self, table: Table) -> None:
        """Firmware is about to change a window."""

    def found(self, _before: Table, now: Table) -> Table:
        """What devices meet once it has."""
        return now


class Given:
    """A table as devices are given it."""

    def __init__(self, table: Table, fault: Honest) -> None:
        self.table, self.fault = table, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)

    def get(self, number: int) -> int:
        return self.fault.get(self.table, number)


class Faulty(EmulatorSession):
    def __init__(self, program: Program, fault: Honest) -> None:
        asked: dict[str, Any] = {"isolates": True, "guard": "freeze"} if program.isolation else {}
        super().__init__(program.topology, **asked)
        self.fault = fault
        fault.tables = [pe.table for pe in self.machine.pes.values()]
        for pe in self.machine.pes.values():
            pe.connect = lambda pe=pe: self.connect(pe)
            pe.connect()
        honest = self.machine.ddw

        def ddw(op: Any) -> Any:
            pe = next(pe for pe in self.machine.pes.values() if op.device in pe.devices)
            fault.changing(pe.table)
            return honest(op)

        self.machine.ddw = ddw

    def connect(self, pe: Any) -> None:
        for device in pe.devices.values():
            before = getattr(device.table, "table", device.table)
            device.table = Given(self.fault.found(before, pe.windows.low), self.fault)
            device.second = Given(pe.windows.high, self.fault)


@cache
def program_of(scenario: str, where: str) -> Program:
    """The first part of a scenario in which devices transfer."""
    program = build(scenario, topology(where), 1)
    part = next(part for part in parts(program) if any(isinstance(op, Dma | Together) for op in part.ops))
    return structs.replace(program, ops=[*part.ops])


def judged(scenario: str, where: str, fault: Honest) -> Any:
    """Up to the first finding."""
    program = program_of(scenario, where)
    session = Faulty(program, fault)
    judge = Judge(program, session.facts)

    def then(_step: Step) -> None:
        if judge.findings:
            raise KeyboardInterrupt

    return judge.verdict(perform_program(program, session, Tee(judge, then)))


FAULTLESS = [("dma", "two-pe"), ("dma", "two-pe-disk"), ("windows", "two-small"), ("isolation", "pair")]


@pytest.mark.parametrize(("scenario", "where"), FAULTLESS)
def test_without_a_fault_there_is_no_finding(scenario, where):
    verdict = judged(scenario, where, Honest())
    assert (verdict.findings, verdict.could_not) == ([], [])


# -- a translation that outlives its entry


class Stale(Honest):
    """The last translation is kept until there is another one.

    :ivar once: for all tables together, or for each.
    """

    def __init__(self, *, once: bool) -> None:
        self.once = once
        self.last: dict[object, tuple[Table, int, int]] = {}

    def get(self, table, number):
        key = None if self.once else id(table)
        kept, at, tce = self.last.get(key, (None, -1, 0))
        if kept is not table or at != number or not tce:
            tce = table.get(number)
        self.last[key] = table, number, tce
        return tce


class StaleWrites(Stale):
    """The same, where an entry still leads to the page but allows less: what it allowed is kept."""

    def get(self, table, number):
        now, kept = table.get(number), super().get(table, number)
        return now | kept & 3 if now & ~3 == kept & ~3 else now


@pytest.mark.parametrize("once", [True, False], ids=["one for all", "one for each table"])
@pytest.mark.parametrize(
    ("scenario", "where", "fault"),
    [
        ("dma", "one-pe", Stale),
        ("dma", "one-pe", StaleWrites),
        ("dma", "two-pe-disk", Stale),
        ("dma", "two-pe-disk", StaleWrites),
        # Their entries come and go, and never allow less.
        ("windows", "two-small", Stale),
        ("isolation", "one-pe", Stale),
        ("isolation", "pair", Stale),
    ],
)
def test_a_translation_that_outlives_its_entry_is_found(scenario, where, fault, once):
    verdict = judged(scenario, where, fault(once=once))
    assert {each.law for each in verdict.findings} & {"tag", "memory", "refusals", "isolation"}


class StaleFrame(Stale):
    """An entry that leads elsewhere leads where it led; one that is gone is gone."""

    def get(self, table, number):
        kept = super().get(table, number)
        return kept if table.get(number) else 0


def test_a_translation_that_leads_where_an_entry_led_before_is_found():
    assert judged("dma", "two-pe", StaleFrame(once=True)).findings


# -- firmware


class Leftover(Honest):
    """What was in a window before firmware reset it can be reached after that."""

    def __init__(self) -> None:
        self.old: dict[int, Any] = {}

    def changing(self, table):
        if table.entries:
            self.old[table.liobn] = table.words.copy()

    def get(self, table, number):
        return table.get(number) or int(self.old.get(table.liobn, [0] * (number + 1))[number])


class Usable(Honest):
    """A window that firmware removed works as before, until there is another one."""

    def found(self, before, now):
        return now if now.entries else before


@pytest.mark.parametrize(("scenario", "fault"), [("dma", Leftover), ("windows", Leftover), ("windows", Usable)])
def test_what_firmware_took_and_a_device_still_reaches_is_found(scenario, fault):
    verdict = judged(scenario, {"dma": "two-pe", "windows": "two-small"}[scenario], fault())
    assert {each.law for each in verdict.findings} & {"tag", "memory", "refusals"}


# -- the number of a page


@dataclass
class Decode(Honest):
    """Another entry than the one that is meant."""

    by: Any = None

    def get(self, table, number):
        meant = self.by(number)
        return table.get(meant) if 0 <= meant < table.entries else 0


def drops(bit):
    return lambda number: number & ~(1 << bit)


def sticks(bit):
    return lambda number: number | 1 << bit


def turns(bit):
    return lambda number: number ^ 1 << bit


def swaps(one, other):
    return lambda number: number ^ (1 << one | 1 << other if (number >> one ^ number >> other) & 1 else 0)


@pytest.mark.parametrize("bits", range(2, 27))
def test_every_fault_of_one_bit_or_two_changes_a_number_of_the_codes(bits):
    chosen = [pair[0] for pair in codes(1 << bits)]
    others = [pair[1] for pair in codes(1 << bits)]
    for bit in range(bits):
        for fault in (drops(bit), sticks(bit), turns(bit)):
            assert any(fault(each) != each for each in (*chosen, *others))
    for pair in combinations(range(bits), 2):
        for numbers in (chosen, others):
            assert any(swaps(*pair)(each) != each for each in numbers)


@pytest.mark.parametrize("how", [drops, sticks])
@pytest.mark.parametrize("bit", range(BITS))
def test_a_bit_of_the_page_number_that_is_lost_is_found_by_edus_alone(bit, how):
    """But for the window's last pages, and those that hold what the whole story rests on."""

    def fault(number):
        return how(bit)(number) if far(number) else number

    assert judged("dma", "one-pe", Decode(by=fault)).findings


def far(number, entries=1 << BITS):
    return number in {each for pair in codes(entries) for each in pair}


@pytest.mark.parametrize("pair", [(0, 1), (3, 12), (5, 14), (16, 17)])
def test_two_bits_that_are_swapped_are_found(pair):
    assert judged("dma", "one-pe", Decode(by=swaps(*pair))).findings


PLACES = {
    "the last page of each 4 MiB is taken for the one before": lambda n: n - 1 if n % CHUNK == CHUNK - 1 else n,
    "the first page of each 4 MiB is taken for the one after": lambda n: n + 1 if n and n % CHUNK == 0 else n,
    "the last page of one 4 MiB": lambda n: n ^ 1 if n == 77 * CHUNK - 1 else n,
    "a table that repeats itself after half of it": lambda n: n % (1 << BITS - 1) if n % CHUNK == 0 else n,
    **{f"page 2^{bit}": (lambda n, bit=bit: 0 if n == 1 << bit else n) for bit in (0, 8, 11, 17)},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_fault_at_some_pages_alone_is_found_by_the_main_job(place):
    assert judged("main", "two-pe-disk", Decode(by=PLACES[place])).findings


def test_places_are_all_over_a_table():
    chosen = everywhere(1 << BITS)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, (1 << BITS) - 1)
    assert all(1 << bit in chosen for bit in range(BITS))
    assert sum(each % CHUNK in (0, CHUNK - 1) for each in chosen) >= 2 * (1 << BITS) // CHUNK


# -- permissions


class Neighbour(Honest):
    """An entry allows what the one beside it allows: as well, or instead."""

    def __init__(self, by: int, *, as_well: bool) -> None:
        self.by, self.as_well = by, as_well

    def get(self, table, number):
        own, beside = table.get(number), number + self.by
        theirs = table.get(beside) & 3 if 0 <= beside < table.entries else 0
        if not own or (self.as_well and not theirs):
            return own
        return own | theirs if self.as_well else own & ~3 | own & theirs if theirs else own


@pytest.mark.parametrize("as_well", [True, False], ids=["as well", "and no more"])
@pytest.mark.parametrize("by", [1, -1])
def test_permissions_of_an_entry_beside_are_found(by, as_well):
    assert judged("dma", "one-pe", Neighbour(by, as_well=as_well)).findings


class FarNeighbour(Neighbour):
    """The same in the last page of 4 MiB alone."""

    def get(self, table, number):
        return super().get(table, number) if number % CHUNK == CHUNK - 1 else table.get(number)


def test_permissions_of_an_entry_beside_are_found_at_the_edge_of_each_4_mib():
    assert judged("main", "two-pe-disk", FarNeighbour(1, as_well=True)).findings


# -- tables that share


class Alias(Honest):
    """Where a table has no entry, that of another PE counts; or it counts always."""

    def __init__(self, *, always: bool) -> None:
        self.always = always

    def get(self, table, number):
        other = next((each for each in self.tables if each.liobn == table.liobn ^ 0x300), table)
        if number >= other.entries or not other.words.any():
            return table.get(number)
        return other.get(number) if self.always else table.get(number) or other.get(number)


@pytest.mark.parametrize("always", [True, False], ids=["always", "where there is none"])
def test_a_table_that_shares_another_ones_entries_is_found(always):
    verdict = judged("dma", "two-pe", Alias(always=always))
    assert {each.law for each in verdict.findings} & {"tag", "memory", "refusals"}
