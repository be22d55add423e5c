"""The small program that a guest must pass before it is given to anybody."""

from __future__ import annotations

from dataclasses import replace

from tcelab.errors import HarnessError, Interrupted, TcelabError, counted, died
from tcelab.image.bases import ChangedError
from tcelab.judge import Judge
from tcelab.program.topology import Topology
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.loop import perform_program
from tcelab.run.record import RunRecord, Snapshot, Step
from tcelab.scenarios.warmup import warm_up


class OtherwiseError(HarnessError):
    """A fork behaved otherwise than its base: replacing it silently would hide that."""


def replaceable(error: TcelabError) -> bool:
    """Is the error independent of the guest, so that another guest may be tried?"""
    return not isinstance(error, ChangedError | Interrupted | OtherwiseError) and not died(error)


def attempt(session: QemuSession, topology: Topology, *, thorough: bool = False) -> str:
    """Run the small program, and begin anew on that guest: empty, or what was wrong with the guest instead.

    The session is closed when this raises.

    :param thorough: see `warm_up`.
    :raise TcelabError: the guest was lost, or QEMU; nothing is known about it then.
    """
    program = warm_up(topology, thorough=thorough)
    judge = Judge(program, session.facts)
    record = perform_program(program, session, _OfPrograms(judge, topology))
    findings = judge.verdict(record).findings
    if record.ending is not None:
        session.close()
        raise record.ending.error
    if blind := _blind(record):
        return blind
    if findings:
        return f"{counted(len(findings), 'finding')}, the first of the law {findings[0].law}: {findings[0].message}"
    try:
        session.renew()
    except BaseException:
        session.close()
        raise
    return ""


class _OfPrograms:
    """A judge that does not see entries of the kernel's own drivers: built-in drivers have mapped already."""

    def __init__(self, judge: Judge, topology: Topology) -> None:
        self._judge = judge
        self._driven = {phb.liobn for phb in topology.phbs if set(phb.devices) & set(topology.driven)}

    def feed(self, step: Step) -> bool:
        """See `tcelab.run.loop.Observer`."""
        self._shown = step if step.snapshot is None else replace(step, snapshot=self._emptied(step.snapshot))
        return self._judge.feed(self._shown)

    def confirm(self, _step: Step, snapshot: Snapshot) -> None:
        """See `tcelab.run.loop.Observer`."""
        self._judge.confirm(self._shown, self._emptied(snapshot))

    def _emptied(self, snapshot: Snapshot) -> Snapshot:
        tables = (
            replace(table, index=table.index[:0], tce=table.tce[:0]) if table.liobn in self._driven else table
            for table in snapshot.tables
        )
        return replace(snapshot, tables=tuple(tables))


def _blind(record: RunRecord) -> str:
    """Why a view that this QEMU supports is missing; empty if none is."""
    snapshots = [step.snapshot for step in record.steps if step.snapshot is not None]
    missing = [item for snapshot in snapshots for item in snapshot.missing.items()]
    return next((f"no {view} view: {why}" for view, why in missing if view not in record.facts.cannot), "")
