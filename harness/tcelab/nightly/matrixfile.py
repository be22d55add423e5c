"""The matrix file, TOML: read strictly, each name in it looked up. What is wrong is told with its line."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from tcelab import image
from tcelab.errors import UsageError, in_words
from tcelab.history.nightfile import CellWord
from tcelab.image import mutants
from tcelab.image.recipe import GuestRecipe, QemuRecipe, load
from tcelab.job import setup
from tcelab.nightly.lines import Lines, Place
from tcelab.program.topology import TOPOLOGIES
from tcelab.qemu import machine
from tcelab.quirks import QUIRKS
from tcelab.scenarios import SCENARIOS

T = TypeVar("T")
Kind = Literal["run", "leakcheck", "fuzz", "bench", "command"]
Several = str | list[str]
"""One value, or a list: a cell for each."""
EachNight: Final = "nightly"
"""In the place of a seed: another one each night."""
Seed = Annotated[int, msgspec.Meta(ge=0)] | Literal["nightly"]
Minutes = Annotated[float, msgspec.Meta(gt=0)]

DEFAULT: Final = Path(__file__).with_name("default.toml")
"""The matrix where none is named."""
AXES: Final = ("qemu", "image", "cpu", "topology", "mutant", "scenario", "seed")
"""In the order in which the cells of a matrix vary, the last one fastest."""

_PLACE: Final = re.compile(r" - at `\$(.*)`$")
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]*)`")
_INVALID: Final = re.compile(r"Invalid enum value '([^']*)'")
_AT_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$|^.*line (\d+).*$")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class KernelEntry(_Strict, frozen=True, kw_only=True):
    """A kernel of the user's; paths are relative to the matrix. See the options of `tcelab run`."""

    kernel: str
    modules: str = ""
    initrd: str = ""
    image: str = setup.DEFAULT_IMAGE
    expect_quirks: list[str] = []


class QemuEntry(_Strict, frozen=True, kw_only=True):
    """A qemu-system-ppc64 of the user's."""

    path: str


class AxesEntry(_Strict, frozen=True, kw_only=True):
    """The axes: one cell for each combination."""

    qemu: Several = setup.DEFAULT_QEMU
    image: Several = setup.DEFAULT_IMAGE
    cpu: Several = machine.CPU
    topology: Several = ""
    mutant: Several = ""
    scenario: Several
    seed: Seed | list[Seed] | None = None


class ExcludeEntry(_Strict, frozen=True, kw_only=True):
    """Combinations that are left out: those that match in everything it names. A list matches each of its values."""

    qemu: Several | None = None
    image: Several | None = None
    cpu: Several | None = None
    topology: Several | None = None
    mutant: Several | None = None
    scenario: Several | None = None
    seed: Seed | list[Seed] | None = None


class IncludeEntry(_Strict, frozen=True, kw_only=True):
    """What is said of the combinations that it matches; where it matches none, a combination more."""

    qemu: str | None = None
    image: str | None = None
    cpu: str | None = None
    topology: str | None = None
    mutant: str | None = None
    scenario: str | None = None
    seed: Seed | None = None
    options: dict[str, Any] = {}
    limit: Minutes | None = None
    expect: CellWord | None = None
    weight: Annotated[int, msgspec.Meta(ge=1)] | None = None
    alone: bool | None = None


class CellEntry(_Strict, frozen=True, kw_only=True):
    """Cells beside the combinations; a list in the place of a value is a cell for each.

    :ivar name: of a `command`, instead of a scenario.
    :ivar qemu: likewise `image` and `cpu`: empty: the usual one; of a `command`: it needs none.
    :ivar command: of a `command`: its words, or a line for the shell; of a `leakcheck`: what the guest runs.
    """

    kind: Kind = "run"
    qemu: Several = ""
    image: Several = ""
    cpu: Several = ""
    topology: Several = ""
    mutant: Several = ""
    scenario: Several = ""
    seed: Seed | list[Seed] | None = None
    name: str = ""
    command: str | list[str] = ""
    options: dict[str, Any] = {}
    limit: Minutes | None = None
    expect: CellWord | None = None
    weight: Annotated[int, msgspec.Meta(ge=1)] | None = None
    alone: bool | None = None


class _File(_Strict, frozen=True, kw_only=True):
    """The whole file.

    :ivar minutes: the night's time; None: as long as it takes.
    :ivar limit: minutes that a cell may take that says nothing else.
    :ivar folder: where commands are run, relative to the file's own.
    """

    minutes: Minutes | None = None
    limit: Minutes = 60.0
    seed: Seed = 1
    folder: str = "."
    kernels: dict[str, Any] = {}
    qemus: dict[str, Any] = {}
    axes: AxesEntry | None = None
    exclude: list[ExcludeEntry] = []
    include: list[IncludeEntry] = []
    cell: list[CellEntry] = []


@dataclass(frozen=True)
class Vocabulary:
    """What the command line knows.

    :ivar benches: names of the benchmarks.
    :ivar options: names of a verb's options, without the dashes; by `run`, `leakcheck`, `fuzz`, `bench NAME`.
    """

    benches: Collection[str]
    options: Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Matrix:
    """A file that was read, and what belongs to it."""

    path: Path
    sha256: str
    file: _File
    kernels: Mapping[str, KernelEntry]
    qemus: Mapping[str, QemuEntry]
    lines: Lines

    def wrong(self, place: Place, what: str, word: str = "") -> UsageError:
        """An error about what stands there."""
        return _error(self.path, self.lines.of(place, word), what)

    def file_at(self, name: str) -> Path:
        """A path in the file, which is relative to the file's folder."""
        return (self.path.absolute().parent / Path(name).expanduser()).resolve()

    @property
    def folder(self) -> Path:
        """Where commands are run."""
        return self.file_at(self.file.folder)


def read(path: Path, known: Vocabulary) -> Matrix:
    """Read a matrix and check every name in it.

    :raise UsageError: something in it is wrong: one line, with the file's and the nearest known name.
    """
    try:
        data = path.read_bytes()
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        number = int(found[1] or found[2]) if found else len(text.splitlines())
        raise _error(path, number, _AT_LINE.sub("", str(error)) or str(error)) from None
    lines = Lines(text)
    file = _typed(fields, _File, path, lines, ())
    kernels = {name: _typed(each, KernelEntry, path, lines, ("kernels", name)) for name, each in file.kernels.items()}
    qemus = {name: _typed(each, QemuEntry, path, lines, ("qemus", name)) for name, each in file.qemus.items()}
    matrix = Matrix(path, hashlib.sha256(data).hexdigest(), file, kernels, qemus, lines)
    _Names(matrix, known).check()
    return matrix


def missing(matrix: Matrix) -> Iterator[str]:
    """A line about each file of the user's that is not there. It may be a kernel that could not be built tonight, which
    must not cost the other cells: so it is no error.
    """
    named: list[tuple[Place, str]] = [(("qemus", name, "path"), each.path) for name, each in matrix.qemus.items()]
    for name, kernel in matrix.kernels.items():
        files = (("kernel", kernel.kernel), ("modules", kernel.modules), ("initrd", kernel.initrd))
        named += [(("kernels", name, key), path) for key, path in files if path]
    for place, path in named:
        if not matrix.file_at(path).exists():
            line = matrix.lines.of(place)
            yield f"{matrix.path}:{line}: there is no {path}: cells that need it cannot be judged"


def nearest(word: str, known: Iterable[str]) -> str:
    """For the end of a message about a name that is not known."""
    there = list(known)
    close = difflib.get_close_matches(word, there, 1, 0.5)
    return f": did you mean {close[0]}?" if close else f"; there are: {', '.join(there) or 'none'}"


def _error(path: Path, line: int, what: str) -> UsageError:
    return UsageError(f"{path}:{line}: {what}")


def _typed(value: Any, kind: type[T], path: Path, lines: Lines, place: Place) -> T:  # noqa: ANN401 - as TOML has it
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        text = str(error)
    found = _PLACE.search(text)
    steps = _STEP.findall(found[1]) if found else []
    place += tuple(name or int(number) for name, number in steps)
    if unknown := _UNKNOWN.match(text):
        word = unknown[1]
        hint = nearest(word, _fields_at(kind, [name for name, _ in steps if name]))
        raise _error(path, lines.of((*place, word), word), f"unknown key {word}{hint}")
    if (invalid := _INVALID.match(text)) and place and str(place[-1]) in _WORDS:
        word = invalid[1]
        hint = nearest(word, _WORDS[str(place[-1])])
        raise _error(path, lines.of(place, word), f"unknown {place[-1]} {word}{hint}")
    raise _error(path, lines.of(place), in_words(text).replace(" | null", ""))


_WORDS: Final = {
    "kind": ("run", "leakcheck", "fuzz", "bench", "command"),
    "expect": ("pass", "finding", "could-not-judge", "flaky", "not-run"),
}
_ENTRIES: Final = {"axes": AxesEntry, "exclude": ExcludeEntry, "include": IncludeEntry, "cell": CellEntry}


def _fields_at(kind: type[Any], steps: list[str]) -> tuple[str, ...]:
    within = _ENTRIES.get(steps[0]) if steps and kind is _File else kind
    return () if within is None else within.__struct_fields__


class _Names:
    """Looks up every name of a matrix."""

    def __init__(self, matrix: Matrix, known: Vocabulary) -> None:
        self._matrix, self._known = matrix, known
        recipes = {name: load(name).recipe for name in image.recipe_names()}
        images = [name for name, each in recipes.items() if isinstance(each, GuestRecipe)]
        self._images = images
        self._there: dict[str, Collection[str]] = {
            "qemu": [*(name for name, each in recipes.items() if isinstance(each, QemuRecipe)), *matrix.qemus],
            "image": [*images, *matrix.kernels],
            "cpu": list(machine.CPUS),
            "topology": list(TOPOLOGIES),
            "mutant": [mutants.CLEAN, *(each.name for each in mutants.known().fault)],
            "scenario": list(SCENARIOS),
        }

    def check(self) -> None:
        """:raise UsageError: one is not known, or means two things."""
        matrix = self._matrix
        for table, own, recipes in (("kernels", matrix.kernels, self._images), ("qemus", matrix.qemus, ())):
            for name in own:
                if name in recipes or name in image.recipe_names():
                    raise matrix.wrong((table, name), f"{name} is the name of a recipe: take another one")
        for name, entry in matrix.kernels.items():
            place = ("kernels", name)
            self._name("image", entry.image, (*place, "image"), self._images)
            for quirk in entry.expect_quirks:
                self._name("quirk", quirk, (*place, "expect_quirks"), QUIRKS)
        if matrix.file.axes is not None:
            self._entry(matrix.file.axes, ("axes",), "run")
        for index, exclude in enumerate(matrix.file.exclude):
            self._entry(exclude, ("exclude", index), "run")
        for index, include in enumerate(matrix.file.include):
            self._entry(include, ("include", index), "run")
            self._options(include.options, ("include", index, "options"), "run")
        for index, cell in enumerate(matrix.file.cell):
            self._cell(cell, ("cell", index))

    def _cell(self, cell: CellEntry, place: Place) -> None:
        matrix = self._matrix
        self._entry(cell, place, cell.kind)
        if cell.kind == "command" and not (cell.name and cell.command):
            raise matrix.wrong(place, "a cell of kind command needs a name and a command")
        if cell.kind in {"run", "bench"} and not cell.scenario:
            raise matrix.wrong(place, f"a cell of kind {cell.kind} needs a scenario")
        for key in _FOREIGN[cell.kind]:
            if getattr(cell, key):
                raise matrix.wrong((*place, key), f"a cell of kind {cell.kind} has no {key}")
        for each in several(cell.scenario):
            verb = f"bench {each}" if cell.kind == "bench" else cell.kind
            self._options(cell.options, (*place, "options"), verb)

    def _entry(self, entry: msgspec.Struct, place: Place, kind: Kind) -> None:
        for axis, there in self._there.items():
            for value in filter(None, several(getattr(entry, axis))):
                if kind == "bench" and axis == "scenario":
                    self._name("benchmark", value, (*place, axis), self._known.benches)
                elif not (axis in {"qemu", "scenario"} and is_path(value)):
                    self._name(axis, value, (*place, axis), there)

    def _options(self, options: Mapping[str, Any], place: Place, verb: str) -> None:
        known = self._known.options.get(verb)
        for name in options if known is not None else ():
            self._name("option", name.replace("_", "-"), (*place, name), known or (), name)

    def _name(self, what: str, value: str, place: Place, there: Collection[str], said: str = "") -> None:
        if value not in there:
            raise self._matrix.wrong(place, f"unknown {what} {said or value}{nearest(value, there)}", said or value)


_FOREIGN: Final[dict[Kind, tuple[str, ...]]] = {
    "run": ("name", "command"),
    "leakcheck": ("name", "scenario", "topology", "seed"),
    "fuzz": ("name", "scenario", "command"),
    "bench": ("name", "seed", "command"),
    "command": ("scenario", "topology", "mutant", "options"),
}
"""Keys that cells of a kind do not have."""


def several(value: Any) -> list[Any]:  # noqa: ANN401 - whatever an axis holds
    """The values of an axis; of None, which says nothing, none."""
    return value if isinstance(value, list) else [] if value is None else [value]


def is_path(value: str) -> bool:
    """A file is meant, and no name."""
    return "/" in value or value.endswith(".json")
