"""QEMU's test port: a configuration register is asked for exactly as PAPR has it, and no answer is guessed."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import SimpleNamespace

import pytest

from patience import PATIENCE
from tcelab.errors import HarnessError
from tcelab.qemu.qtest import ConfigRegister, Qtest, RtasCall

SCRATCH = 0x1F800000
BUID = 0x800000020000001
AT, TO = "0x1f800000", "0x1f800040"
PLACE = "000008100800000020000001"
"""Three cells: slot 1 and register 0x10, BUID high, low."""
DONE = ["OK", "OK 0", "OK 0x00000000"]
READ = ["OK", "OK 0", "OK 0x00000000e0000004"]


class Port:
    """A port that gives its answers, one for each line it gets, and closes at an answer that is None or after the last.
    `heard`: those lines.
    """

    def __init__(self, answers, *, pieces=False):
        self.ours, theirs = socket.socketpair()
        self.heard = []
        self._thread = threading.Thread(target=self._serve, args=(theirs, list(answers), pieces))
        self._thread.start()

    def _serve(self, end, answers, pieces):
        with end, end.makefile("rb") as lines:
            while answers and (line := lines.readline()):
                self.heard.append(line.decode())
                if (answer := answers.pop(0)) is None:
                    return
                whole = answer.encode() + b"\n"
                for part in [bytes([byte]) for byte in whole] if pieces else [whole]:
                    end.sendall(part)

    def end(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


async def listening(qtest, work):
    """Await it while the port's answers are heard."""
    listener = asyncio.ensure_future(qtest.listen())
    try:
        return await asyncio.wait_for(work, 5)
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


@pytest.fixture
def asked():
    """Ask a port that gives these answers; what came of it, and what it heard."""

    def ask(answers, call, *arguments, **how):
        port = Port(answers, **how)
        qtest = Qtest(port.ours, SCRATCH)

        async def do():
            return await listening(qtest, getattr(qtest, call)(*arguments))

        try:
            return SimpleNamespace(gave=asyncio.run(do()), heard=port.heard)
        finally:
            qtest.close()
            port.end()

    return ask


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "byte by byte"])
def test_a_register_is_read_by_its_devices_place_in_big_endian_cells(asked, pieces):
    done = asked(READ, "read_config", BUID, 1, 0x10, 4, pieces=pieces)
    assert done.heard == [
        f"write {AT} 16 0x{PLACE}00000004\n",
        f"rtas ibm,read-pci-config 4 {AT} 2 {TO}\n",
        f"read {TO} 8\n",
    ]
    assert done.gave == 0xE0000004


def test_a_register_is_written_likewise_the_value_last(asked):
    done = asked(DONE, "write_config", BUID, 1, 0x10, 4, 0x12345678)
    assert done.heard == [
        f"write {AT} 20 0x{PLACE}0000000412345678\n",
        f"rtas ibm,write-pci-config 5 {AT} 1 {TO}\n",
        f"read {TO} 4\n",
    ]
    assert done.gave is None


@pytest.mark.parametrize(
    ("slot", "offset", "cell"), [(0, 0x04, "00000004"), (30, 0x3C, "0000f03c"), (31, 0xFF, "0000f8ff")]
)
def test_the_first_cell_has_slot_and_register(asked, slot, offset, cell):
    done = asked(READ, "read_config", 0xFEDCBA9876543210, slot, offset, 1)
    assert done.heard[0] == f"write {AT} 16 0x{cell}fedcba987654321000000001\n"


@pytest.mark.parametrize(("size", "value"), [(1, 0x88), (2, 0x7788), (4, 0x55667788)])
def test_of_the_result_only_the_registers_own_bytes_count(asked, size, value):
    assert asked([*READ[:2], "OK 0x0000000055667788"], "read_config", BUID, 1, 0x3C, size).gave == value


@pytest.mark.parametrize("status", ["0xffffffff", "0xfffffffd", "0x00000001"])
def test_a_call_that_the_platform_refuses_is_an_error_that_names_the_device(asked, status):
    said = rf"gives {int(status, 16):#x} for slot 3 of PHB 0x800000020000001, register 0x3c"
    with pytest.raises(HarnessError, match=f"ibm,read-pci-config {said}"):
        asked([*READ[:2], f"OK {status}000000ff"], "read_config", BUID, 3, 0x3C, 1)
    with pytest.raises(HarnessError, match=f"ibm,write-pci-config {said}"):
        asked([*DONE[:2], f"OK {status}"], "write_config", BUID, 3, 0x3C, 1, 5)


def test_a_call_that_this_qemu_does_not_have_is_an_error(asked):
    with pytest.raises(HarnessError, match="this QEMU has no RTAS call ibm,read-pci-config"):
        asked(["OK", "OK 18446744073709551612", READ[2]], "read_config", BUID, 1, 0x10, 4)


@pytest.mark.parametrize(
    ("answers", "command"),
    [(["FAIL Unknown command 'write'"], "write"), (["OK", "FAIL"], "rtas"), (["OK", "OK 0", "ERR no memory"], "read")],
)
def test_a_command_that_the_port_refuses_is_named_with_its_answer(asked, answers, command):
    with pytest.raises(HarnessError, match=f"QEMU's test port refuses '{command}': .{answers[-1][:4]}"):
        asked(answers, "read_config", BUID, 1, 0x10, 4)


@pytest.mark.parametrize("answers", [[None], ["OK", None], ["OK", "OK 0", None]])
def test_a_port_that_closes_is_said(asked, answers):
    with pytest.raises(EOFError, match="QEMU closed its test port"):
        asked(answers, "read_config", BUID, 1, 0x10, 4)


def test_an_answer_that_is_cut_off_is_none(asked):
    """A port that closes amidst a line."""
    ours, theirs = socket.socketpair()
    qtest = Qtest(ours, SCRATCH)
    theirs.sendall(b"OK")
    theirs.shutdown(socket.SHUT_WR)
    with theirs, pytest.raises(EOFError):
        asyncio.run(listening(qtest, qtest.read_config(BUID, 1, 0x10, 4)))
    qtest.close()


def test_the_results_of_any_call_come_as_they_are(asked):
    done = asked(["OK", "OK 0", "OK 0x0000000000000007ffffffff"], "rtas", "ibm,query", [1, 0xFFFFFFFF], 3)
    assert done.gave == [0, 7, 0xFFFFFFFF]
    assert done.heard[0] == f"write {AT} 8 0x00000001ffffffff\n"
    assert done.heard[1:] == [f"rtas ibm,query 2 {AT} 3 {TO}\n", f"read {TO} 12\n"]


def test_calls_follow_each_other_on_one_port():
    port = Port([*READ, *DONE, *READ])
    qtest = Qtest(port.ours, SCRATCH)

    async def three():
        first = await qtest.read_config(BUID, 1, 0x10, 4)
        await qtest.write_config(BUID, 1, 0x10, 4, 1)
        return first, await qtest.read_config(BUID, 1, 0x10, 2)

    assert asyncio.run(listening(qtest, three())) == (0xE0000004, 4)
    qtest.close()
    port.end()
    assert len(port.heard) == 9


def test_calls_of_one_batch_go_in_one_go_and_do_not_share_their_memory(asked):
    """Both are sent before the first is answered, so arguments and results lie apart."""
    calls = [RtasCall("one", (1,), 1), RtasCall("two", (2, 3), 2)]
    done = asked(["OK", "OK 0", "OK 0x00000005", "OK", "OK 0", "OK 0x0000000600000007"], "calls", calls)
    assert done.gave == [[5], [6, 7]]
    places = [word for line in done.heard for word in line.split() if word.startswith("0x1f8")]
    assert places == [AT, AT, TO, TO, "0x1f800080", "0x1f800080", "0x1f8000c0", "0x1f8000c0"]


def test_registers_are_written_in_order_in_one_go(asked):
    writes = [(ConfigRegister(BUID, 1, 0x04, 2), 0x102), (ConfigRegister(BUID, 1, 0x30, 4), 0x80000001)]
    done = asked([*DONE, *DONE], "write_configs", writes)
    assert [line.split()[3][-16:] for line in done.heard if line.startswith("write")] == [
        "0000000200000102",
        "0000000480000001",
    ]


def test_more_calls_than_there_is_room_for_are_refused_before_the_first(asked):
    with pytest.raises(ValueError, match="at most 16 calls"):
        asked([], "calls", [RtasCall("one", (1,), 1)] * 17)


@pytest.mark.parametrize(("size", "letter"), [(1, "b"), (2, "w"), (4, "l"), (8, "q")])
def test_memory_is_accessed_by_its_size(asked, size, letter):
    assert asked(["OK 0x00000000010000ed"], "load", 0x200100000000, size).gave == 0x10000ED
    assert asked(["OK"], "store", 0x200100000098, size, 3).heard == [f"write{letter} 0x200100000098 0x3\n"]


def test_memory_is_cleared_as_a_whole(asked):
    assert asked(["OK"], "clear", 0x3000000, 0x20000).heard == ["memset 0x3000000 0x20000 0\n"]


def test_two_tasks_never_mix_their_commands():
    """The memory for arguments is one: a batch is sent whole."""
    port = Port([*READ] * 20)
    qtest = Qtest(port.ours, SCRATCH)

    async def many():
        return await asyncio.gather(*(qtest.read_config(BUID, slot, 0x10, 4) for slot in range(20)))

    assert asyncio.run(listening(qtest, many())) == [0xE0000004] * 20
    qtest.close()
    port.end()
    assert [line.split()[0] for line in port.heard] == ["write", "rtas", "read"] * 20


def test_a_port_that_was_closed_is_said_to_whoever_asks_later():
    ours, theirs = socket.socketpair()
    qtest = Qtest(ours, SCRATCH)
    theirs.close()

    async def late():
        await qtest.listen()
        await qtest.load(0, 4)

    with pytest.raises(EOFError, match="QEMU closed its test port"):
        asyncio.run(late())
    qtest.close()
