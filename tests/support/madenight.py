"""A night as a matrix would give it, made from nothing: for the report, as large as is asked for."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

from tcelab.history import nightfile
from tcelab.history.nightfile import Attempt, Cell, CellFigure, FoundInCell, Night

SCENARIOS = ("main", "flow", "batches", "isolation", "hcalls", "windows", "dma", "fuzz", "leakcheck", "bench batch")
QEMUS = ("qemu-7.2", "qemu-10.0", "qemu-11.1")
IMAGES = ("guest", "guest-64k", "guest-12")
CPUS = ("power8", "power9", "power10", "power11")
TOPOLOGIES = ("one-pe", "two-pe", "two-small")
VERSIONS = {"kernel": "6.12.95", "qemu": {"version": "11.1.3"}}
DAY = 86_400.0
BEGAN = 20_000 * DAY


def attempt(word, folder, **fields):
    codes = {"pass": 0, "finding": 1, "could-not-judge": 125, "flaky": 1, "not-run": 125}
    return Attempt(
        **{"word": word, "exit_code": codes[word], "seconds": 3.5, "cpu_seconds": 6.0, "folder": folder} | fields
    )


def cell(scenario="main", word="pass", *, number=0, **fields):
    """One cell, with one attempt, or with two that differ if it is flaky, or none."""
    words = {"flaky": ["pass", "finding"], "not-run": []}.get(word, [word])
    why = "no agent came up: nothing happened for 90 s" if word == "could-not-judge" else ""
    given = {
        "id": f"run {scenario} {number}",
        "kind": "run",
        "scenario": scenario,
        "qemu": "qemu-11.1",
        "image": "guest",
        "cpu": "power9",
        "command": ["tcelab", "run", scenario, "--seed", "7"],
        "seed": 7,
        "versions": VERSIONS,
        "began": BEGAN,
        "attempts": [attempt(each, f"cells/{number}/{i}", why=why) for i, each in enumerate(words)],
    }
    return Cell(**{**given, **fields}, word=word)


def found(law="table", key="0123456789abcdef", message="LIOBN 0x80000100 IOBA 0x1000: an entry is missing"):
    return FoundInCell(
        key=key,
        law=law,
        operation="ioctl MAP_DMA",
        errno="",
        difference="LIOBN N IOBA N: an entry is missing",
        message=message,
        replay="tcelab run program.json",
    )


def night(*cells, day=0, **fields):
    began = BEGAN + day * DAY
    given = {"tcelab": "0.1", "matrix": "nightly.toml", "matrix_sha256": "ab" * 32, "host": {"name": "builder"}}
    return Night(**{**given, "id": f"night-{day}", "began": began, "ended": began + 3600, **fields}, cells=list(cells))


def large(count, *, day=0, wrong=50):
    """Every combination up to that many cells; some of them are not right."""
    words = random.Random(day).choices(["finding", "flaky", "could-not-judge", "not-run"], k=wrong)
    every = max(1, count // wrong)
    cells = []
    choices = itertools.product(TOPOLOGIES, SCENARIOS, QEMUS, IMAGES, CPUS)
    for number, (topology, scenario, qemu, image, cpu) in enumerate(itertools.islice(choices, count)):
        word = words.pop() if number % every == every - 1 and words else "pass"
        made = cell(scenario, word, number=number, qemu=qemu, image=image, cpu=cpu, topology=topology)
        made.findings = [found()] if word in {"finding", "flaky"} else []
        if scenario == "bench batch":
            rate = random.Random(number + day).gauss(40, 1) + day
            made.figures = [CellFigure(name="map 1 page", unit="us", values=[rate, rate + 1, rate + 2], better="lower")]
        if scenario == "fuzz":
            made.figures = [CellFigure(name="coverage of the driver", unit="%", values=[81.5 + day], better="higher")]
        cells.append(made)
    return night(*cells, day=day)


def write(folder: Path, made: Night, run: Path | None = None) -> Path:
    """The folder of a night.

    :param run: a run's folder that becomes that of each attempt with a finding.
    """
    folder.mkdir(parents=True)
    (folder / nightfile.NAME).write_bytes(nightfile.to_json(made))
    for each in made.cells if run is not None else ():
        for one in each.attempts:
            if one.word == "finding":
                shutil.copytree(run, folder / one.folder)
    return folder
