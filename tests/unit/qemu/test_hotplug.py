"""Hot plug: what QEMU is asked for is what its command line would have had; what goes is forgotten."""

import pytest
from fake_guest import abilities
from qemuline import FDS, devices, line, options

from tcelab.errors import Unsupported
from tcelab.papr.window import Shape
from tcelab.program import BridgeRemove, Checkpoint, DeviceAdd, DeviceRemove, Program
from tcelab.program.topology import Device, Phb, Topology, topology
from tcelab.qemu import devicewords, machine
from tcelab.qemu.channel import Hello
from tcelab.qemu.life import mtree
from tcelab.qemu.probe import Qemu
from tcelab.qemu.sessionfacts import facts
from tcelab.qemu.tableaddresses import TableAddresses
from tcelab.run.guestfits import require

WHERE = topology("hotplug")
PHB = Phb(7, (Device("d", 4, mask=0xFFF), Device("v", 6, model="virtio-blk")), 1 << 20, window_start=1 << 20)
MAP = """memory-region: pci@800000020000005.iommu-root\r
  0000000000000000-ffffffffffffffff (prio 0, i/o): pci@800000020000005.iommu-root\r
    0000000000000000-ffffffffffffffff (prio 0, i/o): tce-root-80000501\r
      0800000000000000-080000003fffffff (prio 0, i/o): tce-iommu-80000501\r
    0000000000000000-ffffffffffffffff (prio 0, i/o): tce-root-80000500\r
      0000000000000000-0000000000ffffff (prio 0, i/o): tce-iommu-80000500\r
    0000000000000000-ffffffffffffffff (prio 0, i/o): tce-root-80000601\r
"""
BOTH = {0x80000500: Shape(4096), 0x80000501: Shape(1 << 18, start=1 << 59)}


@pytest.mark.parametrize("op", [DeviceAdd(device="hot1"), BridgeRemove(phb=1)])
def test_a_guest_that_cannot_is_refused_with_the_reason_before_anything_runs(op):
    """By its handshake alone."""
    lacks = "the guest's kernel has no rpaphp, and the image does not carry it"
    parts = Qemu(argv=("q",), name="q"), abilities(), options(WHERE), None
    program = Program(name="p", topology=WHERE, ops=[Checkpoint(), op])

    def required(hotplug):
        hello = Hello(1, "", 0, 4096, 0, "", "", "", "", "", [], 0.0, "", hotplug=hotplug)
        require(program, facts(parts, 1 << 28, bytes(16), hello))

    required("")
    with pytest.raises(Unsupported) as refused:
        required(lacks)
    assert refused.value.message == f"operation 1 ({type(op).__name__.lower()}) is impossible here: {lacks}"


def test_an_image_without_the_program_is_refused_before_anything_runs():
    parts = Qemu(argv=("q",), name="q"), abilities(), options(WHERE), None
    ops = [DeviceAdd(device="hot1", consent=True), DeviceRemove(device="hot1", consent="drmgr")]

    def required(*helpers):
        hello = Hello(1, "", 0, 4096, 0, "", "", "", "", "", [], 0.0, "", hotplug="", helpers=[*helpers])
        require(Program(name="p", topology=WHERE, ops=ops), facts(parts, 1 << 28, bytes(16), hello))

    required("drmgr")
    with pytest.raises(Unsupported) as refused:
        required("rtas_errd")
    assert refused.value.message == (
        "operation 1 (deviceremove) is impossible here: the image has no drmgr, as guest-drmgr has"
    )


def test_what_is_not_plugged_in_at_the_start_is_not_on_the_command_line():
    words = line(WHERE)
    assert [each["id"] for each in devices(words, "edu")] == ["pe1", "pe2", "spare"]
    assert [each["id"] for each in devices(words, "spapr-pci-host-bridge")] == ["phb1", "phb2", "phb30"]


@pytest.mark.parametrize("index", [None, 0, 1])
def test_what_is_plugged_in_is_as_it_would_be_on_the_command_line(index):
    device = None if index is None else PHB.devices[index]
    asked = devicewords.plugging(PHB, device, FDS)
    kind = asked.pop("driver")
    (there,) = [each for each in devices(line(Topology("t", (PHB,))), kind) if each["id"] == asked["id"]]
    assert {name: devicewords.typed(name, text) for name, text in there.items()} == asked
    # QEMU takes a number that is written as one, and no text for it.
    typed = {None: ("dma_win_addr", 1 << 20), 0: ("dma_mask", 0xFFF), 1: ("num-queues", 1)}[index]
    assert asked[typed[0]] == typed[1]
    assert {None: ("ddw", True), 0: ("addr", "0x4"), 1: ("ioeventfd", False)}[index] in asked.items()


def test_the_disk_behind_a_device_is_there_from_the_start():
    phb = Phb(1, (Device("v", 6, model="virtio-blk", plugged=False),), 1 << 20)
    words = machine.arguments(options(Topology("t", (phb,))), abilities(), FDS)
    assert "-blockdev" in words
    assert devices(words, "virtio-blk-pci") == []


def test_the_tables_of_a_phb_that_is_gone_are_forgotten():
    tables = TableAddresses()
    for liobn in (0x80000500, 0x80000501, 0x80000600):
        tables.line(f"spapr_iommu_new_table liobn=0x{liobn:x} table=0x7f0000000000 fd=-1")
    tables.shapes[0x80000501] = Shape(4)
    tables.unplugged(5)
    assert (tables.at, tables.shapes) == ({0x80000600: 0x7F0000000000}, {})


def test_the_memory_map_tells_the_windows():
    assert mtree.windows(MAP) == {0x80000500: (0, 0xFFFFFF), 0x80000501: (1 << 59, (1 << 59) + 0x3FFFFFFF)}
    assert mtree.difference(mtree.windows(MAP), BOTH) == ""
    # A window whose shape nobody told is there, which is all that can be said.
    assert mtree.difference(mtree.windows(MAP), {**BOTH, 0x80000500: None}) == ""


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            {**BOTH, 0x80000300: Shape(4096)},
            "LIOBN 0x80000300 has a table by the trace, and no window in the memory map",
        ),
        ({0x80000500: Shape(4096)}, "LIOBN 0x80000501 has a window in the memory map, and no table by the trace"),
        (
            {**BOTH, 0x80000500: Shape(2048)},
            "LIOBN 0x80000500 has 2048 entries of 2^12 bytes from 0x0 on by the trace, and 0x0..0xffffff in the memory",
        ),
    ],
)
def test_a_difference_between_trace_and_memory_map_is_told(told, says):
    assert mtree.difference(mtree.windows(MAP), told).startswith(says)
