"""The sPAPR TCE driver of Linux 6.12, containers of type v2, on pSeries."""

from __future__ import annotations

from typing import Final

from rows import linux_v2_defects, linux_v2_groups, linux_v2_memory, linux_v2_places, linux_v2_windows

ROWS: Final = (
    *linux_v2_memory.ROWS,
    *linux_v2_windows.ROWS,
    *linux_v2_defects.ROWS,
    *linux_v2_groups.ROWS,
    *linux_v2_places.ROWS,
)
