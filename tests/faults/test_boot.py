"""What can go wrong before the guest is up: each ends within its limit, says where and what, and leaves nothing."""

from pathlib import Path

import pytest

from calls import tcelab
from tcelab import image
from tcelab.program.topology import topology
from tcelab.qemu import machine, probe

pytestmark = pytest.mark.guest


def assert_told(call, *words):
    """The scene of an error: artefact folder, and what the fault is known by."""
    for word in ("artefacts:", *words):
        assert word in call.said, call.said
    (run,) = call.runs()
    assert (run / "result.json").exists()
    assert (run / "junit.xml").exists()


def test_a_qemu_that_does_not_exist_is_wrong_usage(tmp_path):
    code, call = tcelab("run", "flow", "--qemu", "/nowhere/qemu", state=tmp_path)
    assert code == 2
    assert "QEMU /nowhere/qemu does not exist" in call.err
    assert "Traceback" not in call.said


def test_a_qemu_that_cannot_be_executed_is_wrong_usage(tmp_path):
    path = tmp_path / "qemu"
    path.write_text("#!/bin/sh\n")
    code, call = tcelab("run", "flow", "--qemu", path, state=tmp_path)
    assert code == 2
    assert "is not executable" in call.err


def test_a_program_that_is_no_qemu_is_wrong_usage(tmp_path):
    code, call = tcelab("run", "flow", "--qemu", "/bin/ls", state=tmp_path)
    assert code == 2
    assert "/bin/ls is no QEMU: its version says 'ls" in call.err


def test_a_qemu_that_cannot_even_tell_its_version_cannot_judge(tmp_path):
    path = tmp_path / "qemu"
    path.write_text("#!/bin/sh\nexit 127\n")
    path.chmod(0o755)
    code, call = tcelab("run", "flow", "--qemu", path, state=tmp_path)
    assert code == 125
    assert_told(call, "does not answer as a QEMU", "phase:     probe")


def test_a_guest_that_prints_for_ever_ends_by_the_limit_of_the_whole_boot(tmp_path):
    """Each line is progress, and none leads anywhere."""
    loop = 'rdinit=/bin/sh -- -c "while :; do echo on and on; done"'
    code, call = tcelab("run", "flow", "--append", loop, "--limit", "whole_boot=6", state=tmp_path)
    assert code == 125
    assert_told(call, "no agent came up: not within 6 s", "phase:     boot", "--limit whole_boot=SECONDS")


@pytest.mark.parametrize("content", [b"garbage", b"\x1f\x8b\x08\x00", b""])
def test_a_kernel_that_is_none_is_wrong_usage(tmp_path, content):
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    code, call = tcelab("run", "flow", "--kernel", path, state=tmp_path)
    assert code == 2
    assert "a pseries guest starts a ppc64 ELF vmlinux" in call.err


def test_a_kernel_that_qemu_refuses_cannot_judge(tmp_path, guest_image):
    """The right kind of file, which names no sections, and whose segments are cut off: only QEMU can tell."""
    path = tmp_path / "vmlinux"
    head = bytearray(guest_image.kernel.read_bytes()[:4096])
    head[0x28:0x30] = bytes(8)  # e_shoff
    head[0x3C:0x40] = bytes(4)  # e_shnum, e_shstrndx
    path.write_bytes(head)
    code, call = tcelab("run", "flow", "--kernel", path, state=tmp_path)
    assert code == 125
    assert_told(call, "QEMU ended with status", "phase:     launch")


def test_no_room_for_guest_ram_cannot_judge(tmp_path):
    code, call = tcelab("run", "flow", "--memory", 1 << 20, state=tmp_path)
    assert code == 125
    assert_told(call, "no room for guest RAM: 1048576 MiB", "--memory MIB")


def test_an_initrd_without_agent_is_named(tmp_path, agentless_initrd):
    code, call = tcelab("run", "flow", "--initrd", agentless_initrd, state=tmp_path)
    assert code == 125
    assert_told(call, "no agent: there is no /usr/lib/tcelab/tceagent", "phase:     boot", "console:   ")


def test_a_panic_during_boot_cannot_judge(tmp_path):
    """No initramfs that the kernel can read: it finds no root."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"garbage" * 1000)
    code, call = tcelab("run", "flow", "--initrd", initrd, state=tmp_path)
    assert code == 125
    assert_told(call, "the guest's kernel died during boot", "Kernel panic", "phase:     boot", "console:   ")


def test_a_guest_that_stays_silent_ends_by_the_limit_of_the_boot(tmp_path):
    """Without a console no line comes, so nothing shows that it makes progress, and no agent is greeted."""
    code, call = tcelab("run", "flow", "--append", "rdinit=/bin/sleep -- 1000", "--limit", "boot=4", state=tmp_path)
    assert code == 125
    assert_told(call, "no agent came up: nothing happened for 4 s", "phase:     boot", "--limit boot=SECONDS")


def test_an_agent_of_other_sources_is_named(tmp_path, broken_initrd):
    code, call = tcelab("run", "flow", "--initrd", broken_initrd, "--append", "tcelab.sabotage=digest", state=tmp_path)
    assert code == 125
    assert_told(call, "the initrd carries an agent of other sources", "tcelab image build")


def test_a_qemu_that_cannot_find_vof_is_given_slof(tmp_path):
    """That it has the option is not enough."""
    build = image.ensure_qemu("qemu-11.1")
    data = Path(build.argv[-1])
    lacking = tmp_path / "data"
    lacking.mkdir()
    for each in data.iterdir():
        if each.name != "vof.bin":
            (lacking / each.name).symlink_to(each)
    whole = probe.Qemu("whole", build.argv, build.environment)
    assert probe.probe(whole).vof
    without = probe.Qemu("without", (*build.argv[:-1], str(lacking)), build.environment)
    can = probe.probe(without)
    assert not can.vof
    options = machine.QemuOptions(Path("k"), Path("i"), topology("one-pe"))
    assert machine.firmware(options, can) == "slof"
