"""The judge: feeds steps to the fold and to the laws, and gives the verdict."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

from tcelab.errors import died
from tcelab.judge import blame
from tcelab.judge.finding import LengthCount, Verdict
from tcelab.judge.laws import CHECKPOINT_LAWS, OPERATION_LAWS, hypercalls, kernel, races, release
from tcelab.judge.laws.charges import ChargesLaw
from tcelab.judge.laws.difference import EmulatorComparison, References
from tcelab.judge.laws.doorbells import doorbells
from tcelab.judge.laws.flight import flight
from tcelab.judge.laws.handles import device_said
from tcelab.judge.laws.isolation import isolation
from tcelab.judge.laws.outcome import went
from tcelab.judge.laws.papr import PaprLaw
from tcelab.judge.laws.pins import PinsLaw
from tcelab.judge.laws.refusals import unwatched
from tcelab.judge.ledger import KEEP, Ledger
from tcelab.judge.models.comparison import Difference
from tcelab.judge.models.lifemodel import LivingFold
from tcelab.judge.models.meetings import Meetings
from tcelab.judge.models.racemodel import Races
from tcelab.judge.models.reading import read_tables
from tcelab.judge.models.requests import request_name
from tcelab.judge.models.rounds import done_of
from tcelab.judge.verdict import conclude
from tcelab.papr import window
from tcelab.program import Burst, Checkpoint, Dma, DmaMove, Doorbell, Fresh, Ioctl, Program, Repeat, Together
from tcelab.program.lengths import length_of
from tcelab.run.record import KERNELS_LOG, Facts, Outcome, RunRecord, Snapshot, Step, ViewName


class Judge:
    """Judges a run step by step, as it happens or afterwards: an `Observer` of `tcelab.run.loop`.

    Each step is fed once. If a checkpoint turns out suspicious, the caller takes a second snapshot at once::

        if judge.feed(step):                    # by live memory alone: some 1 ms
            judge.confirm(step, snapshot)       # taken by every view: some 40 ms

    Why two: live memory is one reader of QEMU's array, and a reader can be wrong, for example by reading a table at an
    address that QEMU has just left. The state stream is a second reader. It is too slow for every checkpoint, so it is
    read only where something is wrong. The program performs nothing in between, but the guest's kernel runs between the
    two stops. So `confirm` judges what tables, pages and disks *are*, by the laws of checkpoints, and adds:

    - to a finding, the views that show it as well;
    - new findings: what only one view shows (law `views`), or what appeared in between.

    It takes no finding back: a finding stands. And it counts nothing twice: what happened since the checkpoint before
    (refusals, console lines) was in the first snapshot and was judged with it; `feed` counted the checkpoint, its batch
    and its maps; the reference has performed the operation and is not asked again.

    Each part of a program in parts has a judge of its own; `tcelab.judge.verdict.conclude` joins their ledgers.

    :param keep: findings to keep; others are only counted.
    :param references: for the law `difference`; None: it is not judged.
    """

    def __init__(
        self,
        program: Program,
        facts: Facts,
        *,
        keep: int = KEEP,
        references: References | None = None,
    ) -> None:
        self.program = program
        self.facts = facts
        self.fold = LivingFold(program, facts)
        self.ledger = Ledger(program, keep)
        self._counters = ChargesLaw(), PinsLaw()
        self._papr = PaprLaw()
        self._races = Races(self.fold.unknown)
        self._meetings = Meetings(facts, self.fold.unknown)
        self._pending = [0, 0]  # maps and mapped pages since the last checkpoint
        self._suspicious: Step | None = None
        self._looks = -1, -1  # numbers of the last two checkpoints
        self._batch_of = batches(program)
        self._comparison = (
            None if references is None else EmulatorComparison(self.ledger, facts, references, self._to_blame)
        )

    def feed(self, step: Step) -> bool:
        """Judge one step. Feed each step once, in order.

        :return: did it give a new finding? If it is a checkpoint and did, `confirm` may follow, before the next step.
        """
        before = self.ledger.total
        started = time.perf_counter()
        if isinstance(step.op, Checkpoint):
            self._looks = self._looks[1], step.number
        self.ledger.step = step.number
        # Of a checkpoint: the one before it, also while it is confirmed; of any other operation: the last one.
        self.ledger.since = self._looks[0] if isinstance(step.op, Checkpoint) else self._looks[1]
        self.ledger.batch = self._batch_of.get(step.number, 0)
        if self._comparison is not None:
            self._comparison.feed(step)
        if isinstance(step.op, Checkpoint):
            self._checkpoint(step, step.op)
            self.ledger.took("judge", time.perf_counter() - started)
        elif step.outcome is not None:
            self._operation(step, step.outcome)
        found = self.ledger.total > before
        self._suspicious = step if found and isinstance(step.op, Checkpoint) else None
        return found

    def confirm(self, step: Step, snapshot: Snapshot) -> None:
        """Judge a second snapshot, taken by every view, of the suspicious checkpoint that was fed last.

        :raise AssertionError: the step is no such checkpoint, or was confirmed already.
        """
        if step is not self._suspicious:
            raise AssertionError(f"step {step.number} is confirmed, and it was not fed last and found suspicious")
        self._suspicious = None
        started = time.perf_counter()
        self._snapshot(snapshot, stream=True)
        self.ledger.took("judge", time.perf_counter() - started)

    @property
    def findings(self) -> int:
        """Distinct findings so far."""
        return self.ledger.total

    def proven(self, views: Iterable[str]) -> bool:
        """Is the evidence for a pass there: an entry proven by its tag, and a checkpoint judged by each view?"""
        evidence = self.ledger.evidence
        return bool(evidence.tags) and all(evidence.steps.get(view) for view in views)

    def verdict(self, run: RunRecord) -> Verdict:
        """The verdict on a run that has been fed completely. Call once."""
        self.end(run)
        return conclude([self.ledger], run)

    def end(self, run: RunRecord) -> None:
        """Judge how a run, or a part of one, ended."""
        ledger = self.ledger
        if run.steps:
            ledger.step = run.steps[-1].number + 1
        ledger.batch, ledger.since = 0, self._looks[1]
        self._ending(run)
        if self._comparison is not None:
            self._comparison.explain()
        for reason in self.fold.unknown:
            ledger.undecided_because(reason)
        unwatched(ledger, self.fold)
        races.end(ledger, self.fold)
        release.release(ledger, run)
        self._papr.end(ledger, self.fold)

    def _ending(self, run: RunRecord) -> None:
        """A kernel that died is a finding, with the operation in flight; any other early end is a reason for no pass.

        A run begins only after the agent's handshake, so the kernel had come up.
        """
        error = None if run.ending is None else run.ending.error
        in_flight = None if run.ending is None else run.ending.in_flight
        if error is not None and died(error):
            self.ledger.step = self.ledger.step if in_flight is None else in_flight
            self.ledger.batch = self._batch_of.get(-1 if in_flight is None else in_flight, 0)
        elif error is not None:
            self.ledger.undecided_because(f"the run ended early: {error.message}")
        kernel.ended(self.ledger, self.fold, run.trouble, error, in_flight)

    def _operation(self, step: Step, outcome: Outcome) -> None:
        ledger = self.ledger
        ledger.evidence.operations += 1
        for law in OPERATION_LAWS:
            law(ledger, self.fold, step, outcome)
        self.fold.apply(step)
        self._races.feed(step, self.fold.tables)
        if (loop := self._meetings.feed(step)) is not None:
            ledger.evidence.loops.add(loop.met, loop.beside, loop.checked)
        went(ledger, self.fold, step, outcome)
        flight(ledger, self.fold, step, outcome)
        doorbells(ledger, self.fold, step, outcome)
        device_said(ledger, self.fold, step, outcome)
        isolation(ledger, self.fold, step, outcome)
        hypercalls.law(ledger, self.fold.hypercalls, step, outcome)
        self._papr.operation(self.fold, step, outcome)
        self._excuse(step.number)
        for counter in self._counters:
            counter(ledger, self.fold, step, outcome)
        match step.op:
            case Ioctl() if outcome.value == 0:
                self._count_map(step.op, 1)
            case Repeat():
                for call, times in done_of(step.op, outcome):
                    self._count_map(call, times)
            case Dma() | Together() | Burst() | Doorbell() | DmaMove() if not outcome.errno:
                self._count_dma()
                if isinstance(step.op, Doorbell):
                    self._count_lengths(step.op, outcome)
            case _ if self.fold.flown is not None:
                self._count_dma()

    def _to_blame(self, difference: Difference) -> int | None:
        """Number of the operation to blame for a difference seen at a checkpoint."""
        return blame.difference(self.ledger, self.fold, difference.key, (difference.liobn, difference.ioba))

    def _excuse(self, step: int) -> None:
        """Excuse entries that a declared quirk emptied: exactly those that the reference names."""
        for met in self._comparison.quirk_hits if self._comparison is not None else ():
            for liobn, entry in met.lost:
                self.fold.excuse(liobn, entry, step)

    def _count_map(self, op: Ioctl, times: int) -> None:
        if request_name(op.request) == "MAP_DMA":
            size = self.fold.number(op.fields.get("size", 0)) or 0
            self._pending[0] += times
            self._pending[1] += times * (size >> window.PAGE_SHIFT)

    def _count_dma(self) -> None:
        count = self.ledger.evidence.dma
        transfers, pieces = self.fold.transfers.quick
        count.transfers += transfers + len(self.fold.transfers.done)
        count.allowed += pieces
        for piece in itertools.chain.from_iterable(self.fold.transfers.done):
            count.allowed += not piece.refused
            count.refused += bool(piece.refused)
            if piece.refused:
                count.reasons[piece.refused] = count.reasons.get(piece.refused, 0) + 1

    def _count_lengths(self, op: Doorbell, outcome: Outcome) -> None:
        count = self.ledger.evidence.lengths
        isolated = [(event.start, event.size) for event in outcome.events if event.kind == "isolated"]
        for each, pieces in zip(op.transfers(), self.fold.transfers.done, strict=False):
            row = count.setdefault(length_of(each.iova, each.size), LengthCount())
            row.transfers += 1
            row.refused += any(piece.refused for piece in pieces)
            row.isolated += (each.iova, each.size) in isolated
            isolated = [other for other in isolated if other != (each.iova, each.size)]

    def _checkpoint(self, step: Step, op: Checkpoint) -> None:
        self._credit(op.batch)
        if self.facts.views:
            self.ledger.evidence.checkpoints += 1
        if step.snapshot is None:
            self.ledger.undecided_because("a checkpoint gave no snapshot")
        else:
            self._snapshot(step.snapshot, stream=op.stream)

    def _unseen(self, snapshot: Snapshot) -> None:
        """A checkpoint of a platform without a view: what the kernel said is all that there is."""
        seen = read_tables(snapshot, self.fold.transfers.take_forbidden())
        if KERNELS_LOG not in self.facts.cannot:
            kernel.kernel(self.ledger, self.fold, seen)
        for what, seconds in snapshot.seconds.items():
            self.ledger.took(what, seconds)

    def _credit(self, batch: int) -> None:
        """Count the maps since the last checkpoint under this one's batch size."""
        if batch:
            size = self.ledger.size(batch)
            size.checkpoints += 1
            size.maps += self._pending[0]
            size.pages += self._pending[1]
        self._pending = [0, 0]

    def _snapshot(self, snapshot: Snapshot, *, stream: bool) -> None:
        if not self.facts.views:
            self._unseen(snapshot)
            return
        ledger = self.ledger
        # Of a second snapshot, there are no forbidden accesses left: the first was judged with them.
        seen = read_tables(snapshot, self.fold.transfers.take_forbidden())
        shown = [table for tables in seen.views.values() for table in tables.values()]
        hypercalls.serial(ledger, self.fold, self._races.seen(shown, self.fold.hypercalls.apply))
        self.fold.seen(shown)
        asked = [view for view in self.facts.views if stream or view != "stream"]
        views: list[ViewName] = [*seen.views, *(("messages",) if snapshot.told else ())]
        for view in asked:
            if view not in views:
                why = snapshot.missing.get(view) or self.facts.cannot.get(view, "no reason was given")
                ledger.undecided_because(f"the {view} view is missing: {why}")
        for view in views:
            ledger.evidence.steps[view] = ledger.evidence.steps.get(view, 0) + 1
            if ledger.batch:
                size = ledger.size(ledger.batch)
                size.live += view not in {"stream", "messages"}
                size.stream += view == "stream"
        for law in CHECKPOINT_LAWS:
            law(ledger, self.fold, seen)
        self._papr.checkpoint(ledger, self.fold, snapshot)
        for what, seconds in snapshot.seconds.items():
            ledger.took(what, seconds)


def batches(program: Program) -> dict[int, int]:
    """By number of the operation, the batch size of the next checkpoint; operations without one are left out."""
    out: dict[int, int] = {}
    batch = 0
    for number in range(len(program.ops) - 1, -1, -1):
        op = program.ops[number]
        if isinstance(op, Checkpoint):
            batch = op.batch
        elif isinstance(op, Fresh):
            batch = 0
        if batch:
            out[number] = batch
    return out


def judge(run: RunRecord) -> Verdict:
    """Judge a whole run at once."""
    judge_ = Judge(run.program, run.facts)
    for step in run.steps:
        suspicious = judge_.feed(step)
        if step.confirmed is None:
            continue
        if suspicious:
            judge_.confirm(step, step.confirmed)
        else:
            judge_.ledger.undecided_because("a checkpoint was confirmed for something that the laws alone do not see")
    return judge_.verdict(run)


__all__ = ["KEEP", "Judge", "judge"]
