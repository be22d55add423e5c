"""The operations of the DMA API, done by the driver `tce_dma` (guest/kmod/tce_dma_main.c), which tells the handles.

The device itself is driven from here: its registers are mapped by sysfs. See `tceagent.ops`.
"""

from __future__ import annotations

from tceagent import dmadriver, edu, errors, testdev, vfio
from tceagent.dmadriver import (
    ALLOC,
    ANSWER,
    DIRECTIONS,
    DRIVER,
    DROP,
    HELD,
    HOLD,
    HOW,
    KEEP,
    LOOP,
    MAP,
    MAPS,
    MASK,
    PART,
    READ,
    SEGMENT,
    STATE,
    SYNC,
    UNMAP,
    UNMAPS,
    WHICH,
    WRITE,
    Driver,
    Told,
)
from tceagent.state import unused
from tceagent.uapi import IOMMU_PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tceagent.seam import Kernel, Outcome, Registers
    from tceagent.state import State


class Coherent:
    """Coherent memory of the driver's, as the memory of a buffer (`tceagent.seam.Memory`): it has no address here."""

    address = 0

    def __init__(self, driver: Driver, device: str, number: int, size: int) -> None:
        self._driver, self._of, self.size = driver, (device, number), size

    def read(self, offset: int, size: int) -> bytes:
        device, number = self._of
        return self._driver.ask(device, READ, (number, offset, size)).rest

    def write(self, offset: int, data: bytes) -> None:
        device, number = self._of
        self._driver.ask(device, WRITE, (number, offset, len(data)), data)

    def page(self, number: int) -> memoryview:
        """:raise ValueError: always; nobody but the driver reaches it."""
        raise ValueError(f"page {number} of coherent memory, which only its driver reaches")

    def protect(self, access: str) -> None:
        """:raise ValueError: likewise."""
        raise ValueError(f"coherent memory cannot be protected ({access})")


def _driver(state: State) -> Driver:
    """:raise RefusedError: there is no such driver."""
    if state.dma is None:
        try:
            state.dma = Driver(state.kernel)
        except OSError as error:
            raise errors.RefusedError(error) from error
    return state.dma


def _driving(state: State, device: str) -> Driver:
    """As `_driver`. Another process has bound the device."""
    driver = _driver(state)
    if device not in driver.places:
        driver.know(device, vfio.find(state.kernel, *state.devices[device]))
    return driver


def bind(state: State, *, device: str) -> Outcome:
    driver, kernel = _driver(state), state.kernel
    buid, slot = state.devices[device]
    address = vfio.find(kernel, buid, slot)
    # For a driver before, the kernel may have removed the default window.
    default = vfio.window_of(kernel, buid, (vfio.DMA_WINDOW, vfio.SAVED_WINDOW))
    told: dict[str, Any] = {"address": address, **default}
    try:
        vfio.drive(kernel, f"{vfio.DEVICES}/{address}", address, DRIVER)
    except OSError as error:
        raise errors.RefusedError(error) from error
    state.bound.pop(device, None)  # it is not VFIO's any more
    driver.addresses[device] = address
    driver.know(device, address)
    answer = driver.ask(device, STATE)
    return {"value": 0, "fields": {**told, **answer.masks}}


def unbind(state: State, *, device: str, late: bool = False) -> Outcome:
    driver = _driver(state)
    driver.ask(device, KEEP, (int(late),))
    if device in driver.registers:
        driver.registers.pop(device)[1].close()
    try:
        dmadriver.unbind(state.kernel, driver.addresses.pop(device))
    except OSError as error:
        raise errors.RefusedError(error) from error
    if not late:
        for name in [name for name, (owner, _, _) in driver.maps.items() if owner == device]:
            state.buffers.pop(name, None)
    return {"value": 0}


def mask(state: State, *, device: str, bits: int, which: str = "both") -> Outcome:
    answer = _driver(state).ask(device, MASK, (WHICH[which], bits))
    return answer.outcome(**answer.masks)


def alloc(state: State, *, device: str, buffer: str, pages: int) -> Outcome:
    unused(state.buffers, buffer, "buffer")
    driver = _driver(state)
    number, size = driver.number(), pages * IOMMU_PAGE
    answer = driver.ask(device, ALLOC, (number, size))
    if answer.errno:
        return answer.outcome()
    driver.maps[buffer] = device, number, answer.segments
    state.buffers[buffer] = Coherent(driver, device, number, size), pages
    # It comes in whole pages of the CPU, and all of them are mapped.
    whole = -(-size // state.kernel.page_size) * state.kernel.page_size
    frames = [answer.extra + at for at in range(0, whole, IOMMU_PAGE)]
    return {**answer.outcome(segments=answer.segments), "frames": frames}


def free(state: State, *, buffer: str) -> Outcome:
    return _unmapped(state, buffer)


def map_(
    state: State,
    *,
    device: str,
    name: str,
    page: dict[str, Any],
    size: int,
    direction: str = "both",
    how: str = "single",
) -> Outcome:
    return _mapped(state, device, name, [(page, size)], (how, direction))


def map_sg(
    state: State, *, device: str, name: str, parts: list[tuple[dict[str, Any], int]], direction: str = "both"
) -> Outcome:
    return _mapped(state, device, name, parts, ("sg", direction))


def _mapped(
    state: State, device: str, name: str, parts: list[tuple[dict[str, Any], int]], way: tuple[str, str]
) -> Outcome:
    driver = _driving(state, device)
    places = [(state.resolve(page), size) for page, size in parts]
    number, (how, direction) = driver.number(), way
    data = b"".join(PART.pack(*place) for place in places)
    answer = driver.ask(device, MAP, (number, HOW[how], DIRECTIONS[direction]), data, len(places))
    if answer.errno:
        return answer.outcome()
    driver.maps[name] = device, number, answer.segments
    # Read now, while the pages are held: later they may have moved.
    frames = [frame for place in places for frame in state.kernel.frames(*place)]
    return {**answer.outcome(segments=answer.segments), "frames": frames}


def repeat(
    state: State,
    *,
    device: str,
    lists: list[list[tuple[dict[str, Any], int]]],
    times: int,
    direction: str = "both",
    loop: str = "module",
) -> Outcome:
    driver, kernel = _driving(state, device), state.kernel
    data = b"".join(PART.pack(state.resolve(page), size) for parts in lists for page, size in parts)
    args = len(lists[0]), DIRECTIONS[direction]
    driver.ask(device, HOLD, args, data, len(data) // PART.size)
    rounds = max(1, _BEAT // (len(data) // PART.size))
    done, errno, told = 0, "", dmadriver.Told()
    try:
        began = kernel.monotonic()
        while done < times and not errno:
            kernel.beat()
            errno = _LOOPS[loop](driver, device, min(rounds, times - done), told)
            done += 0 if errno else min(rounds, times - done)
        seconds = kernel.monotonic() - began
    finally:
        driver.ask(device, DROP)
    outcome: Outcome = {"errno": errno} if errno else {"value": 0}
    seen = {} if loop == "agent" else told.fields
    return {**outcome, "fields": {"lists": done * len(lists), "seconds": seconds, **seen}}


def _by_the_module(driver: Driver, device: str, rounds: int, told: Told, *, checks: bool = False) -> str:
    """:return: the name of an errno, empty if all went well."""
    answer = driver.ask(device, LOOP, (rounds, int(checks)))
    told.add(answer.rest)
    return answer.errno


def _checked(driver: Driver, device: str, rounds: int, told: Told) -> str:
    """As above, and each round's entries are looked at."""
    return _by_the_module(driver, device, rounds, told, checks=True)


def _by_requests(driver: Driver, device: str, rounds: int, _told: Told) -> str:
    """One that maps all lists and tells their handles, and one that unmaps them, each time. Returns as above."""
    kernel, fd = driver.kernel, driver.fd
    maps, unmaps = driver.packed(device, MAPS), driver.packed(device, UNMAPS)
    most = ANSWER.size + SEGMENT.size * HELD
    try:
        for _ in range(rounds):
            kernel.pwrite(fd, maps, 0)
            answer = kernel.pread(fd, most, 0)
            if ANSWER.unpack_from(answer)[0] < 0:
                return dmadriver.Answer(answer).errno
            kernel.pwrite(fd, unmaps, 0)
    except OSError as error:
        raise errors.RefusedError(error) from error
    return ""


_BEAT = 16384
"""Parts that are mapped between two progress marks, about: see `tceagent.ops`."""
_LOOPS: dict[str, Callable[[Driver, str, int, Told], str]] = {
    "module": _by_the_module,
    "agent": _by_requests,
    "checked": _checked,
}


def sync(state: State, *, name: str, whom: str, offset: int = 0, size: int = 0) -> Outcome:
    driver = _driver(state)
    device, number, segments = _made(driver, name)
    size = size or sum(length for _, length in segments) - offset
    return driver.ask(device, SYNC, (number, int(whom == "device"), offset, size)).outcome()


def unmap(state: State, *, name: str) -> Outcome:
    return _unmapped(state, name)


def _unmapped(state: State, name: str) -> Outcome:
    driver = _driver(state)
    device, number, _ = _made(driver, name)
    answer = driver.ask(device, UNMAP, (number,))
    state.buffers.pop(name, None) if isinstance(state.buffers.get(name, (None,))[0], Coherent) else None
    return answer.outcome()


def _made(driver: Driver, name: str) -> tuple[str, int, list[list[int]]]:
    """What was mapped. What could not be is no more there for a C program.

    :raise RefusedError: ENOENT.
    """
    if name not in driver.maps:
        raise errors.RefusedError("ENOENT")
    return driver.maps[name]


def move(
    state: State, *, name: str, size: int, to_memory: bool, segment: int = 0, plus: int = 0, offset: int = 0
) -> Outcome:
    driver = _driver(state)
    device, _, segments = _made(driver, name)
    if segment >= len(segments):
        raise errors.RefusedError("ENOENT")
    iova = (segments[segment][0] + plus) & edu.ALL_ONES
    kind, registers = _registers(state.kernel, driver, device)
    if kind is testdev:
        refused = testdev.write(registers, iova, size)
        return {"value": 0, "fields": {"refused": refused}}
    value = edu.transfer(state.kernel, registers, iova, size, offset, to_memory=to_memory)
    return {"errno": "ETIMEDOUT"} if value is None else {"value": value}


def _registers(kernel: Kernel, driver: Driver, device: str) -> tuple[Any, Registers]:
    """The kind of device, and its registers, which stay mapped until it is unbound.

    :raise RefusedError: it is not bound.
    """
    if device not in driver.addresses:
        raise errors.RefusedError("ENODEV")
    if device not in driver.registers:
        folder = f"{vfio.DEVICES}/{driver.addresses[device]}"
        try:
            kind = dmadriver.MODELS[int.from_bytes(kernel.read_file(f"{folder}/config")[:4], "little")]
            fd = kernel.open(f"{folder}/{dmadriver.BAR}")
            try:
                driver.registers[device] = kind, kernel.map_registers(fd, 0, dmadriver.BARS[kind])
            finally:
                kernel.close(fd)
        except OSError as error:
            raise errors.RefusedError(error) from error
    return driver.registers[device]
