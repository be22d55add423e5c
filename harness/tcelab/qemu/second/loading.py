"""Places for a second kernel and what comes with it, and the device tree that it is given.

The tree is the one that the first kernel has at that moment: it knows what became of the windows. As kexec-tools does,
what the first kernel put there about itself is left out, and a crash kernel is told which memory is its own
(arch/powerpc/kernel/prom.c; arch/powerpc/mm/drmem.c; arch/powerpc/kexec/file_load_64.c).
"""

from __future__ import annotations

import secrets
import struct
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tcelab.errors import HarnessError, Unsupported
from tcelab.image.elf import Elf
from tcelab.qemu.channel import Hello
from tcelab.qemu.ram import MIB
from tcelab.qemu.second import serialqueue, trampoline
from tcelab.qemu.second.flattree import Tree, flatten

UNIT: Final = 1 << 16
"""Bytes of a page of any kernel: each piece has whole ones."""
_ALIGNED: Final = 16 * MIB
_RUN_IN_PLACE: Final = 0x5C
"""In a kernel's image, the word that says whether it stays where it is (arch/powerpc/kernel/head_64.S)."""
_SPARED: Final = 1 << 16
"""Bytes at address 0 that every kernel uses."""
_OF_THE_FIRST: Final = ("linux,crashkernel-", "linux,initrd-", "linux,kernel-", "linux,htab-", "linux,tce-")
"""Beginnings of properties that a kernel leaves in `chosen` about itself."""
_SEED: Final = "rng-seed"
"""Of the random generator: as firmware, kexec_file_load(2) gives each kernel a fresh one (drivers/of/kexec.c), and a
kernel wipes it from its tree as soon as it has it. Without one, whoever first asks for random numbers waits for them: 1
s of a Python's start under TCG.
"""
_SEED_SIZE: Final = 128
_KERNEL_MAP: Final = 0xC000000000000000
_ASSIGNED, _KEPT = 0x8, 0x80
"""Flags of a block of memory: it is there; it is not for the kernel."""
Range = tuple[int, int]
"""Address, bytes."""


class KernelImage(msgspec.Struct, frozen=True):
    """A vmlinux as it lies in memory.

    :ivar size: its bytes in memory, what is zero at first included.
    """

    data: bytes | bytearray
    size: int


class Loading(msgspec.Struct, frozen=True):
    """:ivar start: where the first kernel jumps to.

    :ivar pieces: that the first kernel is given, as `tceagent.second.load` takes them.
    :ivar place: the second kernel's, which QEMU is to fill with zeros before anything is written there.
    :ivar left: where the second kernel will copy itself to, over the first one, which no CPU runs any more; without the
        bytes that every kernel uses. A crash kernel stays where it is.
    :ivar writes: what the host writes: address, bytes.
    :ivar mailbox: address of the trampoline's word; `waits`: what it holds once the trampoline waits.
    """

    start: int
    pieces: list[dict[str, Any]]
    place: Range
    left: Range
    writes: list[tuple[int, bytes | bytearray]]
    mailbox: int
    waits: int


def impossible(hello: Hello, crashkernel: int, queue: int) -> dict[str, str]:
    """Which of the events that need a second kernel a guest cannot go through, and why.

    :param crashkernel: MiB that its kernel was asked to keep.
    :param queue: see `serialqueue.length`.
    """
    if not hello.kexec:
        why = "its kernel can start no other one: it was built without CONFIG_KEXEC"
        return {"Kexec": why, "Crash": why}
    if not hello.crashkernel:
        why = f"its kernel keeps no memory for a crash kernel: crashkernel={crashkernel}M does not fit into its RAM"
        return {"Crash": f"{why}, or it was built without CONFIG_CRASH_DUMP"}
    if why := serialqueue.too_long(queue, hello.page_size, crashkernel):
        return {"Crash": why}
    return {}


def read_kernel(path: Path) -> KernelImage:
    """:raise Unsupported: a kernel of another byte order than a guest's agent."""
    with path.open("rb") as file:
        elf = Elf(file)
        if not elf.little_endian:
            raise Unsupported(f"{path} is big endian: no such kernel is started by another one here")
        image, size = bytearray(), 0
        for place, data, in_memory in elf.loaded():
            image += bytes(max(0, place + len(data) - len(image)))
            image[place : place + len(data)] = data
            size = max(size, place + in_memory)
    return KernelImage(image, -(-size // UNIT) * UNIT)


def plan(
    tree: Tree, kernel: KernelImage, initrd: bytes, command_line: str, *, ram: int, notes: Sequence[int], crash: bool
) -> Loading:
    """:param tree: changed.
    :param ram: bytes that the kernel may use; `notes`: place and bytes of the notes for who reads a dump.
    :param crash: a crash kernel, in the memory that was kept for it.
    :raise HarnessError: no room.
    """
    rtas = _firmware(tree)
    first, end = _kept(tree) if crash else (-(-kernel.size // _ALIGNED) * _ALIGNED, ram)
    places = _Places(first)
    at = places.take(kernel.size)
    initrd_at, header_at, code_at = places.take(len(initrd)), places.take(UNIT), places.take(UNIT)
    mailbox, waits = code_at + UNIT // 2, secrets.randbits(31)
    pieces = [(code_at, trampoline.code(places.next, at, mailbox, waits), UNIT)]
    writes: list[tuple[int, bytes | bytearray]] = [(at, kernel.data), (initrd_at, initrd)]
    reserved = [rtas, (initrd_at, len(initrd))]
    chosen = tree["chosen"]
    for name in [name for name in chosen if name.startswith(_OF_THE_FIRST)]:
        del chosen[name]
    chosen[_SEED] = secrets.token_bytes(_SEED_SIZE)
    if crash:
        writes.append(
            (at + _RUN_IN_PLACE, (1).to_bytes(4, "little"))
        )  # after the kernel itself, which is large to copy
        pieces.append((header_at, _dump_header(notes, ram), UNIT))
        command_line += f" elfcorehdr={header_at >> 10}K"
        reserved += [(_SPARED, first - _SPARED), (header_at, UNIT)]
        _restrict(tree, [(0, end), rtas])
    chosen["bootargs"] = command_line.encode() + b"\0"
    chosen["linux,initrd-start"], chosen["linux,initrd-end"] = _cell(initrd_at), _cell(initrd_at + len(initrd))
    flat = flatten(tree, reserved)
    pieces.append((places.take(len(flat)), flat, -(-len(flat) // UNIT) * UNIT))
    if places.next > end or not (places.next <= rtas[0] or rtas[0] + rtas[1] <= first):
        room = f"{first:#x} to {min(end, rtas[0]) if rtas[0] > first else end:#x}"
        raise HarnessError(
            f"no room for a second kernel with its initrd: {(places.next - first) // MIB} MiB wanted from {room}"
        )
    told = [{"at": at, "data": b64encode(piece).decode(), "size": size} for at, piece, size in pieces]
    left = _SPARED, 0 if crash else kernel.size - _SPARED
    return Loading(code_at, told, (at, kernel.size), left, writes, mailbox, waits)


class _Places:
    """Places one after the other, in whole units. `next`: the first that is free."""

    def __init__(self, first: int) -> None:
        self.next = first

    def take(self, size: int) -> int:
        taken = self.next
        self.next += -(-size // UNIT) * UNIT
        return taken


def _cell(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _number(tree: Tree, name: str) -> int:
    return int.from_bytes(tree.get(name, b""), "big")


def _firmware(tree: Tree) -> Range:
    """Where the code of the RTAS calls is."""
    rtas = tree.get("rtas", {})
    return _number(rtas, "linux,rtas-base"), _number(rtas, "rtas-size")


def _kept(tree: Tree) -> Range:
    """The memory that is kept for a crash kernel: its begin and its end.

    :raise HarnessError: none is.
    """
    chosen = tree["chosen"]
    start, size = (_number(chosen, f"linux,crashkernel-{name}") for name in ("base", "size"))
    if not size:
        raise HarnessError("the kernel has kept no memory for a crash kernel, though it said so before")
    return start, start + size


def _dump_header(notes: Sequence[int], ram: int) -> bytes:
    """What a crash kernel knows of the one before: an ELF core header (fs/proc/vmcore.c)."""
    place, size = notes
    segments = (
        struct.pack("<IIQQQQQQ", 4, 0, place, 0, place, size, size, 4),  # PT_NOTE
        struct.pack("<IIQQQQQQ", 1, 7, 0, _KERNEL_MAP, 0, ram, ram, 0),  # PT_LOAD
    )
    # ELF64, little endian; ET_CORE, EM_PPC64
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 21, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    return head + b"".join(segments)


def _restrict(tree: Tree, usable: Sequence[Range]) -> None:
    """Say in each node of memory which of it may be used."""
    for name, node in tree.items():
        if name.startswith("memory@"):
            parts = _within(usable, *struct.unpack_from(">QQ", node["reg"])) or [(0, 0)]
            node["linux,usable-memory"] = b"".join(struct.pack(">QQ", *part) for part in parts)
        elif name == "ibm,dynamic-reconfiguration-memory":
            size = _number(node, "ibm,lmb-size")
            told = b""
            for start in _blocks(node, size):
                parts = _within(usable, start, size)
                told += _cell(len(parts)) + b"".join(struct.pack(">QQ", *part) for part in parts)
            node["linux,drconf-usable-memory"] = told


def _within(ranges: Sequence[Range], start: int, size: int) -> list[Range]:
    """The parts of ranges that lie in one."""
    cut = [(max(at, start), min(at + many, start + size)) for at, many in ranges]
    return [(at, end - at) for at, end in cut if at < end]


def _blocks(node: Tree, size: int) -> Iterator[int]:
    """Addresses of the blocks of memory that are there, as the node lists them (PAPR, ibm,dynamic-memory-v2)."""
    packed = node.get("ibm,dynamic-memory-v2")
    if packed is not None:
        sets = list(struct.iter_unpack(">IQIII", packed[4:]))
    else:
        sets = [(1, start, drc, node_, flags) for start, drc, _, node_, flags in _singly(node)]
    for count, start, _, _, flags in sets:
        if flags & _ASSIGNED and not flags & _KEPT:
            yield from (start + number * size for number in range(count))


def _singly(node: Tree) -> Iterator[tuple[int, ...]]:
    return struct.iter_unpack(">QIIII", node.get("ibm,dynamic-memory", bytes(4))[4:])
