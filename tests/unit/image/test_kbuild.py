"""A toolchain runs from wherever it lies, and what it builds is of the kernel that it is for."""

import shutil
import subprocess
from pathlib import Path

import pytest
from imagetoy import GUEST_RECIPE, LIBRARIES, RELEASE, ToyFetch, contents, lay_out, read_cpio
from kerneltoy import elf, module

from tcelab import image
from tcelab.errors import HarnessError, UsageError
from tcelab.image import apt, kbuild, library, recipe
from tcelab.image.manifest import read_manifest
from tcelab.image.store import image_dir
from tcelab.image.toolchain import abi, wanted

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds toy packages with dpkg-deb")

RELEASES = ["6.12.0-toy", "6.12.0-toy-64k"]
HEADERS = "usr/src/linux-headers-"

TOOLCHAIN_RECIPE = """
kind = "toolchain"
architecture = "ppc64el"
suites = [["stable"]]
headers = ["headers-{release}", "headers-{abi}-common"]
kbuild = ["kbuild-{abi}"]
hosts = ["amd64", "arm64", "ppc64el"]
prefix = "toy-"
compiler = "cc"
packages = ["tools"]
drop = ["usr/share/*"]
required = ["usr/bin/make"]
"""

# In the place of a loader: the arguments are --library-path, the folders, --argv0, a name, the program, its own.
_LOADER = b'#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n'
# Writes a module of the release that the folder of headers is of.
_MAKE = b"""#!/bin/sh
for word in "$@"; do case $word in M=*) out=${word#M=} ;; esac; done
[ -z "$HOME" ] || exit 1
grep -q toy "$out/tce_hcall.c" || { echo "tce_hcall.c:1: error: no toy"; exit 2; }
cp "$2/module" "$out/tce_hcall.ko"
"""
_CC = b"""#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo "program of $(cat "$3")" >"$2"
"""


def toy_packages():
    """The tools are shell scripts; one program of the host's is there for its loader."""
    program = Path("/bin/true").read_bytes()
    tools = {
        f"{LIBRARIES}/ld-linux-toy.so.2": _LOADER,
        f"{LIBRARIES}/libtoy.so.1": b"a library",
        "usr/bin/make": _MAKE,
        "usr/bin/toy-strip": b"#!/bin/sh\n",
        "usr/bin/toy-cc": _CC,
        "usr/bin/toy-as": program,
        "usr/bin/as-here": "toy-as",
        "usr/toy/bin/as": "../../bin/toy-as",
        "usr/share/doc": b"text",
    }
    headers = {
        f"headers-{release}": {
            f"{HEADERS}{release}/Makefile": f"include /usr/src/linux-headers-{abi(release)}-common/Makefile\n".encode(),
            f"{HEADERS}{release}/module": module("tce_hcall", release),
        }
        for release in RELEASES
    }
    common = {"headers-6.12.0-common": {f"{HEADERS}6.12.0-common/Makefile": b"all:\n"}}
    return {"tools": tools, "kbuild-6.12.0": {"usr/lib/kbuild": b""}, **headers, **common}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Recipes "toy" (a guest) and "tools", a module's and a program's source, an empty cache, toy packages."""
    texts = {
        "recipes/toy.toml": GUEST_RECIPE + 'toolchain = "tools"\n',
        "recipes/plain.toml": GUEST_RECIPE,
        "recipes/tools.toml": TOOLCHAIN_RECIPE,
        "kmod/Kbuild": "obj-m := tce_hcall.o\n",
        "kmod/tce_hcall.c": "a toy\n",
        "native/loop.c": "a loop\n",
        "agent/main.py": "",
        "rootfs/init": "#!/bin/sh\n",
    }
    lay_out(tmp_path, texts, monkeypatch)
    for user in (recipe, kbuild):
        monkeypatch.setattr(user, "kmod_dir", lambda: tmp_path / "kmod")
        monkeypatch.setattr(user, "native_dir", lambda: tmp_path / "native")
    return tmp_path


@pytest.fixture
def fetch(place, monkeypatch):
    toy = ToyFetch(place / "debs", content={**contents(), **toy_packages()})
    monkeypatch.setattr(apt, "fetch", toy)
    return toy


def tools(release, fetch):
    return library.toolchain(release, name="tools", fetch=fetch)


# The tools


def test_a_program_is_run_by_the_trees_own_loader_and_libraries_wherever_the_tree_lies(fetch, tmp_path):
    with tools(RELEASE, fetch) as made:
        moved = shutil.copytree(made.folder, tmp_path / "a b", symlinks=True)
    for name in ("usr/bin/toy-as", "usr/bin/as-here", "usr/toy/bin/as"):
        done = subprocess.run([moved / name, "a  b", "c"], capture_output=True, text=True, check=True)
        loader, option, folders, as_, told, program, *own = done.stdout.splitlines()
        assert Path(loader).resolve() == moved / LIBRARIES / "ld-linux-toy.so.2"
        assert (option, as_, told) == ("--library-path", "--argv0", str(moved / name))
        assert [Path(folder).resolve() for folder in folders.split(":")] == [moved / LIBRARIES]
        assert Path(program).resolve().read_bytes() == Path("/bin/true").read_bytes()
        assert own == ["a  b", "c"]


def test_libraries_and_scripts_stay_as_they_are(fetch):
    with tools(RELEASE, fetch) as made:
        assert (made.folder / LIBRARIES / "libtoy.so.1").read_bytes() == b"a library"
        assert (made.folder / "usr/bin/make").read_bytes() == _MAKE


def test_the_headers_of_a_flavour_find_the_common_ones_beside_them(fetch):
    with tools(RELEASE, fetch) as made:
        makefile = made.folder / f"{HEADERS}{RELEASE}" / "Makefile"
        assert makefile.read_text() == "include ../linux-headers-6.12.0-common/Makefile\n"


def test_a_toolchain_is_built_again_only_for_a_kernel_that_it_lacks_and_keeps_the_others(fetch):
    for release, requests in [(RELEASES[0], 2), (RELEASES[0], 2), (RELEASES[1], 4), (RELEASES[0], 4)]:
        with tools(release, fetch):
            assert len(fetch.requests) == requests
    assert read_manifest(image_dir("tools")).kernels == RELEASES
    image.build("tools", fetch=fetch)
    assert read_manifest(image_dir("tools")).kernels == RELEASES


def test_only_flavours_of_one_kernel_are_kept_together():
    """Debian drops all packages of a kernel at once: headers of an older one could stop a build."""
    older, newer = "6.12.90+deb12-powerpc64le", "6.12.95+deb12-powerpc64le"
    assert wanted(newer, [older]) == [newer]
    assert wanted(newer, [f"{newer}-64k", older]) == [newer, f"{newer}-64k"]
    assert wanted("", [older]) == [older]


@pytest.mark.parametrize(
    ("release", "shared"),
    [
        ("6.12.95+deb12-powerpc64le-64k", "6.12.95+deb12"),
        ("6.12.95+deb12-powerpc64le", "6.12.95+deb12"),
        ("6.1.0-13-powerpc64le", "6.1.0-13"),
        ("6.12.0", "6.12.0"),
    ],
)
def test_flavours_share_what_comes_before_their_name(release, shared):
    assert abi(release) == shared


# What they build


def test_a_guest_has_our_module_loaded_last_and_our_programs(fetch):
    image.build("toy", fetch=fetch)
    made = read_manifest(image_dir("toy"))
    assert made.modules == ["vfio", "vfio-pci", "tce_hcall"]
    assert made.toolchain == read_manifest(image_dir("tools")).tree_sha256
    members = read_cpio((image_dir("toy") / "base.cpio").read_bytes())
    assert members["etc/tcelab-modules"].data.decode().split()[-1] == "/lib/modules-tcelab/tce_hcall.ko"
    assert members["lib/modules-tcelab/tce_hcall.ko"].data == module("tce_hcall", RELEASE)
    assert members["usr/lib/tcelab/loop"].data == b"program of a loop\n"
    assert members["usr/lib/tcelab/loop"].mode & 0o111


def test_a_recipe_without_tools_has_neither(fetch):
    image.build("plain", fetch=fetch)
    made = read_manifest(image_dir("plain"))
    assert (made.modules, made.toolchain) == (["vfio", "vfio-pci"], "")
    assert not image_dir("tools").exists()


def test_on_a_host_without_a_cross_compiler_it_is_told_that_there_are_no_hypercalls(place, fetch, shown):
    (place / "recipes/tools.toml").write_text(TOOLCHAIN_RECIPE.replace('"amd64", "arm64", "ppc64el"', '"m68k"'))
    image.build("toy", fetch=fetch)
    assert "no raw hypercalls: their module can be built on m68k only" in shown.notes
    assert read_manifest(image_dir("toy")).modules == ["vfio", "vfio-pci"]


def test_a_change_of_our_sources_makes_the_guest_stale_and_nothing_else(place, fetch):
    names = ("toy", "plain", "tools")
    before = {name: recipe.load(name).sha256 for name in names}
    for path in ("kmod/tce_hcall.c", "native/loop.c", "kmod/Kbuild"):
        (place / path).write_text((place / path).read_text() + "more\n")
        changed = {name for name in names if recipe.load(name).sha256 != before[name]}
        assert changed == {"toy"}
        before["toy"] = recipe.load("toy").sha256


def test_a_source_that_does_not_compile_is_an_error_with_the_compilers_words(place, fetch):
    (place / "kmod/tce_hcall.c").write_text("nothing\n")
    with pytest.raises(
        HarnessError, match=r"building the modules of kmod for 6\.12\.0-toy: .*exit code 2(.|\n)*error: no toy"
    ):
        image.build("toy", fetch=fetch)
    assert image.status("toy").state == "absent"


def test_a_module_of_another_kernel_is_refused_in_one_line(fetch):
    fetch.content[f"headers-{RELEASE}"][f"{HEADERS}{RELEASE}/module"] = module("tce_hcall", "6.1.0")
    with pytest.raises(HarnessError, match=r"the module tce_hcall is of kernel 6\.1\.0, not of 6\.12\.0-toy$"):
        image.build("toy", fetch=fetch)


def test_a_module_that_does_not_tell_its_kernel_is_refused(fetch):
    with pytest.raises(HarnessError, match=r"the module m is of kernel unknown, not of 6\.12"):
        kbuild.require_release("m", elf(kind=1), "6.12")
    with pytest.raises(HarnessError, match=r"the module m as built is none: "):
        kbuild.require_release("m", b"nothing", "6.12")


def test_a_cache_where_kbuild_cannot_work_is_told(place, monkeypatch, fetch):
    monkeypatch.setenv("TCELAB_CACHE", str(place / "a b"))
    with pytest.raises(HarnessError, match="no folder with a space or a colon") as caught:
        image.build("toy", fetch=fetch)
    assert "TCELAB_CACHE" in caught.value.next_step


def test_a_toolchain_is_no_guest_and_a_guest_no_toolchain(fetch):
    with pytest.raises(UsageError, match="tools is a toolchain, not a guest"):
        image.ensure_guest("tools")
    asked = library.toolchain(RELEASE, name="plain", fetch=fetch)
    with pytest.raises(UsageError, match="plain is a guest, not a toolchain"), asked:
        pass
