"""The laws, each in a file of its name.

Laws of operations run on each operation, before it is folded in; laws of checkpoints run on each snapshot. Laws that
keep state or run at another moment (`hypercalls`, `papr`, `doorbells`, `flight`, `isolation`, `charges`, `pins`,
`release`, `difference`, `evidence`) are called by `tcelab.judge.core` directly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tcelab.judge.laws import (
    charges,
    difference,
    disk,
    doorbells,
    evidence,
    flight,
    handles,
    hypercalls,
    inventory,
    isolation,
    kernel,
    memory,
    messages,
    outcome,
    outliving,
    papr,
    pins,
    races,
    refusals,
    release,
    table,
    tag,
    views,
)
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.eventfold import EventFold
from tcelab.judge.models.reading import TableReading
from tcelab.run.record import Outcome, Step

ALL: Final = (
    outcome.LAW,
    inventory.LAW,
    table.LAW,
    outliving.LAW,
    handles.LAW,
    hypercalls.LAW,
    papr.LAW,
    views.LAW,
    messages.LAW,
    doorbells.LAW,
    tag.LAW,
    memory.LAW,
    disk.LAW,
    refusals.LAW,
    flight.LAW,
    races.LAW,
    isolation.LAW,
    charges.LAW,
    pins.LAW,
    release.LAW,
    kernel.LAW,
    difference.LAW,
    evidence.LAW,
)
"""In the order of results."""

LAWS: Final = {law.name: law.says for law in ALL}
"""The sentence of each law, by name."""

OPERATION_LAWS: Final[Collection[Callable[[Ledger, EventFold, Step, Outcome], None]]] = (
    messages.during,
    races.races,
    outcome.outcome,
    inventory.reports,
    inventory.arrivals,
    handles.told,
)

CHECKPOINT_LAWS: Final[Collection[Callable[[Ledger, EventFold, TableReading], None]]] = (
    inventory.inventory,
    views.views,
    outliving.outliving,
    handles.handles,
    table.table,
    tag.tag,
    memory.memory,
    refusals.refusals,
    kernel.kernel,
    disk.disk,
    messages.messages,
)
"""In this order: `views`, `outliving`, `handles`, `table` and `tag` leave in the reading what later laws need."""
