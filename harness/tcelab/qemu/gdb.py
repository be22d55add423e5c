"""A client of QEMU's gdbstub, as far as it takes to stop a guest's CPUs between two of its instructions.

GDB's remote serial protocol (GDB manual, appendix E): `$packet#checksum`, which the other side acknowledges. While the
guest runs, whatever byte arrives stops it; and whoever stops it, the stub tells us (QEMU gdbstub/gdbstub.c,
gdb_read_byte; gdbstub/system.c, gdb_vm_state_change). Registers are in the guest's byte order (target/ppc/gdbstub.c).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, NamedTuple

from tcelab.errors import HarnessError
from tcelab.qemu.nested import GDB

_INTERRUPT: Final = b"\x03"
_TAKEN: Final = b"+"
"""The acknowledgement of a packet. Until the stub has it, it hears nothing but packets, and no interrupt."""
_CHUNK: Final = 1 << 16
_LONGEST: Final = 1 << 20
_PC: Final = 64
"""Number of the register NIP (target/ppc/gdbstub.c)."""
_BREAKPOINT: Final = 5
"""The signal of a CPU that met a breakpoint, or has done one step: SIGTRAP."""
_STOPPED: Final = re.compile(r"T([0-9a-f]{2})thread:([0-9a-fp.]+);")

Order = Literal["little", "big"]


class Stop(NamedTuple):
    """Why the CPUs stand still. :ivar signal: number of the signal; `thread`: which CPU it is about."""

    signal: int
    thread: str

    @property
    def trapped(self) -> bool:
        """By a breakpoint, or after a step."""
        return self.signal == _BREAKPOINT


class Gdb:
    """Lives on the loop. Between `attach` and the end of the guest, QEMU tells it of each stop."""

    def __init__(self, end: socket.socket, monitor: Callable[[str], Awaitable[object]], order: Order) -> None:
        """:param end: ours of the stub's chardev.
        :param monitor: does a command of QEMU's human monitor.
        :param order: of the bytes in the guest's registers.
        """
        end.setblocking(False)  # noqa: FBT003 - its only parameter
        self._end, self._monitor, self._order = end, monitor, order
        self._attached = False
        self._data = b""

    async def stop(self) -> None:
        """Stop the guest's CPUs, wherever they are.

        :raise HarnessError: the stub does not answer as one.
        """
        if not self._attached:
            said = await self._monitor(f"gdbserver chardev:{GDB}")  # which stops it
            if "Waiting for gdb connection" not in str(said):
                raise HarnessError(f"QEMU has no gdbstub: {str(said).strip()}")
            self._attached = True
        else:
            await asyncio.get_running_loop().sock_sendall(self._end, _TAKEN + _INTERRUPT)
        # An answer to what is asked now comes after all that the stub has told by itself.
        await self._send("qC")
        while not (await self._packet()).startswith("QC"):
            pass

    async def cont(self) -> None:
        """Let them go on."""
        await self._send("vCont;c")

    async def step(self, thread: str) -> Stop:
        """One CPU executes one instruction, the others none."""
        await self._send(f"vCont;s:{thread}")
        return await self.stopped()

    async def stopped(self) -> Stop:
        """Wait until the CPUs stand still."""
        while True:
            if found := _STOPPED.match(await self._packet()):
                return Stop(int(found[1], 16), found[2])

    async def breakpoints(self, addresses: list[int], *, there: bool) -> None:
        """Set breakpoints, or take them away. The CPUs stand still."""
        for address in addresses:
            await self._expect(f"{'Z' if there else 'z'}0,{address:x},4", "OK")

    async def registers(self, thread: str, numbers: Sequence[int]) -> list[int]:
        """Registers of a CPU."""
        await self._expect(f"Hg{thread}", "OK")
        return [int.from_bytes(bytes.fromhex(await self._ask(f"p{number:x}")), self._order) for number in numbers]

    async def pc(self, thread: str) -> int:
        """Where a CPU is."""
        return (await self.registers(thread, [_PC]))[0]

    async def memory(self, address: int, size: int) -> bytes:
        """Memory, at an address that the CPU translates."""
        answer = await self._ask(f"m{address:x},{size:x}")
        try:
            data = bytes.fromhex(answer)
        except ValueError:
            data = b""
        if len(data) != size:
            raise HarnessError(f"gdbstub: {size} bytes at {address:#x} cannot be read: {answer[:40]!r}")
        return data

    # -- packets

    async def _expect(self, packet: str, answer: str) -> None:
        if (got := await self._ask(packet)) != answer:
            raise HarnessError(f"QEMU's gdbstub answers {got[:80]!r} to {packet!r}")

    async def _ask(self, packet: str) -> str:
        await self._send(packet)
        return await self._packet()

    async def _send(self, packet: str) -> None:
        data = packet.encode()
        await asyncio.get_running_loop().sock_sendall(self._end, b"$%s#%02x" % (data, sum(data) & 0xFF))

    async def _packet(self) -> str:
        while True:
            _, begun, rest = self._data.partition(b"$")
            packet, ended, check = rest.partition(b"#")
            if begun and ended and len(check) > 1:
                self._data = check[2:]
                if check[:2] != b"%02x" % (sum(packet) & 0xFF):
                    raise HarnessError(f"QEMU's gdbstub: a packet with a wrong checksum, {packet[:40]!r}")
                await asyncio.get_running_loop().sock_sendall(self._end, _TAKEN)
                return packet.decode("ascii", "replace")
            if len(self._data) > _LONGEST:
                raise HarnessError("QEMU's gdbstub: a packet without an end")
            data = await asyncio.get_running_loop().sock_recv(self._end, _CHUNK)
            if not data:
                raise EOFError("QEMU closed its gdbstub")
            self._data += data
