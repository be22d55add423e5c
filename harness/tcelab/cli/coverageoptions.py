"""The options `--coverage`, and what they make of an exit code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from tcelab.coverage.result import Coverage
from tcelab.coverage.text import open_blocks, percent
from tcelab.coverage.units import DEFAULT, UNITS
from tcelab.errors import UsageError
from tcelab.job.platforms import QEMU
from tcelab.job.recording import CoverageChoice
from tcelab.run import exitcode

F = TypeVar("F", bound=Callable[..., Any])


class _Percent(click.FloatRange):
    """A number that others can be compared with: `nan` lies in every range."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """As `click.FloatRange`."""
        number = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is not a number", param, ctx) if math.isnan(number) else number


FAIL_UNDER = click.option(
    "--coverage-fail-under",
    type=_Percent(0, 100),
    metavar="PERCENT",
    help="Exit with 1 when fewer of the blocks that can be reached were reached, with 125 when that is not known.",
)

_OPTIONS = [
    click.option(
        "--coverage", is_flag=True, help="Record what is executed of the kernel's code, by a plugin of QEMU's."
    ),
    click.option(
        "--coverage-of",
        multiple=True,
        metavar="NAME",
        help=f"Record this: a unit ({', '.join(UNITS)}), a module, or a pattern of built-in functions as in tce_*."
        f" By default {', '.join(DEFAULT)}.",
    ),
    FAIL_UNDER,
]


def coverage_options(function: F) -> F:
    """Add the options to a command; `recorded` takes them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def recorded(options: dict[str, Any]) -> CoverageChoice | None:
    """Take them out of a command's options.

    :raise UsageError: no kernel of the platform can be looked into.
    """
    wanted, of, least = (options.pop(name) for name in ("coverage", "coverage_of", "coverage_fail_under"))
    if not wanted and not of and least is None:
        return None
    if options.get("platform", QEMU) != QEMU:
        raise UsageError(f"--coverage is recorded by QEMU: platform {options['platform']} has none")
    return CoverageChoice(tuple(of), least)


def enough(asked: CoverageChoice | None, coverage: Coverage | None, code: int) -> int:
    """The exit code of a command that would end with `code`."""
    if asked is None or asked.fail_under is None or code != exitcode.of_result("pass"):
        return code
    units = [] if coverage is None else coverage.units
    reached, blocks = sum(each.reached for each in units), sum(open_blocks(each) for each in units)
    share = percent(reached, blocks)
    if blocks and share >= asked.fail_under:
        return code
    told = f"coverage: {reached} of {blocks} blocks that can be reached, {share:.1f} %, and --coverage-fail-under says"
    unknown = coverage is None or not blocks or bool(coverage.missing)
    code = exitcode.of_result("could-not-judge" if unknown else "finding")
    click.echo(f"{told} {asked.fail_under:g} %: exit code {code}", err=True)
    return code
