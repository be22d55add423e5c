"""QEMU's test port: RTAS calls made from outside, as the guest's firmware would be asked, and accesses to its memory.

A text protocol, a line for a command and a line for its answer, in the order of the commands (QEMU system/qtest.c).
`rtas` runs a call of hw/ppc/spapr_rtas.c with its arguments, big-endian 32-bit cells, in guest memory (PAPR 7.2.7).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tcelab.errors import HarnessError

_CELL: Final = 4
_SLOT: Final = 64
"""Bytes from the arguments of a call to its results, and from one call to the next of the same batch."""
MOST_CALLS: Final = 16
"""Calls of one batch."""

_FORMATS: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF}
"""Sizes of a configuration register, and the mask of each."""
CLOSED: Final = "QEMU closed its test port"
_LETTERS: Final = {1: "b", 2: "w", 4: "l", 8: "q"}
"""Sizes of an access to memory."""


class ConfigRegister(NamedTuple):
    """A configuration register of function 0 on bus 0 of a PHB."""

    buid: int
    slot: int
    offset: int
    size: int


class RtasCall(NamedTuple):
    """One RTAS call. `results`: how many cells it gives, the status first."""

    name: str
    arguments: tuple[int, ...]
    results: int


class Qtest:
    """Lives on the loop. Commands of several tasks are done one after the other."""

    def __init__(self, end: socket.socket, scratch: int) -> None:
        """:param scratch: guest physical address of memory that the guest does not use, for arguments and results."""
        end.setblocking(False)  # noqa: FBT003 - its only parameter
        self._end = end
        self._scratch = scratch
        self._waiting: deque[asyncio.Future[str]] = deque()
        self._sending = asyncio.Lock()
        self._closed = False

    async def listen(self) -> None:
        """Hear the answers, until QEMU closes its end."""
        loop = asyncio.get_running_loop()
        buffer = b""
        try:
            while data := await loop.sock_recv(self._end, 1 << 16):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    future = self._waiting.popleft()
                    if not future.done():
                        future.set_result(line.decode(errors="replace").strip())
        finally:
            self._closed = True
            for future in self._waiting:
                if not future.done():
                    future.set_exception(EOFError(CLOSED))

    async def calls(self, calls: Sequence[RtasCall]) -> list[list[int]]:
        """Some RTAS calls, one after the other in one go: the result cells of each.

        :raise HarnessError: QEMU does not do one of them.
        """
        commands: list[str] = []
        for number, call in enumerate(calls):
            at, to = self._places(number)
            data = struct.pack(f">{len(call.arguments)}I", *call.arguments)
            commands.append(f"write {at:#x} {len(data)} 0x{data.hex()}")
            commands.append(f"rtas {call.name} {len(call.arguments)} {at:#x} {call.results} {to:#x}")
            commands.append(f"read {to:#x} {call.results * _CELL}")
        answers = await self.commands(commands)
        out = []
        for number, call in enumerate(calls):
            _, done, read = answers[3 * number : 3 * number + 3]
            if done != "0":
                raise HarnessError(f"this QEMU has no RTAS call {call.name}")
            out.append(list(struct.unpack(f">{call.results}I", bytes.fromhex(read.removeprefix("0x")))))
        return out

    def _places(self, number: int) -> tuple[int, int]:
        if number >= MOST_CALLS:
            raise ValueError(f"at most {MOST_CALLS} calls at a time")
        at = self._scratch + 2 * number * _SLOT
        return at, at + _SLOT

    async def rtas(self, name: str, arguments: Sequence[int], results: int) -> list[int]:
        """One RTAS call: its result cells, the status first.

        :raise HarnessError: QEMU does not do it.
        """
        return (await self.calls([RtasCall(name, tuple(arguments), results)]))[0]

    async def read_config(self, buid: int, slot: int, offset: int, size: int) -> int:
        """A configuration register of function 0 on bus 0 of the PHB (PAPR 7.3.4, ibm,read-pci-config).

        :raise HarnessError: there is no such device.
        """
        register = ConfigRegister(buid, slot, offset, size)
        call = RtasCall("ibm,read-pci-config", (*_place(register), size), 2)
        ((status, value),) = await self.calls([call])
        _expect_success(call.name, status, register)
        return value & _FORMATS[size]

    async def write_config(self, buid: int, slot: int, offset: int, size: int, value: int) -> None:
        """As `read_config` (ibm,write-pci-config)."""
        await self.write_configs([(ConfigRegister(buid, slot, offset, size), value)])

    async def write_configs(self, writes: Sequence[tuple[ConfigRegister, int]]) -> None:
        """Several of them, in order, in one go.

        :raise HarnessError: there is no such device.
        """
        name = "ibm,write-pci-config"
        calls = [RtasCall(name, (*_place(register), register.size, value), 1) for register, value in writes]
        answers = await self.calls(calls)
        for (register, _), (status,) in zip(writes, answers, strict=True):
            _expect_success(name, status, register)

    async def load(self, address: int, size: int) -> int:
        """Read memory or a register at a guest physical address, in one access of 1, 2, 4 or 8 bytes, big endian."""
        (answer,) = await self.commands([f"read{_LETTERS[size]} {address:#x}"])
        return int(answer, 16)

    async def store(self, address: int, size: int, value: int) -> None:
        """As `load`."""
        await self.commands([f"write{_LETTERS[size]} {address:#x} {value:#x}"])

    async def clear(self, address: int, size: int) -> None:
        """Fill guest memory with zeros, as a device would: code that was translated there is translated anew."""
        await self.commands([f"memset {address:#x} {size:#x} 0"])

    async def commands(self, commands: Sequence[str]) -> list[str]:
        """Send some commands, and give what was answered to each.

        :raise HarnessError: QEMU refuses one.
        :raise EOFError: QEMU is gone.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise EOFError(CLOSED)
        async with self._sending:
            futures = [loop.create_future() for _ in commands]
            for future in futures:  # once one fails, nobody looks at the others
                future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._waiting.extend(futures)
            await loop.sock_sendall(self._end, "".join(f"{command}\n" for command in commands).encode())
        return [_value(command, await future) for command, future in zip(commands, futures, strict=True)]

    def close(self) -> None:
        self._end.close()


def _value(command: str, line: str) -> str:
    done, _, value = line.partition(" ")
    if done != "OK":
        raise HarnessError(f"QEMU's test port refuses {command.partition(' ')[0]!r}: {line!r}")
    return value


def _place(register: ConfigRegister) -> tuple[int, int, int]:
    return register.slot << 11 | register.offset, register.buid >> 32, register.buid & 0xFFFFFFFF


def _expect_success(call: str, status: int, register: ConfigRegister) -> None:
    if status:
        where = f"slot {register.slot} of PHB {register.buid:#x}, register {register.offset:#x}"
        raise HarnessError(f"{call} gives {status:#x} for {where}")
