"""The manifest of an image: where every byte came from, and how to verify it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from tcelab.image.packages import Drift, Package, SuiteNote

__all__ = [
    "BUILDER",
    "MANIFEST",
    "ImageFile",
    "Manifest",
    "file_sha256",
    "full_problems",
    "quick_problems",
    "read_manifest",
    "record_files",
    "tree_sha256",
    "write_manifest",
]

_CHUNK: Final = 128 << 10

BUILDER = 1
"""Version of the code that builds images; a higher one makes older images stale."""

_SCHEMA = 1
MANIFEST = "manifest.json"
"""Name of the file, in the image's folder."""


class ImageFile(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """One file of an image.

    :ivar path: relative to the image's folder.
    :ivar size: bytes; of a symbolic link the length of its target.
    :ivar executable: by its owner.
    :ivar sha256: hexadecimal; empty for a symbolic link.
    :ivar link: target of a symbolic link.
    """

    path: str
    size: int
    executable: bool = False
    sha256: str = ""
    link: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known about an image.

    :ivar tree_sha256: over ``files``, see :func:`tree_sha256`; equal for two builds from the same packages.
    :ivar date: when it was built, ISO 8601, UTC.
    :ivar suites_left_out: suites whose index apt refused.
    :ivar suites_not_refreshed: suites of which an older, verified index was used.
    :ivar drift: packages that are not those of the recipe's lock, see `tcelab.image.recipelock`.
    :ivar newest: the lock was ignored on purpose.
    :ivar kernel_release: as ``uname -r`` in the guest.
    :ivar modules: names in load order, without what is built in.
    :ivar python: version of the guest's Python as in its file names.
    :ivar qemu: first line of ``--version``.
    :ivar edu: whether ``-device help`` lists edu.
    :ivar toolchain: ``tree_sha256`` of the tools that built our module and programs; empty: a guest without them.
    :ivar kernels: releases of which a toolchain has the headers.
    """

    schema: int = _SCHEMA
    builder: int = BUILDER
    recipe: str
    recipe_sha256: str
    date: str
    packages: list[Package]
    suites_left_out: list[SuiteNote] = []
    suites_not_refreshed: list[SuiteNote] = []
    drift: list[Drift] = []
    newest: bool = False
    files: list[ImageFile]
    tree_sha256: str
    kernel_release: str = ""
    modules: list[str] = []
    python: str = ""
    qemu: str = ""
    edu: bool | None = None
    toolchain: str = ""
    kernels: list[str] = []

    def file(self, path: str) -> ImageFile:
        """The record of one file.

        :raise KeyError: the image has no such file.
        """
        for file in self.files:
            if file.path == path:
                return file
        raise KeyError(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    return _sha256(str(path))


def _sha256(path: str) -> str:
    # Most files of an image are small, and it has thousands: `hashlib.file_digest` fills a buffer of 256 KiB for each.
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a Path costs as much as a small file's hash
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def record_files(folder: Path) -> list[ImageFile]:
    """Records of all files and links below a folder, sorted by path."""
    return sorted(_record(folder, path) for path in _walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)
        for name in directories:
            if Path(parent, name).is_symlink():
                yield Path(parent, name)


def _record(folder: Path, path: Path) -> ImageFile:
    name = path.relative_to(folder).as_posix()
    if path.is_symlink():
        target = path.readlink().as_posix()
        return ImageFile(path=name, size=len(target), link=target)
    status = path.stat()
    return ImageFile(
        path=name,
        size=status.st_size,
        executable=bool(status.st_mode & 0o100),
        sha256=file_sha256(path),
    )


def tree_sha256(files: Iterable[ImageFile]) -> str:
    """One SHA-256 for a set of files: over their sorted records, encoded as JSON lines."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(msgspec.json.encode(file) + b"\n")
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into the image's folder."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST).write_bytes(text + b"\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an image, or None when there is none that this tcelab can read."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def quick_problems(folder: Path, manifest: Manifest) -> list[str]:
    """What is missing or has another size; takes milliseconds."""
    root = str(folder)
    return [problem for file in manifest.files if (problem := _quick_problem(root, file))]


def _quick_problem(folder: str, file: ImageFile) -> str:
    try:
        size = os.lstat(os.path.join(folder, file.path)).st_size  # noqa: PTH118 - thousands, for each command
    except OSError as error:
        return f"{file.path}: {error.strerror}"
    return "" if size == file.size else f"{file.path}: {size} bytes instead of {file.size}"


def full_problems(folder: Path, manifest: Manifest) -> list[str]:
    """As :func:`quick_problems`, and every file's content; takes as long as reading it all."""
    problems = quick_problems(folder, manifest)
    named = {problem.partition(":")[0] for problem in problems}
    root = str(folder)
    for file in manifest.files:
        if file.path in named:
            continue
        path = os.path.join(root, file.path)  # noqa: PTH118 - as above
        if file.link:
            changed = not os.path.islink(path) or Path(path).readlink().as_posix() != file.link  # noqa: PTH114
        else:
            changed = os.path.islink(path) or _sha256(path) != file.sha256  # noqa: PTH114
        if changed:
            problems.append(f"{file.path}: content differs from what was built")
    if tree_sha256(manifest.files) != manifest.tree_sha256:
        problems.append("manifest.json: its list of files was changed")
    return problems
