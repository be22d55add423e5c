"""The driver today, a container of type v2: where memory and charges are lost."""

from __future__ import annotations

from typing import Final

from rows import row
from rows.row import (
    DRIVER,
    PAGE,
    TABLE_KIB,
    WINDOW_KIB,
    Expect,
    Ops,
    Right,
    Row,
    charged,
    child,
    closed,
    closing,
    edge,
    enable,
    ended,
    mapping,
    opened,
    set_container,
    set_iommu,
    unmapping,
)
from rows.v2_words import (
    ALLOC,
    CREATE,
    HIGH,
    OFF,
    PE1_HIGH,
    SIZE,
    V2,
    create,
    joined,
    on_joined,
    register,
    remove,
    unregister,
)
from tcelab.program import Buffer, Close, Ddw, Ioctl, Page, Read

M_KIB: Final = 16
"""What is registered here: four pages."""
PAGE_KIB: Final = 4
DDW: Final = "arch/powerpc/platforms/pseries/iommu.c"
TAKEN: Final = Ddw(call="create", device="pe1", page_shift=16, window_shift=28, expect="ok")
"""Somebody else has the last window."""
GIVEN_BACK: Final = Ddw(call="remove", device="pe1", liobn=PE1_HIGH, expect="ok")
CONTEXT: Final = "WARNING: .*destroy_context"
PREREG: Final = "WARNING: .*tce_iommu_release"


def in_use(process: str, first: Expect, second: Expect, last: Expect, left: int | None) -> Ops:
    """Memory is unregistered that an entry leads to, again, and again when none does: `left` KiB are charged then."""
    m = f"{process}-m"
    return (
        *joined(),
        child(process),
        Buffer(name=m, pages=4, expect="ok", by=process),
        register(Page(m), 4, by=process),
        mapping(0, vaddr=Page(m), by=process),
        unregister(Page(m), 4, first, by=process),
        charged(M_KIB + TABLE_KIB, by=process),
        unregister(Page(m), 4, second, by=process),
        mapping(PAGE, vaddr=Page(m, 3), by=process),
        unmapping(0, 2, by=process),
        unregister(Page(m), 4, last, by=process),
        charged(left, by=process),
        ended(process),
        *closed(),
    )


def not_made(process: str, *left: int | None) -> Ops:
    """Windows that cannot be made, for three reasons: after each, `left` KiB are charged in all.

    Tables of more levels count 0xffffffff bytes, whole pages of which are charged; the others 8 bytes for each page.
    """
    asked = (
        create(levels=2, expect="EINVAL", by=process),
        create(size=3 * SIZE, expect="EINVAL", by=process),
        create(expect="ENODEV", by=process),
    )
    # The first of them has made the default window, so what firmware makes of its own accord stays.
    before = ((), (), (TAKEN,))
    after = (charged(kib, by=process) for kib in left)
    story = (each for taken, op, look in zip(before, asked, after, strict=True) for each in (*taken, op, look))
    return (*joined(), child(process), *story, GIVEN_BACK, ended(process), *closed())


def spoilt(first: str, second: str, expect: Expect, left: int | None) -> Ops:
    """Firmware has no window left, and then it has one again. Afterwards windows are asked for by the same container,
    by one of type v1, to which then `left` KiB are charged, and for another PE.
    """
    m = f"{second}-m"
    return (
        *joined(),
        child(first),
        create(by=first),
        remove(HIGH, by=first),
        TAKEN,
        create(expect="ENODEV", by=first),
        GIVEN_BACK,
        create(13, expect="EINVAL", by=first),
        create(size=3 * SIZE, expect="EINVAL", by=first),
        create(expect=expect, by=first),
        ended(first),
        *closed(),
        *row.joined(),
        child(second),
        Buffer(name=m, pages=1, expect="ok", by=second),
        enable(by=second),
        mapping(0, vaddr=Page(m), expect=expect, by=second),
        charged(left, by=second),
        unmapping(0, expect=expect, by=second),
        ended(second),
        *closed(),
        *opened(2),
        set_container(pe=2, container="c2"),
        set_iommu(pe=2, kind=V2),
        Ioctl(
            file="c2",
            request="SPAPR_TCE_CREATE",
            fields={"page_shift": 12, "window_size": SIZE, "levels": 1},
            expect="ok",
        ),
        *closed("g2", "c2"),
    )


def both_joined() -> Ops:
    """Two containers of type v2, each with a PE of its own."""
    joins = (set_container(), set_container(pe=2, container="c2"))
    return (*opened(), *opened(2), *joins, *(set_iommu(pe=pe, kind=V2) for pe in (1, 2)))


def register_too(vaddr: Page, pages: int, *, by: str = "") -> Ioctl:
    """With the second container."""
    fields = {"vaddr": vaddr, "size": pages * PAGE}
    return Ioctl(file="c2", request="SPAPR_REGISTER_MEMORY", fields=fields, expect="ok", by=by)


def closed_first(process: str, left: int | None) -> Ops:
    """A container is closed whose memory the other one has mapped."""
    m, own = f"{process}-m", f"{process}-own"
    return (
        *both_joined(),
        child(process),
        *closing("g", "c"),
        Buffer(name=m, pages=4, expect="ok", by=process),
        Buffer(name=own, pages=1, expect="ok", by=process),
        register(Page(m), 4, by=process),
        register_too(Page(own), 1, by=process),
        mapping(0, vaddr=Page(m), pe=2, by=process),
        Close(file="g", expect="ok", by=process),
        Close(file="c", expect="ok", by=process),
        charged(M_KIB + PAGE_KIB + TABLE_KIB, by=process),
        Read(what="pins", expect="ok"),
        *closing("g2", "c2"),
        Close(file="g2", expect="ok", by=process),
        Close(file="c2", expect="ok", by=process),
        charged(left, by=process),
        Read(what="pins", expect="ok"),
        ended(process),
    )


def nothing(expect: Expect) -> Ops:
    """No bytes are registered, twice."""
    return (*joined(), register(pages=0, expect=expect), register(0, 0, expect), charged(0), *closed())


def in_part(expect: Expect) -> Ops:
    """What begins in a buffer and ends behind it, where no memory is, or none that can be written."""
    return (*joined(), register(edge(3), 4, expect), register(Page("ro"), 1, "EFAULT"), charged(0), *closed())


def below_a_page(expect: Expect, left: int | None) -> Ops:
    """A default window of half a page is asked for, where there is none; no map, and no removal, finds it. A table of
    no bytes at all is never made.
    """
    return (
        *joined(),
        register(),
        remove(0),
        create(size=PAGE // 16, expect="EINVAL"),
        create(size=PAGE // 2, expect=expect),
        charged(256),
        mapping(0, expect="ENXIO"),
        remove(0, "EINVAL"),
        create(),
        charged(left),
        *closed(),
    )


ROWS: Final = (
    Row(
        "memory in use is unregistered, but stays pinned and charged, and nobody gets it back",
        f"{OFF}, the second mm_iommu_put; arch/powerpc/mm/book3s64/mmu_context.c, destroy_context",
        in_use("v2-11", "ok", "ENOENT", "ENOENT", M_KIB + TABLE_KIB),
        quirk="unregister-in-use-succeeds",
        right=Right(in_use("v2-11", "EBUSY", "EBUSY", "ok", TABLE_KIB)),
        log=CONTEXT,
        ends="dirty",
    ),
    Row(
        "memory that is registered with two containers stays with the second one, mapped or not",
        f"{OFF}, mm_iommu_put: used",
        (
            *both_joined(),
            register(),
            register_too(Page("m"), 64),
            charged(256),
            mapping(0),
            unregister(),
            charged(256 + TABLE_KIB),
            unmapping(0),
            *closing("g", "c"),
            charged(256),
            *closed("g2", "c2"),
        ),
    ),
    Row(
        "memory of a container that is closed stays pinned for good if another one has mapped it",
        f"{DRIVER}, tce_iommu_release, WARN_ON(tce_iommu_prereg_free())",
        closed_first("v2-13", M_KIB),
        quirk="close-strands-memory",
        right=Right(closed_first("v2-13", 0)),
        log=PREREG,
        ends="dirty",
    ),
    Row(
        "no memory at all is not registered, and the kernel warns of it",
        f"{ALLOC}, vzalloc; mm/vmalloc.c, __vmalloc_node_range, WARN_ON_ONCE(!size)",
        nothing("ENOMEM"),
        quirk="register-nothing-warns",
        right=Right(nothing("EINVAL")),
        log="WARNING: .*__vmalloc_node_range",
        ends="dirty",
    ),
    Row(
        "memory of which only the first pages are there is not registered, and as many are returned",
        f"{ALLOC}, pin_user_pages: ret > 0",
        in_part(3),
        quirk="register-part-returns-pages",
        right=Right(in_part("EFAULT")),
    ),
    Row(
        "a window that is not made keeps the charge for its table",
        f"{CREATE}; {DRIVER}, tce_iommu_create_table, account_locked_vm before create_table",
        not_made("v2-12", 4194332, 4194428, 4194460),
        quirk="failed-create-keeps-charge",
        right=Right(not_made("v2-12", *(3 * [TABLE_KIB]))),
        ends="dirty",
    ),
    Row(
        "a default window of less than a page is made, without an entry, stays, and the kernel warns of it",
        f"{DDW}, spapr_tce_create_table: iommu_init_table; mm/vmalloc.c, __vmalloc_node_range, WARN_ON_ONCE(!size)",
        below_a_page("ok", 256 + TABLE_KIB),
        quirk="window-below-page-is-made",
        right=Right(below_a_page("EINVAL", 256 + TABLE_KIB)),
        log="WARNING: .*__vmalloc_node_range",
        ends="dirty",
    ),
    Row(
        "no second window is smaller than its pages, though its table would have some bytes",
        f"{DDW}, spapr_tce_get_table_size; spapr_tce_create_table, query.largest_available_block",
        on_joined(
            create(size=PAGE // 2, expect="EINVAL"),
            create(16, PAGE * 2, "EINVAL"),
            create(24, PAGE // 2, "EINVAL"),
            create(16),
            charged(TABLE_KIB),
        ),
    ),
    Row(
        "a PE for which firmware did not make a window gets none until the next boot, another one does",
        f"{DDW}, spapr_tce_create_table: failed_ddw_pdn_list before everything but the shape of the table",
        spoilt("v2-14", "v2-15", "ENODEV", WINDOW_KIB + TABLE_KIB),
        quirk="refused-window-spoils-pe",
        right=Right(spoilt("v2-14", "v2-15", "ok", WINDOW_KIB + TABLE_KIB)),
        ends="dirty",
    ),
)
