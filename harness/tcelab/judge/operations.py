"""Laws of single operations: what they returned, and what counters and reports say about the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from tcelab.judge.ledger import Ledger, op_text
from tcelab.judge.models.files import Group
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.requests import request_name
from tcelab.judge.models.rounds import calls_done
from tcelab.papr import dma, window
from tcelab.program import Bind, Burst, Ddw, Dma, Engine, Ioctl, Read, Repeat, Rtas, Together
from tcelab.program.expected import WENT
from tcelab.run import Outcome, Step

VIABLE: Final = 1
CONTAINER_SET: Final = 2
"""VFIO_GROUP_FLAGS_*, include/uapi/linux/vfio.h."""


def outcome(ledger: Ledger, _fold: Fold, step: Step, got: Outcome) -> None:
    """An operation gave what the program expects of it: `"ok"`, an errno's name, or an exact number.

    Of a transfer that is to be passed or refused, that it ended; what became of it, `went` judges.
    """
    expected = step.op.expect
    if expected is None:
        return
    ledger.judged("outcome")
    if as_expected(step, got):
        return
    seen = got.errno or f"value {got.value}"
    if isinstance(step.op, Repeat):
        seen += f" after {got.fields.get('calls')} calls"
    ledger.report(
        "outcome",
        step.number,
        f"operation {step.number} {op_text(step.op)} gave {seen}, expected {expected}",
        expected=str(expected),
        seen=seen,
        operation=step.number,
    )


def as_expected(step: Step, got: Outcome) -> bool:
    """Did an operation that expects something give it?"""
    expected = step.op.expect
    if isinstance(expected, int):
        return got.value == expected and not got.errno
    if expected != "ok" and expected not in WENT:
        return got.errno == expected
    if isinstance(step.op, Repeat):
        return got.value == 0 and not got.errno and calls_done(step.op, got) is not None
    if isinstance(step.op, Dma | Together | Burst | Engine | Rtas | Ddw):
        return got.value == 0 and not got.errno
    if got.errno or not isinstance(step.op, Ioctl):
        return not got.errno
    makes_file = bool(step.op.into) or request_name(step.op.request) == "GROUP_GET_DEVICE_FD"
    return got.value is not None and (got.value >= 0 if makes_file else got.value == 0)


def went(ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
    """A transfer that ended was passed or refused, whole, as the program expects: by the fold's reckoning, once the
    operation is folded in. That the device did just that, other laws prove.
    """
    expected = step.op.expect
    if expected not in WENT or not as_expected(step, got):
        return
    pieces = [piece for transfer in fold.transfers.done for piece in transfer]
    whole = fold.transfers.quick[1] + len(pieces)
    refused = sum(bool(piece.refused) for piece in pieces)
    if not whole:
        ledger.could_not(f"nobody knows what became of the transfer of operation {step.number}")
        return
    if expected == "passed":
        to_be, against, why = "to pass", refused, _refusal
        seen = _all_or_part("refused", refused, whole)
    else:
        to_be, against, why = "to be refused", whole - refused, _passage
        seen = _all_or_part("passed", whole - refused, whole)
    if against:
        each = "the transfer" if isinstance(step.op, Dma) else "each transfer"
        ledger.report(
            "outcome",
            step.number,
            f"operation {step.number} {op_text(step.op)}: {each} was {to_be}; {why(pieces)} ({seen})",
            expected=str(expected),
            seen=seen,
            operation=step.number,
        )


def _all_or_part(what: str, count: int, whole: int) -> str:
    return f"all {what}" if count == whole else f"{count} of {whole} pieces {what}"


def _refusal(pieces: Collection[dma.Piece]) -> str:
    """Why the first piece is refused that is."""
    first = next(piece for piece in pieces if piece.refused)
    why = "no permission" if first.refused == dma.PERMISSION else first.refused
    who = "its table refuses it" if first.refused in {dma.NO_ENTRY, dma.PERMISSION} else "it is refused"
    return f"{who}: {why} at IOBA {first.iova:#x}"


def _passage(pieces: Collection[dma.Piece]) -> str:
    """Where the first piece passes that does; of those that are only counted, nobody knows where."""
    first = next((f" at IOBA {piece.iova:#x}" for piece in pieces if not piece.refused), "")
    return f"its table lets it through{first}"


def reports(ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
    """What kernel and device tree report about a group and its window is the topology, and the state it is in.

    Source: `ibm,dma-window` in the device tree (QEMU hw/ppc/spapr_pci.c); drivers/vfio/group.c,
    vfio_group_ioctl_get_status; drivers/vfio/vfio_iommu_spapr_tce.c, VFIO_IOMMU_SPAPR_TCE_GET_INFO.
    """
    expected = _reported(fold, step) if got.value == 0 and not got.errno else {}
    if not expected:
        return
    ledger.judged("inventory")
    for name, value in expected.items():
        seen = got.fields.get(name)
        if seen != value:
            ledger.report(
                "inventory",
                (step.number, name),
                f"operation {step.number} {op_text(step.op)} reports {name} {_number(seen)}, expected {value:#x}",
                expected=f"{name} {value:#x}",
                seen=f"{name} {_number(seen)}",
                operation=step.number,
            )


def _number(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)


def _reported(fold: Fold, step: Step) -> dict[str, int]:
    """Output fields that an operation must report."""
    op = step.op
    if isinstance(op, Bind):
        phb = fold.group_of[op.device].phb
        return {
            "liobn": phb.liobn,
            "window_start": phb.window_start,
            "window_size": phb.window_size,
            "buid": window.buid(phb.index),
        }
    if isinstance(op, Ddw) and op.call == "create":
        return _made(fold, op)
    if not isinstance(op, Ioctl) or op.value is not None:  # a struct of the program's own is not reported
        return {}
    name, handle = request_name(op.request), fold.target(op)
    if name == "GROUP_GET_STATUS" and isinstance(handle, Group):
        return {"flags": VIABLE | (CONTAINER_SET if handle.container else 0)}
    if name == "SPAPR_TCE_GET_INFO":
        for group in fold.groups.values():
            if group.container is not None and group.container is handle:
                phb = group.phb
                return {"dma32_window_start": phb.window_start, "dma32_window_size": phb.window_size & 0xFFFFFFFF}
    return {}


def _made(fold: Fold, op: Ddw) -> dict[str, int]:
    """A window that firmware made has the first LIOBN that is free, and lies above a low one (spapr_rtas_ddw.c)."""
    windows = fold.group_of[op.device].windows
    free = [liobn for liobn in windows.liobns if liobn not in fold.tables]
    start = windows.phb.window_start if len(free) == len(windows.liobns) else window.SECOND_START
    return {"liobn": free[0], "start": start} if free else {}


@dataclass(slots=True)
class Meter:
    """A counter that must move as the fold does; its first reading gives the zero point."""

    zero: int | None = None
    error: int = 0

    def changed(self, reading: int, folded: int) -> int | None:
        """How far the reading is off, None when that is not new."""
        if self.zero is None:
            self.zero = reading - folded
        error, self.error = self.error, reading - self.zero - folded
        return None if self.error in (0, error) else self.error


class Meters:
    """The laws of counters; state: a meter of pins, and one of charges for each process."""

    def __init__(self) -> None:
        self.vmlck: defaultdict[str, Meter] = defaultdict(Meter)
        self.pins = Meter()

    def __call__(self, ledger: Ledger, fold: Fold, step: Step, got: Outcome) -> None:
        if isinstance(step.op, Read) and got.value is not None:
            law = {"vmlck": self._charges, "pins": self._pins}.get(step.op.what)
            if law is not None:
                law(ledger, fold, step.op.by, got.value)

    def _charges(self, ledger: Ledger, fold: Fold, process: str, reading: int) -> None:
        """VmLck: the window while enabled (v1) or the memory that is registered (v2), and the table of each window from
        its creation until it is removed or released, of the process that enabled the container.

        Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable, tce_iommu_create_table.
        """
        folded = fold.charge(process)
        if folded is None:
            return
        if process in fold.driver.doubted:
            # A call that failed left something there: from now on that is the zero point.
            fold.driver.doubted.discard(process)
            self.vmlck[process].zero = None
        ledger.judged("charges")
        off = self.vmlck[process].changed(reading, folded)
        if off is not None:
            name = f"VmLck of process {process}" if process else "VmLck"
            self._report(ledger, "charges", name, "KiB", (reading, reading - off, off))

    def _pins(self, ledger: Ledger, fold: Fold, _process: str, reading: int) -> None:
        """Page pins: one per live entry of any LIOBN (v1), or per CPU page that is registered (v2).

        Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_use_page, tce_iommu_unuse_page, mm_iommu_do_alloc.
        """
        ledger.judged("pins")
        ledger.evidence.pins += 1
        off = self.pins.changed(reading, fold.live)
        if off is not None:
            self._report(ledger, "pins", "page pins", "pages", (reading, reading - off, off))

    @staticmethod
    def _report(ledger: Ledger, law: str, name: str, unit: str, numbers: tuple[int, int, int]) -> None:
        reading, expected, off = numbers
        kind = "not given back or too much" if off > 0 else "missing"
        ledger.report(
            law,
            (ledger.step, reading),
            f"{name}: expected {expected} {unit}, seen {reading} ({abs(off)} {unit} {kind})",
            expected=f"{expected} {unit}",
            seen=f"{reading} {unit}",
            operation=last_ioctl(ledger),
        )


def last_ioctl(ledger: Ledger) -> int | None:
    """Number of the last ioctl, repeat, close or exit before the operation being judged."""
    kinds = {"ioctl", "repeat", "close", "exit"}
    before = range(ledger.step - 1, -1, -1)
    return next((i for i in before if type(ledger.program.ops[i]).__name__.lower() in kinds), None)


OPERATION_LAWS: Final[Collection[Callable[[Ledger, Fold, Step, Outcome], None]]] = (outcome, reports)
