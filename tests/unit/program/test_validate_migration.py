"""What a program may do with a guest that is saved: load it, and nothing else."""

import msgspec
import pytest
from story import SMALL

from tcelab.errors import UsageError
from tcelab.program import Bind, Checkpoint, DeviceRemove, Fresh, Load, Program, Save
from tcelab.program.topology import Device, Phb, Topology, topology
from tcelab.program.validate import validate

PLUG = Topology("plug", (Phb(1, (Device("pe1", 1), Device("pe1b", 2))),))
STANDS = "the guest was saved and stands still: add a `load` before it"


@pytest.mark.parametrize(
    ("ops", "where", "problem"),
    [
        ([Load()], SMALL, "operation 0 \\(Load\\): nothing was saved before: add a `save`"),
        ([Save(), Load(), Load()], SMALL, "operation 2 \\(Load\\): nothing was saved before"),
        ([Save(), Save()], SMALL, f"operation 1 \\(Save\\): {STANDS}"),
        ([Save(), Checkpoint()], SMALL, f"operation 1 \\(Checkpoint\\): {STANDS}"),
        ([Save(), Bind(device="pe1"), Load()], SMALL, f"operation 1 \\(Bind\\): {STANDS}"),
        ([Save(), Fresh()], SMALL, f"operation 1 \\(Fresh\\): {STANDS}"),
        ([Save(), Load(qemu="qemu-10.0")], SMALL, "qemu-10.0 may have another newest machine: give the topology"),
        ([DeviceRemove(device="pe1b"), Save()], PLUG, "something was plugged in or pulled since"),
    ],
)
def test_a_program_that_cannot_be_loaded_is_refused(ops, where, problem):
    with pytest.raises(UsageError, match=problem):
        validate(Program(name="x", topology=where, ops=ops))


def test_a_guest_may_be_moved_again_and_again_and_end_saved():
    ops = [Save(), Load(), Bind(device="pe1"), Save(), Load(order="reversed"), Save()]
    validate(Program(name="x", topology=SMALL, ops=ops))


def test_another_qemu_takes_in_a_versioned_machine():
    versioned = msgspec.structs.replace(topology("versioned"))
    validate(Program(name="x", topology=versioned, ops=[Save(), Load(qemu="qemu-10.0")]))
