"""A vfio-user server and its client: what each command gives, and how a link ends."""

import asyncio
import contextlib
import errno
import os
import select
import struct
from pathlib import Path

import pytest
import vfio_client as client
from vfio_client import Client, ended, frame, memory_file, serving

from tcelab.device.vfio_user import Bar, Change, DmaRefused, LinkLost, PciDevice, ProtocolError, Server
from tcelab.device.vfio_user.configspace import Identity
from tcelab.errors import UsageError
from tcelab.qemu.portal import portal

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
CONFIG = 7


class Toy(PciDevice):
    """A register that keeps what is written to it."""

    identity = Identity(0x1234, 0xABCD, 0x1AF4, 0x1100, 0x088000, 3)
    bars = (Bar(0, 4096), Bar(2, 1 << 20))
    vectors = 2
    intx = True

    def __init__(self):
        self.word, self.resets = bytes(8), -1
        super().__init__()

    def read(self, bar, offset, size):
        return self.word[offset : offset + size].ljust(size, b"\0")

    def write(self, bar, offset, data):
        self.word = data.ljust(8, b"\0")

    def reset(self):
        self.resets += 1


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def server(toy):
    with serving(toy) as made:
        yield made


@pytest.fixture
def qemu(server):
    with Client(server.path) as made:
        yield made


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def signals(fd):
    return int.from_bytes(os.read(fd, 8), "little") if select.select([fd], [], [], 0)[0] else 0


def test_the_server_says_its_version_and_its_limits(qemu):
    assert struct.unpack_from("=HH", qemu.said) == (0, 0)
    assert b'"max_msg_fds": 8' in qemu.said
    assert b'"max_data_xfer_size": 1048576' in qemu.said
    assert qemu.said.endswith(b"\0")


def test_a_device_is_a_pci_device_with_nine_regions_and_five_kinds_of_interrupts(qemu):
    assert qemu.ask(client.INFO, struct.pack("=IIII", 16, 0, 0, 0)) == (0, struct.pack("=IIII", 16, 3, 9, 5))


@pytest.mark.parametrize(("index", "flags", "size"), [(0, 3, 4096), (1, 0, 0), (2, 3, 1 << 20), (6, 0, 0), (7, 3, 256)])
def test_a_region_has_the_size_of_its_bar(qemu, index, flags, size):
    error, body = qemu.ask(client.REGION, struct.pack("=IIIIQQ", 32, 0, index, 0, 0, 0))
    assert (error, struct.unpack("=IIIIQQ", body)) == (0, (32, flags, index, 0, size, 0))


@pytest.mark.parametrize(("index", "flags", "count"), [(0, 7, 1), (1, 9, 2), (2, 1, 0), (4, 1, 0)])
def test_interrupts_are_told(qemu, index, flags, count):
    error, body = qemu.ask(client.IRQ, struct.pack("=IIII", 16, 0, index, 0))
    assert (error, struct.unpack("=IIII", body)) == (0, (16, flags, index, count))


def test_a_bar_is_read_and_written_in_any_width(qemu):
    assert qemu.write(0, 0, 0x1122334455667788) == 0
    assert qemu.read(0, 0, 8) == 0x1122334455667788
    assert qemu.read(0, 4, 2) == 0x3344


def test_the_configuration_space_tells_who_the_device_is(qemu):
    assert qemu.read(CONFIG, 0, 4) == 0xABCD1234
    assert qemu.read(CONFIG, 8, 4) == 0x08800003
    assert qemu.read(CONFIG, 0x2C, 4) == 0x11001AF4
    assert qemu.read(CONFIG, 0x3D, 1) == 1


def test_a_bar_answers_how_large_it_is(qemu):
    for bar, mask in (0, 0xFFFFF000), (2, 0xFFF00000), (1, 0):
        assert qemu.write(CONFIG, 0x10 + 4 * bar, 0xFFFFFFFF, 4) == 0
        assert qemu.read(CONFIG, 0x10 + 4 * bar, 4) == mask


def test_what_is_read_only_in_configuration_space_stays(qemu):
    qemu.write(CONFIG, 0, 0, 4)
    qemu.write(CONFIG, 4, 0xFFFF, 2)
    assert qemu.read(CONFIG, 0, 4) == 0xABCD1234
    assert qemu.read(CONFIG, 4, 2) == 0x0546


def test_msi_is_a_capability_with_addresses_of_64_bits(qemu):
    at = qemu.read(CONFIG, 0x34, 1)
    assert qemu.read(CONFIG, 6, 2) & 0x10
    assert qemu.read(CONFIG, at, 2) == 0x0005
    assert qemu.read(CONFIG, at + 2, 2) == 0x0082


def test_a_reset_brings_the_device_and_its_configuration_space_back(qemu, toy):
    qemu.write(CONFIG, 4, 6, 2)
    assert qemu.ask(client.RESET) == (0, b"")
    assert (toy.resets, qemu.read(CONFIG, 4, 2)) == (1, 0)


@pytest.mark.parametrize(
    ("command", "body", "error"),
    [
        (client.IO_FDS, bytes(16), errno.ENOTSUP),
        (14, b"", errno.ENOTSUP),
        (999, bytes(3), errno.ENOTSUP),
        (client.VERSION, client.SAYS, errno.EINVAL),
        (client.INFO, bytes(15), errno.EINVAL),
        (client.INFO, bytes(17), errno.EINVAL),
        (client.INFO, bytes(16), errno.EINVAL),
        (client.REGION, struct.pack("=IIIIQQ", 32, 0, 9, 0, 0, 0), errno.EINVAL),
        (client.IRQ, struct.pack("=IIII", 16, 0, 5, 0), errno.EINVAL),
        (client.READ, struct.pack("=QII", 4096, 0, 1), errno.EINVAL),
        (client.READ, struct.pack("=QII", 4095, 0, 2), errno.EINVAL),
        (client.READ, struct.pack("=QII", 0, 1, 4), errno.EINVAL),
        (client.READ, struct.pack("=QII", 0, 0, 0), errno.EINVAL),
        (client.READ, struct.pack("=QII", 0, 2, (1 << 20) + 1), errno.EINVAL),
        (client.READ, struct.pack("=QII", (1 << 64) - 1, 0, 2), errno.EINVAL),
        (client.WRITE, struct.pack("=QII", 0, 0, 8) + bytes(7), errno.EINVAL),
        (client.WRITE, struct.pack("=QII", 0, 0, 8) + bytes(9), errno.EINVAL),
        (client.RESET, b"x", errno.EINVAL),
        (client.MAP, client.map_body(0x800), errno.EINVAL),
        (client.MAP, client.map_body(0, 0), errno.EINVAL),
        (client.MAP, client.map_body((1 << 64) - 4096, 8192), errno.EINVAL),
        (client.MAP, client.map_body(0, flags=0), errno.EINVAL),
        (client.MAP, client.map_body(0, flags=4), errno.EINVAL),
        (client.UNMAP, client.unmap_body(0, flags=1), errno.EINVAL),
    ],
)
def test_what_is_wrong_with_a_request_is_answered_and_the_link_stays(qemu, command, body, error):
    assert qemu.ask(command, body) == (error, b"")
    assert qemu.read(CONFIG, 0, 4) == 0xABCD1234


def test_a_command_without_a_reply_gets_none_not_even_an_error(qemu):
    qemu.send(frame(70, client.WRITE, struct.pack("=QII", 0, 0, 1) + b"\x07", 0x10))
    qemu.send(frame(71, 999, b"", 0x10))
    assert qemu.read(0, 0, 1) == 7


def test_frames_may_come_in_pieces_or_many_at_once(qemu):
    one = frame(5, client.READ, struct.pack("=QII", 0, CONFIG, 4))
    for byte in one:
        qemu.send(bytes([byte]))
    assert qemu.receive()[1][16:] == b"\x34\x12\xcd\xab"
    qemu.send(one * 50 + one[:20])
    assert {qemu.receive()[0][0] for _ in range(50)} == {5}
    qemu.send(one[20:])
    assert qemu.receive()[0][0] == 5


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(1, client.INFO, size=15), "a message of 15 bytes"),
        (frame(1, client.INFO, size=(1 << 20) + 33), "a message of 1048609 bytes"),
        (frame(1, client.INFO, bytes(16), 2), "a message of type 2"),
        (frame(77, client.DMA_READ, b"", 1), "a reply with id 77"),
    ],
)
def test_what_cannot_be_understood_ends_the_link(server, qemu, data, why):
    qemu.send(data)
    found = ended(server)
    assert isinstance(found, ProtocolError)
    assert why in found.message
    assert qemu.sock.recv(1) == b""


def test_nothing_comes_before_the_version(server):
    with Client(server.path, greet=False) as hasty:
        hasty.send(frame(1, client.INFO, struct.pack("=IIII", 16, 0, 0, 0)))
        assert "before VERSION" in ended(server).message


def test_another_major_version_ends_the_link(server):
    with Client(server.path, greet=False) as newer:
        newer.send(frame(1, client.VERSION, struct.pack("=HH", 1, 0)))
        assert "version 1.0" in ended(server).message


@pytest.mark.parametrize(
    "said", [b"{", b"[]\0", b'{"capabilities": 3}\0', b'{"capabilities":{"max_data_xfer_size":-1}}\0']
)
def test_capabilities_that_are_none_are_refused(server, said):
    with Client(server.path, greet=False) as odd:
        assert odd.ask(client.VERSION, struct.pack("=HH", 0, 0) + said)[0] == errno.EINVAL


def test_a_client_that_leaves_leaves_nothing_behind(server, toy):
    fd = memory_file(1 << 16)
    with Client(server.path) as qemu:
        assert qemu.map(0x1000, fd=fd) == 0
        assert len(toy.maps.live) == 1
    assert isinstance(ended(server), LinkLost)
    assert toy.maps.live == {}
    with pytest.raises(LinkLost):
        portal().call(toy.dma_read(0x1000, 1))
    os.close(fd)


def test_a_device_has_one_client(server, qemu):
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        Client(server.path)


def test_no_descriptor_is_left_however_many_come(server, qemu, toy):
    fd, eventfd = memory_file(1 << 16), os.eventfd(0)
    before = descriptors()
    for i in range(40):
        assert qemu.map(0x1000 * (i % 8), offset=0x1000, fd=fd) == 0
        assert qemu.map(0x800, fd=fd) == errno.EINVAL
        assert qemu.ask(client.INFO, struct.pack("=IIII", 16, 0, 0, 0), [fd, fd])[0] == errno.EINVAL
        assert qemu.irqs(EVENTFD | TRIGGER, 1, 0, 1, fds=[eventfd]) == 0
    qemu.read(CONFIG, 0, 4)  # what came before it is closed by then
    assert descriptors() == before + 2  # RAM, once; one interrupt
    qemu.send(frame(1, client.INFO, bytes(16)), [fd] * 9)
    assert "more than 8 descriptors" in ended(server).message
    assert descriptors() == before - 1
    os.close(fd)
    os.close(eventfd)


def test_descriptors_belong_to_the_message_they_come_with(qemu, toy):
    fd = memory_file(1 << 16)
    qemu.send(frame(1, client.INFO, struct.pack("=IIII", 16, 0, 0, 0)))
    qemu.send(frame(2, client.MAP, client.map_body(0x3000, offset=0x2000)), [fd])
    qemu.send(frame(3, client.UNMAP, client.unmap_body(0x9000)))
    assert [qemu.receive()[0][0::4] for _ in range(3)] == [(1, 0), (2, 0), (3, 0)]
    assert toy.maps.live[0x3000].file == 0
    os.close(fd)


def test_the_changes_are_kept_in_their_order(qemu, toy):
    assert [qemu.map(0x1000), qemu.map(0x2000, flags=1), qemu.map(0x1000), qemu.unmap(0x1000), qemu.unmap(0x5000)] == [
        0
    ] * 5
    assert toy.maps.take() == [
        Change(maps=True, address=0x1000, size=4096),
        Change(maps=True, address=0x2000, size=4096),
        Change(maps=True, address=0x1000, size=4096),
        Change(maps=False, address=0x1000, size=4096),
        Change(maps=False, address=0x5000, size=4096),
    ]
    assert {at: found.flags for at, found in toy.maps.live.items()} == {0x2000: 1}
    assert toy.maps.take() == []


# -- interrupts


def test_an_msi_is_signalled_once_the_guest_has_asked_for_it(qemu, toy):
    first, second = os.eventfd(0), os.eventfd(0)
    assert not toy.signal()
    assert qemu.irqs(EVENTFD | TRIGGER, 1, 0, 2, fds=[first, second]) == 0
    assert toy.signal(1)
    assert (signals(first), signals(second)) == (0, 1)
    assert qemu.irqs(NONE | TRIGGER, 1, 0, 0) == 0
    assert not toy.signal(1)


def test_intx_is_a_level_that_is_signalled_once_until_it_is_unmasked(qemu, toy):
    fd = os.eventfd(0)
    assert qemu.irqs(EVENTFD | TRIGGER, 0, 0, 1, fds=[fd]) == 0
    for _ in range(3):
        toy.assert_intx(level=True)
    assert signals(fd) == 1
    assert qemu.read(CONFIG, 6, 2) & 8
    assert qemu.irqs(NONE | UNMASK, 0, 0, 1) == 0
    assert signals(fd) == 1  # the level is still there
    toy.assert_intx(level=False)
    assert qemu.irqs(NONE | UNMASK, 0, 0, 1) == 0
    assert signals(fd) == 0
    assert not qemu.read(CONFIG, 6, 2) & 8


def test_intx_that_the_command_register_disables_pends_and_is_not_signalled(qemu, toy):
    fd = os.eventfd(0)
    assert qemu.irqs(EVENTFD | TRIGGER, 0, 0, 1, fds=[fd]) == 0
    qemu.write(CONFIG, 4, 0x0400, 2)
    toy.assert_intx(level=True)
    assert (signals(fd), qemu.read(CONFIG, 6, 2) & 8) == (0, 8)
    qemu.write(CONFIG, 4, 0, 2)
    assert signals(fd) == 1


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "data", "error"),
    [
        (NONE | BOOL | TRIGGER, 1, 0, 1, b"", errno.EINVAL),
        (NONE, 1, 0, 1, b"", errno.EINVAL),
        (64 | NONE | TRIGGER, 1, 0, 1, b"", errno.EINVAL),
        (NONE | TRIGGER, 1, 2, 1, b"", errno.EINVAL),
        (NONE | TRIGGER, 1, 0xFFFFFFFF, 0xFFFFFFFF, b"", errno.EINVAL),
        (BOOL | TRIGGER, 1, 0, 2, b"\1", errno.EINVAL),
        (NONE | MASK, 1, 0, 1, b"", errno.ENOTSUP),
        (EVENTFD | MASK, 0, 0, 1, b"", errno.ENOTSUP),
        (NONE | TRIGGER, 1, 0, 1, b"", 0),
        (BOOL | TRIGGER, 1, 0, 2, b"\1\0", 0),
    ],
)
def test_interrupts_that_cannot_be_are_refused(  # noqa: PLR0917 - the message's fields
    qemu, flags, index, start, count, data, error
):
    assert qemu.irqs(flags, index, start, count, data) == error


def test_a_descriptor_that_is_no_eventfd_is_never_written(qemu, toy):
    fd = memory_file(4096)
    assert qemu.irqs(EVENTFD | TRIGGER, 1, 0, 1, fds=[fd]) == errno.EINVAL
    assert not toy.signal()
    assert os.pread(fd, 8, 0) == bytes(8)
    os.close(fd)


# -- sockets


def test_the_socket_is_in_a_directory_that_nobody_else_may_enter(server):
    folder = Path(server.path).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    with Client(server.path):
        pass
    ended(server)
    assert not folder.exists()


def test_a_directory_that_others_may_enter_is_refused(tmp_path, toy):
    tmp_path.chmod(0o755)

    async def make():
        Server(toy, tmp_path)

    with pytest.raises(UsageError, match="is not private"):
        portal().call(make())


def test_a_hidden_socket_has_no_name_in_the_file_system(toy):
    with serving(toy, hidden=True) as server:
        assert str(Path(server.path).readlink()).endswith("(deleted)")
        with Client(server.path) as qemu:
            assert qemu.read(CONFIG, 0, 4) == 0xABCD1234


# -- DMA by messages


def test_a_transfer_is_judged_by_the_client(qemu, toy):
    qemu.memory[0x5000] = bytearray(4096)
    work = start(toy.dma_write(0x5010, b"abc"))
    qemu.serve()
    work.result(20)
    work = start(toy.dma_read(0x500F, 5))
    qemu.serve()
    assert work.result(20) == b"\0abc\0"
    work = start(toy.dma_read(0x6000, 1))
    qemu.serve()
    with pytest.raises(DmaRefused) as refused:
        work.result(20)
    assert refused.value.errno == errno.ENODEV
    assert "1 bytes at 0x6000: ENODEV" in str(refused.value)


def test_a_long_transfer_is_cut_at_what_the_client_takes_at_once(server, toy):
    with Client(server.path, greet=False) as small:
        said = client.SAYS.replace(b"1048576", b"1000")
        assert small.ask(client.VERSION, said)[0] == 0
        small.memory[0] = bytearray(4096)
        work = start(toy.dma_write(0, bytes(2500)))
        small.serve(3)
        work.result(20)
    assert [count for *_, count in small.seen] == [1000, 1000, 500]


def reply(number, command, body=b"", flags=1, error=0, **more):
    return frame(number, command, body, flags, error, **more)


HEAD = struct.pack("=QQ", 0x5000, 4)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda n: reply(n, client.DMA_READ, HEAD + bytes(3)), "a reply of 19 bytes"),
        (lambda n: reply(n, client.DMA_READ, HEAD + bytes(5)), "a reply of 21 bytes"),
        (lambda n: reply(n, client.DMA_READ, struct.pack("=QQ", 0x5001, 4) + bytes(4)), "at 0x5001"),
        (lambda n: reply(n + 1, client.DMA_READ, HEAD + bytes(4)), "which no request"),
        (lambda n: reply(n, client.DMA_WRITE), "answers DMA_READ"),
        (lambda n: reply(n, client.DMA_READ, b"x", 0x21, 19), "with a body of 1 bytes"),
        (lambda n: reply(n, client.DMA_READ, HEAD + bytes(4)) * 2, "which no request"),
    ],
)
def test_an_answer_that_is_not_about_the_transfer_ends_the_link(server, qemu, toy, answer, why):
    work = start(toy.dma_read(0x5000, 4))
    (number, *_), _ = qemu.receive()
    qemu.send(answer(number))
    assert why in ended(server).message
    if why != "which no request":
        with pytest.raises((LinkLost, ProtocolError)):
            work.result(20)


@pytest.mark.parametrize("body", [b"", struct.pack("=QI", 0x5000, 4), HEAD])
def test_all_three_lengths_of_an_answer_to_a_write_are_understood(qemu, toy, body):
    work = start(toy.dma_write(0x5000, bytes(4)))
    (number, *_), _ = qemu.receive()
    qemu.send(reply(number, client.DMA_WRITE, body))
    work.result(20)


def test_a_client_that_does_not_answer_is_lost(toy):
    toy.limits = toy.limits._replace(answer=0.05)
    with serving(toy) as server, Client(server.path):
        with pytest.raises(LinkLost, match=r"does not answer DMA_WRITE within 0\.05 s"):
            portal().call(toy.dma_write(0, b"x"))
        assert "does not answer" in ended(server).message


def test_a_client_that_leaves_amidst_a_transfer_is_lost(server, toy):
    with Client(server.path) as qemu:
        work = start(toy.dma_write(0, b"x"))
        qemu.receive()
    with pytest.raises(LinkLost):
        work.result(20)


def test_a_client_that_reads_no_reply_is_read_no_more(server, qemu):
    ask = frame(9, client.READ, struct.pack("=QII", 0, 2, 1 << 20))
    qemu.sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            qemu.sock.send(ask)
    assert len(server.connection._out) < 16 << 20
    qemu.sock.settimeout(20)
    for _ in range(20):
        assert qemu.receive()[0][0] == 9


def start(work):
    return asyncio.run_coroutine_threadsafe(work, portal().loop)
