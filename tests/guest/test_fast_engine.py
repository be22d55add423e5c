"""The fast engine on a real guest: a virtio-blk that the agent drives through VFIO does thousands of transfers, each of
them judged in guest RAM and on the disk, and against the emulator, byte by byte. What it gives when it does none is
typed here as QEMU 7.2, 10.0 and 11.1 show it.
"""

import os
import random

import pytest
from fast_story import above

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.program import (
    Burst,
    Checkpoint,
    Dma,
    Engine,
    Fill,
    Ioctl,
    Look,
    Master,
    Page,
    Program,
    Transfer,
    diskcontent,
)
from tcelab.program.topology import topology
from tcelab.qemu.portal import portal
from tcelab.run.loop import Tee, perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = [pytest.mark.guest, pytest.mark.tcelab(topology="fast")]

FAST = topology("fast")
(ONE, TWO) = b.pes(FAST, "fast")
READ, WRITE, BOTH = 1, 2, 3
PAGES = 64
BASE = 0x40000
"""Bus address of the first page of buffer m; its first 32 pages are mapped."""
RING = 0x800000
TAGGED = 0x900000
END = 16 << 20
SECTOR = 512
FRESH = diskcontent.fresh("disk1")


def opened(*, mapped=32):
    """The disk, set up, with its queue; pages of m, mapped for both directions."""
    fields = {"name": "disk1"}
    return [
        *b.buffer("m", PAGES, 1),
        *b.buffer("ring", 2, 2),
        *b.buffer("t", 1, 3),
        *b.fill(Page("m"), PAGES * 4096, 7),
        *b.tag(Page("t"), 1, ONE.liobn, TAGGED, 1),
        *b.bind(ONE),
        *b.open_container(ONE),
        *b.enable(ONE),
        Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", fields=fields, into="disk", expect="ok"),
        Master(file="disk", expect=6),
        *b.map_dma(ONE, Page("m"), BASE, mapped, BOTH),
        *b.map_dma(ONE, Page("ring"), RING, 2, BOTH),
        *b.map_dma(ONE, Page("t"), TAGGED, 1, READ),
        Engine(file="disk", ring=Page("ring"), iova=RING, expect=0),
    ]


def closed():
    return [*b.close("disk"), *b.disable(ONE), *b.close(ONE.group, ONE.container), *b.checkpoint("end", stream=True)]


def whole(*ops):
    return Program(name="fast", topology=FAST, ops=[*opened(), *b.checkpoint("begin", stream=True), *ops, *closed()])


def judged(session, program, then=lambda _step: None):
    """:param then: what is done behind everybody's back after each step."""
    judge = Judge(program, session.facts, references=second_opinion(FAST, session.facts))
    record = perform_program(program, session, Tee(judge, then))
    assert record.ending is None
    return judge.verdict(record), record


def passes(session, *ops):
    verdict, record = judged(session, whole(*ops))
    assert verdict.findings == []
    assert verdict.result == "pass", verdict.could_not
    return verdict, record


def write(iova, size=SECTOR, offset=0, expect=0):
    return Dma(file="disk", iova=iova, size=size, to_memory=True, offset=offset, expect=expect)


def read(iova, size=SECTOR, offset=0, expect=0):
    return Dma(file="disk", iova=iova, size=size, to_memory=False, offset=offset, expect=expect)


def some(rng, count):
    """Transfers of random sizes between random places, in both directions."""
    out = []
    for _ in range(count):
        size = SECTOR * rng.randint(1, 8)
        iova = BASE + rng.randrange(32 * 4096 - size + 1)
        offset = SECTOR * rng.randrange((diskcontent.SIZE - size) // SECTOR + 1)
        out.append(Transfer(iova, size, to_memory=rng.random() < 0.5, offset=offset))
    return out


def test_ten_thousand_transfers_are_each_judged(session):
    rng = random.Random(5)
    ops = []
    for turn in range(10):
        ops += [Burst(file="disk", transfers=some(rng, 1000), expect=0), *b.checkpoint(f"turn {turn}")]
    verdict, record = passes(session, *ops)
    dma = verdict.evidence.dma
    assert (dma.transfers, dma.refused) == (10_000, 0)
    assert dma.allowed > 10_000  # many lie over the end of a page
    assert verdict.evidence.laws["disk"].judged == 12
    assert [step.outcome.fields["done"] for step in record.steps if isinstance(step.op, Burst)] == [1000] * 10
    changed = record.steps[-1].snapshot.disks["disk1"]
    assert len(changed) == len(FRESH)
    assert changed != FRESH


@pytest.mark.parametrize("place", [5 * SECTOR + 100, (1 << 20) - 1], ids=["where it wrote", "elsewhere"])
def test_a_wrong_byte_on_the_disk_is_found(session, place):
    file = session.guest.disks.files["disk1"]

    def spoil(step):
        if isinstance(step.op, Dma):
            byte = os.pread(file, 1, place)[0]
            os.pwrite(file, bytes([byte ^ 0x10]), place)

    program = whole(read(BASE, 1024, 5 * SECTOR), *b.checkpoint("after"))
    verdict, _ = judged(session, program, spoil)
    assert sorted(each.law for each in verdict.findings) == ["difference", "disk"]
    finding = next(each for each in verdict.findings if each.law == "disk")
    assert f"at byte {place:#x}" in finding.message
    # Where nothing is known to have written, it names the one transfer since it was right.
    assert '{"op":"dma",' in finding.operation


@pytest.mark.parametrize("page", [0, 40], ids=["where it wrote", "elsewhere"])
def test_a_wrong_byte_in_memory_is_found(session, page):
    frames = []

    def spoil(step):
        if step.outcome is not None and not frames:
            frames.extend(step.outcome.frames)  # of m, the first buffer
        if isinstance(step.op, Dma):
            portal().call(session.guest.qtest.store(frames[page] + 0x123, 1, 0))

    verdict, _ = judged(session, whole(write(BASE, 1024, 5 * SECTOR), *b.checkpoint("after")), spoil)
    laws = sorted(each.law for each in verdict.findings)
    assert laws == ["difference", "tag" if page == 0 else "memory"]


def test_a_transfer_that_only_says_that_it_was_done_is_found(session):
    """Its queue says so, and nothing moved."""

    class Liar:
        facts, boot = session.facts, session.boot
        trouble, finish, intervene = session.trouble, session.finish, session.intervene

        def perform(self, ops):
            honest = [op for op in ops if not isinstance(op, Burst)]
            done = iter(session.perform(honest))
            return [lie if isinstance(op, Burst) else next(done) for op in ops]

    lie = type(session.perform([Look(file="none", what="command")])[0])(value=0, fields={"done": 1, "seconds": 0.1})
    burst = Burst(file="disk", transfers=[Transfer(BASE, 512, to_memory=False, offset=0)])
    verdict, _ = judged(Liar(), whole(burst, *b.checkpoint("after")))
    assert {"difference", "disk"} <= {each.law for each in verdict.findings}


HOLE = BASE + 33 * 4096
LAST = BASE + 32 * 4096
"""End of what is mapped."""
REFUSED = {
    "a sector of a hole": (HOLE, 512),
    "a page of a hole": (HOLE, 4096),
    "two halves of holes": (HOLE + 2048, 4096),
    "out of a page into a hole": (LAST - 2048, 4096),
    "out of a hole into a page": (BASE - 1024, 4096),
    "an odd place": (LAST - 777, 1536),
    "over the window's end": (END - 512, 1024),
    "beyond the window": (END + 0x5000, 4096),
    "far away": (1 << 40, 512),
    "the last addresses": ((1 << 64) - 4096, 4096),
}


def test_what_is_refused_of_a_transfer_is_dropped_or_gives_zeros(session):
    """Judged as everything is; QEMU has told of each word, and the device is as ready as before."""
    ops = []
    for number, (iova, size) in enumerate(REFUSED.values()):
        ops += [write(iova, size, 4096 * number), *b.checkpoint("written")]
        ops += [read(iova, size, 4096 * number), *b.checkpoint("read")]
    verdict, record = passes(session, *ops, write(BASE))
    assert verdict.evidence.dma.reasons == {"no entry": 16, "outside the window": 8}
    on_it = record.steps[-1].snapshot.disks["disk1"]
    assert on_it[:4096] == bytes(512) + FRESH[512:4096]
    assert on_it[4096:8192] == bytes(4096)


def test_permissions_are_those_of_the_direction(session):
    maps = [*b.map_dma(ONE, Page("m", 40), HOLE, 1, READ), *b.map_dma(ONE, Page("m", 41), HOLE + 4096, 1, WRITE)]
    both = [*maps, write(HOLE, 8 * SECTOR), read(HOLE + 4096, 8 * SECTOR), *b.checkpoint("refused")]
    verdict, _ = passes(session, *both, read(HOLE, 8 * SECTOR), write(HOLE + 4096, 8 * SECTOR))
    assert verdict.evidence.dma.reasons == {"permission": 2}


def memory(record, label):
    """All pages at a checkpoint."""
    return next(step for step in record.steps if isinstance(step.op, Checkpoint) and step.op.label == label).snapshot


def test_it_uses_a_window_above_as_the_default_one(session):
    verdict, _ = judged(session, Program(name="above", topology=FAST, ops=above()))
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


def test_a_device_that_may_not_master_the_bus_does_nothing_now_or_later(session):
    again = Engine(file="disk", ring=Page("ring"), iova=RING, expect=0)
    ops = [
        *(Master(file="disk", on=False, expect=2), write(BASE, expect=1)),
        *(Master(file="disk", expect=6), write(BASE, expect=1), *b.checkpoint("not ready")),
        *(Master(file="disk", on=False), again, write(BASE, expect=1), *b.checkpoint("blocked")),
        *(Master(file="disk"), write(BASE, expect=1), *b.checkpoint("not late")),
        *(again, write(BASE), *b.checkpoint("ready")),
    ]
    _, record = passes(session, *ops)
    looks = {label: memory(record, label) for label in ("begin", "not ready", "blocked", "not late", "ready")}
    frames = record.steps[1].outcome.frames
    kept = [{page: look.pages[page] for page in frames} for look in looks.values()]
    assert kept[0] == kept[1] == kept[2] == kept[3] != kept[4]
    assert looks["not ready"].refusals == ()
    assert {(each.direction, each.address) for each in looks["blocked"].refusals} == {
        ("read", RING + 2048),
        ("write", RING + 2048),
        ("read", RING + 1026),
    }
    assert looks["not late"].refusals == ()


def test_the_last_file_that_is_closed_takes_the_readiness_along(session):
    fields = {"name": "disk1"}
    again = Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", fields=fields, into="disk", expect="ok")
    passes(session, *b.close("disk"), again, Master(file="disk", expect=6), write(BASE, expect=1), *b.checkpoint("not"))


def test_it_looks_as_the_emulator_has_it(session):
    ops = [Look(file="disk", what="identity", expect=0x0001FFFF), Look(file="disk", what="command")]
    ops += [Ioctl(file="disk", request="DEVICE_GET_INFO")]
    ops += [Ioctl(file="disk", request="DEVICE_GET_REGION_INFO", fields={"index": i}) for i in range(10)]
    ops += [Ioctl(file="disk", request="DEVICE_GET_IRQ_INFO", fields={"index": i}) for i in range(6)]
    ops += [Ioctl(file="disk", request="DEVICE_RESET")]
    passes(session, *ops)


def test_another_program_finds_a_fresh_disk(session):
    passes(session, read(BASE, 4096, 4096))
    session.renew()
    assert session.guest.disks.read() == {"disk1": FRESH}
    passes(session, read(BASE, 4096), Fill(buffer="m", offset=0, size=8, seed=1))
