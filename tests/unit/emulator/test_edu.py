"""The emulated edu: its registers in their byte order, its timer, and which bytes of a transfer arrive."""

import sys
from types import SimpleNamespace

import pytest

from tceagent import edu as driver
from tceagent.edu import BUFFER, BUFFER_SIZE, COMMAND, COUNT, DESTINATION, RUN, SOURCE, TO_MEMORY
from tcelab.emulator.addressspaces import MASK, EmulatedRam
from tcelab.emulator.edudevice import LIVENESS, Edu
from tcelab.emulator.pci import EmulatedRegisters
from tcelab.papr.tcetable import Table

PAGE = 4096
LARGE = 65536
ENTRIES = 16
END = ENTRIES * PAGE
READ, WRITE, BOTH = 1, 2, 3
OFF, OUTSIDE, EMPTY, PERMISSION = "bus master off", "outside the window", "no entry", "permission"
RUNS = {"from memory": RUN, "to memory": RUN | TO_MEMORY}


class Stand:
    """An edu on a window of 16 pages; a clock that somebody must turn."""

    def __init__(self, mask=MASK, page_size=PAGE):
        self.ram = EmulatedRam(page_size, 5)
        self.table = Table(0x80000100, ENTRIES)
        self.refused = []
        self.edu = Edu("pe1", self.table, self.ram, self.refused.append, mask)
        self.edu.master = True
        self.now = 0.0

    def map(self, entry, permissions=BOTH, byte=None):
        """A page of its own, filled with one byte."""
        frame = self.ram.allocate()
        self.ram.write(frame, bytes([entry + 1 if byte is None else byte]) * PAGE)
        self.table.put(entry, frame | permissions)
        return frame

    def at(self, frame, start=0, size=PAGE):
        return self.ram.read(frame + start, size)

    def begin(self, direction, iova, size, offset=0):
        inside = BUFFER + offset
        source, destination = (inside, iova) if direction == "to memory" else (iova, inside)
        for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, size)):
            self.edu.write(register, 8, value)
        self.edu.write(COMMAND, 8, RUNS[direction])

    def wait(self, seconds=0.1):
        self.now += seconds
        self.edu.tick(self.now)

    def transfer(self, direction, iova, size, offset=0):
        self.begin(direction, iova, size, offset)
        self.wait()
        assert not self.edu.read(COMMAND, 8) & RUN

    @property
    def told(self):
        """Of each refusal: direction, address, size, reason."""
        return [(each.direction, each.address, each.size, each.line.rpartition(": ")[2]) for each in self.refused]


@pytest.fixture
def stand():
    return Stand()


# -- registers


def test_it_says_who_it_is(stand):
    assert stand.edu.read(0, 4) == 0x010000ED
    assert stand.edu.config[:4] == bytes.fromhex("3412e811")


def test_the_liveness_register_inverts_what_is_written(stand):
    stand.edu.write(LIVENESS, 4, 0x12345678)
    assert stand.edu.read(LIVENESS, 4) == 0xEDCBA987


@pytest.mark.parametrize("offset", [0, LIVENESS])
def test_registers_below_0x80_are_4_bytes_wide_and_an_access_of_8_is_none(stand, offset):
    stand.edu.write(LIVENESS, 4, 0x12345678)
    stand.edu.write(LIVENESS, 8, 0)
    assert stand.edu.read(LIVENESS, 4) == 0xEDCBA987
    assert stand.edu.read(offset, 8) == MASK


@pytest.mark.parametrize("register", [SOURCE, DESTINATION, COUNT])
def test_a_register_of_the_engine_holds_64_bits_and_shows_32_of_them_to_a_smaller_read(stand, register):
    stand.edu.write(register, 8, 0x1122334455667788)
    assert stand.edu.read(register, 8) == 0x1122334455667788
    assert stand.edu.read(register, 4) == 0x55667788
    stand.edu.write(register, 4, 0x99AABBCC)
    assert stand.edu.read(register, 8) == 0x99AABBCC


def test_the_second_half_of_a_register_is_none(stand):
    for size in (4, 8):
        stand.edu.write(SOURCE + 4, size, 0x12345678)
    assert stand.edu.read(SOURCE, 8) == 0
    assert stand.edu.read(SOURCE + 4, 8) == MASK


def test_a_command_without_run_is_ignored(stand):
    stand.edu.write(COMMAND, 8, TO_MEMORY)
    stand.wait(1)
    assert (stand.edu.read(COMMAND, 8), stand.refused) == (0, [])


def test_a_process_sees_big_endian_registers(stand):
    let_go = []
    mapped = EmulatedRegisters(stand.edu, lambda: let_go.append(1))
    assert mapped.read32(0).to_bytes(4, sys.byteorder) == bytes.fromhex("010000ed")
    mapped.write64(SOURCE, int.from_bytes(bytes.fromhex("1122334455667788"), sys.byteorder))
    assert stand.edu.read(SOURCE, 8) == 0x1122334455667788
    assert mapped.read64(SOURCE).to_bytes(8, sys.byteorder) == bytes.fromhex("1122334455667788")
    mapped.write32(COUNT, int.from_bytes(bytes.fromhex("00000100"), sys.byteorder))
    assert stand.edu.read(COUNT, 8) == 0x100
    mapped.close()
    assert let_go == [1]


@pytest.mark.parametrize("offset", [-8, 1, 4, 0x84])
def test_a_misaligned_register_is_an_error_of_the_program(stand, offset):
    mapped = EmulatedRegisters(stand.edu, lambda: None)
    with pytest.raises(ValueError, match="not a multiple of 8"):
        mapped.read64(offset)
    with pytest.raises(ValueError, match="not a multiple of 8"):
        mapped.write64(offset, 0)
    if offset % 4:
        with pytest.raises(ValueError, match="not a multiple of 4"):
            mapped.read32(offset)
        with pytest.raises(ValueError, match="not a multiple of 4"):
            mapped.write32(offset, 0)


def test_the_agents_driver_drives_it(stand):
    frame = stand.map(2)
    clock = SimpleNamespace(monotonic=lambda: stand.now, sleep=stand.wait, beat=lambda: None)
    mapped = EmulatedRegisters(stand.edu, lambda: None)
    assert driver.transfer(clock, mapped, 2 * PAGE + 16, 64, 8, to_memory=False) == 0
    assert stand.edu.memory[:80] == bytes(8) + b"\3" * 64 + bytes(8)
    assert 0.1 <= stand.now < 0.2
    stand.edu.memory[:4] = b"back"
    assert driver.transfer(clock, mapped, 2 * PAGE, 4, 0, to_memory=True) == 0
    assert stand.at(frame, 0, 5) == b"back\3"


# -- time


def test_a_transfer_is_done_100_ms_after_its_command(stand):
    stand.map(0)
    stand.wait(7)
    stand.begin("from memory", 0, 8)
    stand.wait(0.0999)
    assert (stand.edu.read(COMMAND, 8), stand.edu.memory[:8]) == (RUN, bytes(8))
    stand.wait(0.0001)
    assert (stand.edu.read(COMMAND, 8), stand.edu.memory[:8]) == (0, b"\1" * 8)


def test_nothing_can_be_written_while_a_transfer_runs(stand):
    stand.map(0)
    stand.map(1)
    stand.begin("from memory", 0, 8)
    stand.wait(0.05)
    for register in (SOURCE, DESTINATION, COUNT):
        stand.edu.write(register, 8, PAGE)
        stand.edu.write(register, 4, PAGE)
    stand.edu.write(COMMAND, 8, RUN | TO_MEMORY)
    stand.wait(0.05)
    assert stand.edu.memory[:16] == b"\1" * 8 + bytes(8), "the second command did not begin the time anew"
    stand.wait(1)
    assert [stand.edu.read(register, 8) for register in (SOURCE, DESTINATION, COUNT)] == [0, BUFFER, 8]


def test_a_command_is_done_once_and_keeps_its_direction(stand):
    frame = stand.map(0)
    stand.transfer("to memory", 0, 8)
    assert stand.edu.read(COMMAND, 8) == TO_MEMORY
    stand.ram.write(frame, b"after")
    stand.wait(1)
    assert stand.at(frame, 0, 5) == b"after"


# -- transfers, IOMMU page by IOMMU page


def test_a_transfer_goes_through_the_table_page_by_page(stand):
    frames = {entry: stand.map(entry) for entry in (3, 4)}
    stand.transfer("from memory", 4 * PAGE - 3, 6, offset=10)
    assert stand.edu.memory[:20] == bytes(10) + b"\4\4\4\5\5\5" + bytes(4)
    stand.edu.memory[10:16] = b"abcdef"
    stand.transfer("to memory", 4 * PAGE - 3, 6, offset=10)
    assert (stand.at(frames[3])[-4:], stand.at(frames[4])[:4]) == (b"\4abc", b"def\5")
    assert stand.refused == []


def test_two_entries_may_lead_to_one_page(stand):
    frame = stand.map(0)
    stand.table.put(9, frame | BOTH)
    stand.edu.memory[:2] = b"ab"
    stand.transfer("to memory", 9 * PAGE, 2)
    stand.transfer("from memory", 0, 2, offset=100)
    assert stand.edu.memory[100:102] == b"ab"


def test_an_entry_may_lead_into_the_middle_of_a_large_page():
    stand = Stand(page_size=LARGE)
    frame = stand.ram.allocate()
    for number in range(16):
        stand.ram.write(frame + number * PAGE, bytes([number]) * PAGE)
    stand.table.put(0, frame + 5 * PAGE | BOTH)
    stand.table.put(1, frame + 15 * PAGE | BOTH)
    stand.transfer("from memory", PAGE - 2, 4)
    assert stand.edu.memory[:4] == b"\5\5\x0f\x0f"


@pytest.mark.parametrize(
    ("direction", "permissions"), [("from memory", WRITE), ("to memory", READ), ("from memory", 0), ("to memory", 0)]
)
def test_a_page_without_the_permission_is_refused_and_the_others_pass(stand, direction, permissions):
    frames = [stand.map(entry) for entry in range(3)]
    stand.table.put(1, frames[1] | permissions)
    stand.edu.memory[:] = b"\xee" * BUFFER_SIZE
    stand.transfer(direction, PAGE - 4, PAGE - 8)
    stand.transfer(direction, 2 * PAGE - 4, 8, offset=PAGE - 8)
    reason = PERMISSION if permissions else EMPTY
    kind = "write" if direction == "to memory" else "read"
    assert stand.told == [(kind, PAGE, PAGE - 12, reason), (kind, 2 * PAGE - 4, 4, reason)]
    if direction == "to memory":
        assert stand.at(frames[0])[-5:] == b"\1" + b"\xee" * 4
        assert stand.at(frames[1]) == b"\2" * PAGE, "a write that is refused is dropped"
        assert stand.at(frames[2])[:5] == b"\xee" * 4 + b"\3"
    else:
        got = b"\1" * 4 + bytes(PAGE - 12) + bytes(4) + b"\3" * 4
        assert stand.edu.memory == got, "a read that is refused gives zeros, whatever was there"


@pytest.mark.parametrize("direction", RUNS)
def test_beyond_the_window_everything_is_refused(stand, direction):
    frame = stand.map(ENTRIES - 1)
    stand.edu.memory[:] = b"\xee" * BUFFER_SIZE
    stand.transfer(direction, END - 2, 4)
    stand.transfer(direction, 1 << 60, 4, offset=8)
    kind = "write" if direction == "to memory" else "read"
    assert stand.told == [(kind, END, 2, OUTSIDE), (kind, 1 << 60, 4, OUTSIDE)]
    if direction == "to memory":
        assert stand.at(frame)[-3:] == b"\x10\xee\xee"
    else:
        assert stand.edu.memory[:13] == b"\x10\x10\0\0" + b"\xee" * 4 + bytes(4) + b"\xee"


@pytest.mark.parametrize("direction", RUNS)
def test_without_bus_master_everything_is_refused(stand, direction):
    frame = stand.map(0)
    stand.edu.memory[:4] = b"\xee" * 4
    stand.begin(direction, 0, 4)
    stand.edu.master = False
    stand.wait()
    assert stand.told == [("write" if direction == "to memory" else "read", 0, 4, OFF)]
    assert stand.at(frame, 0, 4) == b"\1" * 4
    assert stand.edu.memory[:4] == (b"\xee" * 4 if direction == "to memory" else bytes(4))


def test_bus_master_is_a_bit_of_the_command_register(stand):
    on = int.from_bytes(stand.edu.config[4:6], "little")
    stand.edu.master = False
    assert int.from_bytes(stand.edu.config[4:6], "little") == on & ~4
    assert not stand.edu.master
    stand.edu.config[4] |= 4
    assert stand.edu.master


def test_an_entry_that_leads_where_no_ram_is_reads_zeros_and_drops_writes(stand):
    stand.table.put(0, 0x1000 | BOTH)
    stand.edu.memory[:4] = b"\xee" * 4
    before = {frame: bytes(page) for frame, page in stand.ram.pages.items()}
    stand.transfer("to memory", 0, 4)
    stand.transfer("from memory", 0, 4)
    assert stand.edu.memory[:4] == bytes(4)
    assert stand.ram.pages == before


def test_the_mask_folds_the_address_and_then_the_transfer_goes_on_from_there():
    stand = Stand(mask=2 * PAGE - 1)
    for entry in range(4):
        stand.map(entry)
    stand.transfer("from memory", 5 * PAGE - 2, 4)
    assert stand.edu.memory[:4] == b"\1\1\2\2"
    stand.transfer("from memory", 2 * PAGE - 2, 4, offset=8)
    assert stand.edu.memory[8:12] == b"\2\2\3\3", "its end is not folded"
    assert stand.refused == []


@pytest.mark.parametrize("direction", RUNS)
@pytest.mark.parametrize(("offset", "size"), [(0, BUFFER_SIZE + 1), (BUFFER_SIZE, 1), (-1, 1), (1, MASK), (-BUFFER, 8)])
def test_a_transfer_that_leaves_the_devices_buffer_is_skipped(stand, direction, offset, size):
    frame = stand.map(0)
    stand.edu.memory[:] = b"\xee" * BUFFER_SIZE
    stand.transfer(direction, 0, size, offset)
    assert stand.edu.memory == b"\xee" * BUFFER_SIZE
    assert stand.at(frame) == b"\1" * PAGE
    assert stand.refused == []


@pytest.mark.parametrize("direction", RUNS)
def test_the_whole_buffer_can_be_moved(stand, direction):
    frame = stand.map(0)
    stand.edu.memory[:] = b"\xee" * BUFFER_SIZE
    stand.transfer(direction, 0, BUFFER_SIZE)
    assert stand.edu.memory == stand.at(frame) == (b"\xee" if direction == "to memory" else b"\1") * PAGE


@pytest.mark.parametrize("offset", [0, BUFFER_SIZE])
def test_a_transfer_of_nothing_is_nothing(stand, offset):
    stand.transfer("from memory", END + 5, 0, offset)
    assert stand.refused == []
