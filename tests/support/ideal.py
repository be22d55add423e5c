"""A session without a guest: does simply what the operations say, and lies on request. No code of the judge is in it.

`tamper(session, number, op, outcome)` is called after each guest operation and may change anything, the outcome too;
`warp(session, number, op, snapshot)` may change what a checkpoint saw.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ideal_hcalls
import numpy as np
from msgspec.structs import replace

from tceagent.tag import tag
from tceagent.uapi import LAYOUTS
from tcelab.errors import Scene
from tcelab.program import Checkpoint, Ddw, Flip, GuestOp, HostOp, Op, Page, Program, Rtas
from tcelab.program.pagetags import compact, data
from tcelab.run.record import Event, Facts, Outcome, Refusal, Snapshot, TableView

NONCE = bytes(range(16))
PAGE = 4096
REPORTED = {"GROUP_GET_STATUS", "SPAPR_TCE_GET_INFO"}
ONES = (1 << 64) - 1
EEH, RESET, CONFIGURE = "ibm,set-eeh-option", "ibm,set-slot-reset", "ibm,configure-pe"
STATES = {"normal": 0, "reset": 1, "stopped": 2, "thawed": 4, "bare": 0, "gone": 5}
ANY = ("normal", "reset", "stopped", "thawed", "bare")
SERVICES = {
    (EEH, 1): {each: each for each in ANY},
    (EEH, 2): {"stopped": "thawed", "thawed": "thawed", "normal": "normal"},
    (EEH, 3): {"thawed": "normal", "normal": "normal"},
    (RESET, 1): dict.fromkeys(ANY, "reset"),
    (RESET, 3): dict.fromkeys(ANY, "reset"),
    (RESET, 0): {"reset": "bare", "bare": "bare", "normal": "normal"},
    (CONFIGURE, 0): {"bare": "normal", "normal": "normal"},
}


@dataclass
class Pe:
    """`files`: (process, name) of each group or device file. `payer`: the process that enabled its container."""

    liobn: int
    buid: int
    size: int
    table: dict[int, int] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    files: set[tuple[str, str]] = field(default_factory=set)
    container: str = ""
    enabled: bool = False
    made: bool = False
    payer: str | None = None
    condition: str = "normal"
    untold: bool = False
    start: int = 0


class RamPage(bytearray):
    """:ivar known: what is in it, compacted, as long as nothing is written to it."""

    known: bytes | None = None

    def __setitem__(self, at: Any, new: Any) -> None:
        self.known = None
        super().__setitem__(at, new)

    def compacted(self) -> bytes:
        self.known = compact(bytes(self))
        return self.known


def bound(pe: Pe, **lies: int) -> dict[str, Any]:
    """What binding a device reports."""
    window = {"window_start": pe.start, "window_size": pe.size, "buid": pe.buid, "liobn": pe.liobn}
    return {"address": "0001:00:01.0", "group": pe.liobn & 0xFF00, **window, **lies}


def as_is(*arguments: Any) -> Any:
    return arguments[-1]


class Ideal:
    boot = 1

    def __init__(
        self,
        program: Program,
        *,
        tamper: Callable[..., Outcome] = as_is,
        warp: Callable[..., Snapshot] = as_is,
        cannot: dict[str, str] | None = None,
        page_size: int = PAGE,
    ) -> None:
        self.program, self.tamper, self.warp = program, tamper, warp
        asked: dict[str, Any] = {"isolates": True, "guard": "freeze"} if program.isolation else {}
        versions = {"ideal": "1"}
        self.facts = Facts("ideal", NONCE, page_size, 1 << 28, cannot or {}, versions, hypercalls=True, **asked)
        self.pes: dict[str, Pe] = {}
        for phb in program.topology.phbs:
            pe = Pe(0x80000000 + phb.index * 256, 0x800000020000000 + phb.index, phb.window_size)
            pe.start = phb.window_start
            self.pes.update({device.name: pe for device in phb.devices})
        self.masks = {device.name: device.mask for device in program.topology.devices}
        self.channel: dict[int, int] = {}
        self.spare: dict[int, int] = {}
        self.ram: dict[int, RamPage] = {}
        self.read_tables: dict[int, tuple[dict[int, int], Any, Any]] = {}
        self.buffers: dict[str, list[int]] = {}
        self.owner: dict[str, str] = {}
        self.access: dict[str, str] = {}
        self.orphans: set[int] = set()
        self.files: dict[tuple[str, str], Any] = {}
        self.limits: dict[str, int] = {}
        self.edu = {name: bytearray(4096) for name in self.pes}
        self.master: dict[str, bool] = {}
        self.refused: list[Refusal] = []
        self.violations: list[Event] = []
        self.events: list[Event] = []
        self.console: list[str] = []
        self.base_vmlck, self.base_pins = 0, 0
        self.number = -1
        self.scatter = random.Random(7)
        self.fail: Callable[..., Outcome | None] = lambda _session, _done, _call: None

    # -- the protocol -------------------------------------------------------------------------------------------

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        return [self._one(op) for op in ops]

    def _one(self, op: GuestOp) -> Outcome:
        self.number += 1
        outcome = getattr(self, "do_" + type(op).__name__.lower())(op)
        self.reuse()
        events, self.events = self.events, []
        return self.tamper(self, self.number, op, replace(outcome, events=events))

    def trouble(self) -> tuple[str, ...]:
        lines, self.console = tuple(self.console), []
        return lines

    def scene(self):
        return Scene("perform")

    def close(self):
        """Nothing to let go of."""

    def finish(self) -> tuple[str, ...]:
        return self.trouble()

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:
        if isinstance(op, Flip):
            self.number += 1
            pe = next(pe for pe in self.pes.values() if pe.liobn == op.liobn)
            number = (op.ioba - pe.start) // PAGE
            pe.table[number] = pe.table.get(number, 0) ^ (1 << op.bit)
            return Outcome(value=pe.table[number])
        if isinstance(op, Rtas):
            self.number += 1
            return self.tamper(self, self.number, op, self.service(op))
        if isinstance(op, Ddw):
            self.number += 1
            return self.tamper(self, self.number, op, self.reset(op))
        assert isinstance(op, Checkpoint)
        if self.program.ops[self.number + 1 : self.number + 2] == [op]:
            self.number += 1
        views = ["live", *(["stream"] if op.stream and "stream" not in self.facts.cannot else [])]
        tables = tuple(view for name in views for view in self.tables(name))
        missing = {"stream": "cannot"} if op.stream and "stream" in self.facts.cannot else {}
        led_to = {tce & ~4095 for pe in self.pes.values() for tce in pe.table.values()}
        ram = self.ram
        pages = {a: ram[a].known or ram[a].compacted() if a in ram else None for a in {*frames, *led_to}}
        refused, self.refused = tuple(self.refused), []
        seconds = dict.fromkeys(views, 0.001)
        snapshot = Snapshot(tables, missing, pages, refused, self.trouble(), seconds=seconds)
        return self.warp(self, self.number, op, snapshot)

    def tables(self, view: str) -> list[TableView]:
        out = [self.table(0x80000000, view, 4096, self.channel)]
        for pe in dict.fromkeys(map(id, self.pes.values())):
            found = next(each for each in self.pes.values() if id(each) == pe)
            out.append(self.table(found.liobn, view, found.size // PAGE, found.table, found.start))
            out.append(self.table(found.liobn + 1, view, 0, {}))
        if all(pe.liobn != 0x80001E00 for pe in self.pes.values()):  # no program but the warm-up sees the spare PE
            out += [self.table(0x80001E00, view, 4096, self.spare), self.table(0x80001E01, view, 0, {})]
        return out

    def table(self, liobn: int, view: Any, entries: int, live: dict[int, int], start: int = 0) -> TableView:
        """Sorted, anew when it is not what it was at the look before."""
        known = self.read_tables.get(liobn)
        if known is None or known[0] != live:
            numbers = sorted(live)
            arrays = np.array(numbers, np.uint32), np.array([live[i] for i in numbers], np.uint64)
            for each in arrays:
                each.flags.writeable = False
            known = self.read_tables[liobn] = dict(live), *arrays
        return TableView(liobn, view, entries, *known[1:], bus_offset=start)

    # -- memory -------------------------------------------------------------------------------------------------

    def do_buffer(self, op: Any) -> Outcome:
        frames = []
        while len(frames) < op.pages:
            address = self.scatter.randrange(1 << 16) * PAGE
            if address not in self.ram:
                self.ram[address] = RamPage(PAGE)
                frames.append(address)
        self.buffers[op.name], self.owner[op.name], self.access[op.name] = frames, op.by, "write"
        return Outcome(value=(len(self.buffers) << 32))

    def do_tag(self, op: Any) -> Outcome:
        for i in range(op.count):
            mark = tag(NONCE, op.liobn, op.ioba + i * PAGE, op.sequence)
            self.ram[self.buffers[op.buffer][op.first + i]][:] = mark * 64
        return Outcome(value=0)

    def do_fill(self, op: Any) -> Outcome:
        self.write(op, data(NONCE, op.seed, op.size))
        return Outcome(value=0)

    def write(self, op: Any, raw: bytes) -> None:
        """Bytes at an offset in a buffer, page by page."""
        done = 0
        while done < len(raw):
            number, start = divmod(op.offset + done, PAGE)
            part = raw[done : done + PAGE - start]
            self.ram[self.buffers[op.buffer][number]][start : start + len(part)] = part
            done += len(part)

    def do_frames(self, op: Any) -> Outcome:
        return Outcome(value=0, frames=self.buffers[op.buffer])

    def do_protect(self, op: Any) -> Outcome:
        self.access[op.buffer] = op.access
        return Outcome(value=0)

    def do_put(self, op: Any) -> Outcome:
        self.write(op, LAYOUTS[op.request].pack({name: self.word(word) for name, word in op.fields.items()}))
        return Outcome(value=0)

    def do_hcall(self, op: Any) -> Outcome:
        return ideal_hcalls.single(self, op)

    def do_hcallbatch(self, op: Any) -> Outcome:
        return ideal_hcalls.batch(self, op)

    def word(self, word: Any) -> int:
        if isinstance(word, Page):
            return (list(self.buffers).index(word.buffer) + 1 << 32) + word.index * PAGE + word.plus
        return 9 if isinstance(word, str) else word

    # -- processes ----------------------------------------------------------------------------------------------

    def do_spawn(self, op: Any) -> Outcome:
        if op.uid and op.memlock is not None:
            self.limits[op.process] = op.memlock
        for (process, name), handle in list(self.files.items()):
            if not process:
                self.install(op.process, name, handle)
        return Outcome(value=0)

    def do_atonce(self, op: Any) -> Outcome:
        """What comes is done in its order."""
        return Outcome(value=0, fields={"spans": [[0, 0]] * op.count})

    def do_exit(self, op: Any) -> Outcome:
        for process, name in list(self.files):
            if process == op.process:
                self.let_go(process, name)
        for name, process in self.owner.items():
            if process == op.process:
                self.orphans.update(self.buffers[name])
        return Outcome(value=0)

    def reuse(self) -> None:
        """Memory that is nobody's any more is somebody else's at once."""
        pinned = {tce & ~4095 for pe in self.pes.values() for tce in pe.table.values()} if self.orphans else set()
        for frame in self.orphans - pinned:
            self.ram[frame][:] = self.scatter.randbytes(PAGE)
            self.orphans.discard(frame)

    # -- files and devices --------------------------------------------------------------------------------------

    def do_bind(self, op: Any) -> Outcome:
        return Outcome(value=0, fields=bound(self.pes[op.device]))

    def do_open(self, op: Any) -> Outcome:
        self.install(op.by, op.file, self.pes[op.path.split("$")[1]] if "$" in op.path else op.file)
        return Outcome(value=9)

    def install(self, process: str, name: str, handle: Any) -> None:
        self.files[process, name] = handle
        pe = self.pes[handle[1]] if isinstance(handle, tuple) else handle
        if isinstance(pe, Pe):
            pe.files.add((process, name))

    def do_close(self, op: Any) -> Outcome:
        self.let_go(op.by, op.file)
        return Outcome(value=0)

    def let_go(self, process: str, name: str) -> None:
        handle = self.files.pop((process, name))
        pe = self.pes[handle[1]] if isinstance(handle, tuple) else handle
        if isinstance(handle, tuple) and handle not in self.files.values():
            self.master[handle[1]] = False
        if isinstance(pe, Pe):
            pe.files.discard((process, name))
            if not pe.files:
                self.release(pe)

    def release(self, pe: Pe) -> None:
        pe.table.clear()
        pe.pinned.clear()
        pe.container, pe.enabled, pe.made, pe.payer = "", False, False, None

    def do_master(self, op: Any) -> Outcome:
        name = self.files[op.by, op.file][1]
        self.master[name] = op.on
        pe = self.pes[name]
        if op.on and pe.condition != "normal" and self.facts.guard == "freeze":
            self.events.append(Event(kind="reapplied", pe=pe.liobn >> 8 & 0xFF, liobn=pe.liobn, device=name))
        return Outcome(value=self.command(name))

    def command(self, name: str) -> int:
        return 0x6 if self.master.get(name) and self.pes[name].condition == "normal" else 0x2

    def do_look(self, op: Any) -> Outcome:
        name = self.files[op.by, op.file][1]
        return Outcome(value=self.command(name) if op.what == "command" else self.identity(name))

    def identity(self, name: str) -> int:
        return 0x010000ED if self.pes[name].condition in {"normal", "thawed"} else 0xFFFFFFFF

    def do_read(self, op: Any) -> Outcome:
        pes = {id(pe): pe for pe in self.pes.values()}.values()
        if op.what == "pins":
            return Outcome(value=self.base_pins + sum(len(pe.pinned) for pe in pes))
        return Outcome(value=self.charged(op.by))

    def charged(self, process: str) -> int:
        pes = [pe for pe in {id(pe): pe for pe in self.pes.values()}.values() if (pe.payer or "") == process]
        enabled = sum(pe.size // 1024 for pe in pes if pe.enabled)
        base = 0 if process else self.base_vmlck
        return base + enabled + sum(pe.size // 512 // 1024 for pe in pes if pe.made)

    def do_dma(self, op: Any) -> Outcome:
        value = self.transfer(op, op.by)
        self.isolate()
        return Outcome(value=value)

    def do_together(self, op: Any) -> Outcome:
        """All of them, and then what comes of it."""
        ends = [self.transfer(each, op.by) for each in op.ops]
        self.isolate()
        return Outcome(value=ONES if ONES in ends else 0, fields={"ends": ends})

    def transfer(self, op: Any, by: str) -> int:
        name = self.files[by, op.file][1]
        pe, edu = self.pes[name], self.edu[name]
        if pe.condition not in {"normal", "thawed"}:
            return ONES
        first, done = None, 0
        while done < op.size:  # piece by piece: no piece crosses a page
            address = (op.iova & self.masks[name]) + done
            size = min(op.size - done, PAGE - address % PAGE)
            passes = self.master.get(name) and pe.condition == "normal" and 0 <= address - pe.start < pe.size
            tce = pe.table.get((address - pe.start) // PAGE, 0) if passes else 0
            page = self.ram[tce & ~4095] if tce & (2 if op.to_memory else 1) else None
            memory, own = slice(address % PAGE, address % PAGE + size), slice(op.offset + done, op.offset + done + size)
            assert own.stop <= len(edu)
            if page is None:
                first = address if first is None else first
                told = (i for i in range(done, done + size) if i % 8 == 0 or i == op.size - 1)
                for i in told:
                    self.refuse(op, address + i - done - (pe.start if passes else 0))
            if op.to_memory and page is not None:
                page[memory] = edu[own]
            elif not op.to_memory:
                edu[own] = page[memory] if page is not None else bytes(size)
            done += size
        if first is not None and self.master.get(name):
            self.violations.append(self.violation(op, name, pe, first))
        return 0

    def violation(self, op: Any, name: str, pe: Pe, first: int) -> Event:
        number, end = (first - pe.start) // PAGE, pe.size // PAGE
        inside = 0 <= number < end
        return Event(
            kind="blocked",
            pe=pe.liobn >> 8 & 0xFF,
            liobn=pe.liobn,
            device=name,
            iova=first,
            start=op.iova & self.masks[name],
            size=op.size,
            direction="write" if op.to_memory else "read",
            reason="outside the window" if not inside else "permission" if pe.table.get(number) else "no entry",
            entry=pe.table.get(number, 0) if inside else None,
            neighbours=[pe.table.get(near, 0) for near in (number - 1, number + 1) if 0 <= near < end],
        )

    def isolate(self) -> None:
        """What the violations of an operation bring."""
        violations, self.violations = self.violations, []
        for event in violations:
            pe = self.pes[event.device]
            if self.facts.guard == "observe":
                self.events.append(replace(event, kind="violation"))
            elif self.facts.guard == "freeze" and pe.condition == "normal":
                pe.condition, pe.untold = "stopped", True
                self.events.append(replace(event, kind="isolated"))
            elif self.facts.guard == "freeze":
                self.events.append(replace(event, reason="the PE is isolated"))

    def service(self, op: Rtas) -> Outcome:
        """Of firmware."""
        pe = self.pes[op.device]
        if self.facts.guard != "freeze":
            return Outcome(value=-3)
        if op.call == "ibm,read-slot-reset-state2":
            fields = {"state": STATES[pe.condition], "supported": 1, "wait": 0, "recovery": 0}
            return Outcome(value=0, fields=fields)
        if op.call == "ibm,slot-error-detail":
            if op.option not in {1, 2}:
                return Outcome(value=-3)
            pe.condition = "gone" if op.option == 2 and pe.condition != "normal" else pe.condition
            told, pe.untold = pe.untold, False
            return Outcome(value=0 if told else 1)
        row = SERVICES.get((op.call, op.option))
        if row is None or pe.condition not in row:
            return Outcome(value=-3 if row is None else -1)
        if op.call == RESET and op.option:
            self.master.update((name, False) for name, each in self.pes.items() if each is pe)
        pe.condition = row[pe.condition]
        return Outcome(value=0)

    def reset(self, op: Ddw) -> Outcome:
        """Of windows, by firmware: whoever pinned a page for an entry will not find it again."""
        assert op.call == "reset"
        pe = self.pes[op.device]
        self.base_pins += len(pe.pinned)
        pe.table.clear()
        pe.pinned.clear()
        return Outcome(value=0)

    def refuse(self, op: Any, address: int) -> None:
        kind = "write" if op.to_memory else "read"
        self.refused.append(Refusal(kind, address, 8, f"Invalid {kind} at addr 0x{address:X}, size 8"))

    # -- ioctls -------------------------------------------------------------------------------------------------

    def do_ioctl(self, op: Any) -> Outcome:
        handle = self.files[op.by, op.file]
        pe = handle if isinstance(handle, Pe) else next((p for p in self.pes.values() if p.container == op.file), None)
        if isinstance(handle, str) and pe and pe.payer not in (None, op.by):
            return Outcome(errno="EPERM")
        if isinstance(op.value, Page):
            return self.by_address(op, pe)
        return self.asked(op, pe)

    def asked(self, op: Any, pe: Any) -> Outcome:
        refusal = {"errno": "", **getattr(self, "on_" + op.request.lower(), self.nothing)(op, pe)}
        return Outcome(**({"value": 0} if not refusal["errno"] else {}) | refusal)

    def by_address(self, op: Any, pe: Any) -> Outcome:
        """With a struct that lies in one page of a buffer, where what comes out goes as well."""
        layout, access = LAYOUTS[op.request], self.access[op.value.buffer]
        page, start = self.ram[self.buffers[op.value.buffer][op.value.index]], op.value.plus
        if access == "none":
            return Outcome(errno="EFAULT")
        values = dict(zip(layout.fields, layout.struct.unpack(page[start : start + layout.size]), strict=True))
        got = self.asked(replace(op, value=None, fields=values), pe)
        if got.errno or not layout.outputs:
            return Outcome(value=got.value, errno=got.errno)
        if access == "read":
            return Outcome(errno="EFAULT")
        page[start : start + layout.size] = layout.pack(values | got.fields)
        return Outcome(value=got.value)

    def do_repeat(self, op: Any) -> Outcome:
        """Every call, one after the other, each as it would be done alone."""
        frames: dict[int, list[int]] = {}
        done, failed = 0, Outcome(value=0)
        for number in range(len(op.ops) * op.times):
            call = op.ops[number % len(op.ops)]
            one = self.fail(self, done, call) or self.do_ioctl(replace(call, by=op.by))
            if one.value != 0:
                failed = one
                break
            done += 1
            frames[number % len(op.ops)] = one.frames
        told = [frame for number in sorted(frames) for frame in frames[number]]
        fields = {"calls": done, "seconds": 1e-5 * done}
        return Outcome(value=failed.value, errno=failed.errno, fields=fields, frames=told)

    def nothing(self, _op: Any, _pe: Pe) -> dict[str, Any]:
        return {}

    def on_device_reset(self, _op: Any, _pe: Pe) -> dict[str, Any]:
        return {"errno": "EINVAL"}

    def on_check_extension(self, _op: Any, _pe: Pe) -> dict[str, Any]:
        return {"value": 1}

    def on_group_get_status(self, _op: Any, pe: Pe) -> dict[str, Any]:
        return {"fields": {"flags": 3 if pe.container else 1}}

    def on_spapr_tce_get_info(self, _op: Any, pe: Pe) -> dict[str, Any]:
        return {"fields": {"flags": 0, "dma32_window_start": pe.start, "dma32_window_size": pe.size}}

    def on_group_set_container(self, op: Any, pe: Pe) -> dict[str, Any]:
        pe.container = op.fields["container"]
        return {}

    def on_group_unset_container(self, _op: Any, pe: Pe) -> dict[str, Any]:
        self.release(pe)
        return {}

    def on_group_get_device_fd(self, op: Any, pe: Pe) -> dict[str, Any]:
        device = ("device", op.fields["name"])
        if device not in self.files.values():
            self.master[device[1]] = False
        self.install(op.by, op.into, device)
        return {"value": 11}

    def on_enable(self, op: Any, pe: Pe) -> dict[str, Any]:
        if (self.charged(op.by) << 10) + pe.size > self.limits.get(op.by, 1 << 62):
            return {"errno": "ENOMEM"}
        pe.enabled, pe.payer = True, op.by
        return {}

    def on_disable(self, _op: Any, pe: Pe) -> dict[str, Any]:
        pe.enabled = False
        return {}

    def refusal(self, op: Any, pe: Pe, flags: int) -> str:
        """Why a map or unmap is refused; `flags`: those that there are."""
        given = {"flags": 0, "vaddr": 0, **op.fields}
        place = given["vaddr"].plus if isinstance(given["vaddr"], Page) else given["vaddr"]
        if not pe.enabled:
            return "EPERM"
        if given["flags"] & ~flags:
            return "EINVAL"
        pe.made = True
        if given["iova"] >= pe.start + pe.size:  # below it, stories want to see what comes of it
            return "ENXIO"
        return "EINVAL" if given["size"] % PAGE or place % PAGE or (flags and not given["flags"]) else ""

    def on_map_dma(self, op: Any, pe: Pe) -> dict[str, Any]:
        if errno := self.refusal(op, pe, 3):
            return {"errno": errno}
        vaddr, needed = op.fields["vaddr"], {"write"} if op.fields["flags"] & 2 else {"write", "read"}
        name = vaddr.buffer if isinstance(vaddr, Page) else list(self.buffers)[(vaddr >> 32) - 1]
        index = vaddr.index if isinstance(vaddr, Page) else (vaddr & 0xFFFFFFFF) // PAGE
        if self.access[name] not in needed or index + op.fields["size"] // PAGE > len(self.buffers[name]):
            return {"errno": "EFAULT"}
        frames = [self.frame(vaddr, i) for i in range(op.fields["size"] // PAGE)]
        for i, frame in enumerate(frames, (op.fields["iova"] - pe.start) // PAGE):
            pe.table[i] = frame | op.fields["flags"]
            pe.pinned.add(i)
        return {"frames": frames}

    def frame(self, place: Page | int, i: int) -> int:
        if isinstance(place, Page):
            return self.buffers[place.buffer][place.index + i]
        return list(self.buffers.values())[(place >> 32) - 1][(place & 0xFFFFFFFF) // PAGE + i]

    def on_unmap_dma(self, op: Any, pe: Pe) -> dict[str, Any]:
        if errno := self.refusal(op, pe, 0):
            return {"errno": errno}
        first = (op.fields["iova"] - pe.start) // PAGE
        for i in range(first, first + op.fields["size"] // PAGE):
            pe.table.pop(i, None)
            pe.pinned.discard(i)
        return {}


def number_of(program: Program, kind: type[Op], nth: int = 0) -> int:
    """Number of the nth operation of a kind."""
    return [i for i, op in enumerate(program.ops) if isinstance(op, kind)][nth]
