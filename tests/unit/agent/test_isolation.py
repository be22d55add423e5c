"""What the agent makes of devices out of reach, of several transfers at once, and how it looks at a device."""

from __future__ import annotations

import struct
import sys

import pytest
from agent_fake import FakeKernel, FakeRegisters

from tceagent import edu, ops
from tceagent.state import State

ONES = (1 << 64) - 1
REGION_INFO = 0x20003B6C
CONFIG = 7 << 40


class Device(FakeRegisters):
    """An edu that runs for `busy` reads, and is out of reach from its read number `gone` on."""

    def __init__(self, kernel, name, busy=3, gone=1 << 30):
        super().__init__(kernel, busy)
        self.name, self.gone = name, gone
        self.words = {}

    def write64(self, offset, value):
        self._kernel.calls.append(("begin", self.name) if offset == edu.COMMAND else ("write64", offset, value))
        self.words[offset] = edu.swap(value)

    def read64(self, offset):
        self._kernel.calls.append(("poll", self.name))
        self.gone -= 1
        self.busy -= 1
        return ONES if self.gone < 0 else edu.swap(edu.RUN) if self.busy >= 0 else 0

    def read32(self, offset):
        assert offset == 0
        return 0xFFFFFFFF if self.gone <= 0 else int.from_bytes(bytes.fromhex("010000ed"), sys.byteorder)


class Several(FakeKernel):
    """Each file has registers of its own."""

    def __init__(self, **devices):
        super().__init__()
        self.devices = {name: Device(self, name, **how) for name, how in devices.items()}
        self._unmapped = list(self.devices.values())
        self.answers[REGION_INFO] = (0, "", struct.pack("=4I2Q", 32, 7, 0, 0, 1 << 20, CONFIG))
        self.config[4:6] = b"\6\1"

    def map_registers(self, fd, offset, size):
        super().map_registers(fd, offset, size)
        return self._unmapped.pop(0)


def state_of(kernel, *files):
    state = State(kernel)
    for file in files:
        ops.perform(state, {"op": "open", "file": file, "path": "/dev/null"})
    kernel.calls.clear()
    return state


def do(state, op, **fields):
    return ops.perform(state, {"op": op, **fields})


def transfer(file, **changes):
    return {"op": "dma", "by": "", "expect": None, "file": file, "iova": 0, "size": 8, "to_memory": True} | changes


# -- all ones


def test_a_device_out_of_reach_is_told_at_once():
    kernel = Several(d={"gone": 0})
    assert do(state_of(kernel, "d"), "dma", file="d", iova=0, size=8, to_memory=True) == {"value": ONES}
    assert kernel.did("poll") == [("poll", "d")]
    assert kernel.elapsed == 0.0


def test_a_device_that_goes_out_of_reach_has_begun_its_transfer():
    kernel = Several(d={"busy": 1000, "gone": 5})
    assert do(state_of(kernel, "d"), "dma", file="d", iova=0, size=8, to_memory=True) == {"value": 0}
    assert len(kernel.did("poll")) == 6
    assert kernel.elapsed < edu.MOST + 5 * edu.POLL


def test_a_register_with_every_bit_but_one_is_no_device_out_of_reach():
    class Odd(Device):
        def read64(self, offset):
            value = super().read64(offset)
            return value and edu.swap(ONES - 2)

    kernel = Several(d={"busy": 4})
    kernel._unmapped = [Odd(kernel, "d", busy=4)]
    assert do(state_of(kernel, "d"), "dma", file="d", iova=0, size=8, to_memory=True) == {"value": 0}
    assert len(kernel.did("poll")) == 5


# -- together


def test_all_are_begun_before_one_is_waited_for():
    kernel = Several(a={"busy": 3}, b={"busy": 5})
    state = state_of(kernel, "a", "b")
    outcome = do(state, "together", ops=[transfer("a"), transfer("b", to_memory=False)])
    assert outcome == {"value": 0, "fields": {"ends": [0, 0]}}
    steps = kernel.did("begin", "poll")
    assert steps[:4] == [("begin", "a"), ("poll", "a"), ("begin", "b"), ("poll", "b")]
    assert ("begin", "b") not in steps[4:]
    names = [call[0] for call in kernel.calls if call[0] in {"map", "begin"}]
    assert names == ["map", "map", "begin", "begin"]


def test_each_of_them_moves_what_it_was_told_to():
    kernel = Several(a={}, b={})
    both = [transfer("a", iova=0x5000, size=16, offset=32), transfer("b", iova=0x7000, to_memory=False)]
    do(state_of(kernel, "a", "b"), "together", ops=both)
    assert kernel.devices["a"].words == {0x80: 0x40020, 0x88: 0x5000, 0x90: 16, 0x98: 3}
    assert kernel.devices["b"].words == {0x80: 0x7000, 0x88: 0x40000, 0x90: 8, 0x98: 1}


def test_those_that_cannot_be_reached_are_told_one_by_one():
    kernel = Several(a={"gone": 0}, b={})
    outcome = do(state_of(kernel, "a", "b"), "together", ops=[transfer("a"), transfer("b")])
    assert outcome == {"value": ONES, "fields": {"ends": [ONES, 0]}}
    assert kernel.did("poll").count(("poll", "a")) == 1, "nobody waits for it"


def test_one_that_never_ends_is_an_outcome():
    kernel = Several(a={}, b={"busy": 1 << 30})
    assert do(state_of(kernel, "a", "b"), "together", ops=[transfer("a"), transfer("b")]) == {"errno": "ETIMEDOUT"}


def test_nothing_is_begun_when_one_of_them_cannot_be():
    kernel = Several(a={}, b={})
    state = state_of(kernel, "a")
    assert do(state, "together", ops=[transfer("a"), transfer("nobody")]) == {"errno": "EBADF"}
    with pytest.raises(ValueError, match="leaves the 4000 bytes"):
        do(state, "together", ops=[transfer("a"), transfer("a", size=4001)])
    assert kernel.did("begin") == []


# -- a look


def test_the_identity_is_read_from_the_registers():
    kernel = Several(d={})
    assert do(state_of(kernel, "d"), "look", file="d", what="identity") == {"value": 0x010000ED}
    assert len(kernel.did("map")) == 1


def test_the_identity_of_a_device_out_of_reach_is_all_ones():
    assert do(state_of(Several(d={"gone": 0}), "d"), "look", file="d", what="identity") == {"value": 0xFFFFFFFF}


def test_the_command_register_is_read_from_configuration_space():
    kernel = Several(d={})
    state = state_of(kernel, "d")
    assert do(state, "look", file="d", what="command") == {"value": 0x0106}
    assert kernel.did("pread") == [("pread", state.file("d").fd, 2, CONFIG + 4)]
    assert kernel.did("map") == []


def test_a_look_at_what_is_not_open_is_an_outcome():
    state = state_of(Several(d={}))
    for what in ("identity", "command"):
        assert do(state, "look", file="d", what=what) == {"errno": "EBADF"}
