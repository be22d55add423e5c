"""Images in one file, for a machine without a network: `export_images` writes it, `import_images` puts them in place.

The file is a tar archive, compressed by zstd if its name ends in `.zst`. Its members, in this order and nothing else:

    tcelab-images.json       the images in it, each manifest's SHA-256, the agent's digest, for which hosts they are
    NAME/manifest.json       of each image, in the order of names
    NAME/FILE                each file and symbolic link of that manifest, in its order

So each member is known before its header is read: a name that is twice, out of place or not below its image's folder, a
device, a hard link or a size that the manifest does not have is refused where it stands, and no size in the file makes
the reader allocate or write more than it has agreed to. Owner and times are 0: the same images make the same archive.

What this proves is that the images are those that were exported. Who made the file is for the user to know, by its
SHA-256: the packages' signatures were checked when the images were built.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import msgspec

import tcelab
from tcelab.errors import HarnessError, UsageError
from tcelab.image.apt import host_architecture
from tcelab.image.imagetar import BLOCK, HEAD, SCHEMA, Head, Reader, Writable, of_file, refused, regular
from tcelab.image.library import image_lock
from tcelab.image.manifest import MANIFEST, Manifest, file_sha256, full_problems, tree_sha256
from tcelab.image.overlay import agent_digest
from tcelab.image.recipe import load, recipe_names
from tcelab.image.staleness import problems_of
from tcelab.image.store import cache_dir, clear_no_space, image_dir, new_image
from tcelab.logs import NOTE, about

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["DEFAULT", "LIMIT", "export_images", "import_images"]

_LOG: Final = logging.getLogger(__name__)

DEFAULT: Final = ("guest", "qemu-11.1")
"""What a run needs."""
LIMIT: Final = 16 << 30
"""Bytes that all images of an archive may hold together."""

_HEAD_LIMIT: Final = 1 << 20
_MANIFEST_LIMIT: Final = 64 << 20
_COPY: Final = 1 << 20
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_OPTIONS: Final[Mapping[int, int]] = {
    zstd.CompressionParameter.compression_level: 9,
    zstd.CompressionParameter.checksum_flag: 1,
}


class _Wanted(NamedTuple):
    """An image of the archive that is being read."""

    name: str
    folder: Path
    manifest: Manifest


# Writing


def export_images(names: Sequence[str], path: Path) -> str:
    """Write images into one file, which appears in one step.

    :return: SHA-256 of the file, hexadecimal.
    :raise UsageError: an unknown name, an image that is not built, or a file that cannot be written.
    :raise HarnessError: an image is damaged, or the disk is full.
    """
    order = sorted(set(names))
    for name in order:
        load(name)
    with ExitStack() as stack:
        manifests = {name: stack.enter_context(_held(name)) for name in order}
        with _appearing(path) as scratch, scratch.open("wb") as file:
            if path.suffix == ".zst":
                with zstd.ZstdFile(file, "w", options=_OPTIONS) as packed:
                    _write(packed, manifests)
            else:
                _write(file, manifests)
            file.flush()
            digest = file_sha256(scratch)
    return digest


@contextmanager
def _held(name: str) -> Iterator[Manifest]:
    """An image that nobody replaces meanwhile, and that is whole."""
    with image_lock(name):
        loaded, folder = load(name), image_dir(name)
        manifest = _manifest((folder / MANIFEST).read_bytes()) if (folder / MANIFEST).is_file() else None
        if manifest is None:
            raise UsageError(f"{name} is not built: it cannot be exported", next_step=f"tcelab image build {name}")
        _, stale = problems_of(loaded, folder, manifest, full=False)
        # Initrds are made anew where the images go: only what is exported must be whole.
        if wrong := [*full_problems(folder, manifest), *stale]:
            raise HarnessError(f"{name} cannot be exported: {wrong[0]}", next_step=f"tcelab image build {name}")
        yield manifest


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A file that takes the place of `path` when the block ends well, and vanishes otherwise."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        scratch.replace(path)
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}", next_step="make room there") from None
    finally:
        scratch.unlink(missing_ok=True)


def _write(to: Writable, manifests: Mapping[str, Manifest]) -> None:
    texts = {name: (image_dir(name) / MANIFEST).read_bytes() for name in manifests}
    head = Head(
        tcelab=tcelab.__version__,
        agent=agent_digest(),
        host=host_architecture(),
        manifests={name: hashlib.sha256(text).hexdigest() for name, text in texts.items()},
    )
    _put(to, regular(HEAD, len(text := _head_text(head))), text)
    for name, manifest in manifests.items():
        _put(to, regular(f"{name}/{MANIFEST}", len(texts[name])), texts[name])
        for file in manifest.files:
            member = of_file(name, file)
            to.write(member.tobuf(tarfile.USTAR_FORMAT))
            if not file.link:
                with (image_dir(name) / file.path).open("rb") as content:
                    shutil.copyfileobj(content, to, _COPY)
                to.write(bytes(-file.size % BLOCK))
    to.write(bytes(2 * BLOCK))


def _head_text(head: Head) -> bytes:
    return msgspec.json.encode(head) + b"\n"


def _put(to: Writable, member: tarfile.TarInfo, content: bytes) -> None:
    to.write(member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK))


# Reading


def import_images(path: Path, sha256: str = "") -> list[str]:
    """Put the images of a file in place, after all of it was checked. Each appears in one step.

    :param sha256: what the file's must be, hexadecimal; empty: any.
    :return: their names.
    :raise UsageError: the file is damaged or no such archive, holds what it must not, or is for another tcelab or host.
    :raise HarnessError: the disk is full.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}", next_step="give a file that tcelab image export has written")
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    with file, clear_no_space():
        if sha256 and hashlib.file_digest(file, "sha256").hexdigest() != sha256.lower():
            raise refused(path, "its SHA-256 is another one")
        file.seek(0)
        packed = file.read(len(_ZSTD)) == _ZSTD
        file.seek(0)
        try:
            return _import(Reader(zstd.ZstdFile(file) if packed else file, path))
        except zstd.ZstdError as error:
            raise refused(path, f"it is damaged: {error}") from None


def _import(reader: Reader) -> list[str]:
    head = _head(reader)
    room = LIMIT
    with ExitStack() as stack:
        for name in head.manifests:
            stack.enter_context(image_lock(name))
        images = []
        # None of them is put in place before the last one has been checked.
        for name, sha256 in head.manifests.items():
            text = reader.small(f"{name}/{MANIFEST}", _MANIFEST_LIMIT)
            if hashlib.sha256(text).hexdigest() != sha256:
                raise reader.refuse(f"the manifest of {name} is damaged")
            manifest = _manifest(text)
            if manifest is None:
                raise reader.refuse(f"the manifest of {name} is none")
            size = _check_manifest(reader, name, manifest)
            room -= size
            if room < 0:
                raise reader.refuse(f"its images hold more than {LIMIT >> 30} GiB")
            _check_room(size)
            image = _Wanted(name, stack.enter_context(new_image(name)), manifest)
            _take(reader, image, text)
            images.append(image)
        reader.end()
        for image in images:
            # As long as there is a reason to build it, it would be built at the next run.
            damaged, stale = problems_of(load(image.name), image.folder, image.manifest, full=False)
            if wrong := [*damaged, *stale]:
                raise _other(reader.path, f"{image.name} is of no use here: {wrong[0]}")
    for image in images:
        with about(image.name):
            _LOG.info("imported (%.0f MB)", sum(file.size for file in image.manifest.files) / 1e6, extra=NOTE)
    return list(head.manifests)


def _other(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path}: {why}; nothing was imported", next_step="export and import with the same version of tcelab"
    )


def _head(reader: Reader) -> Head:
    """What the archive says of itself: that it is for this tcelab and this host."""
    try:
        text = reader.small(HEAD, _HEAD_LIMIT)
        head = msgspec.json.decode(text, type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise reader.refuse(f"its {HEAD} is damaged") from None
    if head.schema != SCHEMA:
        raise _other(reader.path, f"it has schema {head.schema}, this tcelab reads schema {SCHEMA}")
    if text != _head_text(head):
        raise reader.refuse(f"its {HEAD} is damaged")
    if head.agent != agent_digest():
        raise _other(reader.path, f"its agent is that of tcelab {head.tcelab!r}, with the digest {head.agent[:12]!r}")
    if head.host != host_architecture():
        raise UsageError(f"{reader.path}: it is for hosts of {head.host!r}, and this one is {host_architecture()}")
    names = list(head.manifests)
    if unknown := sorted(set(names) - set(recipe_names())):
        raise _other(reader.path, f"this tcelab has no recipe {unknown[0]!r}")
    if not names or names != sorted(names):
        raise reader.refuse(f"its {HEAD} is damaged")
    return head


def _manifest(text: bytes) -> Manifest | None:
    try:
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _check_room(size: int) -> None:
    free = shutil.disk_usage(cache_dir()).free
    if size > free:
        raise HarnessError(
            f"the images hold {size / 1e6:.0f} MB, and {cache_dir()} has room for {free / 1e6:.0f} MB",
            next_step="free some space, or name another folder in TCELAB_CACHE",
        )


def _check_manifest(reader: Reader, name: str, manifest: Manifest) -> int:
    """Check what a manifest says before anything of it is written; return the bytes that it names."""
    if manifest.recipe != name:
        raise reader.refuse(f"the manifest of {name} is of {manifest.recipe!r}")
    if tree_sha256(manifest.files) != manifest.tree_sha256:
        raise reader.refuse(f"the manifest of {name} is damaged")
    paths = {file.path for file in manifest.files}
    if len(paths) != len(manifest.files):
        raise reader.refuse(f"the manifest of {name} names a file twice")
    for file in manifest.files:
        if not _is_place(file.path):
            raise reader.refuse(f"{name} has a file at {file.path!r}, which is no place in an image")
        # Below a link it would be written where that leads.
        if any(parent.as_posix() in paths for parent in PurePosixPath(file.path).parents):
            raise reader.refuse(f"{name} has {file.path!r} below something that is no folder")
        if file.link and not _inside(file.path, file.link, paths):
            raise reader.refuse(f"{name} has a link {file.path!r} that leads out of it")
        if file.size < 0:
            raise reader.refuse(f"the manifest of {name} is damaged")
    return sum(file.size for file in manifest.files)


def _is_place(path: str) -> bool:
    """It is a path relative to an image's folder, in one form, and not its manifest's."""
    parts = path.split("/")
    return path.isprintable() and not {"", ".", ".."} & set(parts) and path != MANIFEST


def _inside(path: str, target: str, paths: set[str]) -> bool:
    """A link leads into its image. An absolute one, as packages have them, is meant from the root of its tree."""
    if not target.isprintable():
        return False
    if target.startswith("/"):
        parents = [parent.as_posix() for parent in PurePosixPath(path).parents]
        return any(os.path.normpath(f"{parent}{target}").removeprefix("./") in paths for parent in parents)
    return not os.path.normpath(f"{PurePosixPath(path).parent}/{target}").startswith("..")


def _take(reader: Reader, image: _Wanted, text: bytes) -> None:
    """Read an image into its new folder, which is empty and nobody else's."""
    for file in image.manifest.files:
        reader.expect(of_file(image.name, file))
        path = image.folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.link:
            path.symlink_to(file.link)
            continue
        digest, left = hashlib.sha256(), file.size
        with path.open("xb") as out:
            while left:
                block = reader.exactly(min(left, _COPY))
                digest.update(block)
                out.write(block)
                left -= len(block)
        path.chmod(0o755 if file.executable else 0o644)
        reader.padding(file.size)
        if digest.hexdigest() != file.sha256:
            raise reader.refuse(f"{image.name}/{file.path} is damaged")
    (image.folder / MANIFEST).write_bytes(text)
