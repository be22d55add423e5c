"""The report in a real browser: it loads without a word on the console, its filter and its links work, nothing that a
guest printed runs, and it fits a phone, a dark room, paper and a keyboard.

`TCELAB_SHOTS=FOLDER` keeps a picture of each page, to be looked at.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import madenight
import pytest

from tcelab import htmlreport

PHONE, DESK = (390, 844), (1280, 900)
KINDS = ("passed", "flipped", "series", "leaking", "campaign", "unbegun", "night", "gone")
CELL = "document.getElementById('{}')"


@pytest.fixture(scope="session")
def written(made, request):
    """The file of a report."""

    def of(kind, *others):
        path = made / f"{kind}{len(others)}.html"
        if not path.exists():
            path.write_bytes(htmlreport.build(request.getfixturevalue(kind), others))
        return path

    return of


@pytest.fixture(scope="session")
def large(made):
    nights = [madenight.large(300, day=day, wrong=10 + day) for day in range(6)]
    path = made / "large.html"
    path.write_bytes(htmlreport.build(madenight.write(made / "large", nights[-1]), nights))
    return path


def quiet(browser, path):
    """Nothing was said, and nothing but the file and its empty icon was asked for."""
    assert browser.said == []
    assert {each.partition("#")[0] for each in browser.asked} <= {path.as_uri(), "data:,"}


@pytest.mark.parametrize("kind", [*KINDS, "large"])
def test_a_page_loads_without_a_word_and_fits_each_screen(kind, browser, written, request):
    path = request.getfixturevalue("large") if kind == "large" else written(kind)
    shots = os.environ.get("TCELAB_SHOTS")
    for name, size, dark in (("phone", PHONE, False), ("desk", DESK, False), ("dark", DESK, True)):
        browser.open(path, *size, dark=dark)
        quiet(browser, path)
        assert browser.run("document.documentElement.scrollWidth") == size[0], name
        assert browser.run("getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)"
        )
        verdict = "document.querySelector('.verdict').getBoundingClientRect()"
        assert browser.run(f"{verdict}.bottom") < size[1], f"{name}: the verdict is not on the first screen"
        if shots:
            browser.screenshot(Path(shots) / f"{kind}-{name}.png", whole=kind != "large")


def test_the_filter_leaves_what_was_asked_for(browser, large):
    browser.open(large)
    shown = "[...document.querySelectorAll('.cell')].filter((each) => each.offsetParent !== null).length"
    rows = "[...document.querySelectorAll('.grid tbody tr')].filter((each) => each.offsetParent !== null).length"
    told = "document.getElementById('left').textContent"
    assert browser.run(shown) == 300
    every = browser.run(rows)
    browser.run("document.querySelector('.chip[data-state=finding]').click()")
    findings = browser.run("document.querySelectorAll('.cell[data-state=finding]').length")
    assert 0 < findings < 300
    assert browser.run(shown) == findings
    assert browser.run(told) == f"{findings} of 300 cells"
    assert browser.run(rows) <= findings < every
    assert browser.run("document.querySelector('.chip[data-state=finding]').getAttribute('aria-pressed')") == "true"
    browser.run("document.querySelector('.chip[data-state=\"\"]').click()")
    type_ = "(text) => { const box = document.getElementById('words'); box.value = text; "
    type_ += "box.dispatchEvent(new Event('input', {bubbles: true})); }"
    browser.run(f"({type_})('Isolation POWER9')")
    left = browser.run(shown)
    names = browser.run("[...document.querySelectorAll('.cell:not([hidden]) .find')].map((each) => each.textContent)")
    assert 0 < left == len(names) < 60
    assert all("isolation" in each and "power9" in each for each in names)
    browser.run(f"({type_})('no such words')")
    assert (browser.run(shown), browser.run(told)) == (0, "0 of 300 cells")


def test_a_link_leads_to_its_cell_and_opens_it_also_where_the_filter_hides_it(browser, large):
    browser.open(large)
    browser.run("document.querySelector('.chip[data-state=finding]').click()")
    anchor = browser.run("document.querySelector('details.cell[data-state=pass]').id")
    assert browser.run(f"{CELL.format(anchor)}.offsetParent === null")
    browser.run(f"document.querySelector('a.at[href=\"#{anchor}\"]').click()")
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run(f"{CELL.format(anchor)}.open && {CELL.format(anchor)}.offsetParent !== null")
    assert 0 <= browser.run(f"{CELL.format(anchor)}.getBoundingClientRect().top") < DESK[1]
    browser.open(large, fragment=f"#{anchor}")  # from outside, as from a mail
    assert browser.run(f"{CELL.format(anchor)}.open")


def test_a_replay_command_is_copied(browser, written):
    browser.open(written("flipped"))
    browser.run("window.copied = ''; document.addEventListener('copy', () => { copied = getSelection().toString(); });")
    browser.run("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
    browser.run("document.querySelector('[data-copy=run-finding-1-replay]').click()")
    assert browser.run("copied") == browser.run("document.getElementById('run-finding-1-replay').textContent")
    assert "Copied" in browser.run("document.querySelector('[data-copy=run-finding-1-replay]').textContent")
    browser.run(
        "navigator.clipboard.writeText = () => Promise.reject(new Error()); copied = ''"
    )  # as in an old browser
    browser.run("document.querySelector('[data-copy=run-finding-1-replay]').click()")
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run("getSelection().toString()") == browser.run(
        "document.getElementById('run-finding-1-replay').textContent"
    )


def test_a_keyboard_is_enough(browser, written):
    browser.open(written("night"))
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter", 13, "\r")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert browser.run("document.activeElement.id") == "main"
    seen = []
    for _ in range(40):
        browser.press("Tab", 9)
        seen.append(browser.run("[document.activeElement.tagName, document.activeElement.className]"))
        outline = "getComputedStyle(document.activeElement)"
        assert browser.run(f"{outline}.outlineStyle !== 'none' && parseFloat({outline}.outlineWidth) >= 2"), seen[-1]
    reached = {tuple(each) for each in seen}
    assert {("A", ""), ("INPUT", "")} <= reached
    assert any(tag == "A" and name.startswith("at") for tag, name in reached)
    assert any(tag == "BUTTON" and name.startswith("chip") for tag, name in reached)


def test_paper_has_what_is_folded_and_no_buttons(browser, written, tmp_path):
    browser.open(written("night"))
    folded = browser.run("document.querySelectorAll('details:not([open])').length")
    assert folded > 0
    browser.run(
        "window.folded = -1; window.addEventListener('beforeprint', () => {"
        " folded = document.querySelectorAll('details:not([open])').length; });"
    )
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert browser.run("folded") == 0
    assert browser.run("document.querySelectorAll('details:not([open])').length") == folded
    browser.look(*DESK, media="print")
    assert browser.run("getComputedStyle(document.querySelector('.copy')).display") == "none"
    assert browser.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"


HOSTILE = (
    "</script><script>window.owned=1</script><img src=x onerror=window.owned=1><svg onload=window.owned=1>"
    '"><a href=javascript:window.owned=1>x</a></title></style><iframe srcdoc="<script>parent.owned=1</script>">'
)


def test_nothing_that_a_guest_printed_runs(browser, flipped, tmp_path):
    folder = tmp_path / "hostile"
    shutil.copytree(flipped, folder)
    result = json.loads((folder / "result.json").read_text())
    for finding in result["verdict"]["findings"]:
        finding["message"] = finding["seen"] = HOSTILE
    result["program"]["name"] = result["replay"] = HOSTILE
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "console.log").write_text(HOSTILE)
    cell = madenight.cell(HOSTILE, "finding", number=0, qemu=HOSTILE)
    night = madenight.write(tmp_path / "night", madenight.night(cell, matrix=HOSTILE, stopped=HOSTILE), folder)
    for number, each in enumerate((folder, night)):
        path = tmp_path / f"{number}.html"
        path.write_bytes(htmlreport.build(each))
        browser.open(path)
        quiet(browser, path)
        assert browser.run("window.owned === undefined")
        assert browser.run("document.querySelectorAll('script, iframe, img').length") == 1
        assert browser.run("document.body.textContent").count("onerror=window.owned=1") > 2


def test_the_policy_stops_what_would_get_through(browser, written, tmp_path):
    """Should a template ever forget to escape: the browser refuses."""
    page = written("flipped").read_text()
    path = tmp_path / "forgotten.html"
    planted = "<script>window.owned=1</script><img src='https://example.org/x' onerror='window.owned=1'>"
    path.write_text(page.replace("<h1>", f"{planted}<h1 style='color:red'>", 1))
    browser.open(path)
    assert browser.run("window.owned === undefined")
    assert len([each for each in browser.said if "Content Security Policy" in each]) >= 3
