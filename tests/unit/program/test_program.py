"""Programs, topologies and limits are checked before anything runs; what is wrong is said in one line."""

import json

import pytest

from tcelab.errors import UsageError
from tcelab.program import (
    Buffer,
    Burst,
    Call,
    Checkpoint,
    Ddw,
    Dma,
    Flip,
    Hcall,
    HcallBatch,
    Ioctl,
    Native,
    Page,
    Program,
    Read,
    Tce,
    Together,
    Transfer,
    from_json,
    load,
)
from tcelab.program.parts import stretches
from tcelab.program.topology import SPARE, Device, Phb, Topology, topology
from tcelab.qemu.limits import Limits, limits

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
        (lambda p: p["ops"][1].update(flie="c"), r"operation 1 \(ioctl\): .*`flie`$"),
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


def written(*ops, **more):
    """A program as a person writes it."""
    return from_json(json.dumps({"name": "x", "topology": "one-pe", "ops": ops, **more}).encode(), "p.json")


def test_a_number_may_be_a_hexadecimal_string_wherever_a_number_is_taken():
    program = written(
        {"op": "buffer", "name": "0x7", "pages": "0x2", "seed": "0xff"},
        {"op": "ioctl", "file": "c", "request": "0x20003b71", "fields": {"vaddr": {"buffer": "b", "index": "0x1"}}},
        {"op": "ioctl", "file": "c", "request": "MAP_DMA", "fields": {"iova": "0x1F000", "size": "0X1000"}},
        {"op": "ioctl", "file": "c", "request": "SET_IOMMU", "value": "0x2", "expect": "0x0"},
        {"op": "burst", "file": "d", "transfers": [["0x10", 4, True], [16, "0x4", False, "0x8"]]},
        {"op": "together", "ops": [{"op": "dma", "file": "d", "iova": "0x20", "size": 8, "to_memory": True}]},
        {"op": "hcall", "call": {"opcode": "0x20", "args": ["0x80000100", {"buffer": "b", "plus": "0x10"}]}},
        {"op": "hcallbatch", "calls": [{"opcode": "H_PUT_TCE_INDIRECT", "args": [], "tces": ["0xffffffffffffffff"]}]},
        {"op": "native", "program": "vfio_loop", "args": ["$pe1", "0x20"]},
        {"op": "ddw", "call": "create", "device": "pe1", "page_shift": "0xc", "window_shift": "0x1e"},
        {"op": "flip", "liobn": "0x80000100", "ioba": "0x1000", "bit": "0x1"},
        seed="0x10",
    )
    assert program.seed == 16
    assert program.ops == [
        Buffer(name="0x7", pages=2, seed=255),
        Ioctl(file="c", request=0x20003B71, fields={"vaddr": Page("b", 1)}),
        Ioctl(file="c", request="MAP_DMA", fields={"iova": 0x1F000, "size": 0x1000}),
        Ioctl(file="c", request="SET_IOMMU", value=2, expect=0),
        Burst(file="d", transfers=[Transfer(16, 4, to_memory=True), Transfer(16, 4, to_memory=False, offset=8)]),
        Together(ops=[Dma(file="d", iova=32, size=8, to_memory=True)]),
        Hcall(call=Call(opcode=32, args=[0x80000100, Tce("b", plus=16)])),
        HcallBatch(calls=[Call(opcode="H_PUT_TCE_INDIRECT", args=[], tces=[(1 << 64) - 1])]),
        Native(program="vfio_loop", args=["$pe1", 32]),
        Ddw(call="create", device="pe1", page_shift=12, window_shift=30),
        Flip(liobn=0x80000100, ioba=0x1000, bit=1),
    ]


def test_a_topology_may_be_named_and_its_numbers_be_hexadecimal():
    assert written().topology == topology("one-pe")
    mine = {"name": "m", "phbs": [{"index": "0x3", "window_size": "0x1000000", "window_start": "0x40000000"}]}
    assert written(topology=mine).topology == Topology("m", (Phb(3, (), 16 << 20, 1 << 30),))


@pytest.mark.parametrize(
    ("op", "said", "step"),
    [
        (
            {"op": "dma", "file": "d"},
            r"operation 1 \(dma\): .*`iova`",
            '"dma" needs "file", "iova", "size", "to_memory"',
        ),
        (
            {"op": "fill", "bufer": "b"},
            r"operation 1 \(fill\): .*`bufer`",
            'mean buffer? "fill" needs "buffer", "offset"',
        ),
        ({"op": "flush"}, "operation 1, field op: .*'flush'$", "operations are: spawn, exit, buffer, tag"),
        ({"op": "bufer"}, "operation 1, field op: ", "did you mean buffer? operations are: spawn, exit"),
        ({"op": ["dma"]}, "operation 1, field op: ", "operations are: spawn, exit"),
        ("dma", 'operation 1: "dma" is no object with a field "op"', "operations are: spawn, exit"),
        ({"name": "b", "pages": 4}, 'operation 1: it has no field "op"', "operations are: spawn, exit"),
        (
            {"op": "buffer", "name": "b", "pages": "0x1_0"},
            "field pages: Expected `int`, got `str`$",
            'as 4096 or as "0x1000"',
        ),
        ({"op": "buffer", "name": "b", "pages": "4k"}, "Expected `int`, got `str`", 'as 4096 or as "0x1000"'),
        ({"op": "open", "file": "0x10", "path": "/"}, "`file` is '0x10', which is a number", "see docs/operations.md"),
        ({"op": "ioctl", "file": "g", "request": "A", "into": "0x1"}, "`into` is '0x1'", "see docs/operations.md"),
    ],
)
def test_a_wrong_operation_is_named_with_what_it_takes(op, said, step):
    with pytest.raises(UsageError, match=said) as caught:
        written({"op": "checkpoint", "label": "0x0"}, op)
    assert step in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"ops": [{"op": "open", "file": "c", "path": "/", "path": "/x"}]', r'operation 0 \(open\) has "path" twice'),
        (
            '"ops": [{"op": "checkpoint"}, {"op": "put", "fields": {"iova": 0, "size": 1, "iova": "0x1000"}}]',
            r'operation 1 \(put\) has "iova" twice',
        ),
        ('"ops": [], "ops": []', 'it has "ops" twice'),
    ],
)
def test_a_key_that_is_there_twice_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        from_json(f'{{"name": "x", "topology": "one-pe", {text}}}'.encode(), "p.json")


def test_an_unknown_name_of_a_topology_names_those_that_exist():
    with pytest.raises(UsageError, match="no topology 'ring'; there are: one-pe"):
        written(topology="ring")


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
