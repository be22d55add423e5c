"""The emulated kernel: the seam's shape, open files with their references, arguments of ioctls, processes, sysfs."""

import errno
import inspect
import struct
from types import SimpleNamespace

import pytest

from tceagent import kernel as linux
from tceagent import seam, uapi, vfio
from tcelab.emulator import addressspaces, edudevice, pci
from tcelab.emulator import emulatedkernel as emulated
from tcelab.emulator.addressspaces import Space
from tcelab.emulator.emulatedkernel import EmulatedKernel
from tcelab.emulator.platform import Machine
from tcelab.emulator.process import Process
from tcelab.emulator.profiles import ProfileWithQuirks
from tcelab.emulator.profiles.linux_v1 import LINUX_V1
from tcelab.emulator.syscallerrors import NotModelledError
from tcelab.papr import window
from tcelab.program.topology import Device, Phb, Topology
from tcelab.quirks import MISALIGNED

PAGE = 4096
SMALL = Topology(
    "small", (Phb(1, (Device("pe1", 1), Device("also", 3)), 1 << 20), Phb(2, (Device("pe2", 2),), 1 << 20))
)
NUMBER = uapi.NUMBERS
WINDOW_KIB = 1024
TABLE_KIB = 0
"""A window of 1 MiB has a table of 2 KiB, less than a page."""


def made(*quirks):
    machine = Machine(SMALL, PAGE, 0)
    return EmulatedKernel(machine, ProfileWithQuirks(LINUX_V1, frozenset(quirks)), Process(Space(machine.ram)))


@pytest.fixture
def kernel():
    """With vfio-pci on all devices."""
    kernel = made()
    for index, slot in ((1, 1), (1, 3), (2, 2)):
        vfio.bind(kernel, window.buid(index), slot)
    return kernel


def forked(kernel, uid=None, memlock=None):
    """A child, and the kernel as the child sees it."""
    seen = []
    child = kernel.spawn(lambda own: seen.append(own) or (lambda _: {}), uid, memlock)
    return child, seen[0]


def call(kernel, fd, request, argument=0):
    """What an ioctl returned, or the errno's name."""
    value, refusal, _ = kernel.ioctl(fd, NUMBER[request], argument)
    return refusal or value


def with_struct(kernel, fd, request, **fields):
    return call(kernel, fd, request, uapi.LAYOUTS[request].pack(fields))


def joined(kernel):
    """Container and group of pe1, enabled, with one page mapped."""
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/1")
    assert with_struct(kernel, group, "GROUP_SET_CONTAINER", container=container) == 0
    assert call(kernel, container, "SET_IOMMU", 2) == call(kernel, container, "ENABLE") == 0
    area = kernel.allocate(PAGE)
    assert with_struct(kernel, container, "MAP_DMA", flags=3, vaddr=area.address, size=PAGE) == 0
    return SimpleNamespace(container=container, group=group, area=area)


def device(kernel, group, name="0001:00:01.0"):
    return call(kernel, group, "GROUP_GET_DEVICE_FD", name.encode() + b"\0")


def released(kernel):
    """Nothing is mapped, pinned or charged any more, and the group can be opened again."""
    gone = not len(kernel.machine.pes[1].table.live()[0]) and not kernel.machine.ram.pinned
    assert (kernel.vmlck() == 0) == gone
    assert (kernel.machine.pes[1].group_file is None) == gone
    return gone


# -- the seam


def public(kind):
    return {name: each for name, each in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        (seam.Kernel, EmulatedKernel),
        (seam.Kernel, linux.LinuxKernel),
        (seam.Memory, addressspaces.Area),
        (seam.Memory, linux.Memory),
        (seam.Registers, pci.EmulatedRegisters),
        (seam.Registers, linux.Registers),
        (seam.Child, emulated.EmulatedChild),
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_it_has_every_method_of_the_seam_with_the_same_parameters(wanted, made):
    methods = {name: each for name, each in public(wanted).items() if inspect.isfunction(each)}
    assert methods
    for name, method in methods.items():
        asked = [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
        has = [
            (each.name, each.kind, each.default) for each in inspect.signature(getattr(made, name)).parameters.values()
        ]
        assert asked == has, name


def test_it_has_the_attributes_of_the_seam(kernel):
    assert kernel.page_size == PAGE
    area = kernel.allocate(PAGE + 1)
    assert (area.address % PAGE, area.size) == (0, 2 * PAGE)


# -- open and close


def refused(call, *arguments):
    with pytest.raises(OSError) as refusal:  # noqa: PT011 - which one is what the caller asks
        call(*arguments)
    return errno.errorcode[refusal.value.errno]


def test_a_group_is_there_once_its_device_is_bound():
    kernel = made()
    assert refused(kernel.open, "/dev/vfio/1") == "ENOENT"
    vfio.bind(kernel, window.buid(1), 1)
    assert kernel.open("/dev/vfio/1") >= 0
    assert refused(kernel.open, "/dev/vfio/2") == refused(kernel.open, "/dev/vfio/3") == "ENOENT"


def test_a_group_is_open_once_and_for_root_alone_and_a_container_for_anybody(kernel):
    _, own = forked(kernel, uid=65534)
    assert refused(own.open, "/dev/vfio/1") == "EACCES"
    kernel.open("/dev/vfio/1")
    assert refused(kernel.open, "/dev/vfio/1") == "EBUSY"
    assert refused(own.open, "/dev/vfio/1") == "EACCES", "the file system asks before the driver does"
    assert own.open("/dev/vfio/vfio") != own.open("/dev/vfio/vfio")


def test_a_path_that_is_not_modelled_is_nobodys_guess(kernel):
    for path in ("/dev/kvm", "/etc/passwd", ""):
        with pytest.raises(NotModelledError):
            kernel.open(path)


def test_a_file_gets_the_lowest_descriptor_that_is_free(kernel):
    first, second, third = (kernel.open("/dev/null") for _ in range(3))
    kernel.close(second)
    kernel.close(first)
    assert [kernel.open("/dev/null") for _ in range(3)] == [first, second, third + 1]


def test_a_file_gets_the_descriptor_that_is_wanted_if_it_is_free(kernel):
    kernel.process.wanted = 40
    assert kernel.open("/dev/null") == 40
    lowest = kernel.open("/dev/null")
    assert lowest < 40, "what was wanted once is not wanted again"
    kernel.process.wanted = 40
    assert kernel.open("/dev/null") == lowest + 1


def test_a_descriptor_that_is_not_open_is_ebadf(kernel):
    fd = kernel.open("/dev/vfio/vfio")
    kernel.close(fd)
    assert refused(kernel.close, fd) == "EBADF"
    assert call(kernel, fd, "GET_API_VERSION") == "EBADF"
    assert refused(kernel.pread, fd, 1, 0) == refused(kernel.map_registers, fd, 0, PAGE) == "EBADF"
    assert kernel.ioctls(fd, [NUMBER["MAP_DMA"]], [bytearray(32)], 3) == (0, None, "EBADF")


def test_a_plain_file_knows_no_request_of_vfio(kernel):
    fd = kernel.open("/dev/null")
    assert call(kernel, fd, "GET_API_VERSION") == "ENOTTY"
    assert refused(kernel.map_registers, fd, 0, PAGE) == "ENODEV"


# -- references: what is released with the last of them


def test_a_container_lives_as_long_as_its_group(kernel):
    its = joined(kernel)
    kernel.close(its.container)
    assert not released(kernel)
    kernel.close(its.group)
    assert released(kernel)


def test_a_group_goes_without_its_container_which_can_be_used_again(kernel):
    its = joined(kernel)
    kernel.close(its.group)
    assert released(kernel)
    assert call(kernel, its.container, "ENABLE") == "EINVAL", "it has no driver any more"
    group = kernel.open("/dev/vfio/1")
    assert with_struct(kernel, group, "GROUP_SET_CONTAINER", container=its.container) == 0
    assert call(kernel, its.container, "SET_IOMMU", 2) == 0


def test_a_device_holds_its_group_open(kernel):
    its = joined(kernel)
    one, other = device(kernel, its.group), device(kernel, its.group, "0001:00:03.0")
    for fd in (its.group, its.container, one):
        kernel.close(fd)
        assert not released(kernel)
    kernel.close(other)
    assert released(kernel)


def test_a_mapping_of_registers_holds_its_device_open(kernel):
    its = joined(kernel)
    fd = device(kernel, its.group)
    first, second = (kernel.map_registers(fd, 0, edudevice.BAR_SIZE) for _ in range(2))
    for each in (fd, its.group, its.container):
        kernel.close(each)
    first.close()
    assert not released(kernel)
    assert second.read32(0) == 0xED000001, "and can still be read"
    second.close()
    assert released(kernel)


def test_a_fork_shares_open_files_and_none_is_released_before_both_have_let_go(kernel):
    its = joined(kernel)
    child, own = forked(kernel)
    kernel.close(its.group)
    kernel.close(its.container)
    assert not released(kernel)
    assert with_struct(own, its.group, "GROUP_GET_STATUS") == 0
    child.end()
    assert released(kernel)


def test_what_a_child_closes_or_opens_is_its_own(kernel):
    its = joined(kernel)
    child, own = forked(kernel)
    own.close(its.group)
    assert with_struct(kernel, its.group, "GROUP_GET_STATUS") == 0
    assert own.open("/dev/vfio/2") == its.group, "the descriptor is free again, in the child"
    assert with_struct(kernel, its.group, "GROUP_GET_STATUS") == 0
    child.end()
    assert not released(kernel)
    assert kernel.open("/dev/vfio/2") > its.group, "the child's group was closed with it"


def test_a_child_that_exits_closes_all_its_files_in_order_of_their_numbers(kernel):
    closed = []

    class Watched(emulated.OpenFile):
        def release(self, process):
            closed.append((self, process.exited))

    child, own = forked(kernel)
    files = [Watched() for _ in range(3)]
    for file in files:
        own.process.install(file)
    child.end()
    assert closed == [(file, True) for file in files]


def test_a_container_that_a_child_has_enabled_refunds_the_child_even_when_it_is_gone(kernel):
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/1")
    with_struct(kernel, group, "GROUP_SET_CONTAINER", container=container)
    call(kernel, container, "SET_IOMMU", 2)
    child, own = forked(kernel)
    assert call(own, container, "ENABLE") == 0
    assert (own.vmlck(), kernel.vmlck()) == (WINDOW_KIB, 0)
    child.end()
    assert (own.vmlck(), kernel.vmlck()) == (WINDOW_KIB, 0), "the container lives, and so does the charge"
    kernel.close(group)
    assert (own.vmlck(), kernel.vmlck()) == (0, 0)


# -- arguments of an ioctl


def test_a_struct_comes_back_as_long_as_it_was_given(kernel):
    container = joined(kernel).container
    layout = uapi.LAYOUTS["SPAPR_TCE_GET_INFO_DDW"]
    for size in (16, 32, 40):
        raw = struct.pack("=4I", size, 9, 9, 9).ljust(size, b"\xff")
        value, refusal, back = kernel.ioctl(container, NUMBER["SPAPR_TCE_GET_INFO"], raw)
        assert (value, refusal, len(back)) == (0, "", size)
        assert struct.unpack_from("=4I", back) == (size, 0, 0, 1 << 20)
        assert back[16:32] == bytes(layout.size - 16)[: size - 16]
        assert back[32:] == b"\xff" * (size - 32)


@pytest.mark.parametrize("size", [1024, 1025, 5000])
def test_an_argument_of_any_length_is_passed_whole(kernel, size):
    group = joined(kernel).group
    name = b"x" * (size - 1) + b"\0"
    value, refusal, back = kernel.ioctl(group, NUMBER["GROUP_GET_DEVICE_FD"], name)
    assert (value, refusal) == (None, "ENODEV" if size <= PAGE else "EINVAL")
    assert back == name


def test_a_refused_ioctl_gives_the_struct_back_as_it_was(kernel):
    container = joined(kernel).container
    raw = uapi.LAYOUTS["MAP_DMA"].pack({"flags": 7})
    assert kernel.ioctl(container, NUMBER["MAP_DMA"], raw) == (None, "EINVAL", raw)


def test_a_word_is_an_address_in_the_callers_own_memory(kernel):
    its = joined(kernel)
    its.area.write(100, uapi.LAYOUTS["SPAPR_TCE_GET_INFO"].pack({}))
    assert kernel.ioctl(its.container, NUMBER["SPAPR_TCE_GET_INFO"], its.area.address + 100) == (0, "", b"")
    assert struct.unpack("=4I", its.area.read(100, 16)) == (16, 0, 0, 1 << 20)
    its.area.protect("read")
    assert call(kernel, its.container, "SPAPR_TCE_GET_INFO", its.area.address + 100) == "EFAULT"
    its.area.protect("none")
    assert call(kernel, its.container, "SPAPR_TCE_GET_INFO", its.area.address + 100) == "EFAULT"
    assert call(kernel, its.container, "SPAPR_TCE_GET_INFO", 0) == "EFAULT"


def test_a_string_ends_where_the_memory_does(kernel):
    its = joined(kernel)
    its.area.write(PAGE - 12, b"0001:00:01.0")
    assert call(kernel, its.group, "GROUP_GET_DEVICE_FD", its.area.address + PAGE - 12) == "EFAULT"
    its.area.write(PAGE - 13, b"0001:00:01.0\0")
    assert call(kernel, its.group, "GROUP_GET_DEVICE_FD", its.area.address + PAGE - 13) > its.group


@pytest.mark.parametrize("request_number", [-1, 1 << 32])
def test_a_request_has_32_bits(kernel, request_number):
    with pytest.raises(ValueError, match="32 bits"):
        kernel.ioctl(kernel.open("/dev/null"), request_number, 0)


# -- many ioctls


def calls(area, iova, size=PAGE):
    mapping = uapi.LAYOUTS["MAP_DMA"].pack({"flags": 3, "vaddr": area.address, "iova": iova, "size": size})
    unmapping = uapi.LAYOUTS["UNMAP_DMA"].pack({"iova": iova, "size": size})
    return [NUMBER["MAP_DMA"], NUMBER["UNMAP_DMA"]], [bytearray(mapping), bytearray(unmapping)]


def test_rounds_are_counted_and_a_million_leave_what_two_do(kernel):
    its = joined(kernel)
    requests, arguments = calls(its.area, 0x5000)
    assert kernel.ioctls(its.container, requests, arguments, 1_000_000) == (2_000_000, 0, "")
    assert kernel.machine.ram.pinned == 1
    assert kernel.ioctls(its.container, requests[:1], arguments[:1], 1_000_000) == (1_000_000, 0, "")
    assert kernel.machine.ram.pinned == 2
    assert kernel.machine.pes[1].table.live()[0].tolist() == [0, 5]


def test_rounds_end_at_the_first_call_that_does_not_return_0(kernel):
    its = joined(kernel)
    requests, arguments = calls(its.area, 0x5000)
    past_the_end = bytearray(uapi.LAYOUTS["UNMAP_DMA"].pack({"iova": 1 << 20, "size": PAGE}))
    assert kernel.ioctls(its.container, [*requests, requests[1]], [*arguments, past_the_end], 9) == (2, None, "ENXIO")


def test_rounds_end_at_a_call_that_returns_what_is_neither_0_nor_an_errno():
    kernel = made(MISALIGNED)
    vfio.bind(kernel, window.buid(1), 1)
    its = joined(kernel)
    requests, arguments = calls(its.area, 0x5008)
    assert kernel.ioctls(its.container, requests, arguments, 9) == (0, 1, "")


def test_rounds_that_differ_from_each_other_are_all_done(kernel):
    """The first finds the default window pending, the second an entry that is live."""
    container, group = kernel.open("/dev/vfio/vfio"), kernel.open("/dev/vfio/1")
    with_struct(kernel, group, "GROUP_SET_CONTAINER", container=container)
    call(kernel, container, "SET_IOMMU", 2)
    call(kernel, container, "ENABLE")
    requests, arguments = calls(kernel.allocate(PAGE), 0)
    assert kernel.ioctls(container, requests[:1], arguments[:1], 3) == (3, 0, "")
    assert kernel.machine.ram.pinned == 1


# -- counters, processes


def test_a_childs_counters_limit_and_user_are_its_own(kernel):
    its = joined(kernel)
    _, own = forked(kernel, uid=65534, memlock=4096)
    assert (kernel.vmlck(), own.vmlck()) == (WINDOW_KIB + TABLE_KIB, 0)
    assert (own.process.uid, own.process.memlock, own.process.capable) == (65534, 4096, False)
    assert (kernel.process.uid, kernel.process.capable) == (0, True)
    assert call(own, its.container, "DISABLE") == "EPERM"
    _, same = forked(kernel)
    assert (same.process.uid, same.process.memlock) == (0, kernel.process.memlock)


def test_a_child_has_no_memory_of_its_parent(kernel):
    area = kernel.allocate(PAGE)
    _, own = forked(kernel)
    assert own.frames(area.address, PAGE) == [0]
    assert own.allocate(PAGE).read(0, 8) == bytes(8)


def test_pins_are_the_whole_machines_and_only_root_may_ask(kernel):
    joined(kernel)
    _, own = forked(kernel)
    _, nobody = forked(kernel, uid=1)
    assert kernel.pins() == own.pins() == 1
    assert refused(nobody.pins) == "EACCES"


def test_vmlck_below_zero_is_a_large_number_of_64_bits(kernel):
    kernel.process.space.locked = -1 & addressspaces.MASK
    assert kernel.vmlck() == (1 << 64) - 4


def test_a_child_answers_until_its_end(kernel):
    child = kernel.spawn(lambda _: lambda op: {"value": op["n"] + 1}, None, None)
    assert child.ask({"n": 4}) == {"value": 5}
    child.end()


# -- sysfs, device tree


def test_binding_finds_each_device_and_its_window():
    kernel = made()
    told = vfio.bind(kernel, window.buid(2), 2)
    assert told == {
        "address": "0002:00:02.0",
        "group": 2,
        "liobn": 0x80000200,
        "window_start": 0,
        "window_size": 1 << 20,
        "buid": window.buid(2),
    }
    assert kernel.listdir(emulated.DEVICES) == ["0001:00:01.0", "0001:00:03.0", "0002:00:02.0", "001e:00:1e.0"]
    with pytest.raises(LookupError):
        vfio.bind(kernel, window.buid(2), 9)


def test_a_device_has_the_driver_once_it_was_probed():
    kernel = made()
    link = f"{emulated.DEVICES}/0001:00:03.0/driver"
    with pytest.raises(FileNotFoundError):
        kernel.readlink(link)
    kernel.write_file("/sys/bus/pci/drivers_probe", b"0001:00:03.0")
    assert kernel.readlink(link).endswith("/vfio-pci")
    for path in (f"{emulated.DEVICES}/0001:00:01.0/driver", f"{emulated.DEVICES}/0009:00:01.0/driver"):
        with pytest.raises(FileNotFoundError):
            kernel.readlink(path)


def test_the_device_tree_has_no_window_while_vfio_owns_it(kernel):
    path = f"{emulated.TREE}/pci@{window.buid(1):x}/ibm,dma-window"
    other = f"{emulated.TREE}/pci@{window.buid(2):x}/ibm,dma-window"
    before = kernel.read_file(path)
    assert before == struct.pack(">IQQ", 0x80000100, 0, 1 << 20)
    its = joined(kernel)
    with pytest.raises(FileNotFoundError):
        kernel.read_file(path)
    assert kernel.read_file(other)
    kernel.close(its.group)
    assert kernel.read_file(path) == before


# -- time and chance


def test_only_waiting_lets_time_pass(kernel):
    kernel.set_clock(1e9)
    assert (kernel.monotonic(), kernel.clock()) == (kernel.monotonic(), 1e9)
    began = kernel.monotonic()
    kernel.sleep(1.5)
    assert (kernel.monotonic() - began, kernel.clock()) == (1.5, 1e9 + 1.5)


def test_chance_repeats_with_the_same_entropy(kernel):
    kernel.stir(b"seed")
    drawn = kernel.draw(32)
    assert (len(drawn), kernel.draw(32) != drawn) == (32, True)
    kernel.stir(b"seed")
    assert kernel.draw(32) == drawn


def test_the_cell_is_a_page_of_ram(kernel):
    page, address = kernel.cell()
    page[:4] = b"cell"
    kernel.beat()
    assert kernel.machine.ram.read(address, 4) == b"cell"
