"""The agent on a machine that others use: what it finds there, and what it leaves alone."""

import ast
import os
import struct
from pathlib import Path

import pytest

from tceagent import bootstrap, kernellog, remote, vfio, wire
from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.papr import window
from tcelab.program.topology import topology

FIRST = "0001:00:01.0"


class Machine:
    """An emulated kernel with a little more of sysfs."""

    def __init__(self, **files):
        self._kernel = EmulatorSession(topology("two-pe")).kernel
        self.files, self.folders, self.links, self.noted = dict(files), {}, {}, []

    def __getattr__(self, name):
        return getattr(self._kernel, name)

    def read_file(self, path):
        return self.files[path] if path in self.files else self._kernel.read_file(path)

    def listdir(self, path):
        if path == vfio.DEVICES:
            return self._kernel.listdir(path)
        try:
            return self.folders[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def readlink(self, path):
        return self.links[path] if path in self.links else self._kernel.readlink(path)

    def log(self):
        return []

    def note(self, address):
        self.noted.append(address)


def agent_on(machine, **places):
    agent = remote.RemoteAgent(machine)
    survey = ask(agent, ask="survey")["survey"]
    devices = {
        name: {"buid": window.buid(number), "slot": number, "address": address}
        for number, (name, address) in enumerate(places.items(), 1)
    }
    ask(agent, hello={"nonce": "00" * 16, "devices": devices})
    return agent, survey


def ask(agent, **message):
    return agent.answer(wire.encode({"id": 1, **message}))


def test_a_survey_tells_what_each_device_is_and_who_has_its_group():
    machine = Machine()
    machine.files[f"{vfio.DEVICES}/{FIRST}/vendor"] = b"0x1234\n"
    machine.files[f"{vfio.DEVICES}/{FIRST}/device"] = b"0x11e8\n"
    machine.files["/proc/self/status"] = b"Name:\tx\nUid:\t1000\t1000\n"
    machine.files["/proc/meminfo"] = b"MemTotal:   1024 kB\n"
    group = machine.readlink(f"{vfio.DEVICES}/{FIRST}/iommu_group").rsplit("/", 1)[-1]
    machine.folders[f"/sys/kernel/iommu_groups/{group}/devices"] = ["0001:00:02.0", "0001:00:03.0", "0001:00:04.0"]
    machine.links[f"{vfio.DEVICES}/0001:00:02.0/driver"] = "../drivers/nvme"
    machine.links[f"{vfio.DEVICES}/0001:00:03.0/driver"] = "../drivers/pcieport"
    machine.links[f"{vfio.DEVICES}/0001:00:04.0/driver"] = "../drivers/vfio-pci"
    _, survey = agent_on(machine)
    first = next(each for each in survey["devices"] if each["address"] == FIRST)
    assert first == {
        "address": FIRST,
        "id": "1234:11e8",
        "driver": "",
        "group": int(group),
        "others": {"0001:00:02.0": "nvme"},
        "buid": window.buid(1),
        "slot": 1,
        "window": [window.liobn(1), 0, 1 << 30],
    }
    assert {name: survey[name] for name in ("uid", "ram", "vfio", "vfio_pci", "pins")} == {
        "uid": 1000,
        "ram": 1 << 20,
        "vfio": "",
        "vfio_pci": False,
        "pins": True,
    }


def test_ram_is_what_the_device_tree_has():
    machine = Machine()
    machine.folders[vfio.TREE] = ["memory@0", "memory@10000000", "cpus"]
    machine.files[f"{vfio.TREE}/memory@0/reg"] = struct.pack(">QQ", 0, 1 << 28)
    machine.files[f"{vfio.TREE}/memory@10000000/reg"] = struct.pack(">QQQQ", 1 << 28, 1 << 28, 1 << 29, 1 << 27)
    _, survey = agent_on(machine)
    assert survey["ram"] == (1 << 28) + (1 << 28) + (1 << 27)


def test_a_device_that_nobody_drives_is_bound_and_noted_first():
    machine = Machine()
    agent, _ = agent_on(machine, pe1="0002:00:02.0")
    (outcome,) = ask(agent, ops=[{"op": "bind", "device": "pe1"}])["outcomes"]
    assert machine.noted == ["0002:00:02.0"]
    # It is the second device that was named as the first one: its own BUID and LIOBN are told.
    assert outcome["fields"]["address"] == "0002:00:02.0"
    assert (outcome["fields"]["buid"], outcome["fields"]["liobn"]) == (window.buid(2), window.liobn(2))
    assert machine.readlink(f"{vfio.DEVICES}/0002:00:02.0/driver").endswith("vfio-pci")


def test_a_device_that_vfio_has_already_is_not_given_back():
    machine = Machine()
    machine.links[f"{vfio.DEVICES}/{FIRST}/driver"] = "../drivers/vfio-pci"
    agent, _ = agent_on(machine, pe1=FIRST)
    assert "outcomes" in ask(agent, ops=[{"op": "bind", "device": "pe1"}])
    assert machine.noted == []


def test_a_device_that_somebody_took_meanwhile_is_left_alone():
    machine = Machine()
    agent, _ = agent_on(machine, pe1=FIRST)
    machine.links[f"{vfio.DEVICES}/{FIRST}/driver"] = "../drivers/nvme"
    failed = ask(agent, ops=[{"op": "bind", "device": "pe1"}])["failed"]
    assert "is driven by nvme meanwhile: it is left alone" in failed["traceback"]
    assert machine.noted == []


def test_a_python_that_is_too_old_for_the_agent_can_read_the_first_program():
    """It must, to say so."""
    ast.parse(Path(bootstrap.__file__).read_text(), feature_version=(3, 4))


def test_devices_that_were_noted_are_driven_by_nobody_in_the_end(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(bootstrap, "write", lambda path, text: written.append((path, text)))
    (tmp_path / "bound").write_text(f"{FIRST}\n")
    bootstrap.restore(str(tmp_path))
    assert written == [
        ("/sys/bus/pci/drivers/vfio-pci/unbind", FIRST),
        (f"/sys/bus/pci/devices/{FIRST}/driver_override", "\n"),
    ]
    bootstrap.restore(str(tmp_path / "none"))
    assert len(written) == 2


@pytest.fixture
def real(tmp_path):
    """This host's kernel, and where its frames arrive."""
    arrives, sends = os.pipe()
    channel = remote.Streams(arrives, sends)
    yield remote.RemoteKernel(str(tmp_path), channel), channel
    os.close(arrives)
    os.close(sends)


def test_a_beat_tells_what_was_begun_last_and_the_next_one_waits(real):
    kernel, channel = real
    cell, address = kernel.cell()
    assert address == 0
    struct.pack_into("<QQ", cell, 24, 3, 17)
    for _ in range(5):
        kernel.beat()
    assert wire.decode(channel.receive()) == {"id": None, "beat": 1, "at": [3, 17]}
    channel.send(b"1")
    assert channel.receive() == b"1"


def test_the_agents_cell_has_its_progress_where_a_beat_looks_for_it():
    machine = Machine()
    cell, _ = machine.cell()
    machine.cell = lambda: (cell, 0)
    agent, _ = agent_on(machine)
    agent.answer(wire.encode({"id": 7, "ops": [{"op": "read", "what": "vmlck"}, {"op": "read", "what": "vmlck"}]}))
    assert remote._PROGRESS.unpack_from(cell, remote._PROGRESS_AT) == (7, 1)


def test_a_message_that_is_none_is_answered():
    agent, _ = agent_on(Machine())
    assert "not JSON" in agent.answer(b"[1")["failed"]["traceback"] or agent.answer(b"[1")["failed"]


def test_the_end_of_the_input_is_the_end():
    arrives, sends = os.pipe()
    os.close(sends)
    with pytest.raises(EOFError):
        remote.Streams(arrives, 1).receive()
    os.close(arrives)


def test_a_log_that_cannot_be_read_is_no_log(tmp_path):
    assert kernellog.lines(-1) == []


def test_only_the_kernels_own_records_are_lines(tmp_path):
    """User space may write to the log too (facility 1 and above)."""
    arrives, sends = os.pipe()
    os.set_blocking(arrives, False)
    lines = []
    for record in (b"4,1,100,-;WARNING: at x\n KEY=value\n", b"12,2,101,-;systemd: WARNING\n"):
        os.write(sends, record)
        lines += kernellog.lines(arrives)
    assert lines == ["WARNING: at x"]
    os.close(arrives)
    os.close(sends)
