"""Which package of which suite: the rules, apart from apt so that they can be tested.

Suites come in groups, in order of preference. Within a group the newest version wins; a later group is
asked only for what the earlier ones lack. apt follows the same rule through :func:`preferences`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import NamedTuple

import msgspec
from debian.debian_support import NativeVersion

from tcelab.errors import HarnessError

__all__ = [
    "Package",
    "SuiteNote",
    "choose",
    "parse_index",
    "parse_simulation",
    "parse_update_failures",
    "preferences",
    "sort_suites",
]

Suites = Sequence[Sequence[str]]

# apt installs nothing automatically below 500 when it can choose; above 1000 it would even downgrade.
_FIRST_PRIORITY = 990
_NAME = re.compile(rb"^Package: (\S+)$", re.MULTILINE)


class Package(msgspec.Struct, frozen=True, order=True):
    """One Debian package as a suite's signed index describes it.

    :ivar suite: the first suite, in the recipe's order, that holds this version.
    :ivar sha256: of the ``.deb``, hexadecimal.
    :ivar size: of the ``.deb``, bytes.
    """

    name: str
    version: str
    architecture: str
    suite: str
    sha256: str
    size: int


class SuiteNote(msgspec.Struct, frozen=True, order=True):
    """Something a reader of the manifest must know about a suite, in apt's words."""

    suite: str
    reason: str


def parse_index(index: bytes, suite: str, patterns: Iterable[str]) -> list[Package]:
    """The packages of a ``Packages`` file whose name matches one of the patterns (shell style).

    :raise HarnessError: one of them lacks a field, or its version is none.
    """
    from debian.deb822 import Packages  # noqa: PLC0415 - slow, and most runs fetch nothing

    wanted = re.compile("|".join(_glob_to_regex(pattern) for pattern in patterns))
    found = []
    # An index holds tens of thousands of stanzas: 50 MB, of which no copy is made, and parsing all of them would take
    # 20 times as long.
    for head in _NAME.finditer(index):
        if wanted.fullmatch(head[1].decode()) is not None:
            begin, end = index.rfind(b"\n\n", 0, head.start()) + 1, index.find(b"\n\n", head.end())
            found.append(_package(Packages(index[begin : end if end >= 0 else None].strip(b"\n")), suite))
    return found


def _package(fields: Mapping[str, str], suite: str) -> Package:
    try:
        return Package(
            name=fields["Package"],
            version=str(NativeVersion(fields["Version"])),
            architecture=fields["Architecture"],
            suite=suite,
            sha256=fields["SHA256"],
            size=int(fields["Size"]),
        )
    except (KeyError, ValueError) as error:
        raise HarnessError(
            f"the index of {suite} describes {fields.get('Package', 'a package')} wrongly: {error}",
            next_step="try again later, or name another archive",
        ) from None


def _glob_to_regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


class SortedSuites(NamedTuple):
    """Suites by what can be done with them.

    :ivar usable: the groups asked for, without the suites left out.
    :ivar left_out: no index of theirs verified.
    :ivar not_refreshed: an older index of theirs, verified when it was fetched, is used.
    """

    usable: tuple[tuple[str, ...], ...]
    left_out: tuple[SuiteNote, ...]
    not_refreshed: tuple[SuiteNote, ...]


def sort_suites(suites: Suites, indices: Container[str], failures: Mapping[str, str]) -> SortedSuites:
    """Sort suites by whether apt holds a verified index and whether it could refresh it.

    :param failures: what :func:`parse_update_failures` found.
    """
    left_out, not_refreshed = [], []
    for suite in (suite for group in suites for suite in group):
        if suite not in indices:
            left_out.append(SuiteNote(suite, failures.get(suite, "apt gave no reason")))
        elif suite in failures:
            not_refreshed.append(SuiteNote(suite, failures[suite]))
    usable = tuple(tuple(suite for suite in group if suite in indices) for group in suites)
    return SortedSuites(usable, tuple(left_out), tuple(not_refreshed))


def choose(pattern: str, available: Iterable[Package], suites: Suites) -> Package:
    """The package for a name or pattern: first group of suites that has one, newest version in it.

    :raise HarnessError: no suite has it.
    """
    matching = [package for package in available if fnmatchcase(package.name, pattern)]
    for group in suites:
        of_group = [package for package in matching if package.suite in group]
        if of_group:
            # The same version often lies in two suites; the first named one is recorded.
            return max(of_group, key=lambda p: (NativeVersion(p.version), -list(group).index(p.suite)))
    names = ", ".join(suite for group in suites for suite in group) or "none"
    raise HarnessError(
        f"no package matches {pattern!r} in the suites that verify ({names})",
        next_step="try again later if a suite was left out, or name another suite in the recipe",
    )


def preferences(suites: Suites) -> str:
    """An apt preferences file that makes apt choose as :func:`choose` does."""
    stanzas = [
        f"Package: *\nPin: release n={suite}\nPin-Priority: {_FIRST_PRIORITY - rank}\n"
        for rank, group in enumerate(suites)
        for suite in group
    ]
    return "\n".join(stanzas)


def parse_update_failures(output: str) -> dict[str, str]:
    """What ``apt-get update`` said about each suite that failed: suite to reason, one line each."""
    failures: dict[str, str] = {}
    lines = output.splitlines()
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        failed = re.match(r"Err:\d+ \S+ ([^\s/]+)", line)
        if failed is not None:
            failures.setdefault(failed[1], following.strip().rstrip(":") or "not fetched")
        # Given after the list of fetches, when a signature is missing or wrong.
        unsigned = re.match(r"[EW]: .*'\S+ ([^\s/]+) (?:InRelease|Release)' (is not signed.*)", line)
        if unsigned is not None:
            failures.setdefault(unsigned[1], unsigned[2])
    return failures


def parse_simulation(output: str) -> list[tuple[str, str]]:
    """(name, version) of each package that ``apt-get --simulate install`` would install."""
    return re.findall(r"^Inst (\S+?)(?::\S+)? \((\S+) ", output, re.MULTILINE)
