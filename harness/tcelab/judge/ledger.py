"""Where laws record what they found, each defect once."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from tcelab.judge.finding import Batch, Evidence, Finding, Seconds, added
from tcelab.judge.standing import Standing
from tcelab.program import Ddw, Hcall, Ioctl, Op, Program, Rtas

KEEP: Final = 200
"""Findings that a verdict shows; the rest are counted."""
SHOWN: Final = 3
"""Calls of a Repeat or a batch, and TCEs of a list, that are shown: nobody reads a longer line."""
_HEX: Final = {"iova", "ioba", "vaddr", "liobn", "start_addr", "args", "tces"}
"""Fields that hold addresses, LIOBNs and TCEs."""


def operation_text(program: Program, number: int | None) -> str:
    """`#12 {"op":"ioctl",...}` without empty fields; empty text for None."""
    if number is None or not 0 <= number < len(program.ops):
        return ""
    return f"#{number} {op_text(program.ops[number])}"


def op_text(op: Op) -> str:
    """An operation as compact JSON."""
    return msgspec.json.encode(_told(msgspec.to_builtins(op))).decode()


def op_name(op: Op) -> str:
    """An operation in a message: its kind and what it asks for. The finding's `operation` has all of it."""
    match op:
        case Ioctl():
            return f"ioctl {op.request}"
        case Rtas():
            return f"rtas {op.call} of {op.device}" + (f", option {op.option}" if op.option else "")
        case Ddw():
            return f"ddw {op.call} of {op.device}"
        case Hcall():
            return f"hcall {op.call.opcode}"
    return type(op).__name__.lower()


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    """Without empty fields, addresses in hex; of several calls, TCEs or transfers, the first ones."""
    kept = {key: _hex(value) if key in _HEX else value for key, value in fields.items() if value not in (None, "", {})}
    for key in ("ops", "calls", "tces", "transfers", "parts", "lists"):
        many = kept.get(key)
        if isinstance(many, list):
            kept[key] = _few([_few(each) for each in many] if key == "lists" else many)
    struct = kept.get("fields")
    kept |= {key: _told(each) for key in ("call", "flight") if isinstance(each := kept.get(key), dict)}
    if isinstance(struct, dict):  # the kernel got these fields even where they are empty
        kept["fields"] = {key: _hex(value) if key in _HEX else value for key, value in struct.items()}
    return kept


def _few(many: list[Any]) -> list[Any]:
    more = [f"and {len(many) - SHOWN} more"] if len(many) > SHOWN else []
    return [*map(_one, many[:SHOWN]), *more]


def _one(each: object) -> object:
    """One of several: a call, a TCE, or a transfer (a list that begins with its IOVA)."""
    if isinstance(each, dict):
        return _told(each)
    return [_hex(each[0]), *each[1:]] if isinstance(each, list) and each else each


def _hex(value: object) -> object:
    if isinstance(value, list):
        return [_hex(each) for each in value]
    return f"{value:#x}" if type(value) is int else value


class Ledger:
    """Findings, reasons and counts of one judgement: of a run, or of one part of it. Its size is bounded by the
    program, however much is wrong.

    :ivar step: number of the operation being judged; `batch`: the batch size in progress.
    :ivar since: number of the checkpoint before the one being judged, -1 if there was none.
    :ivar total: all distinct findings, of which the first `keep` are in `findings`.
    :ivar by_step: number of findings, by step and law, those not kept included.
    :ivar standing: which table entries are wrong, snapshot by snapshot.
    """

    def __init__(self, program: Program, keep: int = KEEP) -> None:
        self.program = program
        self.keep = keep
        self.findings: list[Finding] = []
        self.total = 0
        self.evidence = Evidence()
        self.step = 0
        self.batch = 0
        self.since = -1
        self.by_step: dict[int, dict[str, int]] = {}
        self._known: dict[Hashable, Finding | None] = {}
        self._fresh: tuple[int, dict[Hashable, Finding | None]] = -1, {}
        self.standing: Final = Standing()
        self._reasons: dict[str, list[int]] = {}
        self._batches: dict[int, Batch] = {}
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def judged(self, law: str, times: int = 1) -> None:
        self.evidence.laws[law].judged += times

    def report(
        self,
        law: str,
        key: Hashable,
        message: str,
        *,
        liobn: int | None = None,
        ioba: int | None = None,
        expected: str = "",
        seen: str = "",
        operation: int | None = None,
        view: str = "",
        lasting: bool = True,
    ) -> Finding | None:
        """Record a finding unless one of the same law and key is known; then only add its view.

        :param operation: number of the operation to blame.
        :param lasting: the key stays known for the whole judgement, otherwise for this step alone.
        :return: the finding if it is new.
        """
        memory = self._known if lasting else self._of_step()
        where = law, key
        if where in memory:
            self._also_seen(memory[where], view)
            return None
        self.count(law)
        finding = Finding(
            law=law,
            step=self.step,
            message=message,
            liobn=liobn,
            ioba=ioba,
            expected=expected,
            seen=seen,
            operation=operation_text(self.program, operation),
            view=view,
            batch=self.batch,
        )
        kept = len(self.findings) < self.keep
        memory[where] = finding if kept else None
        if kept:
            self.findings.append(finding)
        return finding

    def also_seen(self, law: str, key: Hashable, view: str) -> None:
        """A view shows a known defect: add the view to the finding if this step reported it."""
        self._also_seen(self._of_step().get((law, key)), view)

    @staticmethod
    def _also_seen(known: Finding | None, view: str) -> None:
        if known is not None and view and view not in known.view.split(", "):
            known.view = f"{known.view}, {view}"

    def _of_step(self) -> dict[Hashable, Finding | None]:
        """Findings of this step whose keys are known for this step alone."""
        if self._fresh[0] != self.step:
            self._fresh = self.step, {}
        return self._fresh[1]

    def count(self, law: str, findings: int = 1) -> None:
        """Count findings that are not kept one by one."""
        if not findings:
            return
        self.total += findings
        self.evidence.laws[law].findings += findings
        here = self.by_step.setdefault(self.step, {})
        here[law] = here.get(law, 0) + findings
        if self.batch:
            self.size(self.batch).findings += findings

    def undecided_because(self, reason: str) -> None:
        self._reasons.setdefault(reason, []).append(self.step)

    def control(self, device: str) -> None:
        """A refusal of a device was seen."""
        if device not in self.evidence.dma.control:
            self.evidence.dma.control.append(device)

    @contextmanager
    def at(self, step: int, batch: int) -> Iterator[None]:
        """What is recorded within this context belongs to an earlier step and its batch size."""
        now = self.step, self.batch
        self.step, self.batch = step, batch
        try:
            yield
        finally:
            self.step, self.batch = now

    @property
    def reasons(self) -> list[str]:
        """Each reason once, with its count and first step if there are several."""
        return [
            reason if len(steps) == 1 else f"{reason} ({len(steps)} times, first at step {steps[0]})"
            for reason, steps in self._reasons.items()
        ]

    def size(self, batch: int) -> Batch:
        """The counters of a batch size."""
        known = self._batches.get(batch)
        if known is None:
            known = self._batches[batch] = Batch(size=batch)
        return known

    def took(self, what: str, seconds: float) -> None:
        self._seconds[what].append(seconds)

    def close(self) -> Evidence:
        """A copy of the evidence so far."""
        self.evidence.batches = [self._batches[size] for size in sorted(self._batches)]
        self.evidence.seconds = {
            what: Seconds(len(times), statistics.median(times), max(times)) for what, times in self._seconds.items()
        }
        return msgspec.convert(msgspec.to_builtins(self.evidence), Evidence)


def joined(program: Program, ledgers: Sequence[Ledger]) -> Ledger:
    """One ledger with all that is in those of a program's parts, which stay unchanged.

    :param ledgers: in program order.
    """
    whole = Ledger(program, ledgers[0].keep if ledgers else KEEP)
    whole.findings = sorted((each for one in ledgers for each in one.findings), key=lambda each: each.step)
    del whole.findings[whole.keep :]
    whole.total = sum(one.total for one in ledgers)
    if ledgers:
        whole.evidence = added([one.evidence for one in ledgers])
    for one in ledgers:
        for step, laws in one.by_step.items():
            here = whole.by_step.setdefault(step, {})
            here.update({law: here.get(law, 0) + count for law, count in laws.items()})
        for reason, steps in one._reasons.items():  # noqa: SLF001 - of its own kind
            whole._reasons.setdefault(reason, []).extend(steps)  # noqa: SLF001
        for what, seconds in one._seconds.items():  # noqa: SLF001
            whole._seconds[what].extend(seconds)  # noqa: SLF001
        for size, batch in one._batches.items():  # noqa: SLF001
            whole._batches[size] = batch + whole.size(size)  # noqa: SLF001
    return whole


def last_ioctl(ledger: Ledger) -> int | None:
    """Number of the last ioctl, repeat, close or exit before the operation being judged."""
    kinds = {"ioctl", "repeat", "close", "exit"}
    before = range(ledger.step - 1, -1, -1)
    return next((i for i in before if type(ledger.program.ops[i]).__name__.lower() in kinds), None)


MOST: Final = 1000
"""Wrong entries of one table and snapshot that are reported one by one; the rest are only counted."""
