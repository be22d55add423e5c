"""QEMU's test port: RTAS calls made from outside, as the guest's firmware would be asked.

A text protocol, a line for a command and a line for its answer (QEMU system/qtest.c). `rtas` runs a call of
hw/ppc/spapr_rtas.c with its arguments, big-endian 32-bit cells, in guest memory (PAPR 7.2.7).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import Final

from tcelab.errors import HarnessError

_CELL: Final = 4
_RESULTS: Final = 256
"""Bytes from the arguments to the results."""

_FORMATS: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF}
"""Sizes of a configuration register, and the mask of each."""


class Qtest:
    """Lives on the loop. One call at a time."""

    def __init__(self, end: socket.socket, scratch: int) -> None:
        """:param scratch: guest physical address of memory that the guest does not use, for arguments and results."""
        end.setblocking(False)  # noqa: FBT003 - its only parameter
        self._end = end
        self._scratch = scratch
        self._buffer = b""

    async def rtas(self, name: str, arguments: Sequence[int], results: int) -> list[int]:
        """One RTAS call: its result cells, the status first.

        :raise HarnessError: QEMU does not do it.
        """
        at, to = self._scratch, self._scratch + _RESULTS
        data = struct.pack(f">{len(arguments)}I", *arguments)
        await self._ask(f"write {at:#x} {len(data)} 0x{data.hex()}")
        if await self._ask(f"rtas {name} {len(arguments)} {at:#x} {results} {to:#x}") != "0":
            raise HarnessError(f"this QEMU has no RTAS call {name}")
        answer = await self._ask(f"read {to:#x} {results * _CELL}")
        return list(struct.unpack(f">{results}I", bytes.fromhex(answer.removeprefix("0x"))))

    async def read_config(self, buid: int, slot: int, offset: int, size: int) -> int:
        """A configuration register of function 0 on bus 0 of the PHB (PAPR 7.3.4, ibm,read-pci-config).

        :raise HarnessError: there is no such device.
        """
        call = "ibm,read-pci-config"
        status, value = await self.rtas(call, [*_place(buid, slot, offset), size], 2)
        _expect_success(call, status, buid, slot, offset)
        return value & _FORMATS[size]

    async def write_config(self, buid: int, slot: int, offset: int, size: int, value: int) -> None:
        """As `read_config` (ibm,write-pci-config)."""
        call = "ibm,write-pci-config"
        (status,) = await self.rtas(call, [*_place(buid, slot, offset), size, value], 1)
        _expect_success(call, status, buid, slot, offset)

    async def _ask(self, command: str) -> str:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._end, command.encode() + b"\n")
        while b"\n" not in self._buffer:
            data = await loop.sock_recv(self._end, 1 << 16)
            if not data:
                raise EOFError("QEMU closed its test port")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        done, _, value = line.decode(errors="replace").strip().partition(" ")
        if done != "OK":
            raise HarnessError(f"QEMU's test port refuses {command.partition(' ')[0]!r}: {line!r}")
        return value

    def close(self) -> None:
        self._end.close()


def _place(buid: int, slot: int, offset: int) -> list[int]:
    return [slot << 11 | offset, buid >> 32, buid & 0xFFFFFFFF]


def _expect_success(call: str, status: int, buid: int, slot: int, offset: int) -> None:
    if status:
        raise HarnessError(f"{call} gives {status:#x} for slot {slot} of PHB {buid:#x}, register {offset:#x}")
