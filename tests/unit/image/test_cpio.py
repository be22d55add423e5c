"""The newc writer, read back by a reader of the tests' own."""

import io
import random
import stat

from imagetoy import read_cpio

from tcelab.image import cpio


def archive(*entries):
    stream = io.BytesIO()
    size = cpio.write_archive(stream, entries)
    assert size == len(stream.getvalue())
    return stream.getvalue()


ENTRIES = (
    cpio.directory("tmp", 0o1777),
    cpio.file("etc/issue", b"hello"),
    cpio.file("bin/run", b"#!/bin/sh\n", executable=True),
    cpio.link("bin/sh", "/bin/busybox"),
    cpio.device("dev/console", 5, 1),
)


def test_an_archive_of_one_file_is_exactly_these_bytes():
    fields = "00000001 000081A4 00000000 00000000 00000001 00000000 00000003 00000000 00000000 00000000 00000000"
    head = "070701" + fields.replace(" ", "") + "00000002" + "00000000"
    trailer = "070701" + "0" * 8 * 4 + "00000001" + "0" * 8 * 6 + "0000000B" + "0" * 8
    expected = head.encode() + b"f\0" + b"abc\0" + trailer.encode() + b"TRAILER!!!\0" + bytes(3)
    assert archive(cpio.file("f", b"abc")) == expected + bytes(512 - len(expected))


def test_every_kind_of_member_is_read_back():
    members = read_cpio(archive(*ENTRIES))
    assert members["tmp"].mode == stat.S_IFDIR | 0o1777
    assert (members["etc/issue"].mode, members["etc/issue"].data) == (stat.S_IFREG | 0o644, b"hello")
    assert members["bin/run"].mode == stat.S_IFREG | 0o755
    assert (members["bin/sh"].mode, members["bin/sh"].data) == (stat.S_IFLNK | 0o777, b"/bin/busybox")
    assert (members["dev/console"].mode, members["dev/console"].device) == (stat.S_IFCHR | 0o600, (5, 1))


def test_directories_above_a_member_are_made_and_come_before_it():
    members = read_cpio(archive(cpio.file("usr/lib/x/y", b"")))
    assert list(members) == ["usr", "usr/lib", "usr/lib/x", "usr/lib/x/y"]
    assert members["usr/lib"].mode == stat.S_IFDIR | 0o755


def test_nothing_of_the_host_gets_in(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    source.chmod(0o600)
    member = read_cpio(archive(cpio.file("file", source)))["file"]
    assert (member.mode, member.owner, member.mtime, member.inode) == (stat.S_IFREG | 0o644, (0, 0), 0, 1)


def test_the_order_of_the_entries_does_not_show():
    shuffled = list(ENTRIES)
    random.Random(1).shuffle(shuffled)
    assert archive(*shuffled) == archive(*ENTRIES)


def test_the_last_of_two_entries_of_one_path_counts():
    assert read_cpio(archive(cpio.file("f", b"old"), cpio.file("f", b"new")))["f"].data == b"new"


def test_archives_are_padded_and_may_follow_each_other():
    first, second = archive(cpio.file("a", b"1")), archive(cpio.file("b", b"2"), cpio.file("a", b"3"))
    assert len(first) % 512 == len(second) % 512 == 0
    members = read_cpio(first + second)
    assert {name: member.data for name, member in members.items()} == {"a": b"3", "b": b"2"}
