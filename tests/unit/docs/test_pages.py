"""The pages of docs/ make a site, and what they name is there: commands, options, files, functions."""

import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import publicreports
import pytest

from tcelab.cli import VERBS, cli, commandspage
from tcelab.emulator import quirkspage
from tcelab.history import answerspage
from tcelab.image import defectspage
from tcelab.judge import LAWS
from tcelab.leakcheck.leakresult import LeakResult
from tcelab.program import operationspage
from tcelab.program.structpage import fields_told
from tcelab.report import lawspage, resultpage
from tcelab.report.result import Result
from tcelab.testing import plugin

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
CONFIG = DOCS / "mkdocs" / "mkdocs.yml"
QUIET = {"NO_MKDOCS_2_WARNING": "1"}
MADE = [answerspage, commandspage, lawspage, operationspage, quirkspage, resultpage]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [*TOP, *sorted(DOCS.rglob("*.md"))] if path.exists()}
FOREIGN = {"--cap-add", "--log-cli-level"}
"""Options of other programs that pages name."""


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    """A link or an anchor that leads nowhere, or a page that stands in no menu, is a warning.

    Never with --quiet: warnings that are not shown are not counted either.
    """
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(CONFIG), "-d", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = re.compile(r"""<(?:script|img|link rel="(?:stylesheet|icon)")[^>]* (?:src|href)="(?:https?:)?//""")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    assert [page.name for page in pages if fetched.search(page.read_text())] == []


@pytest.mark.parametrize("maker", MADE, ids=lambda maker: maker.__name__)
def test_a_page_that_is_made_from_the_code_is_what_the_code_says(maker):
    name = maker.__name__.rpartition(".")[2].removesuffix("page")
    page = (DOCS / f"{name}.md").read_text()
    assert page == maker.page(), "make it anew: ./scripts/pages"
    assert f"python -m {maker.__name__} > docs/{name}.md" in page
    assert f"{maker.__name__.removeprefix('tcelab.')} " in (ROOT / "scripts" / "pages").read_text().replace(";", " ")


def test_the_pages_of_defects_are_what_the_cures_say():
    made = defectspage.pages()
    there = {path.name: path.read_text() for path in (DOCS / "defects").iterdir()}
    assert there == made, "make them anew: ./scripts/pages"
    assert "tcelab.image.defectspage docs/defects" in (ROOT / "scripts" / "pages").read_text()


def test_the_page_of_reports_is_what_their_tests_say():
    assert (DOCS / "reports.md").read_text() == publicreports.page(), "make it anew: ./scripts/pages"
    assert len(publicreports.reports()) == len(list(publicreports.FOLDER.glob("test_*.py"))) > 0


@pytest.mark.parametrize(
    ("root", "told"), [(Result, resultpage.STRUCTS), (LeakResult, (*resultpage.LEAKS, *resultpage.STRUCTS))]
)
def test_the_page_of_the_result_has_every_struct_that_a_result_may_hold(root, told):
    """Whatever the file's struct leads to."""
    found, ahead = set(), [msgspec.inspect.type_info(root)]
    while ahead:
        kind = ahead.pop()
        if isinstance(kind, msgspec.inspect.StructType):
            ahead += [] if kind.cls in found else [field.type for field in kind.fields]
            found.add(kind.cls)
        below = (getattr(kind, name, None) for name in ("item_type", "key_type", "value_type"))
        ahead += [each for each in [*below, *getattr(kind, "types", ())] if each is not None]
    assert found >= {root}
    assert found <= set(told)
    assert set(told) - set(resultpage.STRUCTS) <= found
    assert root is LeakResult or found == set(told)


@pytest.mark.parametrize(
    "kind", [*resultpage.STRUCTS, *resultpage.LEAKS, *answerspage.STRUCTS], ids=lambda kind: kind.__name__
)
def test_each_field_of_a_result_has_its_meaning(kind):
    told = fields_told(kind)
    assert [name for name in kind.__struct_fields__ if not told.get(name)] == []


def blocks(text):
    """Lines of code blocks, fenced or indented, without the prompt."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield (line if fenced else line[4:]).removeprefix("$ ")


def commands(text):
    """Every command of ours that a text shows, in blocks and in words."""
    shown = [*blocks(text), *re.findall(r"`([^`\n]+)`", text)]
    for line in shown:
        words = line.partition(" #")[0].partition(" | ")[0].partition("; ")[0].strip()
        words = re.sub(r"^(?:\.?/?(?:[\w.~-]+/)*)?tcelab ", "tcelab ", words)
        words = re.sub(r"^\./scripts/demo(?: |$)", "tcelab run ", words)
        if words.startswith("tcelab ") and not words.startswith("tcelab [") and "…" not in words:
            yield words.strip()


def command_of(words):
    """The command that words begin with, and the rest of them."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        command = command.get_command(context, words.pop(0))
        assert command is not None, "no such command"
    return command, words


COMMANDS = sorted({(name, line) for name, text in PAGES.items() for line in commands(text)})


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_shows_exists_with_its_options(name):
    for page, line in COMMANDS:
        if page != name:
            continue
        words = [word for word in shlex.split(line)[1:] if word not in {"...", "[OPTIONS]"}]
        command, words = command_of(words)
        ours = words[: words.index("--")] if "--" in words else words
        known = {"--help", "-h", "--version"} | {option for each in command.params for option in each.opts}
        assert {word.partition("=")[0] for word in ours if word.startswith("-") and word != "-"} <= known, line


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 60
    assert len({name for name, _ in COMMANDS}) > 10


def every_command():
    ahead = [cli]
    while ahead:
        command = ahead.pop()
        yield command
        if isinstance(command, click.Group):
            ahead += [command.get_command(click.Context(command), each) for each in command.list_commands(None)]


def every_option():
    for command in every_command():
        yield from (option for each in command.params for option in each.opts)


def test_every_verb_and_every_verbs_verb_can_be_talkative_and_takes_seed_0():
    met = 0
    for command in every_command():
        options = {option: each for each in command.params for option in each.opts}
        assert "-v" in options
        if "--seed" in options and isinstance(options["--seed"].type, click.IntRange):
            met += 1
            assert options["--seed"].type.min == 0
    assert met > 3


def test_every_option_that_a_page_names_in_its_text_exists():
    ours = {*every_option(), *FOREIGN, "--help", "--version", "--tcelab-boot"}
    known = ours | {f"--tcelab-{name}" for name in plugin.OPTIONS}
    named = {
        (page, option)
        for page, text in PAGES.items()
        for option in re.findall(r"`(--[a-z][a-z-]*[a-z])(?![\w-])", text)
    }
    assert len(named) > 40
    assert {(page, option) for page, option in named if option not in known} == set()


def test_the_page_on_pytest_has_every_option_of_the_plugin():
    text = PAGES["docs/pytest.md"]
    assert [name for name in [*plugin.OPTIONS, "boot"] if f"`--tcelab-{name}`" not in text] == []


PATH = re.compile(r"`([\w.*-]+(?:/[\w.*-]+)*/?)`")
FOLDERS = [ROOT, ROOT / "harness" / "tcelab", ROOT / "harness" / "tcelab" / "judge", ROOT / "guest"]


def named_files(text):
    """Paths of the tree that a text names in words: those that begin with one of its folders, and Python files. What is
    in `build` is made, by whoever has made it.
    """
    for path in PATH.findall(text):
        first = path.partition("/")[0]
        if first == "build":
            continue
        if path.endswith(".py") or ("/" in path and any((folder / first).is_dir() for folder in FOLDERS)):
            yield path


def in_tree(path):
    return any(next(folder.glob(path.rstrip("/")), None) for folder in FOLDERS)


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_is_there(name):
    text = PAGES[name]
    shown = [path for line in blocks(text) for path in re.findall(r"(?<![\w/.-])docs/[\w/.-]+\.(?:json|py)", line)]
    made = set(re.findall(r'title="([^":]+)', text))  # by a worked example
    assert [path for path in [*named_files(text), *shown] if not in_tree(path) and path not in made] == []


def test_there_are_files_to_check():
    assert sum(len(list(named_files(text))) for text in PAGES.values()) > 80


def test_every_module_and_object_that_a_page_names_can_be_found():
    names = {name for text in PAGES.values() for name in re.findall(r"`(tcelab(?:\.\w+)+)`", text)}
    assert names
    for name in names:
        pkgutil.resolve_name(name)


HUNTS = re.findall(r"^\| (.+) \| `([\w./]+)` \| `([^`|]+)` \|$", PAGES["docs/architecture.md"], re.MULTILINE)


def test_the_architecture_says_in_which_file_a_thing_is():
    assert len(HUNTS) > 15
    for what, path, there in HUNTS:
        (found,) = [folder / path for folder in FOLDERS if (folder / path).is_file()]
        assert there in found.read_text(), what


def test_the_architecture_has_every_package_and_loose_module():
    package = ROOT / "harness" / "tcelab"
    rooms = re.findall(r"^\| `([\w./]+/)`", PAGES["docs/architecture.md"], re.MULTILINE)
    assert {f"{path.parent.name}/" for path in package.glob("*/__init__.py")} <= set(rooms)
    loose = PAGES["docs/architecture.md"].partition("Loose modules:")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+\.py)`", loose)) == sorted(
        path.name for path in package.glob("*.py") if not path.name.startswith("__")
    )


def test_a_sample_of_a_report_has_the_laws_of_today():
    for page in ("README.md", "docs/start.md"):
        rows = re.findall(r"^    \| (\w+) +\| +[\d,]+ \| +\d+ \| [\w ]+ \|$", PAGES[page], re.MULTILINE)
        assert [row for row in rows if not row.isdigit()] in (list(LAWS), []), page
    assert "| evidence " in PAGES["docs/start.md"]


def test_the_readme_has_every_verb():
    rows = re.findall(r"^\| `tcelab (\w+)` \| (.+) \|$", PAGES["README.md"], re.MULTILINE)
    assert dict(rows) == VERBS


def test_the_page_on_pytest_shows_the_example_as_it_is():
    example = (DOCS / "examples" / "test_window.py").read_text()
    assert f"```python\n{example}```" in PAGES["docs/pytest.md"]
    (shown,) = re.findall(r"^```python\n(.*?)^```$", PAGES["README.md"], re.MULTILINE | re.DOTALL)
    assert all(part.strip() in example for part in shown.split("\n\n\n"))
