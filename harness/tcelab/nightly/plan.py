"""From a matrix to the cells of a night."""

from __future__ import annotations

import hashlib
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from tcelab import scenarios
from tcelab.commandline import NAME
from tcelab.errors import UsageError
from tcelab.history import names
from tcelab.history.nightfile import Cell, CellWord
from tcelab.job import setup
from tcelab.job.platforms import EMULATOR
from tcelab.nightly.lines import Place
from tcelab.nightly.matrixfile import (
    AXES,
    CellEntry,
    EachNight,
    ExcludeEntry,
    IncludeEntry,
    KernelEntry,
    Matrix,
    is_path,
    several,
)
from tcelab.qemu import machine

_MINUTE: Final = 60.0
_DAY: Final = 86400
_MACHINE: Final = ("qemu", "image", "cpu", "mutant")
"""What only a guest has."""
_WIDE: Final = 2
"""Cores of a cell that has several guests at once."""
_EXPECTED: Final = {"run": 30.0, "leakcheck": 60.0, "bench": 120.0, "command": 600.0}
"""Seconds that a cell of a kind may take, where nobody knows better."""
_HEX: Final = 8


@dataclass(frozen=True)
class PlannedCell:
    """A cell before it is run.

    :ivar cell: with nothing done yet.
    :ivar place: in the matrix.
    :ivar limit: seconds that it may take.
    :ivar weight: cores that it keeps busy.
    :ivar alone: nothing is to run beside it: it measures times.
    :ivar guess: seconds that it may take, where the history does not know.
    :ivar machine: what it boots: cells of one machine share a saved guest.
    :ivar recipes: what must be there before it, `qemu` and `image`; without those of the user.
    """

    cell: Cell
    place: Place
    limit: float
    weight: int
    alone: bool
    guess: float
    machine: str
    recipes: Mapping[str, str]


@dataclass(frozen=True)
class _Choice:
    """One combination, or one value of each list of a `[[cell]]`."""

    entry: CellEntry
    place: Place
    values: Mapping[str, Any]


def cells(matrix: Matrix, when: float) -> list[PlannedCell]:
    """All cells of a night, in the matrix's order.

    :param when: seconds since 1970 (UTC): a seed that is another one each night is the day's number.
    :raise UsageError: there is none, or one twice.
    """
    found: dict[Key, PlannedCell] = {}
    for choice in [*_combinations(matrix), *_single(matrix)]:
        planned = _planned(matrix, choice, when)
        if key(planned.cell) in found:
            raise matrix.wrong(choice.place, f"this cell is there twice: {title(planned.cell)}")
        found[key(planned.cell)] = planned
    if not found:
        raise UsageError(f"{matrix.path}: there is no cell in it", next_step="give [axes] with a scenario, or [[cell]]")
    return list(found.values())


Key = tuple[str, int]
"""What tells the cells of a night apart: id and seed."""


def key(cell: Cell) -> Key:
    return cell.id, cell.seed


def title(cell: Cell) -> str:
    """A cell for people, in one line."""
    return f"{_named(cell)} seed {cell.seed}" if cell.seed else _named(cell)


def _named(cell: Cell) -> str:
    return names.cell({each: getattr(cell, each) for each in names.NAMED}, cell.options)


# -- combinations


def _combinations(matrix: Matrix) -> list[_Choice]:
    """Of the axes, without those that are excluded, with what is included."""
    file = matrix.file
    choices: list[_Choice] = []
    if file.axes is not None:
        usual = {"seed": file.seed}
        axes = {axis: several(getattr(file.axes, axis)) or [usual.get(axis, "")] for axis in AXES}
        for values in itertools.product(*axes.values()):
            named = dict(zip(axes, values, strict=True))
            if not any(_excludes(each, named) for each in file.exclude):
                choices.append(_Choice(CellEntry(), ("axes",), named))
    original = list(choices)
    for index, include in enumerate(file.include):
        place: Place = ("include", index)
        said = {axis: value for axis in AXES if (value := getattr(include, axis)) is not None}
        matching = [
            number
            for number, each in enumerate(original)
            if all(each.values[axis] == value for axis, value in said.items())
        ]
        for number in matching:
            choices[number] = replace(choices[number], entry=_with(choices[number].entry, include))
        if not matching:
            if "scenario" not in said:
                raise matrix.wrong(place, "this matches no combination, and alone it has no scenario")
            more = {"qemu": setup.DEFAULT_QEMU, "image": setup.DEFAULT_IMAGE, "cpu": machine.CPU, "seed": file.seed}
            values_ = {**dict.fromkeys(AXES, ""), **more, **said}
            choices.append(_Choice(_with(CellEntry(), include), place, values_))
    return choices


def _excludes(entry: ExcludeEntry, values: Mapping[str, Any]) -> bool:
    said = {axis: several(value) for axis in AXES if (value := getattr(entry, axis)) is not None}
    return bool(said) and all(values[axis] in each for axis, each in said.items())


def _with(entry: CellEntry, include: IncludeEntry) -> CellEntry:
    """What a combination is told beside its values."""
    names = ("limit", "expect", "weight", "alone")
    told = {name: value for name in names if (value := getattr(include, name)) is not None}
    return msgspec.structs.replace(entry, options={**entry.options, **include.options}, **told)


def _single(matrix: Matrix) -> Iterator[_Choice]:
    """Of each `[[cell]]`, one for each value of its lists."""
    for index, entry in enumerate(matrix.file.cell):
        seeds = several(entry.seed) or [matrix.file.seed]
        axes = {axis: several(getattr(entry, axis)) if axis != "seed" else seeds for axis in AXES}
        for values in itertools.product(*axes.values()):
            yield _Choice(entry, ("cell", index), dict(zip(axes, values, strict=True)))


# -- one cell


def _planned(matrix: Matrix, choice: _Choice, when: float) -> PlannedCell:
    entry, values = choice.entry, dict(choice.values)
    emulated = entry.options.get("platform") == EMULATOR
    if entry.kind != "command" and not emulated:
        usual = {"qemu": setup.DEFAULT_QEMU, "image": setup.DEFAULT_IMAGE, "cpu": machine.CPU}
        values |= {axis: values[axis] or value for axis, value in usual.items()}
    if emulated:
        values |= dict.fromkeys(_MACHINE, "")
    seeded = entry.kind in {"run", "fuzz"} and not is_path(values["scenario"])
    seed = values["seed"] if seeded or (entry.kind == "command" and entry.seed is not None) else 0
    number = int(when // _DAY) if seed == EachNight else seed
    own = matrix.kernels.get(values["image"])
    cell = Cell(
        id="",
        kind=entry.kind,
        scenario=_scenario(entry, values),
        qemu=values["qemu"],
        image=own.image if own is not None else values["image"],
        kernel=values["image"] if own is not None else "",
        cpu=values["cpu"],
        topology=values["topology"],
        mutant=values["mutant"],
        options=entry.options,
        seed=number,
        command=_command(matrix, entry, values, own, number if seeded else None),
        expected=entry.expect or "pass",
    )
    cell.id = _id(cell)
    return PlannedCell(
        cell=cell,
        place=choice.place,
        limit=_MINUTE * max(entry.limit or matrix.file.limit, 0.0 if entry.limit else 2 * _minutes(entry.options)),
        weight=entry.weight or _weight(cell),
        alone=entry.kind == "bench" if entry.alone is None else entry.alone,
        guess=_guess(cell),
        machine=_machine(cell),
        recipes=_recipes(matrix, cell),
    )


def _scenario(entry: CellEntry, values: Mapping[str, Any]) -> str:
    if entry.kind == "command":
        return entry.name
    if entry.kind == "leakcheck":
        return " ".join(several(entry.command)) if entry.command else "exercise"
    return "random programs" if entry.kind == "fuzz" else str(values["scenario"])


def _id(cell: Cell) -> str:
    """From the choice alone, without the seed, and without paths."""
    chosen = [getattr(cell, name) for name in ("kind", "scenario", *_MACHINE, "kernel", "topology", "options")]
    digest = hashlib.sha256(msgspec.json.encode(chosen, order="deterministic")).hexdigest()[:_HEX]
    return f"{slug(cell, 80)}-{digest}"


def slug(cell: Cell, length: int) -> str:
    """A cell as part of a file's name, without its seed."""
    return re.sub("[^A-Za-z0-9.]+", "-", _named(cell))[:length].strip("-.")


def _minutes(options: Mapping[str, Any]) -> float:
    """Of a fuzz campaign."""
    minutes = options.get("minutes", 0)
    return float(minutes) if isinstance(minutes, int | float) else 0.0


def _guess(cell: Cell) -> float:
    if cell.kind == "fuzz":
        return _MINUTE * _minutes(cell.options) or _EXPECTED["bench"]
    return _EXPECTED[cell.kind] * (_WIDE if _weight(cell) > 1 else 1)


def _weight(cell: Cell) -> int:
    """The main job has its parts side by side, and a fuzz campaign its guests."""
    wide = cell.kind == "fuzz" or (cell.kind == "run" and cell.scenario == scenarios.DEFAULT)
    return _WIDE if wide and cell.options.get("platform") != EMULATOR else 1


def _machine(cell: Cell) -> str:
    if not cell.qemu:
        return ""
    chosen = [getattr(cell, name) for name in ("kernel", *_MACHINE, "topology")]
    own = scenarios.SCENARIOS.get(cell.scenario)
    where = list(own.topologies) if own is not None else cell.kind == "leakcheck"
    guarded = own is not None and own.isolation
    return str([*chosen, where, guarded, sorted(map(str, cell.options.items()))])


def _recipes(matrix: Matrix, cell: Cell) -> dict[str, str]:
    wanted = {
        "qemu": cell.qemu if cell.qemu not in matrix.qemus and not is_path(cell.qemu) else "",
        "image": cell.image,
    }
    return {what: name for what, name in wanted.items() if name}


# -- its command


def _command(
    matrix: Matrix, entry: CellEntry, values: Mapping[str, Any], own: KernelEntry | None, seed: int | None
) -> list[str]:
    if entry.kind == "command":
        return ["sh", "-c", entry.command] if isinstance(entry.command, str) else list(entry.command)
    target = str(values["scenario"])
    words = [NAME, entry.kind]
    if entry.kind in {"run", "bench"}:
        words.append(str(matrix.file_at(target)) if is_path(target) else target)
    if values["qemu"]:
        words += _guest(matrix, values, own)
    if values["topology"]:
        words += ["--topology", values["topology"]]
    if seed is not None:
        words += ["--seed", str(seed)]
    for name, value in entry.options.items():
        words += _option(f"--{name.replace('_', '-')}", value)
    if entry.kind == "leakcheck" and entry.command:
        words += ["--", *several(entry.command)]
    return words


def _guest(matrix: Matrix, values: Mapping[str, Any], own: KernelEntry | None) -> list[str]:
    qemu = values["qemu"]
    if qemu in matrix.qemus:
        qemu = str(matrix.file_at(matrix.qemus[qemu].path))
    elif is_path(qemu):
        qemu = str(matrix.file_at(qemu))
    words = ["--qemu", qemu, "--image", own.image if own is not None else values["image"], "--cpu", values["cpu"]]
    if own is not None:
        for name in ("kernel", "modules", "initrd"):
            if path := getattr(own, name):
                words += [f"--{name}", str(matrix.file_at(path))]
        words += [word for quirk in own.expect_quirks for word in ("--expect-quirk", quirk)]
    return [*words, *(["--mutant", values["mutant"]] if values["mutant"] else [])]


def _option(name: str, value: Any) -> list[str]:  # noqa: ANN401 - as TOML has it
    if isinstance(value, bool):
        return [name] if value else []
    return [word for each in several(value) for word in (name, str(each))]


def with_folder(cell: Cell, folder: str) -> list[str]:
    """The words of a cell's command, told where its artefacts go; without those that start tcelab."""
    if cell.kind == "command":
        return [word.replace("{out}", folder).replace("{seed}", str(cell.seed)) for word in cell.command]
    if cell.kind == "bench":
        return [*cell.command[1:3], "--json", f"{folder}/{BENCH}", *cell.command[3:]]
    return [cell.command[1], "--out", folder, *cell.command[2:]]


BENCH: Final = "bench.json"
"""What a bench leaves in its folder."""


def shown(cell: Cell) -> str:
    """The command of a cell, as a line for a shell."""
    return shlex.join(cell.command)


def words_of(word: CellWord) -> str:
    """A word for people."""
    return {"could-not-judge": "could not judge", "not-run": "not run"}.get(word, word)
