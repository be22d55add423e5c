"""Every message in the sources with which tcelab gives up: what it raises, and why it could not judge."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HOST = Path(__file__).parents[2] / "harness" / "tcelab"
RAISED = {"HarnessError", "Unsupported", "GuestLost"}
"""And what is derived of them, wherever it is."""
UNDECIDED = {"undecided_because"}
LISTS = {"unknown", "_unknown", "could_not"}
"""Of reasons: what is appended to them."""


@dataclass(frozen=True)
class Reason:
    """:ivar text: what is fixed of the message: where something is put in, it has `{}`."""

    where: str
    text: str


def reasons() -> list[Reason]:
    texts = {path: path.read_text() for path in sorted(HOST.rglob("*.py"))}
    raised = _derived(ast.parse(text) for text in texts.values() if "class " in text and _names(text, RAISED))
    out = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)) if _names(text, raised | UNDECIDED | LISTS) else ():
            if isinstance(node, ast.Call) and node.args and _gives_up(node.func, raised):
                where = f"{path.relative_to(HOST)}:{node.lineno}"
                out += [Reason(where, text) for text in _texts(node.args[0])]
    return out


def _names(text: str, names: set[str]) -> bool:
    """Whether any of them is in a file's text: most files need not be parsed."""
    return any(name in text for name in names)


def _derived(trees: Iterable[ast.Module]) -> set[str]:
    raised = set(RAISED)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id in RAISED for b in node.bases):
                raised.add(node.name)
    return raised


def _gives_up(function: ast.expr, raised: set[str]) -> bool:
    match function:
        case ast.Name(id=name):
            return name in raised
        case ast.Attribute(attr=name) if name in UNDECIDED | raised:
            return True
        case ast.Attribute(attr="append", value=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in LISTS
    return False


def _texts(message: ast.expr) -> Iterator[str]:
    """Of a message that one of several may be, each; what comes from elsewhere is not written there."""
    if isinstance(message, ast.IfExp):
        yield from _texts(message.body)
        yield from _texts(message.orelse)
    elif text := _text(message):
        yield text


def _text(message: ast.expr) -> str:
    match message:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(each) or "{}" for each in values)
        case ast.Call(args=[first, *_]):
            return _text(first)
    return ""
