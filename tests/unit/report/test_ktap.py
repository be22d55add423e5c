"""KTAP has the test cases of junit.xml, in a form that the kernel's own readers take."""

import shutil
import subprocess
from functools import cache
from xml.etree import ElementTree as ET

import msgspec
import pytest
from ideal import Ideal
from ktapreader import read
from rich.console import Console
from story import after, nth, story

from tcelab import report
from tcelab.cli import cli
from tcelab.cli import run as verb
from tcelab.errors import HarnessError, UsageError
from tcelab.job.parallel import ParallelRun
from tcelab.leakcheck.leakresult import LeakFinding, LeakResult
from tcelab.program.topology import topology
from tcelab.report import ktap
from tcelab.report.isolationlog import Isolations
from tcelab.report.junit import junit, junit_of_leak_check
from tcelab.report.ktap import ktap_of_leak_check


def result_of(**lies):
    program = story()
    return report.make(*ParallelRun(program, lambda _: Ideal(program, **lies)).run())


def dropped():
    return after(nth("MAP_DMA"), lambda s: s.pes["pe1"].table.pop(0x12))


def isolating():
    result = result_of(**dropped())
    result.isolations = [
        Isolations(kind="right", tried=1, done=1, expected=2, isolated=2),
        Isolations(kind="wrong", tried=2, done=2, expected=2, isolated=1, findings=1),
        Isolations(kind="unfinished", tried=2, done=1, expected=2, isolated=1),
    ]
    return result


def several(*names):
    """The joint result of a run on each topology; of those in capitals, none began."""
    programs = [msgspec.structs.replace(story(), topology=topology(name.lower())) for name in names]
    runs = {}
    for program in programs:
        if program.topology.name in names:
            runs[program.topology.name] = report.make(*ParallelRun(story(), lambda _: Ideal(story())).run())
            runs[program.topology.name].program.topology = program.topology.name
    return report.merge(runs, programs, {})


RESULTS = {
    "pass": result_of,
    "finding": lambda: result_of(**dropped()),
    "could not": lambda: result_of(cannot={"stream": "no"}),
    "isolations": isolating,
    "never began": lambda: report.failed(HarnessError("no QEMU", next_step="look # there"), story()),
    "no program": lambda: report.failed(HarnessError("no QEMU")),
    "several": lambda: several("two-pe", "one-pe"),
    "not all": lambda: several("two-pe", "ONE-PE", "THREE-PE"),
}
RESULTS = {name: cache(make) for name, make in RESULTS.items()}
"""For reading alone."""


def of_junit(document):
    """(suite, group, case) to its word."""
    words = {"failure": "finding", "error": "could-not-judge", "skipped": "never-judged", None: "pass"}
    for suite in ET.fromstring(document).findall("testsuite"):
        for case in suite.findall("testcase"):
            child = next((each.tag for each in case), None)
            name = "" if case.get("classname") == "tcelab.run" else case.get("name")
            yield (suite.get("name"), case.get("classname").removeprefix("tcelab."), name), words[child]


def of_ktap(document):
    for suite in read(document).subtests:
        for group in suite.subtests:
            for case in group.subtests or [group]:
                name = "" if case is group else case.name
                words = {(True, ""): "pass", (True, "SKIP"): "never-judged", (False, ""): "finding"}
                yield (suite.name, group.name, name), words.get((case.ok, case.directive), "could-not-judge")


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_ktap_and_junit_have_the_same_cases_with_the_same_words(make):
    result = make()
    words = dict(of_ktap(ktap(result)))
    assert words == dict(of_junit(junit(result)))
    assert len(words) >= 16


def test_a_run_passes_only_as_a_whole_and_a_law_that_never_applied_is_skipped():
    (run,) = read(ktap(result_of())).subtests
    assert (run.name, run.ok) == ("tcelab story", True)
    assert [each.name for each in run.subtests] == ["run", "law", "batch"]
    (disk,) = [each for each in run["law"].subtests if each.name == "disk"]
    assert (disk.ok, disk.directive, disk.reason[:14]) == (True, "SKIP", "never judged: ")
    (run,) = read(ktap(result_of(**dropped()))).subtests
    table = run["law"]["table"]
    assert (run.ok, run["run"].ok, run["law"].ok, table.ok, run["law"]["views"].ok) == (
        False,
        False,
        False,
        False,
        True,
    )
    assert any("IOBA 0x12000" in line for line in table.told)


def test_what_could_not_be_judged_is_not_ok_and_tells_why_and_the_rest_is_still_told():
    (run,) = read(ktap(result_of(cannot={"stream": "no"}))).subtests
    assert (run.ok, run["run"].ok, run["run"].directive) == (False, False, "ERROR")
    assert run["run"].reason.startswith("could not judge: the stream view is missing")
    assert run["law"]["table"].ok
    (run,) = read(ktap(RESULTS["never began"]())).subtests
    assert (run["run"].reason, run["law"].directive) == ("could not judge: no QEMU", "SKIP")
    assert "  next step: look # there" in run["run"].told


def test_it_bails_out_only_where_a_planned_run_never_began():
    assert [read(ktap(make())).reason for make in RESULTS.values()] == [""] * 7 + ["not run: one-pe, three-pe"]
    assert ktap(RESULTS["not all"]()).startswith(b"KTAP version 1\n1..3\n  KTAP version 1\n")


def test_what_a_console_can_say_makes_no_line_of_its_own():
    def noise(session):
        session.console.append("WARNING: \x1b[31m\x00\u2028 at x.c\rok 1 #")

    (run,) = read(ktap(result_of(**after(nth("MAP_DMA"), noise)))).subtests
    assert any("WARNING: ?[31m?" in line for line in run["law"]["kernel"].told)
    result = result_of()
    result.program.name = "a # SKIP\nok 1"
    assert read(ktap(result)).subtests[0].name == "tcelab a  SKIP?ok 1"


@pytest.mark.parametrize("findings", [[], [LeakFinding(law="leak", message="an entry stayed")]], ids=["pass", "leak"])
def test_a_leak_check_has_its_cases_too(findings):
    result = LeakResult(tcelab="1", command="true\nmore", findings=findings, judged=True)
    verdict = result.conclude()
    document = ktap_of_leak_check(result, verdict)
    assert dict(of_ktap(document)) == dict(of_junit(junit_of_leak_check(result, verdict)))
    (run,) = read(document).subtests
    assert (run.name, run.ok) == ("tcelab leakcheck", not findings)


@pytest.mark.skipif(shutil.which("prove") is None, reason="needs perl's prove")
@pytest.mark.parametrize("name", ["pass", "could not", "not all"])
def test_prove_agrees(name, tmp_path):
    result = RESULTS[name]()
    (tmp_path / "run.tap").write_bytes(ktap(result))
    done = subprocess.run(["prove", "-e", "cat", tmp_path / "run.tap"], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (result.verdict.result == "pass"), done.stdout + done.stderr
    # It counts what came before the end, too.
    assert ("Parse errors" in done.stdout) == ("Bailout called" in done.stdout) == (name == "not all")


# The option


@pytest.fixture
def judged(monkeypatch):
    """`tcelab run`, whose run is over: its exit code for arguments."""
    result = RESULTS["finding"]()

    class Done:
        def __init__(self, program, options, out, text):
            self.result, self.text = None, text

        def perform(self, *, keep):
            self.result = result
            self.text.print("the text")

    monkeypatch.setattr(verb, "Job", Done)
    monkeypatch.setattr(verb, "Console", lambda *, stderr: Console(stderr=stderr))
    return lambda *words: cli.main(["run", "flow", "--seed", "1", *map(str, words)], standalone_mode=False)


def test_the_verb_writes_ktap_to_a_file_or_to_standard_output(judged, tmp_path, capsys):
    assert judged("--tap", tmp_path / "run.tap") == 1
    assert capsys.readouterr().out == "the text\n"
    assert not read((tmp_path / "run.tap").read_bytes()).subtests[0].ok
    assert judged("--tap", "-", "--json", tmp_path / "result.json") == 1
    told = capsys.readouterr()
    assert (told.out.encode(), told.err) == ((tmp_path / "run.tap").read_bytes(), "the text\n")
    assert report.load((tmp_path / "result.json").read_bytes())


def test_two_files_in_one_place_are_wrong_usage_before_anything_runs(judged, tmp_path):
    for place in ("-", tmp_path / "x"):
        with pytest.raises(UsageError, match="--json and --tap name the same file"):
            judged("--tap", place, "--json", place)
    with pytest.raises(UsageError, match=r"--tap .* there is no folder"):
        judged("--tap", tmp_path / "no/x")


def test_ktap_that_cannot_be_delivered_takes_a_finding_nothing_and_a_pass_its_word(
    judged, monkeypatch, tmp_path, capsys
):
    (tmp_path / "full").symlink_to("/dev/full")
    assert judged("--tap", tmp_path / "full") == 1
    assert "cannot write" in capsys.readouterr().err
