"""The edu device's DMA engine as the agent drives it."""

from types import SimpleNamespace

import pytest
from agent_fake import FakeKernel, FakeRegisters

from tceagent import edu


def transfer(kernel, registers=None, **changes):
    arguments = {"iova": 0x1234_5000, "size": 256, "offset": 0, "to_memory": True} | changes
    return edu.transfer(kernel, registers or kernel.registers, **arguments)


def swapped(value):
    return int.from_bytes(value.to_bytes(8, "big"), "little")


@pytest.fixture(autouse=True)
def _little_endian(monkeypatch):
    monkeypatch.setattr(edu, "sys", SimpleNamespace(byteorder="little"))


def test_a_write_to_memory_goes_from_the_buffer_to_the_bus_address_command_last():
    kernel = FakeKernel()
    assert transfer(kernel, offset=16) == 0
    assert kernel.did("write64") == [
        ("write64", 0x80, swapped(0x40010)),
        ("write64", 0x88, swapped(0x1234_5000)),
        ("write64", 0x90, swapped(256)),
        ("write64", 0x98, swapped(0x3)),
    ]


def test_a_read_of_memory_goes_from_the_bus_address_to_the_buffer():
    kernel = FakeKernel()
    assert transfer(kernel, to_memory=False, offset=16) == 0
    assert kernel.did("write64") == [
        ("write64", 0x80, swapped(0x1234_5000)),
        ("write64", 0x88, swapped(0x40010)),
        ("write64", 0x90, swapped(256)),
        ("write64", 0x98, swapped(0x1)),
    ]


def test_a_little_endian_guest_swaps_a_big_endian_one_does_not(monkeypatch):
    assert edu.swap(0x0102030405060708) == 0x0807060504030201
    monkeypatch.setattr(edu, "sys", SimpleNamespace(byteorder="big"))
    assert edu.swap(0x0102030405060708) == 0x0102030405060708


def test_the_end_is_waited_for_without_spinning():
    kernel = FakeKernel()
    assert transfer(kernel, FakeRegisters(kernel, busy=7)) == 0
    assert kernel.did("read64") == [("read64", 0x98)] * 8
    assert kernel.elapsed == pytest.approx(edu.MOST + 5 * edu.POLL) == pytest.approx(0.1)


def test_a_transfer_that_never_ends_is_given_up_after_two_seconds():
    kernel = FakeKernel()
    assert transfer(kernel, FakeRegisters(kernel, busy=1 << 30)) is None
    assert 2.0 < kernel.elapsed < 2.1


@pytest.mark.parametrize(("offset", "size"), [(0, 4000), (3999, 1), (4000, 0), (0, 0)])
def test_the_usable_buffer_may_be_filled_to_its_last_byte(offset, size):
    assert transfer(FakeKernel(), offset=offset, size=size) == 0


@pytest.mark.parametrize(("offset", "size"), [(0, 4001), (1, 4000), (4000, 1), (4001, 0), (-1, 1), (0, -1), (5, -1)])
def test_a_transfer_that_would_leave_the_buffer_never_reaches_the_device(offset, size):
    kernel = FakeKernel()
    with pytest.raises(ValueError, match="leaves the 4000 bytes"):
        transfer(kernel, offset=offset, size=size)
    assert kernel.calls == []
