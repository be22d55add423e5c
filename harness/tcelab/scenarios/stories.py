"""The stories of the scenario `isolation`, by the label of the checkpoint that ends each: what the report counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tcelab.program.lengths import LENGTHS
from tcelab.scenarios.violations import KINDS

FURTHER: Final = {
    "folded address": 0,
    "two at once": 2,
    "obstinate driver": 1,
    "driver that left": 1,
    "given up": 1,
    "legal transfers": 0,
    **dict.fromkeys(LENGTHS, 1),
}
"""Stories other than single violations, and how many isolations each causes."""

KNOWN: Final = (*KINDS, *FURTHER)
"""All kinds, in the order of the report."""

_LABEL: Final = re.compile(r"isolation: ([^:]+): ([^:]+)(?:: (read|write) of (\d+) bytes)?")


@dataclass(frozen=True, slots=True)
class Story:
    """One of them: `kind` of `KINDS`, with direction and bytes, or of `FURTHER`.

    :ivar who: the device, or the PEs that it is about.
    """

    kind: str
    who: str
    direction: str = ""
    size: int = 0

    def __str__(self) -> str:
        what = f": {self.direction} of {self.size} bytes" if self.direction else ""
        return f"isolation: {self.kind}: {self.who}{what}"

    @property
    def isolations(self) -> int:
        """Isolations that it must cause."""
        return FURTHER.get(self.kind, 1)


def parse(label: str) -> Story | None:
    """The story that ends with a checkpoint of that label; None if there is none."""
    found = _LABEL.fullmatch(label)
    if found is None or found[1] not in (KINDS if found[3] else FURTHER):
        return None
    return Story(found[1], found[2], found[3] or "", int(found[4] or 0))
