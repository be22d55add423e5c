"""A PE between a driver of the kernel's DMA API and VFIO: what each of them finds of the other (Linux 6.12)."""

from __future__ import annotations

from typing import Final

from rows.row import PAGE, PE2, Ops, Right, Row, call, closing, enabled, look, opened, set_container
from tcelab.program import Bind, DmaBind, DmaMap, DmaMask, DmaUnbind, DmaUnmap, Page

PSERIES: Final = "arch/powerpc/platforms/pseries/iommu.c"
TAKE: Final = f"{PSERIES}, spapr_tce_take_ownership"
RELEASE: Final = f"{PSERIES}, spapr_tce_release_ownership, pseries_setup_default_iommu_config"
BOTH: Final = ("g2", "c2")
AGAIN: Final[Ops] = (Bind(device="pe2", expect="ok"),)


def driver(name: str, *, bits: int = 32) -> Ops:
    """The driver has pe2, and one page mapped, for reading."""
    return (
        DmaBind(device="pe2", expect="ok"),
        DmaMask(device="pe2", bits=bits, expect="ok"),
        DmaMap(device="pe2", name=name, page=Page("m", 3), size=8, direction="to-device", expect="ok"),
    )


def let_go(name: str) -> Ops:
    return (DmaUnmap(name=name, expect="ok"), DmaUnbind(device="pe2", expect="ok"), *AGAIN)


def mapped(entry: int, page: int) -> Ops:
    return (call("MAP_DMA", file="c2", flags=3, vaddr=Page("m", page), iova=entry * PAGE, size=PAGE),)


def after_a_narrow_mask(expect: str) -> Ops:
    """A driver's mask is one for which firmware has no window, and VFIO asks for its default one after that."""
    return (
        DmaBind(device="pe2", expect="ok"),
        DmaMask(device="pe2", bits=40, expect="ok"),
        DmaUnbind(device="pe2", expect="ok"),
        *AGAIN,
        *enabled(2),
        call("MAP_DMA", expect, file="c2", flags=3, vaddr=Page("m"), iova=0, size=PAGE),
        *closing(*BOTH),
    )


ROWS: Final = (
    Row(
        "VFIO finds nothing of a driver that has let go of its device",
        TAKE,
        (
            *driver("hand-1"),
            *let_go("hand-1"),
            *opened(2),
            set_container(pe=2, container="c2"),
            look(),
            *closing(*BOTH),
        ),
        tables={},
    ),
    Row(
        "VFIO maps where a driver has mapped before",
        TAKE,
        (*driver("hand-2"), *let_go("hand-2"), *enabled(2), *mapped(1, 5), look(), *closing(*BOTH)),
        tables={PE2: ((PAGE, "m", 5, 3),)},
    ),
    Row(
        "A driver finds nothing of what VFIO's user left mapped, and its handles begin anew",
        RELEASE,
        (*enabled(2), *mapped(0, 1), *mapped(9, 2), *closing(*BOTH), *driver("hand-3"), look(), *let_go("hand-3")),
        tables={PE2: ((PAGE, "m", 3, 1),)},
    ),
    Row(
        "A PE goes to VFIO and back twice",
        RELEASE,
        (
            *(*enabled(2), *mapped(1, 1), *closing(*BOTH), *driver("hand-4"), *let_go("hand-4")),
            *(*enabled(2), *mapped(1, 2), *closing(*BOTH), *driver("hand-5"), look(), *let_go("hand-5")),
        ),
        tables={PE2: ((PAGE, "m", 3, 1),)},
    ),
    Row(
        "The window of all RAM goes when VFIO takes the PE",
        f"{TAKE}, remove_dynamic_dma_windows",
        (
            DmaBind(device="pe2", expect="ok"),
            DmaMask(device="pe2", bits=64, expect="ok"),
            DmaUnbind(device="pe2", expect="ok"),
            *AGAIN,
            *opened(2),
            set_container(pe=2, container="c2"),
            look(),
            *closing(*BOTH),
        ),
        topology="dma-api",
        tables={},
    ),
    Row(
        "A mask of 64 bits after VFIO has the window of all RAM made again",
        f"{PSERIES}, enable_ddw",
        (
            DmaBind(device="pe2", expect="ok"),
            DmaMask(device="pe2", bits=64, expect="ok"),
            DmaUnbind(device="pe2", expect="ok"),
            *AGAIN,
            *enabled(2),
            *closing(*BOTH),
            DmaBind(device="pe2", expect="ok"),
            DmaMask(device="pe2", bits=64, expect="ok"),
            *(DmaUnbind(device="pe2", expect="ok"), *AGAIN),
        ),
        topology="dma-api",
    ),
    Row(
        "A driver's mask for which there is no window leaves none for VFIO, not even the default one",
        f"{PSERIES}, enable_ddw and spapr_tce_create_table: failed_ddw_pdn_list",
        after_a_narrow_mask("ENODEV"),
        quirk="refused-window-spoils-pe",
        right=Right(after_a_narrow_mask("ok")),
        topology="dma-api",
        ends="dirty",
    ),
)
