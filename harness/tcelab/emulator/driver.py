"""A driver as a table: for each request, what is checked, in which order, and what each failure returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tcelab.emulator.checks import Request
from tcelab.emulator.spapr_tce import SpaprTce
from tcelab.emulator.spapr_tce_2013 import Seed


@dataclass(frozen=True)
class Profile:
    """A driver: its requests by VFIO's number, and what any other gives.

    :ivar extensions: container types to which CHECK_EXTENSION says 1.
    :ivar opens: container types that SET_IOMMU can make with this profile.
    :ivar driver: what it makes.
    :ivar gives_back: a PE that leaves its container is the platform's again, with an empty default window alone.
    """

    name: str
    requests: Mapping[int, Request]
    otherwise: Request
    extensions: frozenset[int]
    opens: frozenset[int]
    driver: type[SpaprTce | Seed]
    gives_back: bool = True
