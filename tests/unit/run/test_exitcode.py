"""The exit codes, and that one module decides on them."""

import ast
import re
from pathlib import Path

import pytest

import tcelab
from tcelab.errors import GuestLost, HarnessError, Interrupted, Unsupported, UsageError
from tcelab.run import exitcode

HOST = Path(tcelab.__file__).parent


@pytest.mark.parametrize(
    ("found", "undecided", "word", "code"),
    [
        ([], [], "pass", 0),
        (["wrong"], [], "finding", 1),
        ([], ["no view"], "could-not-judge", 125),
        (["wrong"], ["no view"], "finding", 1),
    ],
)
def test_a_finding_beats_what_could_not_be_judged_and_that_beats_a_pass(found, undecided, word, code):
    assert exitcode.result(found=found, undecided=undecided) == word
    assert exitcode.of_result(word) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no such file"), 2),
        (Unsupported("no edu"), 125),
        (HarnessError("QEMU ended"), 125),
        (Interrupted(), 125),
        (GuestLost("no agent"), 125),
        (KeyboardInterrupt(), 125),
        (ZeroDivisionError(), 125),
    ],
)
def test_only_wrong_usage_is_the_users_fault(error, code):
    assert exitcode.of_error(error) == code


def test_what_nobody_was_told_is_no_pass_and_a_finding_stays_one():
    assert [exitcode.of_untold(code) for code in (0, 1, 2, 125)] == [125, 1, 2, 125]


def holding_it(folder):
    """Files in whose text the number is, however it is spelled; most are not worth to be parsed."""
    number = exitcode.COULD_NOT_JUDGE
    spelled = re.compile(f"{number}|0x0*{number:x}|0o0*{number:o}|0b0*{number:b}")
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        if spelled.search(text.replace("_", "").lower()):
            yield path, ast.parse(text)


def test_no_other_module_knows_the_number_125():
    knows = [
        str(path.relative_to(HOST))
        for path, tree in holding_it(HOST)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value == exitcode.COULD_NOT_JUDGE
    ]
    assert knows == ["run/exitcode.py"]
