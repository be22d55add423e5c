"""docs/probe.md: the device in it runs as it is printed, with what it prints."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from vfio_client import Client

from tcelab.device.probe import Register

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "probe.md").read_text()
EXAMPLE = DOCS / "examples" / "vfio_device.py"
SOURCE, DESTINATION, SIZE, DOORBELL, STATUS = 0x00, 0x08, 0x10, 0x18, 0x20


def test_the_page_shows_the_device_as_it_is():
    assert f"```python\n{EXAMPLE.read_text()}```" in PAGE


def test_the_device_is_about_forty_lines():
    assert len([line for line in EXAMPLE.read_text().splitlines() if line.strip()]) <= 40


def test_the_page_has_every_register_of_a_doorbell():
    rows = {name: int(offset, 16) for offset, name in re.findall(r"^\| (0x1\w+) \| (\w+) \|", PAGE, re.MULTILINE)}
    assert rows == {name: value for name, value in vars(Register).items() if name.isupper()}


@pytest.fixture
def example(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, EXAMPLE], stdout=subprocess.PIPE, text=True, env=environment) as child:
        yield child
        child.kill()


def copied(qemu, source, destination):
    for register, value in {SOURCE: source, DESTINATION: destination, SIZE: 8, DOORBELL: 1}.items():
        assert qemu.write(0, register, value) == 0
    while (status := qemu.read(0, STATUS, 8)) == 1:
        pass
    return status


def test_the_device_runs_as_printed_and_ends_with_its_machine(example, tmp_path):
    first = example.stdout.readline()
    said = json.loads(first.removeprefix("-device '").rstrip("'\n"))
    assert said["driver"] == "vfio-user-pci"
    with Client(said["socket"]["path"]) as qemu:
        qemu.memory[0x5000] = bytearray(b"whatever".ljust(4096, b"."))
        signal = os.eventfd(0)
        assert qemu.irqs(4 | 32, 1, 0, 1, fds=[signal]) == 0
        assert copied(qemu, 0x5000, 0x5100) == 2
        assert qemu.memory[0x5000][0x100:0x109] == b"whatever."
        assert copied(qemu, 0x9000, 0x5100) == 3
        assert os.eventfd_read(signal) == 2
        assert qemu.seen[-1][1] == 0x9000
        assert os.strerror(errno.ENODEV) == "No such device"
    second = example.stdout.readline()
    assert example.wait(20) == 0
    assert list(tmp_path.iterdir()) == []
    shown = PAGE.partition("    $ python docs/examples/vfio_device.py\n")[2].splitlines()[:2]
    assert re.sub(r"/[^\"]*/device.sock", "/tmp/tcelab-.../device.sock", first).strip() == shown[0].strip()
    assert second.strip() == shown[1].strip()
