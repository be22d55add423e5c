"""`isolation`: a DMA that the table forbids isolates the device's PE, all of it and nothing else, until firmware
services bring it back.

Each violation is a story of its own. All devices get fresh data. One violates its table while the devices of all other
PEs transfer data. The story checks the violator's PE, and that the others go on; brings the PE back, in one of several
ways; and writes every device's data to memory, where it is judged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tcelab.errors import UsageError
from tcelab.program import Fresh, Ioctl, Op
from tcelab.program.topology import EDUS, Device, Topology
from tcelab.scenarios import legal, lengths
from tcelab.scenarios import vocabulary as b
from tcelab.scenarios.effects import (
    OK,
    PERMANENT,
    REFUSALS,
    REFUSED,
    THAW_DMA,
    THAW_MMIO,
    UNKNOWN,
    WAYS,
    WRONG,
)
from tcelab.scenarios.isolationstory import IsolationStory, Violation
from tcelab.scenarios.violations import CLASSES, LARGEST, Direction, ViolationKind, kinds

TOPOLOGIES: Final = ("one-pe", "two-pe", "pair", "four-pe", "high-window", "narrow-mask", "fast")
"""The topologies that it runs on by default."""

PER_PART: Final = 11
"""Violations on one guest, at most."""

LEAST_ENTRIES: Final = 128
"""Of a window, for each PE."""

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
    for part in (*legal.parts(topology, seed + parts + 1), *lengths.parts(topology, seed + parts + 1)):
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
