"""The platforms that a program can run on, by name, opened with the user's choice."""

from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from tcelab.emulator import EmulatorSession
from tcelab.emulator.profiles import profile
from tcelab.errors import Interrupted, UsageError
from tcelab.job import nested, setup
from tcelab.job.parallel import EndableSession
from tcelab.job.recording import Recording, onto
from tcelab.logs import PHASE
from tcelab.qemu import fork
from tcelab.qemu.limits import Limits
from tcelab.qemu.qemusession import QemuSession
from tcelab.quirks import check as check_quirks
from tcelab.ssh.choice import SshChoice
from tcelab.ssh.choice import check as check_machine
from tcelab.ssh.connection import ask_secret
from tcelab.ssh.sshsession import SshSession

_LOG: Final = logging.getLogger(__name__)

QEMU: Final = "qemu"
EMULATOR: Final = "emulator"
SSH: Final = "ssh"
NAMES: Final = (QEMU, EMULATOR, SSH)


class Platform(Protocol):
    """Opens sessions of one machine; from several threads, if need be.

    :ivar provenance: where its parts came from, for the result.
    """

    @property
    def provenance(self) -> dict[str, Any]: ...

    def open(self, folder: Path) -> EndableSession:
        """A guest with its agent ready. `folder`, private, is for its artefacts.

        :raise TcelabError: there is none to be had.
        """
        ...

    def close(self) -> None:
        """Abort openings, and release everything."""
        ...


class QemuPlatform:
    """A real kernel in a guest under QEMU, forked if possible."""

    def __init__(
        self,
        choice: setup.MachineChoice,
        *,
        limits: Limits | None = None,
        boot: bool = False,
        recording: Recording | None = None,
    ) -> None:
        """Provisions.

        :raise TcelabError: as `setup.prepare`.
        """
        ready = onto(recording, setup.prepare(choice))
        self.provenance = ready.provenance
        self._forks = fork.Forks(ready.qemu, ready.options, digest=ready.digest, limits=limits or Limits(), boot=boot)

    def open(self, folder: Path) -> QemuSession:
        """See `Platform`."""
        return self._forks.open(folder)

    def close(self) -> None:
        """See `Platform`."""
        self._forks.close()


class EmulatorPlatform:
    """The emulator, in this process: no kernel is under test."""

    def __init__(self, choice: setup.MachineChoice) -> None:
        """:raise UsageError: what was chosen is about a guest, or no such profile or quirk."""
        foreign = [name for name in _OF_A_GUEST if getattr(choice, name) != _DEFAULTS[name]]
        if foreign:
            raise UsageError(f"the emulator runs no kernel: {setup.OPTIONS[foreign[0]]} is about a guest")
        self._choice = choice
        self._quirks = check_quirks(choice.expect_quirks) - check_quirks(choice.without_quirks)
        self._seeds = itertools.count()
        self.provenance: dict[str, Any] = {}

    def open(self, folder: Path) -> EmulatorSession:
        """See `Platform`."""
        _LOG.info("making a machine", extra=PHASE)
        return EmulatorSession(
            self._choice.topology,
            profile_name=self._choice.profile,
            quirks=self._quirks,
            seed=next(self._seeds),
            folder=folder,
            isolates=self._choice.isolates,
            guard=self._choice.guard,
        )

    def close(self) -> None:
        """See `Platform`."""


class SshPlatform:
    """A machine that runs already, the only one: a second session is opened once the first one is closed."""

    def __init__(self, choice: setup.MachineChoice, machine: SshChoice, *, limits: Limits | None = None) -> None:
        """:raise UsageError: as `check`."""
        self._choice, self._machine, self._limits = choice, machine, limits
        self._quirks = check_quirks(choice.expect_quirks) - check_quirks(choice.without_quirks)
        self._free = threading.Semaphore()
        self._closed = threading.Event()
        self.provenance: dict[str, Any] = {}

    def open(self, folder: Path) -> SshSession:
        """See `Platform`."""
        while not self._free.acquire(timeout=_LISTEN):
            if self._closed.is_set():
                raise Interrupted
        return SshSession(
            self._machine,
            self._choice.topology,
            folder,
            limits=self._limits,
            quirks=self._quirks,
            profile=self._choice.profile,
            on_close=self._free.release,
        )

    def close(self) -> None:
        """See `Platform`."""
        self._closed.set()


_LISTEN: Final = 0.2
_OF_A_GUEST: Final = (
    *("qemu", "image", "kernel", "modules", "initrd", "mutant", "cures", "memory", "cpu", "firmware", "append", "papr"),
)
_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(setup.MachineChoice)}


def check(name: str, choice: setup.MachineChoice, *, boot: bool = False, ssh: SshChoice | None = None) -> None:
    """The cheap checks of `prepare` and `open`, before any progress is shown; asks for a password, if that was wanted.

    :raise UsageError: the platform is not possible with that choice.
    """
    if name == SSH:
        _check_ssh(choice, ssh or SshChoice(), boot=boot)
        return
    if name == EMULATOR:
        if boot:
            raise UsageError("the emulator runs no kernel: --boot is about a guest")
        EmulatorPlatform(choice)
        profile(choice.profile)
        return
    _expect_todays(choice.profile)
    setup.check(nested.fitted(choice) if choice.topology.nested else choice)


def _check_ssh(choice: setup.MachineChoice, machine: SshChoice, *, boot: bool) -> None:
    foreign = [name for name in _OF_A_GUEST if getattr(choice, name) != _DEFAULTS[name]]
    if foreign or boot:
        option = setup.OPTIONS[foreign[0]] if foreign else "--boot"
        raise UsageError(f"over ssh a machine is taken as it is: {option} is about a guest of tcelab's own")
    _expect_todays(choice.profile)
    check_quirks({*choice.expect_quirks, *choice.without_quirks})
    check_machine(machine)
    ask_secret(machine)


def _expect_todays(name: str) -> None:
    if name not in setup.TODAYS_PROFILES:
        raise UsageError(f"no kernel of today has the driver of profile {name}", next_step="add --platform emulator")


def prepare(
    name: str,
    choice: setup.MachineChoice,
    *,
    limits: Limits | None = None,
    boot: bool = False,
    ssh: SshChoice | None = None,
    recording: Recording | None = None,
) -> Platform:
    """:raise TcelabError: the platform cannot be had, or not with that choice."""
    check(name, choice, boot=boot, ssh=ssh)
    if name == SSH:
        return SshPlatform(choice, ssh or SshChoice(), limits=limits)
    if name == EMULATOR:
        return EmulatorPlatform(choice)
    if choice.topology.nested:
        return nested.PassthroughPlatform(choice, limits=limits)
    return QemuPlatform(choice, limits=limits, boot=boot, recording=recording)
