"""What a QEMU can do is asked; a program that is no QEMU, or hangs, is told and leaves nothing behind."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import pytest
from msgspec import json

from patience import PATIENCE
from tcelab.errors import HarnessError, UsageError
from tcelab.qemu import probe
from tcelab.qemu.probe import Abilities, Qemu

FAKE = Path(__file__).parents[2] / "support" / "fake_qemu.py"


def asked(**ways):
    return probe.probe(Qemu("fake", (sys.executable, "-S", "-E", str(FAKE)), {"FAKE_QEMU": json.encode(ways).decode()}))


def test_abilities_are_what_qemu_answers():
    assert asked() == Abilities(
        version="9.8.7 Toy 1",
        edu=True,
        vof=True,
        exit_with_parent=True,
        traces=("spapr_iommu_new_table", "spapr_iommu_ddw_create"),
        log_flags=("guest_errors", "invalid_mem"),
        device_state=True,
        private_ram=True,
        cpus=("power10", "power9"),
        machines=("pseries-9.9",),
        mapped_ram=True,
    )


@pytest.mark.parametrize("names", [["readonly"], ["rom"], ["read-only", "rom"], []])
def test_ram_can_be_private_where_a_file_that_may_only_be_read_can_be_written_to_in_memory(names):
    assert asked(properties={"memory-backend-file": names}).private_ram is False


def test_firmware_is_hashed_where_qemu_finds_it_first(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (second / "slof.bin").write_bytes(b"SLOF")
    (first / "vof.bin").write_bytes(b"VOF")
    (second / "vof.bin").write_bytes(b"another VOF")
    can = asked(folders=[str(tmp_path / "none"), str(first), str(second)])
    assert can.firmware_sha256 == {
        "slof.bin": hashlib.sha256(b"SLOF").hexdigest(),
        "vof.bin": hashlib.sha256(b"VOF").hexdigest(),
    }
    (second / "slof.bin").unlink()
    assert asked(folders=[str(first), str(second)]).firmware_sha256.keys() == {"vof.bin"}


def test_what_qemu_does_not_name_it_cannot():
    answers = {
        "qom-list-types": [{"name": "edutainment"}],
        "query-machines": [{"name": "pseries"}],
        "query-command-line-options": [{"option": "other", "parameters": [{"name": "exit-with-parent"}]}],
        "query-commands": [{"name": "xen-load-devices-state"}],
        "trace-event-get-state": [],
        "query-cpu-definitions": [{"name": "power9_v2.2"}],
        "query-migrate-capabilities": [{"capability": "events"}],
        "query-version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""},
    }
    text = "Log items (comma separated):\nguest_errors log when the guest does\n\ninvalid_memory x\n"
    properties = {"pseries-machine": ["x-vofs"], "memory-backend-file": ["share"], "pseries-9.9-machine": ["x-vof"]}
    assert asked(answers=answers, properties=properties, help=text) == Abilities(
        version="7.2.0",
        edu=False,
        vof=False,
        exit_with_parent=False,
        traces=(),
        log_flags=("guest_errors",),
        device_state=False,
    )


def test_vof_that_does_not_start_is_none():
    assert asked(vof=False).vof is False


def test_a_qemu_for_another_machine_is_wrong_usage():
    with pytest.raises(UsageError, match="no pseries machine"):
        asked(answers={"query-machines": [{"name": "pc", "alias": "q35"}]})


@pytest.mark.parametrize("name", ["ls", "true"])
def test_a_program_that_is_no_qemu_is_wrong_usage(name):
    with pytest.raises(UsageError, match=f"/bin/{name} is no QEMU: its version says '{name}"):
        probe.probe(probe.by_path(f"/bin/{name}"))


def test_what_is_built_by_us_and_fails_is_never_the_users_mistake():
    with pytest.raises(HarnessError, match="does not answer as a QEMU"):
        probe.probe(Qemu("ours", ("/bin/true",), build="0" * 64))


def test_a_qemu_that_fails_is_told_with_its_words():
    with pytest.raises(HarnessError, match="fake does not answer as a QEMU: unknown option -machine") as caught:
        asked(says="unknown option -machine\n", exits=1)
    assert caught.value.scene.phase == "probe"
    assert "-machine none" in caught.value.next_step


def test_a_program_that_hangs_ends_with_all_that_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "_LIMIT", 2.0)
    with pytest.raises(HarnessError, match="does not answer as a QEMU: TimeoutError"):
        asked(hangs=str(tmp_path / "pids"))
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    deadline = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pid for pid in pids if alive(pid)] == []


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_is_found_by_its_path_or_its_name(tmp_path, monkeypatch):
    program = tmp_path / "my-qemu"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert probe.by_path(str(program)) == Qemu("my-qemu", (str(program),))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.by_path("my-qemu").argv == (str(program),)
    monkeypatch.chdir(tmp_path)
    assert probe.by_path("./my-qemu").argv == (str(program),)


@pytest.mark.parametrize(("exists", "said"), [(True, "is not executable"), (False, "does not exist")])
def test_a_path_that_is_no_program_is_named(tmp_path, exists, said):
    path = tmp_path / "qemu"
    if exists:
        path.write_text("data")
        path.chmod(0o644)
    with pytest.raises(UsageError, match=f"QEMU {path} {said}"):
        probe.by_path(str(path))


def test_a_qemus_environment_is_ours_and_its_own(monkeypatch):
    monkeypatch.setenv("OURS", "1")
    monkeypatch.setenv("BOTH", "ours")
    found = probe.environment(Qemu("q", ("q",), {"BOTH": "its"}))
    assert (found["OURS"], found["BOTH"]) == ("1", "its")
