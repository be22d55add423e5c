"""The table as QEMU saves it with its device state: the sections `spapr_iommu` of a migration stream.

All numbers are big-endian. Source: QEMU migration/savevm.c (section headers and footers), hw/ppc/spapr_iommu.c
(vmstate_spapr_tce_table version 3: liobn, mig_nb_table, bypass, mig_table[], def_win; subsection spapr_iommu_ex with
bus_offset and page_shift, present when they are not 0 and 12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np

from tcelab.errors import HarnessError
from tcelab.run.record import TableView

MAGIC: Final = b"QEVM\0\0\0\x03"
_NAME: Final = b"\x0bspapr_iommu"
_SECTION_FULL: Final = 0x04
_SUBSECTION: Final = 0x05
_FOOTER: Final = 0x7E
_HEADER: Final = struct.Struct(">II")  # instance id, version
_TABLE: Final = struct.Struct(">IIB")  # liobn, number of entries, bypass
_EX_NAME: Final = b"\x0espapr_iommu_ex"
_EX: Final = struct.Struct(">IQI")  # version, bus offset, page shift
_VERSION: Final = 3


def tables(stream: bytes) -> tuple[TableView, ...]:
    """Every TCE table in a stream, in its order; inactive windows have 0 entries.

    :raise HarnessError: not a stream, or a section that is not as above.
    """
    if not stream.startswith(MAGIC):
        raise HarnessError(f"not a QEMU state stream: it begins with {stream[:8].hex()}")
    try:
        return tuple(_sections(stream))
    except (struct.error, ValueError, IndexError) as error:
        raise HarnessError(f"QEMU's state stream is cut off: {error}") from None


def _sections(stream: bytes) -> Iterator[TableView]:
    place = stream.find(_NAME)
    while place >= 0:
        end = place + 1
        if stream[place - 5] == _SECTION_FULL:
            view, end = _section(stream, place)
            yield view
        place = stream.find(_NAME, end)


def _section(stream: bytes, name_at: int) -> tuple[TableView, int]:
    """One section whose name begins at `name_at`; also where it ends."""
    section_id = stream[name_at - 4 : name_at]
    instance, version = _HEADER.unpack_from(stream, name_at + len(_NAME))
    at = name_at + len(_NAME) + _HEADER.size
    liobn, entries, _bypass = _TABLE.unpack_from(stream, at)
    if version != _VERSION or instance != liobn:
        raise HarnessError(f"state stream: LIOBN {liobn:#x} in instance {instance:#x}, version {version} (expected 3)")
    at += _TABLE.size
    words = np.frombuffer(stream, ">u8", entries, at).astype(np.uint64)
    at += entries * 8
    default = bool(stream[at])
    at += 1
    page_shift, bus_offset = 12, 0
    if stream[at] == _SUBSECTION and stream.startswith(_EX_NAME, at + 1):
        _, bus_offset, page_shift = _EX.unpack_from(stream, at + 1 + len(_EX_NAME))
        at += 1 + len(_EX_NAME) + _EX.size
    if stream[at] != _FOOTER or stream[at + 1 : at + 5] != section_id:
        raise HarnessError(f"state stream: the section of LIOBN {liobn:#x} does not end where its fields end")
    index = np.flatnonzero(words).astype(np.uint32)
    return TableView(liobn, "stream", entries, index, words[index], page_shift, bus_offset, default), at + 5
