"""`tcelab watch` and `tcelab table` on a real guest, which is not stopped: entries are seen while they are there."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pexpect
import pytest

from patience import PATIENCE
from tcelab.papr import tce
from tcelab.program import Checkpoint, Ddw, Page, Program
from tcelab.program.topology import topology
from tcelab.qemu.livesample import SessionLooker
from tcelab.scenarios import vocabulary as build

pytestmark = pytest.mark.guest

TWO = topology("two-pe")
LIOBN = 0x80000100
DEVICE = TWO.phbs[0].devices[0].name


def opened(pages):
    pe = build.pes(TWO, "watch")[0]
    return pe, [*build.buffer("b", pages, 1), *build.bind(pe), *build.open_container(pe), *build.enable(pe)]


def live(looker):
    look = looker.look()
    assert look.unseen == ""
    return {view.liobn: len(view.index) for view in look.tables}.get(LIOBN)


def test_entries_are_seen_to_come_and_go(session):
    pe, ops = opened(32)
    looker = SessionLooker(session, TWO)
    session.perform(ops)
    assert live(looker) == 0
    session.perform(build.map_dma(pe, Page("b"), 0, 32, tce.READ))
    assert live(looker) == 32
    session.perform(build.unmap_dma(pe, 0, 20))
    assert live(looker) == 12
    looker.close()


def test_windows_that_are_made_removed_and_made_anew_are_followed(session):
    looker = SessionLooker(session, TWO)
    at = session.guest.log.tables.at[LIOBN]
    made = session.intervene(Ddw(call="create", device=DEVICE, page_shift=16, window_shift=26), ())
    assert made.value == 0
    (second,) = [view for view in looker.look().tables if view.liobn == made.fields["liobn"]]
    assert (second.entries, second.page_shift, second.bus_offset) == (1 << 10, 16, made.fields["start"])
    assert session.intervene(Ddw(call="reset", device=DEVICE), ()).value == 0
    assert made.fields["liobn"] not in {view.liobn for view in looker.look().tables}
    assert live(looker) == 0
    assert session.guest.log.tables.at[LIOBN] != at
    looker.close()


def program(tmp_path, times):
    """Maps 32 pages and unmaps them, for some seconds; four of them are left for the checkpoint."""
    pe, ops = opened(32)
    pair = [*build.map_dma(pe, Page("b"), 0, 32, 3), *build.unmap_dma(pe, 0, 32)]
    first = [*build.vmlck(), *build.pins(), *ops, *build.tag(Page("b"), 32, LIOBN, 0, 1), *build.repeat(pair, times)]
    last = [*build.map_dma(pe, Page("b"), 0, 4, 1), *build.vmlck(), *build.pins(), Checkpoint(stream=True)]
    end = [*build.disable(pe), *build.close(pe.group, pe.container), *build.vmlck(), *build.pins()]
    path = tmp_path / "program.json"
    ops = [*first, *last, *end, Checkpoint(stream=True)]
    path.write_bytes(Program(name="watched", topology=TWO, ops=ops).to_json())
    return path, len(first) + len(last) - 1


def tcelab(*words, home):
    return subprocess.run(
        [sys.executable, "-m", "tcelab", *map(str, words)],
        env={**os.environ, "XDG_STATE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_without_a_terminal_the_tables_are_told_while_the_program_runs(tmp_path):
    path, _ = program(tmp_path, 6000)
    done = tcelab("watch", path, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if "LIOBN 0x80000100: " in line]
    assert lines, done.stderr
    (most,) = re.findall(r"watched in \d+ looks; most entries live at once: .*LIOBN 0x80000100 (\d+)", done.stderr)
    assert int(most) > 4
    assert "PASS" in done.stdout
    assert "\x1b" not in done.stderr + done.stdout


def test_the_tables_in_the_middle_of_a_program_are_dumped_and_compared(tmp_path):
    path, middle = program(tmp_path, 10)
    a, b = tmp_path / "a.json", tmp_path / "b.npz"
    assert tcelab("table", "dump", path, "--after", middle, "-o", a, home=tmp_path).returncode == 0
    assert tcelab("table", "dump", path, "-o", b, home=tmp_path).returncode == 0
    found = {each["liobn"]: each["index"] for each in json.loads(a.read_text())["tables"]}
    assert found[LIOBN] == [0, 1, 2, 3]
    done = tcelab("table", "diff", a, b, home=tmp_path)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"LIOBN 0x80000100 IOBA {each:#x}" for each in (0, 0x1000, 0x2000, 0x3000)
    ]


def test_the_terminal_is_given_back_on_an_interrupt_and_what_was_seen_is_judged(tmp_path):
    path, _ = program(tmp_path, 400_000)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "tcelab", "watch", str(path)],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"},
        encoding="utf-8",
        codec_errors="replace",
        timeout=PATIENCE,
        dimensions=(24, 80),
    )
    try:
        child.expect_exact("\x1b[?1049h")
        child.expect("LIOBN 0x80000100: .*live")
        child.kill(signal.SIGINT)
        child.expect_exact("\x1b[?1049l")
        child.expect("COULD NOT JUDGE")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 125
    finally:
        child.close(force=True)


def test_a_run_in_another_terminal_is_watched_by_its_folder(tmp_path):
    path, _ = program(tmp_path, 400_000)
    folder = tmp_path / "run"
    run = subprocess.Popen(
        [sys.executable, "-m", "tcelab", "run", str(path), "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + PATIENCE
        while not (folder / "qemu.log").exists() or "LIOBN" not in seen(folder, tmp_path, until):
            assert time.monotonic() < until
            time.sleep(0.5)
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(PATIENCE)
    assert run.returncode == 125
    assert tcelab("watch", folder, home=tmp_path).returncode == 2


def seen(folder, home, until):
    """What it says until it has told of a table, and somebody interrupts."""
    watch = subprocess.Popen(
        [sys.executable, "-m", "tcelab", "watch", str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = next((line for line in watch.stderr if "LIOBN" in line), "")
    watch.send_signal(signal.SIGINT)
    said += watch.communicate(timeout=max(1, until - time.monotonic()))[1]
    return said if watch.returncode == 0 and "left; the run goes on" in said else ""
