"""Mutants made by hand, of what a container of type v2 does once no check stands in the way."""

from __future__ import annotations

from functools import partial

from mutants.by_hand import NO_RIGHT, edit
from mutants.mutant import Mutant
from tcelab.emulator import effects_v2, vfiocore
from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.effects_v2 import ContainerWindow, SpaprTceV2
from tcelab.emulator.platform import Machine

v2 = partial(edit, "linux-v2")
BUILD, CREATE, REMOVE, REGISTER = SpaprTceV2.build_v2, SpaprTceV2.create, SpaprTceV2.remove, SpaprTceV2.register
_OWN = "next((r for r in self.regions.values() if r.start <= address < r.start + r.size), None)"

MAPS = (
    v2("a MAP leaves out its last page", BUILD, "range(first, end)", "range(first, end - 1)", "MAP_DMA"),
    v2("a MAP takes a page more", BUILD, "range(first, end)", "range(first, end + 1)", "MAP_DMA"),
    v2("a MAP begins one entry late", BUILD, "- found.start) >>", "- found.start + 4096) >>", "MAP_DMA"),
    v2("a MAP begins at bus address 0", BUILD, "- found.start) >>", "- 0) >>", "MAP_DMA"),
    v2("all pages of a MAP are its first", BUILD, "address += unit", "address += 0", "MAP_DMA"),
    v2("every entry permits everything", BUILD, '| call.param["flags"]', "| 3", "MAP_DMA"),
    v2("an entry leads to the page behind", BUILD, "frame + address %", "frame + 4096 + address %", "MAP_DMA"),
    v2("any page will do for any window", BUILD, " or unit > region.granule", "", "MAP_DMA"),
    v2("a MAP that fails takes nothing back", BUILD, "self._roll_back_v2(found, first, replaced)", "pass", "MAP_DMA"),
    v2("what is taken back is one short", SpaprTceV2._roll_back_v2, "len(replaced))", "len(replaced) - 1)", "MAP_DMA"),
    v2("only memory of the container is mapped", BUILD, "space.region(address, unit)", _OWN, "MAP_DMA"),
    v2("an UNMAP leaves its last page", SpaprTceV2.clear_v2, "first + pages,", "first + pages - 1,"),
    v2("an unmapped entry stays", SpaprTceV2.clear_v2, "found.table.put(entry, 0)", "pass"),
    v2("a group that leaves keeps its entries", SpaprTceV2.detach, "self._sweep(each)", "pass"),
)

MEMORY = (
    v2("what is registered is not charged", SpaprTceV2._pinned, "process.charge(pages)", "process.charge(0)"),
    v2(
        "what is registered is not pinned",
        SpaprTceV2._pinned,
        "space.pin(address, write=True)",
        "space._frames[address // ram.page_size]",
    ),
    v2("memory is pinned for reading", SpaprTceV2._pinned, "write=True", "write=False"),
    v2("regions may overlap", SpaprTceV2._pinned, "if any(start", "if False and any(start"),
    v2(
        "a region that overlaps stays pinned",
        SpaprTceV2._pinned,
        "in space.regions):\n        self._let_go(frames, pages)",
        "in space.regions):\n        pass",
    ),
    v2("a page that cannot be pinned costs", SpaprTceV2._let_go, "self._refund(pages)", "pass"),
    v2("what is unregistered stays pinned", SpaprTceV2._let_go, "self.machine.ram.unpin(frame)", "pass"),
    v2("nothing at all is registered", SpaprTceV2._pinned, "if not size:", "if False:"),
    v2("memory is registered twice", REGISTER, "if key in self.regions:", "if False:"),
    v2("memory is registered with one container", REGISTER, "region.used += 1", "region.used = 1", guest=NO_RIGHT),
    v2("each container pins for itself", REGISTER, "space.regions.get(key)", "None"),
    v2(
        "memory in use is never given back",
        SpaprTceV2.unregister,
        "if region.used == 1 and region.mapped:",
        "if region.mapped:",
    ),
    v2("nobody knows what is in use", SpaprTceV2._use, "region.mapped += 1", "pass"),
    v2("what was in use always is", SpaprTceV2._use, "before.mapped -= 1", "pass"),
    v2(
        "memory in use is given back",
        SpaprTceV2._end,
        "not region.used and not region.mapped and",
        "not region.used and",
        guest=NO_RIGHT,
    ),
    v2("UNREGISTER without its defect", SpaprTceV2.unregister, "if UNREGISTERS_IN_USE not in self.quirks:", "if True:"),
    v2("release without its defect", SpaprTceV2.release, "or CLOSE_STRANDS not in self.quirks", "or True"),
    v2("release keeps all memory", SpaprTceV2.release, "self._put(key)", "pass"),
    v2("release warns of nothing", SpaprTceV2.release, "self.machine.warn(", "str("),
    v2("nobody looks what an mm leaves", Machine.let_go, "and space.regions", "and False"),
)

WINDOWS = (
    v2("a window ends one byte late", ContainerWindow.has, "iova < self.start +", "iova <= self.start +"),
    v2("a window ends as it was asked for", ContainerWindow.has, "(self.entries << self.shift)", "self.size"),
    v2("a window begins one byte late", ContainerWindow.has, "self.start <= iova", "self.start < iova"),
    v2("there are three windows", CREATE, "== windowcreation.MOST", "> windowcreation.MOST"),
    v2("a window of no pages is charged", CREATE, "if not bytes_of_table:", "if False:"),
    v2("an entry has 4 bytes", CREATE, "- _ENTRY_SHIFT", "- 2"),
    v2("a table of more levels costs what it has", CREATE, "_WHOLE if levels > 1 else", "0 if levels > 1 else"),
    v2("a window has any size", CREATE, "size & (size - 1) or", ""),
    v2("a table has any levels", CREATE, " or levels > 1:", ":"),
    v2("a second window is told to begin at 0", CREATE, "= table.bus_offset", "= 0"),
    v2(
        "a window that is not made costs nothing",
        SpaprTceV2._not_made,
        "if CREATE_CHARGES not in self.quirks:",
        "if True:",
    ),
    v2("a window may be smaller than its pages", SpaprTceV2._made, "if size < 1 << shift:", "if False:"),
    v2("a default window may be as small", SpaprTceV2._expect_entries, "if size < 1 << shift:", "if False:"),
    v2(
        "a small window without its defect",
        SpaprTceV2._expect_entries,
        "if BELOW_PAGE not in",
        "if True or self not in",
    ),
    v2("a small window warns of nothing", SpaprTceV2._expect_entries, "self.machine.warn_once(", "str("),
    v2("firmware is asked again", SpaprTceV2._spoilt, "not pe.refused_window or", "True or"),
    v2("a PE is spoilt for high windows alone", SpaprTce.make_default_window, "if self._spoilt(self.pe):", "if False:"),
    v2("REMOVE cancels nothing", REMOVE, "if self.pending and not start:", "if False:"),
    v2("a cancelled window comes all the same", REMOVE, "self.pending = False", "pass"),
    v2("REMOVE leaves the entries", REMOVE, "self._sweep(found)", "pass"),
    v2("REMOVE leaves the window", REMOVE, "pe.windows.remove(found.table.liobn)", "pass"),
    v2("REMOVE refunds nothing", REMOVE, "self._refund(found.pages)", "pass"),
    v2("REMOVE is forgotten", REMOVE, "self.windows.remove(found)", "pass"),
    v2("windows are not refunded when the group leaves", SpaprTceV2.release, "self._refund(each.pages)", "pass"),
)

ATTACH, DETACH, MADE, NOT_SET = SpaprTceV2.attach, SpaprTceV2.detach, SpaprTceV2._made, SpaprTceV2._not_set
GROUPS = (
    v2("a container with a window takes another group", ATTACH, "if self.windows:", "if False:"),
    v2("the group that came last comes last", SpaprTce.take, "self.pe = pe", "self.pe = self.pe or pe"),
    v2(
        "a group that comes later brings a window",
        SpaprTce.take,
        "self.others.insert(0, self.pe)",
        "self.others.insert(0, self.pe); self.pending = True",
    ),
    v2("groups have a window in common", SpaprTce.make_default_window, "if self.others:", "if False:"),
    v2("a window that is made in vain stays charged", SpaprTce.not_shared, "self._refund(pages)", "pass"),
    v2(
        "a default window made in vain empties nothing",
        SpaprTce.make_default_window,
        "self.pe.reset()",
        "self.others or self.pe.reset()",
    ),
    v2("a low window that is made empties nothing", MADE, "pe.reset()", "pass"),
    v2("a window made in vain stays", NOT_SET, "pe.windows.remove(table.liobn)", "pass"),
    v2("any window of pages of 4 KiB is the default one", effects_v2._is_default, " and size <= pe.window_size", ""),
    v2(
        "any window that is no larger is the default one", effects_v2._is_default, "shift == window.PAGE_SHIFT and ", ""
    ),
    v2("a window of 64 bits keeps nobody from the other's place", MADE, "if self.windows:", "if False:"),
    v2(
        "a window of 64 bits is never the first",
        CREATE,
        "int(any(not each.number for each in self.windows))",
        "int(size > pe.window_size)",
    ),
    v2("a group that leaves takes all along", DETACH, "self.others.pop(0) if self.others else None", "None"),
    v2("a group that leaves stays", DETACH, "self.others.remove(pe)", "pass"),
    edit(
        "linux-v2",
        "the type is set for the first group first",
        vfiocore.ContainerFile.join,
        "insert(0, group)",
        "append(group)",
    ),
    edit(
        "linux-v2",
        "a PE that is not taken stays as it was",
        vfiocore.ContainerFile.join,
        "self._give_back(group.pe)",
        "group.pe.owned = False",
    ),
)


def all_by_hand_v2() -> list[Mutant]:
    return [*MAPS, *MEMORY, *WINDOWS, *GROUPS]
