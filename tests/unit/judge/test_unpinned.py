"""Entries that nobody pinned, and pins that no entry stands for: the fold, the emulator, and what neither can know."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import unpinned
from tceagent.uapi import LAYOUTS, NUMBERS
from tcelab.emulator import EmulatorSession
from tcelab.emulator.addressspaces import SCRATCH, EmulatedRam, Space
from tcelab.emulator.effects_2013 import Seed
from tcelab.emulator.emulatedkernel import EmulatedKernel
from tcelab.emulator.platform import Machine
from tcelab.emulator.process import Process
from tcelab.emulator.profiles import ProfileWithQuirks
from tcelab.emulator.profiles.linux_v1 import LINUX_V1
from tcelab.emulator.profiles.seed2013 import SEED2013
from tcelab.errors import Unsupported
from tcelab.judge import Judge
from tcelab.quirks import CLOSE_STRANDS, UNREGISTERS_IN_USE
from tcelab.run.loop import perform_program

SMALL = unpinned.SMALL


def lived(program, **how):
    session = EmulatorSession(SMALL, seed=5, **how)
    judge = Judge(program, session.facts)
    done = perform_program(program, session, judge)
    return done, judge.verdict(done), judge, session


@pytest.mark.parametrize("name", unpinned.STORIES)
def test_the_fold_and_the_emulator_agree_on_the_tables_and_on_each_pin(name):
    done, verdict, judge, _ = lived(unpinned.program(unpinned.STORIES[name]))
    assert done.ending is None, done.ending.error.report()
    assert [each.message for each in verdict.findings] == []
    assert judge.fold.unknown == []
    assert verdict.evidence.pins >= 3


def readings(name, **how):
    """Pins at each look, from those at the beginning on."""
    done, *_ = lived(unpinned.program(unpinned.STORIES[name]), **how)
    values = [step.outcome.value for step in done.steps if getattr(step.op, "what", "") == "pins"]
    return [value - values[0] for value in values[1:]]


@pytest.mark.parametrize(
    ("name", "pins"),
    [
        ("an entry without permissions is cleared, and nothing unpinned", [2, 2, 0]),
        ("an entry whose page somebody has pinned takes that pin along", [2, 1, 1, 0]),
        ("so does one that a map replaces", [2, 2, 0]),
        ("so does one that is swept when the container goes", [2, 0]),
        ("an entry of its own that a hypercall cleared stays pinned", [2, 1, 1]),
        ("v2 clears an entry that it did not make, and counts nothing", [8, 8, 0, 0]),
        ("v2 replaces one, wherever it leads, and sweeps another", [8, 8, 0, 0]),
    ],
)
def test_pins_are_as_the_kernel_was_seen_to_count_them(name, pins):
    """On Linux 6.12: page pins of /proc/vmstat."""
    assert readings(name) == pins


def test_memory_that_is_counted_as_mapped_for_good_stays_registered():
    name = "v2 counts an entry of its own that a hypercall cleared for good"
    done, verdict, *_ = lived(unpinned.program(unpinned.STORIES[name]))
    assert [step.outcome.errno for step in done.steps if getattr(step.op, "request", "").endswith("UNREGISTER_MEMORY")]
    assert verdict.findings == []
    quirks = (CLOSE_STRANDS, UNREGISTERS_IN_USE)
    assert readings(name, quirks=quirks) == [8, 8, 8, 8]


@pytest.mark.parametrize("name", unpinned.UNDERFLOWS)
def test_a_pin_that_nobody_took_is_not_modelled_and_ends_nothing_by_an_internal_error(name):
    done, verdict, *_ = lived(unpinned.program(unpinned.UNDERFLOWS[name]))
    assert isinstance(done.ending.error, Unsupported)
    assert "given back that nobody took" in done.ending.error.message
    assert (verdict.exit_code, verdict.findings) == (125, [])


@pytest.mark.parametrize("name", unpinned.UNDERFLOWS)
def test_a_kernel_that_gives_back_what_nobody_took_cannot_be_judged_by_the_laws_either(name, monkeypatch):
    """It goes on, and its counter does as the laws say; what became of the page, they do not know."""

    def unpin(ram, frame):
        ram.pins[frame] = ram.pins.get(frame, 0) - 1
        ram.pinned -= 1

    monkeypatch.setattr(EmulatedRam, "unpin", unpin)
    done, verdict, judge, _ = lived(unpinned.program(unpinned.UNDERFLOWS[name]))
    assert done.ending is None
    assert [each.message for each in verdict.findings] == []
    assert len(judge.fold.unknown) == 1
    assert "gave back a pin that nobody took" in judge.fold.unknown[0]
    assert verdict.exit_code == 125


@pytest.mark.parametrize("name", ["unmapped", "swept"])
def test_the_driver_of_2013_has_no_other_pins_to_give_back(name):
    done, verdict, *_ = lived(unpinned.program(unpinned.UNDERFLOWS[name]), profile_name="seed2013")
    assert isinstance(done.ending.error, Unsupported)
    assert verdict.findings == []


def test_the_driver_of_2013_clears_what_it_takes_over():
    ops = [*unpinned.put(0x10000, unpinned.page(0, 0)), *unpinned.put(0x11000, unpinned.page(1)), *unpinned.look("it")]
    done, *_ = lived(unpinned.program([*ops, *unpinned.v1()]), profile_name="seed2013")
    assert isinstance(done.ending.error, Unsupported)
    done, verdict, *_ = lived(unpinned.program([*ops[:1], *ops[2:], *unpinned.v1()]), profile_name="seed2013")
    assert done.ending is None
    assert [each.message for each in verdict.findings if each.law != "outcome"] == []


def test_a_session_that_cannot_be_emptied_says_why():
    *ops, _, _, _, _ = unpinned.UNDERFLOWS["swept"]
    program = unpinned.program(ops)
    session = EmulatorSession(SMALL, seed=5)
    assert perform_program(program, session).ending is None
    with pytest.raises(Unsupported, match="given back that nobody took"):
        session.renew()


# -- what a second reference told


def kernel(profile=LINUX_V1, memlock=1 << 20, uid=1000):
    machine = Machine(SMALL, 4096, 1)
    process = Process(Space(machine.ram), uid=uid, memlock=memlock)
    return EmulatedKernel(machine, ProfileWithQuirks(profile, frozenset()), process), machine


def test_the_scratch_of_an_ioctl_is_no_address_once_it_has_returned():
    own, machine = kernel()
    container = own.open("/dev/vfio/vfio")
    group_status = LAYOUTS["GROUP_GET_STATUS"].pack({})
    assert container >= 0
    pe = next(pe for pe in machine.pes.values() if pe.devices)
    pe.bound.add(next(iter(pe.devices)))
    own.process.uid = 0
    group = own.open(f"/dev/vfio/{pe.group}")
    assert own.ioctl(group, NUMBERS["GROUP_GET_STATUS"], group_status)[:2] == (0, "")
    assert own.ioctl(group, NUMBERS["GROUP_GET_STATUS"], SCRATCH)[:2] == (None, "EFAULT")


@pytest.mark.parametrize(
    ("limit", "told"),
    [((1 << 63) - 1, str((1 << 63) - 1)), (1 << 63, str(-(1 << 63))), ((1 << 64) - 2, "-2")],
)
def test_the_driver_of_2013_tells_a_limit_as_a_signed_number(limit, told):
    said = []
    seed = Seed(SimpleNamespace(say=said.append, page_size=4096), SEED2013, frozenset())
    seed.pe = SimpleNamespace(window_size=1 << 24)
    assert not seed.charge(SimpleNamespace(charge=lambda _: False, memlock=limit))
    assert said == [f"RLIMIT_MEMLOCK ({told}) exceeded"]
