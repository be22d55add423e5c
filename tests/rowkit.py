"""Runs rows: as programs, on the emulator or on a guest, and holds what came of them against their literals.

What a guest did with them is recorded once for all tests of a session.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec import structs

import folded
from rows import core, hcalls, linux_v1, linux_v2, seed2013
from rows.row import LOOK, PROLOGUE, Row, closed
from tcelab.emulator import EmulatorSession
from tcelab.emulator.drivertable import Profile
from tcelab.emulator.reference import second_opinion
from tcelab.errors import GuestLost
from tcelab.judge import Judge, Verdict
from tcelab.papr import hcallrules
from tcelab.papr.tcetable import Table
from tcelab.program import Checkpoint, Frames, HostOp, Ioctl, Op, Program
from tcelab.program.topology import Topology, topology
from tcelab.quirks import QUIRKS
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome, RunRecord, Snapshot, Step
from tcelab.run.session import Session
from tcelab.scenarios import batches as batches_scenario
from tcelab.scenarios import dma, flow

TOPOLOGY = topology("two-small")
ALL = frozenset(QUIRKS)
NONE = frozenset()

FILES = {"seed2013": seed2013.ROWS, "linux-v1": linux_v1.ROWS, "linux-v2": linux_v2.ROWS, "core": core.ROWS}
PROFILE = {"seed2013": "seed2013", "linux-v1": "linux-v1", "linux-v2": "linux-v1", "core": "linux-v1"}
BATCH = 40
"""Rows that share a guest."""


@dataclass
class Lived:
    """What came of a row: its steps, lines of the kernel's log, and those of trouble among them."""

    steps: list[Step] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    frames: dict[str, list[int]] = field(default_factory=dict)
    died: bool = False


def for_guest(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.guest is True]


def batches(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may share a guest together, each of the others alone."""
    clean = [row for row in rows if row.ends == "clean" and not row.given and row.topology == TOPOLOGY.name]
    others = [row for row in rows if row not in clean]
    return [clean[i : i + BATCH] for i in range(0, len(clean), BATCH)] + [[row] for row in others]


def program(rows: Sequence[Row]) -> Program:
    """The prologue, then each row and a checkpoint of its name. All are of one topology."""
    ops: list[Op] = list(PROLOGUE)
    for row in rows:
        ops += [*row.ops, Checkpoint(label=row.name)]
    return Program(name=f"rows: {rows[0].name} ...", topology=topology(rows[0].topology), ops=ops)


def lives(rows: Sequence[Row], run: RunRecord) -> list[Lived]:
    """A run of `program(rows)` taken apart again."""
    frames = frames_of(run.steps)
    out = []
    at = len(PROLOGUE)
    for row in rows:
        steps = [step for step in run.steps if at <= step.number < at + len(row.ops) + 1]
        log = [line for step in steps if step.snapshot is not None for line in step.snapshot.console]
        out.append(Lived(steps, log, log, frames))
        at += len(row.ops) + 1
    return out


class Bench:
    """An emulated machine on which the prologue was done, for rows one after the other."""

    def __init__(
        self,
        profile: str,
        quirks: frozenset[str] = NONE,
        driver: Profile | None = None,
        given: Sequence[str] = (),
        where: str = TOPOLOGY.name,
    ) -> None:
        self.session = EmulatorSession(
            topology(where), profile_name=profile, quirks=quirks, preset_states=given, driver=driver
        )
        done = zip(PROLOGUE, self.session.perform(PROLOGUE), strict=True)
        self._frames = frames_of([Step(i, op, outcome) for i, (op, outcome) in enumerate(done)])
        self._number = len(PROLOGUE)

    def live(self, ops: Sequence[Op]) -> Lived:
        """What comes of a row's operations."""
        lived = Lived(frames=self._frames)
        log = self.session.machine.log
        begin = len(log)
        for number, op in enumerate(ops, self._number):
            try:
                lived.steps.append(one(self.session, number, op))
                lived.frames |= frames_of(lived.steps[-1:])
            except GuestLost as lost:
                lived.died = lost.kernel_died
                break
        self._number += len(ops)
        lived.log = log[begin:]
        lived.trouble = [line for step in lived.steps if step.snapshot is not None for line in step.snapshot.console]
        lived.trouble += self.session.trouble()
        return lived


def without_defects(row: Row) -> Row:
    """The row as a kernel without any known defect has it."""
    right = row.right
    if right is None:
        return row
    row = replace(row, ops=right.ops, tables=right.tables, log=right.log)
    # Where the last operation returns, somebody is there to close what is open.
    return replace(row, ops=(*row.ops, *closed()), ends="clean") if row.ends == "dead" else row


def on_emulator(
    row: Row,
    profile: str,
    quirks: frozenset[str] = NONE,
    driver: Profile | None = None,
) -> Lived:
    """A row on an emulated machine of its own."""
    return Bench(profile, quirks, driver, row.given, row.topology).live(row.ops)


def one(session: Session, number: int, op: Op) -> Step:
    if isinstance(op, Checkpoint):
        seen = session.intervene(op, ())  # literals are of tables, none is of memory
        assert isinstance(seen, Snapshot)
        return Step(number, op, snapshot=seen)
    if isinstance(op, HostOp):
        done = session.intervene(op, ())
        assert isinstance(done, Outcome)
        return Step(number, op, done)
    return Step(number, op, session.perform([op])[0])


def frames_of(steps: Sequence[Step]) -> dict[str, list[int]]:
    return {step.op.buffer: step.outcome.frames for step in steps if isinstance(step.op, Frames) and step.outcome}


def disagreements(row: Row, lived: Lived) -> list[str]:
    """Where a row's literals and what came of it differ."""
    out = []
    for number, op in enumerate(row.ops):
        if number >= len(lived.steps):
            if not (lived.died and number == len(row.ops) - 1 and row.ends == "dead"):
                out.append(f"{number}: {op} never returned")
            break
        step = lived.steps[number]
        if step.outcome is not None and (seen := against(op, step.outcome)):
            out.append(f"{number}: {seen}")
        if isinstance(op, Checkpoint) and op.label == LOOK and row.tables is not None and step.snapshot is not None:
            out += looked(row.tables, step.snapshot, lived.frames)
    if row.ends == "dead" and not lived.died:
        out.append("the kernel lives")
    said = next((s.outcome.fields for s in reversed(lived.steps) if s.outcome and s.outcome.fields), {})
    out += [
        f"it says {name} {said.get(name)}, not {value}" for name, value in row.says.items() if said.get(name) != value
    ]
    if row.log and (times := sum(bool(re.search(row.log, line)) for line in lived.log)) != 1:
        out.append(f"{times} lines {row.log!r} in the kernel's log: {lived.log}")
    if not row.log and not lived.died and lived.trouble:
        out.append(f"the kernel said {lived.trouble}")
    return out


def against(op: Op, outcome: Outcome) -> str:
    """What an outcome is, if it is not the operation's literal; a descriptor is any number from 0 on."""
    expected = op.expect
    if expected is None:
        return ""
    if expected == "ok":
        fine = not outcome.errno and (outcome.value or 0) >= 0
        if type(op).__name__ == "Ioctl" and not op.into and op.request != "GROUP_GET_DEVICE_FD":
            fine = not outcome.errno and outcome.value == 0
    elif isinstance(expected, int):
        fine = not outcome.errno and outcome.value == expected
    else:
        fine = outcome.errno == expected
    return "" if fine else f"{op} gives {outcome.errno or outcome.value}"


def looked(tables, snapshot: Snapshot, frames: dict[str, list[int]]) -> list[str]:
    """The tables as the first view shows them, against literals."""
    first = snapshot.tables[0].view
    out = []
    for table in snapshot.tables:
        if table.view != first or not table.entries:
            continue
        wanted = {ioba: frames[buffer][page] | bits for ioba, buffer, page, bits in tables.get(table.liobn, ())}
        seen = dict(zip(((table.index.astype(int) << 12) + table.bus_offset).tolist(), table.tce.tolist(), strict=True))
        if wanted != seen:
            out.append(f"LIOBN {table.liobn:#x} holds {seen}, not {wanted}")
    return out


# -- hypercalls

LIOBNS = (0x80000100, 0x80000101, 0x80000200)


def of_hypercall(row: hcalls.HcallRow, **rules) -> list[str]:
    """Where a hypercall's literals and what it does differ. `rules`: of `Hypercalls`, others than its own."""
    tables = {liobn: Table(liobn, 0 if liobn & 1 else 4096) for liobn in LIOBNS}
    for liobn, words in row.before.items():
        for ioba, word in words.items():
            tables[liobn].put(ioba >> 12, word)

    def ram(address, size):
        words = next((row.memory[at][(address - at) // 8 :] for at in row.memory if at <= address), ())
        return b"".join(word.to_bytes(8, "big") for word in words).ljust(size, b"\0")[:size]

    opcode = getattr(hcallrules, row.call) if isinstance(row.call, str) else row.call
    calls = hcallrules.Hypercalls(tables, ram, **rules)
    status, registers = calls.call(opcode, row.args, problem_state=row.problem_state)
    after = (row.args[0] if row.r4 is None else row.r4, *row.args[1:])
    out = [] if status == row.status else [f"status {status}, not {row.status}"]
    out += [] if registers == after else [f"registers {registers}, not {after}"]
    for liobn, table in tables.items():
        numbers, words = (each.tolist() for each in table.live())
        held = {index << 12: word for index, word in zip(numbers, words, strict=True)}
        if held != dict(row.after.get(liobn, {})):
            out.append(f"LIOBN {liobn:#x} holds {held}")
    return out


# -- records of guests


@dataclass(frozen=True)
class Excerpt:
    """Steps of a run that need only its prologue before them: those of a row, or all of a scenario.

    :ivar words: the names of requests and of other operations that occur there.
    """

    name: str
    steps: Sequence[Step]
    words: frozenset[str | int]


@dataclass(frozen=True)
class Recording:
    """What a guest did.

    :ivar prologue: steps of `run` that come before any excerpt.
    """

    rows: Sequence[Row]
    run: RunRecord
    verdict: Verdict
    prologue: Sequence[Step]
    excerpts: Sequence[Excerpt]


def words_of(ops: Sequence[Op]) -> frozenset[str | int]:
    return frozenset(op.request if isinstance(op, Ioctl) else type(op).__name__ for op in ops)


def recorded_programs() -> dict[str, tuple[Program, list[Row]]]:
    """By name, all that is recorded of a guest, and the rows that it consists of."""
    out = {}
    for name, rows in FILES.items():
        for number, batch in enumerate(batches(for_guest(rows))):
            called = home(name, number)
            out[called] = structs.replace(program(batch), name=called), batch
    high = topology("high-window")
    stories = {
        "dma": (TOPOLOGY, dma.ops(_first_alone(TOPOLOGY), 1)),
        "batches": (TOPOLOGY, [*flow.ops(TOPOLOGY, 1), *batches_scenario.ops(TOPOLOGY, 1, (1, 7, 32))]),
        "dma high": (high, dma.ops(_first_alone(high), 1)),
        "folded": (folded.TOPOLOGY, folded.ops()),
    }
    return out | {name: (Program(name=name, topology=where, ops=ops), []) for name, (where, ops) in stories.items()}


def _first_alone(where: Topology) -> Topology:
    return structs.replace(where, phbs=where.phbs[:1])


def home(name: str, number: int) -> str:
    """What the recording of a batch of a file's rows is called."""
    return f"{name} {number}"


def record(made: Program, rows: list[Row], session: Session) -> Recording:
    """A program of `recorded_programs`, done and judged."""
    judge = Judge(made, session.facts, references=second_opinion(made.topology, session.facts))
    done = perform_program(made, session, judge)
    return taken_apart(rows, done, judge.verdict(done))


def taken_apart(rows: list[Row], done: RunRecord, verdict: Verdict) -> Recording:
    if not rows:
        whole = Excerpt(f"scenario {done.program.name}", done.steps, words_of(done.program.ops))
        return Recording(rows, done, verdict, [], [whole])
    lived = zip(rows, lives(rows, done), strict=True)
    excerpts = [Excerpt(row.name, each.steps, words_of(row.ops)) for row, each in lived]
    return Recording(rows, done, verdict, done.steps[: len(PROLOGUE)], excerpts)


def counts() -> dict[str, int]:
    """How many rows there are, and what they rest on."""
    rows = [*(row for each in FILES.values() for row in each), *hcalls.ROWS]
    guest = len(for_guest(rows))
    return {"rows": len(rows), "proven on the guest": guest, "by source only": len(rows) - guest}
