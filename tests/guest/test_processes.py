"""Programs with several processes, and memory that is not what a driver hopes for, on the real driver."""

import struct

import pytest
from msgspec import structs

from tcelab.papr import tce
from tcelab.program import Buffer, Close, Exit, Frames, Ioctl, Page, Protect, Put, Read, Spawn
from tcelab.scenarios import vocabulary as b

pytestmark = [pytest.mark.guest, pytest.mark.tcelab(topology="two-small")]

PAGE = 4096
IOVA = 0x10000
WINDOW = 16384
"""KiB that a window of 16 MiB costs."""
NOBODY, LIMIT = 65534, 8 << 20


def by(process, *lists):
    """The same operations, done by another process."""
    return [structs.replace(op, by=process) for ops in lists for op in ops]


@pytest.fixture
def names(pseries):
    """What vocabulary calls a PE, and the files of its container."""
    return pseries.pe("pe1").names


@pytest.fixture
def opened(pseries, names):
    """A container with the group of pe1, by the agent; not enabled."""
    pseries.perform(*b.bind(names), *b.open_container(names))
    return names


@pytest.fixture
def table_cost(pseries):
    """KiB that the window's table of 4096 entries costs: whole CPU pages of it."""
    page_size = pseries.facts.page_size
    return 4096 * 8 // page_size * page_size // 1024


def vmlck(pseries, process=""):
    return pseries.do(Read(what="vmlck", by=process, expect="ok")).value


def pins(pseries):
    return pseries.do(Read(what="pins", expect="ok")).value


def frames_of(pseries, buffer, process=""):
    return pseries.do(Frames(buffer=buffer, by=process, expect="ok")).frames


def mapped(names, buffer, pages=4, process="", sequence=1):
    """Tag pages and map them, read-write, at IOVA."""
    place = Page(buffer)
    return by(
        process,
        b.tag(place, pages, names.liobn, IOVA, sequence),
        b.map_dma(names, place, IOVA, pages, tce.PERMISSIONS),
    )


def table_of(frames, pages=4):
    return {IOVA + i * PAGE: tce.pack(frame, tce.PERMISSIONS) for i, frame in enumerate(frames[:pages])}


def test_a_child_over_its_limit_is_refused_and_the_container_is_lost_to_its_parent(pseries, opened):
    """The second half is a defect of the driver: tce_iommu_enable binds the container before it looks at the limit."""
    enable = Ioctl(file=opened.container, request="ENABLE")
    pseries.perform(Spawn(process="child", uid=NOBODY, memlock=LIMIT, expect="ok"))
    before = vmlck(pseries), vmlck(pseries, "child")
    pseries.perform(structs.replace(enable, by="child", expect="ENOMEM"))
    assert (vmlck(pseries), vmlck(pseries, "child")) == before == (0, 0)
    pseries.perform(structs.replace(enable, expect="EPERM"))
    assert vmlck(pseries) == 0


def test_the_same_limit_does_not_bind_a_child_of_root(pseries, opened):
    pseries.perform(Spawn(process="child", memlock=LIMIT, expect="ok"), *by("child", b.enable(opened)))
    assert (vmlck(pseries), vmlck(pseries, "child")) == (0, WINDOW)


def test_a_child_without_rights_maps_its_own_memory_within_its_limit(pseries, opened, table_cost):
    pseries.perform(
        Spawn(process="child", uid=NOBODY, memlock=LIMIT * 4, expect="ok"),
        *by("child", b.buffer("own", 8, 3), b.enable(opened)),
        *mapped(opened, "own", process="child"),
    )
    frames = frames_of(pseries, "own", "child")
    assert all(frames)
    assert pseries.tables()[opened.liobn] == table_of(frames)
    assert vmlck(pseries, "child") == WINDOW + table_cost


def test_a_childs_map_is_its_own_charge_its_own_memory_and_nobody_elses_to_undo(pseries, opened, table_cost):
    free = pins(pseries)
    pseries.perform(
        *b.vmlck(),
        Spawn(process="child", expect="ok"),
        *by("child", b.vmlck(), b.buffer("own", 8, 3), b.enable(opened)),
        *b.buffer("agents", 8, 4),
        *mapped(opened, "own", process="child"),
    )
    assert (vmlck(pseries), vmlck(pseries, "child"), pins(pseries) - free) == (0, WINDOW + table_cost, 4)
    assert pseries.tables()[opened.liobn] == table_of(frames_of(pseries, "own", "child"))
    (map_,) = b.map_dma(opened, Page("agents"), IOVA, 1, tce.PERMISSIONS)
    (unmap,) = b.unmap_dma(opened, IOVA, 1)
    for op in (map_, unmap, *b.get_info(opened), *b.enable(opened), *b.disable(opened)):
        pseries.perform(structs.replace(op, expect="EPERM"))
    pseries.perform(Ioctl(file=opened.container, request="CHECK_EXTENSION", value=2, expect=1))
    again = [*b.map_dma(opened, Page("own"), IOVA, 4, tce.READ), *b.unmap_dma(opened, IOVA, 4)]
    pseries.perform(*by("child", b.repeat(again, 1000), b.disable(opened)))
    assert (vmlck(pseries, "child"), pins(pseries) - free) == (table_cost, 0)
    assert len(pseries.tables()[opened.liobn]) == 0


def test_a_container_lives_until_its_last_process_lets_go_of_it(pseries, opened, table_cost):
    free = pins(pseries)
    pseries.perform(
        Spawn(process="child", expect="ok"),
        Spawn(process="other", expect="ok"),
        *by("child", b.buffer("own", 8, 3), b.enable(opened)),
        *mapped(opened, "own", process="child"),
        *b.close(opened.group, opened.container),
        Exit(process="other", expect="ok"),
    )
    expected = table_of(frames_of(pseries, "own", "child"))
    assert pseries.tables()[opened.liobn] == expected
    assert (pins(pseries) - free, vmlck(pseries, "child")) == (4, WINDOW + table_cost)
    pseries.perform(Exit(process="child", expect="ok"))
    assert len(pseries.tables()[opened.liobn]) == 0
    assert pins(pseries) == free
    pseries.perform(*b.open_container(opened), *b.enable(opened))
    assert vmlck(pseries) == WINDOW


def test_what_a_child_has_mapped_outlives_it_while_its_parent_has_the_container(pseries, opened):
    free = pins(pseries)
    pseries.perform(
        Spawn(process="child", expect="ok"),
        *by("child", b.buffer("own", 8, 3), b.enable(opened)),
        *mapped(opened, "own", process="child"),
    )
    expected = table_of(frames_of(pseries, "own", "child"))
    pseries.perform(Exit(process="child", expect="ok"))
    # Its memory is free but for what is pinned: others take it.
    pseries.perform(*b.buffer("taker", 2048, 5), *b.fill(Page("taker"), PAGE, 6))
    assert pseries.tables()[opened.liobn] == expected
    assert pins(pseries) - free == 4
    pseries.perform(structs.replace(b.unmap_dma(opened, IOVA, 4)[0], expect="EPERM"))
    pseries.perform(*b.close(opened.group, opened.container))
    assert len(pseries.tables()[opened.liobn]) == 0
    assert (pins(pseries), vmlck(pseries)) == (free, 0)


def test_registered_memory_is_given_back_by_the_next_reading_whichever_process_chose_the_type(pseries, names):
    """The driver leaves it to RCU, which takes its time: who reads the pins waits, whoever had chosen the type."""
    free = pins(pseries)
    *before, choice, _status = b.open_container(names, b.SPAPR_TCE_V2)
    pseries.perform(*b.bind(names), *b.buffer("b", 8, 1), *before)
    pseries.perform(Spawn(process="child", expect="ok"), *by("child", [choice]))
    memory = {"vaddr": Page("b"), "size": 6 * PAGE}
    pseries.perform(Ioctl(file=names.container, request="SPAPR_REGISTER_MEMORY", fields=memory, expect="ok"))
    assert pins(pseries) - free == 6
    leave = Ioctl(file=names.group, request="GROUP_UNSET_CONTAINER", expect="ok")
    _, after = pseries.perform(leave, Read(what="pins", expect="ok"))  # in one request: RCU has no time in between
    assert after.outcome.value == free


def test_an_address_of_the_agents_memory_means_nothing_to_a_child(pseries, opened):
    (step,) = pseries.perform(Buffer(name="agents", pages=8, expect="ok"))
    pseries.perform(Spawn(process="child", expect="ok"), *by("child", b.enable(opened)))
    fields = {"flags": 3, "vaddr": step.outcome.value, "iova": IOVA, "size": PAGE}
    pseries.perform(Ioctl(file=opened.container, request="MAP_DMA", fields=fields, by="child", expect="EFAULT"))
    assert len(pseries.tables()[opened.liobn]) == 0


@pytest.mark.tcelab(needs="edu")
def test_a_device_that_one_process_closes_goes_on_in_another_and_masters_the_bus(pseries, opened):
    pseries.perform(
        *b.enable(opened),
        *b.buffer("b", 4, 1),
        *mapped(opened, "b"),
        *b.open_device(opened),
        *b.dma(opened, IOVA, 64, to_memory=False),
        Spawn(process="child", expect="ok"),
        *by("child", b.dma(opened, IOVA, 128, to_memory=False)),
        *b.close(opened.device, opened.group),
        *by("child", b.dma(opened, IOVA + PAGE, 128, to_memory=True)),
    )
    assert len(pseries.tables()[opened.liobn]) == 4
    pseries.perform(Exit(process="child", expect="ok"))
    assert len(pseries.tables()[opened.liobn]) == 0


@pytest.mark.tcelab(needs="edu")
def test_a_child_that_has_closed_a_device_has_no_part_in_its_parents_mapping_of_it(pseries, opened):
    """A device's registers, mapped, hold its file, and with it the container."""
    every = b.close(opened.device, opened.group, opened.container)
    pseries.perform(
        *b.enable(opened),
        *b.buffer("b", 4, 1),
        *mapped(opened, "b"),
        *b.open_device(opened),
        *b.dma(opened, IOVA, 64, to_memory=False),
        Spawn(process="child", expect="ok"),
        *by("child", b.dma(opened, IOVA, 64, to_memory=False), every),
    )
    assert len(pseries.tables()[opened.liobn]) == 4
    pseries.perform(*every)
    assert len(pseries.tables()[opened.liobn]) == 0


@pytest.mark.tcelab(needs="edu")
def test_only_the_first_open_of_a_device_clears_its_bus_mastering(pseries, opened):
    second = structs.replace(b.open_device(opened)[0], into="second")
    again = structs.replace(second, into="again")
    pseries.perform(
        *b.enable(opened),
        *b.buffer("b", 4, 1),
        *mapped(opened, "b"),
        *b.open_device(opened),
        second,
        *b.dma(opened, IOVA, 128, to_memory=False),
        *b.close("second"),
        *b.dma(opened, IOVA, 128, to_memory=True),
        *b.close(opened.device),
        again,
    )
    pseries.checkpoint()
    (dma,) = b.dma(opened, IOVA, 8, to_memory=False)
    pseries.perform(structs.replace(dma, file="again"))
    pseries.checkpoint()


@pytest.mark.parametrize("access", ["none", "read"])
def test_memory_that_may_not_be_written_is_not_mapped_for_writing(pseries, opened, access):
    pseries.perform(*b.enable(opened), *b.buffer("b", 4, 1), Protect(buffer="b", access=access, expect="ok"))
    (map_,) = b.map_dma(opened, Page("b"), IOVA, 2, tce.PERMISSIONS)
    pseries.perform(structs.replace(map_, expect="EFAULT"))
    assert len(pseries.tables()[opened.liobn]) == 0
    pseries.perform(Protect(buffer="b", access="write", expect="ok"), *mapped(opened, "b"))
    assert pseries.tables()[opened.liobn] == table_of(frames_of(pseries, "b"))


def get_info(names, **how):
    return Ioctl(file=names.container, request="SPAPR_TCE_GET_INFO", value=Page("b", 1, 8), **how)


def test_a_struct_in_a_buffer_is_read_and_written_there(pseries, opened):
    put = Put(buffer="b", request="SPAPR_TCE_GET_INFO", offset=PAGE + 8, fields={"flags": 7}, expect="ok")
    pseries.perform(*b.buffer("b", 4, 1), *b.fill(Page("b"), 4 * PAGE, 3), put)
    pseries.checkpoint()
    frame = frames_of(pseries, "b")[1]
    assert pseries.session.guest.ram.read(frame + 8, 16) == struct.pack("<4I", 16, 7, 0, 0)
    pseries.perform(get_info(opened, expect="ok"))
    pseries.checkpoint()
    assert pseries.session.guest.ram.read(frame + 8, 16) == struct.pack("<4I", 16, 0, 0, 16 << 20)


@pytest.mark.parametrize("access", ["none", "read"])
def test_a_struct_that_cannot_be_written_back_is_a_fault(pseries, opened, access):
    put = Put(buffer="b", request="SPAPR_TCE_GET_INFO", offset=PAGE + 8, fields={"flags": 7}, expect="ok")
    pseries.perform(*b.buffer("b", 4, 1), put, Protect(buffer="b", access=access, expect="ok"))
    pseries.perform(get_info(opened, expect="EFAULT"))
    pseries.checkpoint()
    frame = frames_of(pseries, "b")[1]
    assert pseries.session.guest.ram.read(frame + 8, 16) == struct.pack("<4I", 16, 7, 0, 0)


@pytest.mark.parametrize(
    ("access", "fields", "errno", "tables"),
    [
        ("none", {}, "EFAULT", 0),
        ("read", {"argsz": 31}, "EINVAL", 0),
        ("read", {"flags": 4}, "EINVAL", 0),
        ("read", {"flags": 3, "iova": 16 << 20}, "ENXIO", 1),
    ],
)
def test_a_map_by_a_struct_in_a_buffer_makes_the_window_if_the_struct_is_sound(
    pseries, opened, table_cost, *, access, fields, errno, tables
):
    pseries.perform(
        *b.vmlck(),
        *b.enable(opened),
        *b.buffer("b", 1, 1),
        Put(buffer="b", request="MAP_DMA", fields={"size": PAGE, **fields}, expect="ok"),
        Protect(buffer="b", access=access, expect="ok"),
        Ioctl(file=opened.container, request="MAP_DMA", value=Page("b"), expect=errno),
    )
    assert vmlck(pseries) == WINDOW + tables * table_cost


def test_nothing_of_a_process_is_left_when_its_name_goes(pseries, opened):
    """Twenty of them, one after the other, each with memory of its own and the container's group."""
    free = pins(pseries)
    for number in range(20):
        name = f"child{number}"
        pseries.perform(
            Spawn(process=name, uid=NOBODY if number % 2 else None, memlock=64 << 20, expect="ok"),
            *by(name, b.buffer(f"own{number}", 2, number)),
            Close(file=opened.container, by=name, expect="ok"),
            Exit(process=name, expect="ok"),
        )
    pseries.perform(*b.enable(opened), *b.buffer("b", 4, 1), *mapped(opened, "b"))
    assert pins(pseries) - free == 4
