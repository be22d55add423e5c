"""Locks of recipes: which version of each package an image is built of, with its hash, in ``images/NAME.lock``.

A build takes a locked version wherever the archive still has it. Where it has dropped it, the newest one that fits is
taken; that is logged and stands in the manifest. A package of a locked version with another hash is an error. A lock
holds the packages of each architecture that somebody locked it on: what is locked for no architecture of a host's is
taken as if there were no lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tcelab.errors import HarnessError, UsageError, in_words
from tcelab.image.apt import Fetch, Fetched, FetchRequest
from tcelab.image.manifest import Manifest
from tcelab.image.packages import Drift, Locked, Package
from tcelab.image.recipe import lock_path
from tcelab.logs import NOTE

__all__ = ["compared", "drift", "fetching", "outdated", "read_lock", "write_lock"]

_LOG: Final = logging.getLogger(__name__)

_SCHEMA: Final = 1


class _Lock(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    schema: int = _SCHEMA
    packages: list[Locked]


def read_lock(name: str) -> tuple[Locked, ...]:
    """The locked packages of a recipe; none: it is not locked.

    :raise UsageError: the file is no lock.
    """
    path = lock_path(name)
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=_Lock)
    except FileNotFoundError:
        return ()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name}: {in_words(str(error))}", next_step=f"make it anew: {_again(name)}") from None
    if lock.schema != _SCHEMA:
        raise UsageError(f"{path.name} has schema {lock.schema}, this tcelab reads schema {_SCHEMA}")
    keys = [(each.name, each.architecture) for each in lock.packages]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UsageError(f"{path.name} holds {twice[0][0]} ({twice[0][1]}) twice", next_step=_again(name))
    return tuple(lock.packages)


def write_lock(name: str, manifest: Manifest) -> list[Drift]:
    """Lock a recipe to the packages of an image, and keep what is locked for other architectures.

    :return: what changed.
    :raise HarnessError: the file cannot be written.
    """
    before, path = read_lock(name), lock_path(name)
    own = {each.architecture for each in manifest.packages}
    new = {Locked(each.name, each.version, each.architecture, each.sha256, each.size) for each in manifest.packages}
    kept = [each for each in before if each.architecture not in own]
    lines = [msgspec.json.encode(each).decode() for each in sorted({*new, *kept})]
    packages = ",\n".join(lines)
    text = f'{{"schema": {_SCHEMA}, "packages": [\n{packages}\n]}}\n'
    try:
        path.write_text(text)
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}", next_step="lock in a checkout of tcelab") from None
    return compared(manifest.packages, before)


def compared(packages: Sequence[Package], locked: Sequence[Locked]) -> list[Drift]:
    """All that differs between packages and a lock, sorted; of other architectures than the packages', nothing."""
    taken = {(each.name, each.architecture) for each in packages}
    own = {architecture for _, architecture in taken}
    gone = [
        Drift(each.name, each.architecture, each.version)
        for each in locked
        if each.architecture in own and (each.name, each.architecture) not in taken
    ]
    return sorted([*_changed(packages, locked), *gone])


def drift(packages: Iterable[Package], locked: Sequence[Locked]) -> list[Drift]:
    """Those of the packages that are not as locked, sorted. Of architectures for which nothing is locked, none."""
    architectures = {each.architecture for each in locked}
    return _changed([each for each in packages if each.architecture in architectures], locked)


def _changed(packages: Iterable[Package], locked: Iterable[Locked]) -> list[Drift]:
    versions = {(each.name, each.architecture): each.version for each in locked}
    every = (
        Drift(each.name, each.architecture, versions.get((each.name, each.architecture), ""), each.version)
        for each in packages
    )
    return sorted({each for each in every if each.locked != each.taken})


def fetching(fetch: Fetch, locked: tuple[Locked, ...], *, newest: bool) -> Fetch:
    """What fetches the locked packages, and tells which of them are others.

    :param newest: ignore the lock, and tell all the same.
    """

    def locking(request: FetchRequest) -> Fetched:
        fetched = fetch(request if newest else msgspec.structs.replace(request, locked=locked))
        if locked and {request.architecture, "all"}.isdisjoint(each.architecture for each in locked):
            _LOG.warning("nothing is locked for %s: the newest packages are taken", request.architecture, extra=NOTE)
        for each in drift(fetched.packages, locked):
            why = "newest" if newest else "the locked version is not to be had" if each.locked else "new"
            _LOG.warning("%s: %s", why, each.told(), extra=NOTE)
        return fetched

    return locking


def outdated(locked: Sequence[Locked], manifest: Manifest) -> str:
    """Why an image is not what its lock would have made of it today; empty: it is.

    What its build told as drift stays right until that package is locked anew.
    """
    held = {(each.name, each.architecture): each for each in locked}
    architectures = {each.architecture for each in locked}
    told = {(each.name, each.architecture): each.locked for each in manifest.drift}
    for package in manifest.packages:
        key = (package.name, package.architecture)
        wanted = held.get(key)
        if package.architecture not in architectures or (wanted is not None and wanted.sha256 == package.sha256):
            continue
        if told.get(key) != ("" if wanted is None else wanted.version):
            version = "no version of it" if wanted is None else wanted.version
            return f"built of {package.name} {package.version}, and the lock has {version}"
    return ""


def _again(name: str) -> str:
    return f"tcelab image lock {name}"
