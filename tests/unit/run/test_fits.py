"""What a program says of itself: which kernels it is made for, and which quirks show in it."""

import dataclasses
import json
from pathlib import Path

import pytest
from ideal import Ideal
from msgspec import structs
from story import story

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.emulator.reference import EmulatorReferences
from tcelab.errors import Unsupported, UsageError
from tcelab.job.parallel import ParallelRun
from tcelab.program import Buffer, Ioctl, Page, from_json, load
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.quirks import QUIRKS, ROLLBACK
from tcelab.run import exitcode
from tcelab.run.guestfits import require
from tcelab.run.loop import perform_program
from tcelab.scenarios import build

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
PROGRAMS = sorted(EXAMPLES.rglob("*.json"))
QUIRK = {path.stem: path for path in PROGRAMS if path.parent.name == "quirks"}
ALL = frozenset(QUIRKS)
SIZES = (4096, 65536)


def verdict_on(program, page_size=4096, *, has=ALL, declared=ALL):
    """Of a kernel that `has` some defects, of which the judge believes that it has those `declared`."""

    def opening(part):
        session = EmulatorSession(program.topology, quirks=has, page_size=page_size, seed=part.number)
        session.facts = dataclasses.replace(session.facts, quirks=declared)
        return session

    references = lambda _, facts: EmulatorReferences(program.topology, facts)  # noqa: E731
    return ParallelRun(program, opening, references=references).run()[1]


def messages(verdict):
    return [finding.message for finding in verdict.findings]


# -- a machine that is not like the topology


def test_a_program_drives_no_device_that_is_of_another_model():
    program = load(EXAMPLES / "dma.json")
    facts = Ideal(program).facts
    require(program, facts)
    devices = frozenset(device.name for device in program.topology.devices)
    with pytest.raises(Unsupported, match=r"operation \d+ \(dma\) drives pe1, which is no such device here"):
        require(program, dataclasses.replace(facts, unlike=devices))


def test_a_program_that_only_maps_may_have_devices_of_any_model():
    program = build("flow", topology("two-pe"), 1)
    require(program, dataclasses.replace(Ideal(program).facts, unlike=frozenset({"pe1", "pe2"})))


def test_why_there_are_no_hypercalls_is_what_the_platform_says():
    program = build("hcalls", topology("two-small"), 1)
    facts = dataclasses.replace(Ideal(program).facts, hypercalls=False)
    with pytest.raises(Unsupported, match="its module tce_hcall is not loaded"):
        require(program, facts)
    with pytest.raises(Unsupported, match="has no raw hypercalls: LIOBNs differ"):
        require(program, dataclasses.replace(facts, cannot={"hypercalls": "LIOBNs differ"}))


# -- page sizes


@pytest.fixture
def done():
    """All that guests were asked to do."""
    return []


def on_ideal(program, done):
    guest = Ideal(program)
    guest.close = lambda: None
    perform = guest.perform
    guest.perform = lambda ops: done.extend(ops) or perform(ops)
    return guest


def test_a_program_for_other_pages_cannot_be_judged_and_nothing_of_it_is_done(done):
    program = structs.replace(story(), page_sizes=[65536])
    said = (
        "program 'story' is made for kernels with pages of 64 KiB, and this one has 4 KiB: it would prove nothing here"
    )
    for ways in (perform_program, lambda program, guest: ParallelRun(program, lambda _: guest).run()):
        with pytest.raises(Unsupported) as told:
            ways(program, on_ideal(program, done))
        assert (told.value.message, exitcode.of_error(told.value)) == (said, 125)
    assert done == []


@pytest.mark.parametrize("sizes", [[], [4096], [4096, 65536]])
def test_a_program_for_these_pages_or_any_is_judged(done, sizes):
    program = structs.replace(story(), page_sizes=sizes)
    assert ParallelRun(program, lambda _: on_ideal(program, done)).run()[1].result == "pass"
    assert done


def test_a_buffer_in_huge_pages_needs_a_kernel_that_has_them():
    program = structs.replace(story(), ops=[Buffer(name="h", pages=512, huge=True)])
    facts = Ideal(program).facts
    require(program, facts)
    with pytest.raises(Unsupported, match=r"huge pages, and this kernel has none of 2 or 16 MiB$"):
        require(program, dataclasses.replace(facts, huge=0))


def test_a_program_that_was_saved_before_there_were_page_sizes_is_for_any():
    data = json.loads(story().to_json())
    del data["page_sizes"], data["shows"]
    assert from_json(json.dumps(data).encode(), "old.json") == story()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shows": ["moon"]}, "no quirk moon; there are: "),
        ({"page_sizes": [4096, 12288]}, "is made for pages of 12288 bytes, which no kernel has"),
        ({"page_sizes": [2048]}, "is made for pages of 2048 bytes"),
        ({"page_sizes": [-4096]}, "is made for pages of -4096 bytes"),
    ],
)
def test_what_a_program_says_of_itself_is_checked_before_anything_boots(change, said):
    with pytest.raises(UsageError, match=said):
        validate(structs.replace(story(), **change))


# -- quirks that must show


FULL = "dma-full"
"""Fills a table as Linux does, from pools, of which the emulator by itself has none."""


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_example_says_for_which_pages_it_is_made_and_what_shows_in_it(path):
    program = load(path)
    validate(program)
    assert program.page_sizes == ([4096] if path.stem == FULL else list(SIZES))
    others = {
        "map-across-the-end": {ROLLBACK, "ioba-check-one-page"},
        "dma": set(),
        "dma-api": set(),
        "dma-mask": set(),
        "kdump-full": set(),
        "window-order": set(),
        "window-low": set(),
        FULL: set(),
    }
    assert set(program.shows) == ({path.stem} if path.stem in QUIRK else others[path.stem])


@pytest.mark.parametrize("page_size", SIZES)
@pytest.mark.parametrize("path", [each for each in PROGRAMS if each.stem != FULL], ids=lambda path: path.stem)
def test_an_example_meets_its_quirks_on_either_page_size(path, page_size):
    program = load(path)
    verdict = verdict_on(program, page_size)
    assert (messages(verdict), verdict.result) == ([], "pass")
    assert all(verdict.evidence.quirks[quirk] for quirk in program.shows)


@pytest.mark.parametrize("page_size", SIZES)
@pytest.mark.parametrize("quirk", QUIRK)
def test_without_the_declaration_it_is_a_finding_that_names_the_quirk_on_either_page_size(quirk, page_size):
    verdict = verdict_on(load(QUIRK[quirk]), page_size, declared=ALL - {quirk})
    assert verdict.exit_code == 1
    assert quirk in {finding.quirk for finding in verdict.findings}


@pytest.mark.parametrize("page_size", SIZES)
@pytest.mark.parametrize("quirk", QUIRK)
def test_a_cured_kernel_passes_and_with_the_wrong_declaration_it_is_a_finding(quirk, page_size):
    program = load(QUIRK[quirk])
    cured = ALL - {quirk}
    assert verdict_on(program, page_size, has=cured, declared=cured).result == "pass"
    wrong = verdict_on(program, page_size, has=cured)
    assert wrong.exit_code == 1
    assert any(f"the declared quirk {quirk} does not show" in message for message in messages(wrong))


def small(program):
    """The program as it was once: with sizes of 4 KiB, of which a kernel with larger pages makes nothing."""
    sizes = {"b": 1, "fence": 1, "fence2": 1}
    ops = [
        structs.replace(op, pages=sizes[op.name]) if isinstance(op, Buffer) and op.name in sizes else op
        for op in program.ops
    ]
    return structs.replace(
        program,
        ops=[
            structs.replace(op, fields={**op.fields, "vaddr": Page("b")})
            if isinstance(op, Ioctl) and op.fields.get("vaddr") == Page("b", 255)
            else op
            for op in ops
        ],
    )


def test_a_declared_quirk_that_its_program_does_not_meet_is_a_finding():
    program = small(load(QUIRK[ROLLBACK]))
    assert verdict_on(program).result == "pass"
    verdict = verdict_on(program, 65536)
    assert messages(verdict) == [f"the declared quirk {ROLLBACK} does not show: this program is made to show it"]
    (finding,) = verdict.findings
    assert (finding.law, finding.expected, verdict.exit_code) == ("difference", f"{ROLLBACK} is met", 1)


def test_a_quirk_that_is_not_declared_or_not_promised_need_not_show():
    program = small(load(QUIRK[ROLLBACK]))
    assert verdict_on(program, 65536, declared=ALL - {ROLLBACK}).result == "pass"
    assert verdict_on(structs.replace(program, shows=[]), 65536).result == "pass"


def test_what_was_not_done_whole_says_nothing_about_a_quirk():
    program = small(load(QUIRK[ROLLBACK]))
    lost = structs.replace(program, ops=[*program.ops, Ioctl(file="nobody", request="ENABLE")])
    verdict = verdict_on(lost, 65536)
    assert (messages(verdict), verdict.result) == ([], "could-not-judge")
