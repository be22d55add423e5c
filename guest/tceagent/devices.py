"""The operations of devices: bus mastering, transfers, and looking at them. See `tceagent.ops`.

The configuration space identifies a device: an edu, unless it is a virtio-blk.
"""

from __future__ import annotations

from tceagent import doorbell as bells
from tceagent import edu, errors, uapi, vfio, virtio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tceagent.seam import Kernel, Outcome, Registers
    from tceagent.state import File, State

COMMAND = 4
BUS_MASTER = 0x4


def master(state: State, *, file: str, on: bool = True) -> Outcome:
    opened = state.file(file)
    command = _command(state.kernel, opened)
    command = command | BUS_MASTER if on else command & ~BUS_MASTER
    try:
        state.kernel.pwrite(opened.fd, command.to_bytes(2, "little"), _place(state.kernel, opened) + COMMAND)
    except OSError as error:
        raise errors.RefusedError(error) from error
    return {"value": _command(state.kernel, opened)}


def dma(state: State, *, file: str, iova: int, size: int, to_memory: bool, offset: int = 0) -> Outcome:
    _, value = _transfers(state.kernel, state.file(file), [(iova, size, to_memory, offset)])
    return {"errno": "ETIMEDOUT"} if value is None else {"value": value}


def burst(state: State, *, file: str, transfers: list[tuple[int, int, bool, int]]) -> Outcome:
    began = state.kernel.monotonic()
    done, value = _transfers(state.kernel, state.file(file), transfers)
    outcome: Outcome = {"fields": {"done": done, "seconds": state.kernel.monotonic() - began}}
    outcome.update({"errno": "ETIMEDOUT"} if value is None else {"value": value})
    return outcome


def _transfers(kernel: Kernel, opened: File, transfers: list[tuple[int, int, bool, int]]) -> tuple[int, int | None]:
    """Do transfers one after the other, until one fails: how many were done, and the value of the last one."""
    place = _virtio(kernel, opened)
    if place is None:
        return _by_edu(kernel, opened, transfers)
    registers = _registers(kernel, opened)
    if opened.engine is not None:
        return opened.engine.run(transfers)
    return 0, virtio.NOT_READY if virtio.reached(registers, place) else virtio.ALL_ONES


def _by_edu(kernel: Kernel, opened: File, transfers: list[tuple[int, int, bool, int]]) -> tuple[int, int | None]:
    for _, size, _, offset in transfers:
        edu.check(size, offset)
    registers = _registers(kernel, opened)
    for done, (iova, size, to_memory, offset) in enumerate(transfers):
        kernel.beat()
        value = edu.transfer(kernel, registers, iova, size, offset, to_memory=to_memory, quick=opened.quick)
        if value != 0:
            return done, value
    return len(transfers), 0


def doorbell(
    state: State,
    *,
    file: str,
    iova: int,
    size: int,
    to_memory: bool,
    count: int = 1,
    stride: int = 0,
    pattern: int = 0,
    interrupt: bool = True,
) -> Outcome:
    opened = state.file(file)
    kernel = state.kernel
    _virtio(kernel, opened)
    if not opened.quick:
        raise errors.RefusedError("ENODEV")
    bell = bells.Doorbell(kernel, _registers(kernel, opened))
    if not bell.reached():
        return {"value": edu.ALL_ONES}
    command = (bells.TO_MEMORY if to_memory else 0) | (bells.INTERRUPT if interrupt else 0)
    fields: dict[str, Any] = {}
    line = None
    if interrupt:
        try:
            line = kernel.interrupt(opened.fd)
        except errors.RefusedError as refusal:
            fields["no_interrupt"] = refusal.errno
    try:
        bell.begin(bells.words(iova, size, stride=stride, count=count, pattern=pattern, command=command))
        came = bell.end(line, awaited=bool(_command(kernel, opened) & BUS_MASTER))
    finally:
        if line is not None:
            line.close(keep=not bell.reached())
    if came is None:
        return {"errno": "ETIMEDOUT"}
    if bell.status() == bells.INVALID:
        return {"errno": "EIO"}
    if line is not None:
        fields["interrupts"] = came
    if bell.reached():
        fields.update(bell.results())
    return {"value": 0, "fields": fields}


def engine(state: State, *, file: str, ring: dict[str, Any], iova: int) -> Outcome:
    opened = state.file(file)
    kernel = state.kernel
    memory, _ = state.buffer(ring["buffer"])
    place = _virtio(kernel, opened)
    if place is None:
        raise errors.RefusedError("ENODEV")
    registers = _registers(kernel, opened)
    lies = memory, ring.get("index", 0), iova
    made = virtio.Engine(kernel, registers, place, lies, lambda: bool(_command(kernel, opened) & BUS_MASTER))
    value = made.begin()
    if value == 0:
        opened.engine = made
    return {"errno": "ETIMEDOUT"} if value is None else {"value": value}


def together(state: State, *, ops: list[dict[str, Any]]) -> Outcome:
    transfers = [_Transfer(state, **op) for op in ops]
    begun = [each.begin() for each in transfers]
    ends, pause = [], edu.MOST
    for each, reached in zip(transfers, begun):  # noqa: B905 - Python 3.9
        ends.append(each.end(pause) if reached else edu.ALL_ONES)
        pause = edu.POLL  # the others began as early
    if None in ends:
        return {"errno": "ETIMEDOUT"}
    return {"value": 0 if all(begun) else edu.ALL_ONES, "fields": {"ends": ends}}


class _Transfer:
    """One of several transfers, ready to begin: every step that can be refused is done."""

    def __init__(
        self, state: State, *, file: str, iova: int, size: int, to_memory: bool, offset: int = 0, **_: object
    ) -> None:
        edu.check(size, offset)
        self._kernel = state.kernel
        opened = state.file(file)
        self._registers = _registers(state.kernel, opened)
        self._quick = opened.quick
        self._what = iova, size, offset, to_memory

    def begin(self) -> bool:
        iova, size, offset, to_memory = self._what
        return edu.begin(self._registers, iova, size, offset, to_memory=to_memory, quick=self._quick)

    def end(self, pause: float) -> int | None:
        return 0 if edu.wait(self._kernel, self._registers, pause, quick=self._quick) else None


def look(state: State, *, file: str, what: str) -> Outcome:
    opened = state.file(file)
    if what == "command":
        return {"value": _command(state.kernel, opened)}
    place = _virtio(state.kernel, opened)
    registers = _registers(state.kernel, opened)
    return {"value": edu.identity(registers) if place is None else virtio.identity(registers, place)}


def _registers(kernel: Kernel, opened: File) -> Registers:
    """The registers of a device's file, which stay mapped until it is closed."""
    if opened.registers is None:
        place = _virtio(kernel, opened)
        offset, length = vfio.region(kernel, opened.fd, uapi.BAR0_REGION if place is None else place.bar)
        try:
            opened.registers = kernel.map_registers(opened.fd, offset, length)
        except OSError as error:
            raise errors.RefusedError(error) from error
    return opened.registers


def _place(kernel: Kernel, opened: File) -> int:
    """Of the configuration space, in a device's file."""
    if opened.config is None:
        opened.config = vfio.region(kernel, opened.fd, uapi.CONFIG_REGION)[0]
    return opened.config


def _read(kernel: Kernel, opened: File, size: int, offset: int) -> bytes:
    """Of the configuration space."""
    place = _place(kernel, opened)
    try:
        return kernel.pread(opened.fd, size, place + offset)
    except OSError as error:
        raise errors.RefusedError(error) from error


def _command(kernel: Kernel, opened: File) -> int:
    return int.from_bytes(_read(kernel, opened, 2, COMMAND), "little")


def _virtio(kernel: Kernel, opened: File) -> virtio.Place | None:
    """Where a virtio-blk has its registers, None for another device."""
    if not opened.known:
        model = int.from_bytes(_read(kernel, opened, 4, 0), "little")
        opened.quick = model == edu.PROBE
        if model == virtio.MODEL:
            opened.virtio = virtio.find(lambda size, offset: _read(kernel, opened, size, offset))
        opened.known = True
    return opened.virtio
