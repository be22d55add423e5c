"""The probes of a machine: sockets that QEMU inherits, what they are told, and how they end."""

import asyncio
import json
import os
from pathlib import Path

import pytest
import vfio_client as client
from fake_guest import abilities
from vfio_client import Client

from tcelab.device.vfio_user import Change
from tcelab.errors import HarnessError, Unsupported
from tcelab.program.topology import TOPOLOGIES
from tcelab.qemu import machine
from tcelab.qemu.portal import portal
from tcelab.qemu.probes import Probes, in_rows
from tcelab.run.record import Run, Told

PROBE = TOPOLOGIES["probe"]
RAM = 1 << 20


async def listening(probes):
    return probes.listen()


async def closed(probes):
    probes.close()


@pytest.fixture
def said(tmp_path):
    return tmp_path / "qemu.err"


@pytest.fixture
def probes(said):
    made = Probes(PROBE, said)
    yield made
    portal().call(closed(made))


@pytest.fixture
def qemus(probes):
    """The clients of both, which pass guest RAM."""
    fds = portal().call(listening(probes))
    made = {name: Client(f"/proc/self/fd/{fd}") for name, fd in fds.items()}
    yield made
    for each in made.values():
        each.sock.close()


def test_each_probe_has_a_socket_without_a_name(probes):
    fds = portal().call(listening(probes))
    assert list(fds) == ["pe1", "pe1b"]
    for fd in fds.values():
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        assert path.endswith(" (deleted)")
        assert not Path(path.removesuffix(" (deleted)")).parent.exists()


def test_the_folder_for_temporary_files_may_have_a_long_name(probes, tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    for name, fd in portal().call(listening(probes)).items():
        with Client(f"/proc/self/fd/{fd}"):
            assert probes.servers[name].why is None
    assert list(folder.iterdir()) == []


def test_qemu_is_told_where_they_are():
    options = machine.QemuOptions(Path("kernel"), Path("initrd"), PROBE)
    fds = machine.Descriptors(*range(10, 17), probes={"pe1": 40, "pe1b": 41}, roms={"probe": 42})
    words = machine.arguments(options, abilities(vfio_user=True), fds)
    told = [json.loads(word) for word in words if word.startswith("{")]
    assert [(each["driver"], each["id"], each["bus"], each["addr"]) for each in told] == [
        ("vfio-user-pci", "pe1", "phb1.0", "0x1"),
        ("vfio-user-pci", "pe1b", "phb1.0", "0x3"),
    ]
    assert [each["socket"] for each in told] == [
        {"type": "unix", "path": "/proc/self/fd/40"},
        {"type": "unix", "path": "/proc/self/fd/41"},
    ]
    assert [each["romfile"] for each in told] == ["/proc/self/fd/42"] * 2
    assert {40, 41, 42} <= set(fds.all())


def test_a_guest_with_probes_is_not_forked_and_needs_a_qemu_that_has_them():
    options = machine.QemuOptions(Path("kernel"), Path("initrd"), PROBE)
    with pytest.raises(Unsupported, match="QEMU saves nothing of a probe"):
        machine.expect_forkable(options, abilities(vfio_user=True))
    machine.check(abilities(vfio_user=True), PROBE)
    with pytest.raises(Unsupported, match="has no vfio-user-pci, and topology probe has a probe"):
        machine.check(abilities(), PROBE)


def test_changes_that_follow_each_other_are_one_row():
    told = [(True, at, 4096) for at in (0, 4096, 8192, 8192, 4096)]
    told += [(False, 8192, 4096), (False, 12288, 4096), (False, 16384, 65536)]
    sent = [Change(*each) for each in told]
    rows = [(True, 0, 4096, 3), (True, 8192, 4096, 1), (True, 4096, 4096, 1)]
    rows += [(False, 8192, 4096, 2), (False, 16384, 65536, 1)]
    assert in_rows(sent) == [Run(*each) for each in rows]
    assert in_rows([]) == []


def test_what_they_are_told_is_kept_in_order_and_as_a_table(probes, qemus):
    ram = client.memory_file(RAM)
    for at in (0x1000, 0x2000):
        assert qemus["pe1"].map(at, offset=at + 0x10000, fd=ram) == 0
    assert qemus["pe1"].unmap(0x1000) == 0
    rows = [(True, 0x1000, 4096, 2), (False, 0x1000, 4096, 1)]
    assert probes.heard() == {"pe1": [Run(*each) for each in rows], "pe1b": []}
    assert probes.heard() == {"pe1": [], "pe1b": []}
    assert probes.told() == (Told("pe1", 1, {0x2000: (0x12000, 3, 4096)}, 3), Told("pe1b", 1, {}, 0))
    os.close(ram)


@pytest.mark.parametrize(
    "line",
    [
        "qemu-system-ppc64: vfio_user_send_wait: timed out waiting for reply",
        "qemu-system-ppc64: unexpected reply",
        "qemu-system-ppc64: reply larger than recv buffer",
        "vfio-user:/proc/self/fd/40: server closed socket",
    ],
)
def test_when_qemu_says_that_it_gave_up_on_one_nothing_is_known(probes, qemus, said, line):
    said.write_text("qemu-system-ppc64: -device {...}: warning: vfio vfio-user:/x: Could not enable error recovery\n")
    assert len(probes.told()) == 2
    with said.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(HarnessError, match="QEMU complains of a probe: "):
        probes.told()


def test_a_link_that_ends_is_told_with_its_reason(probes, qemus):
    lost = asyncio.run_coroutine_threadsafe(probes.lost(), portal().loop)
    qemus["pe1b"].send(client.frame(1, client.DMA_READ, b"", 1))
    assert lost.result(20) == (
        "the link of the probe pe1b ended: a reply with id 1, which no request without an answer has"
    )
    with pytest.raises(HarnessError, match="the probe pe1b has no link to QEMU"):
        probes.told()


def test_messages_that_were_dropped_make_it_unknown_what_they_were_told(probes, qemus):
    maps = probes.probe("pe1").maps
    maps.limits = maps.limits._replace(changes=1)
    for at in range(3):
        assert qemus["pe1"].unmap(at << 12) == 0
    with pytest.raises(HarnessError, match="2 messages to the probe pe1 were dropped, 3 came"):
        probes.told()


def test_what_is_no_probe_is_none(probes):
    with pytest.raises(HarnessError, match="pe2 is no probe"):
        probes.probe("pe2")


def test_a_machine_without_probes_asks_nobody(said):
    none = Probes(TOPOLOGIES["two-pe"], said)
    assert (none.told(), none.heard()) == ((), {})
