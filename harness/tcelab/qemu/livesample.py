"""Samples the tables of a running guest. Nothing is stopped, so the entries of one sample may be from different
moments, and changes between two samples may be missed.

A table moves when its window is created again. Its address is read from QEMU's log before and after its memory; a table
that moved meanwhile is left out of the sample.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tcelab.errors import HarnessError, TcelabError, Unsupported, UsageError
from tcelab.papr import window
from tcelab.program import load
from tcelab.program.topology import Topology
from tcelab.qemu import machine
from tcelab.qemu.log import RECENT, REFUSED
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.tableaddresses import TableAddresses
from tcelab.qemu.views.live import LiveMemory
from tcelab.run.record import TableView

_PROC: Final = Path("/proc")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LiveSample:
    """What was seen at one moment.

    :ivar at: seconds, by `time.monotonic`.
    :ivar violations: the last refused accesses, as QEMU logged them; `refused`: how many there were so far.
    :ivar unseen: why there are no tables, if there are none.
    """

    at: float
    tables: tuple[TableView, ...]
    violations: tuple[str, ...] = ()
    refused: int = 0
    unseen: str = ""


class Looker(Protocol):
    """Of one guest."""

    def look(self) -> LiveSample | None:
        """None: the guest has ended."""
        ...

    def close(self) -> None: ...


def _read(live: LiveMemory, known: Mapping[int, int], shapes: Mapping[int, window.Shape]) -> Iterator[TableView]:
    """The tables that are still at their logged address."""
    for liobn, at in sorted(known.items()):
        if liobn in shapes:
            with contextlib.suppress(HarnessError):  # it has moved, or QEMU has ended: the caller finds out which
                yield live.table(liobn, at, shapes[liobn])


_NO_TABLE: Final = "QEMU's trace has told of no table yet"
_UNREADABLE: Final = "no table could be read where QEMU's trace told it to be"


class SessionLooker:
    """Of a session of this process, whichever thread drives it."""

    def __init__(self, session: QemuSession, topology: Topology) -> None:
        """:raise Unsupported: the host does not let us read QEMU's memory."""
        self._session = session
        self._log = session.guest.log
        self._defaults = machine.default_windows(topology)
        self._live = LiveMemory(session.guest.pid)

    def look(self) -> LiveSample | None:
        """See `Looker`."""
        if not self._session.alive:
            return None
        with contextlib.suppress(HarnessError, OSError, ValueError):  # the log is being closed
            self._log.drain()
        known, shapes = dict(self._log.tables.at), {**self._defaults, **self._log.tables.shapes}
        at = time.monotonic()
        found = list(_read(self._live, known, shapes))
        with contextlib.suppress(HarnessError, OSError, ValueError):
            self._log.drain()
        still = tuple(view for view in found if self._log.tables.at.get(view.liobn) == known[view.liobn])
        unseen = "" if still else _UNREADABLE if known else _NO_TABLE
        if why := self._session.facts.cannot.get("live"):
            unseen = why
        return LiveSample(at, still, tuple(self._log.recent), self._log.refused, unseen)

    def close(self) -> None:
        """Let go of QEMU's memory."""
        self._live.close()


class FolderLooker:
    """Of a run in another terminal, by the folder of its artefacts: where the tables are is read from its qemu.log.

    :ivar topology: of that run.
    """

    def __init__(self, folder: Path) -> None:
        """:raise UsageError: no run in that folder is running.
        :raise Unsupported: the host does not let us read the memory of a process that is not our child.
        """
        program = folder / "program.json"
        if not program.is_file():
            raise UsageError(f"{folder} is no folder of a run: it has no program.json")
        self.topology = load(program).topology
        self._defaults = machine.default_windows(self.topology)
        self._pid = _qemu_of(folder)
        try:
            self._live = LiveMemory(self._pid)
        except Unsupported as error:
            raise Unsupported(
                f"{error.message}: another terminal's QEMU is not our child",
                next_step="let the run show itself: tcelab watch SCENARIO; or kernel.yama.ptrace_scope=0",
            ) from None
        self._file = (folder / "qemu.log").open("rb")
        self._partial = b""
        self._tables = TableAddresses()
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._refused = 0

    def look(self) -> LiveSample | None:
        """See `Looker`."""
        self._follow()
        known, shapes = dict(self._tables.at), {**self._defaults, **self._tables.shapes}
        at = time.monotonic()
        found = list(_read(self._live, known, shapes))
        self._follow()
        still = tuple(view for view in found if self._tables.at.get(view.liobn) == known[view.liobn])
        if not still and not _lives(self._pid):
            return None
        unseen = "" if still else _UNREADABLE if known else _NO_TABLE
        return LiveSample(at, still, tuple(self._recent), self._refused, unseen)

    def _follow(self) -> None:
        while data := self._file.read(_CHUNK):
            *lines, self._partial = (self._partial + data).split(b"\n")
            for raw in lines:
                line = raw.decode("utf-8", "replace")
                if "spapr_iommu" in line:
                    self._tables.line(line)
                elif REFUSED.match(line):
                    self._recent.append(line)
                    self._refused += 1

    def close(self) -> None:
        """Let go of the log and of QEMU's memory."""
        self._file.close()
        self._live.close()


def _qemu_of(folder: Path) -> int:
    """The process that writes qemu.err of that folder.

    :raise UsageError: there is none.
    """
    said = folder.absolute() / "qemu.err"
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "fd" / "2").samefile(said):
                return int(process.name)
    raise UsageError(f"no guest of {folder} is running", next_step="tcelab watch SCENARIO runs one and shows it")


def _lives(pid: int) -> bool:
    """It is there, and no zombie."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def looker(session: object, topology: Topology) -> Looker:
    """The looker for a guest of a run.

    :raise TcelabError: it cannot be sampled.
    """
    if not isinstance(session, QemuSession):
        raise TcelabError("only a guest under QEMU has tables that can be watched")
    return SessionLooker(session, topology)
