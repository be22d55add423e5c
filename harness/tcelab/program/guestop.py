"""What all operations of the guest share."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from tcelab.program.hostops import _Op


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A symbolic address: `plus` bytes into IOMMU page (4 KiB) number `index` of a buffer."""

    buffer: str
    index: int = 0
    plus: int = 0


Word: TypeAlias = int | str | Page
"""A number; the name of a file or device; or a place in a buffer."""


class _GuestOp(_Op, frozen=True, kw_only=True):
    """:ivar by: The process that performs it, by the name from its `spawn`; "": the agent itself."""

    by: str = ""
