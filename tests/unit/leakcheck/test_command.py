"""`tcelab leakcheck`: what it makes of its words, and what it says and leaves of a check."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import click
import msgspec
import pytest
from rich.console import Console
from stand_leakcheck import LEAK

from patience import PATIENCE
from tcelab.cli import leakcheck as verb
from tcelab.errors import GuestLost, HarnessError, UsageError
from tcelab.leakcheck.leakresult import (
    LAWS,
    AskedMappings,
    Calls,
    LeakFinding,
    LeakResult,
    Permissions,
    Refused,
    TableAt,
)
from tcelab.report.leakchecktext import render


@pytest.fixture
def tcelab(leakcheck):
    return leakcheck


def test_several_words_are_a_command_with_its_arguments_and_one_is_a_line_for_the_shell():
    assert verb.typed(("echo", "a  b", "$HOME", "it's")) == "echo 'a  b' '$HOME' 'it'\"'\"'s'"
    assert verb.typed(("ping -c 1 10.0.2.2 && dmesg | tail",)) == "ping -c 1 10.0.2.2 && dmesg | tail"


@pytest.mark.parametrize("words", [("",), (" ",)])
def test_an_empty_command_is_wrong_usage(words):
    with pytest.raises(UsageError, match="nothing to run"):
        verb.typed(words)


@pytest.mark.parametrize(
    "said", ["sh: nosuchcmd: not found", "sh: 1: nosuchcmd: not found", "bash: nosuchcmd: command not found"]
)
@pytest.mark.parametrize("words", [["nosuchcmd"], ["nosuchcmd", "x y"], ["nosuchcmd x | cat"]])
def test_a_command_that_the_guest_does_not_have_is_wrong_usage(words, said):
    result = LeakResult(
        tcelab="", verdict="pass", exit_code=0, command=verb.typed(tuple(words)), options={}, status=127
    )
    result.output = ["# nosuchcmd", said]
    with pytest.raises(UsageError, match="command not found in the guest: nosuchcmd"):
        verb.expect_command(tuple(words), result)


@pytest.mark.parametrize(
    "how",
    [{"status": 1}, {"output": ["sh: other: not found"]}, {"findings": [LEAK]}],
    ids=["status", "another word", "finding"],
)
def test_anything_else_is_no_wrong_usage(how):
    result = LeakResult(tcelab="", verdict="pass", exit_code=0, command="nosuchcmd", options={}, status=127)
    result.output = ["sh: nosuchcmd: not found"]
    for name, value in how.items():
        setattr(result, name, value)
    verb.expect_command(("nosuchcmd",), result)


def test_it_is_asked_only_where_a_failure_proves_nothing(tcelab):
    how = {"status": 127, "could_not": ["it failed"]}
    assert tcelab("--any-status", "--", "nosuchcmd", **how)[0] == 125


def test_wrong_usage_is_one_line_and_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "tcelab", "leakcheck", ""],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_words_that_look_like_options_belong_to_the_command_after_two_dashes(tcelab):
    assert tcelab("--timeout", "7", "--", "ls", "--settle", "x")[3].plan.command == "ls --settle x"


def test_no_leak_is_exit_code_0(tcelab, tmp_path):
    code, result, out, _ = tcelab("--", "true")
    assert " tcelab.logs.logfile: tcelab " in (tmp_path / "out" / "log.txt").read_text()
    assert (code, result["verdict"], result["exit_code"]) == (0, "pass", 0)
    assert "PASS: no leak (exit code 0)" in out


def test_a_leak_is_exit_code_1_and_told_with_its_entry_and_its_origin(tcelab):
    code, result, out, _ = tcelab("--", "true", findings=[LEAK], could_not=["the command failed"])
    assert (code, result["verdict"]) == (1, "finding")
    assert msgspec.convert(result["findings"][0], LeakFinding) == LEAK
    assert "IOBA 0x9000: 0x0000000000007003 (page 0x7000, read-write) stayed" in out
    assert "H_PUT_TCE_INDIRECT of 4 entries from IOBA 0x8000 on, the entry number 2 of them, 1.250000 s after" in out


def test_what_could_not_be_judged_is_exit_code_125(tcelab):
    code, result, out, _ = tcelab("--", "true", could_not=["the command failed with status 1: nothing is proven"])
    assert (code, result["verdict"]) == (125, "could-not-judge")
    assert "could not judge: the command failed with status 1" in out


def test_a_result_is_no_pass_before_somebody_has_judged(tcelab):
    assert LeakResult(tcelab="", command="").verdict == "could-not-judge"
    assert LeakResult(tcelab="", command="").exit_code == 125
    code, result, _, _ = tcelab("--", "true", judged=False)
    assert (code, result["verdict"]) == (125, "could-not-judge")


def test_an_error_of_our_own_keeps_its_reason_and_writes_its_result(tcelab):
    code, result, out, _ = tcelab("--", "true", fails=ZeroDivisionError("seven"))
    assert (code, result["verdict"]) == (125, "could-not-judge")
    assert result["could_not"] == ["internal error: ZeroDivisionError('seven')"]
    assert "could not judge: internal error: ZeroDivisionError('seven')" in out


def test_a_finding_stands_whatever_error_of_our_own_comes_after_it(tcelab):
    code, result, _, _ = tcelab("--", "true", fails=ZeroDivisionError("seven"), findings=[LEAK])
    assert (code, result["verdict"]) == (1, "finding")


def test_a_finding_stands_when_somebody_wants_it_to_end(tcelab):
    code, result, _, _ = tcelab("--", "true", fails=KeyboardInterrupt(), findings=[LEAK])
    assert (code, result["verdict"], result["could_not"]) == (1, "finding", ["interrupted"])


def test_who_wants_it_to_end_before_anything_was_found_gets_no_verdict(tcelab):
    with pytest.raises((KeyboardInterrupt, click.Abort)):
        tcelab("--", "true", fails=KeyboardInterrupt())


def test_without_a_command_both_devices_are_driven_hard_and_long_lists_are_expected(tcelab):
    plan = tcelab()[3].plan
    assert (plan.title, plan.expect_entries) == ("the built-in exercise", 512)
    for part in ("max_sectors_kb", "oflag=direct", "iflag=direct", "bs=4194304", "ping"):
        assert part in plan.command


def test_a_guest_that_is_lost_is_125(tcelab):
    code, result, _, _ = tcelab("--", "true", fails=HarnessError("QEMU ended"))
    assert (code, result["could_not"]) == (125, ["QEMU ended"])


def test_a_kernel_that_died_is_a_finding(tcelab):
    code, result, _, _ = tcelab("--", "true", fails=GuestLost("panicked", kernel_died=True))
    assert (code, result["findings"][0]["law"]) == (1, "kernel")


def test_junit_is_as_of_a_run_a_case_for_each_law_and_one_for_the_command(tcelab, tmp_path):
    tcelab("--", "true", findings=[LEAK], could_not=["the command failed"])
    (suite,) = ET.fromstring((tmp_path / "out" / "junit.xml").read_bytes())
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == ["true", *LAWS]
    assert [name for name, case in cases.items() if case.find("failure") is not None] == ["leak"]
    assert "stored by: H_PUT_TCE_INDIRECT of 4 entries" in cases["leak"].find("failure").text
    assert cases["true"].find("error").get("message") == "the command failed"
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("1", "1", "0")


def test_a_law_that_nobody_came_to_judge_is_skipped_in_junit(tcelab, tmp_path):
    tcelab("--", "true", judged=False, could_not=["the command did not end"])
    (suite,) = ET.fromstring((tmp_path / "out" / "junit.xml").read_bytes())
    assert (suite.get("errors"), suite.get("skipped")) == ("1", str(len(LAWS)))


def test_json_is_the_result_and_what_the_command_said_is_kept(tcelab, tmp_path):
    _, result, _, _ = tcelab("--json", str(tmp_path / "copy.json"), "--", "true")
    assert json.loads((tmp_path / "copy.json").read_bytes()) == result
    assert (tmp_path / "out" / "command.log").read_text() == "said\n"


def test_the_text_has_tables_and_a_histogram_with_many_sizes_summed_up():
    result = LeakResult(tcelab="", verdict="pass", exit_code=0, command="work", output=["line"], status=0)
    result.asked = [AskedMappings(liobn=0x80000100, direction="TO_DEVICE", mappings=1234)]
    result.views = {"stream": 3, "replay": 3, "asked stored": 5, "asked live": 6}
    result.tables = [
        TableAt(liobn=0x80000100, device="disk1", baseline=2, after=3),
        TableAt(liobn=0x80000300, device=""),
    ]
    result.calls = [
        Calls(phase="command", liobn=0x80000100, hypercall="H_STUFF_TCE", entries=size, calls=10)
        for size in range(1, 33)
    ]
    result.calls += [Calls(phase="bind", liobn=0x80000100, hypercall="H_PUT_TCE", entries=1, calls=4321)]
    result.permissions = [Permissions(phase="command", liobn=0x80000100, permissions="read", tces=12)]
    result.refused = [Refused(phase="command", liobn=0x80000100, status=-4, calls=2)]
    console = Console(width=120)
    with console.capture() as captured:
        render(console, result, result.conclude())
    lines = [line.split() for line in captured.get().splitlines()]
    assert ["|", "0x80000100", "|", "disk1", "|", "2", "|", "3", "|", "0", "|", "0", "|"] in lines
    assert ["|", "0x80000300", "|", "-", "|", "0", "|", "0", "|", "0", "|", "-", "|"] in lines
    assert ["|", "0x80000100", "|", "H_PUT_TCE", "|", "1", "|", "4,321", "|", "0", "|", "0", "|"] in lines
    assert ["|", "0x80000100", "|", "H_STUFF_TCE", "|", "16..31", "|", "0", "|", "160", "|", "0", "|"] in lines
    assert ["|", "0x80000100", "|", "H_STUFF_TCE", "|", "32..63", "|", "0", "|", "10", "|", "0", "|"] in lines
    assert "12 read" in captured.get()
    assert "requested, LIOBN 0x80000100: 1,234 TO_DEVICE" in captured.get()
    assert "5 entries of the trace, 6 of live memory" in captured.get()
    assert "2 with status -4" in captured.get()


def test_the_help_says_what_a_command_is_that_the_guest_does_not_have():
    said = " ".join(verb.command.help.split())
    assert "2 wrong usage, or the guest does not have COMMAND; 125 could not judge" in said
