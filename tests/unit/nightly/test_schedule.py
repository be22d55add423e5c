"""Which cell is next, and how busy the cores were."""

from __future__ import annotations

import pytest

from tcelab.history.nightfile import Cell
from tcelab.nightly.plan import PlannedCell
from tcelab.nightly.schedule import Schedule, busy_cores


def planned(name, weight=1, *, alone=False, guess=30.0, machine=""):
    cell = Cell(id=name, kind="run", scenario=name, command=[])
    return PlannedCell(cell, (), 60.0, weight, alone, guess, machine, {})


def order(schedule, *, done=lambda running: running[0]):
    """Names in the order in which they begin, together with what runs then; `done` says what ends next."""
    out = []
    while schedule.waiting or schedule.running:
        while (cell := schedule.next()) is not None:
            out.append((cell.cell.id, len(schedule.running)))
        schedule.ended(done(schedule.running))
    return out


def test_who_nobody_knows_comes_first_then_the_longest_and_who_runs_alone_last():
    schedule = Schedule(1, {"short": 3.0, "long": 90.0, "bench": 500.0})
    schedule.add(
        [planned("short"), planned("bench", alone=True), planned("long"), planned("new"), planned("newer", guess=99)]
    )
    assert order(schedule) == [("newer", 1), ("new", 1), ("long", 1), ("short", 1), ("bench", 1)]


def test_slots_are_filled_by_weight_and_a_cell_wider_than_all_of_them_runs_alone():
    schedule = Schedule(3, dict(zip("abcde", (50.0, 40.0, 30.0, 20.0, 10.0), strict=True)))
    schedule.add([planned("a", 2), planned("b", 2), planned("c"), planned("d"), planned("e", 9)])
    assert order(schedule) == [("a", 1), ("c", 2), ("b", 2), ("d", 2), ("e", 1)]


def test_nothing_runs_beside_a_cell_that_measures():
    schedule = Schedule(3, {})
    schedule.add([planned("bench", alone=True), planned("other", alone=True), planned("a"), planned("b")])
    assert order(schedule) == [("a", 1), ("b", 2), ("bench", 1), ("other", 1)]


def test_a_cell_that_would_wait_for_a_guest_in_the_making_is_put_off_while_there_are_others():
    schedule = Schedule(2, {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0})
    schedule.add(
        [planned("a", machine="m"), planned("b", machine="m"), planned("c", machine="n"), planned("d", machine="m")]
    )
    assert [name for name, _ in order(schedule)] == ["a", "c", "b", "d"]
    schedule = Schedule(2, {})
    schedule.add([planned("a", machine="m"), planned("b", machine="m")])
    assert order(schedule) == [("a", 1), ("b", 2)]


def test_a_cell_that_is_run_again_is_next():
    schedule = Schedule(1, {"long": 90.0})
    schedule.add([planned("long"), planned("odd", guess=1.0)])
    odd = schedule.next()
    schedule.ended(odd)
    schedule.again(odd)
    assert schedule.next() is odd


@pytest.mark.parametrize(
    ("spans", "busy"),
    [
        ([], 0.0),
        ([(0, 10, 5)], 0.5),
        ([(0, 10, 10), (0, 10, 10), (0, 10, 10), (0, 20, 20), (5, 25, 20)], 4.5),
        ([(0, 10, 10), (10, 20, 10), (20, 30, 0), (30, 40, 0)], 1.0),
    ],
)
def test_cores_were_busy_until_all_but_two_had_ended(spans, busy):
    """CPU time of those two counts as far as they had come."""
    assert busy_cores(spans, 8) == pytest.approx(busy)
    assert busy_cores(spans, 2) == pytest.approx(min(2, busy)), "never more than there are"
