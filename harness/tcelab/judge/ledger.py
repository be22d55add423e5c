"""Where laws write down what they found, each wrong thing once."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable
from typing import Any, Final

import msgspec

from tcelab.judge.finding import Batch, Evidence, Finding, Seconds
from tcelab.program import Op, Program

SHOWN: Final = 3
"""Calls of a Repeat or a batch, and TCEs of a list, that are told; a line that nobody reads tells nothing."""


def operation_text(program: Program, number: int | None) -> str:
    """`#12 {"op":"ioctl",...}` without the fields that are empty, empty text for None."""
    if number is None or not 0 <= number < len(program.ops):
        return ""
    return f"#{number} {op_text(program.ops[number])}"


def op_text(op: Op) -> str:
    """An operation as compact JSON."""
    return msgspec.json.encode(_told(msgspec.to_builtins(op))).decode()


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty; of the calls of a Repeat, the first ones."""
    kept = {key: value for key, value in fields.items() if value not in (None, "", {})}
    for key in ("ops", "calls", "tces"):
        many = kept.get(key)
        if isinstance(many, list):
            more = [f"and {len(many) - SHOWN} more"] if len(many) > SHOWN else []
            kept[key] = [*(_told(each) if isinstance(each, dict) else each for each in many[:SHOWN]), *more]
    if "call" in kept and isinstance(kept["call"], dict):
        kept["call"] = _told(kept["call"])
    return kept


class Ledger:
    """Findings, reasons and counts of one judgement.

    :ivar step: number of the operation being judged; `batch`: the batch size in progress; `part`: the program's part.
    :ivar total: all distinct findings, of which the first `keep` are in `findings`.
    """

    def __init__(self, program: Program, keep: int) -> None:
        self.program = program
        self.keep = keep
        self.findings: list[Finding] = []
        self.total = 0
        self.evidence = Evidence()
        self.step = 0
        self.batch = 0
        self.part = 0
        self._known: dict[Hashable, Finding] = {}
        self._overflown: dict[tuple[int, str, int], int] = {}
        self._controls: set[tuple[int, str]] = set()
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
    ) -> Finding | None:
        """Write down a finding unless one of the same law and key is known; then only its view is added.

        :param operation: number of the operation to blame.
        :return: the finding if it is new.
        """
        known = self._known.get((self.part, law, key))
        if known is not None:
            if view and view not in known.view.split(", "):
                known.view = f"{known.view}, {view}"
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
        self._known[self.part, law, key] = finding
        if len(self.findings) < self.keep:
            self.findings.append(finding)
        return finding

    def count(self, law: str, findings: int = 1) -> None:
        """Count findings that are not kept one by one."""
        self.total += findings
        self.evidence.laws[law].findings += findings
        if self.batch:
            self.size(self.batch).findings += findings

    def overflow(self, law: str, liobn: int, findings: int) -> None:
        """Count the wrong entries of one table beyond those that were told, the same ones only once."""
        known = self._overflown.get((self.part, law, liobn), 0)
        if findings > known:
            self._overflown[self.part, law, liobn] = findings
            self.count(law, findings - known)

    def could_not(self, reason: str) -> None:
        self._reasons.setdefault(reason, []).append(self.step)

    def control(self, device: str) -> None:
        """The first refusal of a device was seen by this part's watcher."""
        self._controls.add((self.part, device))
        if device not in self.evidence.dma.control:
            self.evidence.dma.control.append(device)

    def has_control(self, device: str) -> bool:
        return (self.part, device) in self._controls

    @property
    def reasons(self) -> list[str]:
        """Each reason once, with how often and from which step on."""
        return [
            reason if len(steps) == 1 else f"{reason} ({len(steps)} times, first at step {steps[0]})"
            for reason, steps in self._reasons.items()
        ]

    def size(self, batch: int) -> Batch:
        """The counters of a batch size."""
        return self._batches.setdefault(batch, Batch(size=batch))

    def took(self, what: str, seconds: float) -> None:
        self._seconds[what].append(seconds)

    def close(self) -> Evidence:
        """The evidence so far, as a copy of its own."""
        self.evidence.batches = [self._batches[size] for size in sorted(self._batches)]
        self.evidence.seconds = {
            what: Seconds(len(times), statistics.median(times), max(times)) for what, times in self._seconds.items()
        }
        return msgspec.convert(msgspec.to_builtins(self.evidence), Evidence)
