"""The agent on a machine that already runs and is reached over ssh: frames on standard input and output.

Beside what `tceagent.agent` answers, it answers `{"id", "ask": "survey"}` with what the machine has, and
`{"id", "ask": "log"}` with what its kernel has said. While an operation takes long, it sends
`{"id": null, "beat", "at"}` now and then.
A machine that others use is left as it was: a device is bound only if nobody drives it, and given back at the end.
"""

from __future__ import annotations

import mmap
import posix
import struct
import time

from tceagent import kernellog, uapi, vfio, wire
from tceagent.agent import Agent, serve
from tceagent.errors import RefusedError
from tceagent.kernel import LinuxKernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tceagent.seam import Kernel

_BEAT = 1.0
"""Seconds between two beats."""
_PROGRESS = struct.Struct("<QQ")
_PROGRESS_AT = 24
"""In the cell: the request and the operation that were begun last, see `tceagent.agent`."""
_SPAPR = 1, 7
"""VFIO_SPAPR_TCE_IOMMU and VFIO_SPAPR_TCE_v2_IOMMU, include/uapi/linux/vfio.h."""
_MEMORY = "memory@"
_MEMINFO = "/proc/meminfo"


class Streams(wire.Channel):
    """Standard input and output."""

    def _reconnected(self) -> None:
        raise EOFError("the connection has ended")


class RemoteKernel(LinuxKernel):
    """The kernel of a machine that was not made for tests, and whose memory nobody reads from outside."""

    def __init__(self, folder: str, channel: wire.Channel) -> None:
        super().__init__()
        self._folder = folder
        self._channel = channel
        self._log = kernellog.begin()
        self._beats = 0
        self._beaten = 0.0

    def cell(self) -> tuple[mmap.mmap, int]:
        """One page, which only this process and its children see."""
        self._cell = mmap.mmap(-1, self.page_size)
        return self._cell, 0

    def beat(self) -> None:
        """Tell the host, now and then, that the operation in flight makes progress."""
        now = time.monotonic()
        if now - self._beaten >= _BEAT:
            self._beaten = now
            self._beats += 1
            at = list(_PROGRESS.unpack_from(self._cell, _PROGRESS_AT))
            self._channel.send(wire.encode({"id": None, "beat": self._beats, "at": at}))

    def log(self) -> list[str] | None:
        """What the kernel has said since the last call; None: this process may not read its log."""
        return None if self._log < 0 else kernellog.lines(self._log)

    def note(self, address: str) -> None:
        """A device is about to be bound, and is to be given back."""
        with open(self._folder + "/bound", "a") as bound:
            bound.write(address + "\n")


class RemoteAgent(Agent):
    """:ivar places: what `survey` found of each device, by address."""

    def __init__(self, kernel: RemoteKernel) -> None:
        super().__init__(kernel)
        self._remote = kernel
        self._places: dict[str, dict[str, Any]] = {}
        self._addresses: dict[tuple[int, int], str] = {}
        self._state.binder = self._bind

    def answer(self, payload: bytes) -> dict[str, Any]:
        """As `Agent.answer`."""
        try:
            message = wire.decode(payload)
            asked = message.get("ask")
            if asked == "survey":
                return {"id": message["id"], "survey": self._survey()}
            if asked == "log":
                return {"id": message["id"], "log": self._remote.log()}
        except Exception:  # noqa: BLE001  whatever it is, the host must hear of it
            return {"id": None, "failed": {"at": None, "traceback": wire.failure()}}
        return super().answer(payload)

    def end(self) -> None:
        """Close all that programs left open."""
        self._state.renew()

    def _hello(self, nonce: str, devices: dict[str, dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        """Each device has an address beside the BUID and slot by which programs mean it."""
        self._addresses = {(each["buid"], each["slot"]): each["address"] for each in (devices or {}).values()}
        return super()._hello(nonce, devices, **more)

    def _survey(self) -> dict[str, Any]:
        kernel = self._remote
        devices = [_device(kernel, address) for address in _listed(kernel, vfio.DEVICES)]
        self._places = {each["address"]: each for each in devices}
        return {
            "uid": int(_after(kernel, "/proc/self/status", b"Uid:")),
            "ram": _ram(kernel),
            "vfio": _spapr(kernel),
            "vfio_pci": _there(kernel, "/sys/bus/pci/drivers/vfio-pci"),
            "log": self._remote.log() is not None,
            "pins": _counts_pins(kernel),
            "devices": devices,
        }

    def _bind(self, kernel: Kernel, buid: int, slot: int) -> dict[str, str | int]:
        """Bind a device that nobody drives, or that vfio-pci drives already.

        :raise RuntimeError: somebody does.
        """
        place = self._places[self._addresses[buid, slot]]
        address = place["address"]
        folder = f"{vfio.DEVICES}/{address}"
        driver = vfio.driver(kernel, folder)
        if driver not in ("", "vfio-pci"):
            raise RuntimeError(f"{address} is driven by {driver} meanwhile: it is left alone")
        try:
            if not driver:
                self._remote.note(address)
            vfio.drive(kernel, folder, address)
        except OSError as error:
            raise RefusedError(error) from error
        liobn, start, size = place["window"]
        return {
            "address": address,
            "group": place["group"],
            "liobn": liobn,
            "window_start": start,
            "window_size": size,
            "buid": place["buid"],
        }


def _listed(kernel: Kernel, path: str) -> list[str]:
    try:
        return kernel.listdir(path)
    except OSError:
        return []


def _there(kernel: Kernel, path: str) -> bool:
    try:
        kernel.listdir(path)
    except OSError:
        return False
    return True


def _read(kernel: Kernel, path: str) -> bytes:
    try:
        return kernel.read_file(path)
    except OSError:
        return b""


def _link(kernel: Kernel, path: str) -> str:
    """The last name of where a link leads; "": there is none."""
    try:
        return kernel.readlink(path).rsplit("/", 1)[-1]
    except OSError:
        return ""


def _after(kernel: Kernel, path: str, name: bytes) -> bytes:
    """The word that follows a name in a file."""
    words = _read(kernel, path).split()
    return words[words.index(name) + 1] if name in words else b"-1"


def _device(kernel: Kernel, address: str) -> dict[str, Any]:
    """What is known of a PCI device. `buid`, `slot`, `group` and `window` are None where it has none.

    `others`: devices of its group that a driver other than vfio-pci has.
    """
    folder = f"{vfio.DEVICES}/{address}"
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    group = _link(kernel, f"{folder}/iommu_group")
    nodes = vfio.node(kernel, address, f"{domain}:{bus}").split("/")
    buid = next((int(each[4:], 16) for each in nodes if each.startswith("pci@")), None)
    window = b"" if buid is None else _read(kernel, f"{vfio.TREE}/pci@{buid:x}/{vfio.DMA_WINDOW}")
    drivers = {other: vfio.driver(kernel, f"{vfio.DEVICES}/{other}") for other in _group(kernel, group)}
    return {
        "address": address,
        "id": f"{_hex(kernel, folder, 'vendor')}:{_hex(kernel, folder, 'device')}",
        "driver": vfio.driver(kernel, folder),
        "group": int(group) if group.isdigit() else None,
        "others": {other: by for other, by in drivers.items() if by not in ("", "vfio-pci", "pcieport")},
        "buid": buid,
        "slot": int(slot, 16) if function == "0" else None,
        "window": list(vfio.WINDOW.unpack(window)) if len(window) == vfio.WINDOW.size else None,
    }


def _group(kernel: Kernel, group: str) -> list[str]:
    return _listed(kernel, f"/sys/kernel/iommu_groups/{group}/devices") if group else []


def _hex(kernel: Kernel, folder: str, what: str) -> str:
    return _read(kernel, f"{folder}/{what}").decode().strip()[2:]


def _ram(kernel: Kernel) -> int:
    """Bytes of RAM that the machine has: by its device tree, where the kernel may have been told of less."""
    total = 0
    for name in _listed(kernel, vfio.TREE):
        if name.startswith(_MEMORY):
            cells = _read(kernel, f"{vfio.TREE}/{name}/reg")
            total += sum(struct.unpack_from(">QQ", cells, at)[1] for at in range(0, len(cells) - 15, 16))
    return total or int(_after(kernel, _MEMINFO, b"MemTotal:")) << 10


def _spapr(kernel: Kernel) -> str:
    """Whether VFIO knows the IOMMU of sPAPR: "" if so, else an errno, or "none"."""
    try:
        fd = kernel.open("/dev/vfio/vfio")
    except OSError as error:
        return RefusedError(error).errno
    try:
        known = [kernel.ioctl(fd, uapi.NUMBERS["CHECK_EXTENSION"], each)[0] for each in _SPAPR]
    finally:
        kernel.close(fd)
    return "" if any(known) else "none"


def _counts_pins(kernel: Kernel) -> bool:
    try:
        kernel.pins()
    except (OSError, LookupError):
        return False
    return True


def main(folder: str, mark: str) -> None:
    """Answer on standard input and output until the connection ends. Whatever else prints, prints to the log.

    :param folder: the agent's own.
    :param mark: what the host takes for the agent's.
    """
    streams = posix.dup(0), posix.dup(1)
    null = posix.open("/dev/null", posix.O_RDONLY)
    posix.dup2(null, 0)
    posix.dup2(2, 1)
    _import_all()
    channel = Streams(*streams)
    agent = RemoteAgent(RemoteKernel(folder, channel))
    posix.write(streams[1], f"{mark}agent\n".encode())
    try:
        serve(agent, channel)
    except (EOFError, BrokenPipeError):
        pass
    finally:
        agent.end()


def _import_all() -> None:
    """A child of another user cannot enter the agent's folder."""
    import ctypes  # noqa: F401, PLC0415
    import json  # noqa: F401, PLC0415
    import resource  # noqa: F401, PLC0415
    import traceback  # noqa: F401, PLC0415

    from tceagent import huge, native, problem  # noqa: F401, PLC0415
