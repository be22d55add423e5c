"""Files that are compressed as the modules of distributions are: .xz (Debian), .gz, .zst (Fedora, Arch, Ubuntu)."""

from __future__ import annotations

import gzip
import lzma
import sys
import zlib
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from tcelab.errors import UsageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["LIMIT", "OPENERS", "read"]

LIMIT: Final = 128 << 20
"""Limit on the unpacked size: a hundred times a driver, but no decompression bomb."""

OPENERS: Final[Mapping[str, Callable[[Path], BufferedIOBase]]] = {
    ".xz": lzma.LZMAFile,
    ".gz": gzip.GzipFile,
    ".zst": zstd.ZstdFile,
}
"""What opens a file of a suffix."""

_DAMAGED: Final = (OSError, EOFError, MemoryError, lzma.LZMAError, zlib.error, zstd.ZstdError)


def read(path: Path) -> bytes:
    """What a file with one of these suffixes holds, unpacked.

    :raise UsageError: it cannot be read, is damaged, or holds too much.
    """
    try:
        with OPENERS[path.suffix](path) as file:
            content = file.read(LIMIT + 1)
    except _DAMAGED as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if len(content) > LIMIT:
        raise UsageError(f"{path} cannot be read: it holds more than {LIMIT >> 20} MiB")
    return content
