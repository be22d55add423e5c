"""Where a guest is stopped between two hypercalls, what QEMU's trace says was stored, and what its gdbstub says."""

import asyncio
import socket

import pytest

from tcelab.errors import HarnessError
from tcelab.program.topology import TOPOLOGIES
from tcelab.qemu.gdb import Gdb, Stop
from tcelab.qemu.racing import changes, sites
from tcelab.run.points import Change

PHB = TOPOLOGIES["races"].phbs[0]


def test_changes_are_those_of_the_default_window_that_succeeded():
    lines = [
        "spapr_iommu_pci_get liobn=0x80000100 ioba=0x10000 ret=0 tce=0x0",
        "spapr_iommu_pci_put liobn=0x80000100 ioba=0x10000 tce=0x83ba003 ret=0",
        "spapr_iommu_pci_put liobn=0x80000100 ioba=0x11000 tce=0x83bb003 ret=-4",
        "spapr_iommu_pci_put liobn=0x80000200 ioba=0x12000 tce=0x83bc003 ret=0",
        "spapr_iommu_pci_stuff liobn=0x80000100 ioba=0x200000 tcevalue=0x0 npages=512 ret=0",
        "spapr_iommu_ddw_reset buid=0x800000020000001",
        "spapr_iommu_ddw_reset buid=0x800000020000002",
    ]
    assert changes(lines, PHB) == [Change(0x10000, 0x83BA003), Change(0, 0, 512), Change(0, 0, PHB.entries)]


SYMBOLS = """c0000000000dfc6c T plpar_hcall_norets_notrace
c0000000000dfc98 T plpar_hcall_norets
c0000000000dfcc8 T plpar_hcall_norets_trace
c0000000000dfd5c T plpar_hcall
"""


def test_sites_are_the_functions_that_store_tces_to_the_begin_of_the_next():
    begin = 0xC0000000000DFC98
    assert sites(SYMBOLS) == [(begin, begin + 0x30), (begin + 0x30, begin + 0xC4)]


@pytest.mark.parametrize("symbols", ["", "0000000000000000 T plpar_hcall_norets\n", "c000000000000000 T memcpy\n"])
def test_a_kernel_that_does_not_say_where_is_refused(symbols):
    with pytest.raises(HarnessError, match="has no plpar_hcall_norets"):
        sites(symbols)


def framed(text):
    data = text.encode()
    return b"+$%s#%02x" % (data, sum(data) & 0xFF)


def talk(answers, ask, said="Waiting for gdb connection on device 'chardev:gdb'"):
    """What a client gets of a stub that says all this, in order; and what it was sent."""

    async def monitor(_line):
        await asyncio.sleep(0)
        return said

    async def run():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"".join(answers))
            theirs.shutdown(socket.SHUT_WR)
            got = await ask(Gdb(ours, monitor, "little"))
            return got, theirs.recv(1 << 16)

    return asyncio.run(run())


def test_a_stop_is_found_behind_what_the_stub_told_by_itself():
    answers = [framed("T02thread:01;"), framed("T05thread:02;")]
    got, sent = talk(answers, lambda gdb: gdb.stopped())
    assert (got, sent) == (Stop(2, "01"), b"+")


def test_one_cpu_steps_and_registers_are_in_its_byte_order():
    got, sent = talk([framed("T05thread:02;")], lambda gdb: gdb.step("02"))
    assert got.trapped
    assert sent.startswith(b"$vCont;s:02#")
    got, _ = talk([framed("OK"), framed("2000000000000000")], lambda gdb: gdb.registers("01", [3]))
    assert got == [0x20]


def test_after_an_interrupt_older_stops_are_passed_over():
    async def ask(gdb):
        await gdb.stop()
        return await gdb.memory(0x1000, 4)

    got, _ = talk([framed("T02thread:01;"), framed("QC01"), framed("22000044")], ask)
    assert got == b"\x22\0\0\x44"


@pytest.mark.parametrize(
    ("answers", "ask", "error"),
    [
        ([b"$OK#00"], lambda gdb: gdb.breakpoints([4], there=True), "wrong checksum"),
        ([framed("E22")], lambda gdb: gdb.breakpoints([4], there=True), "answers 'E22' to 'Z0,4,4'"),
        ([framed("E14")], lambda gdb: gdb.memory(0, 4), "cannot be read"),
    ],
)
def test_a_stub_that_answers_wrong_is_refused(answers, ask, error):
    with pytest.raises(HarnessError, match=error):
        talk(answers, ask)


def test_a_qemu_without_a_gdbstub_is_refused():
    with pytest.raises(HarnessError, match="QEMU has no gdbstub: unknown command"):
        talk([], lambda gdb: gdb.stop(), said="unknown command: 'gdbserver'")


def test_a_stub_that_ends_is_told():
    with pytest.raises(EOFError, match="closed its gdbstub"):
        talk([b"+"], lambda gdb: gdb.stopped())
