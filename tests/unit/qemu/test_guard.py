"""The guard: whom it blames for a refused access, what it isolates, and what it undoes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tcelab.errors import HarnessError, Unsupported
from tcelab.papr import isolationrules
from tcelab.papr.window import Shape
from tcelab.program import Burst, Dma, Engine, Ioctl, Look, Master, Page, Read, Rtas, Together, Transfer
from tcelab.program.topology import Device, Phb, Topology
from tcelab.qemu.guard import Guard, chunks
from tcelab.qemu.guardeddevice import Flight
from tcelab.qemu.portal import portal
from tcelab.qemu.standstill import Standstill
from tcelab.qemu.tableaddresses import TableAddresses

BAR = 0x80000000
NARROW = 0xFFFFF
WINDOW = 16 << 20
TWO = Topology(
    "two",
    (
        Phb(1, (Device("pe1", 1), Device("pe1b", 2)), WINDOW),
        Phb(2, (Device("pe2", 3), Device("narrow", 4, mask=NARROW)), WINDOW, window_start=WINDOW),
    ),
)
STORE = "memory_region_ops_write cpu {cpu} mr {mr} addr {at:#x} value {value:#x} size 8 name '{name}'"
CONFIG = "pci_cfg_write edu 00:{slot:02x}.0 @{offset:#x} <- {value:#x}"
IDS = {"pe1": "0xaa01", "pe1b": "0xaa02", "pe2": "0xaa03", "narrow": "0xaa04"}
SLOTS = {"pe1": 1, "pe1b": 2, "pe2": 3, "narrow": 4}
ON, OFF = 0x106, 0x102


class FakeLog:
    def __init__(self):
        self.tables = TableAddresses()
        self.tables.at |= {0x80000100: 0x1000, 0x80000200: 0x2000}
        self.listener = None
        self.said = []
        self.refused = []
        self.strayed = ""

    def drain(self):
        while self.said:
            self.hear(self.said.pop(0))

    def hear(self, line):
        if isinstance(line, tuple):
            self.refused.append(line)
            self.listener.refused(*line)
        else:
            self.listener.line(line)

    def take_refusals(self):
        taken, self.refused = tuple(self.refused), []
        return taken

    def carry(self, refusals):
        self.refused = [*refusals]


class FakePort:
    """Each write shows in the trace. `running`: how often an edu still says that it runs; `did`: writes, and when the
    guest was stopped and went on.
    """

    def __init__(self, log):
        self.log, self.writes, self.stores, self.running = log, [], [], 0
        self.did = []
        self.registers = {}
        self.answers = True
        self.traced = True
        self.sees = True

    async def read_config(self, buid, slot, offset, size):
        return {0x04: 0x100, 0x10: BAR + 0x100000 * slot, 0x30: 0}.get(offset, 0)

    async def write_configs(self, writes):
        if not self.answers:
            raise EOFError("QEMU closed its test port")
        await asyncio.sleep(0)
        for register, value in writes:
            self.writes.append((register.slot, register.offset, value))
            self.did.append(self.writes[-1])
            self.log.said.append(CONFIG.format(slot=register.slot, offset=register.offset, value=value))

    async def store(self, address, size, value):
        self.stores.append((address, size, value))
        phb, offset = divmod(address - 0x200000000000, 0x80000000)
        slot, register = divmod(offset, 0x100000)
        name = next(name for name, its in SLOTS.items() if its == slot)
        assert phb == (2 if slot <= 2 else 3), "each PHB has its own place"
        if self.traced:
            at = BAR + offset
            self.log.said.append(STORE.format(cpu=-1, mr=IDS[name], at=at, value=value, name="edu-mmio"))
        if register == 0x98 and self.sees:
            iova = next(value for address, _, value in reversed(self.stores) if address % 0x100000 == 0x88)
            self.log.said.append(("write", iova, 4))
            self.log.drain()

    async def load(self, address, size):
        self.running -= 1
        return 1 if self.running >= 0 else 0


class FakeRace:
    async def run(self, work, phase, limit):
        return await asyncio.wait_for(work, 5)

    def elapsed(self):
        return 1.5


class Stand:
    def __init__(self, topology=TWO, mode="freeze"):
        self.log = FakeLog()
        self.port = FakePort(self.log)
        self.held = {}
        self.guest = SimpleNamespace(
            log=self.log, qtest=self.port, waiter=FakeRace(), limits=SimpleNamespace(control=0.2), qmp=self.qmp
        )
        self.guest.standstill = Standstill(self.run_state, None)
        self.traces = True
        live = SimpleNamespace(
            entries=lambda at, first, count: [self.held.get((at, first + i), 0) for i in range(count)]
        )
        self.guard = Guard(self.guest, live, topology, mode)

    async def run_state(self, command):
        await asyncio.sleep(0.001)
        if command != "query-status":
            self.port.did.append(command)
        return {"status": "paused"}

    async def qmp(self, command, **_):
        return [{}] if self.traces else []

    def started(self):
        self.guard.start()
        self.forget()
        for name in self.guard.devices:
            self.master(name, on=True)
        assert self.guard.settle() == []
        return self

    def forget(self):
        self.port.writes.clear()
        self.port.did.clear()

    def master(self, name, *, on):
        self.log.said.append(CONFIG.format(slot=SLOTS[name], offset=4, value=ON if on else OFF))

    def transfer(self, name, iova, size, *, to_memory=True, cpu=0):
        base = BAR + 0x100000 * SLOTS[name]
        words = {0x80: 0x40000, 0x88: iova} if to_memory else {0x80: iova, 0x88: 0x40000}
        for offset, value in {**words, 0x90: size, 0x98: 3 if to_memory else 1}.items():
            line = STORE.format(cpu=cpu, mr=IDS[name], at=base + offset, value=value, name="edu-mmio")
            self.log.said.append(line)

    def refuse(self, direction, address, size=4):
        self.log.said.append((direction, address, size))

    def violate(self, name, iova=0x7000000, size=8, **how):
        self.transfer(name, iova, size, **how)
        self.refuse("write" if how.get("to_memory", True) else "read", iova)
        return self.guard.settle()

    def call(self, name, option=0, device="pe1"):
        return self.guard.call(Rtas(call=name, device=device, option=option)).value


@pytest.fixture
def stand():
    return Stand().started()


# -- the beginning


def test_each_device_is_learnt_and_tried_before_anything_is_asked():
    stand = Stand()
    stand.guard.start()
    rung = {address for address, size, value in stand.port.stores if (address % 0x100000, size, value) == (0x98, 8, 3)}
    assert len(rung) == 4
    # Where nothing can come of it, and each device in a page of its own.
    targets = {value for address, _, value in stand.port.stores if address % 0x100000 == 0x88}
    assert len({target >> 12 for target in targets}) == 4
    assert all(target >= 2 * WINDOW or target <= NARROW for target in targets)


def test_after_the_trial_every_register_is_as_it_was():
    stand = Stand()
    stand.guard.start()
    last = {slot: value for slot, offset, value in stand.port.writes if offset == 4}
    assert last == {1: 0x100, 2: 0x100, 3: 0x100, 4: 0x100}
    assert stand.guard.settle() == []


def test_a_watcher_that_does_not_see_the_trial_is_no_watcher():
    stand = Stand()
    stand.port.sees = False
    with pytest.raises(HarnessError, match="does not see refused accesses of pe1: a deliberate one was not told"):
        stand.guard.start()


def test_a_qemu_that_does_not_tell_who_rings_is_refused():
    stand = Stand()
    stand.port.traced = False
    with pytest.raises(Unsupported, match="does not tell of writes to the registers of pe1"):
        stand.guard.start()
    stand = Stand()
    stand.traces = False
    with pytest.raises(Unsupported, match="no trace event memory_region_ops_write"):
        stand.guard.start()


# -- blame


def test_a_violation_isolates_every_device_of_its_pe_and_no_other(stand):
    (event,) = stand.violate("pe1")
    assert (event.kind, event.pe, event.liobn, event.device) == ("isolated", 1, 0x80000100, "pe1")
    assert (event.iova, event.start, event.size, event.direction) == (0x7000000, 0x7000000, 8, "write")
    assert (event.reason, event.entry, event.at) == ("outside the window", None, 1.5)
    assert event.took > 0
    assert stand.port.writes == [
        (1, 0x04, OFF),
        (2, 0x04, OFF),
        (1, 0x30, BAR + 0x100001),
        (2, 0x30, BAR + 0x200001),
    ]


@pytest.mark.parametrize(
    ("entry", "to_memory", "reason"),
    [(0, True, "no entry"), (0x5001, True, "permission"), (0x5002, False, "permission")],
)
def test_the_reason_is_what_the_table_held_at_that_moment(stand, entry, to_memory, reason):
    stand.held = {(0x1000, 4): 0x4003, (0x1000, 5): entry, (0x1000, 6): 0x6003}
    (event,) = stand.violate("pe1", 0x5010, to_memory=to_memory)
    assert (event.reason, event.entry, event.neighbours) == (reason, entry, [0x4003, 0x6003])


def test_the_table_of_a_window_that_does_not_start_at_0_is_read_from_its_start(stand):
    """What its table refuses, QEMU tells by its place in the window."""
    stand.held = {(0x2000, 5): 0x5001}
    stand.transfer("pe2", WINDOW + 0x5000, 8)
    stand.refuse("write", 0x5000)
    (event,) = stand.guard.settle()
    assert (event.pe, event.reason, event.entry, event.iova) == (2, "permission", 0x5001, WINDOW + 0x5000)


def test_a_transfer_over_the_start_of_a_window_is_told_in_two_places(stand):
    stand.transfer("pe2", WINDOW - 8, 16)
    for address in (WINDOW - 8, WINDOW - 4, 0, 4):
        stand.refuse("write", address)
    (event,) = stand.guard.settle()
    assert (event.kind, event.device, event.iova, event.reason) == ("isolated", "pe2", WINDOW - 8, "outside the window")


def test_below_a_window_that_does_not_start_at_0_is_outside(stand):
    (event,) = stand.violate("pe2", WINDOW - 8)
    assert (event.pe, event.reason, event.neighbours) == (2, "outside the window", [0])


UP = 1 << 59
MADE = (
    "spapr_iommu_ddw_create buid=0x800000020000001 addr=0x0, page size=0x10000, requested=0x100000,"
    " start addr=800000000000000, liobn=80000101"
)
SECOND = ["spapr_iommu_new_table liobn=80000101 table=0x7000 fd=-1", MADE]
LOW, HIGH = 0x80000100, 0x80000101


@pytest.mark.parametrize(
    ("gone", "access", "entry", "event"),
    [
        (0, (UP + 0x12000, 0x12000), 0, (HIGH, "no entry", 0, [0x3003, 0x5003])),
        (0, (UP + 0x12000, 0x12000), 0x4001, (HIGH, "permission", 0x4001, [0x3003, 0x5003])),
        (0, (UP + 0x100000, UP + 0x100000), 0, (LOW, "outside the window", None, [])),
        (0, (0x12000, 0x12000), 0, (LOW, "no entry", 0, [0, 0])),
        (HIGH, (UP + 0x12000, UP + 0x12000), 0, (LOW, "outside the window", None, [])),
        (LOW, (UP + 0x100000, UP + 0x100000), 0, (HIGH, "outside the window", None, [0x6003])),
        (LOW, (0x12000, 0x12000), 0, (HIGH, "outside the window", None, [])),
    ],
    ids=["hole", "permission", "behind", "low", "removed", "behind the only one", "low is gone"],
)
def test_a_pe_is_isolated_whichever_of_its_windows_was_violated(stand, gone, access, entry, event):
    iova, as_told = access
    for line in [*SECOND, *([f"spapr_iommu_ddw_remove liobn={gone:x}"] if gone else [])]:
        stand.log.tables.line(line)
    stand.held |= {(0x7000, 0): 0x3003, (0x7000, 1): entry, (0x7000, 2): 0x5003, (0x7000, 15): 0x6003}
    stand.transfer("pe1", iova, 8)
    stand.refuse("write", as_told)
    (seen,) = stand.guard.settle()
    assert (seen.kind, seen.pe, seen.device, seen.iova) == ("isolated", 1, "pe1", iova)
    assert (seen.liobn, seen.reason, seen.entry, seen.neighbours) == event


def test_what_the_same_offset_in_another_window_permits_is_nobodys_violation(stand):
    for line in SECOND:
        stand.log.tables.line(line)
    stand.held[0x7000, 1] = 0x4003
    stand.transfer("pe1", UP + 0x12000, 8)
    stand.refuse("write", 0x12000)
    (event,) = stand.guard.settle()
    assert (event.kind, event.reason) == ("unblamed", "the table of pe1 lets it pass")


def test_an_address_that_nobody_was_told_to_go_to_is_nobodys(stand):
    stand.transfer("pe1", 0x7000000, 8)
    stand.refuse("write", 0x7000008)
    stand.refuse("read", 0x7000000)
    events = stand.guard.settle()
    assert [(event.kind, event.pe, event.reason) for event in events] == [
        ("unblamed", -1, "no device has a transfer there")
    ]
    assert stand.port.writes == []


def test_of_two_that_may_have_done_it_neither_is_blamed(stand):
    stand.transfer("pe1", 0x7000000, 8)
    stand.transfer("pe2", 0x7000000, 8)
    stand.refuse("write", 0x7000000)
    stand.refuse("write", 0x7000004)
    (event,) = stand.guard.settle()
    assert (event.kind, event.reason) == ("unblamed", "pe1 and pe2 both have a transfer there")
    assert stand.port.writes == []


def test_an_access_that_the_table_lets_pass_is_nobodys_violation(stand):
    stand.held = {(0x1000, 5): 0x5003}
    (event,) = stand.violate("pe1", 0x5000)
    assert (event.kind, event.reason) == ("unblamed", "the table of pe1 lets it pass")


def test_what_was_told_before_the_last_look_is_not_in_flight_any_more(stand):
    stand.transfer("pe2", 0x7000000, 8)
    assert stand.guard.settle() == []
    (event,) = stand.violate("pe1", 0x7000000)
    assert (event.kind, event.device) == ("isolated", "pe1")


def test_an_address_is_folded_by_the_mask_of_its_device(stand):
    stand.held = {}
    stand.transfer("narrow", 0x7000000 | 0x5000, 8)
    stand.refuse("write", 0x5000)
    (event,) = stand.guard.settle()
    assert (event.device, event.iova, event.pe) == ("narrow", 0x5000, 2)


def test_the_words_of_one_transfer_are_one_event(stand):
    stand.transfer("pe1", 0x7000000, 4095)
    for word in range(0, 4096, 4):
        stand.refuse("write", 0x7000000 + word)
    assert [event.kind for event in stand.guard.settle()] == ["isolated"]


def test_a_device_that_its_driver_keeps_off_the_bus_violates_nothing(stand):
    stand.master("pe1", on=False)
    assert stand.violate("pe1") == []
    assert stand.port.writes == []


def test_two_violations_at_once_isolate_two_pes(stand):
    stand.transfer("pe1", 0x7000000, 8)
    stand.transfer("pe2", 0x7001000, 8)
    stand.refuse("write", 0x7000000)
    stand.refuse("write", 0x7001000)
    assert [(event.kind, event.pe) for event in stand.guard.settle()] == [("isolated", 1), ("isolated", 2)]


def test_who_only_observes_tells_and_touches_nothing():
    stand = Stand(mode="observe").started()
    assert [event.kind for event in [*stand.violate("pe1"), *stand.violate("pe1")]] == ["violation"] * 2
    assert stand.port.writes == []
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_MMIO) == -3


# -- devices that come and go


def test_a_device_that_left_is_no_concern_of_anybodys(stand):
    stand.violate("pe1")
    stand.guard.left(stand.guard.devices["pe1b"])
    stand.port.writes.clear()
    # The guest writes to it on the way out, and QEMU gives the name of its doorbell to something else.
    stand.master("pe1b", on=True)
    stand.transfer("pe1b", 0x5000, 8)
    stand.log.drain()
    assert not stand.guard.devices["pe1b"].rung
    assert stand.guard.settle() == []
    assert stand.port.writes == []
    stand.refuse("write", 0x5000)
    (event,) = stand.guard.settle()
    assert (event.kind, event.reason) == ("unblamed", "no device has a transfer there")


def test_a_device_that_comes_is_learnt_and_tried(stand):
    stand.guard.left(stand.guard.devices["pe1b"])
    stand.forget()
    stand.guard.arrived("pe1b")
    stand.master("pe1b", on=True)
    (event,) = stand.violate("pe1b")
    assert (event.kind, event.device) == ("isolated", "pe1b")


def test_a_device_that_comes_to_an_isolated_pe_is_isolated(stand):
    stand.violate("pe1")
    stand.guard.left(stand.guard.devices["pe1b"])
    stand.forget()
    stand.guard.arrived("pe1b")
    assert stand.port.writes[-1] == (2, 0x30, BAR + 0x200001)
    assert not stand.guard.pes[1].isolation.dma


def test_a_phb_that_comes_again_is_not_isolated(stand):
    stand.violate("pe1")
    stand.guard.new_pe(1)
    assert stand.guard.pes[1].isolation.dma


# -- what the guest tries while its PE is isolated


def test_a_bus_master_that_the_guest_sets_again_is_cleared_again(stand):
    stand.violate("pe1")
    stand.port.writes.clear()
    stand.master("pe1b", on=True)
    (event,) = stand.guard.settle()
    assert (event.kind, event.pe, event.device) == ("reapplied", 1, "pe1b")
    assert stand.port.writes == [(2, 0x04, OFF)]


def test_registers_that_the_guest_moves_stay_hidden(stand):
    stand.violate("pe1")
    stand.port.writes.clear()
    stand.log.said.append(CONFIG.format(slot=1, offset=0x10, value=BAR + 0x500000))
    assert stand.guard.settle() == []
    assert stand.port.writes == [(1, 0x30, BAR + 0x500001)]


def test_a_rom_that_the_guest_takes_away_is_put_back(stand):
    stand.violate("pe1")
    stand.port.writes.clear()
    stand.log.said.append(CONFIG.format(slot=1, offset=0x30, value=0))
    stand.guard.settle()
    assert stand.port.writes == [(1, 0x30, BAR + 0x100001)]


@pytest.mark.parametrize("value", [0, 0xFFFFFFFF])
def test_registers_without_an_address_are_not_hidden_at_nowhere(stand, value):
    stand.violate("pe1")
    stand.port.writes.clear()
    stand.log.said.append(CONFIG.format(slot=1, offset=0x10, value=value))
    stand.guard.settle()
    assert stand.port.writes == []


def test_the_guest_may_do_as_it_likes_with_a_pe_that_is_not_isolated(stand):
    stand.violate("pe1")
    stand.port.writes.clear()
    stand.master("pe2", on=False)
    stand.master("pe2", on=True)
    assert stand.guard.settle() == []
    assert stand.port.writes == []


# -- where registers lie changes only while the guest stands


HIDE = [(1, 0x30, BAR + 0x100001), (2, 0x30, BAR + 0x200001)]


def test_registers_are_hidden_and_shown_only_while_the_guest_stands_and_the_bus_is_taken_before(stand):
    stand.violate("pe1")
    assert stand.port.did == [(1, 0x04, OFF), (2, 0x04, OFF), "stop", *HIDE, "cont"]
    stand.forget()
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_MMIO) == 0
    assert stand.port.did == ["stop", (1, 0x30, 0), (2, 0x30, 0), "cont"]
    stand.forget()
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_DMA) == 0
    assert stand.port.did == [(1, 0x04, ON), (2, 0x04, ON)], "what moves nothing stops nobody"


def test_memory_decoding_too_is_changed_only_while_the_guest_stands():
    stand = Stand()
    stand.guard.start()
    standing, memory = False, dict.fromkeys(SLOTS.values(), 0x100)
    for each in stand.port.did:
        if isinstance(each, str):
            standing = each == "stop"
            continue
        slot, _, value = each
        assert standing or not (memory[slot] ^ value) & 2, each
        memory[slot] = value
    assert "stop" in stand.port.did, "it was changed"


def test_who_holds_the_guest_for_longer_is_not_robbed_of_it(stand):
    portal().call(stand.guest.standstill.begin())
    stand.violate("pe1")
    assert stand.port.did == ["stop", (1, 0x04, OFF), (2, 0x04, OFF), *HIDE], "a checkpoint still reads"
    portal().call(stand.guest.standstill.end())
    assert stand.port.did[-1] == "cont"


def test_a_guest_goes_on_when_its_registers_could_not_be_hidden(stand):
    real = stand.port.write_configs

    async def fail(writes):
        if any(register.offset == 0x30 for register, _ in writes):
            raise EOFError("QEMU closed its test port")
        await real(writes)

    stand.port.write_configs = fail
    with pytest.raises(EOFError):
        stand.violate("pe1")
    assert stand.port.did[-2:] == ["stop", "cont"]


def test_what_was_decided_last_is_written_last(stand):
    """Two decisions before the guest has even been stopped for the first."""
    stand.guard.pes[1].isolation.violate()
    with stand.guard._lock:
        stand.guard._act(stand.guard.pes[1].devices)
        stand.guard.pes[1].isolation = isolationrules.Isolation()
        stand.guard._act(stand.guard.pes[1].devices)
    stand.guard.settle()
    # What moves nothing is written at once: how far the first decision has come by then is nobody's business.
    at_once = [each for each in stand.port.did if each[1] == 0x04]
    assert at_once == [(1, 0x04, OFF), (2, 0x04, OFF), (1, 0x04, ON), (2, 0x04, ON)]
    assert [each for each in stand.port.did if each not in at_once] == [
        *("stop", *HIDE, "cont"),
        *("stop", (1, 0x30, 0), (2, 0x30, 0), "cont"),
    ]


def test_an_access_that_qemu_led_to_a_rom_is_nobodys_finding(stand):
    stand.log.strayed = "Invalid read at addr 0x98, size 8, region 'edu.rom', reason: rejected"
    with pytest.raises(HarnessError, match=r"led an access of the guest's astray: .* region 'edu\.rom'"):
        stand.guard.settle()


# -- recovery


def thawed(stand):
    stand.violate("pe1")
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_MMIO) == 0
    stand.guard.settle()
    stand.port.writes.clear()
    return stand


def test_thaw_of_mmio_shows_the_registers_and_keeps_dma_stopped(stand):
    stand.violate("pe1")
    stand.port.writes.clear()
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_MMIO) == 0
    assert stand.port.writes == [(1, 0x30, 0), (2, 0x30, 0)]


def test_an_attempt_before_dma_is_thawed_is_blocked_and_not_a_violation(stand):
    thawed(stand)
    (event,) = stand.violate("pe1b", 0x5000)
    assert (event.kind, event.pe, event.device, event.reason) == ("blocked", 1, "pe1b", "the PE is isolated")


def test_thaw_of_dma_gives_each_device_what_its_driver_wants(stand):
    thawed(stand)
    stand.master("pe1b", on=False)
    stand.guard.settle()
    stand.port.writes.clear()
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_DMA) == 0
    assert stand.port.writes == [(1, 0x04, ON)]


def test_dma_is_thawed_only_once_what_was_begun_before_has_ended(stand):
    thawed(stand)
    stand.port.running = 3
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_DMA) == 0
    assert stand.port.running < 0


def test_out_of_order_nothing_is_thawed(stand):
    stand.violate("pe1")
    stand.port.writes.clear()
    assert stand.call(isolationrules.SET_OPTION, isolationrules.THAW_DMA) == -1
    assert stand.call(isolationrules.CONFIGURE) == -1
    assert stand.port.writes == []


def test_a_reset_takes_the_bus_from_all_devices_and_only_their_drivers_give_it_back(stand):
    stand.violate("pe1")
    for name, option in (
        (isolationrules.SET_RESET, isolationrules.HOT),
        (isolationrules.SET_RESET, isolationrules.DEACTIVATE),
        (isolationrules.CONFIGURE, 0),
    ):
        assert stand.call(name, option) == 0
        stand.guard.settle()
    last = {(slot, offset): value for slot, offset, value in stand.port.writes}
    assert last == {(1, 0x04): OFF, (1, 0x30): 0, (2, 0x04): OFF, (2, 0x30): 0}
    assert stand.violate("pe1") == []
    stand.master("pe1", on=True)
    (event,) = stand.violate("pe1")
    assert event.kind == "isolated"


def test_a_reset_of_a_pe_in_reset_takes_the_bus_again(stand):
    stand.violate("pe1")
    stand.call(isolationrules.SET_RESET, isolationrules.HOT)
    stand.master("pe1", on=True)
    stand.guard.settle()
    assert stand.guard.devices["pe1"].wish
    assert stand.call(isolationrules.SET_RESET, isolationrules.FUNDAMENTAL) == 0
    assert not stand.guard.devices["pe1"].wish


def test_the_registers_stay_hidden_from_reset_to_configuration(stand):
    stand.violate("pe1")
    stand.port.writes.clear()
    stand.call(isolationrules.SET_RESET, isolationrules.FUNDAMENTAL)
    stand.call(isolationrules.SET_RESET, isolationrules.DEACTIVATE)
    assert [write for write in stand.port.writes if write[1] == 0x30] == []


def test_state_is_told_as_firmware_tells_it(stand):
    stand.violate("pe1")
    outcome = stand.guard.call(Rtas(call=isolationrules.READ_STATE, device="pe1b"))
    assert (outcome.value, outcome.fields) == (0, {"state": 2, "supported": 1, "wait": 0, "recovery": 0})
    other = stand.guard.call(Rtas(call=isolationrules.READ_STATE, device="pe2"))
    assert other.fields["state"] == 0


def test_after_a_reset_of_the_guard_nothing_is_isolated(stand):
    stand.violate("pe1")
    stand.guard.reset()
    assert stand.guard.call(Rtas(call=isolationrules.READ_STATE, device="pe1")).fields["state"] == 0
    last = {(slot, offset): value for slot, offset, value in stand.port.writes}
    assert last[1, 0x30] == last[2, 0x30] == 0
    assert last[1, 0x04] == last[2, 0x04] == OFF, "nor on the bus, before a driver asks for it"


# -- when it cannot


def test_a_port_that_is_gone_is_said_at_once(stand):
    stand.port.answers = False
    stand.transfer("pe1", 0x7000000, 8)
    stand.refuse("write", 0x7000000)
    with pytest.raises(EOFError):
        stand.guard.settle()


def test_a_guard_that_fails_is_said_when_it_is_asked(stand):
    stand.guard._table = lambda *_: 1 / 0
    stand.transfer("pe1", 0x7000000, 8)
    stand.refuse("write", 0x7000000)
    with pytest.raises(HarnessError, match="the guard failed: ZeroDivisionError"):
        stand.guard.settle()


def test_a_storm_is_told_whole_and_what_comes_behind_it_too(stand):
    """Each event is judged: one of another PE behind a thousand of this one must not be lost."""
    thawed(stand)
    for turn in range(1200):
        stand.transfer("pe1", 0x5000 + 8 * turn, 8)
        stand.refuse("write", 0x5000 + 8 * turn)
    events = stand.violate("pe2")
    assert [event.kind for event in events] == ["blocked"] * 1200 + ["isolated"]
    assert [event.iova for event in events[:-1]] == [0x5000 + 8 * turn for turn in range(1200)]
    assert events[-1].device == "pe2"


# -- virtio, whose transfers are in memory


def test_a_virtio_device_is_blamed_by_what_it_was_about_to_be_told():
    where = Topology("v", (Phb(1, (Device("disk", 1, "virtio-blk"),), WINDOW),))
    stand = Stand(where)
    (disk,) = stand.guard.devices.values()
    disk.wish, stand.guard._by_region = True, {"0xbb": disk}
    stand.log.listener = stand.guard
    ring = STORE.format(cpu=0, mr="0xbb", at=0x80003000, value=0, name="virtio-pci-notify-virtio-blk")
    stand.guard.announce(Engine(file="f", ring=Page("r"), iova=0x10000), "disk")
    stand.guard.announce(Burst(file="f", transfers=[Transfer(0x20000, 512, to_memory=True)]), "disk")
    whole = [Shape(WINDOW >> 12)]
    assert disk.flight("write", 0x20000, 4, whole) == (Flight("write", 0x20000, 512), 0x20000)
    assert disk.flight("read", 0x10010, 4, whole) is None
    stand.log.said += [ring]
    stand.guard._guest.log.drain()
    assert disk.flight("read", 0x10010, 4, whole) is not None


def test_a_device_that_cannot_read_its_queue_was_blocked_from_what_it_was_to_do():
    where = Topology("v", (Phb(1, (Device("disk", 1, "virtio-blk"),), WINDOW),))
    stand = Stand(where)
    (disk,) = stand.guard.devices.values()
    disk.wish, disk.rung, stand.log.listener = True, True, stand.guard
    disk.pe.isolation.violate()
    stand.guard.announce(Engine(file="f", ring=Page("r"), iova=0x10000), "disk")
    stand.guard.announce(Dma(file="f", iova=0x20000, size=512, to_memory=True), "disk")
    stand.refuse("read", 0x10800, 2)
    stand.refuse("write", 0x10800, 2)
    (event,) = stand.guard.settle()
    assert (event.kind, event.iova, event.size, event.direction) == ("blocked", 0x20000, 512, "write")


# -- how operations are cut


def test_what_may_touch_a_device_ends_a_chunk():
    look = Look(file="d", what="command")
    dma = Dma(file="d", iova=0, size=8, to_memory=True)
    ops = [Read(what="pins"), look, Read(what="pins"), Read(what="pins"), Together(ops=[dma]), Master(file="d")]
    opens = Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d")
    assert list(chunks([*ops, opens, Read(what="pins")])) == [ops[:2], ops[2:5], ops[5:], [opens], [Read(what="pins")]]


BEFORE = ("write", 0x5000, 8)
"""Refused before the guard proves anew what it sees."""


def test_what_was_refused_before_a_device_came_is_still_to_be_told(stand):
    stand.log.refused = [BEFORE]
    stand.guard.left(stand.guard.devices["pe1b"])
    stand.guard.arrived("pe1b")
    assert stand.log.refused == [BEFORE], "and what the guard's own violation made is not"


def test_what_was_refused_before_a_reset_is_still_to_be_told_and_what_was_before_the_start_is_not(stand):
    stand.log.refused = [BEFORE]
    stand.guard.restarted({"pe1", "pe1b", "pe2"})
    stand.guard.meet()
    assert stand.log.refused == [BEFORE]
    stand.guard.start()
    assert stand.log.refused == []


def test_what_was_refused_before_a_load_is_still_to_be_told():
    before, after = Stand(), Stand()
    before.guard.start()
    after.log.refused = [BEFORE]
    after.guard.resume(before.guard)
    after.guard.prove()
    assert after.log.refused == [BEFORE]
