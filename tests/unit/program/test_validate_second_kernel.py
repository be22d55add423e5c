"""What a program may ask of a second kernel."""

import pytest

from tcelab.errors import UsageError
from tcelab.program import Bind, Buffer, Crash, Fresh, Hcall, Kexec, MemoryAdd, Program, Reset
from tcelab.program.operations import Call
from tcelab.program.topology import topology
from tcelab.program.validate import validate

LOOK = Hcall(call=Call("H_GET_TCE", [0x80000100, 0]))


def said(*ops, where="two-small-kdump"):
    try:
        validate(Program(name="p", topology=topology(where), ops=[*ops]))
    except UsageError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    "ops",
    [
        (Kexec(), Kexec(append="a=b c"), Crash(), LOOK),
        (Crash(append="x"), Buffer(name="b", pages=1), Reset(), Bind(device="pe1"), Crash()),
        (Crash(), Fresh(), Bind(device="pe1"), Kexec()),
        (Bind(device="pe1"), Buffer(name="b", pages=1), Kexec(), Bind(device="pe1"), Buffer(name="b", pages=1)),
    ],
)
def test_it_may(ops):
    assert said(*ops) == ""


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ((Crash(), Kexec()), "a crash kernel starts no other one"),
        ((Crash(), Crash()), "a crash kernel starts no other one"),
        ((Crash(), Bind(device="pe1")), "a crash kernel gives VFIO no windows"),
        ((Kexec(append="x" * 513),), "append is no part of a command line"),
        ((Kexec(append="a\nb"),), "append is no part of a command line"),
        ((Crash(append="ü"),), "append is no part of a command line"),
    ],
)
def test_it_may_not(ops, why):
    assert why in said(*ops)


def test_without_kept_memory_there_is_no_crash_kernel():
    assert "topology two-small keeps no memory for a crash kernel" in said(Crash(), where="two-small")
    assert said(Kexec(), where="two-small") == ""


def test_what_a_second_kernel_makes_of_a_direct_window_or_of_more_memory_is_not_known():
    assert "a window of 64 bits that the kernel's own driver has" in said(Kexec(), where="memory")
    assert "nobody knows" in said(MemoryAdd(dimm="more", mib=256), Kexec(), where="memory")
