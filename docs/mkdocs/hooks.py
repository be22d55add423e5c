"""Makes the Markdown files at the top of the repository pages of the site, so that no text stands twice."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> None:
    for name, page in TOP.items():
        if (ROOT / name).exists():
            text = re.sub(r"\]\(docs/", "](", (ROOT / name).read_text())
            files.append(File.generated(config, page, content=_from_the_top(text)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a page to those files, as they are right in the repository: ../README.md, ../../CONTRIBUTING.md."""
    up = "../" * page.file.src_uri.count("/")
    for name, target in TOP.items():
        markdown = markdown.replace(f"]({up}../{name}", f"]({up}{target}")
    return markdown


def _from_the_top(text: str) -> str:
    for name, target in TOP.items():
        text = text.replace(f"]({name}", f"]({target}")
    return text
