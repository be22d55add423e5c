"""What hangs where: topologies by name, and those that cannot be."""

from __future__ import annotations

import pytest

from tcelab.errors import UsageError
from tcelab.program.topology import SMALL_WINDOW, TOPOLOGIES, Device, Phb, Topology, topology

FULL = (1 << 64) - 1


def of(*phbs):
    return Topology("t", phbs)


def alone(slot=1, name="pe1", **more):
    return Phb(1, (Device(name, slot, **more),))


def test_a_pe_may_have_two_devices():
    (phb,) = topology("pair").phbs
    assert [(device.name, device.slot, device.model) for device in phb.devices] == [
        ("pe1", 1, "edu"),
        ("pe1b", 2, "edu"),
    ]


def test_there_are_four_pes():
    assert [(phb.index, phb.devices[0].name, phb.window_size) for phb in topology("four-pe").phbs] == [
        (i, f"pe{i}", SMALL_WINDOW) for i in (1, 2, 3, 4)
    ]


def test_a_window_may_start_elsewhere_and_one_beside_it_at_0():
    high, low = topology("high-window").phbs
    assert (high.window_start, high.window_end, high.entries) == (0x40000000, 0x41000000, 4096)
    assert (low.window_start, low.window_end, low.entries) == (0, 0x1000000, 4096)


def test_a_device_may_say_narrow_addresses_and_one_beside_it_all():
    assert [device.mask for device in topology("narrow-mask").devices] == [0xFFFFFFF, FULL]


def test_a_topology_that_nobody_knows_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match=r"no topology 'moon'; there are: one-pe, .*high-window"):
        topology("moon")


@pytest.mark.parametrize("where", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_device_of_a_machine_has_a_slot_of_its_own(where):
    slots = [device.slot for phb in where.machine for device in phb.devices]
    assert len(set(slots)) == len(slots)
    assert slots[-1] == 30


@pytest.mark.parametrize(
    ("phbs", "why"),
    [
        ((Phb(1, (Device("a", 3), Device("b", 3))),), "devices 'a' and 'b' both have slot 3: slots must be distinct"),
        ((alone(3, "a"), Phb(2, (Device("b", 3),))), "devices 'a' and 'b' both have slot 3: .* over all PHBs"),
        ((alone(30),), "devices 'pe1' and 'spare' both have slot 30"),
        ((alone(32),), "device 'pe1' has slot 32: slots are within 0..31"),
        ((alone(31),), "devices 'channel' and 'pe1' both have slot 31"),
        ((alone(-1),), "device 'pe1' has slot -1"),
        ((alone(mask=1 << 64),), "device 'pe1' cannot have the mask 0x10000000000000000"),
        ((alone(mask=-1),), "device 'pe1' cannot have the mask"),
        ((alone(model="virtio-blk", mask=0xFFF),), "device 'pe1' cannot have the mask 0xfff"),
        ((Phb(1, (), 3 << 12),), "window_size of PHB 1 must be a power of two"),
        ((Phb(1, (), 1 << 11),), "window_size of PHB 1 must be a power of two"),
        ((Phb(1, (), 1 << 24, 1 << 23),), "window_start of PHB 1 must be a multiple of its window_size below 4 GiB"),
        ((Phb(1, (), 1 << 24, 1 << 32),), "window_start of PHB 1 must be .* below 4 GiB: 0x100000000"),
        ((Phb(1, (), 1 << 24, -(1 << 24)),), "window_start of PHB 1 must be"),
        ((Phb(1), Phb(1)), "PHB indexes must be distinct"),
        ((alone(name="ram"),), "not a name for a device: 'ram'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(phbs, why):
    with pytest.raises(ValueError, match=why):
        of(*phbs)


@pytest.mark.parametrize(
    "phb", [Phb(1, (), 1 << 24, (1 << 32) - (1 << 24)), Phb(1, (), 1 << 32), alone(0), alone(29), alone(mask=0)]
)
def test_what_can_be_is_taken(phb):
    assert of(phb).phbs == (phb,)


def _probed(count, *others, size=16 << 20, **changes):
    probes = [Device(f"p{slot}", slot, "probe", **changes) for slot in range(1, count + 1)]
    return Topology("p", (Phb(1, (*probes, *others), size),))


@pytest.mark.parametrize(
    ("count", "others", "changes"),
    [(1, (), {}), (3, (), {}), (2, (Device("e", 9),), {}), (2, (), {"plugged": False}), (2, (), {"size": 32 << 20})],
    ids=["one", "three", "beside an edu", "to be plugged in", "a large window"],
)
def test_probes_are_two_on_a_phb_of_their_own_with_a_small_window(count, others, changes):
    with pytest.raises(ValueError, match="PHB 1"):
        _probed(count, *others, **changes)


def test_two_probes_on_a_phb_are_right():
    assert _probed(2).models == {"probe"}
