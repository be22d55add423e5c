"""A short program that touches everything the judge looks at, on two small windows, and ways to lie about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ideal import Ideal

from tcelab.program import Checkpoint, Op, Page, Program
from tcelab.program.topology import Device, Phb, Topology
from tcelab.run.record import Outcome, Snapshot, TableView
from tcelab.scenarios import vocabulary as b

READ, WRITE, BOTH = 1, 2, 3
CHANNEL, FIRST, SECOND, SPARE = 0x80000000, 0x80000100, 0x80000200, 0x80001E00
SMALL = Topology("small", (Phb(1, (Device("pe1", 1),), 4 << 20), Phb(2, (Device("pe2", 2),), 4 << 20)))
ONE, TWO = b.pes(SMALL, "story")


def story() -> Program:
    """PE 1: a:0..3 at 0x10000 read-write, a:5 at 0x50000 read-only, a:7 at 0x60000 read-write
    (the device uses it), holes at 0x40000 and 0x61000; PE 2: b:0..1 at 0x20000."""
    ops: list[Op] = [
        *b.vmlck(),
        *b.pins(),
        *b.buffer("a", 8, 1),
        *b.buffer("b", 4, 2),
        *b.fill(Page("a", 6), 4096, 5),
        *(op for pe in (ONE, TWO) for op in [*b.bind(pe), *b.open_container(pe), *b.get_info(pe), *b.enable(pe)]),
        *b.open_device(ONE),
        *b.tag(Page("a", 0), 4, FIRST, 0x10000, 1),
        *b.map_dma(ONE, Page("a", 0), 0x10000, 4, BOTH),
        *b.tag(Page("b", 0), 2, SECOND, 0x20000, 2),
        *b.map_dma(TWO, Page("b", 0), 0x20000, 2, READ),
        *b.map_dma(ONE, Page("a", 5), 0x50000, 1, READ),
        *b.fill(Page("a", 7), 4096, 6),
        *b.map_dma(ONE, Page("a", 7), 0x60000, 1, BOTH),
        *b.vmlck(),
        *b.pins(),
        *b.checkpoint("mapped", batch=4),
        *b.dma(ONE, 0x40000, 64, to_memory=False),
        *b.checkpoint("control"),
        *b.dma(ONE, 0x60000, 256, to_memory=False),
        *b.dma(ONE, 0x50100, 64, to_memory=True),
        *b.dma(ONE, 0x60FC0, 128, to_memory=True, offset=64),
        *b.checkpoint("refused"),
        *b.unmap_dma(ONE, 0x11000, 1),
        *b.pins(),
        *b.checkpoint("unmapped", stream=True),
        *b.close(ONE.device),
        *b.disable(ONE),
        *b.close(ONE.group, ONE.container, TWO.group, TWO.container),
        *b.vmlck(),
        *b.pins(),
        *b.checkpoint("closed", stream=True),
    ]
    return Program(name="story", topology=SMALL, ops=ops, seed=1)


def nth(kind: str, number: int = 0) -> int:
    """Number of an operation: by its request, or the label of a checkpoint, or its kind."""
    names = [getattr(op, "request", "") or getattr(op, "label", "") or type(op).__name__ for op in story().ops]
    return [i for i, name in enumerate(names) if name == kind][number]


def after(number: int, do: Callable[[Ideal], Any]) -> dict[str, Any]:
    """Tamper with the world once, after operation `number`; an outcome that is returned replaces its own."""

    def tamper(session: Ideal, at: int, _op: Op, outcome: Outcome) -> Outcome:
        result = do(session) if at == number else None
        return result if isinstance(result, Outcome) else outcome

    return {"tamper": tamper}


def see(change: Callable[[TableView], TableView | None], *, view: str = "", label: str = "mapped") -> dict[str, Any]:
    """Show the host other tables at a checkpoint; None: leave that table out."""

    def warp(_session: Ideal, _number: int, op: Checkpoint, snapshot: Snapshot) -> Snapshot:
        if op.label != label:
            return snapshot
        tables = [change(t) if t.view == view or not view else t for t in snapshot.tables]
        return replace(snapshot, tables=tuple(t for t in tables if t is not None))

    return {"warp": warp}


def on(liobn: int, change: Callable[[TableView], TableView | None]) -> Callable[[TableView], TableView | None]:
    return lambda table: change(table) if table.liobn == liobn else table


def with_entry(number: int, tce: int) -> Callable[[TableView], TableView]:
    """The same table with one entry more."""

    def change(table: TableView) -> TableView:
        live = dict(zip(table.index.tolist(), table.tce.tolist(), strict=True)) | {number: tce}
        pairs = sorted(live.items())
        index, values = (np.array([pair[i] for pair in pairs], kind) for i, kind in ((0, np.uint32), (1, np.uint64)))
        return replace(table, index=index, tce=values)

    return change
