"""What makes a program of the fast engine whole: nothing that QEMU could not bear reaches a device."""

from __future__ import annotations

import pytest
from fast_story import FAST, ONE, RING, at, engine, gives, opened, program, read, takes, write
from msgspec import structs

from tcelab.errors import UsageError
from tcelab.program import Burst, Ioctl, Page, Program, Protect, Spawn, Together, Transfer
from tcelab.program.validate import validate

LAST = (1 << 64) - 1
SECTORS = "a disk does 1 to 8 whole sectors of 512"


def check(*ops):
    validate(Program(name="p", topology=FAST, ops=[*opened(), *ops]))


def test_the_story_is_whole():
    validate(program(write(at(0)), read(at(2)), Burst(file="disk", transfers=[gives(at(0)), takes(at(9), 4096)])))
    check(engine(), Burst(file="edu", transfers=[Transfer(at(0), 4000, to_memory=True)]), read(1 << 63, 4096))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (write(at(0), 100), SECTORS),
        (write(at(0), 0), SECTORS),
        (write(at(0), 4608), SECTORS),
        (write(at(0), 512, 100), "no whole sectors of a disk of 1048576 bytes"),
        (read(at(0), 1024, (1 << 20) - 512), "no whole sectors of a disk of 1048576 bytes"),
        (read(at(0), 512, -512), "no whole sectors"),
        (read(LAST, 512), "ends where bus addresses do"),
        (read(LAST + 1, 512), "a word has 64 bits"),
        (write(at(0), file="x"), "no file 'x' was opened before"),
        (Burst(file="x", transfers=[gives(at(0))]), "no file 'x' was opened before"),
        (Burst(file="disk", transfers=[]), r"0 transfers; a Burst does 1..100000"),
        (Burst(file="disk", transfers=[gives(at(0))] * 100_001), "100001 transfers"),
        (Burst(file="disk", transfers=[gives(at(0)), takes(at(0), 511)]), SECTORS),
        (Burst(file="disk", transfers=[gives(at(0)), takes(1 << 64)]), "a word has 64 bits"),
        (Burst(file="edu", transfers=[gives(at(0), 4001)]), "leaves the 4000 bytes"),
        (Together(ops=[write(at(0)), write(at(0), 64, file="edu")]), "only edus transfer together"),
        (structs.replace(engine(), file="edu"), "pe1 is no virtio-blk"),
        (structs.replace(engine(), file="x"), "no file 'x' was opened before"),
        (structs.replace(engine(), iova=RING + 512), "a ring is two whole pages"),
        (structs.replace(engine(), iova=LAST - 4095), "a ring is two whole pages"),
        (structs.replace(engine(), iova=1 << 64), "a word has 64 bits"),
        (structs.replace(engine(), ring=Page("ring", 0, 8)), "a ring is two whole pages"),
        (structs.replace(engine(), ring=Page("ring", 1)), "outside buffer 'ring' of 2 pages"),
        (structs.replace(engine(), ring=Page("none")), "no buffer 'none'"),
        (structs.replace(engine(), by="c"), "no process 'c'"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_number(op, why):
    with pytest.raises(UsageError, match=rf"operation {len(opened())} \({type(op).__name__}\): .*{why}"):
        check(op)


def test_memory_with_a_queue_is_not_protected_and_a_queue_does_not_lie_in_memory_that_is():
    """To touch it would end the agent by a signal."""
    with pytest.raises(UsageError, match=r"\(Protect\): a device's queue lies in buffer 'ring'"):
        check(engine(), Protect(buffer="ring", access="none"))
    with pytest.raises(UsageError, match=r"\(Engine\): buffer 'ring' is protected: its access is read"):
        check(Protect(buffer="ring", access="read"), engine())
    check(Protect(buffer="ring", access="none"), Protect(buffer="ring", access="write"), engine())


def test_a_queue_is_the_processs_own_memory():
    with pytest.raises(UsageError, match="buffer 'ring' belongs to the agent itself"):
        check(Spawn(process="c"), structs.replace(engine(), by="c"))


def test_the_name_of_a_file_says_what_device_it_is():
    fields = {"name": "pe1"}
    edu = Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", fields=fields, into="second")
    check(edu, write(at(0), 64, file="second"))
    with pytest.raises(UsageError, match=SECTORS):
        check(structs.replace(edu, fields={"name": "disk1"}), write(at(0), 64, file="second"))
