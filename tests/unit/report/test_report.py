"""What a run leaves for its readers."""

from __future__ import annotations

import io
import json
import re
from xml.etree import ElementTree as ET

import msgspec
import pytest
from ideal import Ideal
from rich.console import Console
from story import FIRST, after, nth, story

from tcelab.errors import GuestLost, HarnessError, Scene, UsageError
from tcelab.job.parallel import ParallelRun
from tcelab.judge import LAWS
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.program.topology import topology
from tcelab.report import (
    SCHEMA,
    Progress,
    failed,
    junit,
    leakchecktext,
    load,
    make,
    render,
    to_json,
    write,
    write_junit,
)
from tcelab.run.loop import perform_program
from tcelab.scenarios import build


def result_of(program=None, session=None, **lies):
    program = program or story()
    record, verdict = ParallelRun(program, lambda part: session or Ideal(program, **lies)).run()
    return make(
        record,
        verdict,
        options={"seed": 1, "kernel": None},
        timings={"boot": 1.5, "program": 0.25},
        artefacts={"console": "console.log"},
    )


def dropped():
    return after(nth("MAP_DMA"), lambda s: s.pes["pe1"].table.pop(0x12))


def printed(result, **options):
    out = io.StringIO()
    render(Console(file=out, width=100), result, **options)
    return out.getvalue()


@pytest.mark.parametrize("lies", [{}, dropped(), {"cannot": {"stream": "no"}}], ids=["pass", "finding", "could not"])
def test_a_result_comes_back_from_its_json(lies, tmp_path):
    result = result_of(**lies)
    write(result, tmp_path / "result.json")
    data = (tmp_path / "result.json").read_bytes()
    assert load(data) == result
    plain = json.loads(data)
    assert plain["schema"] == SCHEMA == 1
    assert plain["verdict"]["exit_code"] == result.verdict.exit_code
    assert plain["versions"] == {"ideal": "1", "guests": 1}
    assert plain["program"]["name"] == "story"
    assert len(plain["program"]["sha256"]) == 64


def test_a_result_of_another_schema_is_refused():
    data = to_json(result_of()).replace(b'"schema": 1', b'"schema": 2')
    with pytest.raises(UsageError, match="schema 2"):
        load(data, "old.json")
    with pytest.raises(UsageError, match="not a result"):
        load(b"[]")


def test_a_run_that_never_began_has_a_result_too():
    error = GuestLost("no agent", next_step="look at console.log", scene=Scene("boot", 3.0, ["Kernel panic"]))
    result = failed(error, story(), options={"kernel": "x"})
    assert load(to_json(result)) == result
    assert (result.verdict.exit_code, result.platform) == (125, None)
    assert ET.fromstring(junit(result)).find(".//error").get("message") == "no agent"
    text = printed(result)
    assert "COULD NOT JUDGE (exit code 125)" in text
    assert "Kernel panic" in text
    assert "look at console.log" in text
    assert failed(HarnessError("x")).program is None


@pytest.mark.parametrize("lies", [{}, dropped(), {"cannot": {"stream": "no"}}], ids=["pass", "finding", "could not"])
def test_junit_is_well_formed_and_counts_right(lies, tmp_path):
    result = result_of(**lies)
    write_junit(result, tmp_path / "junit.xml")
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == 1 + len(LAWS) + 1
    for name, child in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(name)) == len([case for case in cases if case.find(child) is not None])
    failed_cases = [case.get("name") for case in cases if case.find("failure") is not None]
    assert failed_cases == (["story", "table", "4 pages"] if result.verdict.findings else [])
    assert int(suite.get("errors")) == (1 if result.verdict.result == "could-not-judge" else 0)


def test_junit_carries_the_finding_and_survives_what_a_console_can_say():
    def noise(session):
        session.console.append("WARNING: \x1b[31m\x00 at x.c")

    document = junit(result_of(**after(nth("MAP_DMA"), noise)))
    failure = ET.fromstring(document).find(".//testcase[@name='kernel']/failure")
    assert "WARNING" in failure.text
    failure = ET.fromstring(junit(result_of(**dropped()))).find(".//testcase[@name='table']/failure")
    assert "0x12000" in failure.text


def test_the_text_of_a_finding_names_liobn_ioba_expected_seen_operation_and_replay(tmp_path):
    result = result_of(**dropped())
    result.replay = "tcelab run program.json"
    text = printed(result, folder=tmp_path)
    finding = result.verdict.findings[0]
    for part in (f"{FIRST:#x}", "IOBA 0x12000", finding.expected, "seen:      0 (empty)", finding.operation):
        assert part in text
    assert "replay:    tcelab run program.json" in text
    assert text.splitlines()[-1] == f"FINDING (exit code 1); artefacts in {tmp_path}"


@pytest.mark.parametrize(
    ("breaks", "said"),
    [("It breaks.", "broken on purpose (some): It breaks."), ("", "without a fault")],
    ids=["broken", "clean"],
)
def test_the_text_says_that_the_driver_is_no_kernels_own(breaks, said):
    result = result_of()
    assert "mutant:" not in printed(result)
    result.versions["provenance"] = {
        "mutant": {"name": "some", "breaks": breaks, "module": "spapr_tce", "source": "linux-source 6"}
    }
    assert f"mutant:  spapr_tce rebuilt from linux-source 6, {said}" in printed(result)


def test_the_text_says_what_is_cured():
    result = result_of()
    assert "cured:" not in printed(result)
    result.versions["provenance"] = {
        "cures": {"quirks": ["one", "two"], "module": "spapr_tce", "source": "linux-source 6", "sha256": ""}
    }
    assert "cured:   spapr_tce rebuilt from linux-source 6, without one, two" in printed(result)


def test_the_text_of_a_leak_check_says_that_the_kernel_is_broken_on_purpose():
    out = io.StringIO()
    result = LeakResult(tcelab="1", command="work")
    result.versions["provenance"] = {
        "mutant": {"name": "some", "breaks": "It breaks.", "module": "vmlinux", "source": "linux-source 6"}
    }
    leakchecktext.render(Console(file=out, width=100), result, result.conclude())
    assert "mutant:  vmlinux rebuilt from linux-source 6, broken on purpose (some): It breaks." in out.getvalue()


def test_the_text_of_a_pass_names_its_witnesses_and_ends_with_the_verdict():
    text = printed(result_of())
    assert "live memory 5 steps, state stream 2 steps (two readers of one table: one witness)" in text
    assert "device DMA: 4 transfers" in text
    assert "first refusal seen on pe1" in text
    assert text.splitlines()[-1] == "PASS (exit code 0)"
    assert text.isascii()


def test_the_text_of_main_fits_a_terminal_and_has_a_row_per_batch_size():
    program = build("main", topology("one-pe"), 1)
    result = result_of(program)
    text = printed(result)
    rows = [line for line in text.splitlines() if line.startswith("|") and line.endswith("| ok      |")]
    assert len([line for line in rows if line.split("|")[1].strip().isdigit()]) == 32
    assert len(to_json(result)) < 100_000


def test_the_law_of_evidence_is_not_ok_where_evidence_is_missing():
    (row,) = (
        line for line in printed(result_of(cannot={"stream": "no"})).splitlines() if line.startswith("| evidence")
    )
    assert "| incomplete" in row
    (row,) = (line for line in printed(result_of()).splitlines() if line.startswith("| evidence"))
    assert "| ok" in row


def test_could_not_judge_gives_its_reasons():
    text = printed(result_of(cannot={"stream": "no such command"}))
    assert "could not judge: the stream view is missing: cannot" in text
    assert text.splitlines()[-1] == "COULD NOT JUDGE (exit code 125)"


@pytest.fixture(scope="module")
def batches():
    """A record that is for reading alone."""
    program = build("batches", topology("one-pe"), 1)
    return perform_program(program, Ideal(program))


def test_progress_without_a_terminal_is_a_line_per_phase_and_four_batch_sizes(batches):
    out = io.StringIO()
    with Progress(Console(file=out, width=100)) as progress:
        progress.phase("booting")
        progress.phase("booting")
        progress.phase("running")
        for step in batches.steps:
            progress.step(step, len(batches.program.ops))
        progress.note("done")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 + 8 + 1
    assert lines[0].endswith("booting")
    assert "batch size 5, 0 findings" in lines[3]
    assert lines[-1] == "done"


def test_progress_on_a_terminal_that_cannot_move_its_cursor_is_plain():
    out = io.StringIO()
    with Progress(Console(file=out, width=100, force_terminal=True, _environ={"TERM": "dumb"})) as progress:
        progress.phase("running")
    assert out.getvalue().endswith("running\n")


def test_progress_on_a_terminal_is_live():
    out = io.StringIO()
    program = story()
    terminal = Console(file=out, width=100, force_terminal=True, _environ={"TERM": "xterm"})
    with Progress(terminal) as progress:
        progress.phase("running")
        progress.findings = 3
        for step in perform_program(program, Ideal(program)).steps:
            progress.step(step, len(program.ops))
    assert "running" in out.getvalue()
    assert "3 findings" in out.getvalue()


class Screen(io.StringIO):
    """A terminal, which remembers what its last live line was."""

    @property
    def last(self):
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", self.getvalue())]
        return [line.rstrip() for line in lines if line.strip()][-1]


PHASES = ("main, seed 3244567506, 3175 operations", "forking under QEMU 11.1.3 Debian 1:11.1.3+ds-1~bpo13+1, vof")


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_progress_tells_count_batch_and_findings_at_every_width_and_no_phase_that_is_over(width, batches):
    screen = Screen()
    total = len(batches.program.ops)
    with Progress(Console(file=screen, width=width, force_terminal=True, _environ={"TERM": "xterm"})) as progress:
        for phase in PHASES:
            progress.phase(phase)
        progress._bar.refresh()
        assert PHASES[1][:8] in screen.last
        for step in batches.steps[:-40]:
            progress.step(step, total)
        progress.phase(PHASES[1])  # of a further guest, while the first one runs the program
        progress._bar.refresh()
        shown = screen.last
    assert len(shown) <= width
    assert f"{total - 40}/{total}" in shown
    assert "batch size 3" in shown
    assert "forking" not in shown
    if width >= 80:
        assert re.search(r"batch size \d+, 0 findings +\d:\d\d:\d\d", shown)
        assert "running" in shown


def many(count, *operations):
    """A result with so many findings, which are blamed on these operations in turn, the first ones in a row."""
    result = result_of(**dropped())
    (finding,) = result.verdict.findings
    each = -(-count // len(operations))
    result.verdict.findings = [
        msgspec.structs.replace(finding, ioba=0x1000 * n, message=f"entry {n}", operation=operations[n // each])
        for n in range(count)
    ]
    result.replay = "tcelab run program.json"
    return result


def test_many_findings_of_one_operation_are_told_in_few_lines_with_one_replay_and_the_first_again(tmp_path):
    lines = printed(many(20, "#84 close", "#90 map"), folder=tmp_path).splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("finding 1"))
    assert len(lines) - begin < 80
    assert [line for line in lines[begin:] if "replay:" in line] == ["replay:    tcelab run program.json"]
    heads = [line for line in lines if line.startswith("finding ")]
    assert heads == [f"finding {n}{'' if n in {1, 11} else ' (same operation)'}" for n in range(1, 21)]
    assert [line for line in lines if "operation: #90" in line] == ["  operation: #90 map"]
    for number in range(20):
        assert f"  table: entry {number}" in lines  # each is named all the same
    again = lines.index("the first finding again")
    assert lines[again + 1] == "  table: entry 0"
    assert lines[again + 5] == "  operation: #84 close"
    assert lines[-1].startswith("FINDING (exit code 1)")
    assert len(lines) - again < 10  # on one screen with the verdict


def test_findings_of_different_operations_keep_theirs():
    lines = printed(many(3, "#1 a", "#2 b", "#3 c")).splitlines()
    told = [line for line in lines if "operation:" in line]
    assert told == ["  operation: #1 a", "  operation: #2 b", "  operation: #3 c"]
    assert "the first finding again" not in lines


def test_no_line_ends_in_blanks():
    assert [line for line in printed(result_of(**dropped())).splitlines() if line != line.rstrip()] == []


def test_the_numbers_in_a_finding_are_explained_once():
    lines = printed(result_of(**dropped())).splitlines()
    assert len([line for line in lines if line.startswith("#N and step N are operation N of program.json")]) == 1
    assert "#N and step N" not in printed(result_of())
