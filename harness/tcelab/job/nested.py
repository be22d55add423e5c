"""The platform of guests whose device is passed through to a guest inside: see `tcelab.passthrough`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from tcelab import image
from tcelab.errors import HarnessError, Interrupted, UsageError
from tcelab.job import setup
from tcelab.logs import NOTE
from tcelab.passthrough.innerqemu import OUTER_MEMORY
from tcelab.passthrough.session import PassthroughSession
from tcelab.qemu.guest import Guest
from tcelab.qemu.limits import Limits
from tcelab.qemu.portal import portal

_LOG: Final = logging.getLogger(__name__)

IMAGE: Final = "passthrough"
"""Of L1."""
CPUS: Final = ("power9", "power10")
"""Of L1, on which L2 was tried. KVM for a guest's guest needs the radix MMU (arch/powerpc/kvm/book3s_hv.c)."""

_LISTEN: Final = 0.2
_FIXED: Final = ("kernel", "modules", "initrd", "mutant", "cures", "firmware", "papr")
_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(setup.MachineChoice)}


def fitted(choice: setup.MachineChoice) -> setup.MachineChoice:
    """The choice of L1's machine.

    :raise UsageError: an option that is not possible, or not yet.
    """
    for name in _FIXED:
        if getattr(choice, name) != _DEFAULTS[name]:
            raise UsageError(
                f"{setup.OPTIONS[name]} cannot be combined with --passthrough yet", next_step="leave it out"
            )
    if choice.image != _DEFAULTS["image"] and not image.inner(choice.image):
        raise UsageError(
            f"--image {choice.image}: with --passthrough it is the outer guest's, and this one runs no guest",
            next_step=f"take {IMAGE} or {IMAGE}-64k, or leave it out",
        )
    if choice.cpu not in CPUS:
        raise UsageError(
            f"--cpu {choice.cpu}: a guest that runs a guest was tried on {' and '.join(CPUS)} alone",
            next_step=f"take --cpu {CPUS[0]}",
        )
    if choice.memory not in {_DEFAULTS["memory"], OUTER_MEMORY}:
        raise UsageError(f"--memory: with --passthrough, L1 has {OUTER_MEMORY} MiB", next_step="leave it out")
    name = IMAGE if choice.image == _DEFAULTS["image"] else choice.image
    return msgspec.structs.replace(choice, image=name, memory=OUTER_MEMORY, papr=False)


class _Once:
    """Calls something at the first call, from whichever thread."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._left = [work]

    def __call__(self) -> None:
        with suppress(IndexError):
            self._left.pop()()


class PassthroughPlatform:
    """Boots each guest: the two levels together are not forked. One at a time: a second one is booted once the first is
    closed.
    """

    def __init__(self, choice: setup.MachineChoice, *, limits: Limits | None = None) -> None:
        """Provisions.

        :raise TcelabError: as `setup.prepare`.
        """
        self._ready = setup.prepare(fitted(choice))
        self.provenance: dict[str, Any] = self._ready.provenance
        self._limits = limits
        self._lock = threading.Lock()
        self._free = threading.Semaphore()
        self._young: list[Guest] = []
        self._closed = False

    def open(self, folder: Path) -> PassthroughSession:
        """See `Platform`."""
        while not self._free.acquire(timeout=_LISTEN):
            if self._closed:
                raise Interrupted
        _LOG.info("booting: guests inside guests are not forked yet", extra=NOTE)
        closed = _Once(self._free.release)
        try:
            return PassthroughSession(
                self._ready.qemu,
                self._ready.options,
                folder,
                limits=self._limits,
                digest=self._ready.digest,
                on_spawn=self._born,
                on_close=closed,
            )
        except BaseException:
            closed()
            raise
        finally:  # it is its owner's to close, or has closed itself
            with self._lock:
                self._young.clear()

    def _born(self, guest: Guest) -> None:
        with self._lock:
            if self._closed:
                raise HarnessError("closed: no guest can be had from here any more")
            self._young.append(guest)

    def close(self) -> None:
        """See `Platform`."""
        with self._lock:
            self._closed = True
            young = list(self._young)
        for guest in young:
            portal().call(guest.close())
