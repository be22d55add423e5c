"""Tables in a file: what was written is read again, what is no dump is refused, and no difference is lost."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand import raising
from story import story
from tableviews import LIOBN, view

from tcelab.errors import GuestLost, UsageError
from tcelab.papr import window
from tcelab.program import Checkpoint, Fresh
from tcelab.report import tabledump
from tcelab.run.record import Outcome, RunRecord, Snapshot, Step

# Each is made once: to make one is dearer than to draw from it.
some_liobns, some_entries = st.integers(0, (1 << 32) - 1), st.integers(1, 1 << 18)
some_live = st.dictionaries(st.integers(-(1 << 17), (1 << 17) - 1), st.integers(1, (1 << 64) - 1), max_size=12)
some_shifts, some_offsets = st.sampled_from([12, 16, 21, 24]), st.sampled_from([0, 1 << 59])


@st.composite
def views(draw):
    """Entries are counted from the table's beginning, or from its end if their numbers are negative."""
    entries = draw(some_entries)
    live = {number % entries: word for number, word in draw(some_live).items()}
    return view(entries, live, liobn=draw(some_liobns), shift=draw(some_shifts), offset=draw(some_offsets))


dumps = st.lists(views(), max_size=4, unique_by=lambda each: each.liobn).map(
    lambda found: tuple(sorted(found, key=lambda each: each.liobn))
)


def plain(tables):
    return [(v.liobn, v.entries, v.index.tolist(), v.tce.tolist(), v.page_shift, v.bus_offset) for v in tables]


@pytest.mark.parametrize("form", ["json", "npz"])
@given(tables=dumps)
def test_what_was_written_is_read_again(form, tables):
    again = tabledump.decode(tabledump.encode(tables, form))
    assert plain(again) == plain(tables)
    assert all((each.index.dtype, each.tce.dtype) == (np.uint32, np.uint64) for each in again)


@given(tables=dumps)
def test_both_forms_are_of_the_same_tables(tables):
    forms = [tabledump.decode(tabledump.encode(tables, form)) for form in ("json", "npz")]
    assert tabledump.compare(*forms) == ([], [])


@given(dumps, dumps)
def test_the_differences_lead_from_one_dump_to_the_other_and_back(a, b):
    _, changes = tabledump.compare(a, b)
    first, second = (
        {(v.liobn, v.ioba(int(i))): int(w) for v in x for i, w in zip(v.index, v.tce, strict=True)} for x in (a, b)
    )
    for change in changes:
        assert first.pop((change.liobn, change.ioba), 0) == change.first
        assert second.pop((change.liobn, change.ioba), 0) == change.second
    assert first == second
    assert [(c.liobn, c.ioba, c.second, c.first) for c in changes] == [
        (c.liobn, c.ioba, c.first, c.second) for c in tabledump.compare(b, a)[1]
    ]


@given(dumps)
def test_a_dump_does_not_differ_from_itself(tables):
    assert tabledump.compare(tables, tables) == ([], [])


def test_an_npz_is_as_its_description_says():
    made = tabledump.encode([view(64, {1: 0x1003, 5: 0x5001}, offset=1 << 59, shift=16)], "npz")
    with np.load(io.BytesIO(made)) as arrays:
        assert sorted(arrays) == ["80000100.index", "80000100.shape", "80000100.tce", "schema"]
        assert arrays["80000100.index"].tolist() == [1, 5]
        assert arrays["80000100.tce"].tolist() == [0x1003, 0x5001]
        assert arrays["80000100.shape"].tolist() == [64, 16, 1 << 59]


def test_the_same_tables_give_the_same_file():
    tables = [view(64, {1: 0x1003})]
    assert tabledump.encode(tables, "npz") == tabledump.encode(tables, "npz")


def test_text_tells_each_live_entry_at_its_bus_address():
    lines = list(tabledump.describe([view(64, {1: 0x1230003, 2: 0x5550001}, offset=1 << 59, shift=16)]))
    assert lines == [
        "LIOBN 0x80000100: 64 entries of 64 KiB from 0x800000000000000, 2 live",
        "  IOBA 0x800000000010000: 0x0000000001230003  page 0x1230000, read-write",
        "  IOBA 0x800000000020000: 0x0000000005550001  page 0x5550000, read",
    ]


BROKEN = {
    "entries outside it": {"index": [64], "tce": [3]},
    "not in order": {"index": [2, 1], "tce": [3, 3]},
    "2 numbers, 1 TCEs": {"index": [1, 2], "tce": [3]},
    "TCEs that are 0": {"index": [1], "tce": [0]},
    "page shift 64": {"page_shift": 64},
    "-1 entries": {"entries": -1},
    "more than 32 bits": {"liobn": 1 << 32},
    "bus offset": {"bus_offset": -1},
}


@pytest.mark.parametrize("told", list(BROKEN))
def test_numbers_that_no_table_has_are_refused(tmp_path, told):
    table = {"liobn": LIOBN, "entries": 64, "page_shift": 12, "bus_offset": 0, "index": [], "tce": []} | BROKEN[told]
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"schema": 1, "tables": [table]}))
    with pytest.raises(UsageError, match=told):
        tabledump.load(file)


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\3\4junk", b'{"schema": 2, "tables": []}', b"\x93NUMPY"])
def test_what_is_no_dump_is_wrong_usage(tmp_path, content):
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="no dump of tables"):
        tabledump.load(file)


def test_an_npz_of_somebody_elses_is_wrong_usage(tmp_path):
    np.savez(tmp_path / "a.npz", schema=np.uint64(1), **{"80000100.shape": np.array([1.5, 12, 0])})
    np.savez(tmp_path / "b.npz", words=np.zeros(3))
    floats = {"80000100.shape": np.array([64, 12, 0]), "80000100.index": np.array([0.5]), "80000100.tce": np.array([3])}
    np.savez(tmp_path / "c.npz", schema=np.uint64(1), **floats)
    for name in "abc":
        with pytest.raises(UsageError, match="no dump of tables"):
            tabledump.load(tmp_path / f"{name}.npz")


# -- which checkpoint is kept


def record(*numbers):
    steps = [Step(number, Checkpoint(), snapshot=Snapshot((), {}, {}, ())) for number in numbers]
    return RunRecord(story(), None, [Step(0, Checkpoint(), outcome=Outcome(value=0)), *steps])


@pytest.mark.parametrize(("finding", "kept"), [(None, 9), (3, 5), (5, 5), (6, 9), (12, 9)])
def test_the_tables_of_a_finding_are_kept_else_the_last(finding, kept):
    assert tabledump.telling(record(2, 5, 9), finding).number == kept


def test_the_tables_before_are_those_of_the_same_guest():
    steps = record(2, 5, 9).steps
    ran = RunRecord(story(), None, [*steps[:3], Step(6, Fresh(), outcome=Outcome(value=0)), steps[3]])
    before = [tabledump.before(ran, step) for step in ran.steps if step.snapshot is not None]
    assert [None if each is None else each.number for each in before] == [None, 2, None]


def test_a_kept_table_tells_of_which_checkpoint_it_is(tmp_path):
    (tmp_path / "a.npz").write_bytes(tabledump.of_step(record(7).steps[1]))
    (tmp_path / "b.npz").write_bytes(tabledump.encode([], "npz"))
    (tmp_path / "c.npz").write_bytes(b"PK torn")
    assert [tabledump.step_of(tmp_path / f"{name}.npz") for name in "abcd"] == [7, None, None, None]


def test_a_run_without_a_checkpoint_keeps_no_tables():
    assert tabledump.telling(record(), 1) is None


def test_one_view_of_each_active_window_is_kept():
    other = view(64, {3: 0x9003}, by="stream")
    empty = view(0, liobn=LIOBN | 1)
    snapshot = Snapshot((view(64, {1: 0x1003}), view(8, liobn=0x80000000), other, empty), {}, {}, ())
    assert plain(tabledump.of_snapshot(snapshot)) == plain([view(8, liobn=0x80000000), view(64, {1: 0x1003})])


# -- the command


def mapped():
    """How many operations of the story leave something mapped."""
    return next(i for i, op in enumerate(story().ops) if isinstance(op, Checkpoint)) + 1


def test_a_run_keeps_its_tables_and_they_can_be_dumped(tcelab, host):
    assert tcelab("run", "story.json", "--platform", "emulator").code == 0
    (run,) = host.runs.iterdir()
    done = tcelab("table", "dump", run)
    assert done.code == 0
    assert done.out.startswith("LIOBN 0x8000")
    assert json.loads((run / "result.json").read_text())["artefacts"]["tables"] == "tables.npz"
    done = tcelab("table", "dump", run, "-o", "x.json")
    assert (done.code, tcelab("table", "diff", run, "x.json").code) == (0, 0)


def test_a_program_is_stopped_in_the_middle_for_its_tables(tcelab, host):
    done = tcelab("table", "dump", "story.json", "--platform", "emulator", "--after", mapped(), "--format", "json")
    assert done.code == 0
    live = {each["liobn"]: len(each["index"]) for each in json.loads(done.out)["tables"]}
    assert any(live.values())
    assert all(window.is_pci(liobn) for liobn in live)


def test_a_difference_is_told_by_liobn_and_ioba_and_by_the_exit_code(tcelab, host):
    Path("a.npz").write_bytes(tabledump.encode([view(64, {1: 0x1003, 2: 0x2003})], "npz"))
    Path("b.json").write_bytes(tabledump.encode([view(64, {1: 0x1001, 3: 0x3002})], "json"))
    done = tcelab("table", "diff", "a.npz", "b.json", "--json", "d.json")
    assert done.code == 1
    assert done.out.splitlines() == [
        (
            "LIOBN 0x80000100 IOBA 0x1000: 0x0000000000001003 (read-write) in the first, "
            "0x0000000000001001 (read) in the second"
        ),
        "LIOBN 0x80000100 IOBA 0x2000: 0x0000000000002003 (read-write) in the first, empty in the second",
        "LIOBN 0x80000100 IOBA 0x3000: empty in the first, 0x0000000000003002 (write) in the second",
    ]
    assert [each["ioba"] for each in json.loads(Path("d.json").read_text())["entries"]] == [0x1000, 0x2000, 0x3000]
    assert tcelab("table", "diff", "b.json", "b.json").code == 0


def test_a_table_that_only_one_has_or_of_another_shape_is_a_difference(tcelab, host):
    Path("a.npz").write_bytes(tabledump.encode([view(64), view(8, liobn=1)], "npz"))
    Path("b.npz").write_bytes(tabledump.encode([view(32)], "npz"))
    done = tcelab("table", "diff", "a.npz", "b.npz")
    assert done.code == 1
    assert done.out.splitlines() == [
        "LIOBN 0x1: 8 entries of 4 KiB from 0x0, 0 live in the first, no table in the second",
        (
            "LIOBN 0x80000100: 64 entries of 4 KiB from 0x0, 0 live in the first, "
            "32 entries of 4 KiB from 0x0, 0 live in the second"
        ),
    ]


def test_one_table_can_be_chosen(tcelab, host):
    Path("a.npz").write_bytes(tabledump.encode([view(64), view(8, liobn=1)], "npz"))
    done = tcelab("table", "dump", "a.npz", "--liobn", "0x80000100")
    assert done.out.splitlines() == ["LIOBN 0x80000100: 64 entries of 4 KiB from 0x0, 0 live"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dump", "nothing"], "no folder of a run"),
        (["dump", "nothing.npz"], "no dump of tables"),
        (["dump", "a.npz", "--liobn", "7"], "no table of LIOBN 0x7"),
        (["dump", "a.npz", "--liobn", "x"], "a LIOBN is a number"),
        (["dump", "a.npz", "--after", "3"], "about a program"),
        (["dump", "story.json", "--after", "9999"], "the program has"),
        (["dump", "a.npz", "-o", "no/where"], "there is no folder"),
        (["dump", "."], "no dump of tables"),
        (["diff", "a.npz", "nothing"], "no dump of tables"),
        (["diff", "a.npz", "story.json"], "no dump of tables"),
        (["diff", "a.npz"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tcelab, host, words, told):
    Path("a.npz").write_bytes(tabledump.encode([view()], "npz"))
    done = tcelab("table", *words)
    assert done.code == 2
    assert told in done.err


def test_a_guest_that_dies_before_its_tables_are_read_gives_none(tcelab, host):
    host.lies = {"tamper": raising(GuestLost("gone", kernel_died=True))}
    done = tcelab("table", "dump", "story.json", "-o", "x.npz")
    assert done.code == 125
    assert "there are no tables after the program" in done.err
    assert "gone" in done.err
    assert not Path("x.npz").exists()
