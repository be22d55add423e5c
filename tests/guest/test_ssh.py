"""A machine over ssh: a guest of ours with dropbear, and OpenSSH on this host with an emulated kernel behind it."""

import getpass
import json
import signal
import time
from types import SimpleNamespace

import guest_sshd
import openssh
import pytest
from ssh_server import new_key, public, python

from calls import Call, tcelab
from patience import PATIENCE

pytestmark = [pytest.mark.guest, pytest.mark.network]

ASKED = ["--topology", "two-small", "--behaviour-only", "--exclusive"]
QUIRK = "docs/examples/quirks/misaligned-iova-returns-1.json"


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    with guest_sshd.machine(tmp_path_factory.mktemp("guest")) as there:
        yield there


def result(call):
    (run,) = call.runs()
    return json.loads((run / "result.json").read_bytes())


def test_a_guest_of_ours_passes_over_ssh_where_its_behaviour_is_all_that_was_asked_for(guest, tmp_path):
    before = guest.typist.run("ls /tmp; ls /sys/bus/pci/drivers/vfio-pci", PATIENCE).output
    code, call = tcelab("run", *guest.words, *guest.quirks, *ASKED, state=tmp_path)
    assert code == 0, call.said
    told = result(call)
    assert told["program"]["name"] == "behaviour"
    assert told["versions"]["ssh"]["banner"].startswith("SSH-2.0-dropbear")
    assert told["versions"]["ssh"]["copied"] == "channel"
    assert told["versions"]["guest"]["kernel"].startswith("6.12.")
    judged = {name for name, law in told["verdict"]["evidence"]["laws"].items() if law["judged"]}
    assert judged == {"outcome", "inventory", "charges", "pins", "kernel", "difference", "evidence"}
    assert guest.typist.run("ls /tmp; ls /sys/bus/pci/drivers/vfio-pci", PATIENCE).output == before
    assert "tceagent.remote" not in guest.typist.run("ps", PATIENCE).output


def test_a_guest_of_ours_is_no_pass_over_ssh_where_its_tables_were_asked_for(guest, tmp_path):
    code, call = tcelab("run", "rules", "--topology", "two-small", *guest.words, *guest.quirks, state=tmp_path)
    assert code == 125, call.said
    assert "could not judge: not seen: tables: over ssh nobody reads the TCE tables" in call.out
    assert result(call)["verdict"]["findings"] == []


def test_a_defect_of_its_driver_that_nobody_declared_is_a_finding_over_ssh(guest, tmp_path):
    code, call = tcelab("run", QUIRK, *guest.words, "--behaviour-only", state=tmp_path)
    assert code == 1, call.said
    assert "known and not declared: misaligned-iova-returns-1" in call.out


@pytest.fixture
def host(tmp_path):
    """OpenSSH on this host, and the options that reach it."""
    far = tmp_path / "far"
    far.mkdir()
    (tmp_path / "host.pub").write_text(public(new_key(tmp_path / "host")))
    (tmp_path / "authorized").write_text(public(new_key(tmp_path / "user")))
    with openssh.sshd(tmp_path, getpass.getuser(), far) as (port, process):
        assert openssh.listens(port, process), (tmp_path / "sshd.log").read_text()
        yield SimpleNamespace(words=guest_sshd.reached(tmp_path, port, getpass.getuser()), far=far)


def test_openssh_takes_the_agent_by_sftp_and_nothing_is_left(host, tmp_path):
    words = [*host.words, "--python", python(), "--behaviour-only"]
    code, call = tcelab("run", "flow", *words, state=tmp_path / "state")
    assert code == 0, call.said
    assert result(call)["versions"]["ssh"]["copied"] == "sftp"
    assert result(call)["versions"]["ssh"]["banner"].startswith("SSH-2.0-OpenSSH")
    assert list(host.far.iterdir()) == []


def test_a_tcelab_that_is_killed_leaves_nothing_behind_openssh(host, tmp_path):
    call = Call("run", "flow", *host.words, "--python", python(stuck=9), state=tmp_path / "state")
    logs = call.state.rglob
    call.wait_until(lambda: any(b"stuck" in log.read_bytes() for log in logs("agent.log")), "the agent is stuck")
    assert list(host.far.iterdir()) != []
    call.send(signal.SIGKILL)
    call.end()
    deadline = time.monotonic() + PATIENCE
    while left := list(host.far.iterdir()):
        assert time.monotonic() < deadline, f"the other side has not cleaned up within {PATIENCE:g} s: {left}"
        time.sleep(0.05)
