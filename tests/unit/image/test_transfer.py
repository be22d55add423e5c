"""Images in one file: what comes out is what went in, and nothing comes out of a damaged or hostile one."""

import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
from types import SimpleNamespace

import pytest
from imagetoy import GUEST_RECIPE, QEMU_RECIPE, ToyFetch, lay_out

from tcelab import image
from tcelab.cli import cli, main
from tcelab.errors import HarnessError, UsageError
from tcelab.image import apt, library, manifest, transfer
from tcelab.image.store import cache_dir, image_dir
from tcelab.image.transfer import zstd

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds toy packages with dpkg-deb")

HEAD = "tcelab-images.json"


TEXTS = {
    "recipes/toy.toml": GUEST_RECIPE,
    "recipes/emulator.toml": QEMU_RECIPE,
    "agent/main.py": "",
    "rootfs/init": "#!/bin/sh\n",
}


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A machine without any image, and without packages."""
    lay_out(tmp_path, TEXTS, monkeypatch)
    monkeypatch.setattr(apt, "fetch", None)
    return tmp_path


@pytest.fixture
def place(empty, monkeypatch):
    """A machine that has built two images."""
    monkeypatch.setattr(apt, "fetch", ToyFetch(empty / "debs"))
    for name in ("toy", "emulator"):
        library.build(name, fetch=apt.fetch)
    return empty


def elsewhere(place, monkeypatch):
    """Another machine: nothing in its cache, and no package to be had."""
    monkeypatch.setenv("TCELAB_CACHE", str(place / "other"))
    monkeypatch.setattr(apt, "fetch", None)


def tree(name):
    folder = image_dir(name)
    return {
        path.relative_to(folder): path.readlink() if path.is_symlink() else (path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("name", ["images.tar", "images.tar.zst"])
def test_imported_images_are_those_that_were_exported_and_need_no_build(place, monkeypatch, capsys, name):
    before = {each: tree(each) for each in ("toy", "emulator")}
    cli.main(["image", "export", "--all", "-o", str(place / name)], standalone_mode=False)
    digest = hashlib.sha256((place / name).read_bytes()).hexdigest()
    assert capsys.readouterr().out == f"{digest}  {place / name}\n"
    elsewhere(place, monkeypatch)
    cli.main(["image", "import", str(place / name), "--sha256", digest], standalone_mode=False)
    assert capsys.readouterr().out == "emulator imported\ntoy imported\n"
    assert {each: tree(each) for each in ("toy", "emulator")} == before
    assert [image.status(each).state for each in ("toy", "emulator")] == ["ok", "ok"]
    assert image.ensure_guest("toy").initrd.is_file()  # put together here
    assert image.ensure_qemu("emulator").manifest.qemu
    assert {path.name for path in (place / "other/images").iterdir()} == {"toy", "emulator"}


def test_the_same_images_make_the_same_file_and_tar_reads_it(place):
    first, second = (transfer.export_images(["toy", "emulator"], place / name) for name in ("1.tar", "2.tar"))
    assert first == second
    image.ensure_guest("toy")  # the initrd that it makes is not exported
    assert transfer.export_images(["emulator", "toy", "toy"], place / "3.tar") == first
    with tarfile.open(place / "1.tar") as archive:
        members = archive.getmembers()
    assert {(each.uid, each.gid, each.mtime, each.uname) for each in members} == {(0, 0, 0, "")}
    assert members[0].name == HEAD
    assert {each.name.partition("/")[0] for each in members[1:]} == {"toy", "emulator"}
    assert not [each.name for each in members if "initrd" in each.name]


def test_an_image_that_is_there_is_replaced_in_one_step_and_stays_if_the_file_is_no_good(place):
    transfer.export_images(["toy"], place / "images.tar")
    (image_dir("toy") / "vmlinux").write_bytes(b"damaged")
    content = (place / "images.tar").read_bytes()
    (place / "short.tar").write_bytes(content[:-1024])
    with pytest.raises(UsageError, match="cut short"):
        transfer.import_images(place / "short.tar")
    assert (image_dir("toy") / "vmlinux").read_bytes() == b"damaged"
    transfer.import_images(place / "images.tar")
    assert image.status("toy").state == "ok"
    assert {path.name for path in image_dir("toy").parent.iterdir()} == {"toy", "emulator"}


def test_what_is_not_whole_is_not_exported_and_no_half_of_a_file_is_left(place):
    cases = {"toy": (HarnessError, r"vmlinux: content differs"), "nothing": (UsageError, "no image recipe is called")}
    content = (image_dir("toy") / "vmlinux").read_bytes()
    (image_dir("toy") / "vmlinux").write_bytes(content.upper())
    image.clean(["emulator"])
    cases["emulator"] = (UsageError, "emulator is not built")
    for name, (error, complaint) in cases.items():
        with pytest.raises(error, match=complaint):
            transfer.export_images([name], place / "images.tar")
    assert not list(place.glob("*images.tar*"))
    with pytest.raises(UsageError, match="cannot write"):
        transfer.export_images([], place / "no/images.tar")
    with pytest.raises(UsageError, match="leave the names out"):
        cli.main(["image", "export", "--all", "toy", "-o", "x"], standalone_mode=False)


# Hostile and damaged files


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The archive of the toy, by how it is written: "plain" or "zstd"."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        lay_out(folder, TEXTS, patch)
        library.build("toy", fetch=ToyFetch(folder / "debs"))
        transfer.export_images(["toy"], folder / "good.tar")
        transfer.export_images(["toy"], folder / "good.tar.zst")
    return {"plain": (folder / "good.tar").read_bytes(), "zstd": (folder / "good.tar.zst").read_bytes()}


@pytest.fixture(scope="module")
def good(exported):
    return exported["plain"]


def repacked(good, change):
    """That archive after a change of its (member, content) pairs; the hashes in its head are made right again.

    :param change: is told the pairs, and the manifest as plain data.
    """
    with tarfile.open(fileobj=io.BytesIO(good)) as archive:
        pairs = [(each, archive.extractfile(each).read() if each.isreg() else b"") for each in archive.getmembers()]
    told = json.loads(pairs[1][1])
    pairs = change(pairs, told) or pairs
    files = [manifest.ImageFile(**each) for each in told["files"]]
    told["tree_sha256"] = manifest.tree_sha256(files)
    text = json.dumps(told).encode()
    head = json.loads(pairs[0][1])
    head["manifests"] = {"toy": hashlib.sha256(text).hexdigest()}
    out = io.BytesIO()
    head_text = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    for member, content in [(pairs[0][0], head_text), (pairs[1][0], text), *pairs[2:]]:
        member.size = len(content)
        out.write(member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
    return out.getvalue() + bytes(1024)


def renamed(path):
    """A file of another name, in the manifest too."""

    def change(pairs, told):
        told["files"][0]["path"] = path
        pairs[2][0].name = f"toy/{path}"

    return change


def link(path, target):
    def change(pairs, told):
        told["files"].append({"path": path, "size": len(target), "link": target})
        member = tarfile.TarInfo(f"toy/{path}")
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o644
        pairs.append((member, b""))

    return change


def typed(kind):
    def change(pairs, told):
        pairs[2][0].type = kind
        pairs[2][0].linkname = "/etc/passwd"

    return change


def through_a_link(pairs, told):
    link("dir", "tools")(pairs, told)
    told["files"].append({"path": "dir/x", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()})
    pairs.append((tarfile.TarInfo("toy/dir/x"), b"x"))


def twice(pairs, told):
    told["files"].append(told["files"][-1])
    pairs.append(pairs[-1])


def repeated(pairs, told):
    return [*pairs, pairs[-1]]


def unlisted(pairs, told):
    return [*pairs, (tarfile.TarInfo("toy/more"), b"x")]


def first_last(pairs, told):
    return [*pairs[:2], *pairs[:1:-1]]


def left_out(pairs, told):
    return pairs[:-1]


def huge(pairs, told):
    told["files"][0]["size"] = 1 << 50


def larger(pairs, told):
    return [*pairs[:2], (pairs[2][0], pairs[2][1] + b"x"), *pairs[3:]]


def other_content(pairs, told):
    return [*pairs[:2], (pairs[2][0], pairs[2][1][:-1] + b"?"), *pairs[3:]]


def executable(pairs, told):
    pairs[2][0].mode = 0o4755


def other_recipe(pairs, told):
    told["recipe_sha256"] = "0" * 64


def of_another(pairs, told):
    told["recipe"] = "emulator"


def in_head(**fields):
    def change(pairs, told):
        head = json.loads(pairs[0][1]) | fields
        return [(pairs[0][0], json.dumps(head).encode()), *pairs[1:]]

    return change


HOSTILE = {
    "a path above": (renamed("../../evil"), "no place in an image"),
    "an absolute path": (renamed("/evil"), "no place in an image"),
    "an empty path": (renamed(""), "no place in an image"),
    "the manifest again": (renamed("manifest.json"), "no place in an image"),
    "a line in a name": (renamed("a\nb"), "no place in an image"),
    "a file below a file": (renamed("vmlinux/x"), "below something that is no folder"),
    "a file below a link": (through_a_link, "below something that is no folder"),
    "a link up": (link("up", "../../other"), "leads out of it"),
    "a link to the host": (link("up", "/etc/passwd"), "leads out of it"),
    "a device": (typed(tarfile.CHRTYPE), "it holds the device"),
    "a pipe": (typed(tarfile.FIFOTYPE), "it holds the device"),
    "a hard link": (typed(tarfile.LNKTYPE), "it holds the hard link"),
    "a link in place of a file": (typed(tarfile.SYMTYPE), "it holds the link"),
    "a folder": (typed(tarfile.DIRTYPE), "it holds the folder"),
    "another extension": (typed(tarfile.XHDTYPE), "it holds something else"),
    "a name twice in the manifest": (twice, "names a file twice"),
    "a member twice": (repeated, "more in it than it says"),
    "a member that is not listed": (unlisted, "more in it than it says"),
    "another order": (first_last, "it holds the file .* where"),
    "a member that is missing": (left_out, "it is cut short|no archive of images"),
    "too large": (huge, "more than 16 GiB"),
    "larger than it says": (larger, "bytes, which it must not"),
    "other content": (other_content, "toy/base.cpio is damaged"),
    "a set-uid file": (executable, "another mode or target"),
    "another recipe": (other_recipe, "toy is of no use here: the recipe has changed"),
    "another image's manifest": (of_another, "the manifest of toy is of 'emulator'"),
    "another agent": (in_head(agent="0" * 64, tcelab="9.9"), "its agent is that of tcelab '9.9'"),
    "another host": (in_head(host="sparc64"), "it is for hosts of 'sparc64'"),
    "another schema": (in_head(schema=2), "it has schema 2"),
    "another field's type": (in_head(tcelab=1), "tcelab-images.json is damaged"),
}


def imported(path, capsys, *options):
    """What the verb says of a file that it refuses; it ends with 2, and nothing of the file is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tcelab", "image", "import", str(path), *options])
        with pytest.raises(SystemExit) as ended:
            main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, ""), told.err
    first, *more = told.err.splitlines()
    assert [line for line in more if not line.startswith("  next step: ")] == []
    left = [each for each in cache_dir().rglob("*") if each.parent.name != "locks"]
    assert {each.name for each in left} <= {"images", "locks"}
    assert first.startswith(f"tcelab: {path}: ")
    return first


@pytest.mark.parametrize(("change", "complaint"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_nothing_is_left(empty, good, capsys, change, complaint):
    (empty / "evil.tar").write_bytes(repacked(good, change))
    assert re.search(complaint, imported(empty / "evil.tar", capsys))


def test_what_is_repacked_without_a_change_is_imported(empty, good):
    (empty / "good.tar").write_bytes(repacked(good, lambda *_: None))
    assert transfer.import_images(empty / "good.tar") == ["toy"]


def says_the_same(packed, plain):
    """Some bits of a frame only advise whoever unpacks it."""
    try:
        return zstd.decompress(packed) == plain
    except (zstd.ZstdError, EOFError):
        return False


@pytest.mark.parametrize("written", ["plain", "zstd"])
def test_a_file_that_is_damaged_or_cut_short_anywhere_is_refused(empty, good, exported, capsys, written):
    content = exported[written]
    bits = 8 * len(content)
    for bit in range(0, bits, bits // 20):
        at = bit // 8
        flipped = content[:at] + bytes([content[at] ^ 1 << bit % 8]) + content[at + 1 :]
        if written == "zstd" and says_the_same(flipped, good):
            continue
        (empty / "flipped.tar").write_bytes(flipped)
        imported(empty / "flipped.tar", capsys)
    for length in [*range(0, len(content), len(content) // 12), *range(len(content) - 6, len(content))]:
        (empty / "short.tar").write_bytes(content[:length])
        imported(empty / "short.tar", capsys)
    for more in (b"x", content):
        (empty / "long.tar").write_bytes(content + more)
        imported(empty / "long.tar", capsys)


@pytest.mark.parametrize("at", [155, 99, 262], ids=["after the checksum", "behind a name", "in the magic"])
def test_a_header_that_the_export_does_not_write_is_refused(empty, good, capsys, at):
    with tarfile.open(fileobj=io.BytesIO(good)) as archive:
        start = archive.getmembers()[2].offset
    header = bytearray(good[start : start + 512])
    header[at] = ord("x")
    if at != 155:
        header[148:156] = b"        "
        header[148:156] = b"%06o\0 " % sum(header)
    (empty / "odd.tar").write_bytes(good[:start] + header + good[start + 512 :])
    tarfile.TarInfo.frombuf(bytes(header), "utf-8", "strict")  # is content with it
    assert "it is damaged before toy/" in imported(empty / "odd.tar", capsys)


def test_a_head_that_the_export_does_not_write_is_refused(empty, good, capsys):
    odd = good.replace(b'{"schema":1,', b'{"schemb":1,')
    assert odd != good
    (empty / "odd.tar").write_bytes(odd)
    assert f"its {HEAD} is damaged" in imported(empty / "odd.tar", capsys)


def test_no_size_in_a_file_makes_the_reader_take_more_than_it_agreed_to(empty, good, capsys):
    """Zeros without end, of which zstd makes nothing, and a header that announces them."""
    member = tarfile.TarInfo(HEAD)
    member.size, member.mode = 1 << 32, 0o644
    for start in (b"", member.tobuf(tarfile.USTAR_FORMAT)):
        (empty / "bomb.tar.zst").write_bytes(zstd.compress(start + bytes(64 << 20)))
        imported(empty / "bomb.tar.zst", capsys)


def test_a_sha256_that_is_not_the_files_is_refused_before_anything_is_read(empty, capsys):
    (empty / "any").write_bytes(b"any")
    assert "its SHA-256 is another one" in imported(empty / "any", capsys, "--sha256", "0" * 64)
    digest = hashlib.sha256(b"any").hexdigest().upper()
    assert "it is cut short" in imported(empty / "any", capsys, "--sha256", digest)


def test_no_room_for_the_images_is_said_before_they_are_written(empty, good, monkeypatch):
    (empty / "good.tar").write_bytes(good)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(HarnessError, match="has room for 0 MB"):
        transfer.import_images(empty / "good.tar")
