"""Save and load: the guest is migrated, RAM and all, into a file and from there into a fresh QEMU.

The agent and everything of the program's live on: to them it is as if the guest had stood still. QEMU's connections,
views and trace are the fresh one's. What a fresh QEMU cannot know, the harness carries over: the configuration of an
edu (`tcelab.qemu.transit`), and which PEs are isolated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tcelab.errors import Unsupported
from tcelab.logs import PHASE
from tcelab.program import Load, Save
from tcelab.qemu import transit
from tcelab.qemu.guest import Guest
from tcelab.qemu.life import mtree
from tcelab.qemu.life.flight import InFlight
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Outcome, TableView

_LOG: Final = logging.getLogger(__name__)


def save(session: QemuSession, op: Save) -> Outcome:
    """Stop the guest for good, and save it."""
    guest = session.guest
    portal().call(guest.standstill.begin())
    session.in_flight = None
    if op.flight is not None:
        session.in_flight = in_flight = InFlight(session, op.flight)
        in_flight.start()
    windows = told(session.table_views())
    guarded = session.options.guard != "off"
    work = transit.save(guest, guarded=guarded)
    session.saved = portal().call(guest.waiter.run(work, "load", guest.limits.load))
    _LOG.debug("saved: %d bytes, %d registers", session.saved.size, len(session.saved.registers))
    return Outcome(value=0, fields={"bytes": session.saved.size, "windows": windows})


def load(session: QemuSession, op: Load) -> Outcome:
    """A fresh QEMU takes in what was saved."""
    saved = session.saved
    assert saved is not None, "a load comes after a save"
    qemu, abilities = session.first
    if op.qemu:
        if op.qemu not in session.options.others:
            raise Unsupported(
                f"QEMU {op.qemu} was not made ready before the guest began: only a program that is known as a whole is"
                " loaded into another QEMU",
                next_step="run it as a program: tcelab run FILE",
                scene=session.scene(),
            )
        qemu, abilities = session.options.others[op.qemu]
    options = msgspec.structs.replace(session.options, order=op.order)
    _LOG.info("loading the guest into QEMU %s", abilities.version, extra=PHASE)
    fresh = Guest(qemu, abilities, options, session.guest.limits, _folder(session), saved=saved)
    session.succeed(fresh)
    portal().call(fresh.start())
    session.move_in(fresh)
    fresh.log.tables.keep(mtree.now(session))
    windows = told(session.table_views())
    session.go_on_moved()
    in_flight, session.in_flight = session.in_flight, None
    # Until a transfer that was under way when the guest was saved must be over, it idles in the fresh QEMU.
    flown = {} if in_flight is None else {"flight": in_flight.arrive()}
    return Outcome(value=0, fields={"windows": windows, **flown})


def _folder(session: QemuSession) -> Path:
    """Of the artefacts of the next QEMU, beside those of the ones before."""
    number = 1
    while (folder := session.folder / f"loaded-{number}").exists():
        number += 1
    folder.mkdir(mode=0o700)
    return folder


def told(tables: Sequence[TableView]) -> list[dict[str, Any]]:
    """The windows that exist, as an outcome tells them."""
    return [
        {
            "liobn": table.liobn,
            "entries": table.entries,
            "page_shift": table.page_shift,
            "start": table.bus_offset,
            "default": table.default,
        }
        for table in sorted(tables, key=lambda each: each.liobn)
        if table.entries
    ]
