"""Windows on the emulator: firmware's services one by one, and a container of type v2 as the driver's source has it."""

import pytest
from msgspec import structs

from tcelab import scenarios
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.errors import HarnessError, Unsupported
from tcelab.judge import Judge
from tcelab.papr import window, windowcreation
from tcelab.papr.tcetable import Table
from tcelab.program import Ddw, Flip, Ioctl, Page, Read
from tcelab.program.topology import topology
from tcelab.quirks import CREATE_CHARGES, MISALIGNED, REFUSED_SPOILS, ROLLBACK, UNREGISTERS_IN_USE
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

LOW = 0x80000100
HIGH = window.SECOND_START
TOPOLOGY = topology("two-small")
ONE = b.pes(TOPOLOGY, "t")[0]
PAGES = 64


@pytest.fixture
def windows():
    return windowcreation.Windows(Table(LOW, 4096))


def shapes(windows):
    return {table.liobn: (table.entries, table.page_shift, table.bus_offset) for table in windows.active}


def test_a_second_window_is_above_and_a_third_there_is_none(windows):
    assert windows.create(16, 28) == (0, {"liobn": LOW | 1, "start": HIGH})
    assert shapes(windows) == {LOW: (4096, 12, 0), LOW | 1: (4096, 16, HIGH)}
    assert windows.create(12, 24) == (-1, {})
    assert windows.query() == (0, {"left": 0, "largest": 0x2000000000, "page_sizes": 0x107, "migration": 0})


def test_the_first_of_all_windows_is_at_the_low_end(windows):
    assert windows.remove(LOW).status == 0
    assert windows.create(21, 30) == (0, {"liobn": LOW, "start": 0})
    assert windows.create(24, 30).outputs == {"liobn": LOW | 1, "start": HIGH}
    assert shapes(windows) == {LOW: (512, 21, 0), LOW | 1: (64, 24, HIGH)}
    windows.low.put(3, 0x5003)
    windows.reset()
    assert (shapes(windows), windows.low.get(3)) == ({LOW: (4096, 12, 0)}, 0)


@pytest.mark.parametrize(("shift", "size"), [(13, 24), (0, 24), (25, 30), (16, 15)])
def test_a_page_size_that_is_not_offered_or_does_not_fit_is_a_wrong_parameter(windows, shift, size):
    assert windows.create(shift, size) == (-3, {})
    assert shapes(windows) == {LOW: (4096, 12, 0)}


def test_what_is_not_there_cannot_be_removed(windows):
    assert [windows.remove(liobn).status for liobn in (LOW | 1, LOW + 0x100, LOW, LOW)] == [-3, -3, 0, -3]


def test_the_default_window_comes_back_when_the_last_one_goes_that_is_not_in_its_place(windows):
    windows.create(16, 28)
    assert [windows.remove(LOW).status, windows.remove(LOW | 1).status] == [0, 0]
    assert shapes(windows) == {LOW: (4096, 12, 0)}
    windows.remove(LOW)
    windows.create(16, 28)
    assert (windows.remove(LOW).status, shapes(windows)) == (0, {})


def test_a_reset_empties_the_default_window(windows):
    windows.low.put(7, 0x7003)
    windows.create(16, 28)
    windows.reset()
    assert (shapes(windows), windows.low.get(7)) == ({LOW: (4096, 12, 0)}, 0)


# -- the scenario, by the laws


@pytest.mark.parametrize("where", ["one-pe", "two-small"])
@pytest.mark.parametrize("page_size", [4096, 1 << 16])
def test_the_scenario_breaks_no_law_on_the_emulator(where, page_size):
    program = scenarios.build("windows", topology(where), 3)
    session = EmulatorSession(program.topology, page_size=page_size)
    judge = Judge(program, session.facts)
    verdict = judge.verdict(perform_program(program, session, judge))
    assert (verdict.findings, verdict.could_not) == ([], [])
    assert verdict.evidence.tags > 1000


# -- a container of type v2


class Stage:
    def __init__(self, *quirks):
        self.session = EmulatorSession(TOPOLOGY, quirks=quirks)
        self.do(b.buffer("a", PAGES, 1)[0], structs.replace(b.buffer("h", 1024, 1)[0], huge=True))
        self.do(*b.bind(ONE), *b.open_container(ONE, b.SPAPR_TCE_V2))

    def do(self, *ops):
        return self.session.perform(list(ops))[-1]

    def ask(self, request, **fields):
        outcome = self.do(Ioctl(file=ONE.container, request=request, fields=fields))
        return outcome.errno or outcome.value

    def register(self, name="a", pages=PAGES, **more):
        return self.ask("SPAPR_REGISTER_MEMORY", **{"vaddr": Page(name), "size": pages * b.PAGE, **more})

    def unregister(self, name="a", pages=PAGES):
        return self.ask("SPAPR_UNREGISTER_MEMORY", vaddr=Page(name), size=pages * b.PAGE)

    def create(self, shift=16, size=1 << 24, **more):
        return self.ask("SPAPR_TCE_CREATE", **{"page_shift": shift, "window_size": size, "levels": 1, **more})

    def map(self, iova, page=0, pages=1, name="a", flags=3):
        return self.ask("MAP_DMA", vaddr=Page(name, page), iova=iova, size=pages * b.PAGE, flags=flags)

    def count(self, what):
        return self.do(Read(what=what)).value

    def live(self, *, high=False):
        return self.session.machine.pes[1].windows.tables[high].live()[0].tolist()


@pytest.fixture
def stage():
    return Stage()


def test_nothing_can_be_mapped_before_memory_is_registered_and_no_other(stage):
    assert stage.map(0) == "EPERM"
    assert stage.register() == 0
    assert stage.map(0, page=PAGES - 1, pages=2) == "EINVAL"
    assert stage.map(0, name="h") == "EINVAL"
    assert stage.map(0, pages=2) == 0
    assert stage.live() == [0, 1]


@pytest.mark.parametrize(
    ("fields", "errno"),
    [
        ({"argsz": 23}, "EINVAL"),
        ({"flags": 1}, "EINVAL"),
        ({"vaddr": Page("a", plus=8)}, "EINVAL"),
        ({"size": 100}, "EINVAL"),
        ({"vaddr": 0x1000}, "EFAULT"),
        ({"vaddr": (1 << 64) - 4096, "size": 8192}, "EINVAL"),
    ],
)
def test_memory_that_cannot_be_registered_costs_nothing(stage, fields, errno):
    assert stage.register(**fields) == errno
    assert (stage.count("vmlck"), stage.count("pins")) == (0, 0)


def test_memory_is_registered_once_and_pinned_by_pages(stage):
    assert (stage.register(), stage.register(), stage.register(pages=8)) == (0, "EBUSY", "EINVAL")
    assert (stage.count("vmlck"), stage.count("pins")) == (256, PAGES)
    assert (stage.unregister(pages=8), stage.unregister(), stage.unregister()) == ("ENOENT", 0, "ENOENT")
    assert (stage.count("vmlck"), stage.count("pins")) == (0, 0)


def test_memory_that_is_in_use_stays_registered(stage):
    stage.register()
    stage.map(0)
    assert (stage.unregister(), stage.unregister()) == ("EBUSY", "EBUSY")
    assert (stage.count("pins"), stage.count("vmlck")) == (PAGES, 256 + 32)
    assert (stage.ask("UNMAP_DMA", iova=0, size=b.PAGE), stage.unregister()) == (0, 0)
    assert (stage.count("pins"), stage.count("vmlck")) == (0, 32)


def test_what_ends_behind_the_window_meets_the_defect_of_what_is_misaligned():
    stage = Stage(MISALIGNED)
    stage.register()
    end = stage.session.machine.pes[1].windows.tables[0].entries * b.PAGE
    assert (stage.map(end - b.PAGE, pages=2), stage.session.machine.met) == (1, {MISALIGNED: 1})
    honest = Stage()
    honest.register()
    assert (honest.map(end - b.PAGE, pages=2), honest.session.machine.met) == ("EINVAL", {})


def test_memory_that_is_in_use_stays_pinned_and_nobody_says_so_on_a_kernel_with_that_defect():
    stage = Stage(UNREGISTERS_IN_USE)
    stage.register()
    stage.map(0)
    assert (stage.unregister(), stage.unregister()) == (0, "ENOENT")
    assert (stage.count("pins"), stage.count("vmlck")) == (PAGES, 256 + 32)
    assert stage.map(0x5000) == 0, "and can be mapped"
    assert stage.session.machine.met == {UNREGISTERS_IN_USE: 1}


def test_a_page_of_a_window_lies_in_a_page_of_the_memory(stage):
    stage.register()
    stage.register("h", 1024)
    stage.create(16)
    assert stage.map(HIGH, pages=16) == "EINVAL"
    assert stage.map(HIGH, pages=16, name="h") == 0
    stage.ask("SPAPR_TCE_REMOVE", start_addr=HIGH)
    stage.create(21, 1 << 30)
    assert stage.map(HIGH + (1 << 21), pages=1024, name="h") == 0
    assert stage.live(high=True) == [1, 2]
    stage.ask("SPAPR_TCE_REMOVE", start_addr=HIGH)
    stage.create(24, 1 << 30)
    assert stage.map(HIGH, pages=4096, name="h") == "EINVAL"


@pytest.mark.parametrize(
    ("fields", "errno", "kept"),
    [
        ({"argsz": 39}, "EINVAL", 0),
        ({"flags": 1}, "EINVAL", 0),
        ({"page_shift": 13}, "EINVAL", 32),
        ({"page_shift": 12, "window_size": 3 << 24}, "EINVAL", 32 + 96),
        ({"levels": 2}, "EINVAL", 32 + 0xFFFFF * 4),
        ({}, 0, 32),
    ],
)
def test_a_window_that_cannot_be_made_costs_nothing_but_on_a_kernel_with_that_defect(fields, errno, kept):
    stage, defective = Stage(), Stage(CREATE_CHARGES)
    assert (stage.create(**fields), defective.create(**fields)) == (errno, errno)
    assert (stage.count("vmlck"), defective.count("vmlck")) == (min(kept, 32), kept)
    assert defective.session.machine.met[CREATE_CHARGES] == (kept > 32)


def test_a_window_that_firmware_did_not_make_spoils_its_pe_on_a_kernel_with_that_defect(stage):
    spoilt = Stage(REFUSED_SPOILS)
    taken = Ddw(call="create", device="pe1", page_shift=16, window_shift=28)
    back = Ddw(call="remove", device="pe1", liobn=LOW | 1)
    for each in (stage, spoilt):
        assert each.create(13) == "EINVAL"  # but now there is the default window
        assert each.session.intervene(taken, []).value == 0
        assert each.create() == "ENODEV"
        assert each.session.intervene(back, []).value == 0
    assert (stage.create(), spoilt.create()) == (0, "ENODEV")
    assert spoilt.count("vmlck") == 32


def test_the_table_of_a_window_is_held_up_to_a_size_and_none_is_made_up(stage):
    with pytest.raises(Unsupported, match=r"holds no table of a window with 2\^25 entries"):
        stage.create(12, 1 << 37)


def test_a_window_is_removed_by_any_address_in_it_with_all_that_it_has(stage):
    stage.register("h", 1024)
    assert stage.create(12, 1 << 24) == 0
    assert stage.create() == "ENOSPC"
    stage.map(HIGH + 0x7000, name="h", pages=3)
    assert stage.ask("SPAPR_TCE_REMOVE", start_addr=HIGH + (1 << 24)) == "EINVAL"
    assert stage.ask("SPAPR_TCE_REMOVE", start_addr=HIGH + (1 << 24) - 1) == 0
    assert stage.map(HIGH, name="h") == "ENXIO"
    assert stage.unregister("h", 1024) == 0
    assert (stage.count("pins"), stage.count("vmlck")) == (0, 32)


def test_all_is_given_back_when_the_group_is_closed(stage):
    stage.register("h", 1024)
    stage.create()
    stage.map(HIGH, name="h", pages=16)
    stage.map(0, name="h")
    stage.do(*b.close(ONE.group))
    assert (stage.count("pins"), stage.count("vmlck"), stage.live()) == (0, 0, [])
    assert stage.session.machine.pes[1].windows.high.entries == 0


@pytest.mark.parametrize(("quirks", "gives"), [((), "EINVAL"), ((MISALIGNED,), 1)])
def test_a_misaligned_address_is_so_by_the_windows_own_pages(quirks, gives):
    stage = Stage(*quirks)
    stage.register("h", 1024)
    stage.create(16)
    assert stage.map(HIGH + b.PAGE, pages=16, name="h") == gives
    assert stage.ask("UNMAP_DMA", iova=HIGH + b.PAGE, size=1 << 16) == gives
    assert stage.map(HIGH, pages=1, name="h") == "EINVAL"


def test_a_map_that_fails_half_way_leaves_what_was_there_but_for_the_quirk():
    for quirks, left in (((), [0]), ((ROLLBACK,), [])):
        stage = Stage(*quirks)
        stage.register()
        stage.map(0)
        assert stage.map(0, page=PAGES - 1, pages=2) == "EINVAL"
        assert stage.live() == left


def test_a_bit_can_be_flipped_in_either_window(stage):
    stage.session.intervene(Ddw(call="create", device="pe2", page_shift=16, window_shift=24), [])
    outcome = stage.session.intervene(Flip(liobn=0x80000201, ioba=HIGH + (3 << 16), bit=16), [])
    assert (outcome.value, stage.session.machine.pes[2].windows.high.get(3)) == (1 << 16, 1 << 16)
    with pytest.raises(HarnessError, match="no bit 16 of an entry"):
        stage.session.intervene(Flip(liobn=0x80000101, ioba=HIGH, bit=16), [])
