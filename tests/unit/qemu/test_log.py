"""QEMU's log and trace, as it comes through the pipe."""

import os
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from patience import PATIENCE
from tcelab.errors import HarnessError
from tcelab.papr.window import Shape
from tcelab.qemu import log as log_module
from tcelab.qemu.log import Log, Refusals
from tcelab.qemu.tableaddresses import TableAddresses

NEW = "spapr_iommu_new_table liobn={:x} table=0x{:x} fd=-1"


@contextmanager
def piped(tmp_path):
    reader, writer = os.pipe()
    log = Log(reader, tmp_path / "qemu.log")
    try:
        yield log, writer
    finally:
        os.close(writer)
        log.close()


def test_the_newest_table_of_a_liobn_is_the_one_that_counts():
    tables = TableAddresses()
    tables.line(NEW.format(0x80000100, 0x7F0000001000))
    tables.line(NEW.format(0x80000200, 0x7F0000002000))
    tables.line(NEW.format(0x80000100, 0x7F0000003000))
    assert tables.at == {0x80000100: 0x7F0000003000, 0x80000200: 0x7F0000002000}


def test_a_removed_window_has_no_table():
    tables = TableAddresses()
    tables.line(NEW.format(0x80000101, 0x7F0000001000))
    tables.line(
        "spapr_iommu_ddw_create buid=0x800000020000001 addr=0x800, page size=0x10000, requested=0x40000000,"
        " start addr=0x800000000000000, liobn=80000101"
    )
    assert tables.shapes == {0x80000101: Shape(0x4000, 16, 1 << 59)}
    tables.line("spapr_iommu_ddw_remove liobn=80000101")
    assert tables.at == {}
    assert tables.shapes == {}


def test_a_reset_drops_the_second_window_and_forgets_a_size_of_the_first():
    tables = TableAddresses()
    tables.line(NEW.format(0x80000101, 0x7F0000001000))
    tables.line(NEW.format(0x80000201, 0x7F0000002000))
    tables.line(NEW.format(0x80000100, 0x7F0000004000))
    tables.shapes[0x80000100] = Shape(7)
    tables.line("spapr_iommu_ddw_reset buid=0x800000020000001 addr=0x800")
    assert set(tables.at) == {0x80000201, 0x80000100}
    assert tables.shapes == {}


def test_after_drain_all_that_was_said_is_known(tmp_path):
    with piped(tmp_path) as (log, writer):
        for turn in range(200):
            os.write(writer, (NEW.format(0x80000100, 0x1000 + turn) + "\n").encode())
            log.drain()
            assert log.tables.at[0x80000100] == 0x1000 + turn


def test_a_line_that_comes_in_two_pieces_is_one_line(tmp_path):
    with piped(tmp_path) as (log, writer):
        line = NEW.format(0x80000100, 0x7000)
        os.write(writer, line[:30].encode())
        log.drain()
        assert log.tables.at == {}
        os.write(writer, (line[30:] + "\n").encode())
        log.drain()
        assert log.tables.at == {0x80000100: 0x7000}


@pytest.mark.parametrize(
    ("line", "direction", "address"),
    [
        ("Invalid read at addr 0x40001000, size 4, region '(null)', reason: rejected", "read", 0x40001000),
        ("Invalid write at addr 0x3C, size 4, region '(null)', reason: rejected", "write", 0x3C),
    ],
)
def test_a_refused_access_is_known_by_direction_and_address(tmp_path, line, direction, address):
    with piped(tmp_path) as (log, writer):
        os.write(writer, line.encode() + b"\nInvalid something else\n")
        log.drain()
        (refusal,) = log.take_refusals()
        assert (refusal.direction, refusal.address, refusal.size) == (direction, address, 4)
        assert log.take_refusals() == ()


def test_a_full_pipe_never_stops_the_writer(tmp_path):
    """8 MiB without one drain: more than any pipe holds, so only the thread can have taken it."""
    chunk = (NEW.format(0x80000100, 0x7000) + "\n").encode() * 1024
    with piped(tmp_path) as (_, writer):
        done = threading.Event()

        def write():
            for _ in range(8 * 1024 * 1024 // len(chunk)):
                os.write(writer, chunk)
            done.set()

        threading.Thread(target=write, daemon=True).start()
        assert done.wait(PATIENCE)


def test_the_log_is_written_down(tmp_path):
    with piped(tmp_path) as (_, writer):
        os.write(writer, b"qemu says\n")
    assert (tmp_path / "qemu.log").read_bytes() == b"qemu says\n"


def test_a_table_of_no_address_is_no_table():
    tables = TableAddresses()
    tables.line(NEW.format(0x80000100, 0x7000))
    tables.line("spapr_iommu_new_table liobn=80000100 table=(nil) fd=-1")
    assert tables.at == {}


def test_one_drain_reads_all_chunks_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "_CHUNK", 16)
    monkeypatch.setattr(Log, "_watch", lambda _: None)  # the drain has to do it alone
    with piped(tmp_path) as (log, writer):
        lines = [NEW.format(0x80000100 + turn, 0x1000 + turn) for turn in range(50)]
        os.write(writer, ("\n".join(lines) + "\n").encode())
        log.drain()
        assert log.tables.at == {0x80000100 + turn: 0x1000 + turn for turn in range(50)}


def test_of_a_log_that_grows_too_long_the_newest_lines_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "_LOG_KEPT", 100)
    with piped(tmp_path) as (log, writer):
        for turn in range(20):
            os.write(writer, (NEW.format(0x80000100, 0x1000 + turn) + "\n").encode())
            log.drain()
        assert log.tables.at == {0x80000100: 0x1000 + 19}
    kept = (tmp_path / "qemu.log").read_text()
    before = (tmp_path / "qemu.log.1").read_text()
    note = "[tcelab: what came before is in the file .1; older lines are gone]\n"
    assert kept.startswith(note)
    assert kept.endswith(NEW.format(0x80000100, 0x1000 + 19) + "\n")
    both = (before + kept).replace(note, "").splitlines()
    assert both == [NEW.format(0x80000100, 0x1000 + turn) for turn in range(20 - len(both), 20)]
    assert len(both) >= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qemu.log", "qemu.log.1"]


def test_a_full_disk_is_told_at_the_next_drain_and_reading_goes_on(tmp_path):
    class Full:
        def write(self, _data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    with piped(tmp_path) as (log, writer):
        log._file.close()
        log._file = Full()
        for turn in range(2):
            os.write(writer, (NEW.format(0x80000100, 0x1000 + turn) + "\n").encode())
            with pytest.raises(HarnessError, match=r"cannot write qemu\.log: No space left"):
                log.drain()
            assert log.tables.at == {0x80000100: 0x1000 + turn}


def test_a_writer_that_left_is_not_waited_for_busily(tmp_path):
    reader, writer = os.pipe()
    log = Log(reader, tmp_path / "qemu.log")
    os.write(writer, b"last words\n")
    os.close(writer)
    before = time.process_time()
    time.sleep(0.2)
    spent = time.process_time() - before
    log.close()
    assert spent < 0.1
    assert (tmp_path / "qemu.log").read_bytes() == b"last words\n"


WORD = "Invalid {} at addr {:#x}, size 4, region '(null)', reason: rejected"


def refusals_of(*accesses):
    refusals = Refusals()
    for direction, address, size in accesses:
        refusals.add(direction, address, size, WORD.format(direction, address))
    return refusals


def test_words_in_a_row_are_one_refusal_as_far_as_their_page_goes():
    row = [("write", 0xFF8 + 4 * word, 4) for word in range(4)]
    told = refusals_of(*row).told()
    assert [(each.address, each.size) for each in told] == [(0xFF8, 8), (0x1000, 8)]
    assert told[0].line == WORD.format("write", 0xFF8)


def test_words_that_are_not_in_a_row_stay_apart():
    told = refusals_of(("write", 0x100, 4), ("read", 0x104, 4), ("write", 0x104, 4), ("write", 0x104, 4)).told()
    assert [(each.direction, each.address, each.size) for each in told] == [
        ("write", 0x100, 4),
        ("read", 0x104, 4),
        ("write", 0x104, 4),
        ("write", 0x104, 4),
    ]


def test_in_a_storm_a_page_is_summed_up_and_says_so(monkeypatch):
    monkeypatch.setattr(log_module, "_TOLD", 3)
    told = refusals_of(*[("write", 0x5000, 8)] * 1000).told()
    assert [each.size for each in told] == [8, 8, 8, 997 * 8]
    assert told[-1].line.endswith("(and 996 more in this page, summed up)")


def test_a_storm_over_many_pages_leaves_none_out(monkeypatch):
    monkeypatch.setattr(log_module, "_TOLD", 3)
    storm = refusals_of(*[("write", page << 12, 8) for page in range(10)])
    assert [each.address >> 12 for each in storm.told()] == list(range(10))


def test_what_is_summed_up_begins_where_the_first_of_it_lies(monkeypatch):
    monkeypatch.setattr(log_module, "_TOLD", 1)
    storm = refusals_of(("write", 0, 8), ("write", 0x5800, 8), ("write", 0x5100, 8), ("write", 0x5900, 8))
    assert [(each.address, each.size) for each in storm.told()] == [(0, 8), (0x5100, 24)]


def test_a_listener_hears_refusals_and_other_lines_in_their_order(tmp_path):
    heard = []
    with piped(tmp_path) as (log, writer):
        log.listener = SimpleNamespace(line=heard.append, refused=lambda *access: heard.append(access))
        os.write(writer, f"one\n{WORD.format('read', 0x40)}\n{NEW.format(0x80000100, 1)}\ntwo\n".encode())
        log.drain()
    assert heard == ["one", ("read", 0x40, 4), "two"]


ASTRAY = "Invalid read at addr 0x98, size 8, region 'edu.rom', reason: rejected"


def test_an_access_to_a_rom_that_is_refused_is_no_devices(tmp_path):
    """Its address is one within the ROM, which may look like one on a bus."""
    heard = []
    with piped(tmp_path) as (log, writer):
        log.listener = SimpleNamespace(refused=lambda *what: heard.append(what), line=heard.append)
        os.write(writer, f"{ASTRAY}\n2026-01-31T23:59:59.123456Z {ASTRAY.replace('0x98', '0x90')}\n".encode())
        log.drain()
        assert log.strayed == ASTRAY
        assert (heard, log.refusals, log.refused) == ([], (), 0)


@pytest.mark.parametrize(
    "line",
    [
        "Entering checkstop state: machine check with MSR[ME]=0",
        "Machine check while not allowed. Entering checkstop state",
    ],
)
def test_a_cpu_that_stops_for_good_is_remembered_with_what_was_refused_it(tmp_path, line):
    with piped(tmp_path) as (log, writer):
        os.write(writer, f"{line}\n".encode())
        log.drain()
        assert log.checkstop == line
    with piped(tmp_path) as (log, writer):
        refused = "Invalid read at addr 0x200100200000, size 4, region '(null)', reason: rejected"
        os.write(writer, f"{refused}\n{line}\nNIP 00000000103255ec\n{line}\n".encode())
        log.drain()
        assert log.checkstop == f"{line}, after: {refused}"
    with piped(tmp_path) as (log, writer):
        os.write(writer, f"{refused}\nguest went on\n{line}\n".encode())
        log.drain()
        assert log.checkstop == line, "it is not known to be of that access"
