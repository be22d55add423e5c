"""The emulated kernel's DMA API: masks, handles that are free, and what a reference is told."""

from dma_story import WHERE
from msgspec.structs import replace

from tcelab.emulator import EmulatorSession
from tcelab.program import Buffer, Ddw, DmaAlloc, DmaBind, DmaFree, DmaMap, DmaMask, DmaUnbind, DmaUnmap, Page
from tcelab.program.topology import topology
from tcelab.run.record import Outcome


def done(session, *ops):
    return session.perform(ops)


def direct(session, device, *masks):
    return [each.fields["direct"] for each in done(session, *(DmaMask(device=device, bits=bits) for bits in masks))]


def test_the_first_mask_of_64_bits_has_a_window_made_that_masks_above_32_bits_then_use():
    session = EmulatorSession(WHERE)
    done(session, DmaBind(device="pe1"), DmaBind(device="test1"))
    assert direct(session, "pe1", 32, 64, 33, 63, 32) == [False, True, True, True, False]
    assert direct(session, "test1", 40) == [True]  # of the same PE


def test_a_mask_between_spoils_the_pe_that_has_no_window_yet():
    session = EmulatorSession(WHERE)
    done(session, DmaBind(device="pe1"))
    assert direct(session, "pe1", 40, 64) == [False, False]
    plain = EmulatorSession(topology("dma-api-default"))
    done(plain, DmaBind(device="pe1"))
    assert direct(plain, "pe1", 64) == [False]


def test_a_window_that_is_full_refuses_and_a_mask_that_is_too_narrow_as_well():
    session = EmulatorSession(WHERE)
    whole = [DmaAlloc(device="pe1", buffer=f"b{turn}", pages=256) for turn in range(16)]
    _, *given = done(session, DmaBind(device="pe1"), *whole)
    assert [each.errno for each in given] == [""] * 15 + ["ENOMEM"]
    freed, again = done(session, DmaFree(buffer="b3"), whole[3])
    assert (freed.value, again.fields) == (0, given[3].fields)
    missing, unknown = done(session, DmaFree(buffer="b15"), DmaUnmap(name="never"))
    assert (missing.errno, unknown.errno) == ("ENOENT", "ENOENT")


def test_a_reference_gives_what_the_other_run_was_given():
    session = EmulatorSession(WHERE)
    page = DmaMap(device="pe1", name="m", page=Page("b", 0, 5), size=9)
    done(session, Buffer(name="b", pages=1), DmaBind(device="pe1"))
    session.handles(Outcome(errno="ENOMEM"))
    (refused,) = done(session, page)
    session.handles(Outcome(value=1, fields={"segments": [[0x5005, 9]]}))
    (given,) = done(session, replace(page, name="n"))
    assert (refused.errno, given.fields["segments"]) == ("ENOMEM", [[0x5005, 9]])
    table = session.machine.pes[1].table
    assert [number for number in range(table.entries) if table.get(number)] == [5]
    done(session, DmaUnbind(device="pe1"))
    assert not table.words.any()


def test_renewing_takes_all_of_it_away():
    session = EmulatorSession(WHERE)
    done(session, DmaBind(device="pe1"), DmaAlloc(device="pe1", buffer="own", pages=2))
    session.renew()
    assert not session.machine.pes[1].table.words.any()
    assert session.machine.pes[1].driven == set()


TAKE = Ddw(call="create", device="pe1", page_shift=12, window_shift=12)


def test_where_no_window_is_left_the_default_one_is_replaced_and_nothing_narrow_works_any_more():
    session = EmulatorSession(WHERE)
    session.intervene(TAKE, ())
    done(session, Buffer(name="b", pages=1), DmaBind(device="pe1"))
    assert direct(session, "pe1", 64) == [True]
    windows = session.machine.pes[1].windows
    assert [(each.liobn, each.page_shift, each.bus_offset) for each in windows.active] == [
        (0x80000100, 24, 1 << 59),
        (0x80000101, 12, 1 << 59),
    ]
    page = DmaMap(device="pe1", name="m", page=Page("b"), size=9)
    narrow, between, none = done(session, DmaMask(device="pe1", bits=32), DmaMask(device="pe1", bits=40), page)
    assert (narrow.errno, narrow.fields["streaming"], narrow.fields["direct"]) == ("EIO", 64, True)
    assert (between.fields["direct"], none.errno) == (True, "ENOMEM")
    unbound, bound = done(session, DmaUnbind(device="pe1"), DmaBind(device="pe1"))
    assert (unbound.errno, bound.fields["window_start"], bound.fields["window_size"]) == ("", 0, 1 << 24)


def test_a_default_window_in_use_is_not_replaced_then_or_later():
    session = EmulatorSession(WHERE)
    session.intervene(TAKE, ())
    done(session, Buffer(name="b", pages=1), DmaBind(device="pe1"), DmaBind(device="test1"))
    done(session, DmaMap(device="test1", name="m", page=Page("b"), size=9))
    assert direct(session, "pe1", 64) == [False]
    done(session, DmaUnmap(name="m"))
    assert direct(session, "pe1", 64) == [False]
    assert session.machine.pes[1].windows.low.page_shift == 12
