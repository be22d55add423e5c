"""Guest RAM: what of it can be read, as what, and whether the host has room for it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tcelab.errors import Unsupported
from tcelab.qemu import ram
from tcelab.qemu.ram import HEADROOM, MIB, Ram

SIZE = 4 * MIB


@pytest.fixture
def guest(monkeypatch):
    monkeypatch.setattr(ram, "available", lambda: SIZE + HEADROOM)
    with closing(Ram(SIZE)) as made:
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
    assert guest.page(0x1000) == bytes(range(64))
    assert guest.page(0x2000) == bytes(range(64)) * 63 + b"stray" + bytes(59)


def test_a_page_that_is_not_wholly_in_ram_is_none(guest):
    assert guest.page(SIZE - 4096) == bytes(64)
    assert guest.page(SIZE - 4095) is None
    assert guest.page(SIZE) is None


def test_qemus_own_need_is_counted_when_there_is_no_room(monkeypatch):
    monkeypatch.setattr(ram, "available", lambda: SIZE + HEADROOM - 1)
    with pytest.raises(Unsupported, match=r"4 MiB \(and 128 MiB for QEMU\) wanted, 131 MiB available") as caught:
        Ram(SIZE)
    assert "--memory" in caught.value.next_step


def test_the_descriptor_is_not_inherited_by_chance(guest):
    assert os.get_inheritable(guest.fd) is False


def test_after_closing_nothing_of_it_is_left(monkeypatch):
    monkeypatch.setattr(ram, "available", lambda: 1 << 40)
    made = Ram(SIZE)
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.fd)


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
