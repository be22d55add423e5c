"""What a watcher of tables shows: never more than it saw, and never nothing without a word."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tableviews import LIOBN, view

from tcelab.errors import Unsupported, UsageError
from tcelab.papr import window
from tcelab.program import Close, Program
from tcelab.program.topology import topology
from tcelab.qemu import livesample
from tcelab.qemu.livesample import FolderLooker, LiveSample
from tcelab.report import livedisplay as watch
from tcelab.report.tableview import ASCII, SHADES, Watching, cells, changes, permissions
from tcelab.run.record import Outcome, Step

TWO = topology("two-pe")
REFUSED = "Invalid write at addr 0x8000, size 8, region '(null)', reason: rejected"

entries = st.dictionaries(st.integers(0, 63), st.integers(1, 5), max_size=20)


def seen(*tables, at=0.0, refused=0, unseen=""):
    return LiveSample(at, tables, (REFUSED,) * min(refused, 8), refused, unseen)


def watched(*looks):
    watching = Watching()
    for look in looks:
        watching.add(look)
    return watching


# -- what comes and goes


@given(entries, entries)
def test_maps_less_unmaps_is_what_there_is_more(before, after):
    mapped, unmapped = changes(view(64, before), view(64, after))
    assert mapped - unmapped == len(after) - len(before)
    gone = {n for n in before if before[n] != after.get(n)}
    come = {n for n in after if after[n] != before.get(n)}
    assert (mapped, unmapped) == (len(come), len(gone))


def test_rates_are_of_the_last_second():
    looks = [seen(view(64, dict.fromkeys(range(n), 3)), at=at) for at, n in ((0, 0), (0.5, 10), (1, 10), (1.5, 4))]
    assert watched(*looks[:2]).rate(LIOBN) == (20, 0)
    assert watched(*looks[:3]).rate(LIOBN) == (10, 0)
    assert watched(*looks).rate(LIOBN) == (0, 6)
    assert watched(looks[0]).rate(LIOBN) == watched(looks[0]).rate(7) == (0, 0)


def test_a_window_that_was_made_anew_has_unmapped_nothing():
    full = view(64, dict.fromkeys(range(64), 3))
    for other in (view(32), view(64, shift=16), view(64, offset=1 << 59)):
        assert watched(seen(full), seen(other, at=0.5)).rate(LIOBN) == (0, 0)
    assert watched(seen(full), seen(view(64), at=0.5)).rate(LIOBN) == (0, 128)
    assert watched(seen(full), seen(view(64), at=0.5), seen(view(32), at=0.6)).rate(LIOBN) == (0, 0)


def test_a_table_that_is_gone_for_a_look_is_compared_with_its_last_one():
    one = view(64, {1: 3})
    assert watched(seen(one), seen(at=0.5), seen(view(64, {1: 3, 2: 3}), at=1.0)).rate(LIOBN) == (1, 0)


def test_permissions_are_counted():
    live = {0: 0x1001, 1: 0x1001, 2: 0x2002, 3: 0x3003, 4: 0x4000}
    assert permissions(view(64, live)) == {"R": 2, "W": 1, "RW": 1, "none": 1}


# -- the heat map


@given(st.integers(1, 1 << 18), st.integers(1, 400), st.data())
def test_a_cell_is_empty_only_if_all_its_entries_are_and_full_only_if_none_is(count, most, data):
    live = data.draw(st.sets(st.integers(0, count - 1), max_size=30))
    size, levels = cells(view(count, dict.fromkeys(live, 3)), most)
    assert len(levels) == -(-count // size) <= most
    for number, level in enumerate(levels.tolist()):
        inside = range(number * size, min(count, (number + 1) * size))
        here = len(live & set(inside)) if len(inside) < 1000 else sum(each in inside for each in live)
        assert (level == 0) == (here == 0)
        assert (level == len(SHADES) - 1) == (here == len(inside))


def test_a_cell_grows_darker_by_thirds():
    shown = [cells(view(16, dict.fromkeys(range(n), 3)), 1)[1][0] for n in (0, 1, 5, 6, 10, 11, 15, 16)]
    assert shown == [0, 1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60), (40, 10), (20, 3)])
@pytest.mark.parametrize("tables", [0, 1, 4, 9])
def test_a_screen_fits_its_terminal(width, height, tables):
    shown = tuple(view(1 << 18, {1: 3, 9000: 3}, liobn=LIOBN + 256 * n) for n in range(tables))
    watching = watched(seen(*shown, refused=20, unseen="" if tables else "QEMU is mute"))
    lines = watching.screen(width, height, ["head"]).plain.split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_where_not_all_tables_fit_those_that_hold_most_are_seen():
    tables = [view(1 << 18, dict.fromkeys(range(n), 0x1003), liobn=LIOBN + 256 * n) for n in (0, 1, 9, 4)]
    plain = watched(seen(*tables)).screen(40, 10, ["head"]).plain
    assert f"LIOBN {LIOBN + 256 * 9:#x}: 9 live" in plain
    assert f"LIOBN {LIOBN:#x}: 0 live" not in plain
    lines = watched(seen(*tables)).screen(80, 10, ["head"]).plain.split("\n")
    assert any(line.startswith("and 2 more tables, 1 live") for line in lines)
    shown = [line.split(":")[0] for line in lines if line.startswith("LIOBN")]
    assert shown == [f"LIOBN {LIOBN + 256 * n:#x}" for n in (9, 4)]  # in their order


def test_at_80_by_24_four_tables_and_the_last_violation_are_seen():
    tables = tuple(view(1 << 18, dict.fromkeys(range(100), 0x1003), liobn=LIOBN + 256 * n) for n in range(4))
    plain = watched(seen(*tables, refused=2)).screen(80, 24, ["head"]).plain
    for n in range(4):
        assert f"LIOBN {LIOBN + 256 * n:#x}: 100 live (R 0, W 0, RW 100), +0/s -0/s" in plain
    assert "2 violations, the last:" in plain
    assert REFUSED[:70] in plain
    assert plain.count("░") == 4


def test_tables_for_which_there_is_no_room_are_told():
    tables = tuple(view(1 << 18, liobn=LIOBN + 256 * n) for n in range(9))
    assert "and 3 more tables" in watched(seen(*tables)).screen(80, 20, ["head"]).plain


def test_a_terminal_without_shades_gets_letters():
    text = watched(seen(view(64, {0: 3}))).screen(80, 24, [], ASCII).plain
    assert text.isascii()
    assert "  #" not in text
    assert "  @...." in text


# -- nothing is not shown silently


def test_a_watcher_that_sees_no_table_says_why():
    watching = watched(seen(unseen="QEMU has no such trace"))
    assert "QEMU has no such trace" in watching.line()
    assert "QEMU has no such trace" in watching.screen(80, 24, ["head"]).plain
    assert watching.summary() == "the watcher saw no table in 1 looks: QEMU has no such trace"
    assert "the watcher saw no table in 0 looks" in Watching().summary()


def test_looks_that_saw_nothing_are_counted_in_the_summary():
    summary = watched(seen(view(64, {1: 3})), seen(unseen="it moved", at=1), seen(view(64), at=2)).summary()
    assert "in 3 looks; in 1 of them no table was seen; most entries live at once: LIOBN 0x80000100 1" in summary


class Played:
    """A guest that shows what it is told to, then ends."""

    def __init__(self, *looks):
        self.looks, self.closed = list(looks), 0

    def look(self):
        look = self.looks.pop(0) if self.looks else None
        if isinstance(look, Exception):
            raise look
        return look

    def close(self):
        self.closed += 1


@pytest.fixture
def quick(monkeypatch):
    for module in (watch, importlib.import_module("tcelab.cli.watch")):
        monkeypatch.setattr(module, "EVERY", 0.01)
    monkeypatch.setattr(watch, "_PLAIN", 0.0)


def shown_by(played, *, terminal=False):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, height=24, _environ={"TERM": "xterm"})
    watcher = watch.LiveDisplay(console, TWO)
    with watcher:
        watcher.take(played)
        end = time.monotonic() + 5
        while not watcher.ended and time.monotonic() < end:
            time.sleep(0.01)
    return watcher, out.getvalue()


def test_without_a_terminal_there_are_plain_lines(quick):
    played = Played(*(seen(view(64, dict.fromkeys(range(n), 0x3)), at=n) for n in range(6)))
    _, out = shown_by(played)
    assert "LIOBN 0x80000100: 3 live (R 0, W 0, RW 3), +1/s -0/s; 0 refused accesses" in out
    assert "\x1b" not in out
    assert out.splitlines()[-1].startswith("watched in 6 looks; most entries live at once: LIOBN 0x80000100 5")
    assert played.closed == 1


def test_a_terminal_is_left_as_it_was_found_whatever_happens(quick):
    for last in (None, ZeroDivisionError("by nothing")):
        _, out = shown_by(Played(*(seen(view(64, {1: 3}), at=n) for n in range(4)), last), terminal=True)
        assert out.index("\x1b[?1049h") < out.index("LIOBN 0x80000100") < out.index("\x1b[?1049l")
        assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
    assert "the watcher failed: ZeroDivisionError('by nothing')" in out.rpartition("\x1b[?1049l")[2]


def test_an_interrupt_gives_the_terminal_back(quick):
    out = io.StringIO()
    watcher = watch.LiveDisplay(Console(file=out, force_terminal=True, _environ={"TERM": "xterm"}), TWO)
    with pytest.raises(KeyboardInterrupt), watcher:
        raise KeyboardInterrupt
    assert out.getvalue().count("\x1b[?1049h") == out.getvalue().count("\x1b[?1049l") == 1


def test_a_guest_that_cannot_be_watched_does_not_disturb_its_run(tcelab, host):
    done = tcelab("watch", "story.json")
    assert done.code == 0
    assert "PASS" in done.out
    assert "the tables of this guest cannot be watched: only a guest under QEMU" in done.err
    assert "the watcher saw no table in 0 looks" in done.err


def test_each_guest_of_a_run_is_shown_and_the_run_judged(tcelab, host, monkeypatch, quick):
    played = []

    def of(_guest, given):
        played.append(Played(*(seen(view(64, {1: 3}), at=n) for n in range(100))))
        assert given.name == "small"
        return played[-1]

    monkeypatch.setattr(watch, "looker", of)
    done = tcelab("watch", "story.json")
    assert done.code == 0
    assert (len(played), played[0].closed) == (1, 1)
    assert "most entries live at once: LIOBN 0x80000100 1" in done.err
    assert (next(host.runs.iterdir()) / "result.json").exists()


# -- the run in another terminal


def run_folder(tmp_path, lines=()):
    (tmp_path / "program.json").write_bytes(Program(name="p", topology=TWO, ops=[]).to_json())
    (tmp_path / "qemu.log").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


@pytest.fixture
def held(monkeypatch):
    """A table in our own memory, in the place of QEMU's."""
    monkeypatch.setattr(livesample, "_qemu_of", lambda _folder: os.getpid())
    words = np.zeros(window.DEFAULT_WINDOW_SIZE >> 12, np.uint64)
    words[5] = 0x5003
    return words


@pytest.fixture
def at_folder():
    """Look by a run's folder; closed in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda folder: stack.enter_context(contextlib.closing(FolderLooker(folder)))


def new_table(liobn, words):
    at = "(nil)" if words is None else hex(words.ctypes.data)
    return f"spapr_iommu_new_table liobn=0x{liobn:x} table={at} fd=-1"


def test_the_tables_of_another_terminals_run_are_found_by_its_log(tmp_path, at_folder, held):
    looker = at_folder(run_folder(tmp_path, [new_table(LIOBN, held), REFUSED]))
    look = looker.look()
    assert [(each.liobn, each.index.tolist()) for each in look.tables] == [(LIOBN, [5])]
    assert (look.refused, look.violations, look.unseen) == (1, (REFUSED,), "")


def test_a_table_that_moves_is_followed(tmp_path, at_folder, held):
    looker = at_folder(run_folder(tmp_path, [new_table(LIOBN, held)]))
    looker.look()
    other = np.zeros_like(held)
    other[7] = 0x7003
    with (tmp_path / "qemu.log").open("a") as log:
        log.write(new_table(LIOBN, None) + "\n" + new_table(LIOBN, other))
        log.flush()
        assert looker.look().tables == ()  # the line is not whole: where the table is, is not known
        log.write("\n")
    assert looker.look().tables[0].index.tolist() == [7]


def test_of_a_table_that_moves_while_it_is_read_nothing_is_told(tmp_path, at_folder, held, monkeypatch):
    looker = at_folder(run_folder(tmp_path, [new_table(LIOBN, held)]))
    other = np.zeros_like(held)
    read = livesample.LiveMemory.table

    def moving(*arguments):
        with (tmp_path / "qemu.log").open("a") as log:
            log.write(new_table(LIOBN, other) + "\n")
        return read(*arguments)

    monkeypatch.setattr(livesample.LiveMemory, "table", moving)
    assert looker.look().tables == ()


def test_where_no_table_is_to_be_seen_the_reason_is_told(tmp_path, at_folder, held):
    looker = at_folder(run_folder(tmp_path))
    assert looker.look().unseen == "QEMU's trace has told of no table yet"
    gone = at_folder(run_folder(tmp_path, [f"spapr_iommu_new_table liobn=0x{LIOBN:x} table=0x10 fd=-1"]))
    assert gone.look().unseen == "no table could be read where QEMU's trace told it to be"


def test_a_run_that_has_ended_has_nothing_to_look_at(tmp_path, at_folder, held, monkeypatch):
    looker = at_folder(run_folder(tmp_path))
    monkeypatch.setattr(livesample, "_lives", lambda _pid: False)
    assert looker.look() is None


def test_folders_without_a_run_are_wrong_usage(tmp_path, tcelab):
    with pytest.raises(UsageError, match=r"no program\.json"):
        FolderLooker(tmp_path)
    with pytest.raises(UsageError, match=r"no guest of .* is running"):
        FolderLooker(run_folder(tmp_path))
    done = tcelab("watch", tmp_path)
    assert (done.code, done.err.count("\n") <= 2) == (2, True)
    assert tcelab("watch", tmp_path, "--seed", "3").code == 2


def test_a_process_that_may_not_be_read_is_told_with_what_helps(tmp_path, held, monkeypatch):
    def closed(_pid):
        raise Unsupported("cannot open the memory of QEMU")

    monkeypatch.setattr(livesample, "LiveMemory", closed)
    with pytest.raises(Unsupported, match="not our child") as caught:
        FolderLooker(run_folder(tmp_path))
    assert "ptrace_scope" in caught.value.next_step


def test_following_a_run_ends_with_it_and_blindness_is_125(quick, tmp_path, tcelab, monkeypatch, held):
    monkeypatch.setattr(livesample, "_lives", lambda _pid: False)
    done = tcelab("watch", run_folder(tmp_path))
    assert done.code == 125
    assert "the watcher saw no table in 0 looks" in done.err


def test_the_counter_counts_what_is_done_whichever_guest_did_it(monkeypatch):
    """Parts run side by side: the numbers of their operations are far apart."""
    shown = watch.LiveDisplay(Console(file=io.StringIO(), width=40), TWO)
    for done, number in enumerate((0, 2000, 1, 3000), 1):
        shown.step(Step(number, Close(file="x"), Outcome(value=0)), 3175)
        assert shown._state().startswith(f"{done} of 3,175 operations, 0 findings")


def test_the_head_says_first_what_a_narrow_terminal_must_show():
    screen = io.StringIO()
    shown = watch.LiveDisplay(
        Console(file=screen, width=40, height=10, force_terminal=True, _environ={"TERM": "xterm"}), TWO
    )
    shown.watching.add(seen(view(64, {1: 3})))
    shown.step(Step(0, Close(file="x"), Outcome(value=0)), 3175)
    shown._live.start()
    shown._show()
    shown._live.stop()
    assert "1 of 3,175 operations, 0 findings" in screen.getvalue()
