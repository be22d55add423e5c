"""Guests that are broken on purpose: initrds with an agent that misbehaves, or none."""

import io

import pytest

from tcelab import image
from tcelab.image import cpio
from tcelab.image.overlay import BASE
from tcelab.image.resources import rootfs_dir

SABOTAGE = '''
"""The real agent, with one thing broken: a program that makes a buffer called "break-KIND" says which, or the
kernel's command line."""
import os, posix, time
from tceagent import agent, ops, ports, wire
from tceagent.kernel import LinuxKernel

with open("/proc/cmdline") as file:
    WORDS = file.read().split()
if "tcelab.sabotage=digest" not in WORDS:
    agent.digest = lambda folder: "{digest}"

def crash(state, **fields):
    """What the kernel offers for trying how it is to die (Documentation/admin-guide/sysrq.rst)."""
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")

class Broken(agent.Agent):
    def _hello(self, nonce, devices=None, **more):
        if "tcelab.sabotage=forks" in WORDS and "clock" in more:
            while True:
                time.sleep(1000)
        return super()._hello(nonce, devices, **more)

    def _perform(self, number, program):
        kind = next((op["name"] for op in program if op["op"] == "buffer"), "")
        if kind == "break-killed":
            os.kill(os.getpid(), 9)
        if kind == "break-silent":
            while True:
                time.sleep(1000)
        if kind == "break-garbage":
            posix.write(PORT, b"this is no frame")
            time.sleep(1000)
        if kind == "break-dies":
            ops.HANDLERS["buffer"] = crash
        if kind == "break-raises":
            program = [dict(program[0], colour="red"), *program[1:]]
        return super()._perform(number, program)

def main():
    global PORT
    kernel = LinuxKernel()
    PORT = kernel.open(ports.find_port(kernel))
    agent.serve(Broken(kernel), wire.Channel(PORT))
'''


@pytest.fixture(scope="session")
def guest_image():
    return image.ensure_guest("guest")


@pytest.fixture(scope="session")
def broken_initrd(guest_image, tmp_path_factory):
    """The image's initrd with an agent that can be told to misbehave."""
    folder = tmp_path_factory.mktemp("broken")
    agent = "usr/lib/tcelab/tceagent"
    source = folder / "main.py"
    source.write_text(SABOTAGE.replace("{digest}", guest_image.agent_digest))
    stale = folder / "main.pyc"
    stale.write_bytes(b"not byte code of any Python")
    extra = io.BytesIO()
    cpio.write_archive(
        extra,
        [
            cpio.file(f"{agent}/__main__.py", source),
            cpio.file(f"{agent}/__pycache__/__main__.cpython-311.pyc", stale),
        ],
    )
    path = folder / "initrd"
    path.write_bytes(guest_image.initrd.read_bytes() + extra.getvalue())
    return path


@pytest.fixture(scope="session")
def agentless_initrd(guest_image, tmp_path_factory):
    """The packages and init, no agent."""
    extra = io.BytesIO()
    cpio.write_archive(extra, [cpio.file("init", rootfs_dir() / "init", executable=True)])
    path = tmp_path_factory.mktemp("agentless") / "initrd"
    path.write_bytes((guest_image.initrd.parent / BASE).read_bytes() + extra.getvalue())
    return path
