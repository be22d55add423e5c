"""`tcelab run isolation` and the benchmarks, as a user calls them."""

import json
from xml.etree import ElementTree as ET

import pytest

from calls import tcelab

pytestmark = pytest.mark.guest


def test_a_guarded_guest_passes_and_each_isolation_is_told(tmp_path):
    code, call = tcelab("run", "isolation", "--topology", "pair", "--seed", 1, "--json", "-", state=tmp_path)
    assert code == 0, call.err
    result = json.loads(call.out)
    assert all(row["done"] == row["tried"] and row["isolated"] == row["expected"] for row in result["isolations"])
    isolated = [moment["event"] for moment in result["timeline"] if moment["what"] == "isolated"]
    assert len(isolated) == sum(row["expected"] for row in result["isolations"]) > 25
    assert {event["device"] for event in isolated} == {"pe1", "pe1b"}
    assert all(0 < event["took"] < 0.5 for event in isolated)
    assert result["verdict"]["evidence"]["laws"]["isolation"]["judged"] > 400
    (run,) = call.runs()
    suite = ET.parse(run / "junit.xml").getroot().find("testsuite")
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert "PE 1 (LIOBN 0x80000100): " in call.err


def test_a_probe_is_isolated_by_the_answer_to_its_own_message_and_nothing_else_is(tmp_path):
    code, call = tcelab("run", "isolation", "--device", "probe", "--seed", 1, "--json", "-", state=tmp_path)
    assert code == 0, call.err
    result = json.loads(call.out)
    assert all(row["done"] == row["tried"] and row["isolated"] == row["expected"] for row in result["isolations"])
    rows = {row["kind"]: row["isolated"] for row in result["isolations"]}
    own = ("crossing into a hole", "crossing out of a hole", "above 2^32", "above 2^59")
    assert all(rows[kind] >= 4 for kind in own)


def test_without_a_guard_the_same_is_a_finding_that_says_what_was_to_be_isolated(tmp_path):
    code, call = tcelab("run", "isolation", "--topology", "pair", "--seed", 1, "--guard", "off", state=tmp_path)
    assert code == 1, call.err
    assert "isolation: PE 1 must be isolated by the DMA of operation" in call.out
    assert ["hole", "0/4", "BAD"] in [line.split() for line in call.out.splitlines()]


@pytest.mark.parametrize(
    ("name", "words", "figures"),
    [
        ("batch", ("--repeat", 1, "--sizes", "1,2"), {"map 1", "unmap 2"}),
        ("isolation", ("--repeat", 3), {"isolation for 8 bytes", "isolation for 4000 bytes", "judged transfers"}),
    ],
)
def test_what_is_measured_is_judged_and_gives_figures(tmp_path, name, words, figures):
    code, call = tcelab("bench", name, *words, "--topology", "two-small", "--json", "-", state=tmp_path)
    assert code == 0, call.err
    data = json.loads(call.out)
    assert figures <= {figure["name"] for figure in data["figures"]}
    assert all(value > 0 for figure in data["figures"] for value in figure["values"])
    assert data["verdict"]["result"] == "pass"
