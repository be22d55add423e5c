"""The guest operations: a function for each, with the fields of its struct in `tcelab.program` as parameters.

Each returns an outcome: a dict with `value`, `errno`, `fields` and `frames`, those at their default left out.
Words are numbers, names, or `{"buffer", "index", "plus"}`.
"""

from __future__ import annotations

from tceagent import atonce, devices, dmaapi, errors, hcalls, native, uapi
from tceagent import tag as marks
from tceagent.state import File, unused
from tceagent.uapi import IOMMU_PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tceagent.seam import Kernel, Op, Outcome
    from tceagent.state import State, Word

_MASK = (1 << 64) - 1
_BEAT = 16384
"""Calls and pages of a repeat between two progress marks: 0.1 s under TCG, of the 60 s that the host waits."""


def perform(state: State, op: Op) -> Outcome:
    """Do one operation as it came over the wire, or pass it to the child that it names.

    :raise Exception: anything but a refusal by the kernel: the program or the agent is wrong.
    """
    arguments = dict(op)
    by = arguments.pop("by", "")
    if by:
        return _ask(state, by, arguments)
    name = arguments.pop("op")
    handler = HANDLERS.get(name)
    if handler is None:
        raise LookupError(f"the agent has no handler for operation {name!r}")
    arguments.pop("expect", None)
    try:
        return handler(state, **arguments)
    except errors.RefusedError as refusal:
        return {"errno": refusal.errno}


def _ask(state: State, process: str, op: Op) -> Outcome:
    child = state.child(process)
    try:
        return child.ask(op)
    except Exception as error:
        raise RuntimeError(f"process {process!r} could not do it: {error}") from error


def spawn(state: State, *, process: str, uid: int | None = None, memlock: int | None = None) -> Outcome:
    unused(state.children, process, "process")

    def serve(kernel: Kernel) -> Callable[[Op], Outcome]:
        own = state.fork(kernel)
        return lambda op: atonce.serve(kernel, lambda each: perform(own, each), op)

    state.children[process] = state.kernel.spawn(serve, uid, memlock)
    return {"value": 0}


def at_once(state: State, *, count: int) -> Outcome:  # noqa: ARG001  as every handler
    """Where operations are done one by one, those after it are done in their order."""
    return {"value": 0, "fields": {"spans": [[0, 0]] * count}}


def exit_(state: State, *, process: str) -> Outcome:
    child = state.child(process)
    del state.children[process]
    child.end()
    return {"value": 0}


def buffer(state: State, *, name: str, pages: int, seed: int = 0, huge: bool = False) -> Outcome:
    unused(state.buffers, name, "buffer")
    if pages < 1:
        raise ValueError(f"a buffer has at least one page, not {pages}")
    memory = state.kernel.allocate(pages * IOMMU_PAGE, huge=huge)
    for page in _shuffled(memory.size // state.kernel.page_size, seed):
        memory.write(page * state.kernel.page_size, b"\0")
    state.buffers[name] = memory, pages
    return {"value": memory.address}


def tag(
    state: State, *, buffer: str, first: int = 0, count: int = 1, liobn: int = 0, ioba: int = 0, sequence: int = 0
) -> Outcome:
    memory, _ = state.buffer(buffer)
    nonce = state.session()
    for i in range(count):
        page = marks.tag(nonce, liobn, ioba + i * IOMMU_PAGE, sequence) * (IOMMU_PAGE // marks.SIZE)
        memory.write((first + i) * IOMMU_PAGE, page)
    return {"value": 0}


def fill(state: State, *, buffer: str, offset: int, size: int, seed: int) -> Outcome:
    memory, _ = state.buffer(buffer)
    memory.write(offset, marks.data(state.session(), seed, size))
    return {"value": 0}


def frames(state: State, *, buffer: str) -> Outcome:
    memory, pages = state.buffer(buffer)
    return {"value": 0, "frames": state.kernel.frames(memory.address, pages * IOMMU_PAGE)}


def protect(state: State, *, buffer: str, access: str) -> Outcome:
    memory, _ = state.buffer(buffer)
    try:
        memory.protect(access)
    except OSError as error:
        raise errors.RefusedError(error) from error
    return {"value": 0}


def put(state: State, *, buffer: str, request: str, offset: int = 0, fields: dict[str, Word] | None = None) -> Outcome:
    memory, _ = state.buffer(buffer)
    numbers = {name: state.resolve(word) for name, word in (fields or {}).items()}
    memory.write(offset, uapi.LAYOUTS[request].pack(numbers))
    return {"value": 0}


def bind(state: State, *, device: str) -> Outcome:
    if device not in state.bound:
        buid, slot = state.devices[device]
        state.bound[device] = state.binder(state.kernel, buid, slot)
    return {"value": 0, "fields": state.bound[device]}


def open_(state: State, *, file: str, path: str) -> Outcome:
    unused(state.files, file, "file")
    for device in sorted(state.bound, key=len, reverse=True):
        path = path.replace("$" + device, str(state.bound[device]["group"]))
    if "$" in path:
        raise LookupError(f"{path} names a device that is not bound; bound are: {', '.join(state.bound) or 'none'}")
    try:
        fd = state.kernel.open(path)
    except OSError as error:
        raise errors.RefusedError(error) from error
    state.files[file] = File(fd)
    return {"value": fd}


def close(state: State, *, file: str) -> Outcome:
    opened = state.file(file)
    del state.files[file]
    if opened.registers is not None:
        opened.registers.close()
    try:
        state.kernel.close(opened.fd)
    except OSError as error:
        raise errors.RefusedError(error) from error
    return {"value": 0}


def ioctl(
    state: State,
    *,
    file: str,
    request: str | int,
    fields: dict[str, Word] | None = None,
    value: int | dict[str, Any] | None = None,
    into: str = "",
) -> Outcome:
    if into:
        unused(state.files, into, "file")
    number = uapi.NUMBERS[request] if isinstance(request, str) else request
    argument = _argument(state, request, fields or {}, value)
    returned, refusal, raw = state.kernel.ioctl(state.file(file).fd, number, argument)
    if returned is None:
        return {"errno": refusal}
    outcome: Outcome = {"value": returned}
    if into and returned >= 0:
        state.files[into] = File(returned)
    layout = _layout(request)
    if layout is not None and raw and layout.outputs:
        outcome["fields"] = layout.unpack(raw)
    if request == "MAP_DMA" and returned == 0:
        mapped = _struct_at(state, **value) if isinstance(value, dict) else raw
        if mapped:
            # Read now, while the pages are pinned: later they may have moved.
            _, _, vaddr, _, size = uapi.LAYOUTS["MAP_DMA"].struct.unpack(mapped)
            outcome["frames"] = state.kernel.frames(vaddr, size)
    return outcome


def _struct_at(state: State, *, buffer: str, index: int = 0, plus: int = 0) -> bytes:
    """The MAP_DMA struct that an ioctl's value led to."""
    return state.buffer(buffer)[0].read(index * IOMMU_PAGE + plus, uapi.LAYOUTS["MAP_DMA"].size)


def repeat(state: State, *, ops: list[dict[str, Any]], times: int, loop: str = "c") -> Outcome:
    kernel = state.kernel
    if ops[0]["file"] not in state.files:
        return {"errno": "EBADF", "fields": {"calls": 0, "seconds": 0.0}}
    fd = state.files[ops[0]["file"]].fd
    calls = [_Call(state, **op) for op in ops]
    requests = [call.request for call in calls]
    arguments = [call.argument for call in calls]
    rounds = max(1, _BEAT // (len(calls) + sum(call.size for call in calls) // IOMMU_PAGE))
    run = _LOOPS[loop]
    done = 0
    returned: int | None = 0
    refusal = ""
    began = kernel.monotonic()
    while times and returned == 0:
        kernel.beat()
        more, returned, refusal = run(kernel, fd, requests, arguments, min(times, rounds))
        done += more
        times -= min(times, rounds)
    outcome: Outcome = {"fields": {"calls": done, "seconds": kernel.monotonic() - began}}
    outcome.update({"errno": refusal} if returned is None else {"value": returned})
    mapped = [call.memory for call in calls[:done] if call.memory]
    if mapped:
        outcome["frames"] = [frame for memory in mapped for frame in kernel.frames(*memory)]
    return outcome


def _in_python(
    kernel: Kernel, fd: int, requests: list[int], arguments: list[bytearray], times: int
) -> tuple[int, int | None, str]:
    """As `Kernel.ioctls`, but each call is made like a single ioctl."""
    done = 0
    for _ in range(times):
        for request, argument in zip(requests, arguments):  # noqa: B905  strict= came with Python 3.10
            returned, refusal, _raw = kernel.ioctl(fd, request, argument)
            if returned != 0:
                return done, returned, refusal
            done += 1
    return done, 0, ""


class _Call:
    """A MAP_DMA or UNMAP_DMA of a repeat, ready to be asked. `memory`: address and size of what a MAP_DMA maps."""

    def __init__(self, state: State, *, request: str, fields: dict[str, Word], **_: object) -> None:
        if request not in ("MAP_DMA", "UNMAP_DMA"):
            raise ValueError(f"only MAP_DMA and UNMAP_DMA are repeated, not {request}")
        numbers = {name: state.resolve(word) for name, word in fields.items()}
        self.request = uapi.NUMBERS[request]
        self.argument = bytearray(uapi.LAYOUTS[request].pack(numbers))
        self.size = numbers.get("size", 0)
        self.memory = (numbers.get("vaddr", 0), self.size) if request == "MAP_DMA" else None


def _argument(state: State, request: str | int, fields: dict[str, Word], value: Word | None) -> bytes | int:
    if value is not None:
        if fields:
            raise ValueError(f"ioctl {request} has both a value and fields")
        return state.resolve(value)
    layout = _layout(request)
    if layout is not None:
        return layout.pack({name: state.resolve(word) for name, word in fields.items()})
    if request == "GROUP_GET_DEVICE_FD" and fields:
        return _address(state, **fields)
    if fields:
        raise ValueError(f"ioctl {request} takes no fields {', '.join(fields)}")
    return 0


def _layout(request: str | int) -> uapi.Layout | None:
    return uapi.LAYOUTS.get(request) if isinstance(request, str) else None


def _address(state: State, *, name: Word) -> bytes:
    """The PCI address of a bound device as a C string. Any other name stays as it is, for the kernel to refuse."""
    if not isinstance(name, str):
        raise TypeError(f"a device has a name, not {name!r}")
    return str(state.bound[name]["address"] if name in state.bound else name).encode() + b"\0"


def read(state: State, *, what: str) -> Outcome:
    return {"value": _COUNTERS[what](state.kernel)}


def _shuffled(count: int, seed: int) -> list[int]:
    """0..count-1 in an order that depends on the seed alone (the random module is slow to import)."""
    order = list(range(count))
    state = seed & _MASK
    for i in range(count - 1, 0, -1):
        state = (state * 6364136223846793005 + 1442695040888963407) & _MASK
        j = (state >> 33) % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def _memory(kernel: Kernel) -> int:
    """MiB of memory that the kernel has online; 0: it does not say."""
    try:
        size = int(kernel.read_file(BLOCKS + "/block_size_bytes"), 16)
        blocks = [name for name in kernel.listdir(BLOCKS) if name[:6] == "memory" and name[6:].isdigit()]
    except OSError:
        return 0
    return sum(_online(kernel, name) for name in blocks) * size >> 20


def _online(kernel: Kernel, block: str) -> bool:
    """A block that comes or goes has a folder, and no state in it yet, or no more."""
    try:
        return kernel.read_file(BLOCKS + "/" + block + "/state").strip() == b"online"
    except OSError:
        return False


def _limit(kernel: Kernel) -> int:
    """MiB that firmware says RAM may grow to; 0: it names no limit."""
    try:
        return int.from_bytes(kernel.read_file(LIMIT)[:8], "big") >> 20
    except OSError:
        return 0


BLOCKS = "/sys/devices/system/memory"
LIMIT = "/proc/device-tree/rtas/ibm,lrdr-capacity"
"""PAPR 7.3.1; the kernel takes its first number as the end of all memory that may come (hot_add_drconf_memory_max)."""

_COUNTERS: dict[str, Callable[[Kernel], int]] = {
    "vmlck": lambda kernel: kernel.vmlck(),
    "pins": lambda kernel: kernel.pins(),
    "memory": _memory,
    "limit": _limit,
}

_LOOPS: dict[str, Callable[..., tuple[int, int | None, str]]] = {
    "c": lambda kernel, *calls: kernel.ioctls(*calls),
    "python": _in_python,
}

HANDLERS: dict[str, Callable[..., Outcome]] = {
    "spawn": spawn,
    "atonce": at_once,
    "exit": exit_,
    "buffer": buffer,
    "tag": tag,
    "fill": fill,
    "frames": frames,
    "protect": protect,
    "put": put,
    "bind": bind,
    "open": open_,
    "close": close,
    "ioctl": ioctl,
    "repeat": repeat,
    "master": devices.master,
    "dma": devices.dma,
    "together": devices.together,
    "burst": devices.burst,
    "doorbell": devices.doorbell,
    "engine": devices.engine,
    "look": devices.look,
    "read": read,
    "hcall": hcalls.hcall,
    "hcallbatch": hcalls.hcall_batch,
    "native": native.native,
    "dmabind": dmaapi.bind,
    "dmaunbind": dmaapi.unbind,
    "dmamask": dmaapi.mask,
    "dmaalloc": dmaapi.alloc,
    "dmafree": dmaapi.free,
    "dmamap": dmaapi.map_,
    "dmamapsg": dmaapi.map_sg,
    "dmarepeat": dmaapi.repeat,
    "dmasync": dmaapi.sync,
    "dmaunmap": dmaapi.unmap,
    "dmamove": dmaapi.move,
}
"""By the tag of the struct."""
