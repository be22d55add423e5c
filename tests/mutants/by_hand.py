"""Mutants made by hand: one line of the data path is another one.

An edit whose line is no longer there fails, so that none is stale.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType

from mutants.mutant import NO_MODULE, NO_SEED, Mutant, with_code
from tcelab.emulator import edudevice, emulatedkernel, vfiocore, vfiopci
from tcelab.emulator.addressspaces import Area, Space
from tcelab.emulator.effects_2013 import Seed
from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.platform import EmulatedPe, Machine
from tcelab.emulator.process import Process
from tcelab.emulator.profiles import linux_v1
from tcelab.papr import dmarules, hcallrules
from tcelab.papr.tcetable import Table

NO_RIGHT = "no kernel of today is without that defect"
OTHER_PAGES = "the guest's kernel has pages of 4 KiB"


def edit(
    of: str,
    name: str,
    function: FunctionType,
    before: str,
    after: str,
    *words: str,
    guest: bool | str = True,
) -> Mutant:
    """A mutant that has `after` where the function's source has `before`."""
    alive = partial(with_code, function, before, after)
    return Mutant(f"{of} by hand: {name}", "by hand", of, alive, frozenset(words), guest)


driver = partial(edit, "linux-v1")
around = partial(edit, "core")
seed = partial(edit, "seed2013", guest=NO_SEED)
platform = partial(edit, "hcalls", guest=NO_MODULE)

BUILD, ROLL_BACK, CLEAR = SpaprTce.build, SpaprTce._roll_back, SpaprTce.clear
PUT = "old = pe.exchange(entry, frame | address % ram.page_size | permissions)"
OTHER_PE = "list(self.machine.pes.values())[-1]"

MAPS = (
    driver(
        "a MAP leaves out its last page", BUILD, ">> window.PAGE_SHIFT)):", ">> window.PAGE_SHIFT) - 1):", "MAP_DMA"
    ),
    driver("a MAP takes a page more", BUILD, ">> window.PAGE_SHIFT)):", ">> window.PAGE_SHIFT) + 1):", "MAP_DMA"),
    driver("a MAP begins one entry late", BUILD, "+ (call", "+ 1 + (call", "MAP_DMA"),
    driver("all pages of a MAP are its first", BUILD, "address += window.PAGE_SIZE", "address += 0", "MAP_DMA"),
    driver(
        "a MAP pins the page behind", BUILD, "space.pin(address,", "space.pin(address + window.PAGE_SIZE,", "MAP_DMA"
    ),
    driver("every entry permits everything", BUILD, PUT, PUT.replace("permissions", "3"), "MAP_DMA"),
    driver(
        "READ is WRITE and WRITE is READ",
        BUILD,
        PUT,
        PUT.replace("permissions", "(0, 2, 1, 3)[permissions]"),
        "MAP_DMA",
    ),
    driver("a MAP goes into another LIOBN", BUILD, "ram = self.pe,", f"ram = {OTHER_PE},", "MAP_DMA"),
    driver(
        "an IOMMU page is the first of its CPU page",
        BUILD,
        PUT,
        PUT.replace("address % ram.page_size | ", ""),
        "MAP_DMA",
        guest=OTHER_PAGES,
    ),
    driver("memory for writing is pinned for reading", BUILD, "write=write", "write=False", "MAP_DMA"),
    driver(
        "memory for reading and writing is pinned for reading",
        BUILD,
        "write = permissions != tce.READ",
        "write = permissions == tce.WRITE",
        "MAP_DMA",
        guest=NO_RIGHT,
    ),
    driver("an exchanged page stays pinned", BUILD, "if old & tce.PERMISSIONS:", "if False:", "MAP_DMA"),
    driver("a page past the end stays pinned", BUILD, "ram.unpin(frame)", "pass", "MAP_DMA"),
    driver("a MAP that fails midway is told as done", BUILD, "raise SyscallError(failed)", "return 0", "MAP_DMA"),
    driver("a MAP that fails takes nothing back", BUILD, "self._roll_back(pe, first, replaced)", "pass", "MAP_DMA"),
    driver(
        "what is taken back is one short", ROLL_BACK, "first, len(replaced))", "first, len(replaced) - 1)", "MAP_DMA"
    ),
    driver(
        "what is taken back is one more", ROLL_BACK, "first, len(replaced))", "first, len(replaced) + 1)", "MAP_DMA"
    ),
    driver("what is taken back begins one late", ROLL_BACK, "pe, first, len", "pe, first + 1, len", "MAP_DMA"),
    driver(
        "what was live before comes back without its pin",
        ROLL_BACK,
        "self.machine.ram.pin(old & -self.machine.page_size)",
        "pass",
        "MAP_DMA",
        guest=NO_RIGHT,
    ),
    driver("what was live before is lost", ROLL_BACK, "pe.exchange(entry, old)", "pass", "MAP_DMA", guest=NO_RIGHT),
    driver(
        "a live entry is not exchanged",
        EmulatedPe.exchange,
        "put(number, new)",
        "put(number, old if old and new else new)",
    ),
    driver("the neighbour of an entry is put", EmulatedPe.exchange, "put(number, new)", "put(number ^ 1, new)"),
    driver("what an entry held is not told", EmulatedPe.exchange, "return old", "return 0"),
)

UNMAPS = (
    driver("an unmapped entry stays", CLEAR, "pe.exchange(entry, 0)", "pe.table.get(entry - pe.first)", "UNMAP_DMA"),
    driver("an unmapped page stays pinned", CLEAR, "if old & tce.PERMISSIONS:", "if False:", "UNMAP_DMA"),
    driver("a page mapped for writing stays pinned", CLEAR, "old & tce.PERMISSIONS", "old & tce.READ", "UNMAP_DMA"),
    driver("an UNMAP leaves its last page", CLEAR, "min(first + pages,", "min(first + pages - 1,", "UNMAP_DMA"),
    driver("an UNMAP takes a page more", CLEAR, "min(first + pages,", "min(first + pages + 1,", "UNMAP_DMA"),
    driver("an UNMAP leaves the window's last page", CLEAR, "table.entries)", "table.entries - 1)", "UNMAP_DMA"),
    driver(
        "an UNMAP is of another LIOBN",
        linux_v1._unmap,
        "call.on.pe,",
        OTHER_PE.replace("self", "call") + ",",
        "UNMAP_DMA",
    ),
    driver("an UNMAP returns how many pages", linux_v1._unmap, "return 0", "return pages_of(call)", "UNMAP_DMA"),
    driver("a group that leaves keeps its last page", SpaprTce.sweep, ".tolist()", ".tolist()[:-1]"),
    driver("a group that leaves keeps its pins", SpaprTce.detach, "self.sweep(pe)", "pass"),
    driver("only an enabled container is swept", SpaprTce.detach, "if not self.pending:", "if self.enabled:"),
)

WINDOWS = (
    driver("the window ends one entry late", linux_v1._outside, "< first + entries", "<= first + entries"),
    driver("the window ends one entry early", linux_v1._outside, "< first + entries", "< first + entries - 1"),
    driver("the window begins one entry late", linux_v1._outside, "first <= ", "first < "),
    driver("the window has no beginning", linux_v1._outside, "first <= ", ""),
    driver(
        "a range may not reach the window's end",
        linux_v1._past_the_end,
        "<= sum",
        "< sum",
        guest=NO_RIGHT,
    ),
    driver("the size of the window is one page short", linux_v1._info, "entries <<", "entries - 1 <<"),
    driver("GET_INFO wants more room for DDW", linux_v1._info, "if argsz >= INFO_DDW.size", "if argsz > INFO_DDW.size"),
    driver("GET_INFO keeps what was in the struct", linux_v1._info, "dict.fromkeys(INFO_DDW.fields, 0)", "{}"),
    driver("the window is made by each MAP", SpaprTce.make_default_window, "self.pending = False", "pass"),
    driver("a group that comes has its window", SpaprTce.take, "self.pending = True", "self.pending = False"),
    driver(
        "nobody warns of a window that begins elsewhere",
        SpaprTce.make_default_window,
        "if self.pe.first and",
        "if False and",
    ),
    driver("every window makes the kernel warn", SpaprTce.make_default_window, "if self.pe.first and", "if"),
    driver(
        "the kernel warns of every window that begins elsewhere",
        Machine.warn_once,
        "first = where not in self._warned",
        "first = True",
    ),
    driver("a container takes a second group", SpaprTce.attach, "if self.pe is not None:", "if False:"),
)

CHARGES = (
    driver("nothing is refunded", SpaprTce._refund, "self.space.locked -= pages", "pass"),
    driver("DISABLE refunds nothing", SpaprTce.disable, "self._refund(self.locked)", "pass"),
    driver("DISABLE refunds each time", SpaprTce.disable, "if self.enabled:", "if True:"),
    driver("DISABLE does not disable", SpaprTce.disable, "self.enabled = False", "pass"),
    driver(
        "DISABLE unmaps", SpaprTce.disable, "self.enabled = False", "self.enabled = self.pe and self.sweep(self.pe)"
    ),
    driver(
        "DISABLE sets the container free",
        linux_v1._disable,
        "call.on.disable()",
        "call.on.disable(); call.on.space = None",
    ),
    driver("the refund is one page short", SpaprTce.over_limit, "self.locked = pages", "self.locked = pages - 1"),
    driver("a container belongs to nobody", SpaprTce._bind, "self.space = space", "pass"),
    driver(
        "a container belongs to who could not enable it",
        SpaprTce.over_limit,
        "elif unbound:",
        "elif False:",
        guest=NO_RIGHT,
    ),
    driver("a table costs nothing", SpaprTce.make_default_window, "table.entries * 8", "table.entries * 0"),
    driver("a table is never refunded", SpaprTce.release, "self._refund(self.table_pages)", "pass"),
    driver("a window is not refunded when the group leaves", SpaprTce.release, "self.disable()", "pass"),
    around("a limit must not be reached", Process.charge, "locked > self", "locked >= self"),
    around("a limit is rounded up", Process.charge, "self.memlock //", "(self.memlock + 4095) //"),
    around("what is locked already does not count", Process.charge, "self.space.locked + pages", "pages"),
    around("no capability counts", Process.charge, "not self.capable and ", ""),
)

CORE = (
    around(
        "a group that leaves is not detached",
        vfiocore.ContainerFile.leave,
        "self.driver.detach(group.pe, process)",
        "pass",
    ),
    around(
        "a driver without group is not released", vfiocore.ContainerFile.leave, "self.driver.release(process)", "pass"
    ),
    around("only the first group is attached", vfiocore._set_iommu, "in container.groups:", "in container.groups[:1]:"),
    around("a status without container", vfiocore._status, "CONTAINER_SET if", "0 if"),
    around(
        "a closed group stays in its container",
        vfiocore.GroupFile.release,
        "self.container.leave(self, process)",
        "pass",
    ),
    around("a closed group stays open", vfiocore.GroupFile.release, "self.pe.group_file = None", "pass"),
    around(
        "a group is open twice", emulatedkernel.EmulatedKernel._opened, "if pe.group_file is not None:", "if False:"
    ),
    around("a closed device keeps its group", vfiopci.DeviceFile.release, "self.group.put(process)", "pass"),
    around("a closed device counts", vfiopci.DeviceFile.release, "self.group.devices -= 1", "pass"),
    around("the files of a dead process stay open", Process.exit, "self._files.pop(fd).put(self)", "pass"),
    around("a child has its parent's memory", Process.fork, "Space(self.space.ram)", "self.space"),
    around("a page is not pinned", Space.pin, "self.ram.pin(frame)", "self.ram.pins.setdefault(frame, 0)"),
    around("memory to be read can be written", Area.protect, '{"write"})', '{"read", "write"})'),
)

TRANSFERS = (
    around("a device masters the bus as it likes", edudevice.Edu.pieces, "master=self.wish", "master=True", "Dma"),
    around("bus mastering stays on", vfiopci.DeviceFile.pwrite, "bool(data[0] & pci.MASTER)", "True", "Dma"),
    around("a bus address is not folded", edudevice.Edu._transfer, "iova & self.mask", "iova", "Dma"),
    around(
        "a device's window begins at 0",
        edudevice.Edu.pieces,
        "window_start=self.table.bus_offset",
        "window_start=0",
        "Dma",
    ),
    around(
        "what the table refuses is told by its bus address", edudevice.Edu.through, "piece.told", "piece.iova", "Dma"
    ),
    around("a bus address has 24 bits", edudevice.Edu._transfer, "iova & self.mask", "iova & 0xFFFFFF", "Dma"),
    around(
        "the permission of the other direction is asked for",
        edudevice.Edu.pieces,
        "to_memory=to_memory,",
        "to_memory=not to_memory,",
        "Dma",
    ),
    around("any permission will do", dmarules.pieces, "if granted & needed else", "if granted else", "Dma"),
    around(
        "a transfer stays in its first page",
        dmarules.pieces,
        "min(window.PAGE_SIZE - address % window.PAGE_SIZE, size - start)",
        "size",
        "Dma",
    ),
    around("a place within a page is lost", edudevice.Edu.through, "+ inside_page", "+ 0", "Dma"),
    around(
        "the last byte of a write is lost",
        edudevice.Edu.through,
        "bytes(memory[inside])",
        "bytes(memory[inside])[:-1]",
        "Dma",
    ),
    around(
        "a refused read gives what was there",
        edudevice.Edu.through,
        "memory[inside] = bytes(piece.size)",
        "pass",
        "Dma",
    ),
    around("a refusal is not told", edudevice.Edu.through, "self._refuse(", "str(", "Dma"),
    around(
        "what is refused at first is refused as a whole",
        edudevice.Edu._transfer,
        "for piece in pieces:",
        "for piece in pieces[: 1 if pieces[0].refused else None]:",
        "Dma",
    ),
)

HYPERCALLS = (
    platform("H_STUFF_TCE is one short", Table.fill, "first + count]", "first + count - 1]"),
    platform(
        "H_PUT_TCE_INDIRECT loses its last entry",
        Table.store,
        "inside[:] = tces[: inside.size]",
        "inside[:-1] = tces[: max(0, inside.size - 1)]",
    ),
    platform("a list is little endian", hcallrules.Hypercalls.indirect, '">u8"', '"<u8"'),
    platform("a list is read one entry late", hcallrules.Hypercalls.indirect, "_read(tce_list,", "_read(tce_list + 8,"),
    platform("H_GET_TCE gives the LIOBN", hcallrules.Hypercalls.get, "request.table.get(request.index)", "liobn"),
    platform(
        "H_GET_TCE gives its neighbour", hcallrules.Hypercalls.get, "get(request.index)", "get(request.index ^ 1)"
    ),
    platform(
        "reserved bits are dropped", hcallrules.Hypercalls.put, "request.index, tce)", "request.index, tce & ~0xFFC)"
    ),
    platform(
        "a window has the LIOBN of another", hcallrules.TceRequest.__init__, "liobn & 0xFFFFFFFF", "liobn & 0xFFFFFF00"
    ),
    platform("an IOBA is rounded up", Table.index, "(ioba & self._page_mask)", "(ioba + 0xFFF & self._page_mask)"),
)

SEED = (
    seed("a MAP that fails takes nothing back", Seed.put, "self.clear(pe, entry, i)", "pass"),
    seed("what is taken back is one short", Seed.put, "self.clear(pe, entry, i)", "self.clear(pe, entry, i - 1)"),
    seed("what is taken back is one more", Seed.put, "self.clear(pe, entry, i)", "self.clear(pe, entry, i + 1)"),
    seed("a refused page stays pinned", Seed._put_one, "ram.unpin(frame)", "pass"),
    seed("an entry to be written through is free", Seed._put_one, "entry) & tce.PERMISSIONS", "entry) & tce.READ"),
    seed("memory is always pinned for writing", Seed._put_one, "write=permissions != tce.READ", "write=True"),
    seed("an unmapped entry stays", Seed.clear, "self._set(pe, entry, 0)", "pass"),
    seed("an unmapped page stays pinned", Seed.clear, "ram.unpin(old & -ram.page_size)", "pass"),
    seed("an UNMAP leaves its last page", Seed.clear, "first + pages)", "first + pages - 1)"),
    seed(
        "a group that leaves keeps its entries",
        Seed._release_ownership,
        "self.clear(pe, pe.first, pe.table.entries)",
        "pass",
    ),
    seed("the first bit of any window is free", Seed._take_ownership, "if pe.first == 0:", "if True:"),
    seed("a group that leaves keeps its charge", Seed.detach, "self.disable(process)", "pass"),
    seed("DISABLE refunds each time", Seed.disable, "if not self.enabled:", "if False:"),
    seed("DISABLE refunds to nobody", Seed.disable, "- self._pages() & MASK", "& MASK"),
)


def all_by_hand() -> list[Mutant]:
    return [*MAPS, *UNMAPS, *WINDOWS, *CHARGES, *CORE, *TRANSFERS, *HYPERCALLS, *SEED]
