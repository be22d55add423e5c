"""Programs in which VFIO meets entries that hypercalls stored, or does not find its own any more.

Every pin that is given back was taken by somebody: more would take references from pages that are in use.
"""

from __future__ import annotations

from tcelab.program import Call, Hcall, Ioctl, Op, Open, Page, Program, Tce
from tcelab.program.topology import topology
from tcelab.scenarios import vocabulary as b

SMALL = topology("two-small")
PE = b.pes(SMALL, "u")[0]
LIOBN = PE.phb.liobn
PAGES = 8
V2 = 7
BOTH = 3
MIB = 1 << 20


def put(ioba: int, tce: int | Tce) -> list[Op]:
    return [Hcall(call=Call("H_PUT_TCE", [LIOBN, ioba, tce]), expect=0)]


def look(label: str) -> list[Op]:
    return [*b.pins(), *b.checkpoint(label, stream=True)]


def page(number: int, permissions: int = BOTH) -> Tce:
    return Tce("m", number, permissions)


def begin() -> list[Op]:
    """The buffer, marked as what lies from 0x20000 on."""
    return [*b.pins(), *b.buffer("m", PAGES, 3), *b.tag(Page("m"), PAGES, LIOBN, 0x20000, 1), *b.bind(PE)]


def closed() -> list[Op]:
    return [*b.close(PE.group, PE.container), *look("closed")]


def mapped(number: int = 0, iova: int = 0x20000, pages: int = 2) -> list[Op]:
    return b.map_dma(PE, Page("m", number), iova, pages, BOTH)


def v1(*ops: list[Op]) -> list[Op]:
    """A container of type v1 that has mapped two pages."""
    opened = [*b.open_container(PE), *b.enable(PE), *mapped()]
    return [*opened, *(op for each in ops for op in each), *closed()]


def v2(*ops: list[Op]) -> list[Op]:
    """Likewise of type v2, with the buffer registered."""
    opened = [*b.open_container(PE, V2), *registered("REGISTER"), *mapped()]
    return [*opened, *(op for each in ops for op in each), *closed()]


def registered(what: str, expect: str | None = "ok") -> list[Op]:
    return b.ask(PE, f"SPAPR_{what}_MEMORY", expect=expect, vaddr=Page("m"), size=PAGES << 12)


def removed() -> list[Op]:
    return b.ask(PE, "SPAPR_TCE_REMOVE", start_addr=0)


def unmapped(iova: int, pages: int = 1) -> list[Op]:
    return b.unmap_dma(PE, iova, pages)


JOINED = Ioctl(file=PE.group, request="GROUP_SET_CONTAINER", fields={"container": PE.container}, expect="ok")
V1_STORIES: dict[str, list[Op]] = {
    "an entry without permissions is cleared, and nothing unpinned": v1(
        put(0x30000, page(1, 0)), look("stored"), unmapped(0x30000), look("unmapped")
    ),
    "an entry whose page somebody has pinned takes that pin along": v1(
        put(0x30000, page(0)), look("stored"), unmapped(0x30000), look("unmapped"), put(0x20000, 0), look("cleared")
    ),
    "so does one that a map replaces": v1(
        put(0x30000, page(0)), mapped(3, 0x30000, 1), look("replaced"), put(0x20000, 0), look("cleared")
    ),
    "so does one that is swept when the container goes": v1(put(0x30000, page(0)), put(0x20000, 0), look("stored")),
    "an entry of its own that a hypercall cleared stays pinned": v1(
        put(0x20000, 0), look("cleared"), unmapped(0x20000, 2), look("unmapped")
    ),
}
V2_STORIES: dict[str, list[Op]] = {
    "v2 clears an entry that it did not make, and counts nothing": v2(
        put(0x30000, page(0)), look("stored"), unmapped(0x30000), look("unmapped"), unmapped(0x20000, 2),
        registered("UNREGISTER"), look("given back"),
    ),
    "v2 replaces one, wherever it leads, and sweeps another": v2(
        put(0x30000, 0x7003), put(0x31000, page(7)), look("stored"), mapped(3, 0x30000, 1), look("replaced"),
        unmapped(0x20000, 2), unmapped(0x30000), registered("UNREGISTER"), look("given back"),
    ),
    "a low window that is smaller than the platform's sweeps itself alone": [
        *b.open_container(PE, V2), *registered("REGISTER"), *removed(),
        *b.ask(PE, "SPAPR_TCE_CREATE", page_shift=12, window_size=MIB, levels=1), *mapped(),
        *put(0x30000, page(3)), *put(2 * MIB, page(4)), *look("stored"), *removed(), *look("removed"), *closed(),
    ],
    "v2 counts an entry of its own that a hypercall cleared for good": v2(
        put(0x20000, 0), mapped(4, 0x20000, 1), look("replaced"), unmapped(0x20000, 2), look("unmapped"),
        registered("UNREGISTER", None), look("still in use"),
    ),
}  # fmt: skip
GIVEN_BACK: dict[str, list[Op]] = {
    "a group that only joined a container is given back to the platform with an empty window": [
        *put(0x10000, page(0)), *look("stored"), Open(file=PE.container, path="/dev/vfio/vfio"),
        Open(file=PE.group, path=f"/dev/vfio/${PE.name}"), JOINED, *look("joined"), *closed(),
    ],
    "so is one whose container made no window": [
        *put(0x10000, page(0)), *look("stored"), *b.open_container(PE), *b.enable(PE), *look("enabled"), *closed(),
    ],
    "and without the window that firmware had made": [
        *b.ddw(PE, "create", page_shift=16, window_shift=24), *put(0x10000, page(0)), *look("stored"),
        *b.open_container(PE), *look("opened"), *closed(),
    ],
}  # fmt: skip
STORIES = V1_STORIES | V2_STORIES | GIVEN_BACK

UNDERFLOWS: dict[str, list[Op]] = {
    "unmapped": v1(put(0x30000, page(5)), look("stored"), unmapped(0x30000), look("unmapped")),
    "replaced": v1(put(0x30000, page(5)), mapped(3, 0x30000, 1), look("replaced")),
    "swept": v1(put(0x30000, page(5)), look("stored")),
    "pinned but once": v1(put(0x30000, page(0)), unmapped(0x30000), look("one"), unmapped(0x20000, 2), look("two")),
}
"""What no program may do on a real kernel: a pin is given back that nobody took."""


def program(*stories: list[Op]) -> Program:
    return Program(name="unpinned", topology=SMALL, ops=[*begin(), *(op for story in stories for op in story)], seed=1)
