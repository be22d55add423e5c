"""Toy packages and recipes: whole image builds in a tenth of a second, without a network."""

from __future__ import annotations

import hashlib
import io
import lzma
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from kerneltoy import module

from tcelab.image import overlay, recipe
from tcelab.image.apt import Fetched, FetchRequest
from tcelab.image.packages import Package, SuiteNote

RELEASE = "6.12.0-toy"
LIBRARIES = "lib/toy-linux-gnu"
VFIO = module("vfio", RELEASE)
VFIO_XZ = lzma.compress(VFIO)
VFIO_PCI = module("vfio-pci", RELEASE, depends=["vfio"])

GUEST_RECIPE = """
# a toy
kind = "guest"
architecture = "ppc64el"
suites = [["stable"]]
kernel = "kernel"
modules = ["irqbypass", "vfio", "vfio-pci"]
python = "3.11"
packages = ["python"]
compiler = ["compiler"]
drop = ["usr/share/*", "usr/lib/python3.11/test/*"]
keep = ["usr/share/kept"]
directories = ["/proc", "/tmp"]
applets = ["/bin/sh"]
"""

QEMU_RECIPE = """
kind = "qemu"
suites = [["stable"]]
package = "qemu"
version = "11.1"
binary = "usr/bin/qemu-system-ppc64"
drop = ["usr/share/doc/*"]
"""

# In the place of a loader: the arguments are --library-path, the folders, the program, then the program's own.
_COMPILER_LOADER = f'#!/bin/sh\nshift 3\nunset PYTHONHOME\nexec {sys.executable} "$@"\n'
_QEMU_LOADER = """#!/bin/sh
case "$*" in
*--version) echo "QEMU emulator version $(cat "${0%/*}/version")"; echo "Copyright (c) its authors" ;;
*help) echo 'name "edu", bus PCI' ;;
esac
"""

Content = dict[str, bytes | str]


def lay_out(folder: Path, texts: dict[str, str], monkeypatch) -> None:
    """Files with these texts, and tcelab's own folders in this one: recipes, agent, rootfs, and an empty cache."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setenv("TCELAB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(recipe, "recipes_dir", lambda: folder / "recipes")
    monkeypatch.setattr(overlay, "agent_dir", lambda: folder / "agent")
    monkeypatch.setattr(overlay, "rootfs_dir", lambda: folder / "rootfs")


def contents() -> dict[str, Content]:
    """Files of each toy package by path; a str is the target of a link."""
    return {
        "kernel": {
            f"boot/vmlinux-{RELEASE}": b"the kernel",
            f"boot/config-{RELEASE}": b"CONFIG_PPC=y",
            f"lib/modules/{RELEASE}/modules.builtin": b"kernel/virt/lib/irqbypass.ko\n",
            f"lib/modules/{RELEASE}/kernel/drivers/vfio.ko.xz": VFIO_XZ,
            f"lib/modules/{RELEASE}/kernel/drivers/vfio-pci.ko": VFIO_PCI,
        },
        "python": {
            "usr/bin/python3.11": b"the interpreter",
            "usr/lib/python3.11/os.py": b"names = {'a', 'b', 'c'}\ndef f(): return 1 / 0\n",
            "usr/lib/python3.11/test/big.py": b"1 +",  # would not compile
            "usr/lib/python3.11/data.txt": b"data",
            "usr/share/doc": b"text",
            "usr/share/kept": b"text",
            "lib64/ld64.so.2": "/lib/powerpc64le-linux-gnu/ld64.so.2",
        },
        "compiler": {f"{LIBRARIES}/ld-linux-toy.so.2": _COMPILER_LOADER.encode()},
        "qemu": {
            "usr/bin/qemu-system-ppc64": b"the emulator",
            f"{LIBRARIES}/ld-linux-toy.so.2": _QEMU_LOADER.encode(),
            f"{LIBRARIES}/version": b"11.1.3 (toy)",
            f"{LIBRARIES}/libtoy.so": f"/{LIBRARIES}/ld-linux-toy.so.2",
            "usr/share/doc/text": b"text",
            "usr/share/qemu/slof.bin": b"firmware",
        },
    }


def make_deb(folder: Path, name: str, content: Content) -> Path:
    """Build a package that ``dpkg-deb -x`` unpacks."""
    folder.mkdir(parents=True, exist_ok=True)
    deb = folder / f"{name}.deb"
    deb.write_bytes(_deb(name, tuple(content.items())))
    return deb


@cache
def _deb(name: str, content: tuple[tuple[str, bytes | str], ...]) -> bytes:
    with TemporaryDirectory() as folder:
        tree = Path(folder, name)
        for path, data in (*content, ("DEBIAN/control", _control(name))):
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, str):
                target.symlink_to(data)
            else:
                target.write_bytes(data)
                target.chmod(0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644)
        deb = Path(folder, "deb")
        subprocess.run(["dpkg-deb", "-Znone", "-b", tree, deb], check=True, stdout=subprocess.DEVNULL)
        return deb.read_bytes()


def _control(name: str) -> bytes:
    fields = {
        "Package": name,
        "Version": "1",
        "Architecture": "all",
        "Maintainer": "t <t@t>",
        "Description": "t",
    }
    return "".join(f"{key}: {value}\n" for key, value in fields.items()).encode()


@dataclass
class ToyFetch:
    """In the place of apt: serves toy packages made in ``folder``."""

    folder: Path
    requests: list[FetchRequest] = field(default_factory=list)
    left_out: tuple[SuiteNote, ...] = ()
    content: dict[str, Content] = field(default_factory=contents)

    def __call__(self, request: FetchRequest) -> Fetched:
        self.requests.append(request)
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / str(len(self.requests))
        files = tuple(make_deb(place, name, self.content[name]) for name in request.packages)
        packages = tuple(
            Package(name, "1", request.architecture, "stable", _sha256(file), file.stat().st_size)
            for name, file in zip(request.packages, files, strict=True)
        )
        return Fetched(packages=packages, files=files, left_out=self.left_out)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Member:
    """One member of a newc archive, as read."""

    mode: int
    data: bytes
    inode: int
    owner: tuple[int, int]
    mtime: int
    device: tuple[int, int]


def read_cpio(content: bytes) -> dict[str, Member]:
    """A reader of its own for newc archives that follow each other (a later one overrides)."""
    stream = io.BytesIO(content)
    members: dict[str, Member] = {}
    while header := stream.read(110):
        padding = len(header) - len(header.lstrip(b"\0"))
        if padding:  # between two archives
            stream.seek(padding - len(header), io.SEEK_CUR)
            continue
        assert header[:6] == b"070701"
        fields = [int(header[at : at + 8], 16) for at in range(6, 110, 8)]
        inode, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, check = fields
        name = stream.read(name_size)
        assert name.endswith(b"\0")
        assert check == 0
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        data = stream.read(size)
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        if name != b"TRAILER!!!\0":
            members[name[:-1].decode()] = Member(mode, data, inode, (uid, gid), mtime, (major, minor))
    return members
