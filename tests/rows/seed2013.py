"""The sPAPR TCE driver as it was proposed in May 2013, in front of arch/powerpc/kernel/iommu.c of that time."""

from __future__ import annotations

from typing import Final

from rows import seed2013_charge, seed2013_group, seed2013_info, seed2013_map, seed2013_unmap

ROWS: Final = (
    *seed2013_info.ROWS,
    *seed2013_group.ROWS,
    *seed2013_map.ROWS,
    *seed2013_unmap.ROWS,
    *seed2013_charge.ROWS,
)
