"""Puts the page together: one HTML file that needs no network, and in which nothing runs but our own script."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any, Final

import jinja2
from markupsafe import Markup

from tcelab.htmlreport.safetext import shown

_TEMPLATES: Final = "templates"


def policy(style: str, script: str) -> str:
    """The content security policy: this style and this script, nothing else, from nowhere."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(template: str, **values: Any) -> bytes:  # noqa: ANN401 - what a template names
    """A page in UTF-8. Each text that a template shows goes through `shown`, and then is escaped."""
    style, script = _own("report.css"), _own("report.js")
    own = {"style": Markup(style), "script": Markup(script), "policy": policy(style, script)}  # noqa: S704 - ours
    return _environment().get_template(template).render(**own, **values).encode()


@cache
def _environment() -> jinja2.Environment:
    """One, since to compile the templates is dear."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )


def _own(name: str) -> str:
    """A file of this package, without the white space at both ends, which the hash would have to count."""
    return (resources.files(__package__) / _TEMPLATES / name).read_text(encoding="utf-8").strip()


def _finalize(value: Any) -> Any:  # noqa: ANN401 - whatever a template shows
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
