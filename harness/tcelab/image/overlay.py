"""The part of the initramfs that is ours: the agent and the guest's ``rootfs``, behind the packages' archive.

The kernel unpacks archives that follow each other in one file, and a later file takes the place of an earlier one of
its name. So a changed agent, or another kernel's modules, need no new image: the cached archive of the packages and
small new ones are put together in well under a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tcelab.image import cpio
from tcelab.image import modules as drivers
from tcelab.image.bytecode import CompileJob, compile_all
from tcelab.image.locks import lock
from tcelab.image.manifest import BUILDER, Manifest, file_sha256
from tcelab.image.resources import agent_dir, rootfs_dir
from tcelab.image.store import clear_no_space

__all__ = ["BASE", "agent_digest", "combined_initrd", "initrd_problems", "overlay_digest"]

BASE = "base.cpio"
"""Name of the packages' archive in a guest image."""

_GUEST_AGENT = "usr/lib/tcelab/tceagent"

_in_use: dict[Path, int] = {}
"""Descriptors that hold a shared lock on each initramfs this process was given, until it ends."""


def agent_digest(folder: Path | None = None) -> str:
    """SHA-256 over the agent's sources, hexadecimal; the guest computes the same and sends it at handshake.

    For every ``*.py`` below the folder, in the order of the relative names (by code point; ``/`` separates):
    the name in UTF-8, one NUL byte, the content, one NUL byte. Nothing else; byte code does not count.

    :param folder: of the package; None: the agent that belongs to this tcelab.
    """
    digest = hashlib.sha256()
    for name, path in _sources(folder or agent_dir()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(folder: Path) -> list[tuple[str, Path]]:
    return sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))


def overlay_digest() -> str:
    """SHA-256 over everything the overlay is made of (not of the overlay itself)."""
    digest = hashlib.sha256(f"{BUILDER}\0{agent_digest()}\0".encode())
    for entry in _rootfs_entries(rootfs_dir()):
        data = entry.data.read_bytes() if isinstance(entry.data, Path) else entry.data
        digest.update(f"{entry.path}\0{entry.mode:o}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def combined_initrd(
    folder: Path,
    manifest: Manifest,
    modules: Mapping[str, bytes] | None = None,
    instead: Mapping[str, bytes] | None = None,
    more: Mapping[str, Path] | None = None,
) -> Path:
    """The initramfs of a guest image with today's agent; made when it is not there yet.

    It stays for as long as this process lives. Others of the image, that no process uses, are deleted.

    :param modules: of another kernel, by name, in load order: loaded instead of the image's. None: the image's.
    :param instead: modules in the place of those of their names.
    :param more: further files, by their places in the guest.
    :raise HarnessError: the agent does not compile, or the disk is full.
    """
    of_modules = "".join(f"-{_modules_digest(given)[:12]}" for given in (modules, instead) if given is not None)
    of_files = f"-{_modules_digest(_hashes(more))[:12]}" if more else ""
    path = folder / f"initrd-{overlay_digest()[:12]}{of_modules}{of_files}.cpio"
    # One process at a time: two that build the same file would replace what the other was given.
    with lock("initrd", "another process that puts an initrd together"), clear_no_space():
        while not _hold(path):
            _make(folder, path, manifest, modules, instead, more or {})
        _delete_unused(folder)
    return path


def initrd_problems(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the combined archives of an image, by the checksum noted when they were made."""
    problems = []
    for path in sorted(folder.glob("initrd-*.cpio")):
        note = path.with_suffix(".sha256")
        expected = note.read_text().partition(" ")[0] if note.exists() else ""
        if path.stat().st_size <= manifest.file(BASE).size or file_sha256(path) != expected:
            problems.append(f"{path.name}: content differs from what was built")
    return problems


def _modules_digest(modules: Mapping[str, bytes]) -> str:
    """SHA-256 over names, load order and contents."""
    digest = hashlib.sha256()
    for name, content in modules.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _hashes(files: Mapping[str, Path]) -> dict[str, bytes]:
    return {place: file_sha256(source).encode() for place, source in files.items()}


def _make(  # noqa: PLR0917 - all that it is made of
    folder: Path,
    path: Path,
    manifest: Manifest,
    modules: Mapping[str, bytes] | None,
    instead: Mapping[str, bytes] | None,
    more: Mapping[str, Path],
) -> None:
    with tempfile.TemporaryDirectory(prefix=".initrd-", dir=folder) as scratch:
        unfinished = Path(scratch, "initrd")
        with unfinished.open("wb") as stream:
            with (folder / BASE).open("rb") as base:
                shutil.copyfileobj(base, stream, 1 << 20)
            cpio.write_archive(stream, _entries(folder / "tools", manifest.python, Path(scratch)))
            if modules is not None:
                cpio.write_archive(stream, drivers.entries(modules))
            if instead is not None:
                cpio.write_archive(stream, drivers.files(instead))
            if more:
                cpio.write_archive(stream, [cpio.file(place, source) for place, source in more.items()])
        # The checksum first, so that an existing archive always has one.
        note = Path(scratch, "note")
        note.write_text(f"{file_sha256(unfinished)}  {path.name}\n")
        note.replace(path.with_suffix(".sha256"))
        unfinished.replace(path)


def _entries(tools: Path, python: str, scratch: Path) -> Iterator[cpio.Member]:
    yield from _rootfs_entries(rootfs_dir())
    tag = f"cpython-{python.replace('.', '')}"
    jobs: list[CompileJob] = []
    for number, (name, source) in enumerate(_sources(agent_dir())):
        compiled = Path(name).parent / "__pycache__" / f"{Path(name).stem}.{tag}.pyc"
        target = scratch / f"{number}.pyc"
        jobs.append(CompileJob(source, target, f"/{_GUEST_AGENT}/{name}"))
        yield cpio.file(f"{_GUEST_AGENT}/{name}", source)
        yield cpio.file(f"{_GUEST_AGENT}/{compiled.as_posix()}", target)
    compile_all(tools, python, jobs)


def _rootfs_entries(folder: Path) -> Iterator[cpio.Member]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield cpio.link(name, path.readlink().as_posix())
        elif path.is_dir():
            yield cpio.directory(name)
        else:
            yield cpio.file(name, path, executable=bool(path.stat().st_mode & 0o100) or name == "init")


def _hold(path: Path) -> bool:
    """Mark an initramfs as used by this process; False when it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    # Between open and lock another process may have deleted it.
    if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
        os.close(descriptor)
        return False
    previous = _in_use.get(path)
    _in_use[path] = descriptor
    if previous is not None:
        os.close(previous)
    return True


def _delete_unused(folder: Path) -> None:
    for path in folder.glob("initrd-*.cpio"):
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink()
            path.with_suffix(".sha256").unlink(missing_ok=True)
