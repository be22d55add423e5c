"""Every page is sound: it leads nowhere else, runs nothing but its own script, and can be read by everybody."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from importlib import resources

import madenight
import pytest
from htmlpage import Page, problems

from tcelab import htmlreport
from tcelab.history.nightfile import CellFigure
from tcelab.htmlreport.safetext import shown

KINDS = ("passed", "flipped", "series", "leaking", "campaign", "unbegun", "night", "gone")
CSS = (resources.files("tcelab.htmlreport") / "templates" / "report.css").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_sound(kind, page, request):
    assert problems(page(request.getfixturevalue(kind))) == []


def test_a_page_with_trends_is_sound(night, gone, page):
    (other,) = htmlreport.nights(gone)
    other.cells[0].figures = [CellFigure(name="map", unit="us", values=[4.0, 5.0], better="lower")]
    assert problems(page(night, other)) == []


# -- what others wrote

HOSTILE = (
    "</script><script>window.owned=1</script>",
    "<img src=x onerror=window.owned=1>",
    '"><svg onload="window.owned=1">',
    "' autofocus onfocus='window.owned=1",
    "javascript:window.owned=1",
    "</style><style>*{display:none}</style>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b]0;title\x07\x00\x9b2J",
    "\u202egnirts\u2066\ufeff",
)


def poisoned(value, text):
    """With that in the place of every text, of every key too that is no field's."""
    if isinstance(value, str):
        return text
    if isinstance(value, list):
        return [poisoned(each, text) for each in value]
    return {key: poisoned(each, text) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.fixture
def hostile(flipped, tmp_path):
    """A run whose guest, program and kernel say nothing else; and a night of such runs."""
    text = " ".join(HOSTILE)
    folder = tmp_path / "hostile"
    shutil.copytree(flipped, folder)
    result = json.loads((folder / "result.json").read_text())
    for finding in result["verdict"]["findings"]:
        finding.update(dict.fromkeys(("law", "message", "expected", "seen", "operation", "view", "quirk"), text))
    for name in ("versions", "options", "laws", "artefacts"):
        result[name] = {text: text, **poisoned(result[name], text)}
    result["verdict"]["could_not"] = result["ended"]["report"] = [text, f"  next step: {text}"]
    result["replay"] = result["program"]["name"] = result["program"]["topology"] = text
    result["versions"]["emulator"] = {"profile": text}
    result["versions"]["provenance"] = {}
    (folder / "result.json").write_text(json.dumps(result))
    program = json.loads((folder / "program.json").read_text())
    program["ops"] = [{**op, "label": text, text: text} for op in program["ops"]]
    (folder / "program.json").write_text(json.dumps(program))
    (folder / "console.log").write_bytes(b"\xff\xfe" + "\r\n".join(HOSTILE).encode() + b"\xc0\x80")
    cell = madenight.cell(text, "finding", number=0, qemu=text, image=text, cpu=text, mutant=text, options={text: text})
    cell.findings = [madenight.found(law=text, key=text, message=text)]
    cell.command = ["tcelab", text]
    cell.figures = [CellFigure(name=text, unit=text, values=[1.0, 2.0])]
    right = madenight.cell(text, number=1, qemu=text)
    nights = [madenight.night(cell, right, id=text, matrix=text, host={text: text}, stopped=text, day=1)]
    nights.append(madenight.night(cell, day=2))
    return folder, madenight.write(tmp_path / "night", nights[0], folder), nights[1]


def test_nothing_that_others_wrote_acts(hostile):
    run, night, other = hostile
    for made in (Page(htmlreport.build(run)), Page(htmlreport.build(night, [other]))):
        assert problems(made) == []
        for each in HOSTILE:
            assert shown(each) in made.text, each


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\tb\nc\r\nd\re", "a\tb\nc\nd\\x0de"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("half \udc80", "half \\udc80"),
        ("plain é 漢", "plain é 漢"),
    ],
)
def test_an_acting_character_is_shown_as_what_it_is(text, seen):
    assert shown(text) == seen


# -- colours

PAIRS = (
    *itertools.product(("text", "muted", "link"), ("page", "panel", "soft")),
    *((f"{word}-text", word) for word in ("pass", "finding", "could-not-judge", "flaky", "not-run", "mark")),
    *itertools.product(["entry-text"], ("empty", "read", "write", "read-write", "none")),
    *(
        ("glyph-text", kind)
        for kind in ("isolated", "violation", "blocked", "reapplied", "call", "recovered", "unblamed")
    ),
    *(("text", state) for state in ("normal", "stopped", "thawed", "reset", "unconfigured")),
)
SEEN = ("line", "focus", "wrong", "l2", "l3", "l4")
"""Colours of shapes, beside the page."""


def variables():
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", each)) for each in (light, dark)]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_is_readable_on_what_is_behind_it(scheme):
    colours = variables()[scheme]
    assert set(colours) == set(variables()[0])
    weak = {pair: round(contrast(*(colours[each] for each in pair)), 2) for pair in PAIRS}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
    weak = {each: round(contrast(colours[each], colours["page"]), 2) for each in SEEN}
    assert {each: ratio for each, ratio in weak.items() if ratio < 3} == {}


def test_every_colour_is_a_variable_that_the_contrasts_know():
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(|\bhsla?\(", rules) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", rules))
    assert used == set(variables()[0])


def test_print_shows_what_is_folded_and_scrolled():
    (printed,) = re.findall(r"@media print \{(.*)\}", CSS, re.DOTALL)
    assert "overflow: visible; max-height: none" in printed
    assert "prefers-color-scheme: dark" in CSS
