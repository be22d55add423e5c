"""Isolation on a real guest, by its effects: what reads, what moves, what stays. What is expected is typed here, and
nothing of it comes from the model. Guards that are broken on purpose are each found out.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager

import msgspec
import pytest

from tcelab.emulator.reference import second_opinion
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.program import Dma, Look, Master, Page, Program, Rtas, Together
from tcelab.program.topology import Device, Phb, Topology
from tcelab.qemu import qemusession as session_module
from tcelab.qemu.fork import Forks
from tcelab.qemu.guard import Guard
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

WINDOW = 16 << 20
TRIO = Topology(
    "trio",
    (
        Phb(1, (Device("pe1", slot=1), Device("pe1b", slot=3)), WINDOW),
        Phb(2, (Device("pe2", slot=2),), WINDOW),
    ),
)
BASE = 0x40000
"""Bus address of the first page that is mapped; each PE has four."""
BEYOND = WINDOW + 0x5000

EDU, ONES = 0x010000ED, 0xFFFFFFFF
MASTER, NO_MASTER = 0x0006, 0x0002
LOST = 0xFFFFFFFFFFFFFFFF
"""What a transfer gives whose device cannot be reached."""

THAW_MMIO = ("ibm,set-eeh-option", 2)
THAW_DMA = ("ibm,set-eeh-option", 3)
HOT = ("ibm,set-slot-reset", 1)
FUNDAMENTAL = ("ibm,set-slot-reset", 3)
DEACTIVATE = ("ibm,set-slot-reset", 0)
CONFIGURE = ("ibm,configure-pe", 0)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Forks of one booted guest, by what the guard is to do."""
    made = {}

    def of(guard):
        if guard not in made:
            choice = setup.MachineChoice(topology=TRIO, isolates=True, guard=guard)
            ready = setup.prepare(choice)
            made[guard] = Forks(ready.qemu, ready.options, digest=ready.digest)
        return made[guard]

    yield of
    for each in made.values():
        each.close()


@pytest.fixture
def judged(forks, tmp_path, monkeypatch):
    """Run operations on a guest of its own: the verdict, and what each operation gave."""

    @contextmanager
    def guest(guard):
        folder = tmp_path / "guest"
        folder.mkdir(mode=0o700)
        session = forks(guard).open(folder)
        try:
            yield session
        finally:
            session.close()

    def done(*ops, guard="freeze", broken=None, begin=set_up):
        if broken is not None:
            monkeypatch.setattr(session_module, "Guard", broken)
        program = Program(name="isolation", topology=TRIO, isolation=True, ops=[*begin(), *ops, *b.checkpoint("end")])
        with guest(guard) as session:
            judge = Judge(program, session.facts, references=second_opinion(TRIO, session.facts))
            record = perform_program(program, session, judge)
            return judge.verdict(record), record

    return done


def set_up():
    """Both PEs with four pages each, full of data that nothing else has; each device masters the bus."""
    ops = [*b.buffer("m", 16, 7)]
    for number, pe in enumerate(b.pes(TRIO, "i")):
        ops += [*b.bind(pe), *b.open_container(pe), *b.enable(pe)]
        ops += b.tag(Page("m", 8 * number), 4, pe.liobn, BASE, number)
        ops += b.map_dma(pe, Page("m", 8 * number), BASE, 4, 3)
        ops += mastering(pe)
    return [*ops, *b.checkpoint("set up", stream=True)]


def mastering(pe):
    """Each of its devices, by its name, which masters the bus."""
    ops = []
    for device in pe.phb.devices:
        fields = {"name": device.name}
        ops.append(b.Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=device.name))
        ops.append(Master(file=device.name, on=True, expect=MASTER))
    return ops


def dma(device, iova=BASE, size=8, *, to_memory=True, expect=0, offset=0):
    return Dma(file=device, iova=iova, size=size, to_memory=to_memory, offset=offset, expect=expect)


def looks(device, *, identity, command):
    return [
        Look(file=device, what="identity", expect=identity),
        Look(file=device, what="command", expect=command),
    ]


def rtas(service, expect=0, device="pe1"):
    call, option = service
    return Rtas(call=call, device=device, option=option, expect=expect)


def goes_on(device):
    """Its registers and its DMA work, in both directions: what it reads from one page it writes to another."""
    out = looks(device, identity=EDU, command=MASTER)
    return [*out, dma(device, to_memory=False, size=64), dma(device, BASE + 0x1000, 64), *b.checkpoint("goes on")]


def stopped(*devices):
    out = []
    for device in devices:
        out += looks(device, identity=ONES, command=NO_MASTER)
        out += [dma(device, expect=LOST), dma(device, to_memory=False, expect=LOST)]
    return [*out, *b.checkpoint("stopped")]


def thawed_mmio(*devices):
    """Registers can be reached; DMA, even where it is mapped, goes nowhere."""
    out = []
    for device in devices:
        out += [*looks(device, identity=EDU, command=NO_MASTER), dma(device), dma(device, to_memory=False)]
    return [*out, *b.checkpoint("MMIO thawed")]


def normal(*devices):
    return [op for device in devices for op in goes_on(device)]


VIOLATION = [dma("pe1", BEYOND), *b.checkpoint("violated")]
WHOLE_STORY = [
    *goes_on("pe2"),
    *VIOLATION,
    *stopped("pe1", "pe1b"),
    *goes_on("pe2"),
    rtas(THAW_DMA, expect=-1),
    *stopped("pe1", "pe1b"),
    Master(file="pe1b", on=True),
    *stopped("pe1b"),
    rtas(THAW_MMIO),
    *thawed_mmio("pe1", "pe1b"),
    *goes_on("pe2"),
    rtas(THAW_DMA),
    *normal("pe1", "pe1b", "pe2"),
]


def laws(verdict):
    return {finding.law for finding in verdict.findings}


def words(verdict):
    return "\n".join(finding.message for finding in verdict.findings)


def test_a_violation_isolates_the_whole_pe_and_nothing_else_until_it_is_thawed(judged):
    verdict, record = judged(*WHOLE_STORY)
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not
    (event,) = next(step.outcome.events for step in record.steps if step.outcome and step.outcome.events)
    assert (event.kind, event.pe, event.device, event.iova, event.direction) == (
        "isolated",
        1,
        "pe1",
        BEYOND,
        "write",
    )


@pytest.mark.parametrize("reset", [HOT, FUNDAMENTAL], ids=["hot", "fundamental"])
def test_a_reset_and_a_configuration_bring_it_back_once_its_drivers_want_the_bus(judged, reset):
    verdict, _ = judged(
        dma("pe1b", BEYOND, to_memory=False),
        *stopped("pe1", "pe1b"),
        rtas(reset),
        *stopped("pe1", "pe1b"),
        rtas(THAW_MMIO, expect=-1),
        rtas(CONFIGURE, expect=-1),
        rtas(DEACTIVATE),
        *stopped("pe1"),
        rtas(CONFIGURE),
        *looks("pe1", identity=EDU, command=NO_MASTER),
        *looks("pe1b", identity=EDU, command=NO_MASTER),
        Master(file="pe1", on=True, expect=MASTER),
        Master(file="pe1b", on=True, expect=MASTER),
        *normal("pe1", "pe1b", "pe2"),
    )
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not


def test_two_violations_at_once_isolate_two_pes_and_each_is_brought_back_alone(judged):
    both = Together(ops=[dma("pe1", BEYOND, expect=None), dma("pe2", BEYOND + 0x1000, expect=None)], expect=0)
    verdict, _ = judged(
        both,
        *stopped("pe1", "pe1b", "pe2"),
        rtas(THAW_MMIO, device="pe2"),
        rtas(THAW_DMA, device="pe2"),
        *goes_on("pe2"),
        *stopped("pe1", "pe1b"),
    )
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not


def test_of_two_devices_that_go_to_one_address_at_once_neither_is_blamed(judged):
    """Nobody can say who did it, so nobody can judge."""
    both = Together(ops=[dma("pe1", BEYOND, expect=None), dma("pe2", BEYOND, expect=None)])
    verdict, _ = judged(both)
    assert any("pe1 and pe2 both have a transfer there" in reason for reason in verdict.could_not)


def test_a_pe_stays_isolated_when_its_container_is_released_and_opened_anew(judged):
    pe = next(iter(b.pes(TRIO, "i")))
    fields = {"name": "pe1"}
    verdict, _ = judged(
        *VIOLATION,
        *b.close("pe1", "pe1b", pe.group, pe.container),
        *b.checkpoint("released"),
        *b.open_container(pe),
        *b.enable(pe),
        *b.map_dma(pe, Page("m", 0), BASE, 4, 3),
        b.Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into="pe1"),
        Master(file="pe1", on=True),
        *looks("pe1", identity=ONES, command=NO_MASTER),
        dma("pe1", expect=LOST),
        *goes_on("pe2"),
        rtas(THAW_MMIO),
        rtas(THAW_DMA),
        *goes_on("pe1"),
    )
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not


def test_a_second_violation_isolates_again_and_is_told_again(judged):
    detail = ("ibm,slot-error-detail", 1)
    again = [*VIOLATION, rtas(detail), rtas(detail, expect=1), rtas(THAW_MMIO), rtas(THAW_DMA)]
    verdict, record = judged(rtas(detail, expect=1), *again, *again, *goes_on("pe1"))
    assert verdict.result == "pass", verdict.findings or verdict.could_not
    kinds = [event.kind for step in record.steps if step.outcome for event in step.outcome.events]
    assert kinds == ["isolated", "isolated"]


# -- guards that do not guard


def test_without_a_guard_nothing_is_isolated_and_that_is_found(judged):
    verdict, _ = judged(*VIOLATION, *stopped("pe1"), guard="off")
    assert (verdict.result, verdict.exit_code) == ("finding", 1)
    assert "isolation" in laws(verdict)
    assert "PE 1 must be isolated" in words(verdict)


def test_a_guard_that_only_observes_tells_who_did_it_and_is_no_pass(judged):
    verdict, record = judged(*VIOLATION, guard="observe")
    kinds = [event.kind for step in record.steps if step.outcome for event in step.outcome.events]
    assert kinds == ["violation"]
    assert verdict.exit_code == 1
    assert "PE 1 must be isolated" in words(verdict)


class Neighbour(Guard):
    """Isolates the PE beside it as well, and does not say so."""

    def isolated(self, watched):
        for other in self.pes.values():
            other.isolation.violate()
        return list(self.devices.values())


class MissesTheSibling(Guard):
    """Isolates the device that did it, alone."""

    def demands(self, device):
        return [] if device.name == "pe1b" else super().demands(device)


class LetsItBe(Guard):
    """Does nothing when the guest sets bus master again."""

    def changed(self, device):
        pass


class TellsAndLetsItBe(Guard):
    """Says that it undid it, and did not."""

    def again(self, device):
        return []


class AnyOrder(Guard):
    """Thaws DMA before MMIO."""

    def call(self, op):
        if (op.call, op.option) == THAW_DMA:
            super().call(msgspec.structs.replace(op, option=2))
        return super().call(op)


class LeavesMmioOpen(Guard):
    """Stops DMA alone."""

    def demands(self, device):
        return [(register, value) for register, value in super().demands(device) if register.offset != 0x30]


class LeavesDmaOn(Guard):
    """Hides the registers alone; what was thawed for MMIO goes on with its DMA."""

    def demands(self, device):
        return [(register, value) for register, value in super().demands(device) if register.offset != 0x04]


class NeverThaws(Guard):
    """Says that DMA passes again, and keeps it stopped."""

    def thaw(self, watched, then):
        watched.isolation = then


class BlamesTheOther(Guard):
    """Isolates the wrong PE."""

    def violated(self, watched, event):
        other = next(each for each in self.pes.values() if each is not watched)
        names = {"pe": other.phb.index, "liobn": other.phb.liobn, "device": other.devices[0].name}
        super().violated(other, msgspec.structs.replace(event, **names))


class Trigger(Guard):
    """Isolates where nothing was violated."""

    def settle(self):
        events = super().settle()
        if not events and self.devices["pe2"].command & 4:
            self.pes[2].isolation.violate()
            self._act(self.pes[2].devices)
            super().settle()
        return events


@pytest.mark.parametrize(
    "broken",
    [
        Neighbour,
        MissesTheSibling,
        LetsItBe,
        TellsAndLetsItBe,
        AnyOrder,
        LeavesMmioOpen,
        LeavesDmaOn,
        NeverThaws,
        BlamesTheOther,
        Trigger,
    ],
)
def test_a_broken_guard_is_found_out(judged, broken):
    """By effects alone: take away what the guard says of itself, and it is found all the same."""
    verdict, _ = judged(*WHOLE_STORY, broken=broken)
    assert verdict.exit_code == 1, verdict.could_not
    assert laws(verdict) & {"outcome", "isolation", "memory", "tag"}


# -- windows of 64 bits


UP = 1 << 59
HOLE_UP = UP + 0x2005000
"""No device has a transfer at its offset in the other window."""


def with_windows():
    """As `set_up`, of containers of type v2: each PE has the four pages in a window above as well."""
    ops = [*b.buffer("m", 16, 7)]
    for number, pe in enumerate(b.pes(TRIO, "i")):
        ops += [*b.bind(pe), *b.open_container(pe, b.SPAPR_TCE_V2)]
        ops += b.ask(pe, "SPAPR_REGISTER_MEMORY", vaddr=Page("m"), size=16 * 4096)
        ops += b.ask(pe, "SPAPR_TCE_CREATE", page_shift=12, window_size=1 << 28, levels=1)
        ops += b.tag(Page("m", 8 * number), 4, pe.liobn, BASE, number)
        for at in (BASE, UP + BASE):
            ops += b.map_dma(pe, Page("m", 8 * number), at, 4, 3)
        ops += mastering(pe)
    return [*ops, *b.checkpoint("set up", stream=True)]


def up_and_down(device):
    """It reads by one window and writes by the other."""
    return [dma(device, UP + BASE, 64, to_memory=False), dma(device, BASE + 0x1000, 64), *goes_on(device)]


ABOVE = [
    *up_and_down("pe2"),
    dma("pe1b", HOLE_UP),
    *b.checkpoint("violated"),
    *stopped("pe1", "pe1b"),
    *up_and_down("pe2"),
    rtas(THAW_MMIO),
    rtas(THAW_DMA),
    *up_and_down("pe1"),
    *up_and_down("pe1b"),
]


REMOVED = [
    *b.ask(b.pes(TRIO, "i")[0], "SPAPR_TCE_REMOVE", start_addr=UP),
    *normal("pe1"),
    dma("pe1", UP + BASE),
    *stopped("pe1", "pe1b"),
    *up_and_down("pe2"),
]
"""What was mapped in a window that is removed violates it; the other window is as good as before."""


def test_a_violation_of_a_window_above_isolates_the_whole_pe_and_nothing_else(judged):
    verdict, record = judged(*ABOVE, *REMOVED, begin=with_windows)
    assert (verdict.findings, verdict.result) == ([], "pass"), verdict.could_not
    events = [event for step in record.steps if step.outcome for event in step.outcome.events]
    first, last = (event for event in events if event.kind == "isolated")
    assert (first.pe, first.liobn, first.device, first.iova) == (1, 0x80000101, "pe1b", HOLE_UP)
    assert (first.reason, first.entry) == ("no entry", 0)
    assert (last.pe, last.liobn, last.device, last.iova) == (1, 0x80000100, "pe1", UP + BASE)
    assert (last.reason, last.entry) == ("outside the window", None)


class LooksBelow(Guard):
    """Knows the windows that a machine starts with, and no others."""

    def refused(self, direction, address, size):
        high = [each for each in self.devices.values() for flight in each.flights if flight.iova >= UP]
        if not high:
            super().refused(direction, address, size)


class TellsTheWindowBelow(Guard):
    """Blames the right PE, and names the wrong window."""

    def violated(self, watched, event):
        super().violated(watched, msgspec.structs.replace(event, liobn=watched.phb.liobn))


@pytest.mark.parametrize("broken", [LooksBelow, TellsTheWindowBelow, BlamesTheOther])
def test_a_guard_that_is_broken_for_windows_above_is_found_out(judged, broken):
    verdict, _ = judged(*ABOVE, broken=broken, begin=with_windows)
    assert verdict.exit_code == 1, verdict.could_not
    assert "isolation" in laws(verdict)


# -- what may go wrong meanwhile


class KillsQemu(Guard):
    """QEMU dies just when a PE is to be isolated."""

    def isolated(self, watched):
        os.kill(self._guest.pid, signal.SIGKILL)
        return super().isolated(watched)


class LosesThePort(Guard):
    """The test port goes away just when a PE is to be isolated."""

    def isolated(self, watched):
        self._guest.qtest._end.shutdown(socket.SHUT_RDWR)
        return super().isolated(watched)


@pytest.mark.parametrize(
    ("broken", "words"),
    [(KillsQemu, "QEMU was killed by SIGKILL"), (LosesThePort, "QEMU closed its test port")],
)
def test_when_nobody_can_isolate_any_more_nobody_judges_and_that_is_said_at_once(judged, broken, words):
    verdict, record = judged(dma("pe1", BEYOND, expect=None), broken=broken)
    assert (verdict.result, verdict.exit_code) == ("could-not-judge", 125)
    assert words in verdict.could_not[0]
    assert len(record.steps) < len(record.program.ops)


def test_what_the_guest_tries_while_isolated_changes_nothing(judged):
    """Bus master again and again, a reset of the device, its driver's file closed and opened."""
    pe = next(iter(b.pes(TRIO, "i")))
    insist = [op for _ in range(20) for op in (Master(file="pe1", on=False), Master(file="pe1", on=True))]
    fields = {"name": "pe1b"}
    verdict, _ = judged(
        *VIOLATION,
        *insist,
        b.Ioctl(file="pe1", request="DEVICE_RESET", expect="EINVAL"),
        *stopped("pe1", "pe1b"),
        *b.close("pe1b"),
        b.Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into="pe1b"),
        Master(file="pe1b", on=True),
        *stopped("pe1", "pe1b"),
        *goes_on("pe2"),
        rtas(THAW_MMIO),
        rtas(THAW_DMA),
        *normal("pe1", "pe1b"),
    )
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not


def test_a_storm_of_refusals_is_kept_up_with(judged):
    """Two devices at once, 4 KiB each time, while DMA is stopped: thousands of lines in a tenth of a second."""
    sizes = [dma("pe1", BEYOND, 4000, expect=None), dma("pe1b", BEYOND + 0x10000, 4000, expect=None)]
    storm = [Together(ops=sizes, expect=0) for _ in range(20)]
    verdict, record = judged(*VIOLATION, rtas(THAW_MMIO), *storm, rtas(THAW_DMA), *normal("pe1", "pe1b", "pe2"))
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not
    kinds = [event.kind for step in record.steps if step.outcome for event in step.outcome.events]
    assert kinds == ["isolated", *["blocked"] * 40]
