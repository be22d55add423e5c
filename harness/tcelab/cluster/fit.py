"""Which workers may take part: those that would run the same thing as the client."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import tcelab
from tcelab import image
from tcelab.errors import TcelabError
from tcelab.image.manifest import file_sha256
from tcelab.nightly.provision import Need

VM = "vm"
"""The resource of a worker that says how many guests it may run at a time."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is.

    :ivar hashes: of each image and QEMU, by `image guest`.
    :ivar why: why one cannot be had there; empty if all can.
    """

    tcelab: str
    hashes: dict[str, str] = {}
    why: str = ""


def facts(needs: Sequence[Need]) -> Facts:
    """Of this machine. What is missing is built, once, under its lock."""
    hashes = {}
    for what, name in needs:
        try:
            hashes[f"{what} {name}"] = _hash(what, name)
        except (TcelabError, OSError) as error:
            why = error.message if isinstance(error, TcelabError) else str(error)
            return Facts(tcelab=tcelab.__version__, hashes=hashes, why=f"no {what} {name}: {why}")
    return Facts(tcelab=tcelab.__version__, hashes=hashes)


def _hash(what: str, name: str) -> str:
    if what == "image":
        return image.ensure_guest(name).manifest.tree_sha256
    if what != "qemu":
        return ""  # a mutant is built from the image by the same tcelab
    return image.ensure_qemu(name).manifest.tree_sha256 if name in image.recipe_names() else file_sha256(Path(name))


def refused(own: Facts, other: Facts | None, resources: Mapping[str, float]) -> str:
    """Why a worker may not take part; empty if it may.

    :param own: of the client.
    :param other: of the worker; None: it has no tcelab that could be asked.
    :param resources: what the worker offers.
    """
    if other is None:
        return "it has no tcelab that can be asked: install the same one there"
    if other.tcelab != own.tcelab:
        return f"it has tcelab {other.tcelab}, and the client has {own.tcelab}"
    if resources.get(VM, 0) < 1:
        return f'it offers no guests: start it with --resources "{VM}=2", by how many its cores can run'
    if other.why:
        return other.why
    for name, digest in own.hashes.items():
        if other.hashes.get(name) != digest:
            return f"its {name} has the hash {other.hashes.get(name, 'unknown')[:16]}, and the client's {digest[:16]}"
    return ""


def machine(own: Facts) -> str:
    """One hash of all that a task depends on beside its words."""
    return hashlib.sha256(msgspec.json.encode(sorted(own.hashes.items()))).hexdigest()
