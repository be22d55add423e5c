"""`tcelab leakcheck`: what it makes of its words, and what it says and leaves of a check."""

import json
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import click
import msgspec
import pytest
from rich.console import Console

from patience import PATIENCE
from tcelab.cli import leakcheck as verb
from tcelab.errors import GuestLost, HarnessError, UsageError
from tcelab.leakcheck.result import Asked, Calls, Finding, Origin, Permissions, Refused, Result, TableAt
from tcelab.report.leakcheck import render

LEAK = Finding(
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
            result.findings.append(Finding(law="kernel", message=self.died_of.message))


@pytest.fixture
def tcelab(monkeypatch, tmp_path, capsys):
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
        monkeypatch.setattr(verb, "Check", kind)
        code = verb.command.main(["--out", str(tmp_path / "out"), *words], standalone_mode=False)
        result = json.loads((tmp_path / "out" / "result.json").read_bytes())
        return code, result, capsys.readouterr().out, kind

    return call


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
    result = Result(tcelab="", verdict="pass", exit_code=0, command=verb.typed(tuple(words)), options={}, status=127)
    result.output = ["# nosuchcmd", said]
    with pytest.raises(UsageError, match="command not found in the guest: nosuchcmd"):
        verb.expect_command(tuple(words), result)


@pytest.mark.parametrize(
    "how",
    [{"status": 1}, {"output": ["sh: other: not found"]}, {"findings": [LEAK]}],
    ids=["status", "another word", "finding"],
)
def test_anything_else_is_no_wrong_usage(how):
    result = Result(tcelab="", verdict="pass", exit_code=0, command="nosuchcmd", options={}, status=127)
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
    assert msgspec.convert(result["findings"][0], Finding) == LEAK
    assert "IOBA 0x9000: 0x0000000000007003 (page 0x7000, read-write) stayed" in out
    assert "H_PUT_TCE_INDIRECT of 4 entries from IOBA 0x8000 on, the entry number 2 of them, 1.250000 s after" in out


def test_what_could_not_be_judged_is_exit_code_125(tcelab):
    code, result, out, _ = tcelab("--", "true", could_not=["the command failed with status 1: nothing is proven"])
    assert (code, result["verdict"]) == (125, "could-not-judge")
    assert "could not judge: the command failed with status 1" in out


def test_a_result_is_no_pass_before_somebody_has_judged(tcelab):
    assert Result(tcelab="", command="").verdict == "could-not-judge"
    assert Result(tcelab="", command="").exit_code == 125
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


def test_json_is_the_result_and_what_the_command_said_is_kept(tcelab, tmp_path):
    _, result, _, _ = tcelab("--json", str(tmp_path / "copy.json"), "--", "true")
    assert json.loads((tmp_path / "copy.json").read_bytes()) == result
    assert (tmp_path / "out" / "command.log").read_text() == "said\n"


def test_the_text_has_tables_and_a_histogram_with_many_sizes_summed_up():
    result = Result(tcelab="", verdict="pass", exit_code=0, command="work", output=["line"], status=0)
    result.asked = [Asked(liobn=0x80000100, direction="TO_DEVICE", mappings=1234)]
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
        render(console, result)
    lines = [line.split() for line in captured.get().splitlines()]
    assert ["|", "0x80000100", "|", "disk1", "|", "2", "|", "3", "|", "0", "|", "0", "|"] in lines
    assert ["|", "0x80000300", "|", "-", "|", "0", "|", "0", "|", "0", "|", "-", "|"] in lines
    assert ["|", "0x80000100", "|", "H_PUT_TCE", "|", "1", "|", "4,321", "|", "0", "|", "0", "|"] in lines
    assert ["|", "0x80000100", "|", "H_STUFF_TCE", "|", "16..31", "|", "0", "|", "160", "|", "0", "|"] in lines
    assert ["|", "0x80000100", "|", "H_STUFF_TCE", "|", "32..63", "|", "0", "|", "10", "|", "0", "|"] in lines
    assert "12 read" in captured.get()
    assert "asked for, LIOBN 0x80000100: 1,234 TO_DEVICE" in captured.get()
    assert "5 entries of the trace, 6 of live memory" in captured.get()
    assert "2 with status -4" in captured.get()


def test_the_help_says_what_a_command_is_that_the_guest_does_not_have():
    said = " ".join(verb.command.help.split())
    assert "2: wrong usage, also a COMMAND that the guest does not have; 125: could not judge" in said
