"""The guest's init, without a guest."""

import subprocess
from pathlib import Path

from tceagent import kernel
from tcelab.image.resources import rootfs_dir
from tcelab.qemu import waiter

INIT = Path(rootfs_dir(), "init")


def test_init_is_executable_shell():
    assert INIT.stat().st_mode & 0o111 == 0o111
    assert INIT.read_text().startswith("#!/bin/sh\n")


def test_init_is_syntactically_right():
    subprocess.run(["sh", "-n", str(INIT)], check=True)


def test_init_says_what_the_host_waits_for():
    text = INIT.read_text()
    for line in (waiter.AGENT_EXITED, waiter.NO_AGENT, "tcelab-init: up", "tcelab-init: agent starting"):
        prefix, _, rest = line.partition(" ")
        assert prefix == "tcelab-init:"
        assert f'say "{rest}' in text


def test_init_mounts_the_ramfs_that_the_cell_is_on():
    assert "mount -t ramfs ramfs /run\n" in INIT.read_text()
    assert Path(kernel.CELL).parent == Path("/run")
