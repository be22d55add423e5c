"""The shape of a rule: what a request checks, in which order, and what each failure returns.

A profile is a table of rules, in the order of the driver's source, for comparison line by line. Mutants are made from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tceagent import uapi
from tcelab.emulator.addressspaces import FaultError
from tcelab.emulator.syscallerrors import NotModelledError, SyscallError

if TYPE_CHECKING:
    from tcelab.emulator.platform import Machine
    from tcelab.emulator.process import Process


@dataclass(slots=True)
class IoctlCall:
    """One ioctl in flight.

    :ivar on: the file's object: a driver's container, a group, a device.
    :ivar argument: the caller's third argument, a number or an address.
    :ivar param: the struct at that address, once a check has copied it in; `text`: the string.
    """

    machine: Machine
    process: Process
    on: Any
    argument: int
    param: dict[str, int] = field(default_factory=dict)
    text: str = ""

    def copy_in(self, layout: uapi.Layout, size: int) -> bool:
        """copy_from_user of the struct's first `size` bytes; False: EFAULT."""
        try:
            raw = self.process.space.copy_in(self.argument, size)
        except FaultError:
            return False
        values = layout.struct.unpack(raw.ljust(layout.size, b"\0"))
        self.param = dict(zip(layout.fields, values, strict=True))
        return True

    def copy_out(self, layout: uapi.Layout, size: int) -> bool:
        """copy_to_user of the first `size` bytes; False: EFAULT."""
        raw = layout.struct.pack(*(self.param[name] for name in layout.fields))
        try:
            self.process.space.copy_out(self.argument, raw[:size])
        except FaultError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Check:
    """:ivar fails: does the call fail here? It may also fill in the call for later checks, or act as the source does
    there.

    :ivar errno: what is returned then: an errno's name or a number; None: what `fails` gives.
    :ivar source: file and function, and the condition in its words.
    :ivar quirk: a known defect of this check.
    :ivar instead: what a kernel with that quirk returns; None: it does not check this at all.
    """

    name: str
    fails: Callable[[IoctlCall], object]
    errno: str | int | None
    source: str
    quirk: str = ""
    instead: str | int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """:ivar then: the action after all checks passed; it returns the ioctl's value."""

    name: str
    checks: tuple[Check, ...]
    then: Callable[[IoctlCall], int]

    def perform(self, call: IoctlCall, quirks: frozenset[str]) -> int:
        """:raise RefusedError: the first check that fails."""
        for check in self.checks:
            failed = check.fails(call)
            if not failed:
                continue
            code = failed if check.errno is None else check.errno
            if check.quirk in quirks:
                call.machine.hit_quirk(check.quirk)
                code = check.instead
                if code is None:
                    continue
            if isinstance(code, int):
                return code
            raise SyscallError(str(code))
        return self.then(call)


Requests = Mapping[int, Request]
"""By the number within VFIO's requests, 0 for VFIO_GET_API_VERSION."""

_BASE: Final = uapi.NUMBERS["GET_API_VERSION"]
_COUNT: Final = 156
"""VFIO_BASE is 100, and a request's number has 8 bits."""


def number_of(request: int) -> int:
    """VFIO's own number of an ioctl request; -1: it is none of VFIO's."""
    number = request - _BASE
    return number if 0 <= number < _COUNT else -1


def copies_in(name: str) -> Check:
    layout = uapi.LAYOUTS[name]
    return Check(
        "fault", lambda call: not call.copy_in(layout, layout.minimum or layout.size), "EFAULT", "copy_from_user"
    )


def long_enough(name: str) -> Check:
    minimum = uapi.LAYOUTS[name].minimum
    return Check("argsz", lambda call: call.param["argsz"] < minimum, "EINVAL", "argsz < minsz")


def give(call: IoctlCall, name: str, size: int | None = None) -> int:
    layout = uapi.LAYOUTS[name]
    if not call.copy_out(layout, layout.size if size is None else size):
        raise SyscallError("EFAULT")
    return 0


__all__ = [
    "Check",
    "IoctlCall",
    "NotModelledError",
    "Request",
    "Requests",
    "copies_in",
    "give",
    "long_enough",
    "number_of",
]
