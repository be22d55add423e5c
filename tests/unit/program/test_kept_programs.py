"""Program files of every version replay for ever: those of tests/data/programs, each with the verdict that it always
had. Their names begin with the format and the day on which tcelab wrote them.

A new format keeps the old files and adds one of its own; so does a new kind of operation. None is made anew.
"""

import json
import typing
from pathlib import Path

import pytest

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.job.parallel import ParallelRun
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.setup import MachineChoice
from tcelab.program import load
from tcelab.program.operations import Op
from tcelab.program.program import FORMAT

FOLDER = Path(__file__).parents[2] / "data" / "programs"
VERDICTS = {
    "1-2026-11-23-dma": "pass",
    "1-2026-11-23-flipped": "finding",  # an entry is flipped behind the kernel's back
    "1-2026-11-23-flow": "pass",
    "1-2026-11-23-quirk": "pass",  # no quirk is declared
    "1-2026-11-24-rules": "pass",
    "1-2026-11-24-windows": "pass",
    "1-2026-11-29-quirk": "pass",
    "1-2026-11-30-atonce": "could-not-judge",  # none of its entries is proven by its tag
    "1-2026-11-30-disk": "pass",
    "1-2026-11-30-dma-api": "pass",
    "1-2026-11-30-flight": "pass",
    "1-2026-11-30-fuzz": "pass",
    "1-2026-11-30-handover": "pass",
    "1-2026-11-30-hcalls": "pass",
    "1-2026-11-30-hotplug": "pass",
    "1-2026-11-30-isolation-pair": "pass",
    "1-2026-11-30-lifecycle": "pass",
    "1-2026-11-30-memory": "pass",
    "1-2026-11-30-kdump": "pass",
    "1-2026-11-30-kexec": "pass",
    "1-2026-11-30-migration": "pass",
    "1-2026-11-30-native": "could-not-judge",  # the emulator runs no programs
    "1-2026-12-01-doorbell": "pass",
}


def judged(program):
    machine = MachineChoice(topology=program.topology)
    program, settled = settle(program, RunOptions(verb="run", target="", machine=machine, platform="emulator"))
    chosen = settled.machine

    def opening(_part):
        return EmulatorSession(chosen.topology, isolates=chosen.isolates, guard=chosen.guard)

    return ParallelRun(program, opening).run()[1]


@pytest.mark.parametrize("name", VERDICTS)
def test_a_kept_program_replays_with_its_verdict(name):
    assert judged(load(FOLDER / f"{name}.json")).result == VERDICTS[name]


def kinds(ops):
    for op in ops:
        yield type(op)
        yield from kinds(getattr(op, "ops", ()))


def test_there_is_one_of_each_format_and_of_each_operation_and_none_without_a_verdict():
    paths = list(FOLDER.iterdir())
    assert {path.stem for path in paths} == VERDICTS.keys()
    formats = {json.loads(path.read_bytes())["format"] for path in paths}
    assert formats == set(range(1, FORMAT + 1)), "keep a program of the new format, made by tcelab run"
    kept = {kind for path in paths for kind in kinds(load(path).ops)}
    assert set(typing.get_args(Op)) - kept == set(), "keep a program with the new operation"
