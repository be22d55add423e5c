"""The key of a base: the hash of everything that a booted guest is made of. Any change boots a new guest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from tcelab.errors import Unsupported
from tcelab.image import bases, known
from tcelab.qemu import guest, machine, transit, trial
from tcelab.qemu.probe import Abilities, Qemu
from tcelab.scenarios import warmup

_NO_FDS: Final = machine.Descriptors(0, 0, 0, 0, 0, 0, 0)
_MAKERS: Final = (bases, guest, machine, transit, trial, warmup)
"""Modules whose code decides what a base holds."""


def key(qemu: Qemu, options: machine.QemuOptions, abilities: Abilities) -> str:
    """16 hex digits. The paths of kernel and initrd do not count, only their contents.

    :raise Unsupported: a change of one of the parts could not be detected.
    """
    unnamed = msgspec.structs.replace(options, kernel=Path("kernel"), initrd=Path("initrd"))
    try:
        parts = {
            "made by": _makers(),
            "qemu": qemu.build or _program(Path(qemu.argv[0])),
            "abilities": msgspec.to_builtins(abilities),
            "kernel": known.sha256_of(options.kernel),
            "initrd": known.sha256_of(options.initrd),
            "arguments": machine.arguments(unnamed, abilities, _NO_FDS),
        }
    except OSError as error:
        raise Unsupported(f"cannot read {error.filename}: {error.strerror}") from None
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def _program(path: Path) -> str:
    """The hash of a QEMU."""
    with path.open("rb") as file:
        if file.read(2) == b"#!":
            raise Unsupported(f"{path} is a script: nothing tells when the QEMU behind it changes")
    return known.sha256_of(path)


def _makers() -> str:
    digest = hashlib.sha256()
    for module in _MAKERS:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()
