"""What is plugged in as events go by, and which of them a program may ask for."""

import pytest
from refusedprogram import refusal

from tcelab.program import (
    Bind,
    BridgeAdd,
    BridgeRemove,
    Close,
    Ddw,
    DeviceAdd,
    DeviceRemove,
    Flip,
    Fresh,
    Open,
    Reset,
    Rtas,
    Spawn,
)
from tcelab.program.plugged import Plugged
from tcelab.program.topology import Device, Phb, Topology, topology

WHERE = topology("hotplug")
DISK = Topology("disk", (Phb(1, (Device("disk1", 1, model="virtio-blk"),), 1 << 24),))
USED = Bind(device="pe3"), Open(file="g", path="/dev/vfio/$pe3")
IN_USE = "the group of device 'pe3' is in use: close its files first, and let other processes exit"
MIXED = "rtas_errd takes whatever comes and leaves whatever is to go: all hot plug of a kernel is its own, or none"
OLD = (Bind(device="pe1"),)
NUMBERED = Open(file="g", path="/dev/vfio/7")


def said(*ops, where=WHERE):
    return refusal(where, ops)


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([DeviceAdd(device="nobody")], "the topology has no device 'nobody'"),
        ([DeviceAdd(device="pe1")], "device 'pe1' is there already"),
        ([DeviceAdd(device="pe3")], 'PHB 3 is not there: add a `bridgeadd` with "phb": 3'),
        ([DeviceRemove(device="hot1")], 'device \'hot1\' is not there: add a `deviceadd` with "device": "hot1"'),
        ([BridgeAdd(phb=9)], "the topology has no PHB 9"),
        ([BridgeAdd(phb=0)], "the topology has no PHB 0"),
        ([BridgeAdd(phb=1)], "PHB 1 is there already"),
        ([BridgeRemove(phb=3)], "PHB 3 is not there"),
        ([BridgeAdd(phb=3, consent=False), BridgeRemove(phb=3)], "PHB 3 was offered, and the guest has not taken it"),
        ([Bind(device="hot1")], 'device \'hot1\' is not there: add a `deviceadd` with "device": "hot1"'),
        ([Rtas(call="ibm,configure-pe", device="pe3")], "device 'pe3' is not there: add a `deviceadd`"),
        ([Ddw(call="query", device="pe3")], "device 'pe3' is not there"),
        ([Flip(liobn=0x80000300, ioba=0)], "LIOBN 0x80000300 has no bit 12 of an entry for IOBA 0x0"),
        (
            [DeviceAdd(device="hot1", consent=False), Bind(device="hot1")],
            "device 'hot1' was offered, and the guest has not taken it",
        ),
        ([DeviceRemove(device="pe1", consent=False)] * 2, "device 'pe1' is to go already"),
        ([BridgeAdd(phb=3), *USED, BridgeRemove(phb=3)], IN_USE),
        ([BridgeAdd(phb=3), *USED, DeviceRemove(device="pe3")], IN_USE),
        ([BridgeAdd(phb=3), Bind(device="pe3"), Spawn(process="c"), BridgeRemove(phb=3)], IN_USE),
        # Whose group that is nobody knows before the guest runs.
        ([BridgeAdd(phb=3), NUMBERED, BridgeRemove(phb=3)], IN_USE),
        (
            [
                Bind(device="pe1"),
                DeviceRemove(device="pe1"),
                DeviceAdd(device="pe1"),
                Open(file="g", path="/dev/vfio/$pe1"),
            ],
            '$pe1 names a device that was not bound before: add a `bind` with "device": "pe1"',
        ),
        ([DeviceRemove(device="pe1", consent=False), Reset(), Bind(device="pe1")], "device 'pe1' is not there"),
        ([DeviceAdd(device="hot1"), Fresh(), Bind(device="hot1")], "device 'hot1' is not there"),
        ([DeviceAdd(device="hot1", consent="rtas_errd"), DeviceRemove(device="hot1")], MIXED),
        ([BridgeAdd(phb=3, consent="drmgr"), BridgeRemove(phb=3, consent="rtas_errd")], MIXED),
        ([BridgeAdd(phb=3, consent=False), BridgeAdd(phb=3, consent="rtas_errd")], MIXED),
    ],
)
def test_what_cannot_be_is_refused(ops, why):
    assert said(*ops).startswith(why)


@pytest.mark.parametrize(
    "ops",
    [
        [DeviceAdd(device="hot1", consent=False), DeviceAdd(device="hot1"), Bind(device="hot1")],
        [BridgeAdd(phb=3), *USED, Close(file="g"), BridgeRemove(phb=3), BridgeAdd(phb=3), *USED],
        [BridgeAdd(phb=3), *USED, BridgeRemove(phb=3, consent=False), Close(file="g"), BridgeRemove(phb=3)],
        # The core's own file holds no group.
        [Open(file="c", path="/dev/vfio/vfio"), DeviceRemove(device="pe1")],
        # Hypercalls and lies reach a table from the moment that QEMU has its PHB.
        [BridgeAdd(phb=3, consent=False), Flip(liobn=0x80000300, ioba=0)],
        [DeviceAdd(device="hot1", consent=False), Reset(), Bind(device="hot1")],
        [BridgeRemove(phb=1), BridgeAdd(phb=1), Bind(device="pe1"), DeviceAdd(device="hot1")],
        # drmgr is a tool like any other; the daemon goes with its kernel.
        [
            DeviceAdd(device="hot1", consent=False),
            DeviceAdd(device="hot1", consent="drmgr"),
            DeviceRemove(device="pe1"),
        ],
        [DeviceAdd(device="hot1", consent="rtas_errd"), Reset(), DeviceRemove(device="hot1", consent="drmgr")],
        [DeviceRemove(device="pe1"), Fresh(), DeviceRemove(device="pe1", consent="rtas_errd")],
    ],
)
def test_what_can_be_is_not(ops):
    assert said(*ops) == ""


def test_a_disk_stays_where_it_is():
    only = "disk1 is a virtio-blk: only an edu comes and goes"
    assert said(DeviceRemove(device="disk1"), where=DISK) == only
    assert said(BridgeRemove(phb=1), where=DISK) == only


def test_a_phb_comes_with_the_devices_that_are_said_to_and_goes_with_all():
    plugged = Plugged(WHERE)
    assert (plugged.devices, plugged.phbs) == ({"pe1", "pe2"}, {1, 2})
    for op in (DeviceAdd(device="hot1"), BridgeRemove(phb=1), BridgeAdd(phb=1), BridgeAdd(phb=3)):
        plugged.happened(op)
    assert (plugged.devices, plugged.phbs) == ({"pe1", "pe2", "pe3"}, {1, 2, 3})


def test_a_reset_ends_what_was_begun():
    plugged = Plugged(WHERE)
    for op in (
        DeviceAdd(device="hot1", consent=False),
        BridgeAdd(phb=3, consent=False),
        DeviceRemove(device="pe1", consent=False),
        BridgeRemove(phb=2, consent=False),
    ):
        plugged.happened(op)
    assert (plugged.devices, plugged.phbs) == ({"pe1", "pe2"}, {1, 2})
    assert plugged.there(3)
    plugged.reset()
    # A PHB that was offered comes by itself: nobody plugged its devices in.
    assert (plugged.devices, plugged.phbs) == ({"hot1"}, {1, 3})
    assert not plugged.offered | plugged.leaving
