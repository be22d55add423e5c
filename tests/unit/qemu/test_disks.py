"""The disks of a guest: what QEMU is told of them, and what is on them."""

from __future__ import annotations

import os
import shlex

import msgspec
import pytest
from fake_guest import abilities
from qemuline import FDS, FORK, devices, line, options, values

from tcelab.errors import Unsupported
from tcelab.program import diskcontent
from tcelab.program.topology import topology
from tcelab.qemu import machine
from tcelab.qemu.disks import Disks

WITH = {"roms": {"edu": 19, "virtio-blk": 20}, "disks": {"disk1": 21}}
FAST = msgspec.structs.replace(FDS, **WITH)


def test_a_disk_is_a_file_that_qemu_inherits_behind_a_device_that_asks_the_table():
    words = line("fast", fds=FAST)
    assert values(words, "-blockdev") == ["driver=file,node-name=disk-1-3,filename=/proc/self/fd/21,locking=off"]
    assert devices(words, "virtio-blk-pci") == [
        {
            "id": "disk1",
            "bus": "phb1.0",
            "addr": "0x3",
            "drive": "disk-1-3",
            "romfile": "/proc/self/fd/20",
            "iommu_platform": "on",
            "disable-legacy": "on",
            "num-queues": "1",
            "ioeventfd": "off",
        }
    ]
    assert [device["id"] for device in devices(words, "edu")] == ["pe1", "pe2", "spare"]
    assert {19, 20, 21} <= set(FAST.all())


def test_a_file_is_there_before_the_device_that_has_it():
    words = line("fast", fds=FAST)
    assert words.index("-blockdev") < next(i for i, word in enumerate(words) if word.startswith("virtio-blk-pci"))


def test_the_registers_of_a_disk_lie_where_a_rom_can_be():
    by_index = {each["index"]: each for each in devices(line("fast", fds=FAST), "spapr-pci-host-bridge")}
    assert {index: each.get("mem64_win_size") for index, each in by_index.items()} == {"1": "0", "2": None, "30": None}


@pytest.mark.parametrize(("where", "there"), [("fast", True), ("two-pe", False), ("pair", False)])
def test_only_where_there_is_a_disk_the_kernel_makes_no_window_of_its_own(where, there):
    (append,) = values(line(where, fds=FAST, append="quiet"), "-append")
    words = shlex.split(append)
    assert ("disable_ddw" in words) is ("pci=resource_alignment=16@pci:1af4:1042" in words) is there
    assert words[-1] == "quiet"


def test_a_fork_has_its_disk_as_well():
    fds = msgspec.structs.replace(FORK, **WITH)
    assert values(line("fast", fds=fds), "-blockdev") == values(line("fast", fds=FAST), "-blockdev")


def test_a_qemu_without_disks_cannot_have_one():
    can = msgspec.structs.replace(abilities(), virtio_blk=False)
    with pytest.raises(Unsupported, match="has no virtio-blk-pci, and topology fast has one"):
        machine.check(can, topology("fast"))
    machine.check(can, topology("pair"))
    machine.check(msgspec.structs.replace(can, virtio_blk=True), options("fast").topology)


@pytest.fixture
def disks():
    made = Disks(topology("fast"))
    yield made
    made.close()


def test_each_begins_with_its_data(disks):
    assert disks.read() == {"disk1": diskcontent.fresh("disk1")}


def test_what_is_written_by_another_is_read(disks):
    other = os.open(f"/proc/self/fd/{disks.files['disk1']}", os.O_RDWR)
    os.pwrite(other, b"written", 4096)
    os.close(other)
    assert disks.read()["disk1"][4096:4103] == b"written"
    disks.renew()
    assert disks.read() == {"disk1": diskcontent.fresh("disk1")}


def test_what_is_as_it_was_is_not_copied_again(disks):
    first = disks.read()["disk1"]
    assert disks.read()["disk1"] is first
    os.pwrite(disks.files["disk1"], b"w", (1 << 20) - 1)
    second = disks.read()["disk1"]
    assert (second[:-1], second[-1:], first[-1:]) == (first[:-1], b"w", diskcontent.fresh("disk1")[-1:])


def test_two_guests_have_two(disks):
    second = Disks(topology("fast"))
    os.pwrite(second.files["disk1"], b"written", 0)
    assert disks.read() == {"disk1": diskcontent.fresh("disk1")}
    second.close()


def test_nothing_is_left_of_them():
    made = Disks(topology("fast"))
    (file,) = made.files.values()
    made.close()
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_where_there_is_no_disk_there_is_none():
    assert Disks(topology("two-pe")).read() == {}
