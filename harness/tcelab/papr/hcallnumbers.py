"""The numbers of the four TCE hypercalls: opcodes and statuses.

Source: QEMU include/hw/ppc/spapr.h. The opcodes are those that the agent makes calls by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tceagent import hcalls

NAMES: Final[Mapping[str, int]] = hcalls.OPCODES
H_GET_TCE: Final = NAMES["H_GET_TCE"]
H_PUT_TCE: Final = NAMES["H_PUT_TCE"]
H_STUFF_TCE: Final = NAMES["H_STUFF_TCE"]
H_PUT_TCE_INDIRECT: Final = NAMES["H_PUT_TCE_INDIRECT"]
OPCODES: Final = (H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT)

H_SUCCESS: Final = 0
H_FUNCTION: Final = -2
H_PRIVILEGE: Final = -3
H_PARAMETER: Final = -4
H_RESOURCE: Final = -16
H_NOT_ENOUGH_RESOURCES: Final = -44

STATUS_NAMES: Final[Mapping[int, str]] = {
    H_SUCCESS: "H_SUCCESS",
    H_FUNCTION: "H_FUNCTION",
    H_PRIVILEGE: "H_PRIVILEGE",
    H_PARAMETER: "H_PARAMETER",
    H_RESOURCE: "H_RESOURCE",
    H_NOT_ENOUGH_RESOURCES: "H_NOT_ENOUGH_RESOURCES",
}

LIST_PAGE: Final = 4096
"""Bytes: what the list of H_PUT_TCE_INDIRECT is aligned to, whatever the window's pages are."""

LIST_MOST: Final = 512
"""Entries of that list."""
