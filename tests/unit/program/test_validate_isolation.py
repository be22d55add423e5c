"""What makes a program of isolations whole: its transfers at once, its looks and its calls of firmware."""

from __future__ import annotations

import pytest
from isolation_story import STATE, TWO_DEVICES, looks, opened, read, rtas, story, write
from msgspec import structs

from tcelab.errors import UsageError
from tcelab.program import Bind, Close, Fresh, Ioctl, Look, Open, Program, Rtas, Together
from tcelab.program.validate import validate


def check(*ops):
    validate(Program(name="p", topology=TWO_DEVICES, ops=[*opened(), *ops]))


def another(device, file):
    return Ioctl(file="s-pe1-group", request="GROUP_GET_DEVICE_FD", fields={"name": device}, into=file)


def test_the_story_is_whole():
    validate(story())


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Together(ops=[]), "at least one transfer"),
        (Together(ops=[write("pe1"), read("pe1")]), "each of its transfers is another device's"),
        (Together(ops=[write("pe1"), structs.replace(write("pe2"), file="x")]), "no file 'x' was opened"),
        (Together(ops=[write("pe1", size=4001)]), "leaves the 4000 bytes"),
        (Together(ops=[write("pe1", iova=1 << 64)]), "a word has 64 bits"),
        (Together(ops=[structs.replace(write("pe1"), by="c")]), "no by or expect of their own"),
        (Together(ops=[structs.replace(write("pe1"), expect=0)]), "no by or expect of their own"),
        (Look(file="x", what="identity"), "no file 'x' was opened before"),
        (Rtas(call="ibm,errinjct", device="pe1"), "no service 'ibm,errinjct'; there are: ibm,set-eeh-option"),
        (Rtas(call=STATE, device="pe9"), "the topology has no device 'pe9'"),
        (Rtas(call=STATE, device="spare"), "the topology has no device 'spare'"),
        (Rtas(call=STATE, device="pe1", option=-1), "an option has 32 bits"),
        (Rtas(call=STATE, device="pe1", option=1 << 32), "an option has 32 bits"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_number(op, why):
    with pytest.raises(UsageError, match=rf"operation {len(opened())} \({type(op).__name__}\): .*{why}"):
        check(op)


def test_one_device_has_one_transfer_at_a_time_by_whatever_file():
    with pytest.raises(UsageError, match="each of its transfers is another device's"):
        check(another("pe1", "twin"), Together(ops=[write("pe1"), structs.replace(write("pe1"), file="twin")]))
    check(Close(file="pe1b"), another("pe1b", "twin"), Together(ops=[write("pe1"), *twins("twin")]))


def twins(file):
    return [structs.replace(write("pe1b"), file=file)]


def test_a_name_that_is_used_again_for_another_file_is_that_files():
    ops = [Close(file="pe1b"), Open(file="pe1b", path="/dev/null"), another("pe1b", "one")]
    check(*ops, Together(ops=[*twins("one"), write("pe1b")]))


def test_an_option_that_no_service_knows_is_for_firmware_to_refuse():
    check(rtas(STATE, 7), rtas("ibm,set-eeh-option", (1 << 32) - 1))


def test_another_guest_has_none_of_the_files():
    with pytest.raises(UsageError, match="no file 'pe1' was opened before"):
        check(Fresh(), Bind(device="pe1"), looks("pe1")[0])
