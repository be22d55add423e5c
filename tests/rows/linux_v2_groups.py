"""The driver today, a container of type v2: several groups, which on pSeries share no table."""

from __future__ import annotations

from typing import Final

from rows import row
from rows.row import (
    DRIVER,
    PAGE,
    PE1,
    PE2,
    TABLE,
    TABLE_KIB,
    Ops,
    Right,
    Row,
    call,
    charged,
    child,
    closed,
    closing,
    ended,
    look,
    mapping,
    open_container,
    opened,
    set_container,
    set_iommu,
    unmapping,
    unset_container,
)
from rows.row import open_group as opened_group
from rows.v2_words import (
    CREATE,
    HIGH,
    M_KIB,
    REMOVE,
    V2,
    WINDOW,
    create,
    joined,
    register,
    remove,
)
from tcelab.program import Buffer, Call, Ddw, Hcall, Ioctl, Page, Tce

ATTACH: Final = f"{DRIVER}, tce_iommu_attach_group"
SET_WINDOW: Final = "arch/powerpc/platforms/pseries/iommu.c, spapr_tce_set_window"
CORE: Final = "drivers/vfio/container.c, vfio_container_attach_group"
RELEASE: Final = (
    f"{CORE}, iommu_group_release_dma_owner; arch/powerpc/platforms/pseries/iommu.c, restore_default_dma_window"
)
BIG: Final = 1 << 28
"""Bytes of a window that is no default one."""
BOTH: Final = ("g", "g2", "c")


def second(expect: str = "ok") -> Ioctl:
    """The group of pe2 joins the container of pe1."""
    return set_container(expect, pe=2, container="c")


def late() -> Ops:
    """A container of type v2 with both groups, of which the second one came after its type."""
    return (*joined(), opened_group(2), second())


def early() -> Ops:
    """A container with both groups before it is of type v2."""
    return (*opened(), opened_group(2), set_container(), second(), set_iommu(kind=V2))


def stored(liobn: int, ioba: int, page: int, expect: int = 0) -> Hcall:
    """An entry by a hypercall, of which the driver knows nothing: it stays as long as the platform's table does.

    :param expect: -4, H_PARAMETER: there is no such window.
    """
    return Hcall(call=Call("H_PUT_TCE", [liobn, ioba, Tce("m", page)]), expect=expect)


STATUS: Final = call("GROUP_GET_STATUS", file="g2")


def spoilt(expect: str) -> Ops:
    """Firmware has no window for pe2, whose group came last, and then it has one again."""
    return (
        *late(),
        register(),
        remove(0),
        Ddw(call="create", device="pe2", page_shift=16, window_shift=28, expect="ok"),
        create(16, BIG, "ENODEV"),
        Ddw(call="remove", device="pe2", liobn=PE2 | 1, expect="ok"),
        create(expect=expect),
        unset_container(pe=2),
        create(),
        mapping(0),
        look(),
        *closing(*BOTH),
    )


JOINS: Final = (
    Row(
        "a second group joins a container of type v2 that has no window",
        f"{ATTACH}; {CORE}",
        (*late(), STATUS, *closed(*BOTH)),
        says={"flags": 3},
    ),
    Row(
        "a container with a window takes no second group, whichever window it is",
        f"{ATTACH}, tce_iommu_take_ownership; {SET_WINDOW}",
        (
            *joined(),
            opened_group(2),
            register(),
            create(16, BIG),
            second("EPERM"),
            remove(0),
            second("EPERM"),
            mapping(HIGH, 16, expect="EINVAL"),
            remove(HIGH),
            second(),
            mapping(0, expect="ENXIO"),
            charged(M_KIB),
            *closed(*BOTH),
        ),
    ),
    Row(
        "a group that a container does not take has none, and may join another one",
        f"{ATTACH}, tce_iommu_take_ownership; {CORE}",
        (
            *joined(),
            opened_group(2),
            register(),
            mapping(0),
            second("EPERM"),
            unset_container("EINVAL", pe=2),
            open_container(2),
            set_container(pe=2, container="c2"),
            set_iommu(pe=2, kind=V2),
            mapping(PAGE),
            STATUS,
            look(),
            *closed("g", "g2", "c", "c2"),
        ),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 0, 3))},
        says={"flags": 3},
    ),
    Row(
        "a PE whose group a container does not take goes back to the platform, which empties its table",
        RELEASE,
        (
            *joined(),
            opened_group(2),
            register(),
            mapping(0),
            stored(PE2, 5 * PAGE, 5),
            second("EPERM"),
            look(),
            *closed(*BOTH),
        ),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "a container of type v1 that does not take a second group gives its PE back as well",
        RELEASE,
        (*row.joined(), opened_group(2), stored(PE2, 5 * PAGE, 5), second("EBUSY"), look(), *closed(*BOTH)),
        tables={},
    ),
)

TOGETHER: Final = (
    Row(
        "a container with two groups gets no window: MAP, UNMAP and CREATE are EPERM, and nothing is charged",
        f"{WINDOW}, unset_exit; {SET_WINDOW}",
        (
            *late(),
            register(),
            mapping(0, expect="EPERM"),
            unmapping(0, expect="EPERM"),
            create(expect="EPERM"),
            create(16, BIG, "EPERM"),
            mapping(HIGH, expect="EPERM"),
            charged(M_KIB),
            look(),
            *closed(*BOTH),
        ),
        tables={},
    ),
    Row(
        "what is wrong with the struct is said first",
        f"{CREATE}; {DRIVER}, tce_iommu_ioctl, VFIO_IOMMU_MAP_DMA",
        (
            *late(),
            mapping(0, expect="EPERM"),
            register(),
            mapping(0, expect="EINVAL", argsz=31),
            mapping(0, expect="EINVAL", flags=4),
            create(expect="EINVAL", flags=1),
            mapping(0, 1, Page("m", 0, 1), "EPERM"),
            mapping(0, expect="EPERM", flags=0),
            create(13, expect="EPERM"),
            charged(M_KIB),
            *closed(*BOTH),
        ),
    ),
    Row(
        "the window is made for the group that came last, and in vain: its table is emptied, the other one is not",
        f"{WINDOW}, list_first_entry; {ATTACH}, list_add",
        (
            *late(),
            register(),
            stored(PE1, 5 * PAGE, 5),
            stored(PE2, 6 * PAGE, 6),
            mapping(0, expect="EPERM"),
            look(),
            *closed(*BOTH),
        ),
        tables={PE1: ((5 * PAGE, "m", 5, 3),)},
    ),
    Row(
        "of groups that joined before the type, the first one comes last",
        "drivers/vfio/container.c, vfio_container_attach_group, list_add, and __vfio_container_attach_groups",
        (
            *early(),
            register(),
            stored(PE1, 5 * PAGE, 5),
            stored(PE2, 6 * PAGE, 6),
            unmapping(0, expect="EPERM"),
            look(),
            *closed(*BOTH),
        ),
        tables={PE2: ((6 * PAGE, "m", 6, 3),)},
    ),
    Row(
        "GET_INFO is of the group that came last",
        f"{DRIVER}, tce_iommu_ioctl, VFIO_IOMMU_SPAPR_TCE_GET_INFO, list_first_entry",
        (*late(), call("SPAPR_TCE_GET_INFO"), *closed(*BOTH)),
        topology="high-window",
        says={"flags": 1, "dma32_window_start": 0, "dma32_window_size": 16 << 20},
    ),
    Row(
        "GET_INFO is of the group that joined first, if all joined before the type",
        f"{DRIVER}, tce_iommu_ioctl, VFIO_IOMMU_SPAPR_TCE_GET_INFO, list_first_entry",
        (*early(), call("SPAPR_TCE_GET_INFO"), *closed(*BOTH)),
        topology="high-window",
        says={"flags": 1, "dma32_window_start": row.HIGH, "dma32_window_size": 16 << 20},
    ),
    Row(
        "a default window that is cancelled is not tried again, and any other is not made either",
        f"{REMOVE}, def_window_pending; {WINDOW}, unset_exit",
        (
            *late(),
            register(),
            remove(0),
            remove(0, "EINVAL"),
            mapping(0, expect="ENXIO"),
            stored(PE2, 6 * PAGE, 6),
            create(expect="EPERM"),
            stored(PE2, 7 * PAGE, 7),
            create(16, expect="EPERM"),
            create(12, BIG, "EPERM"),
            remove(HIGH, "EINVAL"),
            mapping(0, expect="ENXIO"),
            charged(M_KIB),
            look(),
            *closed(*BOTH),
        ),
        tables={PE2: ((7 * PAGE, "m", 7, 3),)},
    ),
    Row(
        "what firmware has made beside the default window goes with the window that is made in vain",
        f"{WINDOW}; arch/powerpc/platforms/pseries/iommu.c, restore_default_dma_window",
        (
            *late(),
            register(),
            Ddw(call="create", device="pe2", page_shift=16, window_shift=28, expect="ok"),
            stored(PE2 | 1, HIGH, 7),
            mapping(0, expect="EPERM"),
            stored(PE2 | 1, HIGH, 7, -4),
            *closed(*BOTH),
        ),
    ),
    Row(
        "a process that may not lock the table is told that, and the table is not made",
        f"{DRIVER}, tce_iommu_create_table, account_locked_vm before create_table",
        (
            *late(),
            child("v2-20", uid=65534, memlock=TABLE),
            Buffer(name="v2-20-m", pages=4, expect="ok", by="v2-20"),
            register(Page("v2-20-m"), 4, by="v2-20"),
            stored(PE2, 6 * PAGE, 6),
            mapping(0, vaddr=Page("v2-20-m"), expect="ENOMEM", by="v2-20"),
            create(expect="ENOMEM", by="v2-20"),
            charged(16, by="v2-20"),
            look(),
            ended("v2-20"),
            *closed(*BOTH),
        ),
        tables={PE2: ((6 * PAGE, "m", 6, 3),)},
    ),
    Row(
        "the container belongs to who asked it for a window, though it got none",
        f"{CREATE}, tce_iommu_mm_set",
        (
            *late(),
            child("v2-21"),
            create(expect="EPERM", by="v2-21"),
            register(expect="EPERM"),
            unset_container(pe=2),
            create(expect="EPERM"),
            ended("v2-21"),
            *closed(*BOTH),
        ),
    ),
)

LEAVES: Final = (
    Row(
        "once the group that came last has left, the other one has the window",
        f"{DRIVER}, tce_iommu_detach_group; {WINDOW}",
        (
            *late(),
            register(),
            mapping(0, expect="EPERM"),
            unset_container(pe=2),
            mapping(0, 2),
            create(16, BIG),
            charged(M_KIB + 2 * TABLE_KIB),
            second("EPERM"),
            look(),
            *closed(*BOTH),
        ),
        tables={PE1: ((0, "m", 0, 3), (PAGE, "m", 1, 3))},
        says={"start_addr": HIGH},
    ),
    Row(
        "once the group that came first has left, the other one has the window",
        f"{DRIVER}, tce_iommu_detach_group; {WINDOW}",
        (
            *late(),
            register(),
            unset_container(),
            mapping(0, 2),
            set_container("EPERM"),
            charged(M_KIB + TABLE_KIB),
            look(),
            *closed(*BOTH),
        ),
        tables={PE2: ((0, "m", 0, 3), (PAGE, "m", 1, 3))},
    ),
    Row(
        "a group that leaves goes back to the platform, which empties its table alone",
        f"drivers/vfio/container.c, vfio_group_detach_container; {DRIVER}, tce_iommu_detach_group",
        (
            *late(),
            stored(PE1, 5 * PAGE, 5),
            stored(PE2, 6 * PAGE, 6),
            unset_container(),
            look(),
            *closed(*BOTH),
        ),
        tables={PE2: ((6 * PAGE, "m", 6, 3),)},
    ),
    Row(
        "memory stays registered until the last group has left, and takes the type along",
        "drivers/vfio/container.c, vfio_group_detach_container; " + f"{DRIVER}, tce_iommu_release",
        (
            *late(),
            register(),
            unset_container(pe=2),
            charged(M_KIB),
            second(),
            unset_container(),
            charged(M_KIB),
            mapping(0),
            unset_container(pe=2),
            charged(0),
            call("SPAPR_TCE_GET_INFO", "EINVAL"),
            set_iommu("EINVAL", kind=V2),
            *closed(*BOTH),
        ),
    ),
)

SPOILT: Final = (
    Row(
        "a window that firmware does not make spoils the PE of the group that came last, and no other",
        "arch/powerpc/platforms/pseries/iommu.c, spapr_tce_create_table: failed_ddw_pdn_list",
        spoilt("ENODEV"),
        quirk="refused-window-spoils-pe",
        right=Right(spoilt("EPERM"), {PE1: ((0, "m", 0, 3),)}),
        tables={PE1: ((0, "m", 0, 3),)},
        ends="dirty",
    ),
)

ROWS: Final = (*JOINS, *TOGETHER, *LEAVES, *SPOILT)
