"""What containers charge a process for.

Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable and tce_iommu_create_table: whole CPU pages, of whoever
enabled the container (tce_iommu_mm_set).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tcelab.judge.files import Group
from tcelab.run import Facts

SPAPR_TCE: Final = 2
"""VFIO_SPAPR_TCE_IOMMU: the container type whose charges we know."""
NO_TABLE_CHARGE: Final = {"seed2013"}
"""Profiles of the driver that do not charge for a window's table."""


def charged(groups: Iterable[Group], facts: Facts, process: str) -> int | None:
    """KiB of locked memory, None when a container is not of type v1."""
    total = 0
    for group in groups:
        container = group.container
        if container is None or container.kind is None:
            continue
        if container.kind != SPAPR_TCE:
            return None
        if container.payer != process:
            continue
        total += group.phb.window_size // facts.page_size if container.enabled else 0
        if container.made and facts.profile not in NO_TABLE_CHARGE:
            total += group.table.entries * 8 // facts.page_size
    return total * facts.page_size // 1024
