"""A cell's word rests on the exit code and on the files: neither alone makes a pass, and a finding stands."""

from __future__ import annotations

import json

import pytest

from tcelab.history.nightfile import Cell
from tcelab.nightly import outcome

FINDING = {
    "law": "table",
    "step": 3,
    "message": "IOBA 0x1000: 2 entries",
    "operation": '#3 {"op":"ioctl","request":"MAP_DMA"}',
}


def cell(kind="run"):
    return Cell(id="x", kind=kind, scenario="flow", command=["tcelab", kind, "fork"])


def result(word, *, run=True):
    found = [FINDING, {**FINDING, "step": 9, "message": "IOBA 0x2000: 3 entries"}] if word == "finding" else []
    could_not = ["the guest was lost\nfor good"] if word == "could-not-judge" else []
    verdict = {"result": word, "findings": found, "could_not": could_not, "evidence": {"operations": 7}}
    leak = {"verdict": word, "findings": found, "could_not": could_not, "counts": {"programs": 2}}
    manifest = {"recipe": "guest", "files": [1] * 999, "packages": [2] * 999}
    return {
        "versions": {"guest": "6.12", "provenance": {"image": {"manifest": manifest}}},
        "replay": "tcelab run x",
        **({"verdict": verdict} if run else leak),
    }


@pytest.mark.parametrize("kind", ["run", "fuzz"])
@pytest.mark.parametrize(
    ("code", "told", "ends"),
    [
        (0, "pass", ("pass", "")),
        (1, "finding", ("finding", "")),
        (125, "could-not-judge", ("could-not-judge", "the guest was lost")),
        (0, None, ("could-not-judge", "exit code 0: tcelab: it says why")),
        (0, "could-not-judge", ("could-not-judge", "the guest was lost")),
        (125, "pass", ("could-not-judge", "exit code 125: tcelab: it says why")),
        (0, "finding", ("finding", "")),
        (125, "finding", ("finding", "")),
        (1, "pass", ("finding", "")),
        (-9, "pass", ("could-not-judge", "ended by signal 9: tcelab: it says why")),
        (-9, "finding", ("finding", "")),
        (2, None, ("could-not-judge", "exit code 2: tcelab: it says why")),
        (1, None, ("could-not-judge", "exit code 1: tcelab: it says why")),
    ],
)
def test_words(tmp_path, kind, code, told, ends):
    (tmp_path / "output.txt").write_text("first\ntcelab: it says why\n  next step: this\n")
    if told is not None:
        (tmp_path / "result.json").write_text(json.dumps(result(told, run=kind == "run")))
    seen = outcome.read(cell(kind), tmp_path, code)
    assert (seen.word, seen.why) == ends


def test_a_finding_whose_result_was_lost_stands(tmp_path):
    (tmp_path / "program.json").write_text("{}")
    assert outcome.read(cell(), tmp_path, 1).word == "finding"
    (tmp_path / "result.json").write_text("{")
    assert outcome.read(cell(), tmp_path, 1).word == "finding"
    assert outcome.read(cell(), tmp_path, 0).word == "could-not-judge"


def test_findings_of_one_signature_are_one_and_what_was_counted_are_figures(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result("finding")))
    seen = outcome.read(cell(), tmp_path, 1)
    (found,) = seen.findings
    assert (found.count, found.law, found.operation, found.replay) == (2, "table", "ioctl MAP_DMA", "tcelab run x")
    assert (found.message, found.difference) == ("IOBA 0x1000: 2 entries", "IOBA N: N entries")
    assert [(each.name, each.values, each.better) for each in seen.figures] == [("operations", [7.0], "")]
    assert seen.versions == {"guest": "6.12", "provenance": {"image": {"manifest": {"recipe": "guest"}}}}


def test_figures_of_a_bench_know_which_way_is_better(tmp_path):
    figures = [
        {"name": name, "unit": unit, "values": [1, 2], "median": 1.5}
        for name, unit in (("a", "ms"), ("b", "x/s"), ("c", "x"))
    ]
    bench = {"schema": 1, "figures": figures, "on": {"qemu": "11.1"}}
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    seen = outcome.read(cell("bench"), tmp_path, 0)
    assert (seen.word, seen.versions) == ("pass", {"qemu": "11.1"})
    assert [(each.unit, each.better) for each in seen.figures] == [("ms", "lower"), ("x/s", "higher"), ("x", "")]
    verdict = {"result": "finding", "findings": [FINDING], "could_not": []}
    (tmp_path / "bench.json").write_text(json.dumps({**bench, "figures": [], "verdict": verdict}))
    assert [outcome.read(cell("bench"), tmp_path, code).word for code in (1, 125)] == ["finding", "finding"]
    (tmp_path / "bench.json").unlink()
    assert outcome.read(cell("bench"), tmp_path, 0).word == "could-not-judge"
