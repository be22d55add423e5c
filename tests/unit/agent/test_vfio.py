"""Binding a device to vfio-pci, and finding its regions."""

import sys

import pytest
from agent_fake import FakeKernel, with_edu

from tceagent import errors, vfio

BUID = 0x800000020000001


def test_bind_reports_address_group_and_window_of_the_device_tree():
    kernel = FakeKernel()
    with_edu(kernel, BUID, slot=3)
    assert vfio.bind(kernel, BUID, 3) == {
        "address": "0001:00:03.0",
        "group": 1,
        "liobn": 0x80000100,
        "window_start": 0,
        "window_size": 0x40000000,
        "buid": BUID,
    }


def test_the_window_property_is_five_big_endian_cells():
    kernel = FakeKernel()
    with_edu(kernel, BUID)
    kernel.files["/sys/firmware/devicetree/base/pci@800000020000001/ibm,dma-window"] = bytes.fromhex(
        "80000101 08000000 00010000 00000002 10000000"
    )
    bound = vfio.bind(kernel, BUID, 1)
    assert (bound["liobn"], bound["window_start"], bound["window_size"]) == (
        0x80000101,
        0x0800000000010000,
        0x210000000,
    )


def test_bind_names_the_driver_before_it_probes():
    kernel = FakeKernel()
    with_edu(kernel, BUID)
    vfio.bind(kernel, BUID, 1)
    assert kernel.did("write") == [
        ("write", "/sys/bus/pci/devices/0001:00:01.0/driver_override", b"vfio-pci"),
        ("write", "/sys/bus/pci/drivers_probe", b"0001:00:01.0"),
    ]


def test_another_driver_is_unbound_first():
    kernel = FakeKernel()
    with_edu(kernel, BUID, driver="pcieport")
    vfio.bind(kernel, BUID, 1)
    assert kernel.did("write")[0] == ("write", "/sys/bus/pci/devices/0001:00:01.0/driver/unbind", b"0001:00:01.0")


def test_a_device_that_vfio_pci_has_already_is_left_alone():
    kernel = FakeKernel()
    with_edu(kernel, BUID, driver="vfio-pci")
    vfio.bind(kernel, BUID, 1)
    assert kernel.did("write") == []


def test_the_device_is_told_from_others_by_phb_and_slot():
    kernel = FakeKernel()
    for buid, slot in ((BUID - 1, 1), (BUID, 1), (BUID, 2), (BUID + 1, 2)):
        with_edu(kernel, buid, slot)
    assert vfio.find(kernel, BUID, 2) == "0001:00:02.0"
    assert vfio.find(kernel, BUID + 1, 2) == "0002:00:02.0"
    with pytest.raises(LookupError, match=r"no device at slot 1 of PHB 0x800000020000002; there are: .*0000:00:01.0"):
        vfio.find(kernel, BUID + 1, 1)


def test_a_device_without_a_node_is_found_by_its_bus():
    kernel = FakeKernel()
    with_edu(kernel, BUID)
    node = kernel.links.pop("/sys/bus/pci/devices/0001:00:01.0/of_node")
    kernel.links["/sys/class/pci_bus/0001:00/of_node"] = node.rpartition("/")[0]
    assert vfio.find(kernel, BUID, 1) == "0001:00:01.0"


def test_a_probe_that_vfio_pci_declines_is_the_outcome():
    """The write that asks for it succeeds all the same; that the device has no driver is the kernel's refusal."""
    kernel = FakeKernel()
    with_edu(kernel, BUID)
    kernel.on_write.clear()
    with pytest.raises(errors.RefusedError) as caught:
        vfio.bind(kernel, BUID, 1)
    assert caught.value.errno == "ENODEV"


def test_a_window_that_is_taken_already_is_said():
    kernel = FakeKernel()
    with_edu(kernel, BUID)
    kernel.files.clear()
    with pytest.raises(LookupError, match="somebody owns it already"):
        vfio.bind(kernel, BUID, 1)


def test_a_refused_write_is_the_outcome():
    kernel = FakeKernel()
    with_edu(kernel, BUID)
    kernel.refused["/sys/bus/pci/drivers_probe"] = "EINVAL"
    with pytest.raises(errors.RefusedError) as caught:
        vfio.bind(kernel, BUID, 1)
    assert caught.value.errno == "EINVAL"


def test_a_region_is_asked_for_by_its_index():
    kernel = FakeKernel()
    reply = b"".join(
        value.to_bytes(size, sys.byteorder) for value, size in ((32, 4), (7, 4), (7, 4), (0, 4), (256, 8), (7 << 40, 8))
    )
    kernel.answers[0x20003B6C] = (0, "", reply)
    assert vfio.region(kernel, 5, 7) == (7 << 40, 256)
    ((_, fd, request, asked),) = kernel.did("ioctl")
    assert (fd, request, asked[8:12]) == (5, 0x20003B6C, (7).to_bytes(4, sys.byteorder))


def test_a_region_of_what_is_no_device_is_refused():
    kernel = FakeKernel()
    kernel.answers[0x20003B6C] = (None, "ENOTTY", b"")
    with pytest.raises(errors.RefusedError) as caught:
        vfio.region(kernel, 5, 7)
    assert caught.value.errno == "ENOTTY"
