"""The console: what counts as the kernel's death, as trouble, and as a phase of the boot."""

import pytest

from tcelab.qemu.console import Console


@pytest.fixture
def console(tmp_path):
    console = Console(tmp_path / "console.log")
    yield console
    console.close()


@pytest.mark.parametrize(
    "line",
    [
        "[    5.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009",
        "[    5.1] Oops: Kernel access of bad area, sig: 11 [#1]",
        "[    5.1] BUG: Unable to handle kernel data access on read at 0xc00a000000080000",
        "[    5.1] BUG: Kernel NULL pointer dereference on read at 0x00000000",
        "[    5.1] kernel BUG at drivers/vfio/vfio_iommu_spapr_tce.c:350!",
        "[    5.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3.11:71]",
        "[    5.1] rcu: INFO: rcu_sched self-detected stall on CPU",
        "[    5.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "[    5.1] watchdog: CPU 0 Hard LOCKUP",
        "[    5.1] Unable to handle kernel paging request for data at address 0x5deadbeef0000100",
    ],
)
def test_a_dying_kernel_is_seen(console, line):
    console.feed(f"before\n{line}\r\nafter\n".encode(), 1.0)
    assert console.fatal == line
    assert console.take_trouble() == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "[    5.1] WARNING: CPU: 0 PID: 71 at drivers/vfio/vfio_iommu_spapr_tce.c:769 tce_iommu_create_default_window",
        "[    5.1] WARNING: drivers/vfio/vfio_iommu_spapr_tce.c:769 at tce_iommu_create_default_window+0x40, CPU#0",
        "[    5.1] WARNING: possible recursive locking detected",
        "[    5.1] INFO: task python3.11:71 blocked for more than 120 seconds.",
        "[    5.1] BUG: sleeping function called from invalid context at mm/slab.h:1",
    ],
)
def test_a_warning_is_trouble_but_not_the_end(console, line):
    console.feed(f"{line}\n".encode(), 1.0)
    assert console.take_trouble() == (line,)
    assert console.take_trouble() == ()
    assert not console.fatal


@pytest.mark.parametrize(
    "line",
    [
        "[    0.28] WARNING: nvram corruption detected: 0-length partition",
        "[    1.0] DEBUG: nothing",
        "[    1.0] vfio_iommu_spapr_tce: loaded",
    ],
)
def test_ordinary_lines_are_no_trouble(console, line):
    console.feed(f"{line}\n".encode(), 1.0)
    assert console.take_trouble() == ()
    assert not console.fatal


def test_a_line_split_between_two_reads_is_one_line(console):
    console.feed(b"Kernel panic - not sy", 1.0)
    assert not console.fatal
    console.feed(b"ncing: x\n", 2.0)
    assert console.fatal == "Kernel panic - not syncing: x"


def test_the_tail_has_the_started_line_and_no_escapes(console):
    console.feed(b"one\n\n\x1b[6ntwo\r\ntcelab# ", 1.0)
    assert console.tail(2) == ["two", "tcelab# "]


def test_only_whole_lines_are_found(console):
    console.feed(b"tcelab-init: agent exited 1\ntcelab-init: no agent: there is n", 1.0)
    assert console.find("no agent") == ""
    console.feed(b"o Python\n", 1.0)
    assert console.find("no agent", "other") == "tcelab-init: no agent: there is no Python"


def test_phases_are_dated_once(console):
    console.feed(b"[    0.000000] Linux version 6.12\n", 1.5)
    console.feed(b"tcelab-init: up 3.1\nLinux version again\n", 4.5)
    assert console.reached == {"kernel": 1.5, "init": 4.5}


def test_all_bytes_are_written_down(console, tmp_path):
    console.feed(b"\xff\x00raw\n", 1.0)
    assert (tmp_path / "console.log").read_bytes() == b"\xff\x00raw\n"


def test_the_first_line_of_a_dying_kernel_is_the_one_that_counts(console):
    console.feed(b"Oops: first\nKernel panic - not syncing: second\n", 1.0)
    assert console.fatal == "Oops: first"
    assert console.take_trouble() == ("Oops: first", "Kernel panic - not syncing: second")


def test_every_byte_is_progress(console):
    console.feed(b"abc", 1.0)
    console.feed(b"\xff\n", 1.0)
    assert console.size == 5


def test_of_a_line_that_the_kernel_broke_into_only_its_own_words_are_told(console):
    console.feed(b"tcelab# [   38.015585] watchdog: CPU 0 detected hard LOCKUP on other CPUs 1\n", 1.0)
    assert console.fatal == "[   38.015585] watchdog: CPU 0 detected hard LOCKUP on other CPUs 1"
    assert console.take_trouble() == (console.fatal,)


def test_a_panic_is_remembered_however_much_is_said_after_it(console):
    assert console.panicked is False
    console.feed(b"Kernel panic - not syncing: x\n" + b"more\n" * 1000, 1.0)
    assert console.panicked is True
