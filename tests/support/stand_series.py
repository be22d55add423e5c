"""The scenario `isolation` on the emulator, on fewer topologies and with fewer violations."""

from __future__ import annotations

import dataclasses

import pytest

from tcelab import scenarios
from tcelab.scenarios import isolation

NAMES = ("one-pe", "pair")
EMULATED = ("--platform", "emulator", "--seed", "3")


@pytest.fixture
def two(host, monkeypatch):
    """The scenario has but two topologies, and few violations, so that a test is quick."""
    every = isolation.violations
    short = {"hole", "straddling the end"}
    monkeypatch.setattr(isolation, "violations", lambda where: [v for v in every(where) if v.kind.name in short])
    monkeypatch.setattr(isolation, "FURTHER", (isolation.reopened,))
    fewer = dataclasses.replace(scenarios.SCENARIOS["isolation"], topologies=NAMES)
    monkeypatch.setitem(scenarios.SCENARIOS, "isolation", fewer)
    return host
