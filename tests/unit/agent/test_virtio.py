"""The agent's driver of virtio-blk: how it finds registers, sets a device up, and what it makes of one that fails."""

from __future__ import annotations

import struct

import pytest
from agent_fake import FakeKernel

from tceagent import virtio
from tceagent.errors import RefusedError
from tceagent.virtio import Engine, Place
from tcelab.emulator.virtiodevice import _config

ONES = (1 << 64) - 1
RING = 0x40000
STATUS, QUEUE, BELL, DISK = 0x14, 0x20, 0x3000, 0x2000


class Device:
    """Registers of a device of 2,048 sectors. `late`: transfers that are not answered at once; `answer`: of the others.

    :ivar wrote: (offset, bytes, value) of each write.
    """

    def __init__(self, kernel, *, answer=0, late=0):
        self.memory = kernel.allocate(3 * 4096)
        self.words = {0x1E: 2, DISK: 2048, DISK + 4: 0, 0x10: 0xFFFF, 0x12: 1}
        self.wrote = []
        self.answer, self.late = answer, late
        self.rang = 0
        self.stuck = 0
        self.lacks = 0
        self.gone = False

    def read8(self, offset):
        return 0xFF if self.gone else self.words.get(offset, 0)

    def read16(self, offset):
        return 0xFFFF if self.gone else self.words.get(offset, 0)

    def read32(self, offset):
        return 0xFFFFFFFF if self.gone else self.words.get(offset, 0)

    def write8(self, offset, value):
        self._write(offset, 1, value)

    def write16(self, offset, value):
        self._write(offset, 2, value)

    def write32(self, offset, value):
        self._write(offset, 4, value)

    def _write(self, offset, size, value):
        self.wrote.append((offset, size, value))
        self.words[offset] = value | self.stuck if offset == STATUS else value
        if offset == STATUS and value & 8:
            self.words[offset] = value & ~self.lacks
        if offset == BELL + 2 * 4:
            self._rung()

    def _rung(self):
        self.rang += 1
        if self.late:
            self.late -= 1
            return
        queue, request = self.memory.page(1), self.memory.page(2)
        request[16] = self.answer
        queue[2050:2052] = queue[1026:1028]


@pytest.fixture
def kernel():
    return FakeKernel()


def made(kernel, device, *, mastering=True):
    place = Place(4, 0, BELL, 4, DISK)
    return Engine(kernel, device, place, (device.memory, 1, RING), lambda: mastering)


def begun(kernel, device, **how):
    engine = made(kernel, device, **how)
    assert engine.begin() == 0
    return engine


# -- capabilities


def reads(config):
    return lambda size, offset: bytes(config[offset : offset + size])


def test_registers_are_found_by_the_capabilities_of_qemu():
    assert vars(virtio.find(reads(_config()))) == {
        "bar": 4,
        "common": 0,
        "doorbells": 0x3000,
        "spacing": 4,
        "disk": 0x2000,
    }


def test_a_device_without_capabilities_is_none():
    with pytest.raises(RefusedError, match="ENODEV"):
        virtio.find(reads(bytes(256)))


def test_a_device_with_registers_in_two_bars_is_none():
    config = bytearray(_config())
    config[0x60 + 4] = 2
    with pytest.raises(RefusedError, match="ENODEV"):
        virtio.find(reads(config))


def test_capabilities_that_lead_in_a_circle_come_to_an_end():
    config = bytearray(_config())
    config[0x40 + 1] = 0x70
    assert virtio.find(reads(config)).bar == 4


# -- what a disk does


@pytest.mark.parametrize(
    ("size", "offset"),
    [(0, 0), (-512, 0), (511, 0), (513, 0), (4608, 0), (512, 1), (512, -512), (512, 1 << 20), (4096, (1 << 20) - 512)],
)
def test_transfers_that_are_no_whole_sectors_of_the_disk_are_refused(size, offset):
    with pytest.raises(ValueError, match="sectors"):
        virtio.check(size, offset, 1 << 20)


@pytest.mark.parametrize(("size", "offset"), [(512, 0), (4096, (1 << 20) - 4096), (1536, 512)])
def test_whole_sectors_of_the_disk_are_not(size, offset):
    virtio.check(size, offset, 1 << 20)


def test_the_last_sector_is_by_the_disks_own_word(kernel):
    device = Device(kernel)
    device.words[DISK] = 8
    engine = begun(kernel, device)
    assert engine.run([(0, 512, True, 7 * 512)]) == (1, 0)
    with pytest.raises(ValueError, match="disk of 4096 bytes"):
        engine.run([(0, 512, True, 0), (0, 512, True, 8 * 512)])
    assert device.rang == 1


def test_the_identity_is_one_queue_and_no_vector(kernel):
    device = Device(kernel)
    assert virtio.identity(device, Place(4, 0, 0, 0, 0)) == 0x0001FFFF
    device.gone = True
    assert virtio.identity(device, Place(4, 0, 0, 0, 0)) == 0xFFFFFFFF


# -- setting up


def test_it_resets_agrees_on_features_gives_its_queue_and_starts(kernel):
    device = Device(kernel)
    begun(kernel, device)
    assert device.wrote == [
        (STATUS, 1, 0),
        *((STATUS, 1, 1), (STATUS, 1, 3)),
        *((8, 4, 0), (12, 4, 0), (8, 4, 1), (12, 4, 3)),  # none of the first 32; VERSION_1 and ACCESS_PLATFORM
        (STATUS, 1, 11),
        *((0x16, 2, 0), (0x18, 2, 16)),
        *((0x20, 4, RING), (0x24, 4, 0), (0x28, 4, RING + 1024), (0x2C, 4, 0), (0x30, 4, RING + 2048), (0x34, 4, 0)),
        (0x1C, 2, 1),
        (STATUS, 1, 15),
    ]


def test_the_queue_has_the_head_and_the_answer_of_a_request(kernel):
    device = Device(kernel)
    device.memory.content[:] = b"\xee" * len(device.memory.content)
    begun(kernel, device)
    head, _, answer = struct.iter_unpack("<QIHH", bytes(device.memory.page(1)[:48]))
    assert head == (RING + 4096, 16, 1, 1)
    assert answer == (RING + 4096 + 16, 1, 2, 0)
    assert not any(device.memory.page(1)[48:])
    assert not any(device.memory.page(2))
    assert bytes(device.memory.page(0)) == b"\xee" * 4096


def test_a_queue_beyond_4_gib_is_given_in_both_halves(kernel):
    device = Device(kernel)
    engine = Engine(kernel, device, Place(4, 0, BELL, 4, DISK), (device.memory, 1, 0x800000012345000), lambda: True)
    engine.begin()
    assert [value for offset, _, value in device.wrote if offset in {0x20, 0x24}] == [0x12345000, 0x8000000]
    assert engine.run([(0, 512, True, 0)]) == (1, 0)


def test_a_device_out_of_reach_is_left_alone(kernel):
    device = Device(kernel)
    device.gone = True
    assert made(kernel, device).begin() == ONES
    assert device.wrote == []


def test_a_device_that_does_not_end_its_reset_is_given_up(kernel):
    device = Device(kernel)
    device.stuck = 64
    kernel.monotonic = iter(range(100)).__next__
    assert made(kernel, device).begin() is None
    assert device.wrote == [(STATUS, 1, 0)]


def test_a_device_that_refuses_the_features_cannot_be_had(kernel):
    device = Device(kernel)
    device.lacks = 8
    with pytest.raises(RefusedError, match="EOPNOTSUPP"):
        made(kernel, device).begin()
    assert all(value & 4 == 0 for offset, _, value in device.wrote if offset == STATUS)


# -- transfers


def test_a_request_says_what_to_move_and_where(kernel):
    device = Device(kernel)
    engine = begun(kernel, device)
    assert engine.run([(0x123456, 1536, True, 2048)]) == (1, 0)
    assert struct.unpack_from("<QIHH", device.memory.page(1), 16) == (0x123456, 1536, 1 | 2, 2)
    assert struct.unpack_from("<IIQ", device.memory.page(2), 0) == (0, 0, 4)
    assert engine.run([(0xABC000, 512, False, 512)]) == (1, 0)
    assert struct.unpack_from("<QIHH", device.memory.page(1), 16) == (0xABC000, 512, 1, 2)
    assert struct.unpack_from("<IIQ", device.memory.page(2), 0) == (1, 0, 1)
    assert struct.unpack_from("<H", device.memory.page(1), 1026) == (2,)
    assert device.rang == 2


def test_the_ring_goes_round(kernel):
    device = Device(kernel)
    engine = begun(kernel, device)
    assert engine.run([(0, 512, True, 0)] * 65537) == (65537, 0)
    assert struct.unpack_from("<H", device.memory.page(1), 1026) == (1,)
    assert len(kernel.did("beat")) == 257


def test_before_it_is_ready_no_doorbell_rings(kernel):
    device = Device(kernel)
    engine = begun(kernel, device)
    for status in (0, 1, 11, 15 | 64):
        device.words[STATUS] = status
        assert engine.run([(0, 512, True, 0)]) == (0, 1)
    device.gone = True
    assert engine.run([(0, 512, True, 0)]) == (0, ONES)
    assert device.rang == 0


def test_a_device_that_somebody_else_has_set_up_since_is_not_ready(kernel):
    device = Device(kernel)
    engine = begun(kernel, device)
    Engine(kernel, device, Place(4, 0, BELL, 4, DISK), (device.memory, 1, RING + 8192), lambda: True).begin()
    assert engine.run([(0, 512, True, 0)]) == (0, 1)
    assert device.rang == 0


def test_a_late_answer_is_one(kernel):
    device = Device(kernel, late=1)
    engine = begun(kernel, device)
    kernel.sleep = lambda _: device._rung()
    assert engine.run([(0, 512, True, 0)] * 2) == (2, 0)


def test_a_device_that_never_answers_is_reset(kernel):
    """Else it would do the transfer at any time later."""
    device = Device(kernel, late=1)
    engine = begun(kernel, device)
    assert engine.run([(0, 512, True, 0)]) == (0, None)
    assert 2.0 <= kernel.elapsed < 2.1
    assert device.wrote[-1] == (STATUS, 1, 0)


def test_one_that_does_not_master_the_bus_is_not_waited_for(kernel):
    device = Device(kernel, late=1)
    engine = begun(kernel, device, mastering=False)
    assert engine.run([(0, 512, True, 0)]) == (0, 1)
    assert 0.02 <= kernel.elapsed < 0.05
    assert device.wrote[-1] == (STATUS, 1, 0)


def test_one_that_asks_for_a_reset_is_not_ready(kernel):
    device = Device(kernel, late=1)
    engine = begun(kernel, device)
    kernel.sleep = lambda _: device.words.update({STATUS: 15 | 64})
    assert engine.run([(0, 512, True, 0)]) == (0, 1)


@pytest.mark.parametrize(("count", "ended"), [(1, (1, 0)), (3, (1, ONES))])
def test_a_transfer_whose_device_gets_out_of_reach_was_begun(kernel, count, ended):
    device = Device(kernel, late=1)
    engine = begun(kernel, device)
    kernel.sleep = lambda _: setattr(device, "gone", True)
    assert engine.run([(0, 512, True, 0)] * count) == ended
    assert device.rang == 1


@pytest.mark.parametrize("answer", [1, 2, 0xFF])
def test_an_answer_other_than_done_is_an_error(kernel, answer):
    engine = begun(kernel, Device(kernel, answer=answer))
    with pytest.raises(RefusedError, match="EIO"):
        engine.run([(0, 512, True, 0)])


def test_a_ring_that_was_protected_is_not_touched(kernel):
    """To touch it would end the agent by a signal."""
    device = Device(kernel)
    engine = begun(kernel, device)

    def page(_number):
        raise ValueError("protected")

    device.memory.page = page
    with pytest.raises(ValueError, match="protected"):
        engine.run([(0, 512, True, 0)])
    assert device.rang == 0
