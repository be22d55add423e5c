"""Memory of the emulated machine: frames with their pins, and address spaces in which a wrong access is a fault."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcelab.emulator.addressspaces import SCRATCH, EmulatedRam, FaultError, Space
from tcelab.program.pagetags import compact, expand

PAGE = 4096
LARGE = 65536


@pytest.fixture
def ram():
    return EmulatedRam(PAGE, 0)


@pytest.fixture
def space(ram):
    return Space(ram)


# -- frames


def test_no_two_frames_are_the_same_and_no_two_made_one_after_the_other_are_neighbours():
    ram = EmulatedRam(PAGE, 3)
    frames = [ram.allocate() for _ in range(5000)]
    assert len(set(frames)) == 5000
    assert all(frame % PAGE == 0 and frame > 0 for frame in frames)
    assert all(abs(one - other) > PAGE for one, other in pairwise(frames))


def test_a_seed_gives_the_same_frames_again_and_another_seed_others():
    runs = [
        [ram.allocate() for _ in range(20)]
        for ram in (EmulatedRam(PAGE, 7), EmulatedRam(PAGE, 7), EmulatedRam(PAGE, 8))
    ]
    assert runs[0] == runs[1]
    assert not set(runs[0]) & set(runs[2])


def test_a_fresh_frame_is_zeros(ram):
    assert expand(ram.iommu_page(ram.allocate())) == bytes(PAGE)


def test_a_frame_is_pinned_as_often_as_it_was_and_the_machine_knows_the_sum(ram):
    one, other = ram.allocate(), ram.allocate()
    for frame in (one, one, other):
        ram.pin(frame)
    assert (ram.pins, ram.pinned) == ({one: 2, other: 1}, 3)
    ram.unpin(one)
    assert (ram.pins[one], ram.pinned) == (1, 2)


def test_a_frame_that_is_given_back_is_gone_unless_somebody_has_pinned_it(ram):
    pinned, free = ram.allocate(), ram.allocate()
    ram.pin(pinned)
    ram.free(pinned)
    ram.free(free)
    assert expand(ram.iommu_page(pinned)) == bytes(PAGE)
    assert ram.iommu_page(free) is None


def test_outside_ram_a_device_reads_zeros_and_writes_nothing(ram):
    frame = ram.allocate()
    ram.write(frame + 8, b"inside")
    ram.write(0, b"outside")
    assert ram.read(frame + 8, 6) == b"inside"
    assert ram.read(0, 7) == bytes(7)
    assert list(ram.pages) == [frame]


def test_a_large_page_holds_sixteen_iommu_pages():
    ram = EmulatedRam(LARGE, 0)
    frame = ram.allocate()
    for number in range(16):
        ram.write(frame + number * PAGE, bytes([number]) * PAGE)
    assert [expand(ram.iommu_page(frame + number * PAGE)) for number in range(16)] == [
        bytes([n]) * PAGE for n in range(16)
    ]
    assert ram.read(frame + 15 * PAGE + 4, 8) == bytes([15]) * 8


# -- address spaces


def test_memory_has_whole_pages_and_a_gap_behind_it(space):
    first, second = space.allocate(2 * PAGE + 1), space.allocate(PAGE)
    assert (first.size, second.size) == (3 * PAGE, PAGE)
    assert first.address % PAGE == second.address % PAGE == 0
    assert first.address - (second.address + second.size) == PAGE
    assert len({*first.frames.values(), *second.frames.values()}) == 4
    for area in (first, second):
        with pytest.raises(FaultError):
            space.copy_in(area.address + area.size, 1)
        with pytest.raises(FaultError):
            space.copy_in(area.address + area.size - 1, 2)
        with pytest.raises(FaultError):
            space.pin(area.address + area.size, write=False)


def test_memory_lies_where_it_is_wanted_if_nothing_is_there(space):
    """Beside other memory too: a kernel has put it there (huge pages have no hole behind them)."""
    space.wanted = 0x7FFF_9000_0000
    first = space.allocate(2 * PAGE)
    assert first.address == 0x7FFF_9000_0000
    for taken in (0, PAGE):
        space.wanted = first.address + taken
        assert space.allocate(PAGE).address != first.address + taken
        assert space.wanted is None
    for free in (-PAGE, 2 * PAGE):
        space.wanted = first.address + free
        assert space.allocate(PAGE).address == first.address + free
    space.wanted = first.address + 9 * PAGE + 1
    assert space.allocate(PAGE).address % PAGE == 0


def test_two_processes_have_other_frames_at_the_same_addresses(ram):
    areas = [Space(ram).allocate(PAGE) for _ in range(2)]
    assert areas[0].address == areas[1].address
    areas[0].write(0, b"mine")
    assert areas[1].read(0, 4) == bytes(4)


@given(st.integers(0, 3 * PAGE), st.binary(max_size=2 * PAGE), st.sampled_from([PAGE, LARGE]))
def test_what_is_written_over_pages_is_read_back_and_nothing_beside_it_changes(offset, data, page_size):
    space = Space(EmulatedRam(page_size, 1))
    area = space.allocate(5 * PAGE)
    space.copy_out(area.address + offset, data)
    assert space.copy_in(area.address + offset, len(data)) == data
    assert area.read(0, area.size) == (bytes(offset) + data).ljust(area.size, b"\0")


def test_frames_are_told_for_each_iommu_page_that_a_range_touches(space):
    area = space.allocate(3 * PAGE)
    frames = space.frames(area.address, area.size)
    assert [space.ram.pages.get(frame) for frame in frames] == [bytearray(PAGE)] * 3
    assert len(set(frames)) == 3
    assert space.frames(area.address + 1, PAGE) == frames[:2]
    assert space.frames(area.address + PAGE, 1) == frames[1:2]
    assert space.frames(area.address, 0) == []


def test_what_is_not_mapped_has_frame_zero(space):
    area = space.allocate(PAGE)
    assert space.frames(area.address - PAGE, 3 * PAGE) == [0, *space.frames(area.address, PAGE), 0]
    assert space.frames(0, PAGE) == [0]


def test_iommu_pages_of_a_large_page_lie_one_behind_the_other():
    space = Space(EmulatedRam(LARGE, 0))
    area = space.allocate(2 * LARGE)
    frames = space.frames(area.address, area.size)
    assert [frame - frames[0] for frame in frames[:16]] == [number * PAGE for number in range(16)]
    assert abs(frames[16] - frames[15]) != PAGE
    assert space.pin(area.address + 5 * PAGE, write=True) == frames[0]


@pytest.mark.parametrize(
    ("access", "read", "write"), [("none", False, False), ("read", True, False), ("write", True, True)]
)
def test_a_protection_holds_for_the_process_and_for_the_kernel(space, access, read, write):
    area = space.allocate(2 * PAGE)
    frames = space.frames(area.address, area.size)
    area.write(PAGE, b"before")
    area.protect(access)
    allowed = {"read": read, "write": write}
    tries = {
        "read": [
            (lambda: area.read(PAGE, 6), ValueError),
            (lambda: space.copy_in(area.address + PAGE, 6), FaultError),
            (lambda: space.pin(area.address, write=False), FaultError),
        ],
        "write": [
            (lambda: area.write(PAGE, b"before"), ValueError),
            (lambda: space.copy_out(area.address + PAGE, b"before"), FaultError),
            (lambda: space.pin(area.address, write=True), FaultError),
        ],
    }
    for kind, calls in tries.items():
        for call, error in calls:
            if allowed[kind]:
                call()
            else:
                with pytest.raises(error):
                    call()
    assert space.ram.pinned == read + write
    assert space.frames(area.address, area.size) == frames, "the pages are still there"
    area.protect("write")
    assert area.read(PAGE, 6) == b"before"


def test_a_protection_is_one_areas_alone(space):
    one, other = space.allocate(PAGE), space.allocate(PAGE)
    one.protect("none")
    other.write(0, b"open")
    assert other.read(0, 4) == b"open"


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, PAGE + 1), (PAGE, 1), (1, PAGE)])
def test_the_process_itself_is_stopped_at_the_end_of_its_memory(space, offset, size):
    area = space.allocate(PAGE)
    with pytest.raises(ValueError, match="bytes"):
        area.read(offset, size)
    with pytest.raises(ValueError, match="bytes"):
        area.write(offset, bytes(size))


def test_a_pin_that_faults_pins_nothing(space):
    area = space.allocate(PAGE)
    area.protect("read")
    with pytest.raises(FaultError):
        space.pin(area.address, write=True)
    assert space.ram.pinned == 0


def test_the_memory_of_a_process_that_is_gone_faults_and_its_pinned_frames_stay(space):
    area = space.allocate(2 * PAGE)
    area.write(0, b"kept")
    kept, gone = space.frames(area.address, area.size)
    space.pin(area.address, write=True)
    space.free()
    assert space.ram.read(kept, 4) == b"kept"
    assert space.ram.iommu_page(gone) is None
    assert space.frames(area.address, area.size) == [0, 0]
    with pytest.raises(FaultError):
        space.copy_in(area.address, 1)
    with pytest.raises(FaultError):
        space.pin(area.address, write=False)


def test_the_argument_of_an_ioctl_in_flight_is_memory_that_nobody_can_pin(space):
    space.scratch = bytearray(b"argument")
    assert space.copy_in(SCRATCH + 2, 3) == b"gum"
    space.copy_out(SCRATCH + 1, b"RG")
    assert space.scratch == b"aRGument"
    with pytest.raises(FaultError):
        space.pin(SCRATCH, write=False)
    with pytest.raises(FaultError):
        space.copy_in(SCRATCH + len(space.scratch), 1)


def test_no_memory_comes_to_lie_where_arguments_are_passed(space):
    area = space.allocate(1 << 20)
    assert area.address + area.size <= SCRATCH


def test_a_page_that_was_read_shows_what_is_written_to_it_later_by_whomever():
    ram = EmulatedRam(PAGE, 0)
    space = Space(ram)
    area = space.allocate(2 * PAGE)
    first, second = space.frames(area.address, 2 * PAGE)
    assert ram.iommu_page(first) == ram.iommu_page(second) == bytes(64)
    area.write(PAGE - 2, b"abcd")
    assert expand(ram.iommu_page(first)).endswith(b"ab")
    assert expand(ram.iommu_page(second)).startswith(b"cd")
    ram.write(first + 8, b"device")
    assert ram.iommu_page(first)[8:14] == b"device"
    area.write(0, b"x" * PAGE)
    assert ram.iommu_page(first) == compact(b"x" * PAGE) == b"x" * 64
    lent = area.page(0)  # to be written to without a word, whether it was read since or not
    for word in (b"lent", b"kept"):
        lent[:4] = word
        assert ram.iommu_pages([first])[first][:4] == word


def test_pages_that_are_asked_for_again_are_those_of_now():
    ram = EmulatedRam(PAGE, 1)
    space = Space(ram)
    area = space.allocate(5 * PAGE)
    kept, written, freed, lent, cleared = frames = space.frames(area.address, 5 * PAGE)
    beyond = ram.allocate() + (1 << 40)
    asked = frozenset({*frames, beyond})
    blank = bytes(64)
    assert ram.iommu_pages(asked) == {**dict.fromkeys(frames, blank), beyond: None}

    def told():
        again = ram.iommu_pages(asked)
        assert again == {address: ram.iommu_page(address) for address in asked}
        return {address: content and content[:4] for address, content in again.items()}

    area.write(PAGE, b"once")
    assert told()[written] == b"once"
    ram.write(written, b"more")
    ram.free(freed)
    page = area.page(3)
    page[:4] = b"lent"
    ram.pages[beyond] = b"RAM!" + bytes(PAGE - 4)
    assert told() == {kept: bytes(4), written: b"more", freed: None, lent: b"lent", cleared: bytes(4), beyond: b"RAM!"}
    page[:4] = b"anew"
    assert told()[lent] == b"anew"
    before = ram.iommu_pages(asked)
    before.clear()  # the asker's own
    assert told()[kept] == bytes(4)
    ram.let_go()
    assert told()[lent] == b"anew"
    ram.clear()
    assert set(told().values()) == {None}
