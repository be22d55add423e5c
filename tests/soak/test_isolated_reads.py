"""A guest that never stops reading its devices' registers, while their PEs are isolated and brought back a thousand
times, on a machine that has other things to do: each read gives what the device says or all ones, and the guest lives.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from tcelab.job import setup
from tcelab.program import Rtas
from tcelab.program.topology import Device, Phb, Topology
from tcelab.qemu.fork import Forks
from tcelab.qemu.typist import Typist
from tcelab.run.record import Event

pytestmark = pytest.mark.guest

SMALL = 16 << 20
READS = Topology(
    "reads",
    (
        # Lowest in the address space: to hide it makes one region of four, and all that come after it move up.
        Phb(1, (Device("disk1", slot=3, model="virtio-blk"),), SMALL),
        Phb(2, (Device("pe2", slot=1),), SMALL),
        Phb(3, (Device("pe3", slot=2),), SMALL),
    ),
)
ISOLATIONS = 1000
BUSY = 2 * (os.cpu_count() or 1)
LONGEST = 300
"""Seconds that anything typed may take: the machine is busy on purpose."""
LOOK = 200
"""Isolations from one look at all of the registers to the next."""

COMMON = """
import mmap, os, random, sys
BARS = {"0x11e8": (0, 1 << 20), "0x1042": (4, 1 << 14)}
def devices():
    for name in sorted(os.listdir("/sys/bus/pci/devices")):
        path = "/sys/bus/pci/devices/" + name
        model = open(path + "/device").read().strip()
        if name[:4] in ("0001", "0002", "0003"):
            bar, size = BARS[model]
            yield path, model, bar, size
def registers(path, bar, size):
    file = os.open(path + "/resource%d" % bar, os.O_RDWR | os.O_SYNC)
    return memoryview(mmap.mmap(file, size))
"""
HAMMER = (
    COMMON
    + r"""
def wanted(model):
    # Those that have no effect, in sizes that the device takes when nothing is isolated: an edu takes no less than 4.
    if model == "0x11e8":
        offsets = 0, 4, 8, 0x20, 0x80, 0x84, 0x88, 0x90, 0x98, 0x9c, 0x1000, 0xffff8, 0xffffc
        return [(size, at) for size in (4, 8) for at in offsets if not at % size]
    return [(size, at) for size in (1, 2, 4, 8) for at in (0x10, 0x12, 0x18, 0x2010, 0x3000, 0x3ff8) if not at % size]
reads = []
for path, model, bar, size in devices():
    if os.path.exists(path + "/driver"):
        # The kernel's own driver keeps its registers to itself.
        with open(path + "/driver/unbind", "w") as file:
            file.write(path[-12:])
    config = os.open(path + "/config", os.O_RDWR)
    os.pwrite(config, b"\2\0", 4)
    views = {each: registers(path, bar, size).cast(form) for each, form in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))}
    for each, at in wanted(model):
        view = views[each]
        reads.append((view, at // each, {view[at // each], (1 << 8 * each) - 1}, (path[-12:], each, hex(at))))
waits = [range(random.randrange(1, 60)) for _ in range(61)]
turn = 0
while True:
    random.shuffle(reads)
    for wait in waits:
        for view, at, right, what in reads:
            seen = view[at]
            if seen not in right:
                print("wrong", what, hex(seen), right, flush=True)
            for _ in wait:
                pass
    turn += 1
    with open("/run/turns", "w") as file:
        file.write("%d\n" % turn)
"""
)
LOOK_AT_ALL = (
    COMMON
    + """
import struct
only = sys.argv[1]
for path, model, bar, size in devices():
    if path[-12:-8] != only:
        continue
    area = registers(path, bar, size)
    wrong = set(bytes(area)) != {0xff}
    for at in [*range(0, 64), *range(0x80, 0xa0), *range(size - 16, size - 7)]:
        for form in "BHIQ":
            each = struct.calcsize(form)
            wrong |= area[at : at + each].cast(form)[0] != (1 << 8 * each) - 1
    print("looked", model, "wrong" if wrong else "all ones")
"""
)
PYTHON = "$(ls /usr/bin/python3* | head -n 1) -I -S -B"


@contextmanager
def busy():
    """Two loops that do nothing on each core."""
    with ExitStack() as stack:
        for _ in range(BUSY):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(loop.kill)
        yield


def said(typist, command):
    ended = typist.run(command, LONGEST)
    assert ended is not None, f"not within {LONGEST} s: {command[:60]}"
    assert ended.status == 0, ended.output
    return ended.output


def turns(typist, beyond):
    """How often the reader has read everything, once it is more than that."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        wrong = said(typist, "cat /run/hammered")
        assert wrong == ""
        if (now := int("0" + said(typist, "cat /run/turns 2>/dev/null || true").strip())) > beyond:
            return now
    raise AssertionError(f"the reader reads no more than {beyond} times")


def isolate(session, watched):
    """As a violation does."""
    guard = session._guard
    with guard._lock:
        guard.violated(watched, Event(kind="violation", pe=watched.phb.index, liobn=watched.phb.liobn))
    assert [event.kind for event in guard.settle()] == ["isolated"]


def bring_back(session, watched):
    for option in (2, 3):
        outcome = session.intervene(Rtas(call="ibm,set-eeh-option", device=watched.devices[0].name, option=option), [])
        assert outcome.value == 0


@pytest.mark.parametrize("qemu", ["qemu-11.1", "qemu-10.0", "qemu-7.2"])
def test_a_guest_may_read_registers_just_while_they_are_hidden_or_shown(qemu, tmp_path):
    ready = setup.prepare(setup.MachineChoice(topology=READS, qemu=qemu, isolates=True, guard="freeze"))
    forks = Forks(ready.qemu, ready.options, digest=ready.digest)
    folder = tmp_path / "guest"
    folder.mkdir(mode=0o700)
    with ExitStack() as stack:
        stack.callback(forks.close)
        session = stack.enter_context(forks.open(folder))
        typist = Typist(session, LONGEST)
        for name, text in (("hammer", HAMMER), ("look", LOOK_AT_ALL)):
            said(typist, f"cat >/run/{name}.py <<'END'\n{text}END\n")
        said(typist, f"{PYTHON} /run/hammer.py >/run/hammered 2>&1 &")
        before = turns(typist, 0)
        stack.enter_context(busy())
        pes = list(session._guard.pes.values())
        for number in range(ISOLATIONS):
            watched = pes[number % len(pes)]
            isolate(session, watched)
            if number % LOOK < len(pes):
                looked = said(typist, f"{PYTHON} /run/look.py {watched.phb.index:04x}")
                assert "all ones" in looked, looked
            else:
                time.sleep(random.random() / 50)
            bring_back(session, watched)
            assert session.alive, session.loss().report()
        sys.stdout.write(f"{qemu}: {ISOLATIONS} isolations\n")
        turns(typist, turns(typist, before))
        assert session._guard.settle() == []
