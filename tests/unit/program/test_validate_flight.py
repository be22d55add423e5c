"""Which device may be in flight over which event."""

import pytest
from msgspec import structs
from refusedprogram import refusal

from tcelab.program import BridgeRemove, Crash, DeviceRemove, Flight, Load, Reset, Save
from tcelab.program.topology import Device, Phb, Topology, topology

HOT = topology("hotplug")
DISK = Topology("disk", (Phb(1, (Device("disk1", 1, model="virtio-blk"),), 1 << 24),))
PE1 = Flight(device="pe1", iova=0x20000, size=64, to_memory=True)


def said(*ops, where=HOT):
    return refusal(where, ops)


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([Reset(flight=structs.replace(PE1, device="nobody"))], "the topology has no device 'nobody'"),
        ([Reset(flight=structs.replace(PE1, device="hot1"))], "device 'hot1' is not there"),
        ([Reset(flight=structs.replace(PE1, iova=1 << 64))], "a bus address has 64 bits, and"),
        ([Reset(flight=structs.replace(PE1, size=4001))], "a transfer of 4001 bytes at 0 leaves the 4000 bytes"),
        ([Reset(flight=structs.replace(PE1, offset=-1))], "a transfer of 64 bytes at -1 leaves"),
        ([DeviceRemove(device="pe2", flight=PE1)], "'pe1' does not go by it"),
        ([BridgeRemove(phb=2, flight=PE1)], "'pe1' does not go by it"),
        (
            [DeviceRemove(device="pe1", consent=False), Reset(flight=PE1)],
            "a reset takes 'pe1' away, which was to go",
        ),
        ([BridgeRemove(phb=1, consent=False), Reset(flight=PE1)], "a reset takes 'pe1' away, which was to go"),
        ([DeviceRemove(device="pe1", consent="drmgr", flight=PE1)], "drmgr gives a device back by itself"),
        ([Save(), Save(flight=PE1)], "the guest was saved and stands still"),
    ],
)
def test_a_flight_that_cannot_be_is_refused_before_anything_runs(ops, why):
    assert why in said(*ops)


def test_only_an_edu_is_in_flight():
    aloft = structs.replace(PE1, device="disk1")
    assert "disk1 is a virtio-blk: only an edu is in flight over an event" in said(Reset(flight=aloft), where=DISK)


def test_under_a_crash_kernel_no_device_that_may_go_is_in_flight():
    where = structs.replace(HOT, crashkernel=topology("two-small-kdump").crashkernel)
    gone = DeviceRemove(device="pe1", consent=False, flight=PE1)
    assert "under a crash kernel" in said(Crash(), gone, where=where)
    assert said(Crash(flight=PE1), Reset(flight=PE1), gone, where=where) == ""


@pytest.mark.parametrize("event", [Reset(), DeviceRemove(device="pe1"), BridgeRemove(phb=1)])
def test_a_flight_that_can_be_is_taken(event):
    assert said(structs.replace(event, flight=PE1)) == ""
    assert said(Save(flight=PE1), Load()) == ""
