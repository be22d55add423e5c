"""Forks that are ready before they are asked for: the next is begun in time, none is dead, and none is left behind."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from pathlib import Path

import pytest

from patience import PATIENCE
from tcelab.errors import GuestLost, HarnessError
from tcelab.image.bases import ChangedError
from tcelab.logs import PHASE, LogFile
from tcelab.qemu import ahead
from tcelab.qemu.ahead import Ahead
from tcelab.qemu.fork import Forks
from tcelab.qemu.ram import FORK_NEEDS, HEADROOM

LOG = logging.getLogger("tcelab.stand")


class Session:
    def __init__(self, number):
        self.number = number
        self.alive = True
        self.closed = 0
        self.why = GuestLost("QEMU was killed by SIGKILL")

    def close(self):
        self.closed += 1
        self.alive = False

    def loss(self):
        return self.why


class Stand:
    """In the place of `Forks`. Sessions are made at once, or, with `gates`, when the gate of their number is opened.

    :ivar begun: folders, in the order in which sessions were begun.
    :ivar fails: number of a session to the error in its place.
    """

    def __init__(self):
        self.begun = []
        self.made = {}
        self.fails = {}
        self.gates = {}
        self.phases = ()
        self.changed = 0
        self.closed = 0
        self._lock = threading.Lock()

    def open(self, folder):
        with self._lock:
            number = len(self.begun)
            self.begun.append(folder)
        if (gate := self.gates.get(number)) is not None:
            assert gate.wait(PATIENCE)
            if self.closed:
                raise GuestLost("the guest was closed")
        for phase in self.phases:
            LOG.info(phase, extra=PHASE)
        if error := self.fails.get(number):
            raise error
        self.made[number] = Session(number)
        return self.made[number]

    def check(self):
        """The base was changed so many looks ago."""
        if self.changed:
            self.changed -= 1
            raise ChangedError(None, "state was written to")

    def close(self):
        self.closed += 1
        for gate in self.gates.values():
            gate.set()


@pytest.fixture
def stand():
    return Stand()


@pytest.fixture
def keep(stand, monkeypatch, tmp_path):
    """An `Ahead` on a host with room for so many forks."""
    made, names = [], iter(range(1000))
    others = set(threading.enumerate())  # guests for other tests may be kept in this process

    def make(count, room=100):
        monkeypatch.setattr(ahead.ram, "available", lambda: HEADROOM + room * FORK_NEEDS)
        made.append(Ahead(stand, lambda: tmp_path / f"{next(names)}", count))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert [each for each in set(threading.enumerate()) - others if each.name.startswith("tcelab-fork")] == []


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def gated(stand, *numbers):
    stand.gates = {number: threading.Event() for number in numbers}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_is_taken_and_as_many_as_are_kept_are_begun_behind_it(stand, keep, count):
    one = keep(count)
    first = one.take()
    assert first.alive
    until(lambda: len(stand.made) == 1 + count)
    time.sleep(0.02)
    assert len(stand.begun) == 1 + count
    second = one.take()
    assert second is not first
    until(lambda: len(stand.made) == 2 + count)


def test_each_has_a_folder_of_its_own(stand, keep):
    one = keep(2)
    for _ in range(3):
        one.take()
    until(lambda: len(stand.made) == 5)
    assert len({*stand.begun}) == 5


def test_one_that_is_ready_is_given_before_one_that_was_begun_earlier(stand, keep):
    gated(stand, 1)
    one = keep(3)
    assert one.take().number != 1
    until(lambda: len(stand.made) == 3)
    assert {one.take().number, one.take().number} <= {0, 2, 3, 4}
    stand.gates[1].set()


def test_where_none_is_ready_one_is_waited_for(stand, keep):
    gated(stand, 0, 1)
    one = keep(1)
    threading.Timer(0.03, stand.gates[0].set).start()
    assert one.take().number == 0
    stand.gates[1].set()


@pytest.mark.parametrize(("more", "begun"), [(0, 1), (1, 2), (2, 3), (9, 4)])
def test_no_more_are_begun_than_will_be_asked_for(stand, keep, more, begun):
    one = keep(3)
    one.take(more)
    until(lambda: len(stand.made) == begun)
    time.sleep(0.02)
    assert len(stand.begun) == begun


def test_towards_the_end_those_that_are_kept_are_used_up(stand, keep):
    one = keep(3)
    for more in (4, 3, 2, 1, 0):
        one.take(more)
    time.sleep(0.02)
    assert len(stand.begun) == 5


def test_one_that_died_while_it_was_kept_is_closed_and_replaced(stand, keep):
    one = keep(2)
    one.take()
    until(lambda: len(stand.made) == 3)
    dead = [stand.made[number] for number in (1, 2)]
    for each in dead:
        each.alive = False
    taken = one.take()
    assert taken.alive
    assert taken not in dead
    assert [each.closed for each in dead] == [1, 1]


def test_a_kernel_that_died_while_it_was_kept_is_no_guest_to_be_replaced(stand, keep):
    one = keep(1)
    one.take()
    until(lambda: len(stand.made) == 2)
    stand.made[1].alive = False
    stand.made[1].why = GuestLost("the guest's kernel died: Oops", kernel_died=True)
    with pytest.raises(GuestLost, match="Oops"):
        one.take()
    assert stand.made[1].closed == 1


def test_forks_of_a_base_that_was_changed_meanwhile_are_not_handed_out(stand, keep, shown):
    one = keep(1)
    one.take()
    until(lambda: len(stand.made) == 2)
    stand.changed = 1
    taken = one.take()
    assert taken is not stand.made[1]
    assert stand.made[1].closed == 1
    assert shown.lines == ["a fork that was kept ahead is replaced: it was changed: state was written to"]


def test_an_error_is_of_who_takes_it_and_the_next_gets_another(stand, keep):
    stand.fails = {0: HarnessError("twice in vain")}
    one = keep(1)
    with pytest.raises(HarnessError, match="twice in vain"):
        one.take()
    assert one.take().alive


def test_those_that_are_kept_can_be_waited_for(stand, keep):
    gated(stand, 0)
    one = keep(2)
    threading.Timer(0.03, stand.gates[0].set).start()
    one.prepare()
    assert {*stand.made} == {0, 1}
    one.take(0)
    assert len(stand.begun) == 2


def test_closing_closes_those_that_are_kept_and_not_those_that_were_given(stand, keep):
    one = keep(2)
    given = one.take()
    until(lambda: len(stand.made) == 3)
    one.close()
    assert given.closed == 0
    assert [stand.made[number].closed for number in (0, 1, 2) if stand.made[number] is not given] == [1, 1]
    assert stand.closed == 1


def test_closing_ends_those_that_are_being_made_and_begins_no_other(stand, keep):
    gated(stand, 1, 2)
    one = keep(2)
    one.take()
    until(lambda: len(stand.begun) == 3)
    one.close()
    assert len(stand.begun) == 3
    assert [each.closed for each in stand.made.values()] == [0]


def test_closing_begins_none_of_those_that_were_waiting_for_a_maker(stand, keep):
    gated(stand, 1)
    one = keep(1)
    one.take()
    until(lambda: len(stand.begun) == 2)
    lost = []

    def take():
        with pytest.raises(GuestLost) as caught:
            one.take()  # the second, which is being made; a third waits for its maker
        lost.append(caught.value.message)

    taker = threading.Thread(target=take)
    taker.start()
    until(lambda: len(one._ready) == 1)
    one.close()
    taker.join(PATIENCE)
    assert lost == ["the guest was closed"]
    assert len(stand.begun) == 2


def test_closing_one_that_finished_at_the_last_moment_closes_it(stand, keep, monkeypatch):
    gated(stand, 1)
    one = keep(1)
    one.take()
    until(lambda: len(stand.begun) == 2)
    monkeypatch.setattr(stand, "close", stand.gates[1].set)  # it is made all the same
    one.close()
    assert stand.made[1].closed == 1


def test_closing_closes_the_others_also_when_one_ended_badly(stand, keep):
    stand.fails = {1: OSError(28, "No space left on device")}
    one = keep(3)
    one.take()
    until(lambda: len(stand.made) == 3)
    one.close()
    assert [each.closed for each in stand.made.values() if each.number in {2, 3}] == [1, 1]


def test_leaving_the_context_closes(stand, keep):
    with keep(1) as one:
        one.take()
        until(lambda: len(stand.made) == 2)
    assert stand.closed == 1
    assert sorted(each.closed for each in stand.made.values()) == [0, 1]


@pytest.mark.parametrize(("room", "kept"), [(2, 2), (0, 0), (-3, 0)])
def test_where_there_is_no_memory_for_all_fewer_are_kept_and_that_is_said(stand, keep, shown, room, kept):
    one = keep(4, room)
    assert shown.lines == [f"only {kept} forks are kept ahead: there is no memory for 4"]
    one.take()
    until(lambda: len(stand.made) == 1 + kept)
    time.sleep(0.02)
    assert len(stand.begun) == 1 + kept


def test_what_comes_before_the_first_fork_is_shown_once_and_none_of_the_phases_after_it(stand, keep, shown):
    stand.phases = ("booting", "trying the guest", "forking under QEMU", "booting anew")
    with keep(2) as one:
        one.take()
        one.prepare()
        one.take()
    assert shown.phases == ["booting", "trying the guest"]


def test_the_log_tells_guests_that_are_made_ahead_apart(stand, keep, tmp_path):
    stand.phases = ("forking",)
    with LogFile(tmp_path), keep(1) as one:
        one.take()
        one.prepare()
    lines = (tmp_path / "log.txt").read_text().splitlines()[1:]
    assert sorted(line.partition(" [")[2].partition("]")[0] for line in lines) == ["0", "1"]


def test_where_there_is_memory_nothing_is_said(keep, shown):
    keep(4, 4)
    assert shown.lines == []


def test_the_stand_has_the_shape_of_the_forks():
    for name in ("open", "close"):
        stand, real = (inspect.signature(getattr(each, name)).parameters for each in (Stand, Forks))
        assert [*stand] == [*real]


def test_what_is_kept_is_made_from_the_forks_that_were_given(stand, keep, tmp_path):
    one = keep(0)
    one.take()
    assert stand.begun == [Path(tmp_path / "0")]
