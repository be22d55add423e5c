"""The machine for the kernel's own drivers: no program can have it, and it reaches nothing beyond the guest."""

import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_guest import abilities
from imagetoy import read_cpio

from tcelab.errors import Unsupported, UsageError
from tcelab.image import cpio, modules
from tcelab.image.recipe import load
from tcelab.leakcheck import drivers, trace
from tcelab.leakcheck.dmaapi import PORT
from tcelab.program import Program, diskcontent
from tcelab.program.topology import DRIVERS, KERNEL_DRIVERS, TOPOLOGIES, Device, topology
from tcelab.program.validate import validate
from tcelab.qemu import machine
from tcelab.qemu.disks import Disks
from tcelab.qemu.dmaapilog import DmaApi
from tcelab.qemu.driven import DrivenGuest
from tcelab.qemu.log import Log
from tcelab.run.record import Refusal, Snapshot

FDS = machine.Descriptors(11, 17, 12, 13, 14, 15, 16, disks={"disk1": 19}, dma_api=20)


def words(where=DRIVERS):
    return machine.arguments(machine.QemuOptions(Path("/k"), Path("/i"), where), abilities(), FDS)


def after(option, where=DRIVERS):
    return [value for word, value in pairwise(words(where)) if word == option]


def test_each_device_has_a_pe_of_its_own_and_the_kernel_a_driver_for_all_but_the_edu():
    assert [(phb.index, [device.model for device in phb.devices]) for phb in DRIVERS.phbs] == [
        (1, ["disk"]),
        (2, ["e1000"]),
        (3, ["edu"]),
    ]
    assert [device.name for device in DRIVERS.driven] == ["disk1", "net1"]
    # No program drives them there either: that of `memory` is for the window that its driver has.
    assert {name for name, each in TOPOLOGIES.items() if each.driven} == {"memory"}


def test_no_program_can_drive_them():
    assert "drivers" not in TOPOLOGIES
    with pytest.raises(UsageError, match=r"device 'disk1' \(disk\) is for the kernel's own driver"):
        validate(Program(name="p", topology=DRIVERS, seed=0, ops=[]))


def test_the_disk_does_dma_through_its_table():
    (device,) = [each for each in after("-device") if each.startswith("virtio-blk-pci")]
    assert {"iommu_platform=on", "disable-legacy=on", "bus=phb1.0", "addr=0x1"} <= set(device.split(","))


def test_the_network_reaches_nothing_and_nothing_listens():
    assert after("-netdev") == ["user,id=net-2-2,restrict=on,ipv6=off"]
    (device,) = [each for each in after("-device") if each.startswith("e1000")]
    assert {"netdev=net-2-2", "bus=phb2.0", "romfile="} <= set(device.split(","))


def test_no_window_is_made_that_maps_all_of_ram_once_and_for_ever():
    (append,) = after("-append")
    assert "disable_ddw" in append.split()


def test_the_trace_tells_the_time_only_on_that_machine():
    assert after("-msg") == ["timestamp=on"]
    assert after("-msg", topology("two-pe")) == after("-netdev", topology("two-pe")) == []


def test_what_drivers_ask_for_has_a_port_on_that_machine_alone():
    assert "file,id=dma-api,path=/proc/self/fd/20" in after("-chardev")
    assert [each for each in after("-device") if "chardev=dma-api" in each and f"name={PORT}" in each]
    assert not [each for each in words(topology("two-pe")) if "dma-api" in each]
    assert 20 in FDS.all()


def test_what_the_kernel_tells_is_read_once_and_given_back_to_the_host():
    heard = DmaApi()
    writer = os.open(f"/proc/self/fd/{heard.file}", os.O_WRONLY)
    for piece in (b"a" * (3 << 20), b"", b"line\n"):
        os.write(writer, piece)
        assert heard.read() == piece
    assert os.fstat(heard.file).st_blocks * 512 <= 8192
    os.close(writer)
    heard.close()


@pytest.mark.parametrize(
    ("line", "given_up"),
    [
        ("2026-11-29T22:10:46.442629Z qemu-system-ppc64: virtio: bogus descriptor or out of resources", True),
        ("qemu-system-ppc64: Guest says index 9 > queue size 8 is available", True),
        ("qemu-system-ppc64: warning: host doesn't support requested feature", False),
        ("qemu-system-ppc64: terminating on signal 15 from pid 1", False),
    ],
)
def test_a_device_that_qemu_gave_up_is_told_with_what_was_refused(tmp_path, line, given_up):
    refused = Refusal("read", 0x9000, 4, "Invalid read at addr 0x9000")
    log = SimpleNamespace(drain=lambda: None, take_refusals=lambda: (refused,))
    (tmp_path / "qemu.err").write_text(f"{line}\n")
    guest = DrivenGuest.__new__(DrivenGuest)
    guest._session = SimpleNamespace(guest=SimpleNamespace(log=log), folder=tmp_path)
    assert guest.last_words() == (refused.line, *[line] * given_up)


def test_a_look_finds_the_guest_at_a_stand_from_the_first_cut_to_the_last_table():
    did = []

    async def note(what):
        did.append(what)

    stand = SimpleNamespace(begin=lambda: note("stop"), end=lambda: note("cont"))
    seen = Snapshot((), {}, {}, ())
    guest = DrivenGuest.__new__(DrivenGuest)
    guest._session = SimpleNamespace(
        guest=SimpleNamespace(standstill=stand, log=SimpleNamespace(drain=lambda: did.append("drain"))),
        intervene=lambda op, _: did.append(type(op).__name__) or seen,
    )
    assert guest.look(lambda: did.append("cut")) is seen
    assert did == ["stop", "drain", "cut", "Checkpoint", "cont"]


def test_its_disk_is_64_mib_and_begins_with_known_data():
    disks = Disks(DRIVERS)
    assert disks.read() == {"disk1": diskcontent.fresh("disk1")}
    assert os.fstat(disks.files["disk1"]).st_size == 64 << 20
    disks.close()


def test_carried_modules_lie_beside_those_that_are_loaded_and_are_not_in_the_load_order(tmp_path):
    with (tmp_path / "a.cpio").open("wb") as stream:
        cpio.write_archive(stream, modules.entries({"vfio": b"v"}, {"vfio": b"v", "e1000": b"e"}))
    members = read_cpio((tmp_path / "a.cpio").read_bytes())
    assert members["lib/modules-tcelab/e1000.ko"].data == b"e"
    assert members["lib/modules-tcelab/vfio.ko"].data == b"v"
    assert members["etc/tcelab-modules"].data == b"/lib/modules-tcelab/vfio.ko\n"


def test_a_qemu_without_such_a_disk_is_said_before_it_starts():
    with pytest.raises(Unsupported, match="has no virtio-blk-pci, and topology drivers has one"):
        machine.check(abilities(virtio_blk=False), DRIVERS)


def test_the_guests_image_carries_each_driver_and_loads_none():
    recipe = load("guest").recipe
    assert set(KERNEL_DRIVERS.values()) <= set(recipe.drivers)
    assert not set(recipe.drivers) & set(recipe.modules)


@pytest.mark.parametrize("model", ["disk", "e1000"])
def test_a_driver_is_loaded_and_bound_by_the_slot_of_its_device(model):
    typed = drivers.bind(Device("x", slot=26, model=model))
    assert "/sys/bus/pci/devices/*:00:1a.0" in typed
    assert "/lib/modules-tcelab/" + {"disk": "virtio_blk", "e1000": "e1000"}[model] + ".ko" in typed
    assert "/sys/bus/pci/devices/*:00:1a.0" in drivers.unbind(Device("x", slot=26, model=model))


def test_lines_about_tables_are_heard_as_well_as_followed(tmp_path):
    reader, writer = os.pipe()
    log = Log(reader, tmp_path / "log")
    heard = []
    log.tables_listener = heard.append
    os.write(writer, b"spapr_iommu_new_table liobn=0x80000100 table=0x5000 fd=-1\nsomething else\n")
    log.drain()
    os.close(writer)
    log.close()
    assert [trace.parse(line) for line in heard] == [trace.NewTable(0x80000100)]
    assert log.tables.at == {0x80000100: 0x5000}


@pytest.mark.parametrize("stamp", ["", "2026-11-24T03:10:41.132529Z "])
def test_refused_accesses_are_seen_whether_or_not_qemu_tells_the_time(tmp_path, stamp):
    reader, writer = os.pipe()
    log = Log(reader, tmp_path / "log")
    os.write(writer, f"{stamp}Invalid write at addr 0x9000, size 4, region '(null)', reason: rejected\n".encode())
    log.drain()
    os.close(writer)
    (refusal,) = log.take_refusals()
    log.close()
    assert (refusal.direction, refusal.address, refusal.size) == ("write", 0x9000, 4)


def test_ram_that_the_kernel_was_told_of_ends_below_the_hosts_own():
    (append,) = after("-append")
    (told,) = [word for word in append.split() if word.startswith("mem=")]
    assert machine.usable(512 << 20) == int(told.removeprefix("mem=").removesuffix("M")) << 20
