"""Memory that is plugged in: read where the guest has it, and gone when it is pulled."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from tcelab.errors import Unsupported
from tcelab.program.pagetags import compact
from tcelab.qemu import ram
from tcelab.qemu.dimms import GrowingRam
from tcelab.qemu.ram import HEADROOM, MIB, SharedRam

SIZE = 4 * MIB
AT = 1 << 30


@pytest.fixture
def guest(monkeypatch):
    monkeypatch.setattr(ram, "available", lambda: 2 * SIZE + HEADROOM)
    with closing(GrowingRam(SharedRam(SIZE), 2)) as made:
        yield made


def test_what_qemu_writes_to_it_is_read_where_the_guest_has_it(guest):
    fd = guest.take("one", SIZE)
    assert guest.read(AT, 8) is None, "it is not there yet"
    guest.plug("one", AT)
    os.pwrite(fd, b"written", 0x5003)
    os.pwrite(guest.fd, b"below", 0x1000)
    assert guest.read(AT + 0x5003, 7) == b"written"
    assert guest.read(0x1000, 5) == b"below"
    assert guest.read(AT + SIZE - 4, 8) is None
    pages = guest.pages({0, AT + 0x5000, AT + SIZE, AT - 4096})
    assert pages[AT + 0x5000] == compact(b"\0\0\0written" + bytes(4086))
    assert (pages[AT + SIZE], pages[AT - 4096]) == (None, None)
    assert pages[0] is not None


def test_its_slot_is_free_and_empty_once_it_is_pulled(guest):
    fd = guest.take("one", SIZE)
    guest.plug("one", AT)
    os.pwrite(fd, b"secret", 0)
    assert (guest.unplug("one"), guest.read(AT, 6)) == (SIZE, None)
    other = guest.take("two", SIZE)
    assert (other, guest.take("three", MIB)) == (other, fd)
    guest.plug("three", AT)
    assert guest.read(AT, 6) == bytes(6)


def test_no_memory_is_promised_that_the_host_has_not(guest):
    with pytest.raises(Unsupported, match="no room for guest RAM"):
        guest.take("one", 3 * SIZE)
    assert len(guest.free) == 2


def test_nothing_stays_open():
    guest = GrowingRam(SharedRam(MIB), 2)
    fds = [guest.take("one", MIB), *guest.free]
    guest.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
