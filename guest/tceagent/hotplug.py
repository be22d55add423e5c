"""The guest's part when a PCI device or a PHB is plugged in or pulled; `tceagent.helpers` has it done by the programs
of a distribution.

The host asks for it; no program can. Each step is one that the kernel offers to root. Sources: PAPR 13.5 and 13.6 (DR
indicators); arch/powerpc/platforms/pseries/dlpar.c (/sys/kernel/dlpar), drivers/pci/hotplug/rpadlpar_sysfs.c.
"""

from __future__ import annotations

import posix

from tceagent import errors, vfio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Union

    from tceagent.seam import Kernel
    from tceagent.state import State

    Step = tuple[str, Callable[..., Union[int, None]], tuple[Any, ...]]

DLPAR = "/sys/kernel/dlpar"
RESCAN = "/sys/bus/pci/rescan"
ADD_SLOT, REMOVE_SLOT = "/sys/bus/pci/slots/control/add_slot", "/sys/bus/pci/slots/control/remove_slot"
MODULES = {"rpaphp": "/sys/module/rpaphp", "rpadlpar_io": "/sys/bus/pci/slots/control"}
"""By name, in load order: what there is once it is loaded, or built in."""
HELPERS = {"drmgr": "/usr/sbin/drmgr", "rtas_errd": "/usr/sbin/rtas_errd"}
"""Programs that do it elsewhere; see `tceagent.helpers`."""
CARRIED = "/lib/modules-tcelab"
TOKEN = f"{vfio.TREE}/rtas/set-indicator"

ISOLATION, ALLOCATION = 9001, 9003
"""Indicators: 1 means that the guest has it, and that it is usable; 0 gives it back."""

_SYS_RTAS = 255
_FINIT_MODULE = 353
"""arch/powerpc/kernel/syscalls/syscall.tbl"""
_ARGUMENTS = 16
_CELL = 4
_STATUS_AT = 3 * _CELL + 3 * _CELL
"""In a call's block (struct rtas_args): token, numbers of arguments and of results, then three arguments."""


def lacks() -> str:
    """What the guest lacks for it; empty if nothing."""
    if not exists(DLPAR):
        return f"the guest's kernel has no {DLPAR}"
    for name, sign in MODULES.items():
        if not exists(sign) and not exists(f"{CARRIED}/{name}.ko"):
            return f"the guest's kernel has no {name}, and the image does not carry it"
    return ""


def perform(state: State, do: str, drc: int, **where: Any) -> dict[str, Union[str, int]]:  # noqa: ANN401 - as it came
    """Take or give back what the DR connector `drc` stands for: as `follow`."""
    return follow(_DO[do](state, drc, **where))


def follow(steps: Iterable[Step]) -> dict[str, Union[str, int]]:
    """:return: `errno`, and at which `step`, if the kernel refused one."""
    for step, work, arguments in steps:
        try:
            status = work(*arguments)
        except OSError as error:
            return {"errno": errors.RefusedError(error).errno, "step": step}
        if status:
            return {"errno": "EIO", "step": f"{step}, which gives {status}"}
    return {"errno": "", "step": ""}


def ready(_state: State, _drc: int) -> Iterable[Step]:
    """Before QEMU plugs anything in: a slot that no driver knew then gets none later."""
    missing = [name for name, sign in MODULES.items() if not exists(sign)]
    return [(f"load {name}", load, (name,)) for name in missing]


def _take_device(state: State, drc: int) -> Iterable[Step]:
    kernel = state.kernel
    yield _indicate(kernel, ISOLATION, drc, 1)
    yield _tree(kernel, "add", drc)
    yield "rescan", kernel.write_file, (RESCAN, b"1")


def _leave_device(
    state: State, drc: int, name: str, buid: int, slot: int, *, gives_back: bool = True
) -> Iterable[Step]:
    """:param gives_back: it does the last step; otherwise the host does."""
    kernel = state.kernel
    state.bound.pop(name, None)
    yield "remove", kernel.write_file, (f"{vfio.DEVICES}/{vfio.find(kernel, buid, slot)}/remove", b"1")
    yield _tree(kernel, "remove", drc)
    if gives_back:
        yield _indicate(kernel, ISOLATION, drc, 0)


def _take_bridge(state: State, drc: int, slot: str) -> Iterable[Step]:
    kernel = state.kernel
    yield _indicate(kernel, ALLOCATION, drc, 1)
    yield _indicate(kernel, ISOLATION, drc, 1)
    yield _tree(kernel, "add", drc)
    yield "add_slot", kernel.write_file, (ADD_SLOT, slot.encode())


def _leave_bridge(state: State, drc: int, slot: str) -> Iterable[Step]:
    kernel = state.kernel
    yield "remove_slot", kernel.write_file, (REMOVE_SLOT, slot.encode())
    yield _tree(kernel, "remove", drc)
    yield _indicate(kernel, ISOLATION, drc, 0)
    yield _indicate(kernel, ALLOCATION, drc, 0)


_DO: dict[str, Callable[..., Iterable[Step]]] = {
    "ready": ready,
    "take device": _take_device,
    "leave device": _leave_device,
    "take bridge": _take_bridge,
    "leave bridge": _leave_bridge,
}


def _tree(kernel: Kernel, what: str, drc: int) -> Step:
    """Its nodes of the device tree."""
    return f"dt {what}", kernel.write_file, (DLPAR, f"dt {what} index {drc:#x}".encode())


def _indicate(kernel: Kernel, indicator: int, drc: int, state: int) -> Step:
    return f"set-indicator {indicator}", _set_indicator, (kernel, indicator, drc, state)


def _set_indicator(kernel: Kernel, indicator: int, drc: int, state: int) -> int:
    """RTAS set-indicator, by the system call that passes calls on to firmware: its status.

    :raise OSError: the kernel passes none on.
    """
    import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

    token = int.from_bytes(kernel.read_file(TOKEN), "big")
    cells = [token, 3, 1, indicator, drc, state, *[0] * (_ARGUMENTS - 3)]
    block = ctypes.create_string_buffer(b"".join(cell.to_bytes(_CELL, "big") for cell in cells) + bytes(8 + _CELL))
    _call(_SYS_RTAS, block)
    return int.from_bytes(block.raw[_STATUS_AT : _STATUS_AT + _CELL], "big", signed=True)


def load(name: str) -> None:
    """:raise OSError: the kernel does not take the module."""
    import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

    # For reading alone: no module is taken from a file that is open for writing.
    fd = posix.open(f"{CARRIED}/{name}.ko", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        _call(_FINIT_MODULE, ctypes.c_long(fd), ctypes.create_string_buffer(b""), ctypes.c_long(0))
    finally:
        posix.close(fd)


def _call(number: int, *arguments: Any) -> None:  # noqa: ANN401 - whatever ctypes passes on
    import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

    if ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments):
        raise OSError(ctypes.get_errno(), f"system call {number}")


def exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True
