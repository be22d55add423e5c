"""The laws, each in a file of its name.

A law of operations is asked before an operation is folded in; one of checkpoints, of a snapshot. Those that keep a
state or are asked at another moment (`hypercalls`, `isolation`, `charges`, `pins`, `difference`, `evidence`) are
called by `tcelab.judge.core` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tcelab.judge.laws import (
    charges,
    difference,
    disk,
    evidence,
    hypercalls,
    inventory,
    isolation,
    kernel,
    memory,
    outcome,
    pins,
    refusals,
    table,
    tag,
    views,
)
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading
from tcelab.run.record import Outcome, Step

ALL: Final = (
    outcome.LAW,
    inventory.LAW,
    table.LAW,
    hypercalls.LAW,
    views.LAW,
    tag.LAW,
    memory.LAW,
    disk.LAW,
    refusals.LAW,
    isolation.LAW,
    charges.LAW,
    pins.LAW,
    kernel.LAW,
    difference.LAW,
    evidence.LAW,
)
"""In the order of results."""

LAWS: Final = {law.name: law.says for law in ALL}
"""Name of each law and what it says."""

OPERATION_LAWS: Final[Collection[Callable[[Ledger, Fold, Step, Outcome], None]]] = (
    outcome.outcome,
    inventory.reports,
)

CHECKPOINT_LAWS: Final[Collection[Callable[[Ledger, Fold, TableReading], None]]] = (
    inventory.inventory,
    views.views,
    table.table,
    tag.tag,
    memory.memory,
    refusals.refusals,
    kernel.kernel,
    disk.disk,
)
"""In this order: a law tells those after it what it found."""
