"""Guests for tests: fresh forks of one machine per topology, some of them kept ready in advance."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tcelab.emulator import EmulatorSession
from tcelab.errors import HarnessError, Unsupported
from tcelab.job import setup
from tcelab.job.platforms import EmulatorPlatform
from tcelab.job.recording import Recording, onto
from tcelab.program.topology import topology
from tcelab.qemu.ahead import Ahead
from tcelab.qemu.fork import Forks
from tcelab.qemu.limits import Limits
from tcelab.qemu.probe import TRACES, Abilities
from tcelab.qemu.qemusession import QemuSession

NEEDS: Final[dict[str, Callable[[Abilities], bool]]] = {
    "edu": lambda can: can.edu,
    "fork": lambda can: can.private_ram,
    "live": lambda can: TRACES[0] in can.traces,
    "stream": lambda can: can.device_state,
    "vof": lambda can: can.vof,
}
"""What a test may need from QEMU, and the check for it."""


class Emulators:
    """The emulator in the place of guests, with the same methods as `Guests`."""

    def __init__(self, choice: setup.MachineChoice, folder: Callable[[], Path]) -> None:
        """:raise UsageError: what was chosen is about a guest."""
        self._choice, self._folder = choice, folder
        EmulatorPlatform(choice)

    def expect(self, _name: str, needs: str) -> None:
        """:raise Unsupported: the emulator cannot do what a test needs. :raise KeyError: nobody knows that need."""
        if NEEDS[needs] is not NEEDS["edu"]:
            raise Unsupported(f"the emulator cannot do what the test needs: {needs}")

    def fresh(self, name: str, _more: int | None) -> EmulatorSession:
        """A fresh machine."""
        choice = msgspec.structs.replace(self._choice, topology=topology(name))
        return EmulatorPlatform(choice).open(self._folder())

    def close(self) -> None:
        """Nothing is left to end."""


class Guests:
    """Made by the plugin, once in a process. `close` ends everything."""

    def __init__(
        self,
        choice: setup.MachineChoice,
        folder: Callable[[], Path],
        *,
        limits: Limits | None = None,
        boot: bool = False,
        ahead: int | None = None,
        recording: Recording | None = None,
    ) -> None:
        """:param choice: of the machine; tests choose the topology.
        :param folder: makes a private folder for the artefacts of a guest.
        :param boot: boot each guest anew.
        :param ahead: guests to keep ready; by default one for each core.
        """
        self.choice = choice
        self._folder, self._limits, self._boot = folder, limits, boot
        self._recording = recording
        self._count = (os.cpu_count() or 1) if ahead is None else ahead
        self._closed = False
        self._forks: dict[str, Forks] = {}
        self._ahead: dict[str, Ahead] = {}

    def expect(self, name: str, needs: str) -> None:
        """:raise Unsupported: the QEMU cannot do what a test needs. :raise KeyError: nobody knows that need."""
        can = self._of(name).abilities
        if not NEEDS[needs](can):
            raise Unsupported(f"QEMU {can.version} cannot do what the test needs: {needs}")

    def fresh(self, name: str, more: int | None) -> QemuSession:
        """A fresh guest; the caller closes it.

        :param name: of the topology.
        :param more: how many more will be requested; None if unknown.
        """
        for other in [other for other in self._ahead if other != name]:
            self._ahead.pop(other).close()
            self._forks.pop(other)
        if name not in self._ahead:
            self._ahead[name] = Ahead(self._of(name), self._folder, self._count)
            if self._closed:  # meanwhile, by another thread
                self.close()
                raise HarnessError("closed: no guest can be had from here any more")
        return self._ahead[name].take(more)

    def close(self) -> None:
        """End all of them, also those that are being made; from another thread, if need be."""
        self._closed = True
        for ahead in list(self._ahead.values()):
            ahead.close()
        for forks in list(self._forks.values()):
            forks.close()

    def _of(self, name: str) -> Forks:
        if name not in self._forks:
            choice = msgspec.structs.replace(self.choice, topology=topology(name))
            ready = onto(self._recording, setup.prepare(choice))
            self._forks[name] = Forks(
                ready.qemu,
                ready.options,
                digest=ready.digest,
                limits=self._limits,
                boot=self._boot,
            )
        return self._forks[name]
