"""The guest operations, each against a fake kernel."""

import ast
import inspect
import struct
import typing
from pathlib import Path

import msgspec
import pytest
from agent_fake import (
    FIRST_ADDRESS,
    FIRST_FD,
    FIRST_FRAME,
    FakeChild,
    FakeKernel,
    FakeMemory,
    FakeRegisters,
    with_edu,
)

from tceagent import ops, seam
from tceagent import tag as marks
from tceagent.child import LinuxChild
from tceagent.kernel import LinuxKernel, Memory
from tceagent.registers import Registers
from tceagent.state import State
from tcelab import program

NONCE = bytes(range(16))
BUID = 0x800000020000001
GUEST_OPS = typing.get_args(program.GuestOp)


@pytest.fixture
def kernel():
    return FakeKernel()


@pytest.fixture
def state(kernel):
    state = State(kernel)
    state.nonce = NONCE
    state.devices = {"pe1": (BUID, 1), "pe10": (BUID + 1, 2)}
    return state


def do(state, op, **fields):
    return ops.perform(state, {"op": op, **fields})


def opened(state, name="c", path="/dev/vfio/vfio"):
    return do(state, "open", file=name, path=path)["value"]


# -- the contract with tcelab.program


def test_there_is_a_handler_for_every_guest_operation_and_none_else():
    assert set(ops.HANDLERS) == {each.__struct_config__.tag for each in GUEST_OPS}


@pytest.mark.parametrize("struct_type", GUEST_OPS, ids=lambda each: each.__name__)
def test_a_handler_takes_the_fields_of_its_struct_with_their_defaults(struct_type):
    handler = ops.HANDLERS[struct_type.__struct_config__.tag]
    first, *parameters = inspect.signature(handler).parameters.values()
    # What is expected is the host's business, and by whom it is done that of whoever passes it on.
    fields = [field for field in msgspec.structs.fields(struct_type) if field.name not in {"expect", "by"}]
    assert first.name == "state"
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert [parameter.name for parameter in parameters] == [field.name for field in fields]
    for parameter, field in zip(parameters, fields, strict=True):
        if field.default_factory is not msgspec.NODEFAULT:
            assert not field.default_factory()
            assert parameter.default is None
        elif field.default is msgspec.NODEFAULT:
            assert parameter.default is inspect.Parameter.empty
        else:
            assert parameter.default == field.default


def test_what_msgspec_encodes_is_what_a_handler_takes(state, kernel):
    sent = program.Ioctl(file="c", request="UNMAP_DMA", fields={"iova": 4096, "size": 8192}, expect="ok")
    opened(state)
    assert ops.perform(state, msgspec.json.decode(msgspec.json.encode(sent)))["value"] == 0
    assert kernel.did("ioctl")[0][2] == 0x20003B72


def shape(each):
    """Public methods and what they take; properties and plain attributes take nothing."""
    methods = inspect.getmembers(each, inspect.isfunction)
    return {name: list(inspect.signature(it).parameters) for name, it in methods if not name.startswith("_")}


@pytest.mark.parametrize(
    ("protocol", "real", "fake"),
    [
        (seam.Kernel, LinuxKernel, FakeKernel),
        (seam.Memory, Memory, FakeMemory),
        (seam.Registers, Registers, FakeRegisters),
        (seam.Child, LinuxChild, FakeChild),
    ],
    ids=lambda each: each.__name__,
)
def test_the_real_kernel_and_the_fake_have_the_shape_of_the_seam(protocol, real, fake):
    asked = shape(protocol)
    assert asked
    assert {name: taken for name, taken in shape(fake).items() if name in asked} == asked
    assert {name: taken for name, taken in shape(real).items() if name in asked} == asked


def test_the_agent_asks_nothing_of_a_kernel_that_is_not_in_the_seam():
    """Whatever is called `kernel` somewhere in the agent, and what is asked of it there."""
    sources = Path(ops.__file__).parent
    asked = {
        node.attr
        for path in sources.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and getattr(node.value, "attr", getattr(node.value, "id", "")) in {"kernel", "_kernel"}
    }
    assert asked == {*shape(seam.Kernel), "page_size"}


# -- memory


def test_a_buffer_is_whole_cpu_pages_each_touched_once(state, kernel):
    kernel.page_size = 65536
    assert do(state, "buffer", name="b", pages=17, seed=1) == {"value": FIRST_ADDRESS}
    assert kernel.memories[0].size == 2 * 65536
    assert sorted(kernel.did("touch")) == [("touch", FIRST_ADDRESS, 1), ("touch", FIRST_ADDRESS + 65536, 1)]


def test_the_order_of_touching_is_the_seeds(state, kernel):
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 0)):
        kernel.calls.clear()
        base = do(state, "buffer", name=name, pages=32, seed=seed)["value"]
        orders.append([(address - base) // 4096 for _, address, _ in kernel.did("touch")])
        assert sorted(orders[-1]) == list(range(32))
        assert sum(after == before + 1 for before, after in zip(orders[-1], orders[-1][1:], strict=False)) < 8
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("pages", [0, -1])
def test_a_buffer_without_pages_is_an_error(state, pages):
    with pytest.raises(ValueError, match="at least one page"):
        do(state, "buffer", name="b", pages=pages)


def test_two_buffers_of_one_name_are_an_error(state, kernel):
    do(state, "buffer", name="b", pages=1)
    with pytest.raises(ValueError, match="a buffer 'b' already"):
        do(state, "buffer", name="b", pages=1)
    assert len(kernel.memories) == 1


def test_tag_fills_each_page_with_the_tag_of_its_own_ioba(state, kernel):
    do(state, "buffer", name="b", pages=4)
    assert do(state, "tag", buffer="b", first=1, count=2, liobn=0x80000100, ioba=0x5000, sequence=9) == {"value": 0}
    content = bytes(kernel.memories[0].content)
    assert content[:4096] == bytes(4096)
    assert content[4096:8192] == marks.tag(NONCE, 0x80000100, 0x5000, 9) * 64
    assert content[8192:12288] == marks.tag(NONCE, 0x80000100, 0x6000, 9) * 64
    assert content[12288:] == bytes(4096)


def test_fill_writes_the_seeds_data_at_its_offset(state, kernel):
    do(state, "buffer", name="b", pages=1)
    do(state, "fill", buffer="b", offset=100, size=200, seed=5)
    assert kernel.memories[0].content == bytes(100) + marks.data(NONCE, 5, 200) + bytes(4096 - 300)


@pytest.mark.parametrize(
    "op",
    [
        {"op": "fill", "buffer": "b", "offset": 4000, "size": 97, "seed": 1},
        {"op": "tag", "buffer": "b", "first": 1, "count": 1},
    ],
)
def test_nothing_is_written_past_a_buffers_end(state, op):
    do(state, "buffer", name="b", pages=1)
    with pytest.raises(ValueError, match=r"4000|4096"):
        ops.perform(state, op)


def test_nothing_is_marked_before_the_handshake(state):
    do(state, "buffer", name="b", pages=1)
    state.nonce = None
    with pytest.raises(RuntimeError, match="no nonce before the handshake"):
        do(state, "tag", buffer="b")


def test_frames_are_one_for_each_iommu_page_of_the_buffer_not_of_its_cpu_pages(state, kernel):
    kernel.page_size = 65536
    do(state, "buffer", name="b", pages=3)
    assert do(state, "frames", buffer="b")["frames"] == [FIRST_FRAME, FIRST_FRAME + 4096, FIRST_FRAME + 8192]


def test_a_missing_buffer_is_named(state):
    do(state, "buffer", name="b", pages=1)
    with pytest.raises(LookupError, match="no buffer 'x'; there are: b"):
        do(state, "frames", buffer="x")


@pytest.mark.parametrize("access", ["none", "read", "write"])
def test_a_whole_buffer_is_protected(state, kernel, access):
    do(state, "buffer", name="b", pages=2)
    assert do(state, "protect", buffer="b", access=access) == {"value": 0}
    assert kernel.did("protect") == [("protect", FIRST_ADDRESS, access)]


def test_a_refused_protection_is_an_outcome(state, kernel):
    do(state, "buffer", name="b", pages=1)
    kernel.refused["protect"] = "ENOMEM"
    assert do(state, "protect", buffer="b", access="read") == {"errno": "ENOMEM"}


def test_put_writes_a_requests_struct_with_its_words_resolved(state, kernel):
    do(state, "buffer", name="b", pages=1)
    do(state, "buffer", name="data", pages=4)
    fields = {"flags": 3, "vaddr": {"buffer": "data", "index": 1}, "iova": 0x10000, "size": 8192}
    assert do(state, "put", buffer="b", request="MAP_DMA", offset=40, fields=fields) == {"value": 0}
    raw = struct.pack("=IIQQQ", 32, 3, kernel.memories[1].address + 4096, 0x10000, 8192)
    assert kernel.memories[0].content == bytes(40) + raw + bytes(4096 - 72)


def test_put_leaves_out_what_is_at_its_default(state, kernel):
    do(state, "buffer", name="b", pages=1)
    do(state, "put", buffer="b", request="SPAPR_TCE_GET_INFO")
    assert kernel.memories[0].content[:16] == struct.pack("=4I", 16, 0, 0, 0)


# -- files


def test_open_puts_the_group_for_a_bound_device(state, kernel):
    with_edu(kernel, BUID, 1)
    with_edu(kernel, BUID + 1, 2)
    do(state, "bind", device="pe1")
    do(state, "bind", device="pe10")
    opened(state, "g", "/dev/vfio/$pe10")
    assert kernel.did("open") == [("open", "/dev/vfio/2")]


def test_open_of_an_unbound_devices_group_is_an_error(state, kernel):
    with pytest.raises(LookupError, match=r"\$pe1 names a device that is not bound"):
        opened(state, "g", "/dev/vfio/$pe1")
    assert kernel.calls == []


def test_a_refused_open_is_an_outcome_and_names_no_file(state, kernel):
    kernel.refused["/dev/vfio/1"] = "EBUSY"
    assert do(state, "open", file="g", path="/dev/vfio/1") == {"errno": "EBUSY"}
    assert state.files == {}


@pytest.mark.parametrize(
    "op", [{"op": "open", "path": "/x", "file": "c"}, {"op": "ioctl", "file": "c", "request": 1, "into": "c"}]
)
def test_a_name_in_use_is_refused_before_the_kernel_is_asked(state, kernel, op):
    opened(state, "c")
    kernel.calls.clear()
    with pytest.raises(ValueError, match="a file 'c' already"):
        ops.perform(state, op)
    assert kernel.calls == []


def test_close_unmaps_the_registers_first(state, kernel):
    fd = opened(state, "d")
    do(state, "dma", file="d", iova=0, size=1, to_memory=True)
    kernel.calls.clear()
    assert do(state, "close", file="d") == {"value": 0}
    assert kernel.calls == [("unmap",), ("close", fd)]
    assert state.files == {}


def test_bind_is_done_once(state, kernel):
    with_edu(kernel, BUID, 1)
    first = do(state, "bind", device="pe1")
    assert first["value"] == 0
    assert first["fields"]["address"] == "0001:00:01.0"
    kernel.files.clear()  # the kernel drops the window's property when somebody takes it
    assert do(state, "bind", device="pe1") == first


# -- ioctl


def test_map_dma_reaches_the_kernel_as_its_struct(state, kernel):
    do(state, "buffer", name="b", pages=8)
    fd = opened(state)
    page = {"buffer": "b", "index": 3, "plus": 5}
    do(state, "ioctl", file="c", request="MAP_DMA", fields={"flags": 3, "vaddr": page, "iova": 0x10000, "size": 8192})
    raw = struct.pack("=IIQQQ", 32, 3, FIRST_ADDRESS + 3 * 4096 + 5, 0x10000, 8192)
    assert kernel.did("ioctl") == [("ioctl", fd, 0x20003B71, raw)]


def test_a_map_that_succeeds_reports_its_frames_read_after_the_call(state, kernel):
    do(state, "buffer", name="b", pages=8)
    opened(state)
    fields = {"flags": 3, "vaddr": {"buffer": "b", "index": 2}, "size": 8192}
    outcome = do(state, "ioctl", file="c", request="MAP_DMA", fields=fields)
    assert outcome == {"value": 0, "frames": [FIRST_FRAME + 2 * 4096, FIRST_FRAME + 3 * 4096]}
    assert [call[0] for call in kernel.calls[-2:]] == ["ioctl", "frames"]


@pytest.mark.parametrize(
    ("answer", "outcome"), [((1, "", None), {"value": 1}), ((None, "EPERM", None), {"errno": "EPERM"})]
)
def test_a_map_that_does_not_reports_none(state, kernel, answer, outcome):
    kernel.answers[0x20003B71] = answer
    opened(state)
    assert do(state, "ioctl", file="c", request="MAP_DMA", fields={"size": 4096}) == outcome


def test_an_address_below_a_buffer_wraps_as_a_pointer_does(state, kernel):
    do(state, "buffer", name="b", pages=1)
    opened(state)
    fields = {"vaddr": {"buffer": "b", "plus": -FIRST_ADDRESS - 8}}
    do(state, "ioctl", file="c", request="SPAPR_REGISTER_MEMORY", fields=fields)
    assert struct.unpack("=IIQQ", kernel.did("ioctl")[0][3])[2] == (1 << 64) - 8


def test_a_files_name_becomes_its_descriptor(state, kernel):
    container, group = opened(state, "c"), opened(state, "g")
    do(state, "ioctl", file="g", request="GROUP_SET_CONTAINER", fields={"container": "c"})
    assert kernel.did("ioctl") == [("ioctl", group, 0x20003B68, struct.pack("=i", container))]


def test_a_descriptor_may_be_a_number_that_is_none(state, kernel):
    opened(state, "g")
    do(state, "ioctl", file="g", request="GROUP_SET_CONTAINER", fields={"container": -1})
    assert kernel.did("ioctl")[0][3] == b"\xff" * 4


@pytest.mark.parametrize(("name", "sent"), [("pe1", b"0001:00:01.0\0"), ("nobody", b"nobody\0")])
def test_a_devices_name_becomes_its_address_any_other_stays(state, kernel, name, sent):
    with_edu(kernel, BUID, 1)
    do(state, "bind", device="pe1")
    opened(state, "g")
    opened(state, "pe1")  # a file of the same name is another thing
    kernel.answers[0x20003B6A] = (77, "", None)
    assert do(state, "ioctl", file="g", request="GROUP_GET_DEVICE_FD", fields={"name": name}, into="d") == {"value": 77}
    assert kernel.did("ioctl")[0][3] == sent
    assert state.files["d"].fd == 77


def test_a_refused_descriptor_names_no_file(state, kernel):
    kernel.answers[0x20003B6A] = (None, "ENODEV", None)
    opened(state, "g")
    do(state, "ioctl", file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d")
    assert "d" not in state.files


def test_output_fields_are_reported(state, kernel):
    kernel.answers[0x20003B70] = (0, "", struct.pack("=4I", 16, 0, 0, 0x40000000))
    opened(state)
    assert do(state, "ioctl", file="c", request="SPAPR_TCE_GET_INFO")["fields"] == {
        "flags": 0,
        "dma32_window_start": 0,
        "dma32_window_size": 0x40000000,
    }


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"request": "SET_IOMMU", "value": 2}, (0x20003B66, 2)),
        ({"request": "ENABLE"}, (0x20003B73, 0)),
        ({"request": "MAP_DMA", "value": 0}, (0x20003B71, 0)),
        ({"request": 0x3B71}, (0x3B71, 0)),
        ({"request": 0x3B71, "value": 1 << 46}, (0x3B71, 1 << 46)),
    ],
)
def test_numbers_reach_the_kernel_as_they_are(state, kernel, fields, sent):
    opened(state)
    assert do(state, "ioctl", file="c", **fields) == {"value": 0}
    assert kernel.did("ioctl")[0][2:] == sent


@pytest.mark.parametrize(
    "fields",
    [
        {"request": "SET_IOMMU", "fields": {"iommu": 2}},
        {"request": 0x20003B71, "fields": {"size": 2}},
        {"request": "MAP_DMA", "fields": {"size": 2}, "value": 2},
        {"request": "MAP_DMA", "fields": {"length": 2}},
        {"request": "MAP_DMA", "fields": {"vaddr": "no such file"}},
        {"request": "NO_SUCH_REQUEST"},
        {"request": "GROUP_GET_DEVICE_FD", "fields": {"name": 5}},
    ],
)
def test_an_ioctl_that_makes_no_sense_never_reaches_the_kernel(state, kernel, fields):
    opened(state)
    with pytest.raises((ValueError, LookupError, TypeError)):
        do(state, "ioctl", file="c", **fields)
    assert kernel.did("ioctl") == []


def test_a_place_in_a_buffer_reaches_the_kernel_as_its_address(state, kernel):
    do(state, "buffer", name="b", pages=4)
    fd = opened(state)
    place = {"buffer": "b", "index": 2, "plus": 8}
    fields = {"vaddr": {"buffer": "b", "index": 1}, "size": 4096}
    do(state, "put", buffer="b", request="MAP_DMA", offset=2 * 4096 + 8, fields=fields)
    outcome = do(state, "ioctl", file="c", request="MAP_DMA", value=place)
    assert kernel.did("ioctl") == [("ioctl", fd, 0x20003B71, FIRST_ADDRESS + 2 * 4096 + 8)]
    assert outcome == {"value": 0, "frames": [FIRST_FRAME + 4096]}


# -- the device


@pytest.mark.parametrize(
    ("before", "on", "after"), [(0x0102, True, 0x0106), (0x0106, False, 0x0102), (0x0002, False, 0x0002)]
)
def test_master_changes_one_bit_of_the_little_endian_command_register(state, kernel, before, on, after):
    place = 7 << 40
    kernel.answers[0x20003B6C] = (0, "", struct.pack("=4I2Q", 32, 7, 7, 0, 256, place))
    kernel.config[4:6] = before.to_bytes(2, "little")
    fd = opened(state, "d")
    assert do(state, "master", file="d", on=on) == {"value": after}
    assert kernel.did("pwrite") == [("pwrite", fd, after.to_bytes(2, "little"), place + 4)]
    assert kernel.did("ioctl")[0][3][8:12] == struct.pack("=I", 7)


def test_master_on_what_is_no_device_is_an_outcome(state, kernel):
    kernel.answers[0x20003B6C] = (None, "ENOTTY", b"")
    opened(state)
    assert do(state, "master", file="c") == {"errno": "ENOTTY"}
    assert kernel.did("pread", "pwrite") == []


def test_dma_maps_bar_0_once(state, kernel):
    kernel.answers[0x20003B6C] = (0, "", struct.pack("=4I2Q", 32, 7, 0, 0, 1 << 20, 0))
    fd = opened(state, "d")
    for _ in range(2):
        kernel.registers.busy = 3
        assert do(state, "dma", file="d", iova=4096, size=64, to_memory=False) == {"value": 0}
    assert kernel.did("map") == [("map", fd, 0, 1 << 20)]
    assert [call[3][8:12] for call in kernel.did("ioctl")] == [struct.pack("=I", 7), struct.pack("=I", 0)]


def test_a_dma_that_never_ends_is_an_outcome(state, kernel):
    kernel.registers = FakeRegisters(kernel, busy=1 << 30)
    opened(state, "d")
    assert do(state, "dma", file="d", iova=0, size=64, to_memory=True) == {"errno": "ETIMEDOUT"}


def test_a_dma_that_would_leave_the_devices_buffer_is_refused_before_the_device_is_touched(state, kernel):
    opened(state, "d")
    kernel.calls.clear()
    with pytest.raises(ValueError, match="leaves the 4000 bytes"):
        do(state, "dma", file="d", iova=0, size=2048, to_memory=True, offset=2048)
    assert {call[0] for call in kernel.calls} == {"ioctl", "pread"}  # what device it is


def test_a_block_of_memory_that_comes_or_goes_is_not_online(state, kernel):
    assert (do(state, "read", what="memory"), do(state, "read", what="limit")) == ({"value": 0}, {"value": 0})
    folder = "/sys/devices/system/memory"
    states = {"memory0": b"online\n", "memory1": b"online\n", "memory4": b"going-offline\n", "memory5": None}
    kernel.files |= {
        f"{folder}/{name}/{'phys_index' if text is None else 'state'}": text for name, text in states.items()
    }
    kernel.files |= {f"{folder}/block_size_bytes": b"10000000\n", f"{folder}/memory_hotplug": b"online"}
    kernel.files["/proc/device-tree/rtas/ibm,lrdr-capacity"] = (9 << 29).to_bytes(8, "big") + bytes(12)
    assert (do(state, "read", what="memory"), do(state, "read", what="limit")) == ({"value": 512}, {"value": 4608})


@pytest.mark.parametrize(("what", "value"), [("vmlck", 2048), ("pins", 32)])
def test_counters_are_read(state, what, value):
    assert do(state, "read", what=what) == {"value": value}


def test_descriptors_are_the_kernels(state):
    assert (opened(state, "c"), opened(state, "g")) == (FIRST_FD, FIRST_FD + 1)


# -- processes


@pytest.fixture
def child(state, kernel):
    """A child that the agent has spawned when it had a container, a device whose registers were mapped, and memory."""
    with_edu(kernel, BUID, 1)
    do(state, "bind", device="pe1")
    opened(state, "c")
    kernel.answers[0x20003B6C] = (0, "", struct.pack("=4I2Q", 32, 7, 0, 0, 1 << 20, 0))
    opened(state, "d")
    do(state, "dma", file="d", iova=0, size=1, to_memory=True)
    do(state, "master", file="d")
    do(state, "buffer", name="b", pages=1)
    kernel.calls.clear()
    assert do(state, "spawn", process="p", uid=65534, memlock=8 << 20) == {"value": 0}
    return kernel.children[0].kernel


def test_a_child_is_spawned_with_its_user_and_its_limit(child, kernel):
    assert kernel.did("spawn") == [("spawn", 65534, 8 << 20)]


def test_what_a_child_is_to_do_the_child_does(state, kernel, child):
    kernel.calls.clear()
    opened(state, "e")
    assert do(state, "ioctl", by="p", file="c", request="ENABLE", expect="EPERM") == {"value": 0}
    assert kernel.did("ioctl") == []
    assert child.did("ioctl") == [("ioctl", FIRST_FD, 0x20003B73, 0)]
    assert kernel.did("ask") == [("ask", {"op": "ioctl", "file": "c", "request": "ENABLE", "expect": "EPERM"})]


def test_by_nobody_is_by_the_agent(state, kernel, child):
    do(state, "ioctl", by="", file="c", request="ENABLE")
    assert [len(each.did("ioctl")) for each in (kernel, child)] == [1, 0]


def test_a_child_has_the_agents_files_and_devices_and_none_of_its_buffers_children_or_mappings(state, kernel, child):
    assert do(state, "open", by="p", file="g", path="/dev/vfio/$pe1") == {"value": FIRST_FD}
    assert child.did("open") == [("open", "/dev/vfio/1")]
    with pytest.raises(RuntimeError, match="process 'p' could not do it: no buffer 'b'; there are: none"):
        do(state, "frames", by="p", buffer="b")
    child.answers[0x20003B6C] = kernel.answers[0x20003B6C]
    do(state, "dma", by="p", file="d", iova=0, size=1, to_memory=True)
    assert child.did("map") == [("map", FIRST_FD + 1, 0, 1 << 20)]
    do(state, "buffer", by="p", name="b", pages=1)
    do(state, "tag", by="p", buffer="b")
    assert child.memories[0].content[:64] == marks.tag(NONCE, 0, 0, 0)
    assert kernel.memories[0].content == bytes(4096)


def test_what_a_child_closes_or_opens_its_parent_still_has_or_never_gets(state, kernel, child):
    kernel.calls.clear()
    do(state, "close", by="p", file="d")
    do(state, "open", by="p", file="x", path="/dev/vfio/vfio")
    assert child.did("close") == [("close", FIRST_FD + 1)]
    assert kernel.did("close", "open", "unmap") == []
    assert do(state, "close", file="x") == {"errno": "EBADF"}
    do(state, "close", file="d")
    assert kernel.did("close", "unmap") == [("unmap",), ("close", FIRST_FD + 1)]


def test_an_exit_ends_the_child_and_frees_its_name(state, kernel, child):
    do(state, "spawn", process="q")
    assert kernel.did("spawn")[1:] == [("spawn", None, None)]
    assert do(state, "exit", process="p") == {"value": 0}
    assert kernel.did("end") == [("end", 0)]
    for op in ({"op": "exit", "process": "p"}, {"op": "read", "what": "pins", "by": "p"}):
        with pytest.raises(LookupError, match="no process 'p'; there are: q"):
            ops.perform(state, op)


def test_two_living_processes_of_one_name_are_an_error(state, kernel, child):
    with pytest.raises(ValueError, match="a process 'p' already"):
        do(state, "spawn", process="p")
    assert len(kernel.children) == 1


def test_a_child_that_cannot_do_it_is_named_with_its_reason(state, kernel, child):
    def die(_op):
        raise EOFError("killed by signal 9")

    kernel.children[0].do = die
    with pytest.raises(RuntimeError, match="process 'p' could not do it: killed by signal 9"):
        do(state, "read", what="pins", by="p")


def test_a_refusal_in_a_child_is_an_outcome(state, child):
    child.refused["/dev/vfio/9"] = "EBUSY"
    assert do(state, "open", by="p", file="x", path="/dev/vfio/9") == {"errno": "EBUSY"}


def test_renewing_ends_all_children_before_the_files_are_closed(state, kernel, child):
    do(state, "spawn", process="q")
    kernel.calls.clear()
    state.renew()
    assert [call[0] for call in kernel.calls] == ["end", "end", "close", "unmap", "close"]
    assert (state.children, state.files) == ({}, {})
