"""The agent's real kernel, as far as any Linux host has what it asks for."""

import array
import fcntl
import mmap
import os
import posix
import struct
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tceagent import kernel as kernel_module
from tceagent.kernel import Kernel, Registers

PAGE = mmap.PAGESIZE


@pytest.fixture
def kernel():
    made = Kernel()
    yield made
    os.close(made._pagemap)
    os.close(made._status)


@pytest.fixture
def pipe():
    ends = os.pipe()
    os.write(ends[1], b"12345")
    yield ends
    for end in ends:
        os.close(end)


def test_an_ioctl_that_writes_its_argument_gives_the_bytes_back(kernel, pipe):
    assert kernel.ioctl(pipe[0], termios.FIONREAD, bytes(4)) == (0, "", struct.pack("=i", 5))


def test_a_refused_ioctl_gives_the_errnos_name_and_the_bytes(kernel, pipe):
    assert kernel.ioctl(pipe[0], termios.TIOCGWINSZ, b"abcdefgh") == (None, "ENOTTY", b"abcdefgh")
    assert kernel.ioctl(9999, termios.FIONREAD, 0) == (None, "EBADF", b"")


def test_a_positive_return_is_a_value(kernel, monkeypatch):
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: 1)
    assert kernel.ioctl(0, 1, b"x") == (1, "", b"x")


@pytest.mark.parametrize("word", [0, 8, (1 << 31) - 1, 1 << 31, 0xFFFF_FFFF, 1 << 46, (1 << 64) - 8])
def test_a_word_of_any_width_is_passed_as_a_pointer_would_be(kernel, pipe, word):
    assert kernel.ioctl(pipe[0], termios.FIONREAD, word) == (None, "EFAULT", b"")


def test_a_wide_word_arrives_whole(kernel, pipe):
    target = array.array("i", [0])
    address, _ = target.buffer_info()
    assert address >> 32
    assert kernel.ioctl(pipe[0], termios.FIONREAD, address) == (0, "", b"")
    assert target[0] == 5


@pytest.mark.parametrize(("request_number", "word"), [(1 << 32, 0), (-1, 0), (1, 1 << 64), (1, -1)])
def test_what_no_register_holds_is_an_error(kernel, pipe, request_number, word):
    with pytest.raises(ValueError, match="bits"):
        kernel.ioctl(pipe[0], request_number, word)


def test_memory_is_where_it_says(kernel):
    memory = kernel.allocate(5)
    assert memory.size == PAGE
    assert memory.address % PAGE == 0
    memory.write(3, b"hello")
    assert memory.read(0, 10) == b"\0\0\0hello\0\0"
    with Path("/proc/self/mem").open("rb", buffering=0) as own:
        assert os.pread(own.fileno(), 5, memory.address + 3) == b"hello"


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (PAGE, 1), (PAGE - 4, 5)])
def test_memory_ends_where_it_ends(kernel, offset, size):
    memory = kernel.allocate(PAGE)
    with pytest.raises(ValueError, match="bytes"):
        memory.write(offset, bytes(size))
    with pytest.raises(ValueError, match="bytes"):
        memory.read(offset, size)


def pagemap(monkeypatch, entries):
    """Let the kernel's pagemap hold these (page number to entry); what else is asked for is past its end."""

    def pread(_fd, size, offset):
        assert offset % 8 == 0
        known = [struct.pack("=Q", entries[n]) for n in range(offset // 8, (offset + size) // 8) if n in entries]
        return b"".join(known)

    monkeypatch.setattr(kernel_module, "posix", SimpleNamespace(pread=pread))


PRESENT = 1 << 63
DIRTY = 1 << 55


def test_frames_are_page_frame_numbers_times_the_page_size(kernel, monkeypatch):
    pagemap(monkeypatch, {16: PRESENT | DIRTY | 0x111, 17: PRESENT | 0x99})
    kernel.page_size = 4096
    assert kernel.frames(16 * 4096, 8192) == [0x111000, 0x99000]
    assert kernel.frames(16 * 4096 + 4095, 2) == [0x111000, 0x99000]
    assert kernel.frames(17 * 4096, 1) == [0x99000]
    assert kernel.frames(17 * 4096 + 1, 0) == []


def test_a_64k_page_holds_sixteen_frames(kernel, monkeypatch):
    pagemap(monkeypatch, {4: PRESENT | 0x12, 5: PRESENT | 0x7})
    kernel.page_size = 65536
    base = 4 * 65536
    assert kernel.frames(base, 65536) == [0x120000 + i * 4096 for i in range(16)]
    assert kernel.frames(base + 15 * 4096, 2 * 4096) == [0x12F000, 0x70000]


def test_a_page_that_is_not_present_has_frame_zero(kernel, monkeypatch):
    pagemap(monkeypatch, {16: 0x111, 17: PRESENT | 0x99})
    kernel.page_size = 4096
    assert kernel.frames(16 * 4096, 3 * 4096) == [0, 0x99000, 0]


def test_vmlck_is_the_number_in_status(kernel):
    assert kernel.vmlck() == 0


@pytest.fixture
def counters(kernel, tmp_path):
    """Files in the place of those that count pins: write one, and they are read anew."""
    kernel._refresh = os.open(tmp_path / "refresh", os.O_RDWR | os.O_CREAT)
    kernel._vmstat = os.open(tmp_path / "vmstat", os.O_RDONLY | os.O_CREAT)
    yield tmp_path / "vmstat", tmp_path / "refresh"
    os.close(kernel._refresh)
    os.close(kernel._vmstat)


def test_pins_are_acquired_minus_released_after_a_refresh(kernel, counters, monkeypatch):
    vmstat, refresh = counters
    vmstat.write_bytes(b"nr_free 7\nnr_foll_pin_acquired 1000\nnr_foll_pin_released 968\n")
    order = []
    for name in ("pwrite", "pread"):
        real = getattr(posix, name)
        monkeypatch.setattr(posix, name, lambda *given, n=name, r=real: order.append(n) or r(*given))
    assert kernel.pins() == 32
    assert order == ["pwrite", "pread"]
    assert refresh.read_bytes() == b"1"
    vmstat.write_bytes(b"nr_foll_pin_acquired 1001\nnr_foll_pin_released 968\n")
    assert kernel.pins() == 33


def test_a_kernel_that_does_not_count_pins_is_named(kernel, counters):
    counters[0].write_bytes(b"nr_free 7\n")
    with pytest.raises(LookupError, match="no nr_foll_pin_acquired in /proc"):
        kernel.pins()


def test_registers_are_read_and_written_in_their_size(tmp_path):
    device = tmp_path / "device"
    device.write_bytes(bytes(PAGE))
    with device.open("r+b") as file:
        registers = Registers(mmap.mmap(file.fileno(), PAGE))
    registers.write64(0x80, 0x1122334455667788)
    registers.write32(0x20, 0xAABBCCDD)
    assert registers.read64(0x80) == 0x1122334455667788
    assert registers.read32(0x20) == 0xAABBCCDD
    assert (registers.read64(0x18), registers.read32(0x24), registers.read64(0x28)) == (0, 0, 0)
    with pytest.raises(ValueError, match="not a multiple of 8"):
        registers.read64(0x84)
    with pytest.raises(ValueError, match="not a multiple of 4"):
        registers.write32(-4, 0)
    registers.close()
    assert str(device) not in Path("/proc/self/maps").read_text()
    raw = device.read_bytes()
    assert struct.unpack_from("=Q", raw, 0x80) == (0x1122334455667788,)
    assert struct.unpack_from("=I", raw, 0x20) == (0xAABBCCDD,)


def test_map_registers_keeps_no_descriptor_after_close(kernel, tmp_path):
    device = tmp_path / "device"
    device.write_bytes(bytes(2 * PAGE))
    fd = os.open(device, os.O_RDWR)
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    registers = kernel.map_registers(fd, PAGE, PAGE)
    registers.write32(0, 7)
    registers.close()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert os.pread(fd, 4, PAGE) == struct.pack("=I", 7)
    os.close(fd)


def test_the_cell_is_one_shared_page_of_inits_ramfs(kernel, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_module, "CELL", str(tmp_path / "cell"))
    monkeypatch.setattr(kernel, "frames", lambda address, size: [address * 2 + size])
    page, address = kernel.cell()
    assert address % 2 == 1
    page[:8] = b"TCELABPC"
    assert (tmp_path / "cell").read_bytes() == b"TCELABPC".ljust(PAGE, b"\0")
    with Path("/proc/self/mem").open("rb", buffering=0) as own:
        assert os.pread(own.fileno(), 8, address // 2) == b"TCELABPC"
    page.close()


def test_entropy_is_credited_whole_and_used_at_once(kernel, monkeypatch):
    """The requests as powerpc spells them: asm/ioctl.h has the direction in the top three bits there."""
    calls, open_now = [], set()
    monkeypatch.setattr(kernel_module.posix, "open", lambda path, flags: open_now.add(path) or 77)
    monkeypatch.setattr(kernel_module.posix, "close", lambda fd: (calls.append(("close", fd)), open_now.clear()))
    monkeypatch.setattr(fcntl, "ioctl", lambda *call: calls.append(call) or (0 if open_now else 1 / 0))
    kernel.stir(b"\xa5" * 32)
    assert calls == [
        (77, 0x80085203, struct.pack("=ii", 256, 32) + b"\xa5" * 32),
        (77, 0x20005207),
        ("close", 77),
    ]


def test_entropy_that_is_refused_is_an_error_and_leaves_nothing_open(kernel, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(PermissionError):
        kernel.stir(bytes(32))
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_the_clock_is_the_one_of_the_wall(kernel, monkeypatch):
    told = []
    monkeypatch.setattr(kernel_module.time, "clock_settime", lambda *call: told.append(call))
    kernel.set_clock(1234567890.25)
    assert told == [(time.CLOCK_REALTIME, 1234567890.25)]
    assert abs(kernel.clock() - time.time()) < 5


def test_random_numbers_are_the_kernels(kernel, monkeypatch):
    monkeypatch.setattr(kernel_module.posix, "urandom", lambda size: b"r" * size)
    assert kernel.draw(16) == b"r" * 16


def test_files_are_read_and_written_by_path(kernel, tmp_path):
    (tmp_path / "b").write_bytes(b"x" * 200_000)
    (tmp_path / "a").symlink_to("elsewhere")
    assert kernel.read_file(str(tmp_path / "b")) == b"x" * 200_000
    kernel.write_file(str(tmp_path / "b"), b"yy")
    assert (tmp_path / "b").read_bytes()[:3] == b"yyx"
    assert kernel.listdir(str(tmp_path)) == ["a", "b"]
    assert kernel.readlink(str(tmp_path / "a")) == "elsewhere"
    with pytest.raises(FileNotFoundError):
        kernel.write_file(str(tmp_path / "c"), b"")


def test_the_machine_is_described_as_uname_does(kernel):
    told = kernel.describe()
    uname = os.uname()
    assert (told["kernel"], told["version"], told["machine"]) == (uname.release, uname.version, uname.machine)
    assert told["page_size"] == PAGE
    assert isinstance(told["modules"], list)
    assert told.keys() == {"kernel", "version", "machine", "python", "page_size", "cmdline", "modules"}


def test_a_kernel_without_modules_has_none(kernel, monkeypatch):
    read_file = kernel.read_file

    def without(path):
        if path == "/proc/modules":
            raise FileNotFoundError(path)
        return read_file(path)

    monkeypatch.setattr(kernel, "read_file", without)
    assert kernel.describe()["modules"] == []


def test_the_modules_are_named(kernel, monkeypatch):
    lines = b"vfio_pci 20480 0 - Live 0x0\nvfio 65536 1 vfio_pci, Live 0x0\n"
    monkeypatch.setattr(kernel, "read_file", lambda path: lines if path == "/proc/modules" else b"console=hvc0\n")
    assert kernel.describe()["modules"] == ["vfio_pci", "vfio"]
    assert kernel.describe()["cmdline"] == "console=hvc0"


def test_an_errno_that_python_does_not_know_keeps_its_number():
    assert kernel_module.errno_name(1) == "EPERM"
    assert kernel_module.errno_name(524) == "errno 524"
