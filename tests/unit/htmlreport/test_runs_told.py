"""What the page tells of a run: the verdict first, and each finding with what explains it."""

from __future__ import annotations

import json
import shutil

import pytest
from htmlpage import Page, problems

from tcelab import htmlreport
from tcelab.fuzz.fuzzresult import FuzzResult
from tcelab.htmlreport import excerpt, folders, occupancy, pestory, runview
from tcelab.judge import Finding
from tcelab.report import load, tabledump
from tcelab.run import exitcode
from tcelab.run.resultfile import to_json


def test_the_verdict_is_first_in_word_and_symbol(passed, flipped, unbegun, page):
    for folder, word, symbol in ((passed, "PASS", "✓"), (flipped, "FINDING", "✗"), (unbegun, "COULD NOT JUDGE", "?")):
        text = page(folder).texts["title"][0]
        assert text.startswith(f"{symbol} {word}: ")
        body = page(folder).data.partition("<h1>")[2]
        assert body.index(word) < body.index("<h2")


def test_a_finding_is_told_with_its_table_its_program_its_console_and_its_replay(flipped, page):
    result = load((flipped / "result.json").read_bytes())
    (finding,) = result.verdict.findings
    told = page(flipped)
    assert finding.message in told.text
    assert f"IOBA {finding.ioba:#x}" in told.text
    assert told.all("code", id="run-finding-1-replay")
    assert result.replay in told.text
    assert [each for each in told.all("rect", class_="entry") if "wrong" in each["class"].split()]
    did = int(finding.operation.partition(" ")[0][1:])
    marked = [each for each in told.texts["mark"] if "←" in each]
    assert [(int(each.split()[0]), each.rpartition("← ")[2]) for each in marked] == [
        (did, "did it"),
        (finding.step, "seen here"),
    ]
    (line,) = [each for each in told.texts["mark"] if "WARNING" in each]
    assert "tce_iommu_ioctl" in line
    assert "line 35 of a boot" in told.text


def test_the_table_is_drawn_as_it_was_as_it_should_be_and_as_it_is(flipped):
    result = load((flipped / "result.json").read_bytes())
    (finding,) = result.verdict.findings
    before, seen = (folders.tables(flipped, name) for name in (tabledump.BEFORE, tabledump.NAME))
    drawing = occupancy.draw(finding, [], before, seen)
    view = seen[finding.liobn]
    number = finding.ioba - view.bus_offset >> view.page_shift
    assert [row.name for row in drawing.window.rows] == ["before", "seen"]
    rows = {row.name: row.parts for row in drawing.entries.rows}
    (at,) = [i for i, square in enumerate(rows["seen"]) if square.wrong]
    assert [rows[name][at].kind == "empty" for name in ("before", "expected", "seen")] == [True, True, False]
    assert [square for name in ("before", "expected") for square in rows[name] if square.wrong] == []
    assert f"{finding.ioba:#x}" in [label.text for label in drawing.entries.axis]
    assert [label.text for label in drawing.window.axis][0::2] == [
        f"{view.ioba(0):#x}",
        f"{view.ioba(view.entries):#x}",
    ]
    (mark,) = drawing.window.marks
    place = (mark - occupancy.LEFT) / occupancy.WIDTH * view.entries
    assert number <= place <= number + 1


def test_no_table_is_drawn_for_a_finding_of_another_checkpoint(flipped, tmp_path):
    """The picture of another moment would mislead."""
    folder = tmp_path / "later"
    shutil.copytree(flipped, folder)
    result = json.loads((folder / "result.json").read_text())
    (finding,) = result["verdict"]["findings"]
    later = {**finding, "step": finding["step"] + 2}
    result["verdict"]["findings"] = [finding, later]
    (folder / "result.json").write_text(json.dumps(result))
    view = runview.view(folder, folders.read(folder), "run")
    assert view.findings[0].drawing is not None
    assert view.findings[1].drawing is None
    assert f"operation {finding['step']}" in view.findings[1].why_no_drawing
    program = json.loads((folder / "program.json").read_text())
    program["ops"][finding["step"] - 1] = {"op": "fresh"}
    earlier = {**finding, "step": finding["step"] - 1}  # on the guest before
    result["verdict"]["findings"] = [earlier, finding]
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "program.json").write_text(json.dumps(program))
    view = runview.view(folder, folders.read(folder), "run")
    assert [each.drawing is None for each in view.findings] == [True, False]
    (folder / "tables.npz").write_bytes(b"PK torn")
    view = runview.view(folder, folders.read(folder), "run")
    assert [each.drawing for each in view.findings] == [None, None]
    assert "cannot be read" in view.findings[0].why_no_drawing


def test_a_pe_is_drawn_from_its_violation_to_its_recovery(passed, page):
    result = load((passed / "result.json").read_bytes())
    stories = pestory.first_stories(result.timeline, 4)
    assert [story.title.rpartition(": ")[2] for story in stories] == ["PE 1", "PE 2"]
    kinds = [event.kind for event in stories[0].events]
    assert kinds[0] == "isolated"
    assert {"blocked", "call", "recovered"} <= set(kinds)
    assert [each.name for each in stories[0].stretches][:2] == ["normal", "stopped"]
    assert [each.name for each in stories[0].stretches if each.x == stories[0].lanes[0].x][-1] == "normal"
    heights = sum(each.height for each in stories[0].stretches if each.x == stories[0].lanes[0].x)
    assert heights == stories[0].height
    more = pestory.count(result.timeline) - len(stories)
    assert f"and {more} more, see {passed}/isolation.log" in page(passed).text


def test_a_finding_has_the_story_in_which_it_was_seen(passed):
    timeline = load((passed / "result.json").read_bytes()).timeline
    begins = [each for each in timeline if each.what == "isolated"]
    for begin in begins[:3]:
        assert f"operation {begin.step}:" in pestory.around(timeline, begin.step + 1).title
    assert pestory.around(timeline, begins[0].step - 1) is None
    assert pestory.around(timeline, timeline[-1].step + 1000) is None


def test_an_excerpt_has_what_the_operation_needs_and_says_what_is_left_out():
    ops = [
        {"op": "buffer", "name": "a", "pages": 4},
        {"op": "open", "file": "c", "path": "/dev/vfio/vfio"},
        {"op": "fresh"},
        {"op": "buffer", "name": "a", "pages": 4},
        {"op": "open", "file": "other", "path": "/dev/vfio/vfio"},
        {"op": "open", "file": "c", "path": "/dev/vfio/vfio"},
        {
            "op": "ioctl",
            "file": "c",
            "request": "MAP_DMA",
            "fields": {"vaddr": {"buffer": "a"}, "iova": "0x1000", "size": 4096},
        },
        *({"op": "read", "what": "pins"} for _ in range(50)),
        {"op": "ioctl", "file": "c", "request": "UNMAP_DMA", "fields": {"iova": 0x1000, "size": 4096}},
        {"op": "checkpoint", "label": "end"},
    ]
    told = excerpt.around("program.json", {"ops": ops}, "#57 {}", 58)
    numbers = [line.number for line in told.lines]
    assert numbers == [-1, 3, -1, 5, 6, -1, 54, 55, 56, 57, 58]
    assert [(line.number, line.mark) for line in told.lines if line.mark] == [(57, "did"), (58, "seen")]
    assert [line.text for line in told.lines if line.number < 0] == ["3 operations", "1 operation", "47 operations"]
    assert told.lines[9].text == "ioctl file=c request=UNMAP_DMA fields={iova=0x1000, size=4096}"
    assert (told.shown, told.total) == (8, 59)
    assert [line.number for line in excerpt.around("p", {"ops": ops[:7]}, "", 6).lines] == list(range(7))


def test_beyond_a_limit_the_page_says_where_the_rest_is(flipped, tmp_path):
    folder = tmp_path / "many"
    shutil.copytree(flipped, folder)
    result = json.loads((folder / "result.json").read_text())
    result["verdict"]["findings"] *= 300
    result["verdict"]["more"] = 1000
    (folder / "result.json").write_text(json.dumps(result))
    told = Page(htmlreport.build(folder))
    assert len(told.all("article", class_="finding")) == 8
    assert "1,300 findings" in told.text
    assert "200 further findings" in told.text
    assert f"and 1,092 more, see {folder}" in told.text


def test_a_run_that_could_not_be_judged_says_why_and_what_to_do(unbegun, page):
    told = page(unbegun)
    result = load((unbegun / "result.json").read_bytes())
    assert result.verdict.could_not[0] in told.text
    (step,) = [line.partition("next step:")[2].strip() for line in result.ended.report if "next step:" in line]
    assert f"What to do: {step}" in told.text


def test_a_series_shows_each_of_its_runs_and_which_it_has_only_half_of(series, page):
    told = page(series)
    assert {"run-1", "run-2"} <= set(told.ids)
    assert "two-pe is shown as far as the series tells it" in told.text
    assert told.text.count("Isolation of PEs") == 2


def test_a_leak_check_shows_its_tables_and_where_an_entry_came_from(leaking, page):
    told = page(leaking)
    assert "leak check: dd if=/dev/vda" in told.texts["h1"][0]
    assert "H_PUT_TCE" in told.text
    assert "disk1" in told.text
    assert told.texts["caption"] == ["Live entries", "Hypercalls"]


def test_a_campaign_shows_its_shrunk_programs_whole(campaign, page):
    told = page(campaign)
    assert "finding-1.json, all 12 operations" in told.text
    assert f"tcelab replay {campaign}/finding-1.json" in told.text
    assert "it goes on, or was killed" in told.text


@pytest.mark.parametrize("word", ["pass", "finding", "could-not-judge"])
def test_a_campaign_that_has_ended_tells_what_each_program_shows(word, campaign, tmp_path):
    folder = tmp_path / "ended"
    shutil.copytree(campaign, folder)
    found = [Finding(law="table", step=11, message="an entry is missing")] if word == "finding" else []
    ended = FuzzResult(
        tcelab="0.1",
        verdict=word,
        exit_code=exitcode.of_result(word),
        seed=7,
        findings=found,
        programs=["finding-1.json"] * len(found),
        replays=["tcelab replay it"] * len(found),
        could_not=["a guest was lost"] if word == "could-not-judge" else [],
        counts={"programs": 3, "operations": 15_000},
        quirks={},
    )
    (folder / "result.json").write_bytes(to_json(ended))
    told = Page(htmlreport.build(folder))
    assert problems(told) == []
    assert told.texts["strong"][0] == word.upper().replace("-", " ")
    assert "15,000 operations" in told.text
    for text, there in (
        ("an entry is missing", found),
        ("tcelab replay it", found),
        ("a guest was lost", ended.could_not),
    ):
        assert (text in told.text) == bool(there)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("result.json", b'{"schema": 1, "verdict"', "is not a result"),
        ("result.json", b'{"schema": 9, "verdict": {}}', "has schema 9"),
        ("night.json", b'{"schema": 1, "id"', "is not a night"),
        ("program.json", b"{}", "has left no result.json"),
        ("notes.txt", b"", "is the folder of no run and of no night"),
    ],
)
def test_what_cannot_be_told_is_one_line_and_exit_code_2(name, content, says, tcelab, tmp_path):
    folder = tmp_path / "torn"
    folder.mkdir()
    (folder / name).write_bytes(content)
    done = tcelab("report", str(folder), "-o", str(tmp_path / "out.html"))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert says in done.err
    assert not (tmp_path / "out.html").exists()
