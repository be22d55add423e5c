"""Memory that the guest keeps although it is to be pulled: QEMU says so, and that is an errno, not silence."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tcelab.program import MemoryRemove
from tcelab.qemu.life import memory
from tcelab.qemu.limits import Limits
from tcelab.run.record import Outcome


class Session:
    """A session whose QEMU answers a device_del with events. `waited`: counters that were awaited."""

    def __init__(self, *events):
        self._events, self.waited, self.asked = events, [], []
        waiter = SimpleNamespace(run=lambda work, *_: work)
        self.guest = SimpleNamespace(
            waiter=waiter,
            limits=Limits(),
            command=self._command,
            qmp=self._command,
            ram=SimpleNamespace(unplug=lambda _: 256 << 20),
            on_event=lambda *_: None,
        )

    async def _command(self, command, **arguments):
        self.asked.append((command, arguments["id"]))
        for name, device in self._events if command == "device_del" else ():
            self.guest.on_event(name, {"device": device})

    def counter(self, what):
        assert what == "memory"
        return 768

    def await_counter(self, what, value):
        self.waited.append((what, value))


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(memory, "portal", lambda: SimpleNamespace(call=asyncio.run))


@pytest.mark.parametrize("event", ["DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR"])
def test_memory_that_is_kept_is_ebusy_once_all_of_it_is_online_again(event):
    session = Session(("DEVICE_DELETED", "dimm-other"), (event, "dimm-one"), ("DEVICE_DELETED", "dimm-one"))
    assert memory.remove(session, MemoryRemove(dimm="one")) == Outcome(errno="EBUSY")
    assert session.waited == [("memory", 768)]
    assert session.asked == [("device_del", "dimm-one")]


def test_memory_that_is_gone_leaves_nothing_behind_it():
    session = Session(("DEVICE_DELETED", "dimm-one"))
    assert memory.remove(session, MemoryRemove(dimm="one")) == Outcome(value=0)
    assert session.asked == [("device_del", "dimm-one"), ("object-del", "dimm-one-ram")]
    assert session.waited == [("memory", 512)]
