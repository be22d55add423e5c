"""The emulated virtio-blk: which bytes of a transfer arrive, what is refused of it, and when it is not ready."""

from __future__ import annotations

import hashlib

import pytest
from fast_story import BASE, BOTH, FAST, ONES, RING, above, at, engine, gives, opened, read, takes, write

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.errors import Unsupported
from tcelab.judge import Judge
from tcelab.program import (
    Burst,
    Checkpoint,
    Close,
    Engine,
    Exit,
    Ioctl,
    Look,
    Master,
    Page,
    Program,
    Rtas,
    Spawn,
    diskcontent,
)
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

ONE = b.pes(FAST, "fast")[0]


class Stand:
    """The machine of the story, its operations done."""

    def __init__(self, *, ready=True, **how):
        self.session = EmulatorSession(FAST, nonce=b"n" * 16, **how)
        outcomes = self.session.perform(opened())
        self.frames = outcomes[1].frames
        if ready:
            assert self.do(engine()).value == 0
        self.look()

    def do(self, *ops):
        return self.session.perform(ops)[-1]

    def look(self):
        return self.session.intervene(Checkpoint(), self.frames)

    @property
    def disk(self):
        return self.look().disks["disk1"]

    def memory(self):
        """Of buffer m."""
        ram = self.session.machine.ram
        return b"".join(ram.read(frame, 4096) for frame in self.frames)

    def refused(self):
        """(direction, address, size) of what was refused since the last look."""
        return [(each.direction, each.address, each.size) for each in self.look().refusals]


@pytest.fixture
def stand():
    return Stand()


FRESH = diskcontent.fresh("disk1")
HASH = "6349b5b64b89e90bb0c07153f06274bf5b2df621afc4614003877eb8ef1438bf"


# -- the disk


def test_a_fresh_disk_is_the_same_for_ever_and_different_everywhere():
    """A base that was kept was made with the disk of its day."""
    assert hashlib.sha256(FRESH).hexdigest() == HASH
    words = [FRESH[i : i + 8] for i in range(0, len(FRESH), 8)]
    assert len(set(words)) == len(words) == (1 << 20) // 8
    assert 0 not in FRESH
    assert diskcontent.fresh("disk2")[:4096] != FRESH[:4096]


# -- data


@pytest.mark.parametrize(
    ("page", "plus", "size", "offset"),
    [(0, 0, 512, 0), (0, 0, 4096, 4096), (0, 0x801, 4096, (1 << 20) - 4096), (1, 3584, 512, 512), (9, 1, 1536, 5120)],
)
def test_the_disk_is_read_into_memory_and_nothing_else_changes(stand, page, plus, size, offset):
    before = stand.memory()
    assert stand.do(write(at(page, plus), size, offset)).value == 0
    start = page * 4096 + plus
    assert stand.memory() == before[:start] + FRESH[offset : offset + size] + before[start + size :]
    assert stand.disk == FRESH
    assert stand.refused() == []


@pytest.mark.parametrize(
    ("page", "plus", "size", "offset"), [(0, 0, 512, 0), (0, 0x801, 4096, (1 << 20) - 4096), (6, 100, 512, 512)]
)
def test_memory_is_written_to_the_disk_and_nothing_else_changes(stand, page, plus, size, offset):
    before = stand.memory()
    assert stand.do(read(at(page, plus), size, offset)).value == 0
    start = page * 4096 + plus
    assert stand.disk == FRESH[:offset] + before[start : start + size] + FRESH[offset + size :]
    assert stand.memory() == before


def test_a_burst_does_its_transfers_in_order(stand):
    before = stand.memory()
    transfers = [takes(at(0), 512, 0), gives(at(1), 512, 0), gives(at(0), 512, 512)]
    outcome = stand.do(Burst(file="disk", transfers=transfers))
    assert (outcome.value, outcome.fields["done"]) == (0, 3)
    after = stand.memory()
    assert after[4096:4608] == before[:512]
    assert after[:512] == FRESH[512:1024]


def test_the_queue_is_what_qemu_leaves(stand):
    """As QEMU 11.1 shows it: the element of a read of the disk counts its data and its answer, the other its answer."""
    stand.do(write(at(0), 512), read(at(0), 1024))
    ram = stand.session.machine.ram
    queue = ram.read(stand.session.machine.pes[1].table.get(RING >> 12) & -4096, 4096)
    assert queue[2048:2068].hex() == "0000" + "0200" + "00000000" + "01020000" + "00000000" + "01000000"


# -- what is refused


@pytest.mark.parametrize(
    ("iova", "size", "refused"),
    [
        (at(2), 512, [(at(2), 512)]),
        (at(2), 4096, [(at(2), 4096)]),
        (at(1, 2048), 4096, [(at(2), 2048)]),
        (at(2, 2048), 4096, [(at(2, 2048), 2048)]),
        (at(4, 2048), 4096, [(at(4, 2048), 2048), (at(5), 2048)]),
        ((16 << 20) - 512, 1024, [((16 << 20) - 512, 512), (16 << 20, 512)]),
        (1 << 40, 512, [(1 << 40, 512)]),
        (ONES - 511, 512, [(ONES - 511, 512)]),
    ],
)
def test_what_the_table_refuses_of_a_transfer_is_dropped_or_gives_zeros(stand, iova, size, refused):
    before = stand.memory()
    assert stand.do(write(iova, size)).value == 0
    assert stand.refused() == [("write", *each) for each in refused]
    wanted = bytearray(before)
    for i in range(size):
        if not any(first <= iova + i < first + length for first, length in refused):
            wanted[iova - BASE + i] = FRESH[i]
    assert stand.memory() == wanted
    assert stand.do(read(iova, size)).value == 0
    assert stand.refused() == [("read", *each) for each in refused]
    taken = bytearray(size)
    for i in range(size):
        if not any(first <= iova + i < first + length for first, length in refused):
            taken[i] = wanted[iova - BASE + i]
    assert stand.disk == bytes(taken) + FRESH[size:]


def test_permissions_are_those_of_the_direction(stand):
    stand.do(write(at(6)), read(at(7)))
    assert stand.refused() == [("write", at(6), 512), ("read", at(7), 512)]
    stand.do(read(at(6)), write(at(7)))
    assert stand.refused() == []


def test_after_a_refusal_it_is_as_ready_as_before(stand):
    stand.do(write(at(2)))
    assert stand.do(write(at(0))).value == 0


# -- not ready


def test_who_was_not_set_up_does_nothing():
    stand = Stand(ready=False)
    before = stand.memory()
    assert stand.do(write(at(0))).value == 1
    outcome = stand.do(Burst(file="disk", transfers=[gives(at(0), 512, 0)] * 2))
    assert (outcome.value, outcome.fields["done"]) == (1, 0)
    assert (stand.memory(), stand.disk, stand.refused()) == (before, FRESH, [])


def test_who_may_not_master_the_bus_is_not_ready_any_more(stand):
    stand.do(Master(file="disk", on=False))
    assert stand.do(write(at(0))).value == 1
    assert stand.refused() == []
    stand.do(Master(file="disk", on=True))
    assert stand.do(write(at(0))).value == 1
    stand.do(engine())
    assert stand.do(write(at(0))).value == 0


LOOKS = [
    ("read", RING + 2048, 2),
    ("write", RING + 2048, 2),
    ("read", RING + 1026, 2),
] * 2
"""What QEMU 7.2, 10.0 and 11.1 tell when the doorbell of a device rings that may not master the bus."""


def test_who_is_set_up_without_the_bus_looks_for_its_queue_in_vain(stand):
    stand.do(Master(file="disk", on=False))
    assert stand.do(engine()).value == 0
    before = stand.memory()
    assert stand.do(write(at(0))).value == 1
    assert (stand.memory(), stand.refused()) == (before, LOOKS)
    stand.do(Master(file="disk", on=True))
    assert stand.do(write(at(0))).value == 1  # it was reset: nothing is done late
    assert stand.memory() == before


def test_the_last_file_that_is_closed_takes_the_readiness_along(stand):
    fields = {"name": "disk1"}
    again = Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", fields=fields, into="again")
    stand.do(again, Close(file="disk"))
    assert stand.do(engine("again")).value == 0
    assert stand.do(write(at(0), file="again")).value == 0
    stand.do(Close(file="again"), again, Master(file="again"))
    assert stand.do(write(at(0), file="again")).value == 1


def test_only_who_has_set_it_up_has_a_queue(stand):
    stand.do(Spawn(process="c"))
    child = Burst(by="c", file="disk", transfers=[gives(at(0), 512, 0)])
    assert stand.do(child).value == 1
    stand.do(Exit(process="c"))
    assert stand.do(write(at(0))).value == 0


def test_an_edu_has_no_queue(stand):
    assert stand.do(Engine(file="edu", ring=Page("ring"), iova=RING)).errno == "ENODEV"


def test_a_queue_that_is_not_mapped_is_not_modelled(stand):
    stand.do(*b.unmap_dma(ONE, RING, 2))
    with pytest.raises(Unsupported, match="queue of disk1 at 0x800000 is not mapped"):
        stand.do(write(at(0)))


def test_a_change_of_the_table_counts_at_once(stand):
    assert stand.do(write(at(0))).value == 0
    stand.do(*b.unmap_dma(ONE, at(0), 1), *b.map_dma(ONE, Page("m", 2), at(0), 1, BOTH))
    before = stand.memory()
    stand.do(write(at(0), 512, 4096))
    assert stand.memory() == before[:8192] + FRESH[4096:4608] + before[8704:]


# -- as others see it


def test_it_uses_a_window_above_as_the_default_one():
    made = Program(name="above", topology=FAST, ops=above())
    session = EmulatorSession(FAST)
    judge = Judge(made, session.facts)
    verdict = judge.verdict(perform_program(made, session, judge))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


def test_it_looks_as_qemu_shows_it(stand):
    assert stand.do(Look(file="disk", what="identity")).value == 0x0001FFFF
    assert stand.do(Look(file="disk", what="command")).value & 0xF == 6


INTERRUPTS = {0: (7, 1), 1: (9, 0), 2: (9, 2), 4: (9, 1)}
"""Flags and count, by number, as a guest on QEMU 11.1 shows them. Likewise flags and size of regions."""
REGIONS = {0: (0, 0), 1: (15, 65536), 2: (0, 0), 3: (0, 0), 4: (7, 65536), 5: (0, 0), 6: (0, 0), 7: (3, 256)}


def asked(stand, request, index):
    outcome = stand.do(Ioctl(file="disk", request=request, fields={"index": index}))
    return outcome.errno or outcome.fields


@pytest.mark.parametrize("index", range(10))
def test_its_regions_are_those_of_qemu(stand, index):
    if index not in REGIONS:
        assert asked(stand, "DEVICE_GET_REGION_INFO", index) == "EINVAL"
        return
    flags, size = REGIONS[index]
    expected = {"flags": flags, "cap_offset": 0, "size": size, "offset": index << 40}
    assert asked(stand, "DEVICE_GET_REGION_INFO", index) == expected


@pytest.mark.parametrize("index", range(6))
def test_its_interrupts_are_those_of_qemu(stand, index):
    expected = "EINVAL" if index not in INTERRUPTS else dict(zip(("flags", "count"), INTERRUPTS[index], strict=True))
    assert asked(stand, "DEVICE_GET_IRQ_INFO", index) == expected


def test_another_program_finds_a_fresh_disk(stand):
    stand.do(read(at(0), 4096))
    assert stand.disk != FRESH
    stand.session.renew()
    assert stand.disk == FRESH


# -- isolated


THAW = {"call": "ibm,set-eeh-option", "device": "disk1"}


def test_its_violation_isolates_it_and_its_sibling():
    stand = Stand(isolates=True, guard="freeze")
    before = stand.memory()
    (event,) = stand.do(write(at(1, 2048), 4096)).events
    assert (event.kind, event.pe, event.device, event.iova, event.start, event.size) == (
        "isolated",
        1,
        "disk1",
        at(2),
        at(1, 2048),
        4096,
    )
    assert stand.memory()[6144:8192] == FRESH[:2048] != before[6144:8192]
    for file in ("disk", "edu"):
        assert stand.do(write(at(0), file=file)).value == ONES
        assert stand.do(Look(file=file, what="identity")).value == 0xFFFFFFFF
    assert stand.do(engine()).value == ONES


def test_it_comes_back_reset_and_blocked_and_then_ready():
    stand = Stand(isolates=True, guard="freeze")
    stand.do(write(at(2)))
    stand.look()
    stand.session.intervene(Rtas(option=2, **THAW), [])
    assert stand.do(write(at(0))).value == 1
    assert stand.refused() == []
    assert stand.do(engine()).value == 0
    before = stand.memory()
    outcome = stand.do(write(at(0), 1024))
    assert outcome.value == 1
    (event,) = outcome.events
    assert (event.kind, event.iova, event.start, event.size, event.direction, event.reason) == (
        *("blocked", at(0), at(0), 1024, "write"),
        "the PE is isolated",
    )
    assert stand.refused() == LOOKS
    stand.session.intervene(Rtas(option=3, **THAW), [])
    assert stand.do(write(at(0))).value == 1
    assert stand.memory() == before
    stand.do(engine())
    assert stand.do(write(at(0))).value == 0
    assert stand.memory()[:512] == FRESH[:512]


def test_the_guest_that_lets_it_master_the_bus_makes_it_lose_its_queue():
    stand = Stand(isolates=True, guard="freeze")
    stand.do(write(at(2)))
    stand.session.intervene(Rtas(option=2, **THAW), [])
    stand.do(engine())
    stand.look()
    (event,) = stand.do(Master(file="disk", on=True)).events
    assert event.kind == "reapplied"
    assert stand.do(write(at(0))).value == 1
    assert stand.refused() == []
