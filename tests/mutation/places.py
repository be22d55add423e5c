"""The mutants that cosmic-ray can make, each with an identity that outlives moved lines, and a sample of them."""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_item import MutationSpec

MODULE = "<module>"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one place.

    :ivar function: qualified name of the function or class around it.
    :ivar text: the line, without its indentation.
    :ivar nth: which of those that are alike in everything else.
    :ivar statement: first and last line of the statement, or of the head of a compound one; of all of a function, if it
        is its head.
    :ivar was: the file's name when the sample was drawn: a file that moves takes its places along.
    :ivar at_import: it is done when the module is imported, by whichever test does that first.
    """

    file: str
    function: str
    operator: str
    text: str
    nth: int
    statement: tuple[int, int]
    at_import: bool
    spec: MutationSpec
    was: str

    @property
    def identity(self) -> tuple[str, str, str, str, int]:
        return self.was, self.function, self.operator, self.text, self.nth

    @property
    def place(self) -> tuple[str, ...]:
        """Shared by all replacements of one operator or number."""
        family = "_".join(self.operator.split("_")[:2])
        return self.was, self.function, family, self.text, str(self.spec.start_pos[1])

    @property
    def job_id(self) -> str:
        return digest(self.identity)[:16]

    def mutated(self, source: str) -> str:
        operator = cosmic_ray.plugins.get_operator(self.operator)()
        code = mutate_code(source, operator, self.spec.occurrence)
        assert code is not None, self
        return code


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def sample(root: Path, mutants: Iterable[Mutant], seed: int, count: int) -> list[Mutant]:
    """Places by chance, one mutant for each: a `+`, which has eleven replacements, counts no more than an `if`.

    Chance is a digest of the identity: whatever else changes in the sources, a place stays in or out. What is no
    Python is left out (cosmic-ray takes the `**` of a dict for an operator): it would count as killed.
    """
    places: dict[tuple[str, ...], list[Mutant]] = {}
    for each in mutants:
        places.setdefault(each.place, []).append(each)
    ranked = sorted(places, key=lambda place: digest(seed, place))
    each_one = (min(places[place], key=lambda each: digest(seed, each.identity)) for place in ranked)
    return list(itertools.islice((each for each in each_one if _compiles(root, each)), count))


def _compiles(root: Path, mutant: Mutant) -> bool:
    try:
        ast.parse(mutant.mutated((root / mutant.file).read_text()))
    except (SyntaxError, AttributeError):  # the latter is cosmic-ray's, of an exception with a dot in its name
        return False
    return True


def mutants_of(root: Path, files: Iterable[Path], was: Mapping[str, str]) -> Iterator[Mutant]:
    """:param was: former names of files that have moved since the sample was drawn."""
    operators = [
        (name, made())
        for name in cosmic_ray.plugins.operator_names()
        if not (made := cosmic_ray.plugins.get_operator(name)).arguments()
    ]
    for path in sorted(files):
        yield from _of_file(root, path, operators, was)


def _of_file(root: Path, path: Path, operators: list[tuple[str, object]], was: Mapping[str, str]) -> Iterator[Mutant]:
    source = path.read_text()
    lines = source.splitlines()
    scopes = _Scopes(source)
    nodes = list(ast_nodes(get_ast_from_path(path)))
    seen: Counter[tuple[str, ...]] = Counter()
    for name, operator in operators:
        positions = itertools.chain.from_iterable(map(operator.mutation_positions, nodes))
        for occurrence, (start, end) in enumerate(positions):
            if scopes.annotates(start):
                continue
            file, text = str(path.relative_to(root)), lines[start[0] - 1].strip()
            key = (file, scopes.function(start[0]), name, text)
            spec = MutationSpec(
                module_path=Path(file),
                operator_name=name,
                occurrence=occurrence,
                start_pos=start,
                end_pos=end,
                definition_name=key[1],
            )
            yield Mutant(
                *key, seen[key], scopes.statement(start[0]), scopes.at_import(start[0]), spec, was.get(file, file)
            )
            seen[key] += 1


class _Scopes:
    """What lies around a place of one source."""

    def __init__(self, source: str) -> None:
        tree = ast.parse(source)
        self._annotations = [
            _span(each) for node in ast.walk(tree) for each in _annotations_of(node) if each is not None
        ]
        self._functions: list[tuple[int, int, str]] = []
        self._statements: list[tuple[int, int]] = []
        self._bodies: list[tuple[int, int]] = []
        self._heads: list[tuple[int, int, int]] = []
        self._walk(tree, ())

    def _walk(self, node: ast.AST, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*names, child.name)
                first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                self._functions.append((first, child.end_lineno, ".".join(inner)))
                if isinstance(child, ast.ClassDef):
                    self._statements.append((first, child.body[0].lineno - 1))
                else:
                    self._bodies.append((child.body[0].lineno, child.end_lineno))
                    self._heads.append((first, child.body[0].lineno - 1, child.end_lineno))
            elif isinstance(child, ast.stmt):
                first, last = child.lineno, child.end_lineno
                if body := getattr(child, "body", None):
                    last = max(first, body[0].lineno - 1)
                self._statements.append((first, last))
            self._walk(child, inner)

    def annotates(self, position: tuple[int, int]) -> bool:
        return any(first <= position < last for first, last in self._annotations)

    def function(self, line: int) -> str:
        around = [(last - first, name) for first, last, name in self._functions if first <= line <= last]
        return min(around)[1] if around else MODULE

    def at_import(self, line: int) -> bool:
        return not any(first <= line <= last for first, last in self._bodies)

    def statement(self, line: int) -> tuple[int, int]:
        for first, last, end in self._heads:
            if first <= line <= last:
                return first, end
        around = [(last - first, first, last) for first, last in self._statements if first <= line <= last]
        return min(around)[1:] if around else (line, line)


def _annotations_of(node: ast.AST) -> list[ast.expr | None]:
    match node:
        case ast.AnnAssign() | ast.arg():
            return [node.annotation]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [node.returns]
    return []


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
