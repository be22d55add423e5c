"""Reading Debian's package of a kernel's sources: an archive within a package, read once from its beginning."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

from tcelab.errors import HarnessError

__all__ = ["Entry", "entries", "take"]


class Entry(NamedTuple):
    """A file, a symbolic link or a folder of the sources.

    :ivar path: below the sources.
    :ivar content: opens a file; only until the next entry is asked for.
    """

    path: str
    member: tarfile.TarInfo
    content: Callable[[], IO[bytes]]


def entries(deb: Path, source: str) -> Iterator[Entry]:
    """All that the archive SOURCE.tar.xz in a package holds, in its order. Close the generator to read no further.

    :raise HarnessError: the package cannot be read, or holds something that is not below its own folder.
    """
    prefix = f"{source}/"
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as process:  # noqa: S607
        try:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as package:
                archive = next((each for each in package if each.name.endswith(f"/{source}.tar.xz")), None)
                packed = None if archive is None else package.extractfile(archive)
                if packed is not None:
                    with tarfile.open(fileobj=packed, mode="r|xz") as tree:
                        yield from _below(tree, prefix)
        except tarfile.TarError as error:
            raise HarnessError(f"the package {source} cannot be read: {error}") from error
        finally:
            process.kill()


def take(deb: Path, source: str, wanted: set[str]) -> dict[str, str]:
    """The text of some files; reading ends with the last of them. A file that is not there is left out."""
    files: dict[str, str] = {}
    with closing(entries(deb, source)) as every:  # type: ignore[type-var]
        for entry in every:
            if entry.path in wanted and entry.member.isfile():
                files[entry.path] = entry.content().read().decode()
                if len(files) == len(wanted):
                    break
    return files


def _below(tree: tarfile.TarFile, prefix: str) -> Iterator[Entry]:
    for member in tree:
        if member.name == prefix.rstrip("/"):
            continue
        path = member.name.removeprefix(prefix)
        if path == member.name or ".." in Path(path).parts:
            raise HarnessError(f"the package of the sources holds {member.name}, which is not below {prefix}")
        yield Entry(path, member, lambda member=member: _opened(tree, member))  # type: ignore[misc]


def _opened(tree: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tree.extractfile(member)
    assert file is not None
    return file
