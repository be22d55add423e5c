"""The code to which a kernel jumps that starts another one (arch/powerpc/kernel/misc_64.S, kexec_sequence).

It is entered with the CPU's number in r3. It says that it is there, and waits until the host has written the second
kernel. Then it enters the kernel as the flattened-tree protocol has it (Documentation/arch/powerpc/booting.rst): r3 the
tree, r4 the kernel, r5 0.

The first 256 bytes are copied to address 0, where the other CPUs are sent to 0x60, in big endian (kexec_wait), and wait
for what the second kernel has there.
"""

from __future__ import annotations

import struct
from typing import Final

from tcelab.qemu.second.flattree import BOOT_CPU_AT

GO: Final = 2
"""In the mailbox: the trampoline is to go on."""
HELD: Final = 0x60
"""Where the other CPUs wait."""
_COPIED: Final = 0x100

_R0, _CPU, _KERNEL, _R5, _TREE, _PLACE, _R9, _VALUE = 0, 3, 4, 5, 6, 8, 9, 10
STAY: Final = 0x48000000
"""A branch to itself."""
_SYNC: Final = 0x7C0004AC
_ISYNC: Final = 0x4C00012C
_BCTR: Final = 0x4E800420


def _d(opcode: int, to: int, base: int, immediate: int) -> int:
    """An instruction of D form."""
    return opcode << 26 | to << 21 | base << 16 | immediate & 0xFFFF


def _addi(to: int, base: int, value: int) -> int:
    return _d(14, to, base, value)


def _load(to: int, value: int) -> list[int]:
    """Lis, ori: a number below 2 GiB, or the lower half of a register."""
    return [_d(15, to, 0, value >> 16), _d(24, to, to, value)]


def _to_count(source: int) -> int:
    return 0x7C0903A6 | source << 21


def _back(opcode: int, condition: int, instructions: int) -> int:
    """A conditional branch that many instructions back."""
    return opcode << 26 | condition << 16 | -4 * instructions & 0xFFFC


def code(tree: int, kernel: int, mailbox: int, waits: int) -> bytes:
    """:param tree: where it is; `kernel`: likewise.
    :param mailbox: where a word is for host and guest; `waits`: what it holds once the trampoline waits.
    """
    main = [
        *_load(_TREE, tree),
        _addi(_R5, _TREE, BOOT_CPU_AT),
        0x7C00052C | _CPU << 21 | _R5 << 11,  # stwbrx: the header is big endian
        *_load(_PLACE, mailbox),
        *_load(_VALUE, waits),
        _d(36, _VALUE, _PLACE, 0),  # stw
        _SYNC,
        _d(32, _VALUE, _PLACE, 0),  # lwz
        _d(11, 0, _VALUE, GO),  # cmpwi
        _back(16, 0x82, 2),  # bne
        _SYNC,
        _ISYNC,
        _addi(_CPU, _TREE, 0),
        *_load(_KERNEL, kernel),
        *(_addi(register, _R0, 0) for register in range(_R5, _R9 + 1)),
        _to_count(_KERNEL),
        _BCTR,
    ]
    head = [STAY | _COPIED, *[0] * (_COPIED // 4 - 1)]
    head[HELD // 4] = int.from_bytes(STAY.to_bytes(4, "big"), "little")
    words = (*head, *main)
    return struct.pack(f"<{len(words)}I", *words)
