"""A hot plug that is done by the programs of a distribution: drmgr (powerpc-utils), which the agent calls; or rtas_errd
(ppc64-diag), a daemon that firmware's event reaches (/proc/ppc64/rtas/error_log) and that calls drmgr by itself.

The agent only waits for the daemon. While it runs it takes each event, so that nobody else may do the guest's part.
"""

from __future__ import annotations

import posix

from tceagent import hotplug, vfio
from tceagent.hotplug import HELPERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Union

    from tceagent.hotplug import Step
    from tceagent.seam import Kernel
    from tceagent.state import State

EVENTS = "/proc/ppc64/rtas/error_log"
LIMIT = 300.0
"""Seconds in which a program must have done its part: drmgr reads each of some 1,000 slots, which takes seconds."""
_LOOK = 0.05
_OUTPUT = "/run/helper"
_ENVIRONMENT = {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"}
_TERMINATE, _KILL = 15, 9
_EVENT = 65536
"""Bytes: an event must fit in (arch/powerpc/platforms/pseries/rtasd.c, rtas_log_read)."""

_WORDS = {
    "take device": ("pci", "-a"),
    "leave device": ("pci", "-r"),
    "take bridge": ("phb", "-a"),
    "leave bridge": ("phb", "-r"),
}
"""Of drmgr's command line."""


def perform(
    state: State,
    do: str,
    drc: int,
    by: str,
    **where: Any,  # noqa: ANN401 - as it came
) -> dict[str, Union[str, int]]:
    """As `tceagent.hotplug.perform`.

    :param by: the program that does it.
    """
    before = hotplug.ready(state, drc) if do == "ready" else ()
    return hotplug.follow([*before, *_DO[by](state, do, drc, **where)])


def _by_drmgr(state: State, do: str, drc: int, **where: Any) -> Iterable[Step]:  # noqa: ANN401 - as it came
    """As rtas_errd calls it: without asking anybody."""
    if do == "ready":
        return
    kind, what = _WORDS[do]
    state.bound.pop(where["name"], None)
    yield "drmgr", _run, (state.kernel, [HELPERS["drmgr"], "-c", kind, what, "-s", f"{drc:#x}", "-n"])


def _by_daemon(state: State, do: str, _drc: int, **where: Any) -> Iterable[Step]:  # noqa: ANN401 - as it came
    """Nothing but waiting, once the daemon runs."""
    if do == "ready":
        if state.daemon is None:
            yield "start rtas_errd", _start, (state,)
        return
    state.bound.pop(where["name"], None)
    there = _device_is_there if do.endswith("device") else _bridge_is_there
    yield "rtas_errd", _await, (state.kernel, there, where, do.startswith("take"))


_DO: dict[str, Callable[..., Iterable[Step]]] = {"drmgr": _by_drmgr, "rtas_errd": _by_daemon}


def stop(kernel: Kernel) -> None:
    """End the daemon."""
    for pid in running(kernel, "rtas_errd"):
        posix.kill(pid, _TERMINATE)
    while running(kernel, "rtas_errd"):
        kernel.sleep(_LOOK)


def running(kernel: Kernel, *names: str) -> list[int]:
    """Processes of these names."""
    found = []
    for pid in kernel.listdir("/proc"):
        if pid.isdecimal():
            try:
                name = kernel.read_file(f"/proc/{pid}/comm").decode().strip()
            except OSError:  # it has just ended
                continue
            if name in names:
                found.append(int(pid))
    return found


def _start(state: State) -> int:
    _discard_events()
    state.daemon = lambda: stop(state.kernel)
    return _run(state.kernel, [HELPERS["rtas_errd"]])


def _discard_events() -> None:
    """Events of before are nobody's any more: who was to act on them has done so."""
    fd = posix.open(EVENTS, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    try:
        while posix.read(fd, _EVENT):
            pass
    except BlockingIOError:
        pass
    finally:
        posix.close(fd)


def _run(kernel: Kernel, words: list[str]) -> int:
    """Run a program to its end: its exit status.

    :raise OSError: there is none, or it does not end.
    """
    pid = posix.posix_spawn(
        words[0],
        words,
        _ENVIRONMENT,
        file_actions=[
            (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0),
            (posix.POSIX_SPAWN_OPEN, 1, _OUTPUT, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600),
            (posix.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    for _ in _patience(kernel):
        done, status = posix.waitpid(pid, posix.WNOHANG)
        if done:
            return posix.waitstatus_to_exitcode(status)
    posix.kill(pid, _KILL)
    posix.waitpid(pid, 0)
    raise TimeoutError(110, f"{words[0]} does not end")


def _await(
    kernel: Kernel,
    there: Callable[[Kernel, dict[str, Any]], bool],
    where: dict[str, Any],
    comes: bool,  # noqa: FBT001
) -> None:
    """Until it is there, or gone, and drmgr has ended."""
    for _ in _patience(kernel):
        try:
            if there(kernel, where) == comes and not running(kernel, "drmgr"):
                return
        except OSError:  # what is looked at comes or goes just then
            continue
    raise TimeoutError(110, "rtas_errd does nothing")


def _patience(kernel: Kernel) -> Iterable[None]:
    """Turns, until the time is up. The host sees that somebody waits here."""
    end = kernel.monotonic() + LIMIT
    while kernel.monotonic() < end:
        yield
        kernel.beat()
        kernel.sleep(_LOOK)


def _device_is_there(kernel: Kernel, where: dict[str, Any]) -> bool:
    try:
        vfio.find(kernel, where["buid"], where["slot"])
    except LookupError:
        return False
    return True


def _bridge_is_there(kernel: Kernel, where: dict[str, Any]) -> bool:
    return f"pci@{where['buid']:x}" in kernel.listdir(vfio.TREE)
