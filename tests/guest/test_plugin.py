"""The pytest plugin on real guests, in pytest runs of their own: the examples pass, and a failure explains itself."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from calls import Call, tcelab
from tcelab import image

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples/test_window.py"

FAILS = """
import os
import signal

from tcelab.program import Flip


def test_table(pseries, container, tce_table):
    buffer = pseries.buffer(pages=8)
    container.map(buffer, iova=0x10000, pages=4)
    assert tce_table() == {0x10000 + i * 4096: buffer.tce(i + 1) for i in range(4)}


def test_flip(pseries, pe, container):
    container.map(pseries.buffer(pages=4), iova=0x10000, pages=4)
    pseries.perform(Flip(liobn=pe.liobn, ioba=0x12000, bit=0))


def test_errno(pseries, pe, container):
    container.map(pseries.buffer(pages=1), iova=pe.window_size, expect="EINVAL")


def test_lost(pseries, container):
    os.kill(pseries.session.guest.pid, signal.SIGKILL)
    container.map(pseries.buffer(pages=1), iova=0)
"""

NEEDS = """
import pytest


@pytest.mark.tcelab(needs="fork")
def test_it(pseries):
    pass
"""


def run_pytest(folder, *arguments):
    """Its exit code, and what it said."""
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder}/base",
        f"--rootdir={ROOT}",
    )
    call = Call(*arguments, command=(*command, "-c", f"{ROOT}/pyproject.toml"), state=folder)
    code = call.end()
    call.assert_nothing_is_left()
    return code, call.said


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["one after the other", "side by side"])
def test_the_examples_pass(tmp_path, how):
    code, said = run_pytest(tmp_path, EXAMPLES, *how)
    assert code == 0, said
    assert "5 passed in " in said


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """What pytest says of each test of a file in which all fail, by section: `failed[test][section]`."""
    folder = tmp_path_factory.mktemp("failed")
    path = folder / "test_fails.py"
    path.write_text(FAILS)
    code, said = run_pytest(folder, path)
    assert code == 1, said
    assert "4 failed in " in said
    failures = said.partition("= FAILURES =")[2].partition("short test summary info")[0]
    _, *parts = re.split(r"^_+ (\w+) _+$", failures, flags=re.MULTILINE)
    out = {}
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        first, *sections = re.split(r"^-+ tcelab ([\w ]+) -+$", text, flags=re.MULTILINE)
        out[name] = {"": first} | dict(zip(sections[::2], sections[1::2], strict=True))
    return out


def replay(told):
    """The command of a report, in words."""
    return shlex.split(told["replay"].strip().splitlines()[0])


@pytest.mark.parametrize("name", ["test_table", "test_flip", "test_errno", "test_lost"])
def test_a_report_of_a_failure_leads_to_its_program_and_shows_the_console(failed, name):
    told = failed[name]
    path, *_ = told["program"].split()
    assert replay(told)[-2:] == ["run", path]
    assert Path(path).is_file()
    assert '"op":"ioctl"' in told["program"]
    assert "tcelab# " in told["console"]


def test_a_table_that_is_not_as_a_test_expects_is_told_by_runs_of_entries(failed):
    told = failed["test_table"][""]
    assert re.search(
        r"<table of LIOBN 0x80000100: 4 of 262144 entries live> is not as expected:\n"
        r"E +IOBA 0x10000\.\.0x13fff, 4 entries, each leads to another page; first expected ",
        told,
    ), told
    assert "as the operations must have left it" in failed["test_table"]["tables"]
    assert "findings" not in failed["test_table"]


def test_a_flipped_bit_fails_a_test_that_does_not_look_for_it_and_is_found_again_by_the_replay(failed, tmp_path):
    told = failed["test_flip"]
    assert "tcelab: 2 findings in what the test did" in told[""]  # by the laws, and by the emulator
    assert "IOBA 0x12000" in told["findings"]
    assert re.search(r"IOBA 0x12000 has the permissions write instead of read-write: ", told["tables"]), told["tables"]
    code, call = tcelab(*replay(told)[1:], state=tmp_path)
    assert code == 1, call.said
    assert "FINDING (exit code 1)" in call.out
    assert "IOBA 0x12000" in call.out


def test_an_outcome_that_a_test_does_not_expect_names_the_operation(failed):
    told = failed["test_errno"]
    assert re.search(r"operation \d+ gave ENXIO, not EINVAL: \{.*MAP_DMA", told[""]), told[""]
    assert "findings" in told


def test_a_lost_guest_is_told_with_its_last_words(failed):
    told = failed["test_lost"]
    assert "QEMU was killed by SIGKILL" in told[""]
    assert "phase: " in told["guest"]


@pytest.mark.night  # that QEMU is fetched for it alone
def test_a_test_whose_needs_an_old_qemu_cannot_fulfil_is_skipped_with_the_reason(tmp_path):
    image.ensure_qemu("qemu-7.2")
    path = tmp_path / "test_needs.py"
    path.write_text(NEEDS)
    code, said = run_pytest(tmp_path, path, "--tcelab-qemu", "qemu-7.2")
    assert code == 0, said
    assert "1 skipped in " in said
    assert re.search(r"SKIPPED .*: QEMU 7\.2.* cannot do what the test needs: fork", said), said
