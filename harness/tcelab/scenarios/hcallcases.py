"""The cases of the scenario `hcalls`, as data: each with its literal status and effect, and the source of both.

Only the window's numbers depend on the topology; everything else is written here as it is sent. Sources: QEMU
hw/ppc/spapr_iommu.c unless another file is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tcelab.errors import UsageError
from tcelab.papr import hcallnumbers, window
from tcelab.program import Call, Tce
from tcelab.program.topology import Phb, Topology

GET, PUT, STUFF, INDIRECT = "H_GET_TCE", "H_PUT_TCE", "H_STUFF_TCE", "H_PUT_TCE_INDIRECT"
EACH: Final = (PUT, GET, STUFF, INDIRECT)
STORING: Final = (PUT, STUFF, INDIRECT)
SUCCESS, FUNCTION = hcallnumbers.H_SUCCESS, hcallnumbers.H_FUNCTION
PRIVILEGE, PARAMETER = hcallnumbers.H_PRIVILEGE, hcallnumbers.H_PARAMETER

PAGE: Final = window.PAGE_SIZE
BUFFER: Final = "hcalls"
PAGES: Final = 40
"""Pages of the buffer: the first ones are tagged for the entries from `FIRST` on, the last four stay mapped."""
MARKED: Final = 32
LIST_PAGE: Final = 35
"""Page of the buffer with data that serves as a list."""
_PAGE: Final = Tce(BUFFER)
_BARE: Final = Tce(BUFFER, 0, 0)
"""A page without permissions, because KVM refuses one with permissions for H_STUFF_TCE."""
FIRST: Final = 256
"""Entry at which cases write, if the place does not matter."""
LEAST_ENTRIES: Final = 2048
SIZES: Final = (*range(1, 33), 511, 512)
LIST_MOST: Final = hcallnumbers.LIST_MOST

TOP: Final = (1 << 64) - 1
NO_RAM: Final = 1 << 45
"""A real address where no machine of tcelab has RAM."""
VIO: Final = window.VIO_LIOBN
"""LIOBN of the first virtual I/O device, which has no table here (hw/ppc/spapr_vio.c)."""

FIND: Final = "spapr_tce_find_by_liobn"
STORE: Final = "put_tce_emu"
SOURCES: Final = {GET: "h_get_tce", PUT: "h_put_tce", STUFF: "h_stuff_tce", INDIRECT: "h_put_tce_indirect"}
DISPATCH: Final = "hw/ppc/spapr.c, emulate_spapr_hypercall"
MODULE: Final = "guest/kmod/tce_hcall.c"


@dataclass(frozen=True, slots=True)
class Case:
    """:ivar hypercall: a hypercall's name, or a word for several.

    :ivar calls: one hypercall, or several of one batch.
    :ivar expected: status of each; or the errno of the module.
    :ivar written: changed entries, over all tables.
    :ivar gives: r4 afterwards, of H_GET_TCE.
    :ivar differs: the case of `tcelab.papr.hcallrules.PAPR_DIFFERENCES` that it shows.
    :ivar before: what is done first.
    """

    hypercall: str
    name: str
    calls: tuple[Call, ...]
    expected: tuple[int, ...] | str
    source: str
    written: int = 0
    gives: int | None = None
    differs: str = ""
    problem_state: bool = False
    before: tuple[Call, ...] = ()

    @property
    def label(self) -> str:
        """Of its checkpoint."""
        return f"{PREFIX}{self.hypercall}: {self.name}"


PREFIX: Final = "hcalls: "


def cases(topology: Topology) -> list[Case]:
    """All cases, in order; no two have the same label.

    :raise UsageError: a window is too small, or there is no device.
    """
    phbs = [phb for phb in topology.phbs if phb.devices]
    if not phbs or phbs[0].entries < LEAST_ENTRIES:
        raise UsageError(f"scenario hcalls needs a PE whose window has at least {LEAST_ENTRIES} entries")
    one = phbs[0]
    return [
        *_liobns(topology, one),
        *_iobas(one),
        *_tces(one),
        *_sizes(one),
        *_counts(one),
        *_ends(one),
        *_lists(one),
        *_ways_in(one),
        *_batches(one),
    ]


def at(phb: Phb, entry: int = FIRST) -> int:
    """Bus address of an entry."""
    return phb.window_start + entry * PAGE


def call(hypercall: str, liobn: int, ioba: int, *, npages: int = 1, tce: int | Tce | None = None) -> Call:
    """A well-formed hypercall: for one TCE, or with a list of the requested length, at most a page."""
    if hypercall == GET:
        return Call(GET, [liobn, ioba])
    if hypercall == PUT:
        return Call(PUT, [liobn, ioba, _PAGE if tce is None else tce])
    if hypercall == STUFF:
        return Call(STUFF, [liobn, ioba, _BARE if tce is None else tce, npages])
    return Call(
        INDIRECT, [liobn, ioba, 0, npages], listed(min(max(npages, 1), LIST_MOST), _PAGE if tce is None else tce)
    )


def listed(count: int, tce: int | Tce = _PAGE) -> list[int | Tce]:
    """TCEs for a list: one of a number as often as that; those of the buffer's pages one after the other."""
    if isinstance(tce, int):
        return [tce] * count
    return [Tce(BUFFER, (tce.index + i) % MARKED, tce.permissions, tce.plus) for i in range(count)]


def _refused(hypercall: str, name: str, made: Call, source: str, differs: str = "") -> Case:
    return Case(hypercall, name, (made,), (PARAMETER,), source, differs=differs)


# -- which table


def _liobns(topology: Topology, one: Phb) -> Iterator[Case]:
    unknown = next(index for index in range(1, 30) if all(phb.index != index for phb in topology.machine))
    for hypercall in EACH:
        for phb in topology.machine:
            name = f"LIOBN {phb.liobn:#x}, a window of {phb.entries} entries"
            written = 0 if hypercall == GET else 2 if hypercall != PUT else 1
            made = call(hypercall, phb.liobn, at(phb), npages=2)
            gives = 0 if hypercall == GET else None
            yield Case(hypercall, name, (made,), (SUCCESS,), SOURCES[hypercall], written, gives)
        for phb in topology.machine:
            liobn = window.liobn(phb.index, 1)
            source = f"{SOURCES[hypercall]}, nb_table" if hypercall == STUFF else STORE
            source = "get_tce_emu" if hypercall == GET else source
            made = call(hypercall, liobn, at(phb))
            yield _refused(hypercall, f"LIOBN {liobn:#x}, a second window that is not active", made, source)
        for name, liobn in (
            ("0", 0),
            (f"{VIO:#x}, of VIO", VIO),
            (f"{window.liobn(unknown):#x}, of no PHB", window.liobn(unknown)),
            ("0xffffffff", 0xFFFFFFFF),
            ("of 33 bits, its lower half a window's", 1 << 32 | one.liobn),
        ):
            yield _refused(hypercall, f"LIOBN {name}", call(hypercall, liobn, at(one)), FIND)
        several = "INDIRECT with a negative LIOBN, a count of LIOBNs in the list" if hypercall == INDIRECT else ""
        made = call(hypercall, TOP - 1, at(one))
        yield _refused(hypercall, "LIOBN -2", made, FIND, several)


# -- which entry


def _iobas(one: Phb) -> Iterator[Case]:
    for hypercall in EACH:
        got = hypercall == GET
        for plus in (1, 0x800, 0xFFF):
            made = call(hypercall, one.liobn, at(one) + plus, npages=2)
            yield Case(
                hypercall,
                f"IOBA {plus:#x} bytes into a page: rounded down",
                (made,),
                (SUCCESS,),
                f"{SOURCES[hypercall]}, page_mask",
                written=0 if got else 1 if hypercall == PUT else 2,
                gives=OTHER if got else None,
                differs="IOBA not aligned to a page",
                before=(call(PUT, one.liobn, at(one), tce=OTHER),) if got else (),
            )
        for name, ioba in (
            ("of the first entry", at(one, 0)),
            ("of the last entry", at(one, one.entries - 1)),
            ("of the last byte", at(one, one.entries) - 1),
        ):
            made = call(hypercall, one.liobn, ioba)
            source = SOURCES[hypercall]
            differs = "IOBA not aligned to a page" if ioba % PAGE else ""
            yield Case(hypercall, f"IOBA {name}", (made,), (SUCCESS,), source, 0 if got else 1, differs=differs)
        outside = "get_tce_emu, index" if got else f"{STORE}, index"
        for name, ioba in (
            ("of the first byte behind the window", at(one, one.entries)),
            ("a window further", at(one, 2 * one.entries)),
            ("2^40 bytes further", at(one) + (1 << 40)),
            ("the last page there is", TOP - PAGE + 1),
            ("all ones", TOP),
        ):
            yield _refused(hypercall, f"IOBA {name}", call(hypercall, one.liobn, ioba), outside)


# -- which TCE

OTHER: Final = NO_RAM | 0x5678001
_ODD: Final[tuple[tuple[str, int], ...]] = (
    ("all ones", TOP),
    ("reserved bits without permissions", 0xFFC),
    ("the legacy bits for valid and all LPARs", 0xC03),
    ("a page outside RAM", NO_RAM | 3),
    ("a page number of 52 bits", 0xFFFFFFFFFFFFF001),
    ("no page and both permissions", 3),
)

_NOT_OURS: Final = "PUT of a page that is not the partition's"


def _tces(one: Phb) -> Iterator[Case]:
    for hypercall in STORING:
        for permissions, name in enumerate(("no permissions", "read", "write", "read and write")):
            made = call(hypercall, one.liobn, at(one), npages=3, tce=Tce(BUFFER, 0, permissions))
            written = 1 if hypercall == PUT else 3
            differs = "STUFF of a TCE with permissions" if hypercall == STUFF and permissions else ""
            yield _stored(hypercall, f"a page's TCE with {name}", made, written, differs)
        for name, value in _ODD:
            made = call(hypercall, one.liobn, at(one), npages=3, tce=value)
            differs = ""
            if hypercall == STUFF and value & 3:
                differs = "STUFF of a TCE with permissions"
            elif value >= NO_RAM:
                differs = "INDIRECT with one bad TCE in the list" if hypercall == INDIRECT else _NOT_OURS
            yield _stored(hypercall, f"TCE: {name}, stored as it is", made, 1 if hypercall == PUT else 3, differs)
        clear = call(hypercall, one.liobn, at(one), npages=3, tce=0)
        stuff = (call(STUFF, one.liobn, at(one), npages=4, tce=OTHER),)
        yield Case(hypercall, "TCE 0 clears", (clear,), (SUCCESS,), STORE, 1 if hypercall == PUT else 3, before=stuff)
        over = call(hypercall, one.liobn, at(one), npages=3)
        name = "over other entries, and no further"
        yield Case(hypercall, name, (over,), (SUCCESS,), STORE, 1 if hypercall == PUT else 3, before=stuff)
    bad: list[int | Tce] = [
        Tce(BUFFER),
        0,
        Tce(BUFFER, 1, 1),
        NO_RAM | 2,
        0xFFC,
        Tce(BUFFER, 2, 0),
        TOP,
        Tce(BUFFER, 3, 2),
    ]
    made = Call(INDIRECT, [one.liobn, at(one), 0, len(bad)], bad)
    yield _stored(INDIRECT, "a list of good and bad ones", made, 7, "INDIRECT with one bad TCE in the list")
    yield Case(GET, "an empty entry gives 0", (call(GET, one.liobn, at(one)),), (SUCCESS,), SOURCES[GET], gives=0)
    for name, value in _ODD:
        put = (call(PUT, one.liobn, at(one), tce=value),)
        differs = "GET of an entry that leads out of the partition" if value >= NO_RAM else ""
        got = call(GET, one.liobn, at(one))
        yield Case(GET, f"TCE: {name}", (got,), (SUCCESS,), SOURCES[GET], gives=value, differs=differs, before=put)


def _stored(hypercall: str, name: str, made: Call, written: int, differs: str = "") -> Case:
    return Case(hypercall, name, (made,), (SUCCESS,), STORE, written, differs=differs)


# -- how many


def _sizes(one: Phb) -> Iterator[Case]:
    for hypercall in (STUFF, INDIRECT):
        for npages in SIZES:
            made = call(hypercall, one.liobn, at(one), npages=npages)
            yield _stored(hypercall, f"{npages} page{'s' if npages > 1 else ''}", made, npages)


def _counts(one: Phb) -> Iterator[Case]:
    entries, nb_table = one.entries, "h_stuff_tce, nb_table"
    for npages in (513, entries):
        place = FIRST if npages != entries else 0
        made = call(STUFF, one.liobn, at(one, place), npages=npages)
        yield Case(
            STUFF, f"{npages} pages", (made,), (SUCCESS,), nb_table, npages, differs="STUFF of more than 512 pages"
        )
    for npages in (entries + 1, TOP):
        yield _refused(STUFF, f"{npages} pages", call(STUFF, one.liobn, at(one, 0), npages=npages), nb_table)
    for hypercall in (STUFF, INDIRECT):
        made = call(hypercall, one.liobn, at(one), npages=0)
        word = "STUFF" if hypercall == STUFF else "INDIRECT"
        yield _refused(hypercall, "0 pages", made, f"{SOURCES[hypercall]}, ret", f"{word} of no pages")
    for npages in (513, 1 << 32, TOP):
        made = call(INDIRECT, one.liobn, at(one), npages=npages)
        yield _refused(INDIRECT, f"{npages} pages", made, "h_put_tce_indirect, npages > 512")


def _ends(one: Phb) -> Iterator[Case]:
    for hypercall, word in ((STUFF, "STUFF"), (INDIRECT, "INDIRECT")):
        source = f"{SOURCES[hypercall]}, the loop"
        for npages in (2, 3, 32, 512):
            for inside in sorted({1, npages // 2, npages - 1}):
                made = call(hypercall, one.liobn, at(one, one.entries - inside), npages=npages)
                name = f"{npages} pages, {inside} inside: those stay written"
                differs = f"{word} past the window's end"
                yield Case(hypercall, name, (made,), (PARAMETER,), source, inside, differs=differs)
            made = call(hypercall, one.liobn, at(one, one.entries - npages), npages=npages)
            yield Case(hypercall, f"the last {npages} pages of the window", (made,), (SUCCESS,), source, npages)


# -- the list


def _lists(one: Phb) -> Iterator[Case]:
    aligned = "h_put_tce_indirect, SPAPR_TCE_PAGE_MASK"
    for offset in (1, 8, 0x800, 0xFF8):
        made = Call(INDIRECT, [one.liobn, at(one), offset, 2], listed(2))
        crosses = ", from which on it crosses the page" if offset == PAGE - 8 else ""
        yield _refused(INDIRECT, f"list {offset:#x} bytes into its page{crosses}", made, aligned)
    made = Call(INDIRECT, [one.liobn, at(one), NO_RAM + 8, 2])
    yield _refused(INDIRECT, "list outside RAM, not aligned", made, aligned)
    stuff = (call(STUFF, one.liobn, at(one), npages=3, tce=OTHER),)
    for name, address in (("outside RAM", NO_RAM), ("at the end of all addresses", TOP - PAGE + 1)):
        made = Call(INDIRECT, [one.liobn, at(one), address, 2])
        yield Case(
            INDIRECT,
            f"list {name}: zeros are stored",
            (made,),
            (SUCCESS,),
            "h_put_tce_indirect, ldq_be_phys",
            written=2,
            differs="INDIRECT with a list outside RAM",
            before=stuff,
        )
    own = Call(INDIRECT, [one.liobn, at(one), Tce(BUFFER, LIST_PAGE, 0), 2])
    yield _stored(INDIRECT, "list in a page of a process, by its real address", own, 2)
    within = Call(INDIRECT, [one.liobn, at(one), Tce(BUFFER, LIST_PAGE, 0, 8), 1])
    yield _refused(INDIRECT, "list within a page of a process", within, aligned)


# -- who calls


def _ways_in(one: Phb) -> Iterator[Case]:
    def process(hypercall: str, name: str, made: Call) -> Case:
        return Case(hypercall, name, (made,), (PRIVILEGE,), DISPATCH, problem_state=True)

    listed_ = Call(INDIRECT, [one.liobn, at(one), Tce(BUFFER, LIST_PAGE, 0), 2])
    for hypercall in EACH:
        made = listed_ if hypercall == INDIRECT else call(hypercall, one.liobn, at(one))
        yield process(hypercall, "from problem state", made)
        wrong = Call(hypercall, [0, TOP, 0, TOP])
        yield process(hypercall, "from problem state, with arguments that are wrong", wrong)
    for opcode in (0, 0x21, 0x1000, 0xF000, TOP):
        made = Call(opcode, [one.liobn, at(one)])
        yield process("any other", f"opcode {opcode:#x} from problem state", made)
    for opcode in (0, 0x21, 0x24, 0xF000, TOP):
        made = Call(opcode, [one.liobn, at(one)])
        yield Case("any other", f"opcode {opcode:#x}: not done by the module", (made,), "EINVAL", MODULE)


# -- several at a time


def _batches(one: Phb) -> Iterator[Case]:
    place, liobn = at(one), one.liobn
    rounds = (
        call(PUT, liobn, place, tce=OTHER),
        call(GET, liobn, place),
        call(PUT, liobn, place, tce=0),
        call(GET, liobn, place),
        call(STUFF, liobn, place, npages=2),
        call(GET, liobn, place + PAGE),
    )
    yield Case("several", "each finds what those before it left", rounds, (SUCCESS,) * 6, MODULE, 2)
    mixed = (call(PUT, 0, place), call(PUT, liobn, place), call(STUFF, liobn, place, npages=0), call(GET, liobn, TOP))
    statuses = (PARAMETER, SUCCESS, PARAMETER, PARAMETER)
    yield Case("several", "one that fails does not keep the others", mixed, statuses, MODULE, 1)
    puts: Sequence[Call] = [call(PUT, liobn, place + i * PAGE, tce=Tce(BUFFER, i % MARKED)) for i in range(32)]
    yield Case("several", "32 pages by 32 times H_PUT_TCE", tuple(puts), (SUCCESS,) * 32, MODULE, 32)
