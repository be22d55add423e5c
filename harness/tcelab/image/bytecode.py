"""Byte code for the guest's Python, made on the host by the same Python of the host's architecture.

The guest would otherwise compile on every boot, slowly. The code is of the "unchecked hash" kind (PEP 552), so
no time stamp gets in and the guest never looks at a source.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from tcelab.image.hosttools import RunLimit, run
from tcelab.image.loader import loader_argv

__all__ = ["CompileJob", "compile_all"]

COMPILE_LIMIT = 120.0
"""Seconds in which the compiler must end."""

# Runs in the image's Python, which has only what the guest's Python has.
_COMPILER = """\
import json, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for source, target, name in json.load(sys.stdin):
    py_compile.compile(source, target, name, doraise=True, invalidation_mode=mode)
"""


class CompileJob(NamedTuple):
    """Compile ``source`` to ``target``; tracebacks call it ``name``."""

    source: Path
    target: Path
    name: str


def compile_all(tools: Path, python: str, jobs: Iterable[CompileJob]) -> None:
    """Compile for the guest. Equal sources give equal byte code.

    :param tools: tree that holds ``usr/bin/python<version>`` for the host.
    :param python: version, such as "3.11".
    :raise HarnessError: a source does not compile; the message holds the compiler's.
    """
    # Order and hash seed are fixed since both can show in the marshalled code (references, sets).
    ordered = sorted(jobs, key=lambda job: job.name)
    request = [[str(job.source), str(job.target), job.name] for job in ordered]
    argv = (*loader_argv(tools, f"usr/bin/python{python}"), "-S", "-s", "-B", "-c", _COMPILER)
    environment = {
        "PYTHONHOME": str(tools / "usr"),
        "PYTHONPATH": "",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONOPTIMIZE": "",
    }
    limit = RunLimit("compiling byte code", COMPILE_LIMIT)
    run(argv, limit, environment=environment, stdin=msgspec.json.encode(request))
