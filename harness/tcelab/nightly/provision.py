"""Images, QEMUs and mutants, built before the first cell: one that cannot be had costs its own cells, not the night."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from tcelab import image
from tcelab.errors import Interrupted, TcelabError
from tcelab.image import mutants
from tcelab.logs import NOTE
from tcelab.nightly.plan import PlannedCell

_LOG: Final = logging.getLogger(__name__)

Need = tuple[str, str]
"""What, and its name: `("image", "guest")`."""


def needs(planned: PlannedCell) -> list[Need]:
    """What must be there before a cell begins."""
    cell = planned.cell
    mutant = [("mutant", f"{cell.image} {cell.mutant}")] if cell.mutant and cell.image else []
    return [*planned.recipes.items(), *mutant]


def provision(cells: Iterable[PlannedCell]) -> dict[Need, str]:
    """Build what is missing; of what could not be had, the reason."""
    wanted = dict.fromkeys(need for each in cells for need in needs(each))
    missing: dict[Need, str] = {}
    for need in sorted(wanted, key=lambda need: need[0] == "mutant"):
        try:
            _ensure(*need)
        except Interrupted:
            raise
        except TcelabError as error:
            what, name = need
            missing[need] = f"no {what} {name}: {error.message}"
            _LOG.warning("%s", missing[need], extra=NOTE)
    return missing


def _ensure(what: str, name: str) -> None:
    if what == "qemu":
        image.ensure_qemu(name)
    elif what == "image":
        image.ensure_guest(name)
    else:
        recipe, mutant = name.split()
        mutants.build(mutant, recipe, image.ensure_guest(recipe).manifest)
