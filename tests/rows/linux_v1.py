"""The sPAPR TCE driver of Linux 6.12, containers of type v1, on pSeries."""

from __future__ import annotations

from typing import Final

from rows import linux_v1_charge, linux_v1_handover, linux_v1_info, linux_v1_map, linux_v1_pages, linux_v1_unmap

ROWS: Final = (
    *linux_v1_info.ROWS,
    *linux_v1_map.ROWS,
    *linux_v1_pages.ROWS,
    *linux_v1_unmap.ROWS,
    *linux_v1_charge.ROWS,
    *linux_v1_handover.ROWS,
)
