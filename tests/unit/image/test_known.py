"""What was learned once is remembered for as long as it is true, and forgetting it costs time alone."""

from __future__ import annotations

import errno
import hashlib
import os
import time

import pytest

from tcelab.image import known
from tcelab.qemu.probe import Abilities


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch):
    """Which files have been read to be hashed."""
    names = []
    real = known.file_sha256
    monkeypatch.setattr(known, "file_sha256", lambda path: names.append(path.name) or real(path))
    return names


@pytest.fixture
def vmlinux(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(b"a kernel")
    return path


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def replace(path, data):
    """The same size, and the time of the content put back; only the time of the change tells."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of files is a coarse one
        time.sleep(0.001)
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_file_that_stays_is_read_once(vmlinux, read):
    assert known.sha256_of(vmlinux) == known.sha256_of(vmlinux) == sha256(b"a kernel")
    assert read == ["vmlinux"]


def test_a_content_that_changed_is_read_anew_also_with_its_time_put_back(vmlinux, read):
    known.sha256_of(vmlinux)
    replace(vmlinux, b"A KERNEL")
    assert known.sha256_of(vmlinux) == sha256(b"A KERNEL")
    assert known.sha256_of(vmlinux) == sha256(b"A KERNEL")
    assert read == ["vmlinux"] * 2


def test_another_file_of_the_same_name_is_read_anew(vmlinux, tmp_path, read):
    known.sha256_of(vmlinux)
    other = tmp_path / "other"
    other.write_bytes(b"A KERNEL")
    status = vmlinux.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(vmlinux)
    assert known.sha256_of(vmlinux) == sha256(b"A KERNEL")


def test_a_link_is_the_file_that_it_leads_to(vmlinux, tmp_path, read):
    link = tmp_path / "link"
    link.symlink_to(vmlinux)
    assert known.sha256_of(link) == known.sha256_of(vmlinux) == sha256(b"a kernel")
    assert len(read) == 1
    other = tmp_path / "other"
    other.write_bytes(b"another")
    link.unlink()
    link.symlink_to(other)
    assert known.sha256_of(link) == sha256(b"another")


def test_another_file_with_the_very_same_times_and_size_is_read_anew(vmlinux, tmp_path, read, monkeypatch):
    """As `mv` leaves it on a file system with coarse times."""
    known.sha256_of(vmlinux)
    before = vmlinux.stat()
    other = tmp_path / "other"
    other.write_bytes(b"A KERNEL")
    other.replace(vmlinux)
    assert vmlinux.stat().st_ino != before.st_ino
    real = known.Path.stat

    def stat(path, **how):
        found = real(path, **how)
        names = ("st_mtime_ns", "st_ctime_ns")
        return os.stat_result(list(found), {name: getattr(before, name) for name in names})

    monkeypatch.setattr(known.Path, "stat", stat)
    assert known.sha256_of(vmlinux) == sha256(b"A KERNEL")


def test_two_files_are_two(vmlinux, tmp_path, read):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"an initrd")
    for _ in range(2):
        assert known.sha256_of(vmlinux) == sha256(b"a kernel")
        assert known.sha256_of(initrd) == sha256(b"an initrd")
    assert read == ["vmlinux", "initrd"]


CAN = Abilities("9.9.9", edu=True, vof=False, exit_with_parent=True, traces=("a",), log_flags=(), device_state=True)


def test_what_was_remembered_is_recalled_under_its_key_alone():
    known.remember("abilities 1 build", CAN)
    known.remember("abilities 2 build", 5)
    assert known.recall("abilities 1 build", Abilities) == CAN
    assert known.recall("abilities 2 build", int) == 5
    assert known.recall("abilities 3 build", Abilities) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1,2]", b'{"version":1}', b'"text"'])
def test_a_damaged_memory_is_none(vmlinux, cache, damage):
    known.sha256_of(vmlinux)
    known.remember("can", CAN)
    for path in (cache / "known").iterdir():
        path.write_bytes(damage)
    assert known.recall("can", Abilities) is None
    assert known.sha256_of(vmlinux) == sha256(b"a kernel")


def test_a_memory_of_another_kind_is_none():
    known.remember("can", {"version": "9.9.9"})
    assert known.recall("can", Abilities) is None


@pytest.mark.parametrize("call", ["mkstemp", "fdopen", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_where_nothing_can_be_remembered_all_goes_on_and_nothing_is_left(vmlinux, cache, monkeypatch, call, number):
    def refused(*_arguments, **_more):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        owner = {"mkstemp": known.tempfile, "fdopen": known.os, "replace": known.Path}[call]
        patch.setattr(owner, call, refused)
        assert known.sha256_of(vmlinux) == sha256(b"a kernel")
    assert list((cache / "known").iterdir()) == []
    assert known.sha256_of(vmlinux) == sha256(b"a kernel")
    assert len(list((cache / "known").iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_no_error(vmlinux, cache):
    cache.mkdir()
    (cache / "known").write_bytes(b"in its place")
    assert known.sha256_of(vmlinux) == sha256(b"a kernel")
    known.remember("can", CAN)
    assert known.recall("can", Abilities) is None


def test_what_is_written_appears_in_one_step(cache, monkeypatch):
    """Another process never reads half of it."""
    known.remember("can", CAN)
    seen = []
    real = known.msgspec.json.encode
    monkeypatch.setattr(
        known.msgspec.json, "encode", lambda value: seen.append(known.recall("can", Abilities)) or real(value)
    )
    known.remember("can", CAN)
    assert seen == [CAN]
    assert len(list((cache / "known").iterdir())) == 1


def test_all_can_be_forgotten_and_it_is_told_what_that_freed(vmlinux, cache, read):
    known.sha256_of(vmlinux)
    size = sum(path.stat().st_size for path in (cache / "known").iterdir())
    assert known.forget() == size > 0
    assert known.forget() == 0
    known.sha256_of(vmlinux)
    assert len(read) == 2
