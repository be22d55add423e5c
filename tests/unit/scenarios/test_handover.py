"""A PE changes hands between a driver of the kernel's DMA API and VFIO: what the scenario does, and what it finds."""

import pytest

from tcelab import scenarios
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.errors import UsageError
from tcelab.judge import Judge
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    DmaBind,
    DmaMap,
    DmaMask,
    DmaUnbind,
    DmaUnmap,
    Ioctl,
    Open,
    Page,
    Program,
    Tag,
)
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.quirks import QUIRKS
from tcelab.run.loop import perform_program

WHERE = topology("dma-api")
LIOBN, DIRECT = 0x80000200, 0x80000201


def judged(program, session=None):
    session = session or EmulatorSession(program.topology, quirks=QUIRKS)
    judge = Judge(program, session.facts, references=EmulatorReferences(program.topology, session.facts))
    done = perform_program(program, session, judge)
    return done, judge.verdict(done)


def program(*ops):
    return Program(name="hands", topology=WHERE, ops=[Buffer(name="b", pages=8), *ops, Checkpoint(stream=True)])


def driver(bits=32, name="m"):
    return (
        DmaBind(device="pe2", expect="ok"),
        DmaMask(device="pe2", bits=bits, expect="ok"),
        Tag(buffer="b", liobn=LIOBN, expect="ok"),
        DmaMap(device="pe2", name=name, page=Page("b"), size=8, expect="ok"),
        Checkpoint(label="driver"),
        DmaUnmap(name=name, expect="ok"),
        DmaUnbind(device="pe2", expect="ok"),
    )


TAKEN = (
    Bind(device="pe2", expect="ok"),
    Open(file="c", path="/dev/vfio/vfio", expect="ok"),
    Open(file="g", path="/dev/vfio/$pe2", expect="ok"),
    Ioctl(file="g", request="GROUP_SET_CONTAINER", fields={"container": "c"}, expect="ok"),
)
USED = (
    Ioctl(file="c", request="SET_IOMMU", value=2, expect="ok"),
    Ioctl(file="c", request="ENABLE", expect="ok"),
    Ioctl(file="c", request="MAP_DMA", fields={"flags": 3, "vaddr": Page("b"), "size": 4096}, expect="ok"),
)
GIVEN_BACK = (Close(file="c", expect="ok"), Close(file="g", expect="ok"))


@pytest.mark.parametrize("name", ["dma-api", "dma-api-default"])
def test_the_scenario_passes_on_the_emulator_and_every_turn_has_entries_of_both(name):
    made = scenarios.build("handover", topology(name), 3)
    done, verdict = judged(made)
    assert (verdict.findings, verdict.could_not, verdict.result) == ([], [], "pass")
    mapped = {}
    for step in done.steps:
        if step.snapshot is not None:
            (table,) = [each for each in step.snapshot.tables if each.liobn == LIOBN]
            mapped[step.op.label.rpartition(": ")] = len(table.index)
    let_go = [count for (_, _, what), count in mapped.items() if what in {"let go", "given back", "taken"}]
    assert len(let_go) > 15
    assert not any(let_go)
    there = {what: count for (turn, _, what), count in mapped.items() if "container" in turn and what == "mapped"}
    assert all(there.values())


def test_a_topology_without_two_pes_of_one_edu_has_no_such_scenario():
    with pytest.raises(UsageError, match="two PEs with an edu alone"):
        scenarios.build("handover", topology("pair"), 1)


def test_vfio_takes_the_window_of_all_ram_and_the_next_mask_of_64_bits_has_it_made_again():
    made = program(*driver(64), *TAKEN, Checkpoint(label="taken"), *USED, *GIVEN_BACK, *driver(64, "n"))
    validate(made)
    done, verdict = judged(made)
    assert (verdict.findings, verdict.result) == ([], "pass")
    looks = [step.snapshot for step in done.steps if step.snapshot is not None]
    assert [DIRECT in {table.liobn for table in each.tables} for each in looks] == [True, False, True, True]


class Keeping(EmulatorSession):
    """A kernel that forgets to remove its window when VFIO takes the PE."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.machine.taken = lambda pe: None


def test_a_window_that_stays_when_vfio_takes_the_pe_is_found():
    """VFIO's user could reach all RAM by it."""
    made = program(*driver(64), *TAKEN, Checkpoint(label="taken"))
    _, verdict = judged(made, Keeping(WHERE, quirks=QUIRKS))
    assert [each.message for each in verdict.findings if each.law == "inventory"] == [
        "LIOBN 0x80000201 has a table: expected no table, seen 32 entries"
    ]


def test_a_driver_that_trusts_the_mask_of_before_gets_handles_in_a_window_that_is_gone():
    """As Linux 6.12.95 does: the validator refuses it, and the law names it."""
    bare = [op for op in driver(64, "n") if not isinstance(op, DmaMask)]
    made = program(*driver(64), *TAKEN, *USED, *GIVEN_BACK, *bare)
    with pytest.raises(UsageError, match="the kernel has not noticed: set a mask before"):
        validate(made)
    _, verdict = judged(made)
    assert any(each.law == "handles" and "has a handle in no window" in each.message for each in verdict.findings)


def said(*ops):
    try:
        validate(program(*ops))
    except UsageError as error:
        return error.message
    return ""


LIVE = driver()[:4]
REFUSED = [
    ([*LIVE, Bind(device="pe2")], "the driver of the DMA API has it"),
    (
        [*LIVE, DmaUnbind(device="pe2", late=True), Bind(device="pe2")],
        "'m' is mapped: VFIO gets the group",
    ),
    ([*TAKEN, DmaBind(device="pe2")], "VFIO has pe2: close the files"),
    ([*TAKEN, GIVEN_BACK[0], DmaBind(device="pe2")], "VFIO has pe2: close the files"),
    ([DmaBind(device="pe1"), DmaUnbind(device="pe1"), Bind(device="test1")], "a PE of several devices does not"),
    ([Bind(device="pe1"), DmaBind(device="test1")], "a PE of several devices does not"),
    ([*driver(), Open(file="g", path="/dev/vfio/$pe2")], "names a device that was not bound"),
    ([*TAKEN, *GIVEN_BACK, DmaBind(device="pe2"), Open(file="h", path="/dev/vfio/$pe2")], "was not bound before"),
]


@pytest.mark.parametrize(("ops", "why"), REFUSED)
def test_what_must_not_be_handed_over(ops, why):
    assert why in said(*ops)


def test_what_may_be():
    assert said(*driver(), *TAKEN, *USED, *GIVEN_BACK, *driver(64, "n"), *TAKEN) == ""
