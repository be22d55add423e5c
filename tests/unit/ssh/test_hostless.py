"""Programs that need somebody outside are refused before anything runs."""

import pytest

from tcelab.errors import UsageError
from tcelab.program import AtOnce, Buffer, Checkpoint, Ddw, DmaBind, Flip, Fresh, Native, Program, Rtas
from tcelab.program.topology import topology
from tcelab.scenarios import SCENARIOS, build
from tcelab.ssh.hostless import expect_possible

TWO = topology("two-pe")


def program(*ops, **more):
    return Program(name="p", topology=TWO, ops=list(ops), **more)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Flip(liobn=0x80000001, ioba=0), "a table in QEMU's memory"),
        (Rtas(call="ibm,set-slot-reset", device="pe1"), "asked through QEMU"),
        (Ddw(call="query", device="pe1"), "asked through QEMU"),
        (DmaBind(device="pe1"), "nobody sees its tables"),
        (Native(program="vfio_loop", args=[]), "that tcelab's own image has"),
        (AtOnce(count=2), "one operation is done after the other"),
        (Buffer(name="b", pages=512, huge=True), "huge pages"),
    ],
)
def test_an_operation_that_nobody_can_do_is_named(op, why):
    with pytest.raises(UsageError) as refused:
        expect_possible(program(Checkpoint(), op), "off")
    assert refused.value.message.startswith(f"operation 1 ({type(op).__name__.lower()}) cannot be done over ssh")
    assert why in refused.value.message
    assert "--platform qemu" in refused.value.next_step


def test_nobody_isolates_a_pe():
    for isolation, guard in ((True, "off"), (False, "freeze"), (False, "observe")):
        with pytest.raises(UsageError, match="is about the isolation of PEs"):
            expect_possible(program(isolation=isolation), guard)


def test_a_checkpoint_and_another_part_are_possible():
    expect_possible(program(Checkpoint(), Fresh(), Checkpoint()), "off")


def test_the_scenarios_that_the_next_step_names_are_possible():
    with pytest.raises(UsageError) as refused:
        expect_possible(program(Ddw(call="query", device="pe1")), "off")
    for name in SCENARIOS:
        possible = name in {"behaviour", "flow", "batches", "rules", "hcalls"}
        assert (name in refused.value.next_step) == possible
        if possible:
            expect_possible(build(name, topology((SCENARIOS[name].topologies or ("two-pe",))[0]), 1), "off")
