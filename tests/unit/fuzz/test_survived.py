"""What shrinking leaves over is tried on the emulator first: no guest is asked for what the emulator cannot follow."""

import random

from msgspec import structs

from tcelab.fuzz.campaign import Campaign, Done
from tcelab.fuzz.generate import generate
from tcelab.fuzz.samefailure import survived
from tcelab.judge import Finding
from tcelab.program import Bind, Checkpoint, Open, Program, Read
from tcelab.program.topology import topology
from tcelab.quirks import QUIRKS

SMALL = topology("two-small")
OF_NOBODY = (
    Bind(device="pe1"),
    Open(file="c", path="/dev/vfio/vfio"),
    Open(file="f", path="/dev/kvm"),  # what that is, the emulator does not know
)


def test_a_program_that_the_emulator_cannot_follow_has_not_survived():
    program = Program(name="p", topology=SMALL, ops=[*OF_NOBODY, Checkpoint()])
    assert not survived(program)
    assert survived(structs.replace(program, ops=[*OF_NOBODY[:-1], Checkpoint()]))


def test_every_random_program_survives_with_the_pages_that_it_was_made_for():
    for seed, sizes in ((1, [4096]), (2, [65536])):
        made = generate(random.Random(seed), SMALL, 400, quirks=QUIRKS, v2=True)
        assert survived(structs.replace(made.program, page_sizes=sizes))


def test_no_guest_is_opened_for_one_that_has_not(tmp_path, monkeypatch):
    """The campaign's own question, as shrinking asks it."""
    opened = []
    job = Campaign(1, opened.append, tmp_path)
    asked = []

    def shrink(program, fails, *, most):
        asked.append(fails(structs.replace(program, ops=[*OF_NOBODY, Checkpoint()])))
        return program

    monkeypatch.setattr("tcelab.fuzz.campaign.shrink", shrink)
    monkeypatch.setattr("tcelab.fuzz.campaign._in_time", lambda *_: True)  # the program itself shows
    program = Program(name="p", topology=SMALL, ops=[Read(what="pins"), Checkpoint()])
    job._keep(Done(0, program, frozenset(), None, {}), Finding(law="table", step=0, message="m"))
    assert (asked, opened) == ([False, False], [])
