"""A second kernel: the tree that it is given, where its pieces lie, and the code that waits for it."""

import asyncio
import base64
import struct
from itertools import pairwise

import pytest

from tcelab.errors import HarnessError
from tcelab.qemu.channel import Hello
from tcelab.qemu.ram import MIB
from tcelab.qemu.second import loading, serialqueue, trampoline
from tcelab.qemu.second.flattree import flatten, from_hex

RTAS = 0x1EFFF000
KEPT = 0xF800000
KERNEL = loading.KernelImage(bytes(range(256)) * 512, 40 * MIB)
INITRD = b"initrd" * 1000
RAM = 496 * MIB
NOTES = 0x4F61000, 4132


def tree(**chosen):
    """As a guest of 512 MiB has it."""
    own = {"bootargs": b"old\0", "linux,initrd-start": bytes(8), "stdout-path": b"/vdevice\0", **chosen}
    rtas = {"linux,rtas-base": RTAS.to_bytes(4, "big"), "rtas-size": (0x82C).to_bytes(4, "big")}
    memory = {"device_type": b"memory\0", "reg": struct.pack(">QQ", 0, 512 * MIB)}
    return {"model": b"toy\0", "chosen": own, "rtas": rtas, "memory@0": memory}


def kept():
    return {"linux,crashkernel-base": KEPT.to_bytes(8, "big"), "linux,crashkernel-size": (192 * MIB).to_bytes(8, "big")}


def unflatten(blob):
    """Nodes and properties, by path, and what is reserved: read by the specification alone."""
    magic, total, words, strings, kept_at, version, oldest = struct.unpack_from(">7I", blob)
    assert (magic, total, version, oldest) == (0xD00DFEED, len(blob), 17, 16)
    reserved = []
    while (pair := struct.unpack_from(">QQ", blob, kept_at)) != (0, 0):
        reserved.append(pair)
        kept_at += 16
    found, path, at = {}, [], words
    while (kind := struct.unpack_from(">I", blob, at)[0]) != 9:
        at += 4
        if kind == 1:
            end = blob.index(b"\0", at)
            path.append(blob[at:end].decode())
            at = end + 1
        elif kind == 2:
            path.pop()
        else:
            size, name = struct.unpack_from(">II", blob, at)
            end = blob.index(b"\0", strings + name)
            found["/".join([*path, blob[strings + name : end].decode()])] = blob[at + 8 : at + 8 + size]
            at += 8 + size
        at += -at % 4
    return found, reserved


def test_a_flat_tree_has_all_that_was_in_the_tree():
    blob = flatten(from_hex({"a": "0102", "b": {"a": "", "c": {"d": "ff"}}}), [(16, 32)])
    assert unflatten(blob) == ({"/a": b"\1\2", "/b/a": b"", "/b/c/d": b"\xff"}, [(16, 32)])


class Cpu:
    """As much of a CPU as the trampoline needs, instructions and memory in little endian."""

    def __init__(self, code, at, memory):
        self.words = {at + 4 * i: word for i, (word,) in enumerate(struct.iter_unpack("<I", code))}
        self.pc, self.memory = at, memory
        self.r = dict.fromkeys(range(32), 57005) | {3: 5, 4: at}
        self.ctr = self.equal = 0

    def step(self):
        word = self.words[self.pc]
        self.word, self.to, self.base = word, word >> 21 & 31, word >> 16 & 31
        self.low = word & 0xFFFF
        self.signed = self.low - ((self.low & 0x8000) << 1)
        self.place = (self.r[self.base] if self.base else 0) + self.signed
        self.pc += 4
        getattr(self, f"op_{word >> 26}")()

    def op_11(self):  # cmpwi
        self.equal = self.r[self.base] == self.signed

    def op_14(self):  # addi
        self.r[self.to] = self.place

    def op_15(self):  # addis
        self.r[self.to] = (self.r[self.base] if self.base else 0) + (self.signed << 16)

    def op_16(self):  # bne
        if not self.equal:
            self.pc += self.signed - 4

    def op_18(self):  # b
        self.pc += (self.word & 0x3FFFFFC) - 4

    def op_19(self):  # bctr, isync
        if self.word == 0x4E800420:
            self.pc = self.ctr
        else:
            assert self.word == 0x4C00012C

    def op_24(self):  # ori
        self.r[self.base] = self.r[self.to] | self.low

    def op_31(self):  # mtctr, stwbrx, sync
        if self.word >> 1 & 0x3FF == 467:
            self.ctr = self.r[self.to]
        elif self.word >> 1 & 0x3FF == 662:
            struct.pack_into(">I", self.memory, self.r[self.word >> 11 & 31], self.r[self.to])
        else:
            assert self.word == 0x7C0004AC

    def op_32(self):  # lwz
        self.r[self.to] = struct.unpack_from("<I", self.memory, self.place)[0]

    def op_36(self):  # stw
        struct.pack_into("<I", self.memory, self.place, self.r[self.to] & 0xFFFFFFFF)


def test_the_trampoline_waits_and_enters_the_kernel():
    tree_at, kernel, mailbox, waits, at = 0x300, 0x1000, 0x400, 0x70000001, 0x8000
    memory = bytearray(b"\xaa" * 0x3000)
    cpu = Cpu(trampoline.code(tree_at, kernel, mailbox, waits), at, memory)
    for _ in range(1000):
        cpu.step()
    assert struct.unpack_from("<I", memory, mailbox) == (waits,), "and it is still there"
    assert set(memory[kernel - 0x100 :]) == {0xAA}
    assert struct.unpack_from(">I", memory, tree_at + 28) == (5,), "the CPU that boots"
    struct.pack_into("<I", memory, mailbox, trampoline.GO)
    while cpu.pc != kernel:
        cpu.step()
    assert (cpu.r[3], cpu.r[4], cpu.r[5]) == (tree_at, kernel, 0)


def test_the_other_cpus_wait_at_the_address_to_which_they_are_sent():
    code = trampoline.code(0, 0, 0, 1)
    assert struct.unpack_from(">I", code, 0x60) == (0x48000000,), "a branch to itself, in big endian"


def planned(*, crash=False, ram=RAM, kernel=KERNEL, **chosen):
    plan = loading.plan(tree(**chosen), kernel, INITRD, "root=x", ram=ram, notes=NOTES, crash=crash)
    pieces = {each["at"]: base64.b64decode(each["data"]) for each in plan.pieces}
    blob = next(data for data in pieces.values() if data.startswith(b"\xd0\x0d\xfe\xed"))
    return plan, pieces, *unflatten(blob)


@pytest.mark.parametrize("crash", [False, True], ids=["kexec", "crash"])
def test_nothing_lies_on_anything_else(crash):
    plan, _, _, reserved = planned(crash=crash, **(kept() if crash else {}))
    first, end = (KEPT, KEPT + 192 * MIB) if crash else (KERNEL.size, RAM)
    spans = sorted(
        [(each["at"], each["size"]) for each in plan.pieces]
        + [(plan.writes[0][0], KERNEL.size), (plan.writes[1][0], len(INITRD)), (RTAS, 0x82C)]
    )
    assert all(one + size <= other for (one, size), (other, _) in pairwise(spans))
    assert all(first <= at and at + size <= end for at, size in spans if at != RTAS)
    assert all(at % loading.UNIT == 0 and size % loading.UNIT == 0 for at, size in spans[:-1] if size != len(INITRD))
    (start,) = [each for each in plan.pieces if each["at"] == plan.start]
    assert plan.start < plan.mailbox < plan.start + start["size"]
    assert (RTAS, 0x82C) in reserved
    assert (plan.writes[1][0], len(INITRD)) in reserved


def test_the_second_kernel_is_told_its_command_line_and_initrd_and_nothing_of_the_first():
    plan, _, told, _ = planned(**kept())
    assert told["/chosen/bootargs"] == b"root=x\0"
    assert told["/chosen/linux,initrd-start"] == plan.writes[1][0].to_bytes(8, "big")
    assert told["/chosen/linux,initrd-end"] == (plan.writes[1][0] + len(INITRD)).to_bytes(8, "big")
    assert told["/chosen/stdout-path"] == b"/vdevice\0"
    assert not [name for name in told if "crashkernel" in name or "usable" in name]
    assert plan.writes[0] == (48 * MIB, KERNEL.data)
    assert plan.place == (48 * MIB, KERNEL.size)
    assert plan.left == (1 << 16, KERNEL.size - (1 << 16)), "where the first one was"


@pytest.mark.parametrize("crash", [False, True], ids=["kexec", "crash"])
def test_each_kernel_is_given_a_seed_of_its_own_for_its_random_numbers(crash):
    one, other = (planned(crash=crash, **kept())[2]["/chosen/rng-seed"] for _ in range(2))
    assert len(one) == len(other) == 128
    assert one != other


def test_a_crash_kernel_runs_where_it_lies_in_memory_of_its_own():
    plan, pieces, told, reserved = planned(crash=True, **kept())
    assert plan.writes[0] == (KEPT, KERNEL.data)
    assert plan.left[1] == 0, "the first one is what a dump is about"
    assert plan.writes[-1] == (KEPT + 0x5C, b"\1\0\0\0"), "over the kernel's, so after it"
    (header,) = [at for at, piece in pieces.items() if piece.startswith(b"\x7fELF")]
    assert told["/chosen/bootargs"] == f"root=x elfcorehdr={header >> 10}K\0".encode()
    usable = struct.unpack(">4Q", told["/memory@0/linux,usable-memory"])
    assert usable == (0, KEPT + 192 * MIB, RTAS, 0x82C)
    assert (1 << 16, KEPT - (1 << 16)) in reserved, "the memory of the kernel that crashed"


def test_of_memory_in_blocks_only_those_that_are_there_are_told():
    """Two sets: 1 block of 256 MiB that is there, 2 of which one is its neighbour that is not."""
    there, not_there = 0x8, 0x0
    packed = struct.pack(">I", 2) + struct.pack(">IQIII", 1, 0, 1, 0, there)
    packed += struct.pack(">IQIII", 2, 256 * MIB, 2, 0, not_there)
    its = {"ibm,lmb-size": struct.pack(">Q", 256 * MIB), "ibm,dynamic-memory-v2": packed}
    whole = tree(**kept())
    whole["ibm,dynamic-reconfiguration-memory"] = its
    loading.plan(whole, KERNEL, INITRD, "x", ram=RAM, notes=NOTES, crash=True)
    assert struct.unpack(">3Q", its["linux,drconf-usable-memory"]) == (1, 0, 256 * MIB)


@pytest.mark.parametrize(
    ("crash", "ram", "size", "said"),
    [
        (False, 96 * MIB, 60 * MIB, "no room for a second kernel with its initrd: 61 MiB wanted from 0x4000000 to 0x"),
        (True, RAM, 300 * MIB, "no room for a second kernel with its initrd: 301 MiB wanted from 0xf800000 to 0x"),
    ],
)
def test_too_little_room_is_said(crash, ram, size, said):
    with pytest.raises(HarnessError) as refusal:
        planned(crash=crash, ram=ram, kernel=loading.KernelImage(b"k" * 256, size), **kept())
    assert refusal.value.message.startswith(said[:40])


def test_a_kernel_that_keeps_no_memory_is_no_place_for_a_crash_kernel():
    with pytest.raises(HarnessError, match="kept no memory for a crash kernel"):
        planned(crash=True)


@pytest.mark.parametrize(
    ("kexec", "kept_bytes", "impossible"),
    [(True, 1, set()), (True, 0, {"Crash"}), (False, 0, {"Kexec", "Crash"}), (False, 1, {"Kexec", "Crash"})],
)
def test_what_a_kernel_cannot_do_is_known_from_its_handshake(kexec, kept_bytes, impossible):
    hello = Hello(1, "", 0, 4096, 0, "", "", "", "", "", [], 0.0, "", kexec=kexec, crashkernel=kept_bytes)
    assert loading.impossible(hello, 192, 32).keys() == impossible


@pytest.mark.parametrize(
    ("entries", "page_size", "fits"),
    [(1024, 65536, False), (1024, 4096, True), (128, 65536, True), (512, 65536, True), (528, 65536, False)],
)
def test_a_crash_kernel_needs_memory_for_the_queues_of_its_channel(entries, page_size, fits):
    hello = Hello(1, "", 0, page_size, 0, "", "", "", "", "", [], 0.0, "", kexec=True, crashkernel=1)
    found = loading.impossible(hello, 192, entries)
    assert found.keys() == (set() if fits else {"Crash"})
    if entries == 1024 and not fits:
        assert "queues of 1,024 entries" in found["Crash"]
        assert "64 KiB keeps 192 MiB: too much for a crash kernel of 192 MiB" in found["Crash"]


class Monitor:
    """A guest whose QEMU answers this, or refuses."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    async def qmp(self, command, **arguments):
        self.asked.append((command, arguments))
        if command not in self.answers:
            raise HarnessError(f"QEMU refuses {command}")
        return self.answers[command]


DEVICES = [{"name": "virtio-blk", "path": "/disk"}, {"name": "virtio-serial", "path": "/serial"}]


@pytest.mark.parametrize(
    ("answers", "entries"),
    [
        ({"x-query-virtio": DEVICES, "x-query-virtio-queue-status": {"vring-num": 1024}}, 1024),
        ({"x-query-virtio": DEVICES}, 0),
        ({"x-query-virtio": DEVICES[:1]}, 0),
        ({}, 0),
    ],
)
def test_the_length_of_the_queues_is_asked_of_qemu(answers, entries):
    monitor = Monitor(answers)
    assert asyncio.run(serialqueue.length(monitor)) == entries
    if "x-query-virtio-queue-status" in answers:
        assert monitor.asked[-1] == ("x-query-virtio-queue-status", {"path": "/serial", "queue": 2})
