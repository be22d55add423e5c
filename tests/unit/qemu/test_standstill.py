"""Stopping a guest and letting it go on: it stands for as long as anybody needs it to, and no longer."""

import asyncio
import os

import pytest

from tcelab.errors import GuestLost
from tcelab.qemu.standstill import Standstill, host_shares


class Monitor:
    """QEMU's, as far as this goes. `fails`: a command to the error that it ends with."""

    def __init__(self, status="paused"):
        self.status, self.said, self.fails = status, [], {}

    async def command(self, name):
        await asyncio.sleep(0)
        self.said.append(name)
        if name in self.fails:
            raise self.fails[name]
        return {"status": self.status}

    async def lost(self, status):
        return GuestLost(f"the guest is {status}")

    @property
    def changes(self):
        return [each for each in self.said if each != "query-status"]


@pytest.fixture
def monitor():
    return Monitor()


@pytest.fixture
def standstill(monitor):
    return Standstill(monitor.command, monitor.lost)


def test_a_guest_is_stopped_for_the_first_and_goes_on_after_the_last(standstill, monitor):
    async def story():
        await standstill.begin()
        async with standstill.held():
            await standstill.end()
            assert monitor.changes == ["stop"]
        assert monitor.changes == ["stop", "cont"]
        async with standstill.held():
            pass

    asyncio.run(story())
    assert monitor.changes == ["stop", "cont"] * 2
    assert standstill.holders == 0


def test_of_many_at_once_none_sees_it_run(standstill, monitor):
    async def hold(turns):
        async with standstill.held():
            for _ in range(turns):
                await asyncio.sleep(0)
                assert monitor.changes[-1] == "stop"

    async def story():
        await asyncio.gather(*(hold(turns) for turns in (9, 1, 5, 0, 7)))

    asyncio.run(story())
    assert monitor.changes[0] == "stop"
    assert monitor.changes[-1] == "cont"
    assert standstill.holders == 0


@pytest.mark.parametrize("error", [ValueError("within"), asyncio.CancelledError()])
def test_a_guest_goes_on_whatever_went_wrong_while_it_stood(standstill, monitor, error):
    async def story():
        async with standstill.held():
            raise error

    with pytest.raises(type(error)):
        asyncio.run(story())
    assert monitor.changes == ["stop", "cont"]


def test_a_guest_that_died_before_is_lost_and_is_not_made_to_go_on(standstill, monitor):
    monitor.status = "guest-panicked"
    with pytest.raises(GuestLost, match="the guest is guest-panicked"):
        asyncio.run(standstill.begin())
    assert monitor.changes == ["stop"]
    assert standstill.holders == 0


def test_who_only_changes_a_guest_that_died_meanwhile_leaves_the_news_to_others(standstill, monitor):
    monitor.status = "guest-panicked"

    async def story():
        async with standstill.held():
            pass

    asyncio.run(story())
    assert monitor.said == ["stop", "cont"]


def test_a_stop_that_fails_holds_nothing(standstill, monitor):
    monitor.fails["stop"] = OSError("gone")

    async def story():
        with pytest.raises(OSError, match="gone"):
            await standstill.begin()
        del monitor.fails["stop"]
        async with standstill.held():
            pass

    asyncio.run(story())
    assert monitor.changes == ["stop", "stop", "cont"]


def test_a_guest_that_cannot_go_on_is_held_by_nobody(standstill, monitor):
    monitor.fails["cont"] = GuestLost("gone")

    async def story():
        async with standstill.held():
            pass

    with pytest.raises(GuestLost, match="gone"):
        asyncio.run(story())
    assert standstill.holders == 0


def test_the_host_tells_how_long_a_process_ran_and_waited():
    ran, waited = host_shares(os.getpid())
    assert ran > 0
    assert waited >= 0
    assert host_shares(2**22 + 1) == (0.0, 0.0), "no such process"
