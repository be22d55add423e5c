"""A session whose guest moves from one QEMU to another: who is closed when, and what goes along."""

import os
from types import SimpleNamespace

import pytest

from tcelab.errors import HarnessError
from tcelab.qemu.movable import MovableSession
from tcelab.qemu.tableaddresses import TableAddresses


class Guest:
    def __init__(self):
        self.disks = self.dma_api = object()
        self.closed = self.held = 0
        self.standstill = SimpleNamespace(end=self._goes_on)

    async def close(self):
        self.closed += 1

    async def _goes_on(self):
        self.held -= 1


@pytest.fixture
def session():
    made = MovableSession(None, None, None, None)
    made.begin(Guest())
    return made


def saved():
    return SimpleNamespace(stream=os.memfd_create("saved"))


def is_open(stream):
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True


def test_a_session_that_is_closed_during_a_load_closes_both_and_loads_no_more(session):
    first, second = session.guest, Guest()
    session.saved = held = saved()
    session.succeed(second)
    session.end()
    session.end()
    assert (first.closed, second.closed, is_open(held.stream)) == (2, 2, False)
    late = Guest()
    for load in (session.succeed, session.move_in):
        with pytest.raises(HarnessError, match="closed: the guest is loaded no more"):
            load(late)
    assert late.closed == 1


def test_the_qemu_that_takes_the_guest_in_has_its_disks_and_the_other_one_ends(session):
    first, second = session.guest, Guest()
    session.saved = held = saved()
    session.succeed(second)
    assert not hasattr(first, "disks")
    session.guest = second
    session.go_on_moved()
    assert (first.closed, second.closed, second.held) == (1, 0, -1)
    assert (session.saved, is_open(held.stream)) == (None, False)
    session.end()
    assert (first.closed, second.closed) == (1, 1)


def test_a_guest_that_nobody_loads_goes_on_where_it_is_and_once(session):
    session.saved = held = saved()
    session.stay()
    session.stay()
    assert (session.guest.held, session.saved, is_open(held.stream)) == (-1, None, False)


def test_a_window_that_a_load_takes_away_is_forgotten_though_no_trace_tells():
    tables = TableAddresses()
    for liobn in (0x80000100, 0x80000101):
        tables.line(f"spapr_iommu_new_table liobn={liobn:#x} table=0x7f{liobn:x}")
    tables.keep({0x80000101: (0, 1)})
    assert tables.at == {0x80000101: 0x7F80000101}
