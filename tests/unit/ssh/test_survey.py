"""What the machine has: which devices are used, and which are left alone."""

import msgspec
import pytest

from tcelab.errors import Unsupported, UsageError
from tcelab.papr import window
from tcelab.program.topology import topology
from tcelab.ssh.choice import SshChoice
from tcelab.ssh.survey import Found, Survey, expect_able, place

GIB = 1 << 30
TWO = topology("two-pe")


def found(number, **more):
    """A device as a guest of ours has it."""
    fields = {
        "address": f"{number:04x}:00:{number:02x}.0",
        "id": "1234:11e8",
        "driver": "",
        "group": number,
        "others": {},
        "buid": window.buid(number),
        "slot": number,
        "window": (window.liobn(number), 0, GIB),
    }
    return Found(**{**fields, **more})


def survey(*devices, **more):
    fields = {"uid": 0, "ram": 512 << 20, "vfio": "", "vfio_pci": True, "log": True, "pins": True}
    return Survey(**{**fields, **more}, devices=list(devices))


OTHER = found(7, address="0007:01:00.0", buid=0x800000020000015, slot=0, id="15b3:1019", window=(0x7001, 0, GIB))


def placed(*devices, said=(), on=TWO):
    return place(survey(*devices), on, SshChoice(host="lpar7", devices=said))


def test_devices_are_those_at_the_places_of_a_guest_of_ours():
    one, two = placed(OTHER, found(1), found(2))
    assert (one.device.name, one.found.address) == ("pe1", "0001:00:01.0")
    assert (two.device.name, two.found.address) == ("pe2", "0002:00:02.0")
    assert one.same
    assert not one.unlike


def test_named_devices_are_taken_in_order_or_by_name():
    said = ("0002:00:02.0", "0007:01:00.0")
    assert [each.found.address for each in placed(OTHER, found(2), said=said)] == list(said)
    by_name = ("pe2=0002:00:02.0", "pe1=0007:01:00.0")
    one, two = placed(OTHER, found(2), said=by_name)
    assert (one.found, two.found) == (OTHER, found(2))
    assert not one.same
    assert one.unlike


@pytest.mark.parametrize(
    "said",
    [
        ("0001:00:01.0",),
        ("0001:00:01.0", "0001:00:01.0"),
        ("0001:00:01.0", "0002:00:02.0", "0007:01:00.0"),
        ("pe1=0001:00:01.0", "pe9=0002:00:02.0"),
    ],
)
def test_one_address_is_needed_for_each_device(said):
    with pytest.raises(UsageError, match="the devices pe1, pe2, one address is needed for each"):
        placed(found(1), found(2), OTHER, said=said)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (None, "has no device at slot 2 of PHB 0x800000020000002, which is to be pe2"),
        ({"driver": "nvme"}, "is driven by nvme: it is left alone"),
        ({"group": None}, "is in no IOMMU group"),
        ({"others": {"0002:00:03.0": "nvme"}}, r"other devices of IOMMU group 2 are in use (0002:00:03.0 by nvme)"),
        ({"window": None}, "has no default window"),
        ({"window": (1, 0, GIB >> 1)}, "has 0x20000000 bytes from 0x0 on, topology two-pe says 0x40000000 from 0x0 on"),
        ({"window": (1, GIB, GIB)}, "from 0x40000000 on, topology"),
        ({"group": 1}, "one IOMMU group for each PHB: pe1 in 1, pe2 in 1"),
    ],
)
def test_a_device_that_cannot_be_used_is_left_alone(second, told):
    devices = [found(1)] if second is None else [found(1), found(2, **second)]
    with pytest.raises(Unsupported) as refused:
        placed(*devices)
    assert told in refused.value.message
    assert refused.value.next_step


def test_a_device_that_vfio_has_already_is_used():
    assert placed(found(1, driver="vfio-pci"), found(2))[0].found.driver == "vfio-pci"


def test_two_devices_of_one_pe_are_in_one_group():
    pair = topology("pair")
    phb = pair.phbs[0]
    one = found(1, window=(phb.liobn, 0, phb.window_size))
    both = placed(one, msgspec.structs.replace(one, address="0001:00:02.0", slot=2), on=pair)
    assert len(both) == 2
    with pytest.raises(Unsupported, match="not grouped as the topology says"):
        placed(one, msgspec.structs.replace(one, address="0001:00:02.0", slot=2, group=9), on=pair)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"uid": 1000}, "is not root"),
        ({"vfio_pci": False}, "has no driver vfio-pci"),
        ({"vfio": "none"}, "does not know the IOMMU of sPAPR"),
        ({"vfio": "ENOENT"}, "cannot be opened: ENOENT"),
    ],
)
def test_a_machine_that_cannot_do_vfio_is_told_what_it_lacks(fields, told):
    with pytest.raises(Unsupported) as refused:
        expect_able(survey(**fields), "lpar7")
    assert told in refused.value.message
    assert refused.value.next_step


def test_a_machine_that_can_is_able():
    expect_able(survey(), "lpar7")
