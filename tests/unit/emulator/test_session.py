"""The emulator as a session: the agent's own operations on an emulated machine, looked at as a guest is."""

import sys

import msgspec
import numpy as np
import pytest

from rows.row import (
    NOBODY,
    PE1,
    PE2,
    WINDOW,
    WINDOW_KIB,
    call,
    charged,
    child,
    closing,
    enable,
    enabled,
    get_device,
    joined,
    mapping,
    open_group,
    opened,
    set_container,
    set_iommu,
    unmapping,
)
from tcelab.emulator import EmulatorSession
from tcelab.emulator.emulatorsession import VIEW
from tcelab.errors import GuestLost, HarnessError, Unsupported, UsageError
from tcelab.judge import Judge, judge
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Dma,
    Exit,
    Fill,
    Flip,
    Frames,
    Ioctl,
    Master,
    Open,
    Page,
    Program,
    Protect,
    Put,
    Read,
    Spawn,
    Tag,
)
from tcelab.program.pagetags import data, tag
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.quirks import QUIRKS
from tcelab.run.loop import perform_program

SMALL = topology("two-small")
NONCE = bytes(range(16))
PAGE = 4096
LARGE = 65536
M = (Bind(device="pe1"), Bind(device="pe2"), Buffer(name="m", pages=32), Frames(buffer="m"))


def session(**more):
    return EmulatorSession(SMALL, **{"nonce": NONCE, **more})


def done(it, *ops):
    return it.perform(list(ops))


def told(it, *ops):
    """Of each operation, the errno or the value."""
    return [outcome.errno or outcome.value for outcome in done(it, *ops)]


def look(it, *frames):
    return it.intervene(Checkpoint(), frames)


def entries(snapshot, liobn=PE1):
    (table,) = (table for table in snapshot.tables if table.liobn == liobn)
    return dict(zip(table.index.tolist(), table.tce.tolist(), strict=True))


def program(*ops):
    made = Program(name="a program", topology=SMALL, ops=[*M, Tag(buffer="m", count=32, liobn=PE1), *ops])
    validate(made)
    return made


# -- what a session is


def test_it_says_what_it_is():
    facts = session(profile_name="seed2013", quirks=["pin-for-write"], page_size=LARGE).facts
    assert (facts.platform, facts.page_size, facts.views, facts.profile) == ("emulator", LARGE, (VIEW,), "seed2013")
    assert (facts.quirks, facts.nonce) == ({"pin-for-write"}, NONCE)
    assert facts.versions["emulator"] == {"profile": "seed2013", "quirks": ["pin-for-write"]}


def test_each_session_has_a_nonce_of_its_own():
    assert session(nonce=None).facts.nonce != session(nonce=None).facts.nonce


@pytest.mark.parametrize(
    "wrong", [{"profile_name": "linux-v3"}, {"quirks": ["no-such"]}, {"preset_states": ["no-such"]}]
)
def test_what_nobody_knows_is_named_with_what_there_is(wrong):
    with pytest.raises(UsageError, match=r"no .*(linux-v3|no-such).*there are"):
        session(**wrong)


def test_a_checkpoint_shows_every_table_of_the_machine_and_what_is_not_empty():
    it = session()
    frames = done(it, *M)[-1].frames
    done(it, *enabled(), mapping(0x3000, 2, Page("m", 4), flags=1), *enabled(2), mapping(0, pe=2))
    snapshot = look(it)
    assert {table.liobn: table.entries for table in snapshot.tables} == {
        0x80000000: 4096,
        PE1: 4096,
        PE2: 4096,
        0x80001E00: 4096,
    }
    assert entries(snapshot) == {3: frames[4] | 1, 4: frames[5] | 1}
    assert entries(snapshot, PE2) == {0: frames[0] | 3}
    assert entries(snapshot, 0x80000000) == entries(snapshot, 0x80001E00) == {}
    for table in snapshot.tables:
        assert (table.view, table.index.dtype, table.tce.dtype) == (VIEW, np.uint32, np.uint64)
    assert (snapshot.missing, snapshot.refusals, snapshot.console) == ({}, (), ())


def test_a_snapshot_is_of_its_moment():
    it = session()
    done(it, *M, *enabled(), mapping(0))
    before = look(it)
    done(it, unmapping(0))
    assert (list(entries(before)), list(entries(look(it)))) == ([0], [])


def test_a_checkpoint_shows_memory_that_entries_lead_to_and_memory_that_was_asked_for():
    it = session()
    frames = done(it, *M, Tag(buffer="m", first=0, count=2, liobn=PE1, sequence=9))[3].frames
    done(it, Fill(buffer="m", offset=2 * PAGE, size=PAGE, seed=5), *enabled(), mapping(0))
    pages = look(it, frames[2], 0x1000).pages
    assert pages == {
        frames[0]: tag(NONCE, PE1, 0, 9),
        frames[2]: data(NONCE, 5, PAGE),
        0x1000: None,
    }


def test_refusals_are_told_once():
    it = session()
    done(it, *M, *enabled(), get_device(file="d"), Master(file="d"))
    done(it, Dma(file="d", iova=0x5000, size=64, to_memory=False))
    (refusal,) = look(it).refusals
    assert (refusal.direction, refusal.address, refusal.size) == ("read", 0x5000, 64)
    assert look(it).refusals == ()


def test_trouble_is_told_once_and_at_the_next_checkpoint():
    it = session(preset_states=["window-at-0x8000000"], quirks=["window-not-at-zero"])
    done(it, *M, *enabled(), mapping(0x8000000))
    assert len(look(it).console) == 1
    assert (look(it).console, it.trouble(), it.finish()) == ((), (), ())
    assert "WARN_ON_ONCE(!ret && start_addr)" in it.scene().console[-1]


# -- runs repeat


def test_the_same_seed_gives_the_same_run_and_another_one_other_frames():
    ops = [
        *M,
        *enabled(),
        mapping(0, 32),
        get_device(file="d"),
        Master(file="d"),
        *closing("d", "g"),
        Read(what="pins"),
    ]
    runs = [session(seed=seed).perform(ops) for seed in (4, 4, 5)]
    assert runs[0] == runs[1]
    assert not set(runs[0][3].frames) & set(runs[2][3].frames)
    assert [outcome.value for outcome in runs[0]] == [outcome.value for outcome in runs[2]]


def test_frames_of_a_buffer_are_scattered():
    frames = done(session(), *M)[-1].frames
    assert len(set(frames)) == 32
    assert not {frame + PAGE for frame in frames} & set(frames)


# -- 64 KiB pages


def test_sixteen_entries_share_a_page_of_64_kib():
    it = session(page_size=LARGE)
    frames = done(it, *M)[-1].frames
    assert [frame - frames[0] for frame in frames[:16]] == [i * PAGE for i in range(16)]
    assert frames[16] not in {frames[15] + PAGE, frames[0]}
    assert told(it, *enabled(), mapping(0x5000, 20, Page("m", 3)), Read(what="pins"))[-2:] == [0, 20]
    assert entries(look(it)) == {5 + i: frames[3 + i] | 3 for i in range(20)}
    pins = it.machine.ram.pins
    assert {frame: pins[frame] for frame in (frames[0], frames[16])} == {frames[0]: 13, frames[16]: 7}
    assert told(it, unmapping(0x6000, 4), Read(what="pins")) == [0, 16]
    assert pins[frames[0]] == 9
    assert told(it, mapping(0xA000, 2, Page("m", 30)), Read(what="pins")) == [0, 16]
    assert (pins[frames[0]], pins[frames[16]]) == (7, 9), "what was overwritten lets go of its own page"


def test_a_device_reaches_each_of_the_sixteen():
    it = session(page_size=LARGE)
    ops = [Fill(buffer="m", offset=7 * PAGE, size=64, seed=1), *enabled(), get_device(file="d"), Master(file="d")]
    done(it, *M, *ops, mapping(0, 1, Page("m", 7)), mapping(0x1000, 1, Page("m", 9)))
    done(it, Dma(file="d", iova=0, size=64, to_memory=False), Dma(file="d", iova=0x1010, size=32, to_memory=True))
    frame = done(it, Frames(buffer="m"))[0].frames[9]
    page = look(it).pages[frame]
    assert page[:16] == bytes(16)
    assert page[16:48] == data(NONCE, 1, 64)[:32]
    assert page[48:] == bytes(PAGE - 48)


def test_with_64_kib_pages_charges_are_whole_pages_rounded_down():
    it = session(page_size=LARGE)
    done(it, *M)
    assert told(it, *enabled(), charged(0), mapping(0), charged(0))[-3:] == [WINDOW_KIB, 0, WINDOW_KIB]
    assert told(session(), *M, *enabled(), mapping(0), charged(0))[-1] == WINDOW_KIB + 32


def test_with_64_kib_pages_a_window_is_charged_in_those_against_the_limit():
    for memlock, expected in ((WINDOW, 0), (WINDOW + LARGE - 1, 0), (WINDOW - 1, "ENOMEM")):
        it = session(page_size=LARGE)
        ops = (*joined(), child("p", uid=NOBODY, memlock=memlock), Ioctl(by="p", file="c", request="ENABLE"))
        assert told(it, *M, *ops)[-1] == expected


def test_a_run_with_64_kib_pages_is_judged_like_any_other():
    ops = (*enabled(), mapping(0, 20), Read(what="vmlck"), Read(what="pins"), Checkpoint(), unmapping(0x2000, 9))
    made = program(
        Read(what="vmlck"), Read(what="pins"), *ops, Read(what="pins"), Checkpoint(), *closing(), Checkpoint()
    )
    verdict = judge(perform_program(made, session(page_size=LARGE)))
    assert (verdict.result, [finding.message for finding in verdict.findings]) == ("pass", [])


# -- lies


@pytest.mark.parametrize("bit", [0, 1, 2, 12, 40, 63])
def test_a_bit_that_was_flipped_is_seen_and_flipped_back_is_not(bit):
    ops = [*enabled(), mapping(0x3000)]
    lie = Flip(liobn=PE1, ioba=0x3000, bit=bit)
    it = session()
    judge_ = Judge(made := program(*ops, lie, Checkpoint(label="lie"), lie, Checkpoint(label="truth")), it.facts)
    steps = perform_program(made, it, judge_).steps
    flipped = steps[-4].outcome
    assert flipped.fields["before"] ^ flipped.fields["after"] == 1 << bit
    assert (flipped.value, steps[-2].outcome.value) == (flipped.fields["after"], flipped.fields["before"])
    assert {(finding.law, finding.step) for finding in judge_.ledger.findings} == {("table", len(made.ops) - 3)}


def test_a_flip_of_an_empty_entry_makes_one():
    it = session()
    it.intervene(Flip(liobn=PE2, ioba=0xFFF000, bit=20), [])
    assert entries(look(it), PE2) == {4095: 1 << 20}


# -- how it ends


def test_what_is_not_modelled_is_unsupported_and_never_a_guess():
    it = session()
    done(it, *M, *opened(), set_container())
    with pytest.raises(Unsupported, match="no file /dev/kvm"):
        done(it, Open(file="k", path="/dev/kvm"))
    with pytest.raises(Unsupported, match="no DEVICE_SET_IRQS"):
        done(it, set_iommu(), get_device(file="d"), call("DEVICE_SET_IRQS", file="d"))


def test_a_program_that_asks_for_what_is_not_modelled_could_not_be_judged():
    made = program(*opened(), Open(file="k", path="/dev/kvm"), Checkpoint())
    verdict = judge(perform_program(made, session()))
    assert (verdict.result, verdict.exit_code) == ("could-not-judge", 125)
    assert any("no file /dev/kvm" in reason for reason in verdict.could_not)


def test_a_bug_of_the_kernel_is_a_finding_that_names_the_operation():
    dies = mapping(0)
    made = program(Checkpoint(), *joined(), enable(), dies, Checkpoint())
    verdict = judge(
        perform_program(made, session(profile_name="seed2013", preset_states=["table-loses-group-once-enabled"]))
    )
    (finding,) = verdict.findings
    assert (finding.law, verdict.exit_code) == ("kernel", 1)
    assert finding.message.startswith("the kernel died during #")
    assert "MAP_DMA" in finding.operation
    assert "BUG_ON(!tbl->it_group)" in finding.seen


def test_operations_before_the_last_one_were_done_when_the_kernel_dies():
    it = session(profile_name="seed2013", preset_states=["table-loses-group-once-enabled"])
    with pytest.raises(GuestLost) as death:
        done(it, *M, *joined(), enable(), mapping(0), Read(what="pins"))
    assert (death.value.kernel_died, death.value.in_flight) == (True, len(M) + len(joined()) + 1)
    assert "kernel BUG" in death.value.scene.console[-1]


def test_an_error_of_the_program_is_none_of_the_kernels():
    with pytest.raises(HarnessError, match="no buffer 'nobody'"):
        done(session(), Frames(buffer="nobody"))


# -- operations in processes


def test_a_child_has_buffers_charges_and_files_of_its_own():
    it = session()
    ops = [*joined(), child("p"), Buffer(by="p", name="b", pages=2), Frames(by="p", buffer="b"), enable(by="p")]
    frames = done(it, *M, *ops)[-2].frames
    mine = mapping(0x4000, 2, Page("b"), by="p")
    assert told(it, mine, charged(0, by="p"), charged(0), mapping(0)) == [0, WINDOW_KIB + 32, 0, "EPERM"]
    assert entries(look(it)) == {4: frames[0] | 3, 5: frames[1] | 3}
    done(it, Fill(by="p", buffer="b", offset=0, size=PAGE, seed=3), Exit(process="p"))
    pages = look(it, *frames).pages
    assert pages[frames[0]] == data(NONCE, 3, PAGE), "what entries lead to is pinned"
    assert told(it, *closing(), charged(0), Read(what="pins")) == [0, 0, 0, 0]


def test_memory_of_a_child_that_is_gone_is_no_memory():
    it = session()
    ops = [Spawn(process="p"), Buffer(by="p", name="b", pages=1), Frames(by="p", buffer="b"), Exit(process="p")]
    (frame,) = done(it, *M, *ops)[-2].frames
    assert look(it, frame).pages == {frame: None}


def test_a_file_that_a_child_has_left_open_is_closed_with_it():
    it = session()
    done(it, *M, Spawn(process="p"), Bind(by="p", device="pe1"))
    group = msgspec.structs.replace(open_group(), by="p")
    assert told(it, group, Open(file="x", path="/dev/vfio/$pe1"))[1] == "EBUSY"
    assert told(it, Exit(process="p"), open_group())[1] >= 0


def test_a_struct_in_a_buffer_is_read_and_written_where_it_lies():
    it = session()
    done(it, *M, *enabled(), Put(buffer="m", request="SPAPR_TCE_GET_INFO", offset=PAGE - 8))
    # Over the end of a page: neighbours in the buffer, but not in RAM.
    assert told(it, Ioctl(file="c", request="SPAPR_TCE_GET_INFO", value=Page("m", 0, PAGE - 8))) == [0]
    frames = done(it, Frames(buffer="m"))[0].frames
    pages = look(it, *frames[:2]).pages
    assert pages[frames[0]][-8:-4] == (16).to_bytes(4, sys.byteorder)
    assert pages[frames[1]][:8] == bytes(4) + WINDOW.to_bytes(4, sys.byteorder)
    done(it, Protect(buffer="m", access="read"))
    assert told(it, Ioctl(file="c", request="SPAPR_TCE_GET_INFO", value=Page("m", 0, PAGE - 8))) == ["EFAULT"]


def test_bus_master_goes_with_the_last_file_of_a_device():
    it = session()
    transfer = {"iova": 0, "size": 8, "to_memory": False}
    done(it, *M, *enabled(), mapping(0), get_device(file="d"), Master(file="d"), get_device(file="e"))
    done(it, Close(file="d"), Dma(file="e", **transfer))
    assert look(it).refusals == ()
    done(it, Close(file="e"))
    assert not it.machine.pes[1].devices["pe1"].master
    done(it, get_device(file="f"), Dma(file="f", **transfer))
    assert [each.line.rpartition(": ")[2] for each in look(it).refusals] == ["bus master off"]


@pytest.mark.parametrize("quirks", [(), tuple(QUIRKS)], ids=["no quirk", "all quirks"])
def test_meetings_are_of_quirks_that_it_has(quirks):
    it = session(quirks=quirks)
    ops = (*enabled(), mapping(0, 2), mapping(0x8, expect=None), mapping(0, 4, Page("m", 30), expect=None))
    done(it, *M, *ops, Protect(buffer="m", access="read"), mapping(0x9000, flags=1))
    met = it.take_quirk_hits()
    assert [each.quirk for each in met] == (
        ["misaligned-iova-returns-1", "rollback-loses-entries", "pin-for-write"] if quirks else []
    )
    assert [each.lost for each in met if each.lost] == ([((PE1, 0), (PE1, 1))] if quirks else [])
    assert it.take_quirk_hits() == []
