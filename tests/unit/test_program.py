"""Programs, topologies and limits are checked before anything runs; what is wrong is said in one line."""

import json

import pytest

from tcelab.errors import UsageError
from tcelab.program import Buffer, Checkpoint, Ioctl, Page, Program, Read, from_json, load
from tcelab.qemu.limits import Limits, limits
from tcelab.run import stretches
from tcelab.topology import SPARE, Device, Phb, Topology, topology

PROGRAM = Program(
    name="p",
    topology=topology("two-pe"),
    ops=[
        Buffer(name="b", pages=4),
        Ioctl(file="c", request="MAP_DMA", fields={"vaddr": Page("b", 1), "size": 4096}, expect="ok"),
        Checkpoint(stream=True),
        Read(what="pins"),
    ],
    seed=3,
)


def test_a_program_comes_back_from_its_json():
    assert from_json(PROGRAM.to_json(), "here") == PROGRAM


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.update(format=2), "format 2"),
        (lambda p: p.update(colour="red"), "colour"),
        (lambda p: p["ops"][0].update(op="explode"), "explode"),
        (lambda p: p["ops"][1].update(flie="c"), r"flie.*ops"),
        (lambda p: p["topology"]["phbs"][0].update(index=0), "PHB indexes"),
        (lambda p: p["topology"]["phbs"][0].update(window_size=12345), "power of two"),
    ],
)
def test_a_wrong_program_is_refused_with_the_place(change, said):
    data = json.loads(PROGRAM.to_json())
    change(data)
    with pytest.raises(UsageError, match=said) as caught:
        from_json(json.dumps(data).encode(), "p.json")
    assert caught.value.message.startswith("p.json")
    assert "\n" not in caught.value.message


def test_a_file_that_is_no_program(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("hello")
    with pytest.raises(UsageError, match=r"x\.json is not a program"):
        load(path)
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none.json")


def test_operations_between_two_host_operations_are_one_request():
    parts = list(stretches(PROGRAM.ops))
    assert [(number, len(part) if isinstance(part, list) else part) for number, part in parts] == [
        (0, 2),
        (2, Checkpoint(stream=True)),
        (3, 1),
    ]


def test_the_channels_phb_cannot_be_put_under_test():
    with pytest.raises(ValueError, match="PHB indexes"):
        Topology("bad", (Phb(0, (Device("pe0", 0),)),))


def test_names_of_devices_are_distinct_also_between_phbs():
    with pytest.raises(ValueError, match="device names must be distinct"):
        Topology("bad", (Phb(1, (Device("pe", 1),)), Phb(2, (Device("pe", 2),))))


def test_no_device_under_test_is_called_as_the_spare_one():
    with pytest.raises(ValueError, match="device names must be distinct"):
        Topology("bad", (Phb(1, (Device("spare", 1),)),))


def test_phbs_are_those_that_qemu_can_place():
    Topology("far", (Phb(29),))
    for indexes in ([30], [31], [-1], [4, 4]):
        with pytest.raises(ValueError, match=r"within 1\.\.29"):
            Topology("bad", tuple(Phb(index) for index in indexes))


def test_every_machine_has_one_spare_pe_whether_or_not_a_program_uses_it():
    spare = Phb(30, (Device("spare", 30),), 16 << 20)
    under_test = Phb(1, (Device("pe1", 1),))
    assert spare == SPARE
    for phbs in ((under_test,), (under_test, SPARE), (SPARE, under_test)):
        each = Topology("any", phbs)
        assert each.added == (under_test, spare)
        assert [phb.index for phb in each.machine] == [0, 1, 30]
    assert Topology("any", (under_test,)).devices == under_test.devices


@pytest.mark.parametrize("wrong", [Phb(30, (Device("spare", 30),)), Phb(30, (Device("mine", 30),), 16 << 20)])
def test_the_spare_pe_cannot_be_made_another(wrong):
    with pytest.raises(ValueError, match="PHB indexes"):
        Topology("bad", (wrong,))


def test_an_unknown_topology_names_those_that_exist():
    with pytest.raises(UsageError, match="one-pe, two-pe"):
        topology("ring")


def test_limits_are_changed_by_name():
    assert limits(["boot=12.5", "close=1"]) == Limits(boot=12.5, close=1.0)


@pytest.mark.parametrize("change", ["boot", "boot=", "boot=-1", "boot=0", "boot=nan", "boot=inf", "lunch=3"])
def test_a_limit_that_cannot_be_is_refused(change):
    with pytest.raises(UsageError):
        limits([change])


@pytest.mark.parametrize("name", ["", "a,b=c", "1st", "channel", "agent", "x" * 32, "pe 1"])
def test_a_name_that_qemu_would_take_for_something_else_is_no_device(name):
    with pytest.raises(ValueError, match="not a name for a device"):
        Topology("bad", (Phb(1, (Device(name, 1),)),))


def test_a_spare_pe_that_a_program_lists_is_not_made_twice():
    whole = Topology("whole", (Phb(1), SPARE))
    assert [phb.index for phb in whole.machine] == [0, 1, 30]
