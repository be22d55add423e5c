"""Survivors, and the reasons why some may live."""

# ruff: noqa: T201

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from places import Mutant

ALIVE = {"survived", "no test"}


def line(mutant: Mutant) -> str:
    operator = mutant.operator.removeprefix("core/")
    return f"{mutant.file}:{mutant.spec.start_pos[0]} {mutant.function} {operator} #{mutant.nth}: {mutant.text}"


def diff(root: Path, mutant: Mutant) -> str:
    source = (root / mutant.file).read_text()
    changed = difflib.unified_diff(source.splitlines(), mutant.mutated(source).splitlines(), lineterm="", n=0)
    return "\n".join(each for each in changed if each[0] in "+-" and each[:3] not in {"+++", "---"})


def explained(path: Path, was: Mapping[str, str]) -> dict[tuple[str, str, str, str, int], str]:
    """The reason of each, by identity."""
    entries = tomllib.loads(path.read_text()).get("survivor", []) if path.exists() else []
    return {
        (
            was.get(each["file"], each["file"]),
            each["function"],
            each["operator"],
            each["line"],
            each.get("nth", 0),
        ): each["why"]
        for each in entries
    }


def entry(mutant: Mutant) -> str:
    """For survivors.toml."""
    nth = [f"nth = {mutant.nth}"] if mutant.nth else []
    return "\n".join(
        [
            "[[survivor]]",
            f'file = "{mutant.file}"',
            f'function = "{mutant.function}"',
            f'operator = "{mutant.operator}"',
            f"line = '''{mutant.text}'''",
            *nth,
            'why = ""',
        ]
    )


def judge(root: Path, path: Path, trials: list, most: float, was: Mapping[str, str]) -> int:
    """Print what became of all; 1 if more than `most` of them survived unexplained."""
    reasons = explained(path, was)
    alive = [each for each in trials if each.end in ALIVE]
    unexplained = [each.mutant for each in alive if each.mutant.identity not in reasons]
    for mutant in unexplained:
        print(f"\n# {line(mutant)}")
        print("\n".join(f"#   {each}" for each in diff(root, mutant).splitlines()))
        print(entry(mutant))
    for each in trials:
        if each.end not in ALIVE and each.mutant.identity in reasons:
            print(f"explained, but killed: {line(each.mutant)}")
    ends = Counter(each.end for each in trials)
    print(
        f"\n{len(trials)} mutants: {ends['killed']} killed, {ends['timeout']} killed by time-out,"
        f" {len(alive)} survived ({ends['no test']} of them run by no test);"
        f" {len(alive) - len(unexplained)} explained, {len(unexplained)} unexplained"
        f" ({len(unexplained) / len(trials):.1%})"
    )
    return 1 if len(unexplained) > most * len(trials) else 0
