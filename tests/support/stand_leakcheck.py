"""The verb `leakcheck` with a check that ends as it is told to."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tcelab.cli import leakcheck as verb
from tcelab.leakcheck.leakresult import LeakFinding, Origin

LEAK = LeakFinding(
    law="leak",
    message="LIOBN 0x80000100 IOBA 0x9000: 0x0000000000007003 (page 0x7000, read-write) stayed",
    liobn=0x80000100,
    device="disk1",
    ioba=0x9000,
    tce=0x7003,
    origin=Origin(hypercall="H_PUT_TCE_INDIRECT", seconds=1.25, ioba=0x8000, entries=4, number=2),
)


class Checked:
    """A check that ends as it is told to."""

    findings, could_not, status, fails, judged = (), (), 0, None, True

    def __init__(self, guest, plan):
        type(self).plan = plan
        self.output = ["said"]
        self.died_of = None

    def perform(self):
        if self.fails is not None:
            raise self.fails

    def died(self, error):
        self.died_of = error

    def fill(self, result):
        result.findings, result.could_not, result.status = list(self.findings), list(self.could_not), self.status
        result.judged = self.judged and self.fails is None
        if self.died_of is not None:
            result.findings.append(LeakFinding(law="kernel", message=self.died_of.message))


@pytest.fixture
def leakcheck(monkeypatch, tmp_path, capsys):
    """Call the verb: its exit code, its result, and what it printed."""

    @contextmanager
    def opened(*_, **__):
        yield SimpleNamespace(facts=SimpleNamespace(versions={}))

    monkeypatch.setattr(verb, "opened", opened)
    ready = SimpleNamespace(qemu=None, options=None, digest="", provenance={})
    monkeypatch.setattr(verb.setup, "prepare", lambda *_: ready)
    monkeypatch.setattr(verb.setup, "check", lambda _choice: None)
    monkeypatch.setattr(verb, "DrivenGuest", lambda *_: None)

    def call(*words, **how):
        kind = type("Told", (Checked,), how)
        monkeypatch.setattr(verb, "LeakCheck", kind)
        code = verb.command.main(["--out", str(tmp_path / "out"), *words], standalone_mode=False)
        result = json.loads((tmp_path / "out" / "result.json").read_bytes())
        return code, result, capsys.readouterr().out, kind

    return call
