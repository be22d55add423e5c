"""What guests have executed is added up; what is not known is a reason."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import pytest
from codes import BLR, NOP, beq, code

from tcelab.coverage.cover import NOTHING, Places
from tcelab.coverage.covermap import EXECUTED, FELL, HEADER, TOOK, CoverMap
from tcelab.coverage.recorder import MODULES, Function, Recorder, Target

START = 0xC000000000000000
AT = START + 0x10000
MODULE = MODULES[0][0] + 0x5000
CODE = code([NOP, beq(8), BLR, BLR])
"""Blocks at 0, 8 and 12; a branch at 4."""


@pytest.fixture
def recorder():
    return Recorder(
        [
            Target("file.c", "", [Function("f", AT, CODE, {}), Function("g", AT + 0x100, CODE, {})]),
            Target("mod", "mod", [Function("m", 0x40, CODE, {})]),
        ],
        START,
    )


class Plugin:
    """What QEMU's plugin does to the file, by the descriptor that it inherits."""

    def __init__(self, guest):
        size = os.fstat(guest.fd).st_size
        self._memory = mmap.mmap(guest.fd, size)
        magic, told, count, _ = struct.unpack_from("<4Q", self._memory)
        assert (magic, told) == (0x54434543, size)
        self.ranges = [struct.unpack_from("<3Q", self._memory, 32 + 24 * number) for number in range(count)]
        struct.pack_into("<Q", self._memory, 24, 7)

    def executes(self, address, *bits):
        for number, each in enumerate(bits):
            for first, last, at in self.ranges:
                if first <= address + 4 * number < last:
                    self._memory[at + (address + 4 * number - first) // 4] |= each


def places(module=MODULE, start=START):
    return Places({"mod": {".text": module}} if module else {}, start)


def opened(recorder, *, anew=True, where=None):
    guest = recorder.guest()
    plugin = Plugin(guest)
    guest.located(where or places())
    guest.begin(anew=anew)
    return guest, plugin


def lacks(recorder, name):
    return next(each for unit in recorder.result().units for each in unit.functions if each.name == name)


def test_blocks_and_outcomes_that_no_guest_has_seen_are_named(recorder):
    guest, plugin = opened(recorder)
    plugin.executes(AT, EXECUTED, EXECUTED | FELL, EXECUTED)
    guest.close()
    f = lacks(recorder, "f")
    assert (f.blocks, f.never, f.untaken, f.unfallen) == (3, [12], [4], [])
    assert lacks(recorder, "g").reached == 0
    assert recorder.result().guests == 1


def test_what_several_guests_have_executed_is_added_up(recorder):
    for bits in ((EXECUTED, EXECUTED | FELL, EXECUTED, 0), (EXECUTED, EXECUTED | TOOK, 0, EXECUTED)):
        guest, plugin = opened(recorder)
        plugin.executes(AT, *bits)
        guest.close()
    assert lacks(recorder, "f").never == []
    assert lacks(recorder, "f").seen == 2
    assert recorder.result().missing == []


def test_what_a_fork_did_before_it_was_handed_out_does_not_count(recorder):
    guest = recorder.guest()
    plugin = Plugin(guest)
    plugin.executes(AT, EXECUTED, EXECUTED, EXECUTED, EXECUTED)
    guest.located(places())
    guest.begin(anew=True)
    guest.close()
    assert lacks(recorder, "f").reached == 0


def test_the_boot_of_a_guest_that_is_not_forked_counts(recorder):
    guest = recorder.guest()
    Plugin(guest).executes(AT, EXECUTED, EXECUTED, EXECUTED, EXECUTED)
    guest.located(places())
    guest.begin(anew=False)
    guest.close()
    assert lacks(recorder, "f").reached == 3


def test_a_guest_that_was_never_handed_out_does_not_count(recorder):
    guest = recorder.guest()
    Plugin(guest).executes(AT, EXECUTED, EXECUTED, EXECUTED, EXECUTED)
    guest.close()
    assert recorder.result().guests == 0
    assert lacks(recorder, "f").reached == 0


def test_a_module_is_counted_where_it_lies_in_that_guest(recorder):
    for address in (MODULE, MODULE + 0x100000):
        guest, plugin = opened(recorder, where=places(address))
        plugin.executes(address + 0x40, EXECUTED, EXECUTED | TOOK)
        guest.close()
        assert lacks(recorder, "m").never == [8, 12]


def test_a_module_that_the_next_kernel_loads_elsewhere_is_counted_in_both_places(recorder):
    guest, plugin = opened(recorder)
    plugin.executes(MODULE + 0x40, EXECUTED, EXECUTED | FELL, EXECUTED)
    guest.ended()
    plugin.executes(MODULE + 0x8040, EXECUTED, EXECUTED | TOOK, 0, EXECUTED)
    guest.located(places(MODULE + 0x8000))
    guest.close()
    assert lacks(recorder, "m").never == []
    assert recorder.result().guests == 1


def test_what_a_kernel_executed_is_none_of_the_next_ones(recorder):
    guest, plugin = opened(recorder)
    plugin.executes(MODULE + 0x8040, EXECUTED, EXECUTED, EXECUTED, EXECUTED)  # another module's, there
    guest.ended()
    guest.located(places(MODULE + 0x8000))
    guest.close()
    assert lacks(recorder, "m").reached == 0


def test_a_kernel_that_ends_before_it_says_where_its_modules_lie_is_told(recorder):
    guest, _ = opened(recorder)
    guest.ended()
    guest.close()
    assert recorder.result().missing == ["module mod: the guest ended before it said where"]


def test_a_module_that_nobody_has_located_is_missing_with_a_reason(recorder):
    guest, _ = opened(recorder)
    guest.located(None, "the agent does not say")
    guest.close()
    assert recorder.result().missing == [
        "the agent does not say",
        "module mod: the guest ended before it said where",
    ]


def test_a_module_that_is_not_loaded_is_missing(recorder):
    guest, _ = opened(recorder, where=places(module=0))
    guest.close()
    assert recorder.result().missing == ["module mod: it was not loaded"]


def test_a_module_outside_of_what_is_recorded_is_missing(recorder):
    guest, _ = opened(recorder, where=places(0xC00A000000000000))
    guest.close()
    (why,) = recorder.result().missing
    assert "mod: it lies at 0xc00a000000000040" in why


def test_a_crash_kernel_is_counted_where_it_runs(recorder):
    guest, _ = opened(recorder)
    guest.crashes(0xF800000)
    guest.ended()
    Plugin(guest).executes(AT + 0xF800000, EXECUTED, EXECUTED | TOOK)
    guest.located(places(start=START + 0xF800000))
    guest.close()
    assert lacks(recorder, "f").never == [8, 12]
    assert recorder.result().missing == []


def test_a_kernel_that_runs_anywhere_else_is_told(recorder):
    guest, _ = opened(recorder, where=places(start=START + 0x7000000))
    guest.close()
    assert "file.c: it lies at 0xc000000007010000" in recorder.result().missing[0]


def test_a_qemu_without_the_plugin_is_told(recorder):
    guest = recorder.guest()
    guest.begin(anew=True)
    guest.close()
    assert recorder.result().missing == ["a QEMU ran without the plugin"]


def test_a_guest_that_moves_is_counted_in_both_qemus(recorder):
    before, plugin = opened(recorder)
    plugin.executes(MODULE + 0x40, EXECUTED, EXECUTED | FELL, EXECUTED)
    after = recorder.guest()
    there = Plugin(after)
    after.follow(before)
    there.executes(MODULE + 0x40, EXECUTED, EXECUTED | TOOK, 0, EXECUTED)
    before.close()
    after.close()
    after.close()
    assert lacks(recorder, "m").never == []
    assert recorder.result().guests == 2


def test_only_a_qemu_that_loads_the_plugin_is_given_it(recorder):
    recorder.use(("qemu",), Path("/cache/plugin.so"))
    assert recorder.option(("qemu",), 7) == ("-plugin", "/cache/plugin.so,fd=7")
    assert recorder.option(("other",), 7) == ()
    assert NOTHING.option(("qemu",), NOTHING.guest().fd) == ()


def test_many_scattered_functions_fit_into_the_header():
    functions = [Function(f"f{number}", AT + number * 0x10000, CODE, {}) for number in range(200)]
    recorder = Recorder([Target("all", "", functions)], START)
    guest, plugin = opened(recorder)
    assert len(plugin.ranges) == 64
    assert sum(first < last for first, last, _ in plugin.ranges) == 33
    plugin.executes(AT + 199 * 0x10000, EXECUTED, EXECUTED)
    guest.close()
    assert lacks(recorder, "f199").reached == 1


def test_clearing_leaves_the_header():
    seen = CoverMap([(AT, AT + 0x10000)])
    seen._memory[HEADER + 3] = EXECUTED
    seen.clear()
    assert seen.read(AT, 32) == bytes(8)
    assert struct.unpack_from("<Q", seen._memory)[0] == 0x54434543
    assert seen.read(AT + 0xFFFC, 8) is None
    seen.close()
