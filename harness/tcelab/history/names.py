"""What cells and versions are called for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

NAMED: Final = ("kind", "scenario", "qemu", "image", "kernel", "cpu", "topology", "mutant")
"""Columns of a choice of which its name is made, and its options."""

_PASSING: Final = ("base.boot", "base.built", "base.key", "agent.digest", "host.")
"""Versions that say nothing about what is under test: of the saved guest, of the host."""
_SUMMARY: Final = ("guest.kernel", "kernel", "qemu.version", "qemu", "qemu.firmware", "image")
"""What a reader asks first."""


def cell(choice: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """A cell without its seed, in one line.

    :param choice: its columns `NAMED`.
    """
    words = [
        "" if choice["kind"] == "command" else choice["kind"],
        choice["scenario"],
        *(choice["kernel"] or choice["image"], choice["qemu"], choice["cpu"], choice["topology"], choice["mutant"]),
        *(name if value is True else f"{name}={value}" for name, value in options.items()),
    ]
    return " ".join(each for each in words if each)


def flat(versions: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"qemu": {"version": 10}}` as `{"qemu.version": "10"}`, without what changes from run to run."""
    return dict(_flat(versions, prefix))


def _flat(versions: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in versions.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.")
        elif not path.startswith(_PASSING):
            yield path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def summary(versions: Mapping[str, Any]) -> str:
    """The kernel and QEMU, in a few words; empty if neither is known."""
    known = flat(versions)
    return ", ".join(f"{name.removesuffix('.version')} {known[name]}" for name in _SUMMARY if known.get(name))


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Versions that differ: name, before, after."""
    one, other = flat(before), flat(after)
    names = dict.fromkeys([*one, *other])
    return [(name, one.get(name, ""), other.get(name, "")) for name in names if one.get(name) != other.get(name)]
