"""How long a probe that the guest has told something is waited for."""

import asyncio
from types import SimpleNamespace

from tcelab.device.probe import Probe
from tcelab.qemu.probes import Probes


def at_work(then):
    """Wait for a probe that is at work; `then` is called with it meanwhile."""

    async def wait():
        probes, probe = object.__new__(Probes), Probe()
        probes.servers = {"pe1": SimpleNamespace(device=probe)}
        probe._at_work = 1
        probe._rest.clear()
        asyncio.get_running_loop().call_soon(then, probe)
        async with asyncio.timeout(20):
            return await probes.at_rest(0)

    return asyncio.run(wait())


def answered(probe):
    probe.asked += 1


def test_one_whose_pages_are_answered_may_work_on():
    assert at_work(answered) is False


def test_one_that_is_done_is_at_rest():
    assert at_work(Probe._ended) is True


def test_one_that_gets_no_answer_is_waited_for():
    def later(probe):
        asyncio.get_running_loop().call_later(0.05, probe._ended)

    assert at_work(later) is True
