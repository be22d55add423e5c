"""docs/glossary.md is in order, and its words are used."""

import re

from pagesteps import ROOT

ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)[
    2:
]
TEXTS = [
    path.read_text()
    for folder, kind in (("docs", "*.md"), ("harness", "*.py"), ("guest", "*.py"))
    for path in (ROOT / folder).rglob(kind)
    if path.name != "glossary.md"
]
WANTED = {
    *(
        "TCE",
        "LIOBN",
        "IOBA",
        "window",
        "container",
        "group",
        "PE",
        "PHB",
        "hcall",
        "RTAS",
        "EEH",
        "dynamic window",
        "base",
        "fork",
    ),
    *(
        "part",
        "view",
        "witness",
        "fold",
        "tag",
        "law",
        "finding",
        "quirk",
        "row",
        "mutant",
        "checkpoint",
        "step",
        "guard",
    ),
}


def test_the_words_of_the_field_and_ours_are_there_in_order_each_once():
    terms = [term for term, _, _ in ROWS]
    assert terms == sorted(set(terms), key=str.lower)
    assert set(terms) >= WANTED


def test_every_word_is_used_somewhere_else():
    text = "\n".join(TEXTS)
    assert [term for term, _, _ in ROWS if not re.search(rf"\b{re.escape(term)}(?:s|ed)?\b", text)] == []


def test_every_file_of_ours_that_is_named_as_a_source_is_there():
    named = [path for _, _, source in ROWS for path in re.findall(r"`([\w/]+(?:\.py|/))`", source)]
    homes = [ROOT, ROOT / "harness" / "tcelab"]
    assert [path for path in named if not any((home / path).exists() for home in homes)] == []
    assert len(named) > 10
