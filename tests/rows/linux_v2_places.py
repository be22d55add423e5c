"""The driver today, a container of type v2: which window takes the place of the low one once that is removed."""

from __future__ import annotations

from typing import Final

from rows.row import (
    PAGE,
    TABLE_KIB,
    Expect,
    Ops,
    Right,
    Row,
    charged,
    child,
    closed,
    ended,
    look,
    mapping,
)
from rows.v2_words import HIGH, M_KIB, PE1_HIGH, WINDOW, create, joined, register, remove
from tcelab.program import Buffer, Page

CREATE_TABLE: Final = "arch/powerpc/platforms/pseries/iommu.c, spapr_tce_create_table"
BIG: Final = 1 << 28
"""Bytes of a window that is no default one, and whose table has 512 KiB with pages of 4 KiB, 32 with pages of 64."""
BIG_KIB: Final = 512
M16_KIB: Final = 16
"""What is registered by a process of its own."""


def own(process: str) -> Ops:
    """A container of a process of its own, with some memory."""
    m = f"{process}-m"
    return (
        *joined(),
        child(process),
        Buffer(name=m, pages=4, expect="ok", by=process),
        register(Page(m), 4, by=process),
    )


def beside(process: str, *left: int) -> Ops:
    """A low window is removed beside a high one: no other comes in its place, and what is mapped stays mapped.

    :param left: KiB that are charged after the first and the second refusal, and after the low window is made anew.
    """
    m = f"{process}-m"
    return (
        *own(process),
        create(by=process),
        mapping(HIGH, vaddr=Page(m), by=process),
        remove(0, by=process),
        create(expect="EPERM", by=process),
        charged(left[0], by=process),
        create(16, BIG, "EPERM", by=process),
        charged(left[1], by=process),
        mapping(HIGH + PAGE, vaddr=Page(m), by=process),
        remove(HIGH, by=process),
        create(by=process),
        mapping(0, vaddr=Page(m), by=process),
        charged(left[2], by=process),
        ended(process),
        *closed(),
    )


def alone(process: str, expect: Expect, left: int) -> Ops:
    """A high window has the place of the low one: firmware has none left for a second window, and the PE is spoilt."""
    return (
        *own(process),
        remove(0, by=process),
        create(16, BIG, by=process),
        create(expect="ENODEV", by=process),
        mapping(0, vaddr=Page(f"{process}-m"), expect="ENXIO", by=process),
        remove(HIGH, by=process),
        create(expect=expect, by=process),
        charged(left, by=process),
        ended(process),
        *closed(),
    )


ROWS: Final = (
    Row(
        "what is no default window lies at 2^59, though the low one was cancelled",
        f"{WINDOW}; {CREATE_TABLE}, is_default_window_request",
        (
            *joined(),
            register(),
            remove(0),
            create(12, BIG),
            mapping(0, expect="ENXIO"),
            mapping(HIGH + PAGE, 2),
            charged(M_KIB + BIG_KIB),
            look(),
            *closed(),
        ),
        tables={PE1_HIGH: ((HIGH + PAGE, "m", 0, 3), (HIGH + 2 * PAGE, "m", 1, 3))},
        says={"start_addr": HIGH},
    ),
    Row(
        "a larger window may follow once the one before is removed, and lies in the same place",
        f"{WINDOW}; {CREATE_TABLE}",
        (
            *joined(),
            register(),
            mapping(0),
            remove(0),
            create(16, BIG),
            remove(HIGH),
            create(12, 2 * BIG),
            mapping(HIGH + 2 * BIG - PAGE),
            charged(M_KIB + 2 * BIG_KIB),
            remove(HIGH),
            create(),
            mapping(0),
            charged(M_KIB + TABLE_KIB),
            *closed(),
        ),
        says={"start_addr": 0},
    ),
    Row(
        "beside a window of 64 bits, none takes the place of the low one that was removed",
        f"{CREATE_TABLE}, find_existing_ddw",
        beside("v2-22", M16_KIB + 2 * TABLE_KIB, M16_KIB + 3 * TABLE_KIB, M16_KIB + 3 * TABLE_KIB),
        quirk="failed-create-keeps-charge",
        right=Right(beside("v2-22", *(3 * [M16_KIB + TABLE_KIB]))),
        ends="dirty",
    ),
    Row(
        "a window of 64 bits in the place of the low one is the only one: firmware counts the low one all the same",
        f"{CREATE_TABLE}, create_ddw; QEMU hw/ppc/spapr_rtas_ddw.c, rtas_ibm_create_pe_dma_window",
        alone("v2-23", "ENODEV", M16_KIB + 2 * TABLE_KIB),
        quirk="refused-window-spoils-pe",
        right=Right(alone("v2-23", "ok", M16_KIB + TABLE_KIB)),
        ends="dirty",
    ),
)
