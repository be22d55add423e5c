"""`tcelab history`: what changed between two nights, and since when."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest
from nights import cell, found, night

from tcelab.bench import nights
from tcelab.errors import HarnessError, UsageError
from tcelab.history import nightfile, queries, schema
from tcelab.history.compare import compare
from tcelab.history.noise import judge
from tcelab.history.store import History
from tcelab.history.upkeep import bring, prune

A, B = found("a" * 16, law="table"), found("b" * 16, law="pins")


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "history.sqlite") as made:
        yield made


def changes(answer):
    return {(each.change, each.key[0]) for each in answer.findings}


# -- findings


def test_a_finding_that_no_night_saw_is_new_and_one_that_both_saw_is_not(history):
    history.end(night(1, cell("dma", "finding", findings=[A])))
    history.end(night(2, cell("dma", "finding", findings=[A, B])))
    answer = compare(history)
    (new,) = answer.findings
    assert (new.change, new.key, new.cells, answer.same, answer.exit_code) == ("new", B.key, ["run dma"], 1, 1)
    assert (new.first.night, new.last.night, new.replay) == ("night-2", "night-2", B.replay)


def test_a_finding_that_was_away_returns_with_its_first_and_its_last_night(history):
    versions = {"qemu": {"version": "9.2"}}
    history.end(night(1, cell("dma", "finding", findings=[A], versions=versions), tcelab="0.1.0"))
    history.end(night(2, cell("dma", "finding", findings=[A])))
    history.end(night(3, cell("dma")))
    history.end(night(4, cell("dma", "finding", findings=[A])))
    answer = compare(history)
    (back,) = answer.findings
    assert (back.change, back.first.night, back.before.night, back.last.night) == (
        *("returning", "night-1", "night-2"),
        "night-4",
    )
    assert (back.first.tcelab, back.first.versions, answer.exit_code) == ("0.1.0", versions, 1)


def test_a_finding_that_came_between_two_distant_nights_is_new_to_them(history):
    for day in range(1, 5):
        history.end(night(day, cell("dma", "finding" if day > 2 else "pass", findings=[A] if day > 2 else [])))
    (new,) = compare(history, "night-1", "night-4").findings
    assert (new.change, new.first.night) == ("new", "night-3")


@pytest.mark.parametrize(
    ("later", "change", "code"),
    [
        ([cell("dma"), cell("irq")], "gone", 0),
        ([cell("dma", seed=5), cell("irq")], "gone", 0),
        ([cell("dma", "could-not-judge"), cell("irq")], "unknown", 125),
        ([cell("dma", "not-run"), cell("irq")], "unknown", 125),
        ([cell("dma")], "unknown", 0),
    ],
    ids=["passes", "passes with another seed", "not judged", "not run", "one of its cells is no more"],
)
def test_a_finding_is_gone_only_where_every_cell_that_saw_it_was_judged_again(history, later, change, code):
    history.end(night(1, cell("dma", "finding", findings=[A]), cell("irq", "finding", findings=[A])))
    history.end(night(2, *later))
    answer = compare(history)
    assert (changes(answer), answer.exit_code) == ({(change, "a")}, code)


def test_two_nights_can_be_named_in_either_order(history):
    history.end(night(1, cell("dma")))
    history.end(night(2, cell("dma", "finding", findings=[A])))
    assert changes(compare(history, "night-1")) == {("new", "a")}
    assert changes(compare(history, "night-2", "night-1")) == {("gone", "a")}
    with pytest.raises(UsageError, match="the same night"):
        compare(history, "last", "night-2")
    with pytest.raises(UsageError, match="there is no night night-3"):
        compare(history, "night-3")
    with pytest.raises(UsageError, match="beginning of 2 names"):
        compare(history, "night")


@pytest.mark.parametrize("there", [0, 1])
def test_one_night_cannot_be_compared(history, there):
    for day in range(there):
        history.end(night(day, cell()))
    with pytest.raises(HarnessError, match="nothing to compare"):
        compare(history)


# -- cells


@pytest.mark.parametrize(
    ("before", "after", "told", "code"),
    [
        (cell("x"), cell("x", "finding"), ("pass", "finding", True), 1),
        (cell("x"), cell("x", "flaky"), ("pass", "flaky", True), 1),
        (cell("x", "finding"), cell("x"), ("finding", "pass", False), 0),
        (cell("x"), cell("x", "could-not-judge"), ("pass", "could-not-judge", True), 125),
        (cell("x", "could-not-judge"), cell("x", "could-not-judge"), None, 125),
        (cell("x"), cell("x"), None, 0),
        (cell("x", "finding", mutant="m"), cell("x", "finding", mutant="m"), None, 0),
        (cell("x", "finding", expected="finding"), cell("x", expected="finding"), ("finding", "pass", True), 1),
        (cell("y"), cell("x", "finding"), ("", "finding", True), 1),
        (cell("x", "not-run"), cell("x", "finding"), ("not-run", "finding", True), 1),
        (cell("x", "finding"), cell("x", "flaky"), ("finding", "flaky", False), 0),
    ],
    ids=lambda value: value.word if hasattr(value, "word") else "",
)
def test_a_cell_that_is_newly_not_right_is_told(history, before, after, told, code):
    history.end(night(1, before))
    history.end(night(2, after))
    answer = compare(history)
    changed = [(each.before, each.after, each.wrong) for each in answer.cells if each.id == "x"]
    assert (changed, answer.exit_code) == ([told] if told else [], code)


def test_cells_are_paired_by_their_seed_before_others_take_their_place(history):
    history.end(night(1, cell("x", seed=1), cell("x", "finding", seed=2)))
    history.end(night(2, cell("x", "finding", seed=2), cell("x", seed=3)))
    assert compare(history).cells == []


def test_versions_that_changed_are_told_once_with_the_number_of_their_cells(history):
    old = {"qemu": {"version": "10.0"}, "base": {"built": "yesterday"}, "quirks": ["x"]}
    new = {"qemu": {"version": "11.1"}, "base": {"built": "today"}, "quirks": ["x", "y"]}
    history.end(night(1, *(cell(name, versions=old) for name in "abc"), tcelab="0.2.0"))
    history.end(night(2, *(cell(name, versions=new) for name in "ab"), cell("c", versions={}), tcelab="0.2.1"))
    told = {(each.name, each.before, each.after, each.cells) for each in compare(history).versions}
    assert told == {
        ("tcelab", "0.2.0", "0.2.1", 0),
        ("qemu.version", "10.0", "11.1", 2),
        ("quirks", "x", "x, y", 2),
    }


# -- figures

STEADY = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8]


@pytest.mark.parametrize(
    ("before", "after", "earlier", "better", "unit", "word"),
    [
        ([100.0], [130.0], STEADY, "lower", "ms", "worse"),
        ([100.0], [130.0], STEADY, "higher", "ms", "better"),
        ([100.0], [70.0], STEADY, "higher", "ms", "worse"),
        ([100.0], [130.0], STEADY, "", "ms", "changed"),
        ([100.0], [104.0], STEADY, "lower", "ms", "same"),  # beyond the noise, and less than 5 %
        ([100.0], [130.0], STEADY[:6], "lower", "ms", "too few"),
        ([100.0], [130.0], [*STEADY[:6], 129.0], "lower", "ms", "same"),  # an earlier night was as slow
        ([100.0], [130.0], [80.0, 120.0, 95.0, 105.0, 88.0, 112.0, 100.0], "lower", "ms", "same"),
        ([512.0], [511.0], [512.0] * 7, "higher", "entries", "worse"),
        ([512.0], [511.0], [512.0] * 7, "higher", "pages/s", "same"),
        ([88.5], [88.4], [88.5] * 7, "higher", "%", "worse"),
        ([100.0], [104.0], STEADY, "higher", "entries", "better"),
        ([9.9, 10, 10.1, 10, 10.05], [12.9, 13, 13.1, 13, 13.05], [], "lower", "ms", "worse"),
        ([9.9, 10, 10.1, 10, 10.05], [10.4, 10.5, 10.6, 10.5, 10.55], [], "lower", "ms", "same"),  # less than 10 %
        ([9.9, 10, 10.1, 10, 13.0], [12.9, 13, 13.1, 13, 13.05], [], "lower", "ms", "same"),  # they overlap
        ([7.0, 10, 10.1, 12, 12.5], [12.9, 13, 13.1, 13, 13.05], [], "lower", "ms", "same"),  # noisy
        ([10, 10, 10, 10], [13, 13, 13, 13], [], "lower", "ms", "too few"),
        ([10.0], [10.0], [], "lower", "ms", "same"),
    ],
)
def test_a_figure_is_slower_or_faster_only_beyond_its_noise(before, after, earlier, *, better, unit, word):
    assert judge(before, after, earlier, better, unit) == word


def test_the_noise_is_that_of_this_cell_with_this_seed_in_the_nights_before(history):
    for day, value in enumerate(STEADY):
        history.end(night(day, cell("a", figures={"map": [value]}), cell("b", figures={"map": [value]}, seed=day)))
    history.end(night(20, cell("a", figures={"map": [130.0]}), cell("b", figures={"map": [130.0]}, seed=20)))
    answer = compare(history)
    told = [(each.change, each.cell, each.name, each.before, each.after, each.nights) for each in answer.figures]
    assert told == [("worse", "run a", "map", 99.8, 130.0, 7)]
    assert answer.too_few == 0
    assert compare(history, "night-6", "night-20").figures == answer.figures
    prune(history, 7)
    assert (compare(history).figures, compare(history).too_few) == ([], 1)


# -- a finding, a cell, and what is forgotten


def test_a_finding_has_its_course_by_the_first_digits_of_its_key(history):
    history.end(night(1, cell("dma", "finding", findings=[A])))
    history.end(
        night(2, cell("dma", "finding", findings=[found(A.key, count=3)]), cell("irq", "finding", findings=[A]))
    )
    history.end(night(3, cell("dma")))
    course = queries.finding(history, "AAAA")
    assert [(each.night, each.count, [cell.id for cell in each.cells]) for each in course.nights] == [
        ("night-1", 1, ["dma"]),
        ("night-2", 4, ["dma", "irq"]),
    ]
    assert (course.first.night, course.last.night, course.replay) == ("night-1", "night-2", A.replay)
    for wrong, said in (("bbbb", "no finding bbbb"), ("aaa", "no key"), ("xyzw", "no key"), ("a" * 17, "no key")):
        with pytest.raises(UsageError, match=said):
            queries.finding(history, wrong)


def test_a_cell_has_its_course_by_its_id_its_name_or_words_of_it(history):
    one = {"cpu": "power9", "scenario": "dma", "topology": "two-pe"}
    history.end(night(1, cell("id-one", **one), cell("id-two", **{**one, "cpu": "power8"})))
    later = cell("id-one", "finding", findings=[A], versions={"qemu": {"version": "11"}}, figures={"t": [1.0]}, **one)
    history.end(night(2, later))
    for name in ("id-one", "id-o", "run dma power9 two-pe", "power9 dma"):
        course = queries.cell(history, name)
        assert (course.id, course.name) == ("id-one", "run dma power9 two-pe")
    assert [(each.word, each.findings) for each in course.nights] == [("pass", []), ("finding", [A.key])]
    assert [(each.name, each.before, each.after) for each in course.nights[1].changed] == [
        ("kernel", "6.1.0", ""),
        ("qemu.version", "10.0", "11"),
        ("qemu.sha256", "aa", ""),
    ]
    assert [each.median for each in course.nights[1].figures] == [1.0]
    for wrong, said in (("dma", "dma means 2 cells"), ("id-", "no cell id-"), ("none", "no cell none")):
        with pytest.raises(UsageError, match=said):
            queries.cell(history, wrong)


def test_what_is_pruned_was_seen_all_the_same(history):
    for day in range(1, 6):
        seen = [A] if day in {1, 2, 5} else []
        history.end(night(day, cell("dma", "finding" if seen else "pass", findings=seen), tcelab=f"0.{day}.0"))
    assert prune(history, 2) == ["night-1", "night-2", "night-3"]
    assert prune(history, 2) == []
    (back,) = compare(history).findings
    assert (back.change, back.first.night, back.first.tcelab, back.before) == ("returning", "night-1", "0.1.0", None)
    course = queries.finding(history, A.key)
    assert (course.first.night, course.pruned, [each.night for each in course.nights]) == ("night-1", 2, ["night-5"])
    history.end(night(6, cell("dma")))
    prune(history, 1)
    assert queries.finding(history, A.key).last.night == "night-5"
    with history.database.read() as sql:
        counts = [
            sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("cells", "attempts", "found")
        ]
        assert counts == [1, 1, 0]


def test_pruning_gives_its_room_back_to_the_disk(history):
    history.end(night(1, *(cell(f"cell-{number}") for number in range(200))))
    history.end(night(2, cell("dma")))

    def pages():
        with history.database.read() as sql:
            return [sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")]

    (before, free) = pages()
    prune(history, 1)
    (after, left) = pages()
    assert (after < before - 9, free, left) == (True, 0, 0)


def test_a_night_that_is_brought_twice_is_there_once(history):
    made = night(1, cell("dma", "finding", findings=[A]))
    assert (bring(history, made), bring(history, made)) == (True, False)
    made.cells.append(cell("irq"))
    assert bring(history, made)
    assert len(queries.nights(history).nights[0].words) == 2
    assert len(queries.finding(history, A.key).nights) == 1


# -- an older file, and a large one


def old(path):
    """A file of schema 1, with what that version wrote."""
    with sqlite3.connect(path) as sql:
        for statement in schema.STEPS[0]:
            sql.execute(statement)
        sql.executescript(
            f"""
            PRAGMA application_id = {schema.APPLICATION};
            PRAGMA user_version = 1;
            INSERT INTO nights VALUES (1, 'old', '0.2.0', 86400.0, 87000.0, 'm', '00', '{{"name": "h"}}', '/n', '');
            INSERT INTO texts VALUES (1, x'01', '["run", "dma"]'), (2, x'02', '{{"qemu": "10"}}');
            INSERT INTO choices VALUES (1, 'dma', 'run', 'dma', 'qemu', 'debian', '', 'power9', 'two-pe', '', '{{}}');
            INSERT INTO cells VALUES (1, 1, 1, '7', 0, 'finding', 'pass', 86460.0, 2.5, 1, 2);
            INSERT INTO attempts VALUES (1, 0, 'finding', 1, 2.5, 1.0, 'cells/dma', '', '["{A.key}"]');
            INSERT INTO signatures VALUES (1, '{A.key}', 'table', 'ioctl MAP_DMA', '', 'IOBA N is empty');
            INSERT INTO found VALUES (1, 1, 1, 1, 'IOBA 0x0 is empty', 2, 'tcelab replay x');
            INSERT INTO figures VALUES (1, 0, 'map', 'ms', 'lower', '[1.0,2.0]');
            """
        )
    sql.close()


def test_a_file_of_the_first_schema_keeps_all_it_has_and_gets_todays_tables(tmp_path, shown):
    path = tmp_path / "old.sqlite"
    old(path)
    with History(path) as history:
        (kept,) = history.night("old").cells
        assert (kept.seed, kept.word, kept.command, kept.versions) == (7, "finding", ["run", "dma"], {"qemu": "10"})
        assert (kept.attempts[0].findings, kept.findings[0].count, kept.figures[0].values) == ([A.key], 2, [1.0, 2.0])
        assert (history.last("dma", 7), history.seconds()) == ("finding", {"dma": 2.5})
        history.end(night(2, cell("dma", seed=7)))
        assert changes(compare(history)) == {("gone", "a")}
        prune(history, 1)
        tables = layout(history)
    assert any("schema 1 is now 2" in line for line in shown.lines)
    with History(tmp_path / "new.sqlite") as new:
        assert layout(new) == tables


def layout(history):
    with history.database.read() as sql:
        assert sql.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA,)
        return sql.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()


def test_what_the_first_schema_was_stays_what_it_was():
    """A file of that version is somewhere: its step is never edited, a new one is added."""
    names = re.findall(r"CREATE TABLE (\w+)", " ".join(schema.STEPS[0]))
    assert names == ["nights", "texts", "choices", "cells", "attempts", "signatures", "found", "figures"]


def test_no_question_reads_a_whole_table_of_cells(history):
    """What grows with the nights is reached by an index: that keeps 100,000 cells quick, on any machine."""
    for day in range(9):
        seen = [A] if day % 3 else []
        history.end(
            night(day, cell("dma", "finding" if seen else "pass", findings=seen, figures={"t": [1.5 * day + 1]}))
        )
    asked = []
    history.database._sqlite.set_trace_callback(asked.append)
    queries.nights(history, 5)
    compare(history)
    queries.finding(history, A.key)
    queries.cell(history, "dma")
    history.seconds()
    history.last("dma", 1)
    history.night("night-3")
    history.record(night(3, cell("dma")), cell("dma"))
    history.database._sqlite.set_trace_callback(None)
    plans = {}
    with history.database.read() as sql:
        for statement in dict.fromkeys(each for each in asked if each.startswith(("SELECT", "UPDATE", "DELETE"))):
            plans[statement] = [row[3] for row in sql.execute(f"EXPLAIN QUERY PLAN {statement}")]
    whole = {
        statement: plan
        for statement, plan in plans.items()
        if any(re.search(r"SCAN (cells|found|figures|attempts)\b", step) for step in plan)
    }
    assert len(plans) > 20
    assert whole == {}


# -- the command


@pytest.fixture
def state(tmp_path, monkeypatch, tcelab):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tcelab


def keep(*nights_):
    with History() as history:
        for each in nights_:
            history.end(each)


def test_the_last_two_nights_are_compared_with_the_verdict_first(state):
    keep(night(1, cell("dma")), night(2, cell("dma", "finding", findings=[A], seconds=3)))
    done = state("history", "compare")
    assert done.code == 1
    assert done.out.splitlines()[0] == (
        "NEW (exit code 1): 1 new finding, 0 returning, 0 gone, 0 as before, 1 cell newly not right"
    )
    assert f"  {A.key} [table] {A.message}\n      in run dma\n" in done.out
    assert "  run dma seed 1: pass -> finding (must be: pass)" in done.out.splitlines()
    written = state("history", "compare", "night-1", "last", "--json", "-")
    assert (written.code, json.loads(written.out)["findings"][0]["key"]) == (1, A.key)
    assert written.err == done.out


def test_nights_are_listed_and_a_finding_and_a_cell_are_told(state, tmp_path):
    keep(night(1, cell("dma", "finding", findings=[A])), night(2, cell("dma", "not-run"), stopped="interrupted"))
    listed = state("history", "list", "--limit", "1", "--json", str(tmp_path / "list.json"))
    assert (listed.code, "night-1" in listed.out) == (0, False)
    assert "0 of 1 cell right (1 not run), 0 findings; interrupted" in listed.out
    assert "2 nights, the last 1 shown" in listed.out
    assert json.loads((tmp_path / "list.json").read_bytes())["total"] == 2
    told = state("history", "finding", "aaaa")
    assert (told.code, "first seen: night-1 (1970-01-02 00:00, tcelab 0.2.0, kernel 6.1.0, qemu 10.0)" in told.out) == (
        0,
        True,
    )
    course = state("history", "cell", "dma")
    assert (course.code, "seed 1  finding (must be: pass), 2 s" in course.out, A.key in course.out) == (0, True, True)


def test_a_night_of_another_machine_is_imported_and_old_ones_are_pruned(state, tmp_path):
    for day in (1, 2):
        folder = tmp_path / f"ci-{day}"
        folder.mkdir()
        (folder / nightfile.NAME).write_bytes(nightfile.to_json(night(day, cell("dma"), name=f"ci-{day}")))
    folders = (str(tmp_path / "ci-1"), str(tmp_path / "ci-2" / nightfile.NAME))
    assert state("history", "import", *folders).out.splitlines() == ["ci-1: 1 cell", "ci-2: 1 cell"]
    assert state("history", "import", *folders).out.splitlines()[0] == "ci-1: 1 cell, there already"
    with History() as history:
        assert history.night("ci-1").folder == str(tmp_path / "ci-1")
    pruned = state("history", "prune", "--keep", "1")
    assert (pruned.code, pruned.out, "removed ci-1" in pruned.err) == (0, "1 night removed\n", True)
    wrong = state("history", "import", folders[0], str(tmp_path))
    assert (wrong.code, "No such file" in wrong.err, "ci-1" in state("history", "list").out) == (2, True, False)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["list"], 0, "0 nights, in "),
        (["compare"], 125, "does not have two nights"),
        (["finding", "aaaa"], 2, "there is no history"),
        (["cell", "dma"], 2, "there is no history"),
        (["prune", "--keep", "1"], 2, "there is no history"),
        (["list", "--history", "none.sqlite"], 2, "there is no history"),
        (["list", "--limit", "0"], 2, "--limit"),
        (["prune"], 2, "--keep"),
        (["import"], 2, "NIGHTFOLDER"),
        (["list", "--json", "/proc/self/none.json"], 2, "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_without_a_history_nothing_is_made_and_wrong_usage_is_told(state, tmp_path, words, code, said):
    done = state("history", *words)
    assert (done.code, said in done.out + done.err, "Traceback" in done.err) == (code, True, False)
    assert not list(tmp_path.rglob("history.sqlite"))


def test_a_comparison_that_cannot_be_written_is_not_nothing_new(state):
    keep(night(1, cell("dma")), night(2, cell("dma")))
    assert state("history", "compare").code == 0
    assert state("history", "compare", "--json", "/dev/full").code == 125


def test_the_benchmark_asks_a_history_all_that_it_answers(state, monkeypatch):
    monkeypatch.setattr(nights, "CELLS", 20)
    done = state("bench", "history", "--nights", "2", "--repeat", "2", "--json", "-")
    figures = {each["name"]: each["values"] for each in json.loads(done.out)["figures"]}
    assert (done.code, set(figures)) == (0, {"list", "compare", "finding", "cell", "record a cell", "the file"})
    assert all(len(values) == 2 for name, values in figures.items() if name != "the file")
