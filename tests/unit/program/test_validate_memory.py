"""Memory that is plugged in and pulled: what no machine can do is told before anything runs."""

import pytest

from tcelab.errors import UsageError
from tcelab.program import Bind, MemoryAdd, MemoryRemove, Program, Reset
from tcelab.program.topology import Phb, Topology, topology
from tcelab.program.validate import validate

MEMORY = topology("memory")


def add(dimm="one", mib=256):
    return MemoryAdd(dimm=dimm, mib=mib)


@pytest.mark.parametrize(
    ("ops", "where", "why"),
    [
        ([add()], "two-pe", "the RAM of topology two-pe does not grow: it has no maxmem and no slots"),
        ([add(), add()], "memory", "one is plugged in already"),
        ([add("1")], "memory", "not a name for memory: '1'"),
        ([add(mib=300)], "memory", "300 MiB of memory: a pseries machine takes multiples of 256 MiB"),
        ([add(mib=0)], "memory", "0 MiB of memory"),
        ([add(each) for each in "abcde"], "memory", "no slot is free: topology memory has 4"),
        ([add(mib=4096)], "memory", "maxmem of topology memory is 4096 MiB"),
        (
            [MemoryRemove(dimm="one")],
            "memory",
            'no memory \'one\' was plugged in before: add a `memoryadd` with "dimm": "one"',
        ),
        ([add(), MemoryRemove(dimm="one", expect="ok"), MemoryRemove(dimm="one")], "memory", "no memory 'one'"),
        ([add(), Reset(), MemoryRemove(dimm="one")], "memory", "does not use it, and so cannot give it back"),
        ([Bind(device="disk2")], "memory", "the topology has no device 'disk2'"),
    ],
)
def test_what_cannot_be_is_told(ops, where, why):
    with pytest.raises(UsageError) as refused:
        validate(Program(name="p", topology=topology(where), ops=ops))
    assert why in refused.value.message


def test_the_pe_of_a_kernels_driver_cannot_be_guarded():
    with pytest.raises(UsageError, match="PEs of topology memory cannot be guarded"):
        validate(Program(name="p", topology=MEMORY, ops=[]), guarded=True)


def test_a_slot_is_free_again_and_memory_that_may_have_been_kept_can_be_pulled_again():
    ops = [add(each) for each in "abcd"]
    ops += [MemoryRemove(dimm="a", expect="ok"), add("e"), MemoryRemove(dimm="b"), MemoryRemove(dimm="b")]
    validate(Program(name="p", topology=MEMORY, ops=ops))


@pytest.mark.parametrize("fields", [{"maxmem": 1024}, {"slots": 1}, {"maxmem": -1, "slots": -1}])
def test_maxmem_and_slots_come_together(fields):
    with pytest.raises(ValueError, match="maxmem and slots come together"):
        Topology("t", (Phb(1),), **fields)
