"""Forks of one base: each is a guest of its own, with devices that work, and leaves nothing."""

import json
import secrets
import sys
import time
from contextlib import ExitStack
from itertools import chain, count

import msgspec
import pytest

import counted
from calls import Call
from tcelab.image import bases
from tcelab.image.store import cache_dir
from tcelab.job import setup
from tcelab.papr import tce, window
from tcelab.program.topology import SPARE, topology
from tcelab.qemu.channel import decode
from tcelab.qemu.fork import Forks
from tcelab.qemu.limits import Limits
from tcelab.qemu.portal import portal
from tcelab.testing.pseries import Pseries

pytestmark = pytest.mark.guest

TWO = topology("two-pe")
COMMAND, BAR0 = 0x04, 0x10


@pytest.fixture(scope="module")
def forks():
    ready = setup.prepare(setup.MachineChoice(topology=TWO))
    made = Forks(ready.qemu, ready.options, digest=ready.digest)
    yield made
    made.close()


@pytest.fixture
def fork(forks, tmp_path):
    """Makes a fork, which ends with the test."""
    numbers = count()
    with ExitStack() as stack:

        def make():
            folder = tmp_path / f"fork-{next(numbers)}"
            folder.mkdir(mode=0o700)
            return stack.enter_context(forks.open(folder))

        yield make


def base_of(session):
    return cache_dir() / "bases" / session.facts.versions["base"]["key"]


def hello(session):
    """What the guest's agent says of itself, asked anew."""
    number = session._next()
    request = {"id": number, "hello": {"nonce": secrets.token_bytes(16).hex()}}
    return decode(portal().call(session.guest.hello(msgspec.json.encode(request))), number)["hello"]


def test_forks_are_the_same_guest(fork):
    first, second = (fork().facts.versions for _ in range(2))
    assert first["guest"] == second["guest"]
    assert first["agent"] == second["agent"]
    assert first["base"] == second["base"]


def test_two_forks_draw_different_random_numbers(fork):
    sessions = [fork(), fork()]
    drawn = [(session.drawn, hello(session)["drawn"]) for session in sessions]
    assert len({*chain(*drawn)}) == 4
    assert len({session.facts.nonce for session in sessions}) == 2


def test_a_fork_has_the_clock_of_the_host_and_keeps_it(fork):
    session = fork()
    for _ in range(2):
        before = time.time()
        clock = hello(session)["clock"]
        assert before - 1 < clock < time.time() + 1
        time.sleep(1.5)  # a clock that stands shows


def test_what_one_fork_does_is_in_no_other_and_not_in_the_base(fork):
    first, before = fork(), fork()
    record = msgspec.json.decode((base_of(first) / "base.json").read_bytes(), type=bases.Base)
    guest = Pseries(first, TWO, "first")
    pe, buffer = guest.pe("pe1"), guest.buffer(32)
    pe.open().map(buffer, iova=0x10000, pages=32)
    assert len(guest.table(pe)) == 32
    pages = [first.guest.ram.read(frame, 4096) for frame in buffer.frames]
    assert len({*pages}) == 32
    for other in (before, fork()):
        seen = Pseries(other, TWO, "other")
        assert {liobn: len(table) for liobn, table in seen.tables().items()}[pe.liobn] == 0
        assert not {*pages} & {other.guest.ram.read(frame, 4096) for frame in buffer.frames}
        assert seen.conclude().findings == []
    assert guest.conclude().findings == []
    for name, stored in record.files.items():
        assert bases._content(base_of(first) / name) == stored.sha256
    assert bases.problems(base_of(first), record) == ""


def test_a_device_decodes_its_addresses_in_a_fork_as_it_did_in_the_base(fork):
    """What a kernel wrote into a device's configuration space is put back, as QEMU itself sees it: it does not save it,
    and not every driver writes it again. The spare device was in use before the base was saved.
    """
    session = fork()
    record = msgspec.json.decode((base_of(session) / "base.json").read_bytes(), type=bases.Base)
    buid = window.buid(SPARE.index)
    registers = {each.offset: each.value for each in record.registers if each.buid == buid}
    assert registers[COMMAND] & 2
    told = portal().call(session.guest.qmp("human-monitor-command", **{"command-line": "info pci"}))
    (spare,) = [part for part in told.split("  Bus ") if 'id "spare"' in part]
    assert f"BAR0: 32 bit memory at {registers[BAR0]:#x} [" in spare


def test_the_devices_of_every_pe_carry_data_both_ways_in_a_fork(fork):
    session = fork()
    guest = Pseries(session, TWO, "dma")
    for device in TWO.devices:
        container, buffer = guest.pe(device.name).open(), guest.buffer(2, seed=2)
        container.map(buffer, iova=0, permissions=tce.READ)
        container.map(buffer, iova=4096, page=1, permissions=tce.WRITE)
        source, sink = (session.guest.ram.read(frame, 1024) for frame in buffer.frames)
        assert source != sink
        container.dma(0, 1024, to_memory=False)
        container.dma(4096, 1024, to_memory=True)
        assert [session.guest.ram.read(frame, 1024) for frame in buffer.frames] == [source, source]


def test_the_console_of_a_fork_begins_with_the_boot(fork):
    session = fork()
    boot = (base_of(session) / "console").read_bytes()
    assert b"Linux version 6." in boot
    assert (session.guest.folder / "console.log").read_bytes().startswith(boot)


def test_ten_forks_leave_nothing_in_the_process_that_had_them(fork, tmp_path):
    session = fork()  # there is a base, then
    (tmp_path / "forks").mkdir()
    program = (sys.executable, counted.__file__, tmp_path / "forks", 1, 11)
    call = Call(command=tuple(map(str, program)), state=tmp_path)
    assert call.end() == 0, call.said
    call.assert_nothing_is_left()
    first, last, closed = (json.loads(line) for line in call.out.splitlines())
    assert last["notes"] == []
    assert max(last["closing"]) < Limits().close, "none had to be killed"
    for what in ("descriptors", "tasks", "threads", "children", "artefacts", "cache"):
        assert last[what] == first[what], what
    assert last["children"] == []
    base = {str(path) for path in base_of(session).iterdir()}
    assert base & {*last["descriptors"]}
    assert not base & {*closed["descriptors"]}
    assert all(name in {"MainThread", "tcelab-loop"} for name in closed["threads"])
    assert base == {*last["cache"]}
