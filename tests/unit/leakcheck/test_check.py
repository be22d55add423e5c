"""A leak check from its first look to its last, on a guest that is told what to do."""

from types import SimpleNamespace

import numpy as np
import pytest

from tcelab.errors import GuestLost, Unsupported
from tcelab.leakcheck import check as module
from tcelab.leakcheck import drivers, tracefollower
from tcelab.leakcheck.check import LeakCheck, LeakPlan
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.program.topology import Device
from tcelab.run.record import Refusal, Snapshot, TableView

DISK, OTHER = 0x80000100, 0x80000300
DEVICE = Device("disk1", slot=1, model="disk")
RING = {0x1000: 0x5003}


class Toy:
    """A guest with one disk. Commands are functions of it; the driver has a ring for as long as it is bound."""

    ram, page_size = 0x1F000000, 4096

    def __init__(self, **commands):
        self.devices = {DISK: DEVICE}
        self.tables = {DISK: {}, OTHER: {}}
        self.streamed = None
        self.commands = {drivers.bind(DEVICE): Toy.bind, drivers.unbind(DEVICE): Toy.unbind, drivers.SETTLE: Toy.idle}
        self.commands |= {drivers.listen(): Toy.listens} | commands
        self.refusals, self.console, self.missing, self.words = (), (), {}, ()
        self.api, self.said = b"", {}
        self.hear = None
        self.sees = True
        self.typed = []

    def sees_refusals(self):
        return self.sees

    def listen(self, hear):
        self.hear = hear

    def put(self, ioba, tce, liobn=DISK, told=None, asked="as stored"):
        """What a driver has the kernel do: it asks for a mapping, and the kernel stores an entry."""
        self.tables[liobn] = {k: v for k, v in {**self.tables[liobn], ioba: tce}.items() if v}
        told = tce if told is None else told
        self.hear(f"spapr_iommu_pci_put liobn={liobn:#x} ioba={ioba:#x} tce={told:#x} ret=0")
        if tce and asked and liobn == DISK:
            stored = {1: "TO_DEVICE", 2: "FROM_DEVICE"}.get(tce & 3, "BIDIRECTIONAL")
            self.ask(ioba, stored if asked == "as stored" else asked)

    def put_list(self, ioba, tces, direction):
        self.tables[DISK] = {**self.tables[DISK], **{ioba + i * 4096: tce for i, tce in enumerate(tces)}}
        last = f"iobaN={len(tces) - 1:#x} tceN={tces[-1]:#x} ret=0"
        self.hear(f"spapr_iommu_pci_indirect liobn={DISK:#x} ioba={ioba:#x} tcelist=0x1000 {last}")
        self.ask(ioba, direction, len(tces) * 4096)

    def stuff(self, ioba, entries, status=0):
        end = ioba + entries * 4096
        if not status:
            self.tables[DISK] = {at: tce for at, tce in self.tables[DISK].items() if not ioba <= at < end}
        self.hear(f"spapr_iommu_pci_stuff liobn={DISK:#x} ioba={end:#x} tcevalue=0x0 npages={entries} ret={status}")

    def ask(self, ioba, direction, size=4096, event="dma_map_page"):
        text = f"0001:00:01.0 dir={direction} dma_addr={ioba:x} size={size} phys_addr=1000 attrs="
        self.trace(f"{event}: {text}")

    def raw(self, opcode, ioba, entries, count=1, value=0):
        text = (
            f"(tce_hcall_write+0x0/0x4c0 [tce_hcall]) version=1 count={count} opcode={opcode} liobn={DISK} ioba={ioba}"
        )
        self.trace(f"tcelab_raw: {text} value={value} entries={entries}")

    def trace(self, text):
        self.api += f"              dd-97      [000] .....    12.345678: {text}\n".encode()

    def asked(self):
        api, self.api = self.api, b""
        return api

    def last_words(self):
        words, self.words = self.words, ()
        lines = (*(refusal.line for refusal in self.refusals), *words)
        self.refusals = ()
        return lines

    def bind(self):
        for ioba, tce in RING.items():
            self.put(ioba, tce)

    def unbind(self):
        for ioba in RING:
            self.put(ioba, 0)

    def idle(self):
        pass

    def listens(self):
        pass

    def run(self, command, limit, meanwhile=None):
        if command.startswith("echo tcelab-"):
            self.trace(f"tracing_mark_write: {command.split()[1]}")
            return SimpleNamespace(status=0, output="")
        self.typed.append(command)
        self.meanwhile = meanwhile
        status = self.commands[command](self)
        output = self.said.get(command, f"did {command}\n")
        return None if status == "late" else SimpleNamespace(status=status or 0, output=output)

    def look(self, cut):
        cut()
        views = [view for name in ("live", "stream") for view in self.views(name)]
        seen = Snapshot(tuple(views), self.missing, {}, self.refusals, self.console)
        self.refusals, self.console = (), ()
        return seen

    def views(self, name):
        tables = self.streamed if name == "stream" and self.streamed is not None else self.tables
        for liobn, table in tables.items():
            index = np.array([ioba >> 12 for ioba in sorted(table)], np.uint32)
            words = np.array([table[ioba] for ioba in sorted(table)], np.uint64)
            yield TableView(liobn, name, 4096, index, words)


def io(guest):
    """A transfer that is mapped and unmapped."""
    guest.put(0x9000, 0x7001)
    guest.put(0x9000, 0)


@pytest.fixture(autouse=True)
def no_time(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    monkeypatch.setattr(module.time, "time", lambda: 0.0)


def checked(guest, **plan):
    check = LeakCheck(guest, LeakPlan(command="work", settle=0.01, **plan))
    check.perform()
    return check


def laws(check):
    return [finding.law for finding in check.findings]


def test_a_command_whose_mappings_go_again_leaves_nothing():
    guest = Toy(work=io)
    check = checked(guest)
    assert (check.findings, check.could_not, check.status) == ([], [], 0)
    assert guest.typed == [drivers.listen(), drivers.bind(DEVICE), "work", drivers.SETTLE, drivers.unbind(DEVICE)]
    result = LeakResult(tcelab="", verdict="pass", exit_code=0, command="work")
    check.fill(result)
    (row,) = result.tables
    assert (row.device, row.baseline, row.after, row.unbound) == ("disk1", 1, 1, 0)
    assert result.judged
    assert {(each.direction, each.mappings) for each in result.asked} == {("BIDIRECTIONAL", 1), ("TO_DEVICE", 1)}
    assert result.views["asked stored"] == 2
    assert [(each.phase, each.calls) for each in result.calls] == [("bind", 1), ("command", 2), ("unbind", 1)]
    assert result.views["stream"] == result.views["replay"] > 0


def test_an_entry_that_stays_is_a_leak_and_one_that_outlives_the_driver_as_well():
    check = checked(Toy(work=lambda guest: guest.put(0x9000, 0x7001)))
    (leak,) = check.findings
    assert (leak.law, leak.ioba, leak.tce, leak.outlived) == ("leak", 0x9000, 0x7001, True)
    assert leak.origin.hypercall == "H_PUT_TCE"


def test_a_mapping_left_behind_on_another_pe_is_a_leak():
    check = checked(Toy(work=lambda guest: guest.put(0x5000, 0x7002, liobn=OTHER)))
    (leak,) = check.findings
    assert (leak.liobn, leak.ioba, leak.outlived) == (OTHER, 0x5000, False)


def test_an_entry_that_goes_while_things_settle_is_none():
    check = checked(Toy(work=lambda guest: guest.put(0x9000, 0x7001), **{drivers.SETTLE: lambda g: g.put(0x9000, 0)}))
    assert (check.findings, check.could_not) == ([], [])


def test_a_driver_that_leaves_its_ring_behind_breaks_the_law_of_the_unbind():
    guest = Toy(work=io)
    guest.commands[drivers.unbind(DEVICE)] = Toy.idle
    (left,) = checked(guest).findings
    assert (left.law, left.ioba) == ("unbind", 0x1000)


def test_a_tce_that_breaks_a_law_is_told_although_it_is_gone_when_anybody_looks():
    def work(guest):
        guest.put(0x9000, 0x7002)
        guest.put(0x9000, 0)

    (broken,) = checked(Toy(work=work)).findings
    assert (broken.law, broken.ioba, broken.tce) == ("permission", 0x9000, 0x7002)


def test_an_entry_that_stands_at_two_looks_is_told_once():
    guest = Toy(work=io)
    guest.commands[drivers.bind(DEVICE)] = lambda guest: guest.put(0x1000, 0x5002)
    assert laws(checked(guest)) == ["permission"]


def test_refused_accesses_and_trouble_of_the_kernel_are_findings():
    def work(guest):
        io(guest)
        guest.refusals = (Refusal("write", 0x9000, 4, "Invalid write at addr 0x9000"),)
        guest.console = ("WARNING: CPU: 0 PID: 1",)

    assert laws(checked(Toy(work=work))) == ["kernel", "refusals"]


def test_who_cannot_see_a_refused_access_cannot_say_that_there_was_none():
    guest = Toy(work=io)
    guest.sees = False
    (why,) = checked(guest).could_not
    assert "QEMU did not tell of a DMA that a table forbids" in why


def test_a_trace_that_does_not_make_the_table_is_no_witness():
    check = checked(Toy(work=lambda guest: guest.put(0x9000, 0x7003, told=0x8003)))
    assert "IOBA 0x9000: the trace makes it 0x8003, the table has 0x7003" in check.could_not[0]


def test_two_readings_of_one_table_must_be_equal():
    guest = Toy(work=io)
    guest.streamed = {DISK: {}, OTHER: {}}
    assert "the state stream shows another table" in checked(guest).could_not[0]


def test_a_view_that_is_missing_is_no_pass():
    guest = Toy(work=io)
    guest.missing = {"stream": "QEMU cannot"}
    assert "no stream view: QEMU cannot" in checked(guest).could_not


def test_a_command_that_fails_proves_nothing_unless_its_status_does_not_matter():
    def work(guest):
        io(guest)
        return 3

    assert checked(Toy(work=work)).could_not == ["the command failed with status 3: nothing is proven"]
    assert checked(Toy(work=work), any_status=True).could_not == []


def test_a_command_that_touches_no_table_proves_nothing():
    (why,) = checked(Toy(work=Toy.idle)).could_not
    assert "no hypercall" in why


def test_a_command_that_does_not_end_is_not_judged():
    guest = Toy(work=lambda _: "late")
    check = checked(guest, limit=2)
    assert check.could_not == ["the command did not end within 2 s"]
    assert drivers.unbind(DEVICE) not in guest.typed


def test_what_the_kernel_said_while_a_command_hung_is_a_finding():
    def work(guest):
        guest.console = ("INFO: task dd:1 blocked for more than 120 seconds.",)
        return "late"

    assert laws(checked(Toy(work=work))) == ["kernel"]


def test_a_driver_that_cannot_be_bound_is_said_before_anything_runs():
    guest = Toy(work=io)
    guest.commands[drivers.bind(DEVICE)] = lambda _: 1
    with pytest.raises(Unsupported, match="cannot bind a driver"):
        checked(guest)
    assert "work" not in guest.typed


def test_a_kernel_that_dies_is_a_finding():
    check = LeakCheck(Toy(), LeakPlan(command="work"))
    check.died(GuestLost("the guest's kernel panicked", kernel_died=True))
    assert laws(check) == ["kernel"]


def test_calls_of_a_long_command_are_followed_before_it_ends(monkeypatch):
    monkeypatch.setattr(tracefollower, "_QUEUE", 3)

    def work(guest):
        for _ in range(50):
            io(guest)
            assert len(guest.hear.__self__._heard) <= 4

    assert checked(Toy(work=work)).could_not == []


# -- what drivers asked for


def test_an_entry_that_gives_more_than_its_driver_asked_for_is_told_however_soon_it_goes():
    def work(guest):
        guest.put(0x9000, 0x7003, asked="TO_DEVICE")
        guest.put(0x9000, 0)

    check = checked(Toy(work=work))
    (wrong,) = check.findings
    assert (wrong.law, wrong.ioba, wrong.tce, wrong.origin.hypercall) == ("direction", 0x9000, 0x7003, "H_PUT_TCE")
    assert "gives read-write, and its driver asked for DMA_TO_DEVICE" in wrong.message
    assert check.could_not == []


def test_an_entry_that_gives_less_is_told_as_well():
    def work(guest):
        guest.put(0x9000, 0x7001, asked="FROM_DEVICE")
        guest.put(0x9000, 0)

    assert laws(checked(Toy(work=work))) == ["direction"]


def test_an_entry_within_a_list_is_held_against_the_request_where_it_stands():
    """The trace tells the last one alone."""

    def work(guest):
        guest.put_list(0x9000, [0x7001, 0x8003, 0xA001], "TO_DEVICE")
        guest.meanwhile()
        guest.stuff(0x9000, 3)

    check = checked(Toy(work=work))
    (wrong,) = check.findings
    assert (wrong.law, wrong.ioba, wrong.tce, wrong.origin.number) == ("direction", 0xA000, 0x8003, 2)


def test_what_is_asked_for_is_heard_after_the_entry_was_read_and_judged_all_the_same():
    def work(guest):
        guest.put(0x9000, 0x7003, asked=None)
        guest.meanwhile()
        guest.ask(0x9000, "TO_DEVICE")
        guest.put(0x9000, 0)

    assert laws(checked(Toy(work=work))) == ["direction"]


def test_an_entry_that_no_driver_asked_for_and_a_mapping_without_entry_are_no_pass():
    def more(guest):
        guest.put(0x9000, 0x7003, asked=None)
        guest.put(0x9000, 0)

    (why,) = checked(Toy(work=more)).could_not
    assert f"no driver asked for 1 entry (LIOBN {DISK:#x} IOBA 0x9000)" in why

    def fewer(guest):
        io(guest)
        guest.ask(0x9000, "TO_DEVICE", size=8192)

    (why,) = checked(Toy(work=fewer)).could_not
    assert "no hypercall stored 2 entries" in why


def test_a_kernel_that_tells_nothing_of_its_dma_api_cannot_pass_unless_it_does_not_matter():
    guest = Toy(work=io, **{drivers.listen(): lambda _: 1})
    guest.said[drivers.listen()] = "it has no events/dma\n"
    (why,) = checked(guest).could_not[:1]
    assert "it has no events/dma; with --any-direction" in why
    guest = Toy(work=io)
    assert checked(guest, any_direction=True).could_not == []
    assert drivers.listen() not in guest.typed


def test_events_that_were_lost_are_no_pass():
    def work(guest):
        io(guest)
        guest.api += b"CPU:0 [LOST 12 EVENTS]\n"

    assert "lost: 12 events of the DMA API" in checked(Toy(work=work)).could_not


# -- entries that two mappings have, and the limit


def test_an_entry_that_two_mappings_have_at_once_is_told_with_both():
    def work(guest):
        guest.put_list(0x8000, [0x7001, 0x8001], "TO_DEVICE")
        guest.put(0x9000, 0xB001)
        guest.stuff(0x8000, 2)

    check = checked(Toy(work=work))
    (shared,) = check.findings
    assert (shared.law, shared.ioba, shared.origin.hypercall) == ("shared", 0x9000, "H_PUT_TCE")
    assert "stored by: H_PUT_TCE_INDIRECT of 2 entries from IOBA 0x8000 on, the entry number 2" in shared.message
    assert check.could_not == []


def test_an_entry_that_vfio_puts_in_the_place_of_its_own_is_no_drivers_mapping():
    def work(guest):
        for tce in (0x7003, 0x8003, 0):
            guest.put(0x9000, tce, asked=None)

    check = checked(Toy(work=work))
    assert check.findings == []
    assert "no driver asked for 1 entry" in check.could_not[0]


@pytest.mark.parametrize(("entries", "found"), [(512, []), (513, ["limit"]), (976, ["limit"])])
def test_a_hypercall_of_the_kernel_names_512_entries_at_most(entries, found):
    def work(guest):
        io(guest)
        guest.stuff(0x100000, entries)

    assert laws(checked(Toy(work=work))) == found
    assert laws(checked(Toy(work=work), any_size=True)) == []  # --no-papr


def test_a_hypercall_of_the_kernel_that_is_refused_is_a_finding_also_where_qemu_says_nothing():
    def work(guest):
        io(guest)
        guest.stuff(0x100000, 4, status=-4)
        guest.trace("hcall_exit: opcode=316 retval=-4")

    refused, turned = checked(Toy(work=work)).findings
    assert "H_STUFF_TCE of 4 entries was refused with status -4" in refused.message
    assert "the kernel's H_PUT_TCE_INDIRECT was refused with status -4" in turned.message


def test_hypercalls_that_a_program_makes_itself_are_its_own_affair():
    def work(guest):
        io(guest)
        guest.raw(0x138, 0x100000, 976)
        guest.stuff(0x100000, 976)
        guest.raw(0x138, 0x200000, 0)
        guest.stuff(0x200000, 0, status=-4)
        for tce in (0x7002, 0x8001):
            guest.raw(0x20, 0xE000, 0, value=tce)
            guest.put(0xE000, tce, asked=None)
        guest.put(0xE000, 0)

    check = checked(Toy(work=work))
    assert check.could_not == []
    assert laws(check) == ["permission"]


def test_where_a_program_stored_in_an_entry_that_a_driver_had_nobody_can_tell_whose_it_was():
    def work(guest):
        guest.put(0x9000, 0x7003, asked="TO_DEVICE")
        guest.put(0x9000, 0)
        guest.raw(0x20, 0x9000, 0, value=0x8003)
        guest.put(0x9000, 0x8003, asked=None)
        guest.put(0x9000, 0)

    check = checked(Toy(work=work))
    assert check.findings == []
    assert "which were a program's own and which a driver's" in check.could_not[0]


def test_of_another_call_than_the_one_that_a_program_made_the_kernel_is_told():
    def work(guest):
        io(guest)
        guest.raw(0x138, 0x100000, 976)
        guest.stuff(0x100000, 976)
        guest.stuff(0x500000, 976)

    (large,) = checked(Toy(work=work)).findings
    assert (large.law, large.ioba) == ("limit", 0x500000)


def test_where_programs_calls_are_not_told_one_by_one_nobody_can_tell_whose_a_large_one_is():
    def work(guest):
        io(guest)
        guest.raw(0x138, 0x100000, 1, count=7)
        guest.stuff(0x100000, 976)

    check = checked(Toy(work=work))
    assert check.findings == []
    assert "1 hypercalls of more than 512 entries may be the kernel's or a program's" in check.could_not[0]


# -- ends before the end


def hangs(guest):
    io(guest)
    return "late"


def test_a_command_that_hangs_because_its_dma_was_refused_is_a_finding_with_what_was_refused():
    guest = Toy(work=hangs)
    guest.words = ("virtio: bogus descriptor or out of resources",)
    (refused,) = checked(guest).findings
    assert (refused.law, refused.message) == ("refusals", "virtio: bogus descriptor or out of resources")


def test_what_was_refused_while_a_driver_was_bound_is_a_finding_although_it_cannot_be_bound():
    def bind(guest):
        guest.put(0x9000, 0x7003, asked="TO_DEVICE")
        guest.refusals = (Refusal("write", 0x9000, 4, "Invalid write at addr 0x9000"),)
        return "late"

    guest = Toy(work=io, **{drivers.bind(DEVICE): bind})
    check = LeakCheck(guest, LeakPlan(command="work", settle=0.01))
    with pytest.raises(Unsupported):
        check.perform()
    assert laws(check) == ["refusals", "direction"]


def test_what_was_seen_before_the_guest_was_lost_is_judged():
    def work(guest):
        guest.put(0x9000, 0x7002)
        guest.refusals = (Refusal("read", 0x9000, 4, "Invalid read at addr 0x9000"),)
        raise GuestLost("the guest's kernel panicked", kernel_died=True)

    check = LeakCheck(Toy(work=work), LeakPlan(command="work", settle=0.01))
    with pytest.raises(GuestLost):
        check.perform()
    assert laws(check) == ["refusals", "permission"]
    result = LeakResult(tcelab="", command="work")
    check.fill(result)
    assert not result.judged


def test_a_command_that_was_to_store_long_lists_and_did_not_proves_nothing():
    (why,) = checked(Toy(work=io), expect_entries=512).could_not
    assert why == "no hypercall of the command stored 512 entries at once: 0 at most"
