"""A writer of ``newc`` archives, the format of an initramfs.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Nothing of the host gets in:
owner 0:0, time 0, inode numbers counted from 1 in the order of the sorted names, so equal trees make equal
archives. Archives may follow each other in one file; each is padded to 512 bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["Member", "device", "directory", "file", "link", "write_archive"]

_ALIGNMENT = 512
_TRAILER = "TRAILER!!!"


class Member(NamedTuple):
    """One member of an archive.

    :ivar path: without a leading slash.
    :ivar mode: type and permissions, as in ``st_mode``.
    :ivar data: content, or the file that holds it; of a symbolic link its target.
    :ivar device: (major, minor) of a device node.
    """

    path: str
    mode: int
    data: bytes | Path = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Member:
    return Member(path, stat.S_IFDIR | mode)


def file(path: str, data: bytes | Path, *, executable: bool = False) -> Member:
    return Member(path, stat.S_IFREG | (0o755 if executable else 0o644), data)


def link(path: str, target: str) -> Member:
    return Member(path, stat.S_IFLNK | 0o777, target.encode())


def device(path: str, major: int, minor: int) -> Member:
    """A character device; an archive may hold one although only root may make one."""
    return Member(path, stat.S_IFCHR | 0o600, device=(major, minor))


def write_archive(stream: BinaryIO, entries: Iterable[Member]) -> int:
    """Write the entries, sorted by path, and every directory above them that they do not name.

    :param entries: a path given twice counts once, the last one.
    :return: bytes written, a multiple of 512.
    """
    complete = {entry.path: entry for entry in entries}
    for path in list(complete):
        for parent in Path(path).parents:
            if parent.name:
                complete.setdefault(parent.as_posix(), directory(parent.as_posix()))
    written = 0
    for inode, path in enumerate(sorted(complete), start=1):
        written += _write_entry(stream, complete[path], inode)
    written += _write_entry(stream, Member(_TRAILER, 0), 0)
    return written + stream.write(bytes(-written % _ALIGNMENT))


def _write_entry(stream: BinaryIO, entry: Member, inode: int) -> int:
    data = entry.data.read_bytes() if isinstance(entry.data, Path) else entry.data
    name = entry.path.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device of the file system (2), of the node (2), name, checksum
    fields = (inode, entry.mode, 0, 0, 1, 0, len(data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    head = header + name
    return stream.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))
