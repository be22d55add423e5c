"""`tcelab run --platform ssh`: what is asked, what is told, and how it ends."""

import json
import shlex

import pytest
from ssh_server import SshServer, new_key, public, python

from tcelab.errors import Interrupted
from tcelab.job import platforms, setup
from tcelab.program import Checkpoint, Flip, Program
from tcelab.program.topology import topology
from tcelab.ssh.choice import SshChoice

WRONG_USAGE = 2
COULD_NOT_JUDGE = 125


@pytest.fixture
def lpar(tmp_path, monkeypatch):
    """A server, and the options that reach it."""
    far = tmp_path / "far"
    far.mkdir()
    monkeypatch.setenv("TMPDIR", str(far))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "300")
    host, user = new_key(tmp_path / "host"), new_key(tmp_path / "user")
    (tmp_path / "host.pub").write_text(public(host))
    with SshServer(host, user, sftp=True) as server:
        words = ["--platform", "ssh", "--host", "127.0.0.1", "--port", server.port, "--user", "root"]
        yield [*words, "--key", tmp_path / "user", "--host-key", tmp_path / "host.pub"]


def test_behaviour_is_a_pass_only_where_nothing_else_was_asked_for(tcelab, lpar, tmp_path):
    """The same run, asked twice; the emulator of the driver says the same as the kernel."""
    flow = ["run", "flow", "--seed", "7", *lpar, "--python", python()]
    only = tcelab(*flow, "--behaviour-only", "--exclusive", "--json", tmp_path / "r.json")
    assert only.code == 0, only.out + only.err
    assert "behaviour only, as was asked for; not seen: tables, guest RAM, refusals\n" in only.out
    told = json.loads((tmp_path / "r.json").read_bytes())
    assert told["platform"]["name"] == "ssh"
    assert set(told["platform"]["cannot"]) == {"tables", "guest RAM", "refusals"}
    assert told["options"]["ssh"]["behaviour_only"] is True
    assert told["versions"]["guest"]["kernel"] == "emulated"
    assert told["versions"]["ssh"]["banner"].startswith("SSH-2.0-paramiko")
    laws = told["verdict"]["evidence"]["laws"]
    assert (laws["difference"]["judged"], laws["table"]["judged"]) == (93, 0)
    assert laws["pins"]["judged"] > 0
    assert told["artefacts"]["agent log"] == "agent.log"
    assert "tables" not in told["artefacts"]
    replayed = shlex.split(told["replay"])[2:]
    assert replayed[replayed.index("--platform") :] == [
        *map(str, lpar),
        *("--python", python(), "--behaviour-only", "--exclusive"),
    ]
    whole = tcelab(*flow)
    assert whole.code == COULD_NOT_JUDGE
    assert "could not judge: not seen: tables: over ssh nobody reads the TCE tables" in whole.out
    assert "not seen: pins" in whole.out


def test_a_broken_driver_is_a_finding_there_too(tcelab, lpar):
    """Its ENABLE keeps 64 KiB too much."""
    found = tcelab("run", "flow", *lpar, "--python", python(keeps=64), "--behaviour-only")
    assert found.code == 1
    assert "charges: VmLck: expected 1048576 KiB, seen 1048640 (64 KiB not given back or too much)" in found.out
    assert "--behaviour-only" in found.out.partition("replay:")[2].splitlines()[0]


def test_what_the_kernel_said_is_a_finding(tcelab, lpar):
    log = [[], [], ["WARNING: CPU: 0 PID: 7 at drivers/vfio/vfio_iommu_spapr_tce.c:1"]]
    found = tcelab("run", "flow", *lpar, "--python", python(log=log), "--behaviour-only")
    assert found.code == 1
    (line,) = [line for line in found.out.splitlines() if "the kernel said" in line]
    assert line.startswith("  kernel: the kernel said, ")
    assert line.endswith(log[2][0])
    assert "could not judge" not in found.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "h"], "--host is about a machine over ssh"),
        (["--platform", "emulator", "--exclusive"], "--exclusive is about a machine over ssh"),
        (["--platform", "ssh"], "--platform ssh needs a machine"),
        (["--platform", "ssh", "--host", "h", "--boot"], "--boot is about a guest of tcelab's own"),
        (["--platform", "ssh", "--host", "h", "--mutant", "lost-write"], "--mutant is about a guest of tcelab's own"),
        (["--platform", "ssh", "--host", "h", "--profile", "seed2013"], "no kernel of today has the driver"),
        (["--platform", "ssh", "--host", "h", "--ask-password"], "--ask-password needs a terminal"),
        (["--platform", "ssh", "--host", "h", "--keep"], "ssh gives no console"),
        (["--platform", "ssh", "--host", "h", "--guard", "freeze"], "is about the isolation of PEs"),
        (["--platform", "ssh", "--host", "h", "--inject", "flip"], "(flip) cannot be done over ssh"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_run(tcelab, monkeypatch, tmp_path, words, told):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    refused = tcelab("run", "flow", *words)
    assert refused.code == WRONG_USAGE
    assert told in refused.err.splitlines()[0]
    assert refused.out == ""


def test_a_program_that_needs_somebody_outside_is_refused_before_anything_is_connected_to(tcelab, tmp_path):
    ops = [Checkpoint(), Flip(liobn=0x80000100, ioba=0)]
    (tmp_path / "p.json").write_bytes(Program(name="p", topology=topology("one-pe"), ops=ops).to_json())
    refused = tcelab("run", tmp_path / "p.json", "--platform", "ssh", "--host", "no.such.host.invalid")
    assert refused.code == WRONG_USAGE
    assert "operation 1 (flip) cannot be done over ssh" in refused.err


def test_there_is_one_machine_so_its_second_session_waits_for_the_first(monkeypatch, tmp_path):
    made = []

    def session(*_, on_close, **more):
        made.append((on_close, more["quirks"]))
        return on_close

    monkeypatch.setattr(platforms, "SshSession", session)
    monkeypatch.setattr(platforms, "_LISTEN", 0.01)
    choice = setup.MachineChoice(topology=topology("one-pe"), expect_quirks=("pin-for-write",))
    platform = platforms.prepare(platforms.SSH, choice, ssh=SshChoice(host="h"))
    close = platform.open(tmp_path)
    platform.close()
    with pytest.raises(Interrupted):
        platform.open(tmp_path)
    close()
    assert platform.open(tmp_path) == made[1][0]
    assert [quirks for _, quirks in made] == [{"pin-for-write"}] * 2
