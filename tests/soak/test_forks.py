"""What forks take minutes to show: that a thousand leave no more than a hundred, and what older QEMUs make of them."""

import json
import re
import sys

import pytest

import counted
from calls import Call, tcelab

pytestmark = pytest.mark.guest


def test_a_thousand_forks_leave_no_more_than_a_hundred(tmp_path):
    (tmp_path / "forks").mkdir()
    command = (sys.executable, counted.__file__, str(tmp_path / "forks"), "100", "1000")
    call = Call(command=command, state=tmp_path)
    assert call.end(3600) == 0, call.said
    call.assert_nothing_is_left()
    hundred, thousand, closed = (json.loads(line) for line in call.out.splitlines())
    for each in (hundred, thousand):
        sys.stdout.write(f"{each['forks']} forks: {told(each)}\n")
    assert thousand["notes"] == hundred["notes"]
    assert not [note for note in thousand["notes"] if "fork" in note]
    assert (len(hundred["opening"]), len(thousand["opening"])) == (100, 900)
    assert thousand["rss"] < 1.1 * hundred["rss"]
    for what in ("descriptors", "tasks", "threads", "children", "artefacts", "cache"):
        assert thousand[what] == hundred[what], what
    assert thousand["children"] == closed["children"] == []


def told(each):
    opening, closing = (sorted(each[what]) for what in ("opening", "closing"))
    middle = len(opening) // 2
    return (
        f"RSS {each['rss']} KiB, {len(each['descriptors'])} descriptors, {each['tasks']} tasks;"
        f" to open {opening[middle]:.3f} s (at most {opening[-1]:.3f}), to close {closing[middle]:.3f} s"
        f" (at most {closing[-1]:.3f})"
    )


def test_qemu_7_2_has_no_forks_and_says_so_in_a_line(tmp_path):
    code, call = tcelab("run", "flow", "--qemu", "qemu-7.2", state=tmp_path)
    assert code == 0, call.said
    assert "PASS (exit code 0)" in call.out
    (line,) = [line for line in call.err.splitlines() if "no forks" in line]
    assert re.search(r"no forks, each guest is booted: QEMU 7\.2", line), line
    assert call.err.count("booting under QEMU") == 1
    assert "forking under QEMU" not in call.err


def test_guests_of_qemu_10_0_are_forked(tmp_path):
    for state in ("first", "again"):
        code, call = tcelab("run", "flow", "--qemu", "qemu-10.0", state=tmp_path / state)
        assert code == 0, call.said
        assert "PASS (exit code 0)" in call.out
        assert "no forks" not in call.err
        assert "forking under QEMU 10.0." in call.err
    assert "booting under QEMU" not in call.err
