"""QEMU's pseries machine without a guest: driven by qtest and QMP, its firmware nothing but a few hypercalls."""
# ruff: noqa: INP001 - beside scripts, in no package

import atexit
import json
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORK, *QEMU = sys.argv[1:]
CAPABILITIES = "cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"  # as TCG has it
BRIDGE = (0x8000000, 0x20000000)  # the unit ID of the machine's own bridge, in two cells
LIOBN = 0x80000000  # its default window's
MEMORY, MASTER = 2, 4  # bits of a command register
ARGUMENTS, RESULTS, DONE = 0x100000, 0x101000, 0x4000  # RAM that nobody else uses


def firmware(*calls: tuple[int, ...]) -> str:
    """Return the file of firmware that makes these hypercalls (token, arguments) in turn, and then says so at DONE."""
    code = []
    for call in calls:
        for register, value in enumerate(call, start=3):
            code.append(15 << 26 | register << 21 | value >> 16)  # lis
            code.append(24 << 26 | register << 21 | register << 16 | value & 0xFFFF)  # ori
            code.append(0x78000020 | register << 21 | register << 16)  # clrldi, 32
        code.append(0x44000022)  # sc 1
    code += [0x38600001, 0x90600000 | DONE, 0x48000000]  # li r3, 1; stw r3, DONE(0); b .
    path = Path(WORK, "firmware")  # the CPU starts at 0x100
    path.write_bytes(b"".join([bytes(0x100), *(struct.pack(">I", word) for word in code)]).ljust(0x1000, b"\0"))
    return str(path)


class Machine:
    """One QEMU. Whatever it does not answer as it should is an exception: the finding could not be tried."""

    def __init__(self, name: str, *options: str) -> None:
        command = [*QEMU, "-M", f"pseries,{CAPABILITIES}", "-m", "256M", "-nodefaults", "-display", "none", *options]
        command += ["-qtest", "stdio", "-qtest-log", "none", "-qmp", f"unix:{WORK}/{name},server=on,wait=off"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        self.qtest("endianness")  # where it answers, the other socket is there
        self.client = socket.socket(socket.AF_UNIX)
        self.client.connect(f"{WORK}/{name}")
        self.replies = self.client.makefile()
        self.qmp("qmp_capabilities")

    def qtest(self, line: str) -> str:
        """Return the last word of the answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()[-1]

    def until(self, line: str, mask: int, value: int) -> None:
        """Send the line until these bits of its answer have the value."""
        while int(self.qtest(line), 16) & mask != value:
            time.sleep(0.05)

    def qmp(self, name: str, **arguments: str) -> Any:  # noqa: ANN401 - as JSON has it
        self.client.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        reply = {"QMP": None}
        while "event" in reply or "QMP" in reply:
            reply = json.loads(self.replies.readline())
        return reply["return"]

    def rtas(self, name: str, *cells: int, results: int = 1) -> list[int]:
        """Return the results, of which the first is the status. All are big-endian cells of 32 bits."""
        self.qtest(f"write {ARGUMENTS} {4 * len(cells)} 0x{struct.pack(f'>{len(cells)}I', *cells).hex()}")
        if self.qtest(f"rtas {name} {len(cells)} {ARGUMENTS} {results} {RESULTS}") != "0":
            raise LookupError(f"there is no {name}")
        return [int(self.qtest(f"read {RESULTS + 4 * cell} 4"), 16) for cell in range(results)]

    def read_config(self, slot: int, register: int, size: int) -> int:
        return self.rtas("ibm,read-pci-config", slot << 11 | register, *BRIDGE, size, results=2)[1]

    def write_config(self, slot: int, register: int, size: int, value: int) -> None:
        self.rtas("ibm,write-pci-config", slot << 11 | register, *BRIDGE, size, value)
