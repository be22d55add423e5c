"""The command line on a host where all is provisioned and a guest is ideal, or lies as it is told to."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import msgspec
import pytest
from fake_guest import NOW
from ideal import Ideal
from story import after, nth, story

from tcelab import cli
from tcelab.bench import benchguests as bench_session
from tcelab.job import setup
from tcelab.logs import NOTE, PHASE
from tcelab.program import load
from tcelab.qemu import fork

_LOG = logging.getLogger("tcelab.stand")


class Stand:
    """The ideal session in the place of a booted guest. `lies`: how it lies; `fails`: what a boot ends with."""

    lies: ClassVar = {}
    fails: ClassVar = None
    made: ClassVar = []

    def __init__(self, qemu, options, folder, *, limits=None, digest=""):
        self.told = SimpleNamespace(options=options, folder=folder, limits=limits, digest=digest, open=False)
        type(self).made.append(self.told)
        _LOG.info("booting", extra=PHASE)
        if self.fails is not None:
            raise self.fails
        self.ideal = Ideal(load(folder / "program.json"), **self.lies) if (folder / "program.json").exists() else None
        self.told.open = True
        self.reached = {"kernel": 0.5, "ready": 1.0 + (options.firmware == "slof")}

    def __getattr__(self, name):
        return getattr(self.ideal, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.told.open = False

    def scene(self):
        return NOW


class StandForks:
    """Where sessions come from, in the place of `Forks`. `closed`: how many sessions were open at each close."""

    stand = Stand
    given: ClassVar = []
    closed: ClassVar = []

    def __init__(self, qemu, options, *, digest="", limits=None, boot=False):
        self.given.append(SimpleNamespace(boot=boot, limits=limits, digest=digest))
        _LOG.warning("no forks, each guest is booted: it is a stand", extra=NOTE)
        self._make = lambda folder: self.stand(qemu, options, folder, limits=limits, digest=digest)

    def open(self, folder):
        return self._make(folder)

    def close(self):
        self.closed.append(sum(each.open for each in self.stand.made))


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host on which all is provisioned, and a guest that is ideal."""
    stand = type("Stand", (Stand,), {"made": []})
    stand.forks = type("StandForks", (StandForks,), {"stand": stand, "given": [], "closed": []})

    made = setup.machine.QemuOptions(Path("/k"), Path("/i"), story().topology)
    stand.chosen = []

    def ready(choice):
        stand.chosen.append(choice)
        return setup.PreparedMachine(
            None, msgspec.structs.replace(made, topology=choice.topology), "digest", {"kernel": "/k"}
        )

    monkeypatch.setattr(fork, "Forks", stand.forks)
    monkeypatch.setattr(bench_session, "QemuSession", stand)
    monkeypatch.setattr(setup, "prepare", ready)
    monkeypatch.setattr(setup, "check", lambda _choice: None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.json").write_bytes(story().to_json())
    stand.home = tmp_path
    stand.runs = tmp_path / "state" / "tcelab" / "runs"
    return stand


@pytest.fixture
def tcelab(monkeypatch, capfd):
    """The command; returns exit code, standard output, standard error."""
    before = signal.getsignal(signal.SIGTERM)

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["tcelab", *map(str, words)])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        out, err = capfd.readouterr()
        return SimpleNamespace(code=ending.value.code or 0, out=out, err=err)

    yield command
    signal.signal(signal.SIGTERM, before)


def result(folder):
    return json.loads((folder / "result.json").read_bytes())


def raising(error):
    def do(*_arguments, **_more):
        raise error

    return do


WRONG = after(nth("MAP_DMA"), lambda s: s.pes["pe1"].table.pop(0x12))

NOBODY = 1 << 30
"""No process has this number."""
