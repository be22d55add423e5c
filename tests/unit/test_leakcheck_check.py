"""A leak check from its first look to its last, on a guest that is told what to do."""

from types import SimpleNamespace

import numpy as np
import pytest

from tcelab.errors import GuestLost, Unsupported
from tcelab.leakcheck import check as module
from tcelab.leakcheck import drivers
from tcelab.leakcheck.check import Check, Plan
from tcelab.leakcheck.result import Result
from tcelab.run import Refusal, Snapshot, TableView
from tcelab.topology import Device

DISK, OTHER = 0x80000100, 0x80000300
DEVICE = Device("disk1", slot=1, model="disk")
RING = {0x1000: 0x5003}


class Toy:
    """A guest with one disk. Commands are functions of it; the driver has a ring for as long as it is bound."""

    ram = 0x1F000000

    def __init__(self, **commands):
        self.devices = {DISK: DEVICE}
        self.tables = {DISK: {}, OTHER: {}}
        self.streamed = None
        self.commands = {drivers.bind(DEVICE): Toy.bind, drivers.unbind(DEVICE): Toy.unbind, drivers.SETTLE: Toy.idle}
        self.commands |= commands
        self.refusals, self.console, self.missing = (), (), {}
        self.hear = None
        self.sees = True
        self.typed = []

    def sees_refusals(self):
        return self.sees

    def listen(self, hear):
        self.hear = hear

    def put(self, ioba, tce, liobn=DISK, told=None):
        self.tables[liobn] = {k: v for k, v in {**self.tables[liobn], ioba: tce}.items() if v}
        told = tce if told is None else told
        self.hear(f"spapr_iommu_pci_put liobn={liobn:#x} ioba={ioba:#x} tce={told:#x} ret=0")

    def bind(self):
        for ioba, tce in RING.items():
            self.put(ioba, tce)

    def unbind(self):
        for ioba in RING:
            self.put(ioba, 0)

    def idle(self):
        pass

    def run(self, command, limit):
        self.typed.append(command)
        status = self.commands[command](self)
        return None if status == "late" else SimpleNamespace(status=status or 0, output=f"did {command}\n")

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
    check = Check(guest, Plan(command="work", settle=0.01, **plan))
    check.perform()
    return check


def laws(check):
    return [finding.law for finding in check.findings]


def test_a_command_whose_mappings_go_again_leaves_nothing():
    guest = Toy(work=io)
    check = checked(guest)
    assert (check.findings, check.could_not, check.status) == ([], [], 0)
    assert guest.typed == [drivers.bind(DEVICE), "work", drivers.SETTLE, drivers.unbind(DEVICE)]
    result = Result(tcelab="", verdict="pass", exit_code=0, command="work")
    check.fill(result)
    (row,) = result.tables
    assert (row.device, row.baseline, row.after, row.unbound) == ("disk1", 1, 1, 0)
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
    check = Check(Toy(), Plan(command="work"))
    check.died(GuestLost("the guest's kernel panicked", kernel_died=True))
    assert laws(check) == ["kernel"]


def test_calls_of_a_long_command_are_followed_before_it_ends(monkeypatch):
    monkeypatch.setattr(module, "_QUEUE", 3)

    def work(guest):
        for _ in range(50):
            io(guest)
            assert len(guest.hear.__self__._heard) <= 4

    assert checked(Toy(work=work)).could_not == []
