"""Guests whose driver has a defect that nobody declared, under one kernel alone; and the replay lines of a text."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

from tcelab import commandline
from tcelab.emulator import EmulatorSession
from tcelab.job import setup
from tcelab.program.topology import topology
from tcelab.qemu import fork
from tcelab.quirks import MISALIGNED

BROKEN = "a broken/vmlinux"
"""The kernel whose driver has a defect that nobody declared."""


def commands(text):
    """Every replay line that a text holds, without what starts tcelab."""
    lines = [line.partition("replay:")[2] for line in text.splitlines() if "replay:" in line]
    lines += [line.partition("to repeat it:")[2] for line in text.splitlines() if "to repeat it:" in line]
    own = commandline.started()
    for line in dict.fromkeys(lines):
        words = shlex.split(line)
        assert words[: len(own)] == own
        yield words[len(own) :]


class Guests:
    """Guests whose driver has a defect under one kernel alone, in the place of `Forks` and of `Guests`."""

    defect = MISALIGNED
    chosen = None

    def __init__(self, *_given, **_more):
        self.choice = type(self).chosen

    def open(self, _folder, name=None):
        choice = self.choice
        declared = setup.quirks_of(choice)
        broken = choice.kernel is not None and str(choice.kernel).endswith(BROKEN)
        where = choice.topology if name is None else topology(name)
        session = EmulatorSession(where, quirks={*declared, self.defect} if broken else declared)
        session.facts = dataclasses.replace(session.facts, platform="qemu", quirks=declared)
        return session

    def fresh(self, name, _more):
        return self.open(None, name=name)

    def close(self):
        pass


@pytest.fixture
def guests(host, monkeypatch):
    """A host with such guests."""
    kind = type("Guests", (Guests,), {})

    def ready(choice):
        kind.chosen = choice
        return setup.PreparedMachine(None, None, "", {})

    def made(choice, *given, **more):
        kind.chosen = choice
        return kind(*given, **more)

    monkeypatch.setattr(setup, "prepare", ready)
    monkeypatch.setattr(fork, "Forks", kind)
    monkeypatch.setattr("tcelab.cli.fuzz.Guests", made)
    return kind
