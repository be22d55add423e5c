"""`docs/result.md`: the schema of `result.json`, made from its structs.

`python -m tcelab.report.resultpage > docs/result.md` makes it anew; a test holds the page against this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec.inspect import NoneType, StructType, Type, UnionType, type_info

from tcelab.coverage.result import Coverage, FunctionCoverage, UnitCoverage
from tcelab.judge.finding import (
    Batch,
    DmaCount,
    Evidence,
    Finding,
    LawCount,
    LengthCount,
    LoopCount,
    PaprCount,
    RaceCount,
    Seconds,
    Verdict,
)
from tcelab.leakcheck import leakresult
from tcelab.program.structpage import default_told, fields_told, summary, type_told
from tcelab.report import hcalltable, isolationlog, lifelog, result
from tcelab.run.record import Event
from tcelab.run.resultfile import SCHEMA

_INTRO: Final = """\
# `result.json`

<!-- Made from the structs of report/result.py: python -m tcelab.report.resultpage > docs/result.md -->

Every [run](runs.md) writes this file. Its schema is {schema} (`schema`). The number is raised when a field changes its
meaning or goes away; new fields do not raise it. `--json PATH` writes the same file elsewhere. With `--json -` it goes
to standard output, and the text goes to standard error:

    tcelab run --json - | jq .verdict.result
"""

STRUCTS: Final[tuple[type[msgspec.Struct], ...]] = (
    result.Result,
    Verdict,
    Finding,
    Evidence,
    LawCount,
    Batch,
    DmaCount,
    LengthCount,
    LoopCount,
    PaprCount,
    RaceCount,
    Seconds,
    result.ProgramInfo,
    result.PlatformInfo,
    result.RunEnded,
    isolationlog.Isolations,
    isolationlog.Moment,
    lifelog.LifeEvent,
    lifelog.HypercallCount,
    Event,
    hcalltable.HypercallRow,
    Coverage,
    UnitCoverage,
    FunctionCoverage,
)
"""What the result of a run may hold."""
LEAKS: Final[tuple[type[msgspec.Struct], ...]] = (
    leakresult.LeakResult,
    leakresult.LeakFinding,
    leakresult.Origin,
    leakresult.TableAt,
    leakresult.Calls,
    leakresult.Permissions,
    leakresult.Refused,
    leakresult.AskedMappings,
)
"""What that of a leak check may hold."""

_LEAKS: Final = """\
## Of a leak check

The file of [`tcelab leakcheck`](leakcheck.md) has the same head, and these fields.
"""


def page() -> str:
    """The whole page, Markdown."""
    of_runs, of_leaks = (["\n".join(section(kind)) for kind in kinds] for kinds in (STRUCTS, LEAKS))
    return "\n".join([_INTRO.format(schema=SCHEMA), *of_runs, _LEAKS, *of_leaks])


def section(kind: type[msgspec.Struct]) -> Iterator[str]:
    """The table of a struct's fields."""
    info = type_info(kind)
    assert isinstance(info, StructType)
    told = fields_told(kind)
    yield f"## {kind.__name__.lower()}\n"
    if about := summary(kind):
        yield about + "\n"
    yield "| field | type | default | meaning |\n| --- | --- | --- | --- |"
    for field in info.fields:
        about = told.get(field.encode_name, "")
        yield f"| `{field.encode_name}` | {_type(field.type)} | {default_told(field)} | {about} |"
    yield ""


def _type(kind: Type) -> str:
    """A reader of JSON must know where null may stand."""
    null = isinstance(kind, UnionType) and any(isinstance(each, NoneType) for each in kind.types)
    return type_told(kind) + " or null" * null


if __name__ == "__main__":
    sys.stdout.write(page())
