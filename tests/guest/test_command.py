"""`tcelab run`, the main job, as a user calls it."""

import json
from xml.etree import ElementTree as ET

import pytest

from calls import tcelab

pytestmark = pytest.mark.guest

FILES = {"program.json", "result.json", "junit.xml", "console.log", "qemu.log", "qemu.err", "qemu.cmd", "tables.npz"}
FILES |= {"log.txt"}


def test_the_main_job_passes_and_says_what_was_seen(tmp_path):
    code, call = tcelab("run", "--seed", 1, "--json", "-", state=tmp_path)
    assert code == 0, call.err
    result = json.loads(call.out)
    evidence = result["verdict"]["evidence"]
    assert [each["size"] for each in evidence["batches"]] == list(range(1, 33))
    for each in evidence["batches"]:
        assert each["maps"] >= 9
        assert each["live"] == each["checkpoints"] >= 9
        assert each["stream"] >= 1
        assert each["tags"] > 0
    # It makes no hypercall itself, nobody isolates anything, and no probe is told anything or races.
    assert {name for name, law in evidence["laws"].items() if not law["judged"]} == {
        "doorbells",
        "flight",
        "handles",
        "hypercalls",
        "isolation",
        "messages",
        "races",
        "release",
    }
    assert set(evidence["dma"]["control"]) == {"pe1", "pe2", "disk2"}
    assert result["versions"]["guest"]["kernel"].startswith("6.12.")
    assert result["versions"]["qemu"]["version"]
    assert result["program"]["seed"] == 1
    (run,) = call.runs()
    assert {each.name for each in run.iterdir()} == FILES | {"guest-2", "guest-3"}
    assert result["versions"]["guests"] == 3
    assert json.loads((run / "result.json").read_bytes()) == result
    suite = ET.parse(run / "junit.xml").getroot().find("testsuite")
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "8")
    assert "PASS (exit code 0)" in call.err


def test_a_seed_repeats_the_program_exactly_and_its_file_replays_it(tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    code, call = tcelab("run", "flow", "--seed", 42, state=first)
    assert code == 0, call.said
    program = call.runs()[0] / "program.json"
    code, call = tcelab("run", program, state=again)
    assert code == 0, call.said
    assert (call.runs()[0] / "program.json").read_bytes() == program.read_bytes()
