"""The rows are what they say: independent of what they judge, whole, one beside the other without a trace."""

import ast
import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

import rowkit
from rows import core, hcalls, linux_v1, linux_v2, seed2013
from rows.row import GIVEN, HIGH, LOOK, NO_PROGRAM, NO_SEED, PE1, PE2, PROLOGUE, Right
from tceagent import uapi
from tcelab.errors import UsageError
from tcelab.program import Buffer, Checkpoint, Close, Exit, Ioctl, Open, Program, Spawn, is_host
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.quirks import QUIRKS

FOLDER = Path(__file__).parents[1] / "rows"
FILES = {"seed2013": seed2013.ROWS, "linux_v1": linux_v1.ROWS, "linux_v2": linux_v2.ROWS, "core": core.ROWS}
ROWS = [row for rows in FILES.values() for row in rows]
ALLOWED = {"__future__", "collections.abc", "dataclasses", "typing", "tcelab.program"}
HCALLS = {"H_GET_TCE", "H_PUT_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT"}
PAGE = 4096
ENTRIES = 4096
LONGEST = 400
MOST = (ENTRIES + 64) * PAGE
"""Bytes of an UNMAP_DMA: for each page the kernel asks the hypervisor, even far beyond the window."""

each_file = pytest.mark.parametrize("rows", FILES.values(), ids=FILES)


def versions(row):
    """The row, and the row without quirk."""
    right = replace(rowkit.without_defects(row), quirk="", right=None)
    return [row] if row.right is None else [row, right]


def program(*rows):
    ops = [op for row in rows for op in (*row.ops, Checkpoint(label=row.name))]
    return Program(name="rows", topology=topology(rows[0].topology), ops=[*PROLOGUE, *ops])


def buffers(ops):
    return {op.name: op.pages for op in ops if isinstance(op, Buffer)}


def outputs(op):
    """The output fields of an operation that is done."""
    asked = isinstance(op, Ioctl) and isinstance(op.request, str) and op.expect == "ok"
    return set(uapi.LAYOUTS[op.request].outputs) if asked and op.request in uapi.LAYOUTS else set()


def left(row):
    """What a row leaves: open files by process."""
    files = {"": set()}
    for op in row.ops:
        if isinstance(op, Spawn):
            files[op.process] = set(files[op.by])
        elif isinstance(op, Exit):
            del files[op.process]
        elif isinstance(op, Open) and op.expect == "ok":
            files[op.by].add(op.file)
        elif isinstance(op, Ioctl) and op.into:
            files[op.by].add(op.into)
        elif isinstance(op, Close) and op.expect == "ok":
            files[op.by].remove(op.file)
    return {process: names for process, names in files.items() if process or names}


# -- what can be wrong with a row. Each gives a complaint for every wrong thing


def is_no_program(row):
    try:
        validate(program(row))
    except UsageError as error:
        yield str(error)


def lacks_its_origin(row):
    if not re.search(r"\w\.[ch]\b", row.source):
        yield f"source {row.source!r} names no file"
    if not row.guest:
        yield "no reason why no guest shows it"
    if row.given and row.guest is True:
        yield "no guest can be given a state"
    if unknown := set(row.given) - GIVEN.keys():
        yield f"given {unknown}"


def lacks_a_literal(row):
    ops = row.ops[:-1] if row.ends == "dead" else row.ops
    yield from (f"{op} has none" for op in ops if not is_host(op) and op.expect is None)
    if row.ends == "dead" and (row.ops[-1].expect is not None or not row.log):
        yield "what never returns expects nothing and is logged"


def leaves_something(row):
    if row.ends != "dead" and left(row):
        yield f"leaves {left(row)}"


def has_half_a_quirk(row):
    if row.quirk and row.quirk not in QUIRKS:
        yield f"no quirk {row.quirk}"
    if bool(row.quirk) != (row.right is not None):
        yield "a quirk has a right"
    if row.right is not None and [*map(type, row.right.ops)] != [*map(type, row.ops)]:
        yield "the right is another row"
    if row.right == Right(row.ops, row.tables, row.log):
        yield "the right is no different"


STARTS = {("high-window", PE1): HIGH, ("two-small", PE1 | 1): 1 << 59}
"""Where a window begins that does not begin at 0. A second one is made by its row."""


def looks_at_no_table(row):
    looks = [op for op in row.ops if isinstance(op, Checkpoint)]
    if [op.label for op in looks] != [LOOK] * (row.tables is not None):
        yield "one look if it has tables"
    pages = buffers((*PROLOGUE, *row.ops))
    for liobn, entries in (row.tables or {}).items():
        addresses = [ioba for ioba, *_ in entries]
        if liobn not in {PE1, PE1 | 1, PE2} or addresses != sorted(set(addresses)):
            yield f"table {liobn:#x} is no table, or not in order"
        for ioba, buffer, page, permissions in entries:
            first = STARTS.get((row.topology, liobn), 0)
            if ioba not in range(first, first + ENTRIES * PAGE, PAGE) or page not in range(pages[buffer]):
                yield f"there is no page for {ioba:#x}"
            if permissions not in {1, 2, 3}:
                yield f"{ioba:#x} is not live"


def says_what_nobody_tells(row):
    if row.says:
        told = [op for op in row.ops if outputs(op)]
        if not told or told[-1].value is not None or row.says.keys() != outputs(told[-1]):
            yield f"{set(row.says)} are not the output fields of its last operation that has any"


def keeps_a_kernel_busy(row):
    for op in row.ops:
        if isinstance(op, Ioctl) and op.request == "UNMAP_DMA" and op.fields.get("size", 0) > MOST:
            yield f"{op} takes hours"


COMPLAINTS = [
    is_no_program,
    lacks_its_origin,
    lacks_a_literal,
    leaves_something,
    has_half_a_quirk,
    looks_at_no_table,
    says_what_nobody_tells,
    keeps_a_kernel_busy,
]


@pytest.mark.parametrize("complaint", COMPLAINTS, ids=lambda each: each.__name__)
def test_there_is_no_row_that(complaint):
    found = [f"{row.name}: {text}" for row in ROWS for version in versions(row) for text in complaint(version)]
    assert found == []


# -- the files of rows


def test_there_are_as_many_rows_as_it_takes():
    assert len(seed2013.ROWS) >= 100
    assert len(linux_v1.ROWS) >= 95
    assert len(core.ROWS) >= 50
    assert len(hcalls.ROWS) >= 50


def test_rows_know_programs_and_nothing_that_could_have_told_them_the_answer():
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Import), f"{path.name}, line {node.lineno}"
            if isinstance(node, ast.ImportFrom):
                known = node.module in ALLOWED or (node.module or "").partition(".")[0] == "rows"
                assert known, f"{path.name}: {node.module}"
            if isinstance(node, ast.Name):
                assert node.id not in {"__import__", "eval", "exec"}, path.name


def test_no_file_of_rows_takes_more_than_one_sitting():
    assert [path.name for path in FOLDER.glob("*.py") if len(path.read_text().splitlines()) > LONGEST] == []


def test_every_row_is_gathered_into_one_of_the_files():
    gathered = {id(row) for row in (*ROWS, *hcalls.ROWS)}
    modules = [importlib.import_module(f"rows.{path.stem}") for path in FOLDER.glob("*.py") if path.stem != "__init__"]
    rows = [row for module in modules for row in getattr(module, "ROWS", ())]
    assert [row.name for row in rows if id(row) not in gathered] == []
    assert {id(row) for row in rows} == gathered


@pytest.mark.parametrize("rows", [*FILES.values(), hcalls.ROWS], ids=[*FILES, "hcalls"])
def test_no_two_rows_of_a_file_have_one_name(rows):
    names = [row.name for row in rows]
    assert [name for name in names if names.count(name) > 1] == []


@each_file
def test_no_two_rows_of_a_file_name_their_processes_or_buffers_alike(rows):
    spawned = [op.process for row in rows for op in row.ops if isinstance(op, Spawn)]
    made = [name for row in rows for name in buffers(row.ops)]
    assert len(set(spawned)) == len(spawned)
    assert len({*made, *buffers(PROLOGUE)}) == len(made) + len(buffers(PROLOGUE))


@each_file
@pytest.mark.parametrize("version", [0, -1], ids=["with quirks", "without"])
def test_the_clean_rows_of_a_file_make_one_program(rows, version):
    validate(program(*(versions(row)[version] for row in rows if row.ends == "clean")))


def test_every_quirk_of_a_call_and_every_given_state_has_a_row():
    of_calls = {name for name, quirk in QUIRKS.items() if not (quirk.event or quirk.apart)}
    assert {row.quirk for row in ROWS} - {""} == of_calls
    assert {name for row in ROWS for name in row.given} == GIVEN.keys()


def test_no_guest_runs_the_driver_of_2013_and_what_no_program_can_is_given():
    assert {row.guest for row in seed2013.ROWS} == {NO_SEED}
    assert [row.name for row in ROWS if row.guest == NO_PROGRAM and not row.given] == []
    assert {row.guest for row in core.ROWS} == {True}


def test_the_rows_of_hypercalls_are_rows():
    for row in hcalls.ROWS:
        assert row.source.startswith("QEMU hw/ppc/"), row.name
        assert isinstance(row.call, int) or row.call in HCALLS, row.name
        assert all(0 <= word < 1 << 64 for word in row.args), row.name
        entries = [entry for tables in (row.before, row.after) for table in tables.values() for entry in table.items()]
        assert [ioba for ioba, tce in entries if ioba not in range(0, ENTRIES * PAGE, PAGE) or not tce] == [], row.name
        assert (row.r4 is not None) == (row.call == "H_GET_TCE" and row.status == 0), row.name


# -- each complaint is raised by what it is about


GOOD = next(row for row in linux_v1.ROWS if row.name == "MAP before ENABLE is EPERM")
QUIRKY = next(row for row in linux_v1.ROWS if row.quirk == "pin-for-write")


def more(*ops, **changes):
    return replace(GOOD, ops=(*GOOD.ops, *ops), **changes)


@pytest.mark.parametrize(
    ("complaint", "row"),
    [
        (is_no_program, more(Close(file="z", expect="ok"))),
        (lacks_its_origin, replace(GOOD, source="somewhere")),
        (lacks_its_origin, replace(GOOD, guest="")),
        (lacks_its_origin, replace(GOOD, given=("no-mm",))),
        (lacks_its_origin, replace(GOOD, guest="why", given=("elsewhere",))),
        (lacks_a_literal, more(Close(file="c"))),
        (lacks_a_literal, more(ends="dead")),
        (leaves_something, more(Open(file="z", path="/dev/vfio/vfio", expect="ok"))),
        (leaves_something, more(Spawn(process="p", expect="ok"))),
        (has_half_a_quirk, replace(GOOD, quirk="pin-for-write")),
        (has_half_a_quirk, replace(QUIRKY, quirk="")),
        (has_half_a_quirk, replace(QUIRKY, quirk="elsewhere")),
        (has_half_a_quirk, replace(QUIRKY, right=Right(QUIRKY.ops[1:]))),
        (has_half_a_quirk, replace(QUIRKY, right=Right(QUIRKY.ops, QUIRKY.tables))),
        (looks_at_no_table, replace(GOOD, tables=None)),
        (looks_at_no_table, more(Checkpoint(label=LOOK))),
        (looks_at_no_table, replace(GOOD, tables={PE1 + 2: ()})),
        (looks_at_no_table, replace(GOOD, tables={PE1: ((0x800, "m", 0, 3),)})),
        (looks_at_no_table, replace(GOOD, tables={PE1: ((HIGH, "m", 0, 3),)})),
        (looks_at_no_table, replace(GOOD, tables={PE1: ((0, "m", 64, 3),)})),
        (looks_at_no_table, replace(GOOD, tables={PE1: ((0, "m", 0, 0),)})),
        (looks_at_no_table, replace(GOOD, tables={PE1: ((0, "m", 0, 3), (0, "m", 1, 3))})),
        (says_what_nobody_tells, replace(GOOD, says={"flags": 0})),
        (says_what_nobody_tells, more(Ioctl(file="g", request="GROUP_GET_STATUS", expect="ok"), says={"size": 0})),
        (keeps_a_kernel_busy, more(Ioctl(file="c", request="UNMAP_DMA", fields={"size": 1 << 52}, expect="ok"))),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_bad_row_is_complained_of(complaint, row):
    assert list(complaint(row))
    assert not list(complaint(GOOD))
