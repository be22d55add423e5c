"""`tcelab fuzz`: an interrupt ends its guests at once and loses nothing; while it is at work it says at what."""

from __future__ import annotations

import os
import re
import shlex
import signal
import threading
from collections import Counter
from pathlib import Path

import broken_guests
import pytest
from rich.console import Console

from tcelab import commandline
from tcelab.cli import fuzz as verb
from tcelab.emulator import EmulatorSession
from tcelab.errors import HarnessError, UsageError
from tcelab.fuzz import campaign
from tcelab.fuzz.tally import Tally
from tcelab.program import load
from tcelab.quirks import MISALIGNED

WORDS = ("fuzz", "--topology", "one-pe", "--seed", "1", "--out", "o")
BROKEN = ("--kernel", broken_guests.BROKEN)
PATIENCE = 20
"""Seconds after which a guest that nobody ends gives up by itself."""


class Stuck:
    """A guest that presses Ctrl-C at its first request, and then does nothing any more until it is ended."""

    def __init__(self, session):
        self.session = session
        self.ended = threading.Event()
        self.waited = None

    def __getattr__(self, name):
        return getattr(self.session, name)

    def perform(self, _ops):
        os.kill(os.getpid(), signal.SIGINT)
        self.waited = self.ended.wait(PATIENCE)
        raise HarnessError("closed")

    def close(self):
        self.ended.set()


@pytest.fixture
def opened(guests, monkeypatch):
    """All guests that were opened; from number `stuck` on they are stuck."""
    made = []
    made_lock = threading.Lock()
    guests.stuck = 1
    opening = guests.open

    def fresh(self, name, _more):
        with made_lock:
            session = opening(self, None, name=name)
            made.append(Stuck(session) if len(made) >= guests.stuck else session)
            return made[-1]

    monkeypatch.setattr(guests, "fresh", fresh)
    monkeypatch.setattr(campaign.Campaign.__init__, "__kwdefaults__", {**KEYWORDS, "steps": 40})
    return made


KEYWORDS = campaign.Campaign.__init__.__kwdefaults__


def test_an_interrupt_ends_running_guests_and_tells_what_was_done(tcelab, opened):
    done = tcelab(*WORDS)
    assert done.code == 125
    stuck = [each for each in opened if isinstance(each, Stuck)]
    assert stuck
    assert {each.waited for each in stuck if each.waited is not None} == {True}  # by us, not by its own patience
    counts = re.search(r"^seed 1: (\d+) programs?, (\d+) operations", done.out, re.MULTILINE)
    assert int(counts[1]) >= 1
    assert int(counts[2]) >= 40
    assert "could not judge: tcelab: interrupted" in done.out
    assert done.out.splitlines()[-1].startswith("COULD NOT JUDGE (exit code 125)")
    assert "Traceback" not in done.err


def test_an_interrupt_while_a_finding_is_shrunk_keeps_it_as_small_as_it_is(tcelab, opened, guests, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    guests.stuck = 3  # the first that found it, and two tries
    done = tcelab(*WORDS, *BROKEN)
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith("FINDING (exit code 1)")
    assert f"known and not declared: {MISALIGNED}" in done.out
    assert load(Path("o/finding-1.json")).ops
    assert load(Path("o/finding-1.original.json")).ops


def test_a_finding_that_nobody_had_looked_at_when_the_interrupt_came_stands(tcelab, opened, guests, monkeypatch):
    """Its guest ends when the interrupt was pressed, and the main thread ends all others first."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    guests.stuck = 99
    over = threading.Event()

    def press(session):
        os.kill(os.getpid(), signal.SIGINT)
        over.wait(PATIENCE)

    monkeypatch.setattr(EmulatorSession, "close", press)
    monkeypatch.setattr(guests, "close", lambda _: over.set())
    done = tcelab(*WORDS, *BROKEN)
    assert over.is_set()
    assert done.code == 1
    assert "interrupted" in done.out
    words = shlex.split(next(line for line in done.out.splitlines() if "replay:" in line).partition("replay:")[2])
    monkeypatch.setattr(EmulatorSession, "close", lambda _: None)
    assert words[: len(commandline.started())] == commandline.started()
    assert tcelab(*words[len(commandline.started()) :]).code == 1


@pytest.mark.parametrize(
    "error", [HarnessError("no room for a guest"), ZeroDivisionError("ours")], ids=["theirs", "ours"]
)
def test_a_finding_stands_where_no_guest_can_be_had_to_shrink_it(tcelab, opened, guests, monkeypatch, error):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    guests.stuck = 99
    fresh = guests.fresh

    def refuse(self, name, more):
        if opened:
            raise error
        return fresh(self, name, more)

    monkeypatch.setattr(guests, "fresh", refuse)
    done = tcelab(*WORDS, *BROKEN)
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith("FINDING (exit code 1)")
    assert str(error) in done.out
    assert load(Path("o/finding-1.json")).ops


def test_a_finding_stands_where_another_program_gets_no_guest(tcelab, opened, guests, monkeypatch):
    """That one is the first to be looked at."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    guests.stuck = 99
    made = campaign.Campaign._made
    through = threading.Event()

    def refuse(self, number, name, size):
        if number == 0:
            through.wait(PATIENCE)
            raise HarnessError("no room for a guest")
        done = made(self, number, name, size)
        through.set()
        return done

    monkeypatch.setattr(campaign.Campaign, "_made", refuse)
    monkeypatch.setattr(campaign.Campaign.__init__, "__kwdefaults__", {**KEYWORDS, "steps": 150})
    done = tcelab(*WORDS, *BROKEN, "--steps", "300")
    assert "no room for a guest" in done.out
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith("FINDING (exit code 1)")


def test_it_says_what_it_does_when_nothing_was_said_for_long(tcelab, opened, guests, monkeypatch):
    guests.stuck = 99
    monkeypatch.setattr(campaign, "SILENCE", 0)
    monkeypatch.setattr(campaign, "_LISTEN", 0.001)
    monkeypatch.setattr(campaign, "TRIES", 4)
    done = tcelab(*WORDS, *BROKEN, "--steps", "40")
    assert re.search(r"0 programs and 0 operations done, 0 findings; program 0: ", done.err)
    assert re.search(r"program 0: (waits for a guest on one-pe|\d+ of \d+ operations)", done.err)
    assert re.search(r"  shrinking its \d+ operations, on 4 guests at most", done.err)
    assert re.search(r"  shrinking: try 2, of \d+ operations", done.err)


def test_the_first_lines_say_what_is_being_begun(tcelab, opened, guests):
    guests.stuck = 99
    done = tcelab(*WORDS, "--steps", "20")
    assert "seed 1, 20 operations in programs on guests of their own" in done.err.splitlines()[0]


def test_quirks_that_made_no_difference_are_left_out(capsys):
    tally = Tally(quirks=Counter({"silent": 0, "loud": 2}))
    assert verb._tell(Console(width=200), tally, 1, Path("x"), []) == 0
    out = capsys.readouterr().out
    assert "quirk:   loud made a difference 2 times" in out
    assert "silent" not in out


def test_a_time_limit_ends_programs_at_a_checkpoint_and_what_was_done_is_judged(tcelab, opened, guests):
    guests.stuck = 99
    campaign.Campaign.__init__.__kwdefaults__["steps"] = 1500
    done = tcelab(*WORDS, "--steps", "6000", "--minutes", "0.00001")
    assert done.code == 0, done.out + done.err
    programs, operations = re.search(r"^seed 1: (\d+) programs?, ([\d,]+) operations", done.out, re.MULTILINE).groups()
    assert int(programs) >= 1
    assert 18 <= int(operations.replace(",", "")) < 750 * int(programs)  # up to the second checkpoint, of 1,500 each
    assert done.out.splitlines()[-1].startswith("PASS (exit code 0)")
    assert re.search(
        r"tcelab-fuzz_\d \[program 0\] tcelab.fuzz.campaign: \d+ operations on ", Path("o/log.txt").read_text()
    )
    assert re.match(r"\[ +\d+\.\d s\] seed 1, 6,000 operations in programs", done.err)


def test_no_time_at_all_is_wrong_usage(tcelab, opened):
    done = tcelab(*WORDS, "--minutes", "0")
    assert (done.code, opened) == (2, [])
    assert "--minutes" in done.err


def test_a_topology_that_vfio_has_no_rules_for_is_wrong_usage(tcelab, opened):
    done = tcelab(*WORDS, "--topology", "direct-pages")
    assert (done.code, opened) == (2, [])
    assert "topology direct-pages is for the kernel's own drivers" in done.err


@pytest.mark.parametrize(("programs", "code"), [(0, 2), (1, 125)])
def test_an_option_that_no_guest_bears_is_wrong_usage_unless_something_was_run(
    opened, tcelab, monkeypatch, programs, code
):
    def refused(self, _steps, _minutes):
        self.tally.programs = programs
        raise UsageError("--coverage-of nosuch: no unit is called so")

    monkeypatch.setattr(campaign.Campaign, "run", refused)
    done = tcelab(*WORDS)
    assert done.code == code
    assert "--coverage-of nosuch: no unit is called so" in done.out + done.err
