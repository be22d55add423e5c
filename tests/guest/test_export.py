"""`tcelab export`: the C file, built by the toolchain and run in guests, gives what tcelab's own runs give."""

import base64
import re
import shlex
import zlib
from pathlib import Path

import pytest

from tcelab import export
from tcelab.image import library
from tcelab.program import load
from tcelab.program.parts import parts
from tcelab.qemu.typist import Typist

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"
READY = 60.0
LIMIT = 300.0
BINARY = "/tmp/reproducer"
"""In the guest."""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compile a C file for the guest."""
    release = library.ensure_guest("guest").manifest.kernel_release
    folder = tmp_path_factory.mktemp("c")

    def compiled(text):
        (folder / "reproducer.c").write_text(text)
        with library.toolchain(release) as toolchain:
            return toolchain.program(folder / "reproducer.c")

    return compiled


def into(data):
    """A program that writes bytes into a file of the guest, which may be executed."""
    text = base64.b64encode(zlib.compress(data, 9)).decode()
    return (
        "import binascii, os, zlib;"
        f" open('{BINARY}', 'wb').write(zlib.decompress(binascii.a2b_base64('{text}'))); os.chmod('{BINARY}', 0o755)"
    )


def binding(files):
    """The lines of the README that bind the devices."""
    return re.findall(r"^    (echo .*)$", files["README.md"].decode(), re.M)


def tried(session, files, binary, argument=""):
    """What the reproducer printed, and its exit status."""
    typist = Typist(session, READY)
    write = shlex.join(["python3.11", "-S", "-c", into(binary)])
    done = typist.run("\n".join([write, *binding(files), f"exec {BINARY} {argument}"]), LIMIT)
    assert done is not None, "it did not end"
    return done.status, done.output


def wrong(output):
    """Lines of operations, as (number, what, got, expected)."""
    found = re.findall(r"operation (\d+): (.*): got (.*), expected (.*)$", output, re.M)
    return [(int(number), *rest) for number, *rest in found]


@pytest.fixture
def try_it(pseries, build):
    def call(program, *, change=lambda text: text, argument=""):
        files = export.files(program)
        return tried(pseries.session, files, build(change(files["reproducer.c"].decode())), argument)

    return call
