"""Hypercalls of the session without a guest: one page after the other, as it stands in hw/ppc/spapr_iommu.c. No code of
the judge or of `tcelab.papr` is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tcelab.run.record import Outcome, Refusal

if TYPE_CHECKING:
    from ideal import Ideal

    from tcelab.program import Call

NUMBERS = {"H_GET_TCE": 0x1C, "H_PUT_TCE": 0x20, "H_STUFF_TCE": 0x138, "H_PUT_TCE_INDIRECT": 0x13C}
PAGE = 4096
TOP = 1 << 64


class Hypercalls:
    """Of one operation. `frames`: of its words that name pages, in order."""

    def __init__(self, ideal: Ideal) -> None:
        self.ideal = ideal
        self.frames: list[int] = []
        self.windows: dict[int, tuple[int, int, dict[int, int]]] = {
            0x80000000: (0, 4096, ideal.channel),
            0x80001E00: (0, 4096, ideal.spare),
        }
        for pe in ideal.pes.values():
            self.windows[pe.liobn] = (pe.start, pe.size // PAGE, pe.table)
        self.windows |= {liobn | 1: (0, 0, {}) for liobn in self.windows}

    def word(self, word: Any) -> int:
        if isinstance(word, int):
            return word
        self.frames.append(self.ideal.buffers[word.buffer][word.index])
        return (self.frames[-1] | word.permissions) + word.plus

    def call(self, call: Call, *, problem_state: bool = False) -> tuple[int, list[int]]:
        opcode = NUMBERS[call.opcode] if isinstance(call.opcode, str) else call.opcode
        args = [self.word(word) for word in call.args]
        args += [0] * (4 - len(args))
        tces = None if call.tces is None else [self.word(word) for word in call.tces]
        if problem_state:
            return -3, []
        liobn, ioba, third, npages = args
        if liobn not in self.windows:
            return -4, args
        start, entries, table = self.windows[liobn]
        index = ((ioba & -PAGE) - start) % TOP // PAGE
        if opcode == 0x1C:
            return (0, [table.get(index, 0), *args[1:]]) if index < entries else (-4, args)
        if opcode == 0x20:
            npages = 1
        most = {0x138: entries, 0x13C: 512}.get(opcode, npages)
        if npages > most or (opcode == 0x13C and third % PAGE):
            return -4, args
        status = -4
        for i in range(npages):
            tce = third if opcode != 0x13C else self.listed(third, tces, i)
            if index + i >= entries:
                return -4, args
            status = 0
            table[index + i] = tce
            if not tce:
                del table[index + i]
        return status, args

    def listed(self, where: int, tces: list[int] | None, number: int) -> int:
        if tces is not None:
            return tces[number] if number < len(tces) else 0
        if where not in self.ideal.ram:
            self.ideal.refused.append(Refusal("read", where + 8 * number, 8, f"Invalid read at {where:#x}"))
            return 0
        return int.from_bytes(self.ideal.ram[where][8 * number : 8 * number + 8], "big")


def single(ideal: Ideal, op: Any) -> Outcome:
    calls = Hypercalls(ideal)
    if isinstance(op.call.opcode, int) and not op.problem_state:
        return Outcome(errno="EINVAL")
    status, registers = calls.call(op.call, problem_state=op.problem_state)
    fields = {} if op.problem_state else {"registers": registers, "ticks": 7}
    return Outcome(value=status, fields=fields, frames=calls.frames)


def batch(ideal: Ideal, op: Any) -> Outcome:
    calls = Hypercalls(ideal)
    done = [calls.call(call) for call in op.calls]
    statuses, registers = zip(*done, strict=True)
    fields = {"statuses": list(statuses), "registers": list(registers), "ticks": [7] * len(done)}
    return Outcome(value=0, fields=fields, frames=calls.frames)
