"""Guest RAM: what of it can be read, as what, and whether the host has room for it."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from tcelab.errors import HarnessError, Unsupported
from tcelab.qemu import ram
from tcelab.qemu.ram import HEADROOM, MIB, PrivateRam, SharedRam

SIZE = 4 * MIB


def only(ram_, address):
    """One page, which is all that was asked for."""
    (page,) = ram_.pages({address}).values()
    return page


@pytest.fixture
def guest(monkeypatch):
    monkeypatch.setattr(ram, "available", lambda: SIZE + HEADROOM)
    with closing(SharedRam(SIZE)) as made:
        yield made


def test_what_qemu_writes_through_the_descriptor_is_read_here(guest):
    os.pwrite(guest.fd, b"written", 0x5003)
    assert guest.read(0x5003, 7) == b"written"
    assert os.fstat(guest.fd).st_size == guest.size == SIZE


@pytest.mark.parametrize(
    ("address", "size", "there"),
    [(0, 1, True), (SIZE - 1, 1, True), (SIZE - 1, 2, False), (SIZE, 1, False), (-1, 1, False), (1 << 60, 8, False)],
)
def test_only_what_lies_wholly_in_ram_is_read(guest, address, size, there):
    got = guest.read(address, size)
    assert (got == bytes(size)) if there else got is None


def test_a_page_that_repeats_its_first_64_bytes_is_those_bytes(guest):
    os.pwrite(guest.fd, bytes(range(64)) * 64, 0x1000)
    os.pwrite(guest.fd, bytes(range(64)) * 63 + b"stray" + bytes(59), 0x2000)
    assert only(guest, 0x1000) == bytes(range(64))
    assert only(guest, 0x2000) == bytes(range(64)) * 63 + b"stray" + bytes(59)


def test_a_page_that_is_not_wholly_in_ram_is_none(guest):
    assert only(guest, SIZE - 4096) == bytes(64)
    assert only(guest, SIZE - 4095) is None
    assert only(guest, SIZE) is None


def test_qemus_own_need_is_counted_when_there_is_no_room(monkeypatch):
    monkeypatch.setattr(ram, "available", lambda: SIZE + HEADROOM - 1)
    with pytest.raises(Unsupported, match=r"4 MiB \(and 128 MiB for QEMU\) wanted, 131 MiB available") as caught:
        SharedRam(SIZE)
    assert "--memory" in caught.value.next_step


def test_the_descriptor_is_not_inherited_by_chance(guest):
    assert os.get_inheritable(guest.fd) is False


def test_after_closing_nothing_of_it_is_left(monkeypatch):
    monkeypatch.setattr(ram, "available", lambda: 1 << 40)
    made = SharedRam(SIZE)
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.fd)


# -- a fork's

MAPPER = """
import mmap, os, sys
path, offset, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
file = os.open(path, os.O_RDONLY)
ram = mmap.mmap(file, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
print("mapped", flush=True)
for line in sys.stdin:
    at, text = line.split()
    ram[int(at) - offset : int(at) - offset + len(text)] = text.encode()
    print("written", flush=True)
"""


class Mapper:
    """A process that has a file mapped copy-on-write, as QEMU has a base's RAM."""

    def __init__(self, path, *, offset=0, size=SIZE):
        command = [sys.executable, "-S", "-E", "-c", MAPPER, str(path), str(offset), str(size)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "mapped\n"

    def write(self, at, text):
        self.process.stdin.write(f"{at} {text}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "written\n"

    def end(self):
        with self.process:  # closes its ends; it ends by that
            pass


@pytest.fixture
def mapper():
    """Makes such processes; they end with the test."""
    made = []

    def make(*arguments, **more):
        made.append(Mapper(*arguments, **more))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def base(tmp_path):
    """The RAM file of a base in a folder with a space in its name, as a descriptor that can only read."""
    path = tmp_path / "my cache" / "ram"
    path.parent.mkdir()
    path.write_bytes(b"as saved".ljust(SIZE, b"\0"))
    path.chmod(0o400)
    descriptor = os.open(path, os.O_RDONLY)
    yield SimpleNamespace(path=path, fd=descriptor)
    os.close(descriptor)


@pytest.fixture
def mapped(base, mapper, request):
    """A process that maps the base's file, and the RAM as seen there."""
    made = mapper(base.path, **getattr(request, "param", {}))
    with closing(PrivateRam(base.fd, SIZE)) as fork:
        fork.attach(made.process.pid)
        yield SimpleNamespace(ram=fork, process=made, base=base)


def test_a_forks_ram_is_read_as_it_is_in_the_process_that_has_it_and_not_as_it_is_in_the_file(mapped):
    assert mapped.ram.read(0, 8) == b"as saved"
    mapped.process.write(3, "CHANGED")
    mapped.process.write(SIZE - 4, "last")
    assert mapped.ram.read(0, 12) == b"as CHANGED\0\0"
    assert mapped.ram.read(SIZE - 4, 4) == b"last"
    assert os.pread(mapped.base.fd, 8, 0) == b"as saved"


def test_two_forks_of_one_base_have_each_their_own(mapped, base, mapper):
    other = mapper(base.path)
    with closing(PrivateRam(base.fd, SIZE)) as fork:
        fork.attach(other.process.pid)
        other.write(0, "other")
        mapped.process.write(0, "first")
        assert (fork.read(0, 5), mapped.ram.read(0, 5)) == (b"other", b"first")


@pytest.mark.parametrize("mapped", [{"offset": 1 << 20, "size": 1 << 20}], indirect=True)
def test_a_mapping_that_begins_amidst_the_file_is_read_at_the_right_place(mapped):
    mapped.process.write((1 << 20) + 0x123, "here")
    assert mapped.ram.read((1 << 20) + 0x123, 4) == b"here"


@pytest.mark.parametrize(
    ("address", "size", "there"),
    [(0, 1, True), (SIZE - 1, 1, True), (SIZE - 1, 2, False), (SIZE, 1, False), (-1, 1, False), (1 << 60, 8, False)],
)
def test_only_what_lies_wholly_in_a_forks_ram_is_read(mapped, address, size, there):
    got = mapped.ram.read(address, size)
    assert len(got) == size if there else got is None


def test_a_forks_pages_are_told_as_a_booted_guests_are(mapped):
    mapped.process.write(0x1000, "z" * 4096)
    mapped.process.write(0x2000, "z" * 4095 + "y")
    assert only(mapped.ram, 0x1000) == b"z" * 64
    assert only(mapped.ram, 0x2000) == b"z" * 4095 + b"y"
    assert only(mapped.ram, SIZE - 4095) is None


def test_a_base_that_was_removed_meanwhile_is_still_found(base, mapper):
    process = mapper(base.path)
    base.path.unlink()
    with closing(PrivateRam(base.fd, SIZE)) as fork:
        fork.attach(process.process.pid)
        assert fork.read(0, 8) == b"as saved"


def test_a_process_that_has_not_mapped_the_file_is_no_fork(base, tmp_path, mapper):
    (tmp_path / "ram").write_bytes(bytes(SIZE))
    other = mapper(tmp_path / "ram")
    with (
        closing(PrivateRam(base.fd, SIZE)) as fork,
        pytest.raises(HarnessError, match="QEMU has not mapped the base's RAM file"),
    ):
        fork.attach(other.process.pid)


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_that_ended_before_it_could_be_looked_at_is_no_fork(base, mapper, reaped):
    process = mapper(base.path)
    process.process.kill()
    os.waitid(os.P_PID, process.process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    process.process.returncode = -9 if reaped else None
    with closing(PrivateRam(base.fd, SIZE)) as fork, pytest.raises(HarnessError, match="QEMU has"):
        fork.attach(process.process.pid)


def test_a_process_that_has_ended_has_no_ram_any_more(mapped):
    mapped.process.end()
    with pytest.raises(HarnessError, match="QEMU has ended, and guest RAM with it"):
        mapped.ram.read(0, 8)
    with pytest.raises(HarnessError, match="QEMU has ended, and guest RAM with it"):
        only(mapped.ram, 0)


def test_many_pages_are_read_together_and_none_is_mistaken_for_another(mapped):
    addresses = [SIZE, *range(0, SIZE, 4096), SIZE - 1]
    for number in (1, 2, 511, 512, 1023):
        mapped.process.write(number * 4096, f"page-{number}")
    pages = mapped.ram.pages(addresses)
    assert list(pages) == addresses
    assert len(addresses) > 1024  # more than one call takes
    assert [address for address, page in pages.items() if page is None] == [SIZE, SIZE - 1]
    assert pages == {address: only(mapped.ram, address) for address in addresses}
    for number in (1, 2, 511, 512, 1023):
        assert pages[number * 4096].startswith(f"page-{number}\0".encode())


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_where_the_quick_way_is_forbidden_the_other_one_reads_the_same(mapped, monkeypatch, number):
    addresses = range(0, 0x4000, 4096)
    quick = mapped.ram.pages(addresses)

    def forbidden(*_):
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(mapped.ram._memory, "_call", forbidden)
    assert mapped.ram.pages(addresses) == quick
    monkeypatch.setattr(mapped.ram._memory, "_call", None)  # it is not tried again
    assert mapped.ram.pages(addresses) == quick


def test_what_is_not_mapped_is_an_error_and_no_page_of_zeros(mapped):
    mapped.ram._at += 1 << 40
    with pytest.raises(HarnessError, match="cannot read guest RAM"):
        mapped.ram.pages([0])


def test_a_fork_closes_what_it_opened_and_nothing_else(mapped, base):
    memory = mapped.ram._memory._fd
    assert os.get_inheritable(memory) is False
    mapped.ram.close()
    mapped.ram.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory)
    os.fstat(base.fd)


def test_a_fork_needs_room_for_what_it_writes_and_not_for_all_of_its_ram(monkeypatch, base):
    monkeypatch.setattr(ram, "available", lambda: 100 * MIB + HEADROOM)
    PrivateRam(base.fd, 512 * MIB)
    PrivateRam(base.fd, 4 * MIB)
    monkeypatch.setattr(ram, "available", lambda: 100 * MIB + HEADROOM - 1)
    with pytest.raises(Unsupported, match=r"100 MiB \(and 128 MiB for QEMU\) wanted, 227 MiB available"):
        PrivateRam(base.fd, 512 * MIB)
    PrivateRam(base.fd, 4 * MIB)


GROUP = {"memory.max": "1000000000\n", "memory.current": "900000000\n", "memory.stat": "anon 5\ninactive_file 7\n"}


@pytest.fixture
def host(monkeypatch):
    """A host with 2 GB available; files of its memory control group as given."""

    def made(group):
        files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2000000 kB\nSwapFree: 3 kB\n"}
        files |= {f"/sys/fs/cgroup/{name}": text for name, text in group.items()}

        def read_text(path):
            if str(path) not in files:
                raise FileNotFoundError(str(path))
            return files[str(path)]

        monkeypatch.setattr(Path, "read_text", read_text)
        return ram.available()

    return made


def test_without_a_control_group_the_hosts_memory_counts(host):
    assert host({}) == 2_000_000 * 1024


def test_a_control_group_without_a_limit_limits_nothing(host):
    assert host(GROUP | {"memory.max": "max\n"}) == 2_000_000 * 1024


def test_a_control_groups_limit_counts_and_its_page_cache_is_given_back(host):
    stat = "anon 800000000\ninactive_file 30000000\nactive_file 20000000\n"
    assert host(GROUP | {"memory.stat": stat}) == 100_000_000 + 50_000_000
    assert host(GROUP | {"memory.stat": "anon 800000000\n"}) == 100_000_000


def test_a_limit_above_what_the_host_has_is_no_room(host):
    assert host(GROUP | {"memory.max": "99000000000\n"}) == 2_000_000 * 1024
