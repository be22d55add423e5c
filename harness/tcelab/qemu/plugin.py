"""Our TCG plugin, built for a QEMU by a compiler of this host, and tried on it before any guest depends on it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

import msgspec

import tcelab.coverage
from tcelab.errors import HarnessError, Unsupported
from tcelab.image import known
from tcelab.image.hosttools import RunLimit, run
from tcelab.image.store import cache_dir
from tcelab.qemu.probe import Qemu, environment

COMPILERS: Final = ("cc", "gcc", "clang")
APIS: Final = (7, 4, 1, 6, 5, 3, 2)
"""Versions of the plugin API that the plugin can be built for, those of known QEMUs first (11.1, 10.0, 7.2). A QEMU
takes a span of them, and refuses all others (plugins/loader.c).
"""

_OPTIONS: Final = ("-shared", "-fPIC", "-O2", "-nostdlib", "-ffreestanding", "-fvisibility=hidden")
_LIMIT: Final = 60.0
_REFUSAL: Final = "Could not load plugin"


class _Tried(msgspec.Struct, frozen=True):
    """What a QEMU loaded."""

    version: int
    sha256: str


def source() -> Path:
    return Path(tcelab.coverage.__file__).parent / "plugin.c"


def plugin(qemu: Qemu) -> Path:
    """The plugin's file, for a QEMU that is known to load it.

    :raise Unsupported: there is none, and why.
    """
    key = f"plugin {_digest()} of {qemu.build or known.sha256_of(Path(qemu.argv[0]))}"
    if (tried := known.recall(key, _Tried)) is not None:
        path = _built(tried.version)
        if known.sha256_of(path) == tried.sha256:
            return path
        path.unlink(missing_ok=True)  # not what that QEMU loaded
    why = ""
    for version in APIS:
        path = _built(version)
        said = _tried(qemu, path)
        if not said:
            known.remember(key, _Tried(version, known.sha256_of(path)))
            return path
        why = said if not why or "only" in said else why
    raise Unsupported(f"{qemu.name} loads no plugin of ours: {why}")


def _tried(qemu: Qemu, path: Path) -> str:
    """Why a QEMU does not load it; empty: it does."""
    quiet = ("-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio", "-plugin", str(path))
    limit = RunLimit("try the plugin", _LIMIT)
    try:
        run([*qemu.argv, *quiet], limit, environment=environment(qemu), stdin=b"quit\n")
    except HarnessError as error:
        said = next((line for line in error.message.splitlines() if _REFUSAL in line), error.message.splitlines()[-1])
        return said.rpartition(f"{path}: ")[2].strip()
    return ""


def _built(version: int) -> Path:
    """For one version of the API; from the cache, if it is there.

    :raise Unsupported: this host has no C compiler, or it fails.
    """
    path = cache_dir() / "coverage" / f"plugin-{_digest()}-{version}.so"
    if path.is_file():
        return path
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise Unsupported(f"this host has no C compiler to build the plugin: none of {', '.join(COMPILERS)} is on PATH")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            run([compiler, *_OPTIONS, f"-DAPI={version}", "-o", made, source()], RunLimit("build the plugin", _LIMIT))
            made.replace(path)
    except HarnessError as error:
        raise Unsupported(f"the plugin cannot be built: {error.message.splitlines()[-1]}") from None
    except OSError as error:
        raise Unsupported(f"the plugin cannot be built: cannot write {path.parent}: {error.strerror}") from None
    return path


def _digest() -> str:
    return hashlib.sha256(source().read_bytes() + " ".join(_OPTIONS).encode()).hexdigest()[:16]
