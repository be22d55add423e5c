"""What the page tells of a night: its matrix, its cells, and its trends; and how the file is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import madenight
import pytest
import reportfolders
from htmlpage import Page, problems

from tcelab import htmlreport
from tcelab.history import nightfile
from tcelab.history.nightfile import CellFigure
from tcelab.history.store import History
from tcelab.htmlreport import nightview, past, trends


def views(folder):
    return nightview.view(folder, nightfile.load((folder / nightfile.NAME).read_bytes()))


def test_a_cell_is_right_only_if_it_ended_as_it_must(night):
    told = views(night)
    assert [each.state for each in told.cells] == [
        "pass",
        "finding",
        "flaky",
        "could-not-judge",
        "not-run",
        "pass",
        "finding",
    ]
    assert [each.says for each in told.cells[5:]] == ["finding, as it must be", "pass, must be finding"]
    assert dict(told.counts) == {"finding": 2, "flaky": 1, "could-not-judge": 1, "not-run": 1, "pass": 2}
    assert (told.word, told.exit_code) == ("finding", 1)


def test_cells_that_are_not_right_come_first_and_are_whole(night, page):
    told = page(night)
    assert [each["data-state"] for each in told.all("article", class_="cell")] == [
        "finding",
        "finding",
        "flaky",
        "could-not-judge",
    ]
    assert [each["data-state"] for each in told.all("details", class_="cell")] == ["not-run", "pass", "pass"]
    assert len(told.all("rect", class_="wrong")) == 2  # of the finding, and of the flaky one's second attempt
    assert told.text.index("Cells that are not right") < told.text.index("Cells that are right")


def test_a_night_whose_folders_are_gone_is_told_from_its_file(gone, page):
    told = page(gone)
    assert "its artefacts are not there" in told.text
    assert told.text.count("LIOBN 0x80000100 IOBA 0x1000: an entry is missing") == 2
    assert told.texts["h1"] == ["Night night-0"]


def test_a_folder_outside_the_night_is_not_read(night, tmp_path):
    cell = madenight.cell("batches", "finding", number=0)
    cell.attempts = [madenight.attempt("finding", "../../nights/1/cells/1/0")]
    folder = madenight.write(tmp_path / "night", madenight.night(cell))
    (view,) = views(folder).cells
    assert (view.run, view.note) == (None, "../../nights/1/cells/1/0 is no folder of the night")


def test_the_grid_has_a_column_for_each_machine_and_tells_once_what_is_the_same(night):
    grid = views(night).grid
    heads = {name: [(head.text, head.span) for head in row] for name, row in grid.heads}
    assert heads == {
        "Kernel": [("guest", 2), ("guest-64k", 1)],
        "CPU": [("power9", 1), ("power8", 1), ("power9", 1)],
    }
    assert grid.same == [("QEMU", "qemu-11.1")]
    assert [row.name for row in grid.rows] == ["run batches", "run flow broken: map-short", "run flow broken: map-long"]
    assert [[len(cells) for cells in row.cells] for row in grid.rows] == [[5, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_each_cell_of_the_grid_leads_to_its_cell(night, page):
    told = page(night)
    anchors = [each.anchor for each in views(night).cells]
    assert sorted(each["href"][1:] for each in told.all("a", class_="at")) == sorted(anchors)
    tomorrow = nightview.view(Path("x"), madenight.night(*views(night).night.cells, day=9))
    assert [each.anchor for each in tomorrow.cells] == anchors


def test_a_thousand_cells_are_short_and_what_is_beyond_the_limit_is_named(tmp_path):
    made = madenight.large(1000, wrong=100)
    data = htmlreport.build(madenight.write(tmp_path / "night", made))
    assert len(data) < 5_000_000
    whole, short = data.count(b'<article class="cell"'), data.count(b'<details class="cell"')
    assert data.count(b'<a class="at ') == whole + short == 1000
    assert 0 < whole <= nightview.WHOLE
    assert b"more of it is in" in data


def test_a_cell_that_is_there_twice_has_two_places(tmp_path):
    twice = [madenight.cell(number=1), madenight.cell(number=1), madenight.cell(number=1, seed=8)]
    assert problems(Page(htmlreport.build(madenight.write(tmp_path / "night", madenight.night(*twice))))) == []


# -- trends


def measured(day, value, better="lower"):
    cell = madenight.cell("bench batch", number=1)
    cell.figures = [CellFigure(name="map 1 page", unit="us", values=[value, value + 100, value], better=better)]
    return madenight.night(cell, madenight.cell("flow", "finding", number=2), day=day)


def test_a_trend_goes_over_all_nights_in_their_order():
    told = trends.of([measured(2, 20.0), measured(0, 10.0), measured(1, 30.0)])
    (plot,) = told.plots
    assert [row.name for row in told.rows] == ["night-0", "night-1", "night-2"]
    assert [row.counts for row in told.rows] == [[1, 0, 0, 0, 1]] * 3
    assert (plot.last, plot.change, plot.better, plot.low, plot.high) == ("20 us", "+100.0 %", "worse", "10", "30")
    (a, low), (b, high), (c, middle) = plot.points
    assert a < b < c
    assert low > middle > high  # pixels count downwards


def test_one_night_has_no_trend_and_a_figure_of_one_night_none():
    assert trends.of([measured(0, 1.0), measured(0, 2.0)]) is None
    assert trends.of([measured(0, 1.0), madenight.night(madenight.cell(), day=1)]).plots == []


# -- the verb


def test_the_report_is_written_whole_or_not_at_all(gone, tcelab, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    assert tcelab("report", str(gone), "-o", str(out)).code == 0
    first = out.read_bytes()
    assert b"night-0" in first

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    done = tcelab("report", str(gone), "-o", str(out))
    assert done.code == 125
    assert "No space left on device" in done.err
    assert out.read_bytes() == first
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_report_takes_the_place_of_a_file_alone(gone, tcelab, tmp_path):
    (tmp_path / "there.html").write_text("older")
    (tmp_path / "there.html").chmod(0o640)
    (tmp_path / "link.html").symlink_to("there.html")
    assert tcelab("report", str(gone), "-o", str(tmp_path / "link.html")).code == 0
    assert (tmp_path / "link.html").is_symlink()
    assert b"night-0" in (tmp_path / "there.html").read_bytes()
    assert (tmp_path / "there.html").stat().st_mode & 0o777 == 0o640
    (tmp_path / "folder.html").mkdir()
    done = tcelab("report", str(gone), "-o", str(tmp_path / "folder.html"))
    assert (done.code, "that is a folder" in done.err) == (2, True)


def test_a_report_goes_to_standard_output(gone, tcelab):
    done = tcelab("report", str(gone), "-o", "-")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("<!DOCTYPE html>")
    assert done.out.rstrip().endswith("</html>")


def test_runs_and_nights_are_found_by_their_names(host, tcelab, gone, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    tcelab("run", "story.json")
    for words in ((), ("last",)):
        assert tcelab("report", *words, "-o", str(out)).code == 0
        assert b"<h1>story on small</h1>" in out.read_bytes()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.copytree(gone, tmp_path / "state" / "tcelab" / "nights" / "night-0")
    assert tcelab("report", "night-0", "-o", str(out)).code == 0
    assert b"<h1>Night night-0</h1>" in out.read_bytes()
    assert tcelab("report", "night-1", "-o", str(out)).code == 2


def test_trends_are_of_the_nights_that_are_named(night, gone, tcelab, tmp_path):
    out = tmp_path / "report.html"
    assert tcelab("report", str(night), "-o", str(out), "--nights", str(night.parent)).code == 0
    assert "night-0" in Page(out.read_bytes()).text
    done = tcelab("report", str(night), "-o", str(out), "--nights", str(tmp_path))
    assert (done.code, "holds none" in done.err) == (2, True)


# -- what the history knows


@pytest.fixture
def history(tmp_path):
    """Three nights, of which the second one is of another matrix; the third one found something else."""
    first, last = (madenight.night(*reportfolders.cells(), day=day) for day in (1, 3))
    last.cells[1].findings = [madenight.found(key="feedfeedfeedfeed", message="an entry that nobody made")]
    last.cells[2].findings = []
    other = madenight.night(madenight.cell(), day=2, matrix="another.toml")
    with History(tmp_path / "history.sqlite") as opened:
        for each in (first, other, last):
            opened.begin(each)
            opened.end(each)
        yield opened, madenight.write(tmp_path / "last", last)


def test_a_night_tells_what_changed_since_the_last_one_of_its_matrix(history):
    opened, folder = history
    told = Page(htmlreport.build(folder, history=opened))
    assert problems(told) == []
    assert "Compared with night-1, of the same matrix: 2 findings came or went" in told.text
    rows = told.text.partition("Findings that came or went")[2].partition("All of it")[0]
    assert rows.index("new") < rows.index("an entry that nobody made") < rows.index("gone")
    assert [
        row.name for row in trends.of([*past.of(views(folder).night, opened).nights, views(folder).night]).rows
    ] == [
        "night-1",
        "night-3",
    ]


def test_the_users_history_is_asked_where_there_is_one(history, tcelab, tmp_path, monkeypatch):
    opened, folder = history
    opened.close()  # all of it is in one file then
    out = tmp_path / "report.html"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert tcelab("report", str(folder), "-o", str(out)).code == 0
    assert b'id="since"' not in out.read_bytes()
    assert tcelab("report", str(folder), "-o", str(out), "--history", str(tmp_path / "none")).code == 2
    (tmp_path / "state" / "tcelab").mkdir(parents=True)
    shutil.copy(opened.path, tmp_path / "state" / "tcelab" / "history.sqlite")
    assert tcelab("report", str(folder), "-o", str(out)).code == 0
    assert b'id="since"' in out.read_bytes()
