"""The agent's real kernel, as far as any Linux host has what it asks for."""

import array
import fcntl
import mmap
import os
import posix
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from opened import opened

import tceagent
from patience import PATIENCE
from tceagent import errors, uapi
from tceagent import kernel as kernel_module
from tceagent.child import ChildError
from tceagent.kernel import LinuxKernel
from tceagent.registers import Registers

PAGE = mmap.PAGESIZE


@pytest.fixture
def kernel():
    made = LinuxKernel()
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


def mapping(address):
    """The permissions of the mapping at an address, as /proc/self/maps has them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{address:08x}-")]
    return line.split()[1]


def test_memory_that_is_protected_is_so_for_the_process_and_refused_before_it_would_be_a_signal(kernel):
    memory = kernel.allocate(2 * PAGE)
    memory.write(0, b"x")
    memory.protect("read")
    assert mapping(memory.address) == "r--p"
    assert memory.read(0, 1) == b"x"
    with pytest.raises(ValueError, match="its access is read"):
        memory.write(0, b"y")
    memory.protect("none")
    assert mapping(memory.address) == "---p"
    with pytest.raises(ValueError, match="its access is none"):
        memory.read(0, 1)
    memory.protect("write")
    memory.write(1, b"z")
    assert memory.read(0, 3) == b"xz\0"


def test_a_protection_that_the_kernel_refuses_changes_nothing(kernel):
    memory = kernel.allocate(PAGE)
    memory.address += 1
    with pytest.raises(OSError, match="mprotect to none") as caught:
        memory.protect("none")
    assert caught.value.errno == 22
    memory.write(0, b"x")
    with pytest.raises(KeyError):
        memory.protect("execute")


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


def test_memory_that_is_let_go_late_is_waited_for_once_a_container_was_of_type_v2(kernel, counters, monkeypatch):
    counters[0].write_bytes(b"nr_foll_pin_acquired 9\nnr_foll_pin_released 5\n")
    written = []
    monkeypatch.setattr(kernel, "write_file", lambda *given: written.append(given))
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: 0)
    for number in (2, 7):
        kernel.ioctl(3, uapi.NUMBERS["SET_IOMMU"], number)
        kernel.pins()
        assert len(written) == (number == 7)
    assert written == [("/sys/module/rcutree/parameters/do_rcu_barrier", b"1")]


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
    registers = kernel.map_registers(fd, PAGE, PAGE)
    registers.write32(0, 7)
    registers.close()
    assert opened(str(device)) == [str(device)]
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

    before = opened("/dev/urandom")
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(PermissionError):
        kernel.stir(bytes(32))
    assert opened("/dev/urandom") == before


def test_the_clock_is_the_one_of_the_wall(kernel, monkeypatch):
    told = []
    monkeypatch.setattr(kernel_module.time, "clock_settime", lambda *call: told.append(call))
    kernel.set_clock(1234567890.25)
    assert told == [(time.CLOCK_REALTIME, 1234567890.25)]
    before = time.time()
    assert before - 1 <= kernel.clock() <= time.time() + 1


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
    assert told.keys() >= {
        "kernel",
        "version",
        "machine",
        "python",
        "page_size",
        "huge",
        "kexec",
        "crashkernel",
        "cmdline",
        "modules",
    }


@pytest.mark.parametrize(
    ("there", "size"),
    [({"2048", "1048576"}, 2 << 20), ({"16384", "16777216"}, 16 << 20), ({"1048576"}, 0), (set(), 0)],
)
def test_a_kernel_says_how_large_its_huge_pages_are(kernel, monkeypatch, there, size):
    """With the radix MMU, with the hash MMU, with gigantic ones alone, with none."""
    read_file = kernel.read_file

    def reading(path):
        if "hugepages-" not in path:
            return read_file(path)
        if path.rpartition("hugepages-")[2].partition("kB/")[0] not in there:
            raise FileNotFoundError(path)
        return b"0"

    monkeypatch.setattr(kernel, "read_file", reading)
    assert kernel.describe()["huge"] == size


def test_a_kernel_without_modules_has_none(kernel, monkeypatch):
    read_file = kernel.read_file

    def without(path):
        if path == "/proc/modules":
            raise FileNotFoundError(path)
        return read_file(path)

    monkeypatch.setattr(kernel, "read_file", without)
    assert kernel.describe()["modules"] == []


@pytest.mark.parametrize(
    ("files", "kexec", "crashkernel"),
    [
        ({}, False, 0),
        ({"kexec_loaded": b"0\n"}, True, 0),
        ({"kexec_loaded": b"0\n", "kexec_crash_size": b"0\n"}, True, 0),
        ({"kexec_loaded": b"0\n", "kexec_crash_size": b"201326592\n"}, True, 201326592),
    ],
    ids=["built without", "no crash kernel", "none is kept", "kept"],
)
def test_a_kernel_says_whether_it_starts_others(kernel, monkeypatch, files, kexec, crashkernel):
    read_file = kernel.read_file

    def reading(path):
        if not path.startswith("/sys/kernel/kexec"):
            return read_file(path)
        if path.rpartition("/")[2] not in files:
            raise FileNotFoundError(path)
        return files[path.rpartition("/")[2]]

    monkeypatch.setattr(kernel, "read_file", reading)
    told = kernel.describe()
    assert (told["kexec"], told["crashkernel"]) == (kexec, crashkernel)


def test_the_modules_are_named(kernel, monkeypatch):
    lines = b"vfio_pci 20480 0 - Live 0x0\nvfio 65536 1 vfio_pci, Live 0x0\n"
    files = {"/proc/modules": lines, "/proc/cmdline": b"console=hvc0\n"}
    monkeypatch.setattr(kernel, "read_file", lambda path: files.get(path, b"0\n"))
    assert kernel.describe()["modules"] == ["vfio_pci", "vfio"]
    assert kernel.describe()["cmdline"] == "console=hvc0"


def test_an_errno_that_python_does_not_know_keeps_its_number():
    assert errors.errno_name(1) == "EPERM"
    assert errors.errno_name(524) == "errno 524"


# -- children


@pytest.fixture
def spawn(kernel):
    """Spawns a child that does what `do` does with its kernel and an operation; none outlives the test."""
    made = []

    def spawn_(do, uid=None, memlock=None):
        made.append(kernel.spawn(lambda own: lambda op: do(own, op), uid, memlock))
        return made[-1]

    yield spawn_
    for child in made:
        child.hang_up()
    for child in made:
        child._reap()
    assert [child._pid for child in made if not reaped(child._pid)] == []


def reaped(pid):
    """Asked by its number: the process that runs the tests may have other children, such as a guest's QEMU."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def pid_of(child):
    return child.ask({})["pid"]


def tell_pid(_kernel, _op):
    return {"pid": os.getpid()}


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_is_another_process_until_its_end(spawn):
    child = spawn(tell_pid)
    pid = pid_of(child)
    assert pid != os.getpid()
    assert pid_of(child) == pid
    assert not gone(pid)
    child.end()
    assert gone(pid)
    with pytest.raises(ChildError, match=f"process {pid} ended with status 0"):
        child.ask({})


def test_a_child_remembers_and_is_asked_in_order(spawn):
    seen = []
    child = spawn(lambda _kernel, op: seen.append(op["n"]) or {"seen": seen})
    assert [child.ask({"n": n})["seen"] for n in (5, 7)] == [[5], [5, 7]]
    assert seen == []


def test_a_childs_counters_are_its_own(kernel, spawn):
    def tell(own, _op):
        parts = [os.pread(own._status, 65536, 0).decode(), os.readlink(f"/proc/self/fd/{own._pagemap}")]  # noqa: PTH115
        return {"status": parts[0], "pagemap": parts[1], "pid": os.getpid(), "vmlck": own.vmlck()}

    told = spawn(tell).ask({})
    assert f"\nPid:\t{told['pid']}\n" in told["status"]
    assert told["pagemap"] == f"/proc/{told['pid']}/pagemap"
    assert told["vmlck"] == 0
    assert f"\nPid:\t{os.getpid()}\n" in os.pread(kernel._status, 65536, 0).decode()


@pytest.mark.parametrize("chooser", ["child", "parent"])
def test_memory_is_waited_for_whichever_process_chose_the_type(kernel, spawn, counters, monkeypatch, chooser):
    """A container is passed on like any file: one process sets its type, another registers memory with it."""
    counters[0].write_bytes(b"nr_foll_pin_acquired 9\nnr_foll_pin_released 5\n")
    written = []
    monkeypatch.setattr(LinuxKernel, "write_file", lambda _kernel, *given: written.append(given))
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: 0)

    def do(own, op):
        if op["choose"]:
            own.ioctl(3, uapi.NUMBERS["SET_IOMMU"], 7)
        return {"waited": len(written)} if op["choose"] else {"pins": own.pins(), "waited": len(written)}

    child = spawn(do)
    assert child.ask({"choose": False}) == {"pins": 4, "waited": 0}
    if chooser == "parent":
        kernel.ioctl(3, uapi.NUMBERS["SET_IOMMU"], 7)
    else:
        child.ask({"choose": True})
    assert child.ask({"choose": False})["waited"] == 1
    kernel.pins()
    assert len(written) == 1


def test_a_childs_limit_is_its_own(spawn):
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    child = spawn(lambda *_: {"limit": resource.getrlimit(resource.RLIMIT_MEMLOCK)}, memlock=64 << 10)
    assert child.ask({})["limit"] == [64 << 10, 64 << 10]
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes somebody else")
def test_a_child_that_becomes_another_user_has_no_groups_and_no_capabilities_and_still_sees_frames(spawn):
    def tell(own, _op):
        memory = own.allocate(PAGE)
        memory.write(0, b"x")
        effective = [line for line in os.pread(own._status, 65536, 0).decode().splitlines() if "CapEff" in line]
        return {
            "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
            "caps": int(effective[0].split()[1], 16),
            "frame": own.frames(memory.address, 1)[0],
        }

    def become(own, op):
        os.setgroups([4242])
        child = own.spawn(lambda inner: lambda op: tell(inner, op), 65534, None)
        try:
            return child.ask(op)
        finally:
            child.end()

    told = spawn(become).ask({})
    assert told["ids"] == [[65534] * 3, [65534] * 3, []]
    assert told["caps"] == 0
    assert told["frame"]


def test_a_child_has_nothing_at_the_addresses_of_the_agents_buffers(kernel, spawn):
    memory = kernel.allocate(PAGE)
    memory.write(0, b"x")

    def look(_own, _op):
        with Path("/proc/self/mem").open("rb", buffering=0) as own:
            try:
                return {"read": os.pread(own.fileno(), 1, memory.address).decode()}
            except OSError as error:
                return {"errno": error.errno}

    assert spawn(look).ask({}) == {"errno": 5}
    assert memory.read(0, 1) == b"x"


def test_a_child_has_no_part_in_registers_that_its_parent_has_mapped(kernel, spawn, tmp_path):
    device = tmp_path / "device"
    device.write_bytes(bytes(PAGE))
    fd = os.open(device, os.O_RDWR)
    kernel.map_registers(fd, 0, PAGE).close()
    registers = kernel.map_registers(fd, 0, PAGE)

    def look(_own, op):
        os.close(op["fd"])
        links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]  # noqa: PTH115
        return {"open": str(device) in links, "mapped": str(device) in Path("/proc/self/maps").read_text()}

    assert spawn(look).ask({"fd": fd}) == {"open": False, "mapped": False}
    registers.write32(0, 7)
    registers.close()
    os.close(fd)


def test_what_fails_in_a_child_is_told_with_its_traceback_and_the_child_goes_on(spawn):
    def fail(_own, op):
        return {"value": 10 // op["by"]}

    child = spawn(fail)
    with pytest.raises(ChildError, match=r"(?s)in process \d+:\nTraceback .* in fail\n.*ZeroDivisionError"):
        child.ask({"by": 0})
    with pytest.raises(ChildError, match="bytes is not JSON"):
        spawn(lambda *_: {"value": b"bytes"}).ask({})
    assert child.ask({"by": 5}) == {"value": 2}


def test_a_child_that_cannot_become_what_it_is_to_be_is_none(kernel):
    def serve(_own):
        raise RuntimeError("not like this")

    with pytest.raises(ChildError, match="RuntimeError: not like this") as caught:
        kernel.spawn(serve, None, None)
    assert reaped(int(re.search(r"in process (\d+)", str(caught.value))[1]))
    assert kernel._children == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by signal 9"),
        (lambda: sys.exit(3), "ended with status 1"),
        (lambda: os._exit(4), "ended with status 4"),
    ],
)
def test_a_child_that_died_is_told_each_time_with_how(spawn, how, said):
    child = spawn(lambda *_: how() or {})
    for call in (lambda: child.ask({}), lambda: child.ask({}), child.end):
        with pytest.raises(ChildError, match=rf"process \d+ {said}"):
            call()


def test_a_child_that_died_while_nobody_asked_is_told_at_its_end(spawn):
    child = spawn(tell_pid)
    os.kill(pid_of(child), signal.SIGKILL)
    with pytest.raises(ChildError, match="was killed by signal 9"):
        child.end()


def test_a_child_holds_no_other_childs_socket(spawn):
    """Else it would go on when the agent hangs up on it."""

    def sockets(_own, _op):
        links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]  # noqa: PTH115
        return {"sockets": sorted(link for link in links if link.startswith("socket:"))}

    first, second, third = (spawn(sockets).ask({})["sockets"] for _ in range(3))
    theirs = [set(each) - {*first} for each in (second, third)]
    assert [len(each) for each in theirs] == [1, 1]


def test_children_end_when_the_agent_does():
    script = """if True:
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from tceagent.kernel import LinuxKernel
        kernel = LinuxKernel()
        children = [kernel.spawn(lambda own: lambda op: {"pid": os.getpid()}, None, None) for _ in range(2)]
        print(*(child.ask({})["pid"] for child in children), flush=True)
        os.kill(os.getpid(), 9)
    """
    folder = str(Path(tceagent.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -9
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    limit = time.monotonic() + PATIENCE
    while not all(gone(pid) or zombie(pid) for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.01)


def zombie(pid):
    """Dead, and nobody has asked for it: where the tests run, the first process may reap none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
