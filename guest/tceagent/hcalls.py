"""TCE hypercalls: by the kernel, through the module `tce_hcall`, and by a process, from which the platform refuses
them.

A call comes as `{"opcode", "args", "tces"}`: numbers, and words `{"buffer", "index", "permissions", "plus"}` that stand
for the TCE of a buffer's page.
"""

from __future__ import annotations

from itertools import repeat
from struct import Struct

from tceagent import errors
from tceagent.uapi import IOMMU_PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Union

    from tceagent.seam import Outcome
    from tceagent.state import State

    Word = Union[int, dict[str, Any]]

PATH = "/dev/tce_hcall"
VERSION = 1
OPCODES = {"H_GET_TCE": 0x1C, "H_PUT_TCE": 0x20, "H_STUFF_TCE": 0x138, "H_PUT_TCE_INDIRECT": 0x13C}
_MULTIPLE = (OPCODES["H_STUFF_TCE"], OPCODES["H_PUT_TCE_INDIRECT"])
"""Opcodes whose fourth argument is a number of pages."""
BATCH = Struct("=IIII")
"""Version, number of calls, rounds, 0."""
CALL = Struct("=QQQQQII")
"""Opcode, four arguments, where in the lists its own begins, and its bytes."""
RESULT = Struct("=qQQQQQ")
"""Status, r4 to r7, ticks."""
ARGUMENTS = 4
_MASK = (1 << 64) - 1
_ROUNDS = 10_000_000
"""Of one write."""
_BEAT = 100_000
"""Entries between two progress marks: a second at most, of the 60 that the host waits."""


def hcall(state: State, *, call: dict[str, Any], problem_state: bool = False) -> Outcome:
    words = _Words(state)
    if problem_state:
        opcode, args, tces = words.call(**call)
        if tces is not None:
            raise ValueError("a process has no list page")
        return {"value": state.kernel.hypercall(opcode, args), "frames": words.told}
    (result,) = _perform(state, _packed([words.call(**call)]), 1, 1)
    status, *registers, ticks = result
    return {"value": status, "fields": {"registers": registers, "ticks": ticks}, "frames": words.told}


def hcall_batch(state: State, *, calls: list[dict[str, Any]], times: int = 1, loop: str = "module") -> Outcome:
    words = _Words(state)
    ready = [words.call(**call) for call in calls]
    packed = _packed(ready)
    entries = sum(min(args[3], 512) if opcode in _MULTIPLE else 1 for opcode, args, _ in ready)
    most = min(max(1, _BEAT // max(entries, 1)), _ROUNDS)
    began = state.kernel.monotonic()
    ticks = 0
    results: list[tuple[int, ...]] = []
    left = times
    while left > 0:
        state.kernel.beat()
        rounds = min(left, most)
        if loop == "agent":
            _write(state, packed, len(calls), rounds - 1)
            rounds = 1
        results = _perform(state, packed, len(calls), rounds)
        ticks += results[0][-1]
        left -= most
    fields: dict[str, Any] = {
        "statuses": [result[0] for result in results],
        "registers": [list(result[1:-1]) for result in results],
        "ticks": [result[-1] if times == 1 else ticks for result in results],
    }
    if times != 1:
        fields["calls"] = len(calls) * times
        fields["seconds"] = state.kernel.monotonic() - began
    return {"value": 0, "fields": fields, "frames": words.told}


class _Words:
    """The words of one operation. `told`: the real address of the page of each that names one, in order."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._frames: dict[str, list[int]] = {}
        self.told: list[int] = []

    def call(
        self, *, opcode: str | int, args: list[Word], tces: list[Word] | None = None
    ) -> tuple[int, list[int], list[int] | None]:
        """Opcode, four arguments, and the list's entries."""
        number = OPCODES[opcode] if isinstance(opcode, str) else opcode
        if len(args) > ARGUMENTS:
            raise ValueError(f"a hypercall has {ARGUMENTS} arguments at most, not {len(args)}")
        numbers = [*self._numbers(args), *[0] * (ARGUMENTS - len(args))]
        return number, numbers, None if tces is None else list(self._numbers(tces))

    def _numbers(self, words: Iterable[Word]) -> Iterable[int]:
        return [word if isinstance(word, int) else self._tce(**word) for word in words]

    def _tce(self, *, buffer: str, index: int = 0, permissions: int = 3, plus: int = 0) -> int:
        if buffer not in self._frames:
            memory, pages = self._state.buffer(buffer)
            self._frames[buffer] = self._state.kernel.frames(memory.address, pages * IOMMU_PAGE)
        frame = self._frames[buffer][index]
        self.told.append(frame)
        return ((frame | permissions) + plus) & _MASK


def _packed(calls: list[tuple[int, list[int], list[int] | None]]) -> tuple[bytes, bytes]:
    """Calls and lists, as they follow the header."""
    heads = []
    lists = b""
    for opcode, args, tces in calls:
        own = b"" if tces is None else b"".join(tce.to_bytes(8, "big") for tce in tces)
        heads.append(CALL.pack(opcode, *args, len(lists) if own else 0, len(own)))
        lists += own
    return b"".join(heads), lists


def _write(state: State, packed: tuple[bytes, bytes], count: int, times: int) -> None:
    """A write for each round, one after the other.

    :raise RefusedError: as `_perform`.
    """
    data = BATCH.pack(VERSION, count, 1, 0) + b"".join(packed)
    try:
        if state.hypercalls is None:
            state.hypercalls = state.kernel.open(PATH)
        # No line of this function runs between two writes: sum and map are loops in C.
        sum(map(state.kernel.pwrite, repeat(state.hypercalls, times), repeat(data), repeat(0)))
    except OSError as error:
        raise errors.RefusedError(error) from error


def _perform(state: State, packed: tuple[bytes, bytes], count: int, rounds: int) -> list[tuple[int, ...]]:
    """:raise RefusedError: there is no module, or it refuses."""
    kernel = state.kernel
    try:
        if state.hypercalls is None:
            state.hypercalls = kernel.open(PATH)
        kernel.pwrite(state.hypercalls, BATCH.pack(VERSION, count, rounds, 0) + b"".join(packed), 0)
        raw = kernel.pread(state.hypercalls, RESULT.size * count, 0)
    except OSError as error:
        raise errors.RefusedError(error) from error
    return [RESULT.unpack_from(raw, at * RESULT.size) for at in range(count)]
