"""`docs/commands.md`: every verb with its options, made from the commands themselves.

`python -m tcelab.cli.commandspage > docs/commands.md` makes it anew; a test holds the page against this.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Final

import click

from tcelab import scenarios
from tcelab.cli import VERBS, cli

_INTRO: Final = """\
# Commands

<!-- Made from harness/tcelab/cli/: python -m tcelab.cli.commandspage > docs/commands.md -->

Every command takes `--help`. Exit codes, unless a command says otherwise: 0 pass, 1 finding, 2 wrong usage,
125 could not judge.

| verb | what it does |
| --- | --- |
{verbs}

The scenarios of `tcelab run`, `watch`, `diff` and `table dump`:

| scenario | what it does |
| --- | --- |
{scenarios}
"""
_SHARED: Final = """\
## Which guest

These options choose kernel, QEMU and machine; all commands that run a guest take them.

"""


def page() -> str:
    """The whole page, Markdown."""
    verbs = "\n".join(f"| [`tcelab {name}`](#tcelab-{name}) | {_cell(about)} |" for name, about in VERBS.items())
    rows = "\n".join(f"| `{name}` | {_cell(each.about)} |" for name, each in scenarios.SCENARIOS.items())
    every = list(_commands("tcelab", cli))
    shared = _shared(every)
    parts = [_INTRO.format(verbs=verbs, scenarios=rows), _SHARED + "\n".join(_table(shared))]
    return "\n".join([*parts, *("\n".join(_section(name, each, shared)) for name, each in every)])


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Each command with its full name, a group before those below it."""
    if name != "tcelab":
        yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _commands(f"{name} {below}", found)


def _shared(every: list[tuple[str, click.Command]]) -> list[click.Option]:
    """The options that all commands have that choose a kernel."""
    of_guests = [_options(each) for _, each in every if "--kernel" in _names(_options(each))]
    everywhere = frozenset.intersection(*(frozenset(map(_text, options)) for options in of_guests))
    return [option for option in of_guests[0] if _text(option) in everywhere]


def _section(name: str, command: click.Command, shared: list[click.Option]) -> Iterator[str]:
    options = _options(command)
    guests = {_text(each) for each in shared} <= {_text(each) for each in options}
    own = [each for each in options if not guests or _text(each) not in {_text(other) for other in shared}]
    takes = [each.make_metavar(click.Context(command)) for each in command.params if isinstance(each, click.Argument)]
    yield f"{'##' if name.count(' ') == 1 else '###'} {name}\n"
    if not isinstance(command, click.Group):
        yield f"`{' '.join([name, '[OPTIONS]', *takes])}`{', and [which guest](#which-guest)' if guests else ''}\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    if own:
        yield from _table(own)


def _names(options: list[click.Option]) -> set[str]:
    return {name for option in options for name in option.opts}


def _options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option)]


def _table(options: list[click.Option]) -> Iterator[str]:
    yield "| option | default | meaning |"
    yield "| --- | --- | --- |"
    for option in options:
        names = ", ".join(f"`{name}`" for name in option.opts)
        value = "" if option.is_flag or option.count else f" `{_value(option)}`"
        yield f"| {names}{value} | {_default(option)} | {_cell(option.help or '')} |"
    yield ""


def _value(option: click.Option) -> str:
    return option.make_metavar(click.Context(cli)).strip("[]").replace("|", "\\|")


def _default(option: click.Option) -> str:
    shown = option.default if option.show_default and not option.is_flag else None
    return "" if shown is None else f"`{shown}`"


def _text(option: click.Option) -> str:
    return f"{option.opts} {option.help}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").strip()


if __name__ == "__main__":
    sys.stdout.write(page())
