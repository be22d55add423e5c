"""A guest of this guest's own: a QEMU that the agent starts, watches and ends, with a device passed through by VFIO.

The host decides its command line. No program can ask for any of it.
"""

from __future__ import annotations

import posix
from binascii import b2a_base64

from tceagent import hotplug, ports, vfio
from tceagent.errors import RefusedError
from tceagent.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    from tceagent.seam import Kernel
    from tceagent.state import State

    Told = dict[str, Union[int, str, bool, None]]

QEMU = "/usr/bin/qemu-system-ppc64"
SAID = "/run/inner.err"
"""What the QEMU prints: on a ramfs, where its size is no limit that it meets."""

_KEPT = 4096
_WAIT = 0.02
_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1
_MODULES = {"kvm": "/sys/module/kvm", "kvm-hv": "/sys/module/kvm_hv"}
"""By name, in load order: what there is once it is loaded, or built in."""


def perform(state: State, do: str, **what: Any) -> Told:  # noqa: ANN401 - as it came
    """Do what the host asks for.

    :return: `errno`, and at which `step`, if the kernel refused one; else what was asked for.
    """
    return _DO[do](state, **what)


def start(state: State, argv: list[str], buid: int, slot: int, channels: list[str]) -> Told:
    """Load KVM, give the device at a slot of a PHB to vfio-pci, start QEMU.

    :param argv: `{device}` in it stands for the device's PCI address, `{NAME}` for the file of the virtio-serial port
        of that name, each of `channels`.
    """
    step = ""
    try:
        for name, sign in _MODULES.items():
            step = f"load {name}"
            if not hotplug.exists(sign):
                hotplug.load(name)
        step = "bind"
        bound = vfio.bind(state.kernel, buid, slot)
        step = "spawn"
        pins = state.kernel.pins(late=True)
        names = {name: ports.find_port(state.kernel, name) for name in channels} | {"device": str(bound["address"])}
        words = [_filled(word, names) for word in argv]
        null = (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0)
        said = (posix.POSIX_SPAWN_OPEN, 1, SAID, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600)
        state.inner = Process(
            posix.posix_spawn(words[0], words, {}, file_actions=[null, said, (posix.POSIX_SPAWN_DUP2, 1, 2)])
        )
    except (OSError, RefusedError) as error:
        refused = error if isinstance(error, RefusedError) else RefusedError(error)
        return {"errno": refused.errno, "step": step}
    told: Told = {"errno": "", "step": "", "pid": state.inner.pid, "pins": pins}
    return {**told, "group": bound["group"], "address": bound["address"]}


def _filled(word: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def look(state: State) -> Told:
    """How it is: `running`; its exit `status`, or the `signal` that killed it; what it `said` last; `vmlck` in KiB."""
    inner = _inner(state)
    told: Told = {"running": not inner.ended(), "said": _said(state.kernel), "status": None, "signal": None, "vmlck": 0}
    if inner.status is not None:
        killed = posix.WIFSIGNALED(inner.status)
        told["signal" if killed else "status"] = (
            posix.WTERMSIG(inner.status) if killed else posix.WEXITSTATUS(inner.status)
        )
    else:
        for line in state.kernel.read_file(f"/proc/{inner.pid}/status").splitlines():
            if line.startswith(b"VmLck:"):
                told["vmlck"] = int(line.split()[1])
    return told


def version(state: State) -> Told:
    """The `version` of the QEMU, by its own words."""
    _, output = state.kernel.run(QEMU, ["--version"])
    return {"version": output.decode("utf-8", "replace").partition("\n")[0]}


def memory(state: State, name: str, size: int) -> Told:
    """Where the inner guest's RAM is: `frames` in base64, zlib and 8 bytes each in this machine's order, the frame of
    each page of `page_size` bytes of it, ascending; 0: not present.

    :param name: what the RAM's mapping is called; it has `size` bytes.
    :raise LookupError: QEMU has no such mapping.
    """
    import zlib  # noqa: PLC0415  slow to import and hardly ever needed
    from array import array  # noqa: PLC0415  likewise

    inner = _inner(state)
    kernel = state.kernel
    for line in kernel.read_file(f"/proc/{inner.pid}/maps").decode().splitlines():
        # start-end permissions offset device inode path: proc(5)
        begin, _, end = line.split(" ", 1)[0].partition("-")
        start = int(begin, 16)
        if name in line and int(end, 16) - start == size:
            break
    else:
        raise LookupError(f"QEMU has no mapping of {size} bytes called {name}")
    page = kernel.page_size
    fd = posix.open(f"/proc/{inner.pid}/pagemap", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        raw = array("Q", posix.pread(fd, size // page * 8, start // page * 8))
    finally:
        posix.close(fd)
    frames = array("Q", [entry & _FRAME if entry & _PRESENT else 0 for entry in raw])
    return {"page_size": page, "frames": b2a_base64(zlib.compress(frames.tobytes(), 1), newline=False).decode()}


def end(state: State, signal: int, limit: float) -> Told:
    """Send it a signal, 0: none, and wait until it has ended, at most `limit` seconds; then as `look`, and the `pins`
    of this guest's kernel.
    """
    inner = _inner(state)
    kernel = state.kernel
    if not inner.ended() and signal:
        posix.kill(inner.pid, signal)
    until = kernel.monotonic() + limit
    while not inner.ended() and kernel.monotonic() < until:
        kernel.beat()
        kernel.sleep(_WAIT)
    return {**look(state), "pins": kernel.pins(late=True)}


def _inner(state: State) -> Process:
    if state.inner is None:
        raise LookupError("no QEMU was started in this guest")
    return state.inner


def _said(kernel: Kernel) -> str:
    return kernel.read_file(SAID)[-_KEPT:].decode("utf-8", "replace")


_DO: dict[str, Callable[..., Told]] = {"start": start, "look": look, "version": version, "memory": memory, "end": end}
