"""Hypercalls by the agent: the bytes that the module takes and gives, and machine code for a process's own."""

from __future__ import annotations

import errno
import struct

import pytest
from agent_fake import FIRST_FD, FIRST_FRAME, FakeKernel
from hypothesis import given
from hypothesis import strategies as st

from tceagent import hcalls, ops, problem
from tceagent.state import State

FILE = "/dev/tce_hcall"
LIOBN = 0x80000100
PUT, GET, STUFF, INDIRECT = 0x20, 0x1C, 0x138, 0x13C
WORDS = st.integers(0, (1 << 64) - 1)


class Module(FakeKernel):
    """Answers each write with results that count up: status, r4 to r7, ticks."""

    def __init__(self):
        super().__init__()
        self.writes = []
        self.refusal = ""

    def pwrite(self, fd, data, offset):
        self.calls.append(("pwrite", fd))
        if self.refusal:
            raise OSError(getattr(errno, self.refusal), "refused")
        self.writes.append(bytes(data))
        return len(data)

    def pread(self, fd, size, offset):
        count = struct.unpack_from("=IIII", self.writes[-1])[1]
        assert size == 48 * count
        return b"".join(struct.pack("=qQQQQQ", -i, 10 + i, 11, 12, 13, 100 + i) for i in range(count))

    @property
    def last(self):
        """Header, calls and lists of the last write."""
        data = self.writes[-1]
        header = struct.unpack_from("=IIII", data)
        calls = [struct.unpack_from("=QQQQQII", data, 16 + 48 * i) for i in range(header[1])]
        return header, calls, data[16 + 48 * header[1] :]


@pytest.fixture
def kernel():
    return Module()


@pytest.fixture
def state(kernel):
    state = State(kernel)
    state.nonce = bytes(16)
    return state


def do(state, op, **fields):
    return ops.perform(state, {"op": op, **fields})


def call(opcode, *args, tces=None):
    return {"opcode": opcode, "args": list(args), "tces": tces}


def page(index=0, permissions=3, plus=0, buffer="b"):
    return {"buffer": buffer, "index": index, "permissions": permissions, "plus": plus}


def test_one_hypercall_is_one_batch_of_one_round(state, kernel):
    outcome = do(state, "hcall", call=call("H_PUT_TCE", LIOBN, 0x1000, 0x5003))
    assert kernel.last == ((1, 1, 1, 0), [(PUT, LIOBN, 0x1000, 0x5003, 0, 0, 0)], b"")
    assert outcome == {"value": 0, "fields": {"registers": [10, 11, 12, 13], "ticks": 100}, "frames": []}


@pytest.mark.parametrize(
    ("name", "number"),
    [("H_PUT_TCE", PUT), ("H_GET_TCE", GET), ("H_STUFF_TCE", STUFF), ("H_PUT_TCE_INDIRECT", INDIRECT)],
)
def test_a_hypercall_has_its_number(state, kernel, name, number):
    do(state, "hcall", call=call(name, 1, 2))
    assert kernel.last[1][0][0] == number


def test_any_other_opcode_goes_out_as_it_is(state, kernel):
    do(state, "hcall", call=call((1 << 64) - 1, (1 << 64) - 1))
    assert kernel.last[1] == [((1 << 64) - 1, (1 << 64) - 1, 0, 0, 0, 0, 0)]


def test_a_tce_word_is_the_frame_of_its_page_with_permissions(state, kernel):
    do(state, "buffer", name="b", pages=4)
    outcome = do(state, "hcall", call=call("H_PUT_TCE", LIOBN, 0, page(2, 1)))
    assert kernel.last[1][0][3] == FIRST_FRAME + 0x2000 + 1
    assert outcome["frames"] == [FIRST_FRAME + 0x2000]
    do(state, "hcall", call=call("H_PUT_TCE", LIOBN, 0, page(1, 0, 8)))
    assert kernel.last[1][0][3] == FIRST_FRAME + 0x1008


def test_a_list_is_big_endian_and_follows_the_calls(state, kernel):
    do(state, "buffer", name="b", pages=4)
    tces = [0x0102030405060708, page(3), 0]
    outcome = do(state, "hcall", call=call("H_PUT_TCE_INDIRECT", LIOBN, 0x1000, 8, 3, tces=tces))
    _, calls, lists = kernel.last
    assert calls == [(INDIRECT, LIOBN, 0x1000, 8, 3, 0, 24)]
    assert lists == struct.pack(">QQQ", 0x0102030405060708, FIRST_FRAME + 0x3003, 0)
    assert outcome["frames"] == [FIRST_FRAME + 0x3000]


def test_lists_of_a_batch_lie_one_behind_the_other(state, kernel):
    do(state, "buffer", name="b", pages=2)
    batch = [
        call("H_PUT_TCE_INDIRECT", LIOBN, 0, 0, 1, tces=[page(1)]),
        call("H_GET_TCE", LIOBN, 0),
        call("H_PUT_TCE_INDIRECT", LIOBN, 0, 0, 2, tces=[7, page(0)]),
    ]
    outcome = do(state, "hcallbatch", calls=batch)
    header, calls, lists = kernel.last
    assert header == (1, 3, 1, 0)
    assert [each[5:] for each in calls] == [(0, 8), (0, 0), (8, 16)]
    assert len(lists) == 24
    assert outcome["frames"] == [FIRST_FRAME + 0x1000, FIRST_FRAME]
    assert outcome["value"] == 0
    assert outcome["fields"] == {
        "statuses": [0, -1, -2],
        "registers": [[10, 11, 12, 13], [11, 11, 12, 13], [12, 11, 12, 13]],
        "ticks": [100, 101, 102],
    }


def test_rounds_are_done_by_the_module_with_signs_of_life_between(state, kernel):
    batch = [call("H_STUFF_TCE", LIOBN, 0, 0, 512)] * 2
    outcome = do(state, "hcallbatch", calls=batch, times=250)
    rounds = [struct.unpack_from("=IIII", data)[2] for data in kernel.writes]
    assert rounds == [97, 97, 56]
    assert len(kernel.did("beat")) == 3
    assert outcome["fields"]["calls"] == 500
    assert outcome["fields"]["seconds"] == 0
    assert outcome["fields"]["ticks"] == [300, 300]


def test_no_write_asks_for_more_rounds_than_the_module_does(state, kernel):
    do(state, "hcallbatch", calls=[call("H_GET_TCE", LIOBN, 0)], times=300_000)
    assert [struct.unpack_from("=IIII", data)[2] for data in kernel.writes] == [100_000] * 3


def test_the_file_is_opened_once_and_closed_when_all_begins_anew(state, kernel):
    for _ in range(3):
        do(state, "hcall", call=call("H_GET_TCE", LIOBN, 0))
    assert kernel.did("open") == [("open", FILE)]
    state.renew()
    assert kernel.did("close") == [("close", FIRST_FD)]
    do(state, "hcall", call=call("H_GET_TCE", LIOBN, 0))
    assert len(kernel.did("open")) == 2


def test_a_child_has_a_file_of_its_own(state, kernel):
    do(state, "hcall", call=call("H_GET_TCE", LIOBN, 0))
    do(state, "spawn", process="c")
    assert state.hypercalls is not None
    assert state.fork(kernel).hypercalls is None


def test_a_kernel_without_the_module_refuses_by_errno(state, kernel):
    kernel.refused[FILE] = "ENOENT"
    assert do(state, "hcall", call=call("H_GET_TCE", LIOBN, 0)) == {"errno": "ENOENT"}


def test_what_the_module_refuses_is_told_by_errno(state, kernel):
    kernel.refusal = "EINVAL"
    assert do(state, "hcall", call=call(0x21, LIOBN, 0)) == {"errno": "EINVAL"}


def test_more_arguments_than_a_hypercall_has_are_a_wrong_program(state):
    with pytest.raises(ValueError, match="4 arguments at most, not 5"):
        do(state, "hcall", call=call("H_GET_TCE", 1, 2, 3, 4, 5))


# -- from problem state


def test_a_process_makes_its_hypercall_itself(state, kernel):
    do(state, "buffer", name="b", pages=1)
    outcome = do(state, "hcall", call=call("H_PUT_TCE", LIOBN, 0, page()), problem_state=True)
    assert outcome == {"value": -3, "frames": [FIRST_FRAME]}
    assert kernel.did("hypercall", "open") == [("hypercall", PUT, [LIOBN, 0, FIRST_FRAME + 3, 0])]


def test_a_process_has_no_list_page(state):
    with pytest.raises(ValueError, match="no list page"):
        do(state, "hcall", call=call("H_PUT_TCE_INDIRECT", LIOBN, 0, 0, 1, tces=[0]), problem_state=True)


def executed(code):
    """Registers after what a function does before its `sc 1`, by the Power ISA; it must end with that and a return."""
    words = list(struct.unpack(f"={len(code) // 4}I", code))
    assert words[-2:] == [0x44000022, 0x4E800020]
    registers = {}
    for word in words[:-2]:
        opcode, one, two, low = word >> 26, word >> 21 & 31, word >> 16 & 31, word & 0xFFFF
        if opcode == 15 and two == 0:  # lis
            registers[one] = ((low ^ 0x8000) - 0x8000 << 16) % (1 << 64)
        elif opcode == 24:  # ori
            registers[two] = registers[one] | low
        elif opcode == 25:  # oris
            registers[two] = registers[one] | low << 16
        elif opcode == 30 and low == 0x07C6:  # rldicr by 32
            registers[two] = registers[one] << 32 & 0xFFFFFFFF_00000000
        else:
            raise AssertionError(hex(word))
    return registers


@given(WORDS, st.lists(WORDS, max_size=4))
def test_its_code_loads_the_registers_and_asks_the_platform(opcode, args):
    assert executed(problem.code(opcode, args)) == dict(enumerate([opcode, *args], 3))


def test_the_bytes_are_those_that_the_module_takes():
    assert (hcalls.BATCH.size, hcalls.CALL.size, hcalls.RESULT.size) == (16, 48, 48)
