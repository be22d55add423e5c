"""An HTML page taken apart by the standard library's parser, and what is wrong with it as a page of ours."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "input", "br", "hr", "img", "line", "rect", "path", "circle", "polyline"}
OWN_TAGS = {
    *(
        "html",
        "head",
        "meta",
        "link",
        "title",
        "style",
        "body",
        "a",
        "main",
        "footer",
        "script",
        "h1",
        "h2",
        "h3",
        "h4",
    ),
    *(
        "h5",
        "h6",
        "p",
        "span",
        "strong",
        "nav",
        "ul",
        "ol",
        "li",
        "section",
        "article",
        "div",
        "dl",
        "dt",
        "dd",
        "code",
    ),
    *("pre", "mark", "button", "figure", "figcaption", "svg", "desc", "g", "text", "rect", "path", "line", "circle"),
    *("polyline", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "form", "fieldset"),
    *("legend", "label", "input", "output"),
}
ADDRESSES = {"href", "src", "xlink:href", "action", "formaction", "data", "poster", "srcset", "background"}
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


class Page(HTMLParser):
    """:ivar tags: each start tag with its attributes, in order; `texts`: by tag, the text right in each."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data.decode()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.text = ""
        self.unclosed: list[str] = []
        self.feed(self.data)
        self.close()

    def handle_starttag(self, tag, attrs):
        twice = [name for name, count in Counter(name for name, _ in attrs).items() if count > 1]
        assert not twice, (tag, twice)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data
            if self.open[-1] not in {"script", "style"}:
                self.text += data

    def all(self, tag, **attributes):
        """Attributes of each such element, `class_` for a class that it has among others."""
        wanted = attributes.pop("class_", None)
        return [
            own
            for name, own in self.tags
            if name == tag
            and (wanted is None or wanted in own.get("class", "").split())
            and all(own.get(key) == value for key, value in attributes.items())
        ]

    @property
    def ids(self):
        return [own["id"] for _, own in self.tags if "id" in own]


def problems(page: Page) -> list[str]:
    """What is wrong with it, line by line."""
    return [*_structure(page), *_addresses(page), *_script(page), *_access(page)]


def _structure(page):
    if page.open or page.unclosed:
        yield f"not closed: {page.open} {page.unclosed}"
    for name, count in Counter(page.ids).items():
        if count > 1:
            yield f"id {name} is there {count} times"
    if unknown := {tag for tag, _ in page.tags} - OWN_TAGS:
        yield f"tags that no template has: {sorted(unknown)}"
    if found := _UNSHOWN.search(page.data):
        yield f"a character that acts: {found[0]!r}"


def _addresses(page):
    ids = set(page.ids)
    for tag, own in page.tags:
        for name in ADDRESSES & set(own):
            value = own[name]
            if value.startswith("#"):
                if value[1:] not in ids:
                    yield f"{tag} leads to {value}, which is not there"
            elif value != "data:,":
                yield f"{tag} {name}={value} leads out of the page"
        for name in ("aria-labelledby", "for", "data-copy"):
            yield from (f"{tag} {name} names {each}" for each in own.get(name, "").split() if each not in ids)
    if "url(" in page.texts["style"][0] or "@import" in page.texts["style"][0]:
        yield "the style loads something"


def _script(page):
    """The policy lets our own style and script do, and nothing else; nothing asks for more."""
    (policy,) = [own["content"] for own in page.all("meta") if own.get("http-equiv") == "Content-Security-Policy"]
    allowed = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    if allowed.get("default-src") != "'none'" or {"unsafe-inline", "unsafe-eval"} & set(re.findall(r"[\w-]+", policy)):
        yield f"the policy lets too much do: {policy}"
    for tag in ("style", "script"):
        if len(page.all(tag)) != 1:
            yield f"{len(page.all(tag))} of {tag}"
        digest = base64.b64encode(hashlib.sha256(page.texts[tag][0].encode()).digest()).decode()
        if allowed.get(f"{tag}-src") != f"'sha256-{digest}'":
            yield f"the policy does not fit the {tag}"
    for tag, own in page.tags:
        yield from (f"{tag} has {name}" for name in own if name.startswith("on") or name == "style")


def _access(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    if levels[:1] != [1] or levels.count(1) != 1:
        yield f"headings begin with {levels[:3]}"
    yield from (f"h{b} after h{a}" for a, b in pairwise(levels) if b > a + 1)
    if page.all("html") != [{"lang": "en"}]:
        yield "no language"
    if not page.all("a", class_="skip"):
        yield "no skip link"
    yield from (f"th without scope: {own}" for own in page.all("th") if "scope" not in own)
    for own in page.all("svg"):
        if own.get("aria-hidden") != "true" and not (own.get("role") == "img" and own.get("aria-labelledby")):
            yield f"a picture without words: {own}"
    yield from (f"a button that may submit: {own}" for own in page.all("button") if own.get("type") != "button")
    yield from (f"{own} has no label" for own in page.all("input") if not page.all("label", **{"for": own.get("id")}))
    if "width=device-width" not in "".join(own.get("content", "") for own in page.all("meta", name="viewport")):
        yield "no viewport"
