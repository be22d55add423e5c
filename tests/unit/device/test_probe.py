"""The probe device: an edu to those who drive an edu, doorbells, and transfers that the harness asks for."""

import asyncio
import errno
import os
import threading
import zlib

import pytest
import vfio_client as client
from vfio_client import Client, memory_file, serving

from tceagent import edu
from tcelab.device.probe import BUSY, INTERRUPT, INVALID, MAGIC, RUN, SHARED, TO_MEMORY, Probe, Register, cut
from tcelab.qemu.portal import portal

CONFIG = 7


@pytest.fixture
def probe():
    return Probe()


@pytest.fixture
def qemu(probe):
    with serving(probe) as server, Client(server.path) as made:
        yield made


def start(work):
    return asyncio.run_coroutine_threadsafe(work, portal().loop)


def big(value, size=8):
    """A register of an edu, which is big endian on ppc64, for a client that is not."""
    return int.from_bytes(value.to_bytes(size, "big"), "little")


def as_edu(qemu, address, size, *, to_memory):
    for register, value in edu.words(address, size, 0, to_memory=to_memory).items():
        assert qemu.write(0, register, big(value)) == 0
    while big(qemu.read(0, edu.COMMAND, 8)) & edu.RUN:
        pass


def ring(  # noqa: PLR0917 - as many as it has registers
    qemu, address, length, command, count=1, stride=0, pattern=0
):
    """Ring a doorbell, and answer the probe until it is done."""
    values = {
        Register.ADDRESS: address,
        Register.LENGTH: length,
        Register.COUNT: count,
        Register.STRIDE: stride,
        Register.PATTERN: pattern,
        Register.COMMAND: command,
    }
    for at, value in values.items():
        assert qemu.write(0, at, value) == 0
    while qemu.read(0, Register.STATUS, 8) & BUSY:
        pass
    results = (Register.ALLOWED, Register.REFUSED, Register.ERRNO, Register.FIRST_REFUSED, Register.DIGEST)
    return [qemu.read(0, each, 8) for each in results]


def test_a_transfer_is_cut_at_pages():
    assert list(cut(0xFFE, 4100)) == [(0xFFE, 2), (0x1000, 4096), (0x2000, 2)]
    assert list(cut(5, 0)) == []


def test_the_probe_is_told_by_its_identity_and_is_an_edu_to_its_driver(qemu):
    assert qemu.read(CONFIG, 0, 4) == 0x1CE01234
    assert big(qemu.read(0, edu.IDENTITY, 4), 4) == edu.IS_EDU
    assert qemu.read(0, Register.MAGIC, 8) == MAGIC
    assert qemu.write(0, edu.LIVENESS, big(0x00FF1234, 4), 4) == 0
    assert big(qemu.read(0, edu.LIVENESS, 4), 4) == 0xFF00EDCB


def test_a_transfer_of_an_edu_is_done_in_both_directions(qemu, probe):
    qemu.memory[0x7000] = bytearray(b"from memory".ljust(4096, b"."))
    as_edu(qemu, 0x7000, 11, to_memory=False)
    as_edu(qemu, 0x7100, 11, to_memory=True)
    assert qemu.memory[0x7000][0x100:0x10C] == b"from memory."
    assert len(probe.done) == 2


def test_an_edu_s_transfer_beyond_its_buffer_is_not_done(qemu, probe):
    as_edu(qemu, 0x7000, 4097, to_memory=True)
    assert not probe.done
    assert qemu.seen == []


def test_an_edu_s_transfer_beyond_the_last_address_is_not_done(qemu, probe):
    as_edu(qemu, (1 << 64) - 8, 16, to_memory=True)
    assert not probe.done
    assert big(qemu.read(0, edu.IDENTITY, 4), 4) == edu.IS_EDU


def test_the_registers_of_a_doorbell_are_what_they_were_when_it_was_rung(qemu, probe):
    async def written():
        probe.write(0, Register.STRIDE, bytes(8))

    def meanwhile(number, command, body):
        portal().call(written())
        qemu.dma(number, command, body)

    qemu.answer = meanwhile
    ring(qemu, 0x1000, 8, RUN | TO_MEMORY, count=3, stride=0x1000)
    assert [address for _, address, _ in qemu.seen] == [0x1000, 0x2000, 0x3000]


def test_a_doorbell_writes_a_pattern_and_tells_what_was_refused(qemu):
    qemu.memory[0x1000] = bytearray(4096)
    qemu.memory[0x3000] = bytearray(4096)
    allowed, refused, error, first, _ = ring(
        qemu, 0x1FFC, 8, RUN | TO_MEMORY, count=3, stride=0x1000, pattern=0x0807060504030201
    )
    assert (allowed, refused, error, first) == (0, 3, errno.ENODEV, 0x2000)
    assert qemu.memory[0x1000][-4:] == b"\1\2\3\4"
    assert qemu.memory[0x3000][:4] == b"\5\6\7\x08"


def test_a_doorbell_reads_and_gives_the_digest(qemu):
    qemu.memory[0x1000] = bytearray(os.urandom(4096))
    got = ring(qemu, 0x1001, 100, RUN, count=2, stride=100)
    assert got == [2, 0, 0, 0, zlib.crc32(qemu.memory[0x1000][1:201])]


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 0), ((1 << 20) + 1, 1), (1, (1 << 20) + 1)])
def test_a_doorbell_for_what_cannot_be_does_nothing(qemu, length, count):
    ring(qemu, 0, length, RUN, count=count)
    assert qemu.read(0, Register.STATUS, 8) == INVALID
    assert qemu.seen == []


def test_a_doorbell_ends_with_an_msi(qemu):
    fd = os.eventfd(0)
    assert qemu.irqs(4 | 32, 1, 0, 1, fds=[fd]) == 0
    assert qemu.write(CONFIG, 4, 6, 2) == 0
    ring(qemu, 0, 1, RUN | INTERRUPT)
    assert os.eventfd_read(fd) == 1


def test_a_device_that_may_not_master_the_bus_sends_no_msi(qemu):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    assert qemu.irqs(4 | 32, 1, 0, 1, fds=[fd]) == 0
    ring(qemu, 0, 1, RUN | INTERRUPT)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)


class Hears:
    """A watcher that notes what it hears, and lets nothing go on until it is told."""

    def __init__(self):
        self.told, self.go_on, self.waits = [], asyncio.Event(), threading.Event()

    def began(self, address, size, *, to_memory):
        self.told.append(("began", address, size, to_memory))

    async def refused(self, address, size, piece, *, to_memory):
        self.told.append(("refused", piece.address, piece.size, piece.errno))
        self.waits.set()
        await self.go_on.wait()


def test_a_watcher_hears_of_the_first_refusal_and_the_next_page_waits_for_it(qemu, probe):
    qemu.memory[0x1000] = bytearray(4096)
    probe.watcher = Hears()
    work = start(probe.dma(0x1000, 3 * 4096))
    qemu.serve(2)
    assert probe.watcher.waits.wait(20)
    assert qemu.read(0, Register.MAGIC, 8) == MAGIC
    assert [each[1] for each in qemu.seen] == [0x1000, 0x2000]
    portal().loop.call_soon_threadsafe(probe.watcher.go_on.set)
    qemu.serve(1)
    assert [piece.errno for piece in work.result(20).pieces] == [0, errno.ENODEV, errno.ENODEV]
    assert [each[1] for each in qemu.seen] == [0x1000, 0x2000, 0x3000]
    assert probe.watcher.told == [("began", 0x1000, 3 * 4096, False), ("refused", 0x2000, 4096, errno.ENODEV)]


@pytest.mark.parametrize("address", [0, 1 << 32, 1 << 59, (1 << 64) - 4096])
def test_any_address_of_64_bits_can_be_asked_for(qemu, address):
    assert ring(qemu, address, 4096, RUN | TO_MEMORY)[:4] == [0, 1, errno.ENODEV, address]
    assert [each[1:] for each in qemu.seen] == [(address, 4096)]


def test_the_harness_asks_for_a_transfer_of_any_length(qemu, probe):
    for page in range(0, 1 << 20, 4096):
        qemu.memory[page] = bytearray(4096)
    data = os.urandom(1 << 20)
    work = start(probe.dma(0, data))
    qemu.serve(256)
    assert work.result(20).refused == ()
    del qemu.memory[0x8000]
    work = start(probe.dma(0, 1 << 20))
    qemu.serve(256)
    done = work.result(20)
    assert [(piece.address, piece.errno) for piece in done.refused] == [(0x8000, errno.ENODEV)]
    assert done.data == data[:0x8000] + bytes(4096) + data[0x9000:]


def test_in_the_mode_shared_the_probe_s_own_table_judges(qemu, probe):
    ram = memory_file(1 << 16)
    assert qemu.map(0x4000, offset=0x2000, flags=1, fd=ram) == 0
    assert qemu.map(0x5000, offset=0x3000, fd=ram) == 0
    off = ring(qemu, 0x5000, 1, RUN | TO_MEMORY | SHARED)
    qemu.write(CONFIG, 4, 6, 2)
    over = ring(qemu, 0x4000, 0x3000, RUN | TO_MEMORY | SHARED, pattern=0x4141414141414141)
    assert off[1:3] == [1, errno.ECONNREFUSED]
    assert over[1:4] == [1, errno.EPERM, 0x4000]
    assert [piece.errno for piece in probe.done[-1].pieces] == [errno.EPERM, 0, errno.EFAULT]
    assert os.pread(ram, 4096, 0x3000) == b"A" * 4096
    assert os.pread(ram, 4096, 0x2000) == bytes(4096)
    assert qemu.seen == []
    assert (probe.judged, probe.apart) == (0, [])
    os.close(ram)


def test_a_transfer_beyond_the_last_address_is_no_transfer(probe):
    with pytest.raises(ValueError, match="no bus addresses"):
        portal().call(probe.dma((1 << 64) - 1, b"ab"))


# -- two verdicts


async def fixed(maps):
    """A table without its permission check: what is mapped may be reached in any way."""
    maps.verdict = lambda address, _need: 0 if address & ~4095 in maps.live else errno.EFAULT


@pytest.fixture
def judged(qemu, probe):
    """0x4000 may be read, 0x5000 both; QEMU refuses writes to the first, and all else."""
    assert qemu.map(0x4000, flags=1) == qemu.map(0x5000) == qemu.write(CONFIG, 4, 6, 2) == 0
    qemu.memory[0x4000] = qemu.memory[0x5000] = bytearray(4096)

    def answer(number, command, body):
        if command == client.DMA_WRITE and body[:8] == (0x4000).to_bytes(8, "little"):
            qemu.send(client.frame(number, command, b"", 0x21, client.ENODEV))
        else:
            qemu.dma(number, command, body)

    qemu.answer = answer
    return probe


def both(qemu, probe):
    for address in (0x4000, 0x5000, 0x6000):
        for what in (8, bytes(8)):
            work = start(probe.dma(address, what))
            qemu.serve()
            work.result(20)


def test_the_verdicts_of_qemu_and_of_the_probe_s_own_table_agree(qemu, judged):
    both(qemu, judged)
    assert (judged.judged, judged.apart) == (6, [])


def test_a_table_of_the_probe_s_without_its_permission_check_is_caught(qemu, judged):
    portal().call(fixed(judged.maps))
    both(qemu, judged)
    assert judged.apart == [(0x4000, 8, True, errno.ENODEV, 0)]


def test_an_unmap_that_is_told_too_late_is_caught_by_the_next_transfer(qemu, judged):
    del qemu.memory[0x5000]  # its entry is gone, and nobody says so
    both(qemu, judged)
    assert judged.apart == [(0x5000, 8, False, errno.ENODEV, 0), (0x5000, 8, True, errno.ENODEV, 0)]


def test_no_more_is_kept_of_two_verdicts_than_there_is_room_for(qemu, judged, monkeypatch):
    monkeypatch.setattr("tcelab.device.probe.MOST_APART", 1)
    del qemu.memory[0x5000]
    both(qemu, judged)
    assert (judged.judged, len(judged.apart)) == (6, 1)


def test_of_a_piece_during_which_the_table_changed_the_probe_has_no_verdict(qemu, judged):
    def meanwhile(number, command, body):
        assert qemu.ask(client.UNMAP, client.unmap_body(0x5000))[0] == 0
        qemu.dma(number, command, body)

    qemu.answer = meanwhile
    work = start(judged.dma(0x5000, 8))
    qemu.serve()
    assert [piece.own for piece in work.result(20).pieces] == [None]
    assert (judged.judged, judged.apart) == (0, [])


def test_a_device_that_may_not_master_the_bus_reaches_nothing(qemu, judged):
    qemu.write(CONFIG, 4, 2, 2)
    qemu.memory.clear()
    both(qemu, judged)
    assert (judged.judged, judged.apart) == (6, [])


def test_a_transfer_beyond_the_last_address_is_refused_and_nobody_is_asked(qemu):
    qemu.memory[0] = bytearray(4096)
    last = (1 << 64) - 8
    assert ring(qemu, last, 16, RUN, count=2, stride=8)[:4] == [1, 1, errno.ERANGE, last]
    assert qemu.seen == [(11, 0, 16)]


def test_of_long_transfers_it_remembers_no_data(qemu, probe):
    for page in range(0, 8192, 4096):
        qemu.memory[page] = bytearray(b"\1" * 4096)
    for size in (8192, 4096):
        work = start(probe.dma(0, size))
        qemu.serve(size // 4096)
        assert work.result(20).data == b"\1" * size
    assert [len(done.data) for done in probe.done] == [0, 4096]
