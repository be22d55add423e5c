"""The module `tests/guest/dma_faults`, which has the DMA API do wrong with one table, and how a guest gets it."""

from __future__ import annotations

import base64
import shlex
import zlib
from pathlib import Path

from tcelab.image import library

MODULE = "/tmp/dma_faults.ko"


def dma_faults():
    """The module of `dma_faults/`, for the image's kernel."""
    release = library.ensure_guest("guest").manifest.kernel_release
    with library.toolchain(release) as toolchain:
        return toolchain.modules(Path(__file__).parents[1] / "guest/dma_faults", release)["dma_faults"]


def unpacked(module):
    """A program that writes the module into a file of the guest."""
    text = base64.b64encode(zlib.compress(module, 9)).decode()
    return f"import binascii, zlib; open('{MODULE}', 'wb').write(zlib.decompress(binascii.a2b_base64('{text}')))"


def python(program):
    return shlex.join(["python3.11", "-S", "-c", program])
