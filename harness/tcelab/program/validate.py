"""Checks a program before anything boots: what it names was made before, and accesses stay within what they name.

What the kernel must refuse (wrong argsz, misaligned or foreign addresses, unknown requests) is not checked: that is
what programs are for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from tceagent import edu, uapi, virtio
from tceagent.huge import HUGE_PAGE
from tcelab.errors import UsageError
from tcelab.papr import window
from tcelab.program import (
    diskcontent,
    expected,
    is_guest,
    is_life,
    soundness,
    validate_atonce,
    validate_dma,
    validate_host,
    validate_hotplug,
    validate_hypercalls,
    validate_ioctls,
    validate_life,
)
from tcelab.program.dmaops import DmaOp
from tcelab.program.hostops import Checkpoint, Ddw, Flip, Fresh, Rtas
from tcelab.program.lifeops import ENDS_KERNEL, LifeOp, Load
from tcelab.program.operations import (
    AtOnce,
    Bind,
    Buffer,
    Burst,
    Close,
    Dma,
    Engine,
    Exit,
    Fill,
    Frames,
    Hcall,
    HcallBatch,
    Ioctl,
    Look,
    Master,
    Native,
    Op,
    Open,
    Protect,
    Put,
    Read,
    Repeat,
    Spawn,
    Tag,
    Together,
    Transfer,
)
from tcelab.program.program import Program
from tcelab.program.validated import BufferState, Process

COUNTERS: Final = ("vmlck", "pins", "memory", "limit")
REPEATED: Final = ("MAP_DMA", "UNMAP_DMA")
MOST_CALLS: Final = 1_000_000
"""Calls of one Repeat."""
MOST_TRANSFERS: Final = 100_000
"""Transfers of one Burst."""
MOST_PAGES: Final = 65_536
"""IOMMU pages of one buffer: 256 MiB."""
MOST_PROCESSES: Final = 64
"""Processes alive at a time."""
_WORD: Final = 64
_UID: Final = 32
_MEMLOCK: Final = 63
"""Bits of a user ID and of a limit, as the agent's calls take them."""


@cache
def _rule(kind: type[Op]) -> str:
    """The name of the method that has the rule for a kind of operation."""
    return sys.intern(f"_{kind.__name__.lower()}")


def validate(program: Program, *, guarded: bool = False) -> None:
    """Check all operations of a program.

    :param guarded: its PEs will be guarded, isolated or only observed.
    :raise UsageError: the first operation that cannot be done, with its number and why.
    """
    checker = Checker(program, guarded=guarded)
    for op in program.ops:
        checker.check(op)
    checker.end()


class Checker(validate_dma.DriverRules):
    """Checks the operations of a program one by one; it knows what those before have made."""

    def __init__(self, program: Program, *, guarded: bool = False) -> None:
        """:param guarded: see `validate`.

        :raise UsageError: the program is not sound, see `soundness.check`.
        """
        soundness.check(program, guarded=guarded or program.isolation)
        self._name = program.name
        self._guarded = guarded or program.isolation
        self._number = 0
        self._devices = {device.name for device in set(program.topology.devices) - set(program.topology.driven)}
        self._disks = {device.name for device in program.topology.devices if device.model == "virtio-blk"}
        self._windows = {phb.liobn: phb for phb in program.topology.machine}
        self._topology = program.topology
        self._group = validate_atonce.Group(program.topology, guarded=self._guarded)
        self._live()

    def _live(self) -> None:
        """Begin on a fresh machine."""
        self._life = validate_life.Life(self._topology, self._guarded)
        self._begin()

    def check(self, op: Op) -> None:
        """Check the next operation.

        :raise UsageError: it cannot be done.
        """
        if problem := self._problem(op):
            raise UsageError(
                f"program {self._name!r}, operation {self._number} ({type(op).__name__}): {problem}",
                next_step="mend the program; operations are counted from 0",
            )
        self._number += 1

    def _problem(self, op: Op) -> str:
        """Why an operation cannot be done; empty if it can."""
        self._by = op.by if is_guest(op) else ""
        if self._by not in self._processes:
            return self._no_process(self._by)
        if problem := expected.wrong(op) or self._group.problem(op):
            return problem
        if self._life.saved and not isinstance(op, Load):
            return "the guest was saved and stands still: add a `load` before it"
        return self._ruled(op)

    def _ruled(self, op: Op) -> str:
        """As `_problem`, by the rule for its kind."""
        if is_life(op):
            return self._event(op)
        if isinstance(op, DmaOp):
            return self._dmaapi(op)
        rule: Callable[[Any], str] | None = getattr(self, _rule(type(op)), None)
        return "there is no rule for it: nobody knows what it may do" if rule is None else rule(op)

    def end(self) -> None:
        """The program has no more operations.

        :raise UsageError: some were to be begun at once.
        """
        if self._group.left:
            raise UsageError(f"program {self._name!r} ends amidst operations that are begun at once")

    def _event(self, op: LifeOp) -> str:
        if problem := self._drivers.event(op):
            return problem
        self._life.used = self._used()
        self._life.used.update(*(each.bound for name, each in self._processes.items() if name))
        problem = validate_life.problem(self._life, op)
        if isinstance(op, ENDS_KERNEL):
            self._begin()
        self._own.bound &= self._life.plugged.devices
        return problem

    # -- a rule for each operation, named after it

    def _spawn(self, op: Spawn) -> str:
        if self._by:
            return "only the agent itself spawns processes"
        if not op.process or op.process in self._spawned:
            return f"there was a process {op.process!r} before" if op.process else "a process has a name"
        if len(self._processes) > MOST_PROCESSES:
            return f"more than {MOST_PROCESSES} processes"
        # The highest user ID stands for no user.
        if op.uid is not None and not 0 <= op.uid < (1 << _UID) - 1:
            return f"no user has number {op.uid}"
        if op.memlock is not None and not 0 <= op.memlock < 1 << _MEMLOCK:
            return f"a limit of {op.memlock} bytes"
        self._spawned.add(op.process)
        self._processes[op.process] = Process({*self._own.files}, {*self._own.bound}, root=not op.uid)
        return ""

    def _atonce(self, _op: AtOnce) -> str:
        return "only the agent itself begins operations at once" if self._by else ""

    def _exit(self, op: Exit) -> str:
        if self._by:
            return "only the agent itself ends processes"
        if op.process not in self._processes or not op.process:
            return self._no_process(op.process)
        del self._processes[op.process]
        self._drivers.exit(op.process)
        return ""

    def _buffer(self, op: Buffer) -> str:
        if op.name in self._buffers:
            return f"there is a buffer {op.name!r} already"
        self._buffers[op.name] = BufferState(op.pages, self._by, huge=op.huge)
        if op.huge and op.pages * window.PAGE_SIZE % HUGE_PAGE:
            return f"a buffer in huge pages has a multiple of {HUGE_PAGE // window.PAGE_SIZE} pages"
        if op.pages > MOST_PAGES:
            return f"a buffer has at most {MOST_PAGES} pages"
        if op.seed < 0:
            return f"a seed is at least 0, and {op.seed} is not"
        return "" if op.pages > 0 else "a buffer has at least one page"

    def _tag(self, op: Tag) -> str:
        numbers = (op.liobn, op.ioba, op.ioba + max(op.count - 1, 0) * window.PAGE_SIZE, op.sequence)
        problem = self._written(op.buffer, op.first * window.PAGE_SIZE, op.count * window.PAGE_SIZE)
        return problem or self._words(numbers)

    def _fill(self, op: Fill) -> str:
        return self._written(op.buffer, op.offset, op.size)

    def _frames(self, op: Frames) -> str:
        return self._own_memory(op.buffer)

    def _protect(self, op: Protect) -> str:
        if problem := self._own_memory(op.buffer):
            return problem
        if self._buffers[op.buffer].ring:
            return f"a device's queue lies in buffer {op.buffer!r}"
        self._buffers[op.buffer].access = op.access
        return ""

    def _put(self, op: Put) -> str:
        layout = uapi.LAYOUTS.get(op.request)
        if layout is None:
            return f"no request {op.request!r} with a struct; there are: {', '.join(uapi.LAYOUTS)}"
        problem = self._written(op.buffer, op.offset, layout.size)
        return problem or self._words(op.fields.values()) or validate_ioctls.struct(layout, op.fields)

    def _bind(self, op: Bind) -> str:
        if self._life.crashed:
            return validate_life.NO_VFIO
        self._own.bound.add(op.device)
        if op.device not in self._devices:
            return f"the topology has no device {op.device!r}"
        if op.device in self._life.joined:
            return f"{op.device} came while VFIO had its PE, and may have no group: pull it, and add it again"
        if op.device in self._drivers.restricted:
            return f"firmware offers the PE of {op.device} fewer page sizes than the rules of VFIO are written for"
        return self._drivers.hand_over(op.device, self._by) or validate_hotplug.absent(self._life.plugged, op.device)

    def _open(self, op: Open) -> str:
        name = op.path.partition("$")[2]
        if name and name not in self._own.bound:
            return f'${name} names a device that was not bound before: add a `bind` with "device": "{name}"'
        self._device_of.pop(op.file, None)
        self._group_of.pop(op.file, None)
        if op.path.startswith("/dev/vfio/") and op.path != "/dev/vfio/vfio":
            self._group_of[op.file] = name
        return self._make_file(op.file)

    def _close(self, op: Close) -> str:
        problem = self._file(op.file)
        self._own.files.discard(op.file)
        return problem

    def _master(self, op: Master | Look) -> str:
        return self._file(op.file)

    _look = _master

    def _dma(self, op: Dma) -> str:
        return self._file(op.file) or self._word(op.iova) or self._transfer(op.file, op)

    def _burst(self, op: Burst) -> str:
        if not 0 < len(op.transfers) <= MOST_TRANSFERS:
            return f"{len(op.transfers)} transfers; a Burst does 1..{MOST_TRANSFERS}"
        if problem := self._file(op.file):
            return problem
        each = (self._word(transfer.iova) or self._transfer(op.file, transfer) for transfer in op.transfers)
        return next(filter(None, each), "")

    def _engine(self, op: Engine) -> str:
        if problem := self._file(op.file) or self._word(op.iova):
            return problem
        name = self._device_of.get(op.file)
        if name in self._devices - self._disks:
            return f"{name} is no virtio-blk"
        if op.ring.plus or op.iova % window.PAGE_SIZE or op.iova > (1 << _WORD) - virtio.RING:
            return "a ring is two whole pages"
        place = op.ring.index * window.PAGE_SIZE
        if problem := self._own_memory(op.ring.buffer) or self._written(op.ring.buffer, place, virtio.RING):
            return problem
        self._buffers[op.ring.buffer].ring = True
        return ""

    def _transfer(self, file: str, op: Dma | Transfer) -> str:
        """Why the device cannot do such a transfer; empty if it can."""
        if self._drivers.model(name := self._device_of.get(file, "")) == "testdev":
            return f"{name} is an iommu-testdev: only a driver of the DMA API has it move data, see `dmamove`"
        try:
            if self._device_of.get(file) not in self._disks:
                edu.check(op.size, op.offset)
            elif op.iova + op.size > 1 << _WORD:
                return "a disk's transfer ends where bus addresses do"
            else:
                virtio.check(op.size, op.offset, diskcontent.SIZE)
        except ValueError as error:
            return str(error)
        return ""

    def _together(self, op: Together) -> str:
        if not op.ops:
            return "at least one transfer"
        if any(each.by or each.expect is not None for each in op.ops):
            return "its transfers have no by or expect of their own"
        devices = [self._device_of.get(each.file, f"file {each.file}") for each in op.ops]
        if self._disks.intersection(devices):
            return "only edus transfer together"
        if len(set(devices)) < len(devices):
            return "each of its transfers is another device's"
        return next(filter(None, map(self._dma, op.ops)), "")

    def _rtas(self, op: Rtas | Ddw) -> str:
        if isinstance(op, Ddw) and op.call != "query" and (problem := self._drivers.has(op.device)):
            return problem
        if isinstance(op, Ddw):
            self._drivers.asked(op)
        return validate_host.service(op, self._devices) or validate_hotplug.absent(self._life.plugged, op.device)

    _ddw = _rtas

    def _read(self, op: Read) -> str:
        if op.what == "pins" and not self._own.root:
            return "only root can read how many pages are pinned"
        return "" if op.what in COUNTERS else f"no counter {op.what!r}; there are: {', '.join(COUNTERS)}"

    def _ioctl(self, op: Ioctl) -> str:
        if problem := self._file(op.file) or validate_ioctls.request(op.request):
            return problem
        if op.value is not None:
            problem = "an ioctl has fields or a value, not both" if op.fields else self._word(op.value)
        elif op.request == "GROUP_GET_DEVICE_FD":
            # Any name is allowed: the kernel must refuse those of no device.
            named = [isinstance(word, str) for name, word in op.fields.items() if name == "name"]
            problem = "" if named == [True] * len(op.fields) else "its one field is the name of a device"
        elif op.fields:
            problem = self._words(op.fields.values())
            layout = uapi.LAYOUTS.get(op.request) if isinstance(op.request, str) else None
            problem = problem or (
                validate_ioctls.struct(layout, op.fields) if layout else f"{op.request} takes no fields"
            )
        name = op.fields.get("name")
        if op.request == "GROUP_GET_DEVICE_FD" and isinstance(name, str):
            self._device_of[op.into] = name
        return problem or (self._make_file(op.into) if op.into else "")

    def _repeat(self, op: Repeat) -> str:
        calls = len(op.ops) * op.times
        if not 0 < calls <= MOST_CALLS:
            return f"{calls} calls; a Repeat does 1..{MOST_CALLS}"
        if len({each.file for each in op.ops}) > 1:
            return "all its calls go to one file"
        for each in op.ops:
            if each.request not in REPEATED:
                return f"{each.request!r} cannot be repeated; can be: {', '.join(REPEATED)}"
            if each.value is not None or each.into or each.by or each.expect is not None:
                return "its calls have fields alone: no value, into, by or expect"
        return next(filter(None, map(self._ioctl, op.ops)), "")

    def _hcall(self, op: Hcall | HcallBatch) -> str:
        def place(name: str, page: int) -> str:
            return self._own_memory(name) or self._within(name, page * window.PAGE_SIZE, window.PAGE_SIZE)

        return validate_hypercalls.problem(op, place)

    _hcallbatch = _hcall

    def _native(self, op: Native) -> str:
        return validate_host.native(op, self._own.bound)

    def _flip(self, op: Flip) -> str:
        phb = self._windows.get(op.liobn & ~1)
        plugged = self._life.plugged
        there = phb is None or plugged.phb(phb.index) is None or plugged.there(phb.index)
        return validate_host.flip(op, self._windows if there else {})

    def _checkpoint(self, _op: Checkpoint) -> str:
        return ""

    def _fresh(self, _op: Fresh) -> str:
        self._live()
        return ""
