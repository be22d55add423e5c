"""The file of the module `tce_hcall`: raw hypercalls for a process that may make them, in bytes as the module takes.

Source: guest/kmod/tce_hcall.c; what they do is `tcelab.papr.hcallrules`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tceagent.hcalls import ARGUMENTS, BATCH, CALL, PATH, RESULT, VERSION
from tcelab.emulator.process import OpenFile
from tcelab.emulator.syscallerrors import SyscallError
from tcelab.papr import hcallnumbers, hcallrules, kvmrules, window, windowcreation
from tcelab.papr.tcetable import Table
from tcelab.program.topology import NESTED_RAM
from tcelab.run.record import Refusal

if TYPE_CHECKING:
    from tcelab.emulator.platform import Machine
    from tcelab.emulator.process import Process

__all__ = ["DDW_QUERY", "DESCRIPTOR", "PATH", "HcallFile", "descriptor", "hypercalls", "tables"]

DESCRIPTOR: Final = 1000
"""The lowest that it gets: a program's own files have those that they would have without it."""
DDW_QUERY: Final = 0x1000
"""The module's opcode for RTAS ibm,query-pe-dma-window."""
LARGEST: Final = 0x80000000
"""What a query with five results gives as the largest block (QEMU hw/ppc/spapr_rtas_ddw.c)."""
MOST_CALLS: Final = 1024
MOST_ROUNDS: Final = 10_000_000
MOST_BYTES: Final = 8 << 20
_MASK: Final = (1 << 64) - 1
_CELL: Final = 0xFFFFFFFF
_TCE: Final = 8
"""Bytes."""
_TICKS: Final = 512
"""Of a hypercall, a microsecond at 512 MHz."""


def descriptor(process: Process) -> int:
    """One for such a file."""
    for fd in itertools.count(DESCRIPTOR):
        try:
            process.file(fd)
        except SyscallError:
            return fd
    raise AssertionError  # there is no end to them


def tables(machine: Machine) -> dict[int, Table]:
    """All tables, including those of inactive windows, which have no entries (QEMU hw/ppc/spapr_pci.c,
    spapr_phb_realize).
    """
    return {table.liobn: table for pe in machine.pes.values() for table in pe.windows.tables}


def hypercalls(machine: Machine, lost: Callable[[int], None] = lambda _address: None) -> hcallrules.Hypercalls:
    """The platform's side of them.

    :param lost: called with each real address that a list was read at where there is no RAM.
    """

    def read(address: int, size: int) -> bytes:
        if machine.ram.iommu_page(address & -hcallnumbers.LIST_PAGE) is None:
            lost(address)
        return machine.ram.read(address, size)

    if machine.copies is None:
        return hcallrules.Hypercalls(tables(machine), read)

    def own(address: int) -> bool:
        # Frames are scattered, and so may lie behind it.
        return address < NESTED_RAM or machine.ram.iommu_page(address) is not None

    return kvmrules.KvmHypercalls(tables(machine), read, own=own, copies=machine.copies)


class HcallFile(OpenFile):
    """An open file: `write` performs a batch, `read` returns its results, once."""

    def __init__(self, machine: Machine, process: Process) -> None:
        """:raise RefusedError: EACCES, the file is root's alone."""
        super().__init__()
        if process.uid:
            raise SyscallError("EACCES")
        self._machine = machine
        self._page = 0
        self._results = b""

    def pwrite(self, data: bytes, _offset: int) -> int:
        """:raise RefusedError: EINVAL, it is no batch, and nothing was called."""
        count, rounds = self._header(data)
        calls = [CALL.unpack_from(data, BATCH.size + CALL.size * at) for at in range(count)]
        lists = data[BATCH.size + CALL.size * count :]
        for opcode, *_, offset, size in calls:
            known = opcode in hcallnumbers.OPCODES or (opcode == DDW_QUERY and not size)
            if not known or size > hcallnumbers.LIST_PAGE or offset + size > len(lists):
                raise SyscallError("EINVAL")
        results = []
        # From the second round on, each finds what the one before left, so the second stands for all that follow.
        for times in (1,) if rounds == 1 else (1, rounds - 1):
            results = [self._call(call, lists, times) for call in calls]
        ticks = _TICKS if rounds == 1 else _TICKS * rounds * count
        self._results = b"".join(RESULT.pack(*result, ticks) for result in results)
        self._machine.sleep(_TICKS * rounds * count / 512e6)
        return len(data)

    def _header(self, data: bytes) -> tuple[int, int]:
        """How many calls, and how often."""
        if len(data) < BATCH.size or len(data) > MOST_BYTES:
            raise SyscallError("EINVAL")
        version, count, rounds, reserved = BATCH.unpack_from(data)
        sound = version == VERSION and not reserved and 0 < count <= MOST_CALLS and 0 < rounds <= MOST_ROUNDS
        if not sound or len(data) < BATCH.size + CALL.size * count:
            raise SyscallError("EINVAL")
        return count, rounds

    def _call(self, call: tuple[int, ...], lists: bytes, times: int) -> tuple[int, ...]:
        opcode, *args, offset, size = call
        if opcode == DDW_QUERY:
            return self._query(args)
        if size:
            args[2] = args[2] + self._list(lists[offset : offset + size]) & _MASK
        lost: list[int] = []
        status, registers = hypercalls(self._machine, lost.append).call(opcode, tuple(args[:ARGUMENTS]))
        if lost and self._machine.copies is None:  # else the QEMU that runs the guest refuses it, in its own log
            # If a list goes past the window's end, the first TCE past it was read as well.
            table = tables(self._machine)[args[0]]
            read = args[3] if status == hcallnumbers.H_SUCCESS else max(table.entries - table.index(args[1]), 0) + 1
            line = f"Invalid read at addr {args[2]:#x}"
            self._machine.refuse(Refusal("read", args[2], _TCE * read * times, line))
        return status, *registers

    def _query(self, args: list[int]) -> tuple[int, ...]:
        """RTAS ibm,query-pe-dma-window: status, windows left, largest block, page sizes, migration."""
        buid = (args[1] & _CELL) << 32 | args[2] & _CELL
        pe = next((pe for pe in self._machine.pes.values() if window.buid(pe.phb.index) == buid), None)
        if pe is None:
            return windowcreation.PARAMETER_ERROR, 0, 0, 0, 0
        status, told = pe.windows.query()
        return status, told["left"], LARGEST, told["page_sizes"], told["migration"]

    def _list(self, content: bytes) -> int:
        """Real address of the module's page, with a list in it."""
        ram = self._machine.ram
        self._page = self._page or ram.allocate()
        ram.write(self._page, content.ljust(hcallnumbers.LIST_PAGE, b"\0"))
        return self._page

    def pread(self, size: int, _offset: int) -> bytes:
        """Results, as far as there are any."""
        out, self._results = self._results[:size], self._results[size:]
        return out
