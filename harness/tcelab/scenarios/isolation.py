"""`isolation`: a DMA that the table forbids isolates the device's PE, all of it and nothing else, until firmware
services bring it back.

Each violation is a story of its own. All devices get fresh data. One violates its table while the devices of all other
PEs transfer data. The story checks the violator's PE, and that the others go on; brings the PE back, in one of several
ways; and writes every device's data to memory, where it is judged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tcelab.errors import UsageError
from tcelab.program import Dma, Fresh, Ioctl, Op, Page
from tcelab.program.topology import EDUS, Device, Topology
from tcelab.scenarios import legal, stories
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import (
    FUNDAMENTAL,
    HOT,
    NOTHING,
    OK,
    PERMANENT,
    REFUSALS,
    REFUSED,
    RESETS,
    TEMPORARY,
    THAW_DMA,
    THAW_MMIO,
    UNKNOWN,
    WAYS,
    WRONG,
)
from tcelab.scenarios.endpoint import Endpoint, endpoints
from tcelab.scenarios.violations import CLASSES, KINDS, LARGEST, Direction, ViolationKind, kinds, size_of

TOPOLOGIES: Final = ("one-pe", "two-pe", "pair", "four-pe", "high-window", "narrow-mask", "fast")
"""The topologies that it runs on by default."""

CANARIES: Final = 2048
"""Unmapped pages, in addition to those between the mapped pages: 8 MiB."""

PER_PART: Final = 11
"""Violations on one guest, at most."""

LEAST_ENTRIES: Final = 128
"""Of a window, for each PE."""

_FOREIGN: Final = 1 << 40
"""A nonce-like LIOBN for the canaries: no table has it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation: which device of which PE, which kind, and how its PE is brought back."""

    pe: int
    device: str
    kind: ViolationKind
    direction: Direction
    size: str
    way: str
    number: int


class IsolationStory:
    """What is done on one guest."""

    def __init__(self, topology: Topology, seed: int) -> None:
        self.pes = endpoints(b.pes(topology, "isolation"), seed)
        self.ops: list[Op] = []
        self._rng = self.pes[0].rng

    def set_up(self) -> None:
        """Every PE of the topology, and the canaries."""
        self.ops += [*b.vmlck(), *b.pins(), *b.buffer("isolation-canaries", CANARIES, self._rng.randrange(1 << 30))]
        self.ops += b.tag(Page("isolation-canaries"), CANARIES, _FOREIGN, 0, 0)
        for each in self.pes:
            self.ops += [*each.allocate(), *each.open(), *each.map_all(), *each.start_disks(), *each.looks("normal")]
        self.look("mapped")

    def end(self) -> None:
        """Leave everything."""
        for each in self.pes:
            self.ops += each.close_all()
        self.ops += [*b.vmlck(), *b.pins(), *b.checkpoint("isolation: end", stream=True)]

    def look(self, label: str) -> None:
        """Somewhere in a story."""
        self.ops += b.checkpoint(f"isolation: {label}")

    def done(self, kind: str, who: str, direction: str = "", size: int = 0) -> None:
        """The end of a story."""
        self.ops += b.checkpoint(str(stories.Story(kind, who, direction, size)))

    def others(self, *bad: Endpoint) -> list[Endpoint]:
        """The PEs that have done nothing."""
        return [each for each in self.pes if each not in bad]

    def carry(self, pes: Iterable[Endpoint], *, to_memory: bool) -> None:
        """All devices of some PEs carry fresh data, edus at the same time."""
        chosen = list(pes)
        self.ops += [op for each in chosen for op in each.fresh(to_memory=to_memory)]
        transfers = [transfer for each in chosen for transfer in each.whole(to_memory=to_memory)]
        if transfers:
            self.ops += chosen[0].alone_or_together(transfers)
        self.ops += [op for each in chosen for op in each.disks_carry(to_memory=to_memory)]

    def prepare(self, violation: Violation) -> None:
        """Set up the violation. The violating transfer comes right after this, with no other translation in between."""
        pe = self.pes[violation.pe]
        if violation.kind.name == "after unmap":
            self.ops += pe.live_and_gone()
        elif violation.kind.name == "stale entry":
            self.ops += pe.stale()

    def violate(self, violation: Violation) -> None:
        """The whole story of one violation."""
        pe, way = self.pes[violation.pe], violation.way
        size = size_of(violation.size, violation.kind.least, pe.model(violation.device), self._rng)
        during = violation.number // 2 % 2 == 0
        self.carry(self.pes, to_memory=False)
        self.prepare(violation)
        self.commit(violation.pe, violation.kind.name, violation.direction, size, violation.device, others_write=during)
        self.look("violated")
        self.isolated(pe)
        self.carry(self.others(pe), to_memory=not during)
        self.recover(pe, way)
        self.carry(self.pes, to_memory=True)
        self.done(violation.kind.name, violation.device, violation.direction, size)

    def commit(
        self, number: int, kind: str, direction: Direction, size: int, device: str = "", *, others_write: bool
    ) -> None:
        """A device of PE number `number`, by default its first edu, violates its table while all others transfer."""
        pe = self.pes[number]
        others = self.others(pe)
        bad = self.bad(pe, kind, direction, size, device)
        if device and pe.model(device) not in EDUS:
            self.ops += pe.alone(bad)
            self.carry(others, to_memory=others_write)
            return
        self.ops += [op for each in others for op in each.fresh(to_memory=others_write)]
        self.ops += pe.alone_or_together([bad, *(t for each in others for t in each.whole(to_memory=others_write))])

    def bad(self, pe: Endpoint, kind: str, direction: Direction, size: int, device: str = "") -> Dma:
        """A transfer that is a violation."""
        at = KINDS[kind].where(pe.place, size, self._rng)
        do = pe.write if direction == "write" else pe.read
        name = device or pe.edus[0].name
        inside = self._rng.randrange(LARGEST - size + 1) if pe.model(name) in EDUS else pe.sectors(size)
        return do(name, at, size, inside)

    def isolated(self, pe: Endpoint) -> None:
        """Check that the whole PE is isolated and reports it, that services out of order are refused, and that firmware
        reports the error once.
        """
        self.ops += [*pe.shows("stopped"), *pe.unreachable()]
        self.ops += [*pe.ask(*TEMPORARY, OK), *pe.ask(*TEMPORARY, NOTHING)]

    def recover(self, pe: Endpoint, way: str) -> None:
        """Bring a PE back, and check it at each step."""
        condition = "stopped"
        for service, then in WAYS[way]:
            for early in REFUSALS[condition]:
                self.ops += pe.ask(*early, REFUSED)
            self.ops += pe.ask(*service, OK)
            if service in {HOT, FUNDAMENTAL}:
                pe.was_reset()
            if then == condition:
                continue
            condition = then
            self.ops += pe.shows(condition)
            self.ops += pe.blocked() if condition == "MMIO thawed" else []
            self.ops += pe.unreachable() if condition in {"reset asserted", "not configured"} else []
        if way in RESETS:
            self.ops += pe.blocked()[:1]
            self.ops += [*pe.master_all(), *pe.shows("normal")]
        self.ops += pe.start_disks()


# -- further stories; each begins and ends with sound PEs


def at_once(story: IsolationStory) -> None:
    """Two PEs at the same time: each is isolated for its own violation."""
    for pair in itertools.pairwise(story.pes):
        story.carry(story.pes, to_memory=False)
        bad = [story.bad(pair[0], "hole", "write", 8), story.bad(pair[1], "beyond the end", "read", LARGEST)]
        quiet = story.others(*pair)
        story.ops += [op for each in quiet for op in each.fresh(to_memory=True)]
        story.ops += b.together([*bad, *(t for each in quiet for t in each.whole(to_memory=True))])
        story.look("violated twice")
        for pe in pair:
            story.isolated(pe)
        story.recover(pair[0], "thaw")
        story.ops += pair[1].shows("stopped")
        story.recover(pair[1], "fundamental reset")
        story.carry(story.pes, to_memory=True)
        story.done("two at once", f"{pair[0].pe.name}, {pair[1].pe.name}")


def obstinate(story: IsolationStory) -> None:
    """A driver that enables bus mastering of isolated devices, resets them, and tries again."""
    for number, pe in enumerate(story.pes):
        first = pe.edus[0].name
        story.carry([pe], to_memory=False)
        story.commit(number, "hole", "write", 8, others_write=True)
        story.ops += [*pe.master_all(), *pe.shows("stopped")]
        story.ops += [Ioctl(file=pe.file(first), request="DEVICE_RESET", expect="EINVAL"), *pe.shows("stopped")]
        story.ops += [op for service in UNKNOWN for op in pe.ask(*service, WRONG)]
        story.ops += [*pe.ask(*THAW_MMIO, OK), *pe.master_all(), *pe.shows("MMIO thawed"), *pe.blocked()]
        # A second violation of a PE that is isolated is one more blocked attempt.
        story.ops += pe.alone(story.bad(pe, "beyond the end", "write", 8))
        # A device whose driver disabled bus mastering during the isolation does not have it afterwards.
        story.ops += [*pe.master(first, on=False), *pe.ask(*THAW_DMA, OK), *pe.shows("normal")]
        story.ops += pe.alone(pe.write(first, pe.iova(pe.sink(first)), 8))
        story.ops += [*pe.master(first, on=True), *pe.shows("normal"), *pe.start_disks()]
        story.carry([pe], to_memory=True)
        story.done("obstinate driver", pe.pe.name)


def reopened(story: IsolationStory) -> None:
    """A driver that leaves while its PE is isolated and comes back: the PE stays isolated until it is recovered."""
    for number, pe in enumerate(story.pes):
        story.carry([pe], to_memory=False)
        story.commit(number, "beyond the end", "read", 513, others_write=False)
        story.ops += [*pe.shows("stopped"), *pe.close_all()]
        story.look("closed while isolated")
        story.carry(story.others(pe), to_memory=True)
        story.ops += [*pe.open(), *pe.map_all(), *pe.shows("stopped"), *pe.unreachable()]
        story.recover(pe, "hot reset" if number % 2 else "thaw")
        story.carry([pe], to_memory=True)
        story.done("driver that left", pe.pe.name)


def folded(story: IsolationStory) -> None:
    """A device with a narrow DMA mask accesses the masked address; that one counts."""
    for pe in story.pes:
        for device in pe.edus:
            beyond = device.mask + 1
            if beyond >= 1 << 64:
                continue
            story.carry([pe], to_memory=False)
            high = pe.iova(pe.sink(device.name)) | beyond
            story.ops += [*pe.fresh(to_memory=True), *pe.alone(pe.write(device.name, high, LARGEST))]
            story.look("folded write")
            high = pe.iova(pe.source(device.name)) | beyond << 1
            story.ops += [*pe.fresh(to_memory=False), *pe.alone(pe.read(device.name, high, LARGEST))]
            story.carry([pe], to_memory=True)
            story.ops += pe.shows("normal")
            story.done("folded address", device.name)


def given_up(story: IsolationStory) -> None:
    """Firmware is told that a PE's error is permanent: nothing brings it back."""
    pe = story.pes[-1]
    story.carry(story.pes, to_memory=False)
    story.commit(len(story.pes) - 1, "hole", "read", 8, others_write=True)
    story.ops += [*pe.shows("stopped"), *pe.ask(*PERMANENT, OK), *pe.shows("unavailable"), *pe.unreachable()]
    for service in REFUSALS["unavailable"]:
        story.ops += pe.ask(*service, REFUSED)
    story.ops += [*pe.shows("unavailable"), *pe.unreachable()]
    story.carry(story.others(pe), to_memory=True)
    story.done("given up", pe.pe.name)


FURTHER: Final[tuple[Callable[[IsolationStory], None], ...]] = (folded, at_once, obstinate, reopened, given_up)
"""The last story leaves a PE that cannot be recovered."""


def ops(topology: Topology, seed: int) -> list[Op]:
    """In parts, each on a guest of its own: the violations, the further stories, and what is legal.

    :raise UsageError: a window has fewer than `LEAST_ENTRIES` entries for each PE.
    """
    pes = b.pes(topology, "isolation")
    small = next((each for each in pes if each.entries < LEAST_ENTRIES * len(pes)), None)
    if small is not None:
        raise UsageError(
            f"scenario isolation needs windows of at least {LEAST_ENTRIES * len(pes)} entries, "
            f"{small.name} has {small.entries}"
        )
    chosen = list(violations(topology))
    parts = -(-len(chosen) // PER_PART)
    out: list[Op] = []
    for number in range(parts):
        story = IsolationStory(topology, seed + number)
        story.set_up()
        for violation in chosen[number::parts]:
            story.violate(violation)
        story.end()
        out += [*story.ops, Fresh()]
    story = IsolationStory(topology, seed + parts)
    story.set_up()
    for further in FURTHER:
        further(story)
    story.end()
    out += story.ops
    for part in legal.parts(topology, seed + parts + 1):
        out += [Fresh(), *part]
    return out


def violations(topology: Topology) -> Iterator[Violation]:
    """Each kind by each device in each direction. Sizes and recoveries rotate, so that over all topologies each kind is
    done with each size.
    """
    numbers, ways = itertools.count(), tuple(WAYS)
    pes = [pe.phb for pe in b.pes(topology, "isolation")]
    devices = [(number, device) for number, phb in enumerate(pes) for device in phb.devices]
    for turn, (pe, device) in enumerate(devices):
        for row, kind in enumerate(kinds(pes[pe])):
            for direction in _directions(kind, device):
                start = turn + row + 2 * (direction == "read")
                for size in _sizes(kind, start):
                    number = next(numbers)
                    way = ways[(number + number // len(ways)) % len(ways)]
                    yield Violation(pe, device.name, kind, direction, size, way, number)


def _directions(kind: ViolationKind, device: Device) -> list[Direction]:
    """The directions in which a device commits it. A disk does no forbidden reads: it reports the end once the data is
    on the disk, and its PE may or may not have been isolated before that.
    """
    return [each for each in kind.directions if device.model in EDUS or each == "write"]


def _sizes(kind: ViolationKind, start: int) -> Sequence[str]:
    """Of kinds that few PEs can commit, all sizes at once."""
    return CLASSES if kind.rare else (CLASSES[start % len(CLASSES)],)
