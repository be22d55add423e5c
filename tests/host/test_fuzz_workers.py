"""`tcelab fuzz --workers` with real processes, on the emulator: the same programs, and the same counts."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ("fuzz", "--platform", "emulator", "--topology", "two-pe", "--seed", "3", "--steps", "1000", "--every", "100")


def test_workers_run_the_programs_that_a_campaign_alone_runs(tcelab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tcelab(*WORDS, "--out", "alone").code == 0
    assert tcelab(*WORDS, "--workers", "2", "--out", "split").code == 0
    alone, split = (json.loads(Path(name, "result.json").read_text()) for name in ("alone", "split"))
    assert alone["counts"]["programs"] == 2
    assert (split["counts"], split["quirks"]) == (alone["counts"], alone["quirks"])
    done = tcelab("fuzz", "--resume", "split", "--workers", "2")
    assert done.code == 0
    assert "begins: " not in done.err


def test_resume_needs_a_campaign_and_somebody_who_does_the_work(tcelab, tmp_path):
    assert tcelab("fuzz", "--resume", str(tmp_path), "--workers", "2").code == 2
