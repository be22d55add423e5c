"""Who sees what is logged: a display as much as it was asked for, log.txt everything, a library's user nothing."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import stand
from ideal import Ideal
from msgspec import structs
from shown import showing
from story import story

from tcelab.job.parallel import ParallelRun
from tcelab.logs import NOTE, PHASE, LogFile, about, logfile, of_guest, screened, verbose
from tcelab.program import Fresh
from tcelab.qemu.portal import portal

LOG = logging.getLogger("tcelab.toy")
TWICE = structs.replace(story(), ops=[*story().ops, Fresh(), *story().ops])


def speak():
    LOG.debug("a step")
    LOG.info("what is done")
    LOG.info("what %s should know", "everybody", extra=NOTE)
    LOG.info("now", extra=PHASE)
    LOG.warning("trouble")


# -- a display


@pytest.mark.parametrize(
    ("times", "more"),
    [(0, []), (1, ["what is done"]), (2, ["a step", "what is done"]), (5, ["a step", "what is done"])],
)
def test_a_display_shows_progress_and_with_v_more_each_line_with_its_logger(times, more):
    with showing() as display:
        verbose(times)
        speak()
    assert display.phases == ["now"]
    progress = ["what everybody should know"] if times else ["what everybody should know", "trouble"]
    assert [line for line in display.notes if "Z " not in line] == progress
    logged = [line.partition(" tcelab.toy: ")[2] for line in display.notes if "Z " in line]
    assert logged == (more and [*more, "trouble"])


def test_how_much_is_shown_ends_with_the_display():
    with showing():
        verbose(2)
    with showing() as display:
        speak()
    assert display.notes == ["what everybody should know", "trouble"]


def test_a_display_within_another_takes_its_place_meanwhile():
    with showing() as outer:
        with showing() as inner:
            LOG.info("within", extra=NOTE)
        LOG.info("after", extra=NOTE)
    assert (inner.lines, outer.lines) == (["within"], ["after"])


def test_a_subject_stands_before_each_line_that_is_about_it_and_phases_can_be_screened():
    with showing() as display:
        with about("guest"):
            LOG.info("downloading", extra=NOTE)
            with about(""):
                LOG.info("apart", extra=NOTE)
        with screened(lambda phase: phase == "first"):
            for phase in ("first", "second"):
                LOG.info(phase, extra=PHASE)
            LOG.info("stays", extra=NOTE)
    assert display.lines == ["guest: downloading", "apart", "first", "stays"]


def test_a_level_that_a_program_has_set_for_us_is_its_own_again():
    logger = logging.getLogger("tcelab")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with showing() as display:
            speak()
        assert (display.phases, logger.level) == (["now"], logging.ERROR)
    finally:
        logger.setLevel(before)


def test_a_program_that_uses_us_as_a_library_sees_nothing_unasked():
    code = "import logging, tcelab; logging.getLogger('tcelab.toy').error('told to nobody')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_programs_own_logging_gets_our_lines(caplog):
    with caplog.at_level(logging.INFO, "tcelab"):
        speak()
    assert [each.message for each in caplog.records] == ["what is done", "what everybody should know", "now", "trouble"]


# -- the command line


@pytest.mark.parametrize(
    ("words", "info", "debug"),
    [
        (("run", "story.json"), False, False),
        (("-v", "run", "story.json"), True, False),
        (("run", "-v", "story.json"), True, False),
        (("run", "story.json", "-vv"), True, True),
        (("-v", "run", "story.json", "--verbose"), True, True),
    ],
)
def test_v_shows_what_modules_do_and_vv_each_step_and_all_else_stays_as_it_is(host, tcelab, words, info, debug):
    done = tcelab(*words, "--out", "out")
    assert (done.code, "PASS" in done.out) == (0, True)
    assert ("INFO    MainThread tcelab.job.job: verdict: pass" in done.err) == info
    assert ("DEBUG   tcelab-part_0 [guest 1] tcelab.run.loop: operations 0 to " in done.err) == debug
    progress = [line for line in done.err.splitlines() if not re.match(r"\d{4}-", line)]
    assert progress[0].startswith("[   0.0 s] story, seed ")
    assert progress[1] == "no forks, each guest is booted: it is a stand"
    assert re.fullmatch(r"\[ *\d+\.\d s\] booting", progress[2])


def test_v_is_taken_after_a_verbs_verb_too(tcelab, monkeypatch, tmp_path):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path))
    assert tcelab("image", "clean", "--bases", "-v").code == 0


# -- log.txt


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\w+) +(\S+)(?: \[([^]]+)\])? (tcelab[\w.]*): (.*)")


def log_lines(folder):
    """(level, thread, guest, logger, text) of each."""
    return [LINE.fullmatch(line).groups() for line in (folder / "log.txt").read_text().splitlines()]


def test_the_log_has_everything_with_thread_and_guest_and_without_a_word_on_the_terminal(tmp_path, capfd):
    with LogFile(tmp_path):
        speak()
        with of_guest("guest 7"):
            other = threading.Thread(target=speak, name="other")
            other.start()
            other.join()
            LOG.debug("mine")

            async def later():
                LOG.debug("on the loop")
                await asyncio.create_task(task())

            async def task():
                LOG.debug("in a task")

            portal().call(later())
    told = [(thread, guest, text) for _, thread, guest, logger, text in log_lines(tmp_path) if logger == "tcelab.toy"]
    everything = ["a step", "what is done", "what everybody should know", "now", "trouble"]
    assert told == [
        *(("MainThread", None, text) for text in everything),
        *(("other", None, text) for text in everything),
        ("MainThread", "guest 7", "mine"),
        ("tcelab-loop", "guest 7", "on the loop"),
        ("tcelab-loop", "guest 7", "in a task"),
    ]
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o600
    assert capfd.readouterr() == ("", "")


def test_the_log_tells_parts_side_by_side_apart(tmp_path):
    with LogFile(tmp_path):
        ParallelRun(TWICE, lambda _part: Ideal(TWICE)).run()
    ran = [
        (guest, thread, text) for _, thread, guest, logger, text in log_lines(tmp_path) if logger == "tcelab.run.loop"
    ]
    length = len(TWICE.ops) // 2
    firsts = {guest: min(int(re.search(r"\d+", text)[0]) for who, _, text in ran if who == guest) for guest, *_ in ran}
    assert firsts == {"guest 1": 0, "guest 2": length + 1}
    assert {thread.rpartition("_")[0] for _, thread, _ in ran} == {"tcelab-part"}


def test_a_line_is_there_at_once_and_so_survives_a_process_that_is_killed(tmp_path):
    with LogFile(tmp_path):
        LOG.debug("seen")
        assert log_lines(tmp_path)[-1][-1] == "seen"


def test_further_lines_are_indented_and_what_cannot_be_printed_is_spelled_out(tmp_path):
    with LogFile(tmp_path):
        LOG.error("first\nsecond \x1b[2J", exc_info=ValueError("x"))
    lines = (tmp_path / "log.txt").read_text().splitlines()[1:]
    assert lines[0].endswith(" tcelab.toy: first")
    assert lines[1:] == [r"    second \x1b[2J", "    ValueError: x"]


def test_one_that_is_opened_within_another_takes_its_lines_meanwhile(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    with LogFile(tmp_path):
        with LogFile(inner):
            LOG.info("inner")
        LOG.info("outer")
    assert [texts[-1][-1] for texts in map(log_lines, (inner, tmp_path))] == ["inner", "outer"]
    assert "inner" not in (tmp_path / "log.txt").read_text()


def test_a_log_that_grows_for_ever_keeps_its_newest_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "KEPT", 1000)
    with LogFile(tmp_path):
        for number in range(100):
            LOG.debug("%03d", number)
    texts = [line[-3:] for name in ("log.txt.1", "log.txt") for line in (tmp_path / name).read_text().splitlines()]
    assert texts[-1] == "099"
    assert texts == sorted(texts)
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 2000


def test_a_run_keeps_its_log_and_names_it(host, tcelab):
    tcelab("run", "story.json", "--out", "out")
    assert json.loads(Path("out/result.json").read_bytes())["artefacts"]["log"] == "log.txt"
    loggers = {logger for *_, logger, _ in log_lines(Path("out"))}
    assert {"tcelab.job.job", "tcelab.job.parallel", "tcelab.run.loop"} <= loggers
    assert "verdict: pass" in log_lines(Path("out"))[-1]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["open", "write"])
@pytest.mark.parametrize("code", [0, 1])
def test_a_log_that_cannot_be_written_changes_no_verdict_and_is_told_after_it(host, tcelab, monkeypatch, call, code):
    host.lies = stand.WRONG if code else {}
    monkeypatch.setattr(logfile, "os", type("Full", (), {**vars(os), call: staticmethod(full)}))
    done = tcelab("run", "story.json", "--out", "out")
    assert done.code == code
    *_, verdict, last = done.out.splitlines()
    assert f"(exit code {code})" in verdict
    assert last == f"could not keep log.txt in {host.home / 'out'}: No space left on device"
    assert not Path("out/log.txt").exists()
    assert "log" not in json.loads(Path("out/result.json").read_bytes())["artefacts"]
    assert "Traceback" not in done.err


def test_what_cannot_be_formatted_is_told_in_the_log_and_raises_nothing(tmp_path):
    toy = logging.getLogger("tcelab.toy")
    toy.propagate, before = False, toy.propagate  # pytest's own handler raises
    with LogFile(tmp_path) as log:
        toy.addHandler(log)
        try:
            toy.debug("%d operations", "many")
        finally:
            toy.removeHandler(log)
            toy.propagate = before
    assert "tcelab.toy, line " in (tmp_path / "log.txt").read_text()
