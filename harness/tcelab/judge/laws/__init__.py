"""The laws, each in a file of its name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tcelab.judge.laws.inventory import inventory, reports
from tcelab.judge.laws.kernel import kernel
from tcelab.judge.laws.memory import memory
from tcelab.judge.laws.outcome import outcome
from tcelab.judge.laws.refusals import refusals
from tcelab.judge.laws.table import table
from tcelab.judge.laws.tag import tag
from tcelab.judge.laws.views import views
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import Look
from tcelab.run.record import Outcome, Step

OPERATION_LAWS: Final[Collection[Callable[[Ledger, Fold, Step, Outcome], None]]] = (outcome, reports)


RAM_LAWS: Final[Collection[Callable[[Ledger, Fold, Look], None]]] = (tag, memory, refusals, kernel)


TABLE_LAWS: Final[Collection[Callable[[Ledger, Fold, Look], None]]] = (inventory, views, table)
