"""A kernel by recipe, from toy sources: what is built, what a change of one file costs, what an interruption leaves."""

import io
import os
import shutil
import tarfile
from types import SimpleNamespace

import pytest
from imagetoy import GUEST_RECIPE, LIBRARIES, ToyFetch, contents, lay_out, read_cpio
from kerneltoy import module

from tcelab import image
from tcelab.errors import HarnessError, Unsupported, UsageError
from tcelab.image import apt, kbuild, kernelmutants, kerneltree, library, mutants, recipe, shelf, sourcepackage
from tcelab.image.manifest import read_manifest
from tcelab.image.store import image_dir

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds toy packages with dpkg-deb")

RELEASE = "6.12.1-toy"
SOURCE = "linux-source-toy"
IOMMU = "arch/powerpc/kernel/iommu.c"

TOOLCHAIN_RECIPE = """
kind = "toolchain"
architecture = "ppc64el"
suites = [["stable"]]
headers = []
kbuild = []
hosts = ["amd64", "arm64", "ppc64el"]
prefix = "toy-"
compiler = "cc"
host_compiler = "cc-here"
packages = ["tools"]
drop = []
"""
KERNEL_RECIPE = f"""
kind = "kernel"
architecture = "ppc64el"
suites = [["stable"]]
source = "{SOURCE}"
target = "toy"
toolchain = "tools"
options = ["VFIO", "NR_CPUS=16", "DEBUG=n"]
drop = ["drivers/*"]
keep = ["drivers/Kconfig"]
required = ["Makefile"]
"""
GUEST = GUEST_RECIPE.replace('kernel = "kernel"', 'kernel = ""').replace(
    'modules = ["irqbypass", "vfio", "vfio-pci"]', 'modules = []\nbuilt = "kernel"\ntoolchain = "tools"'
)
FAULTS = f"""
kind = "kernel-mutants"
image = "built"
seed = 1

[[fault]]
name = "longer"
breaks = "It breaks."
file = "{IOMMU}"
old = "npages"
new = "npages + 1"
run = "rules"
finds = []

[[fault]]
name = "nothing"
breaks = "It breaks."
file = "{IOMMU}"
old = "a comment"
new = "another"
run = "rules"
finds = []
"""

# "Compiles" each .c that is newer than its .o: comments go, and what says "error" does not compile.
_MAKE = f"""#!/bin/sh
set -e
[ "$1" = -C ] && cd "$2"
case " $* " in *" ARCH=toy CROSS_COMPILE=toy- CC=toy-cc "*) ;; *) exit 3 ;; esac
[ -z "$HOME" ] && [ "$KBUILD_BUILD_USER" = tcelab ]
for word in "$@"; do case $word in M=*) out=${{word#M=}} ;; esac; done
if [ -n "$out" ]; then
    grep -q toy "$out/tce_hcall.c"
    cp module.toy "$out/tce_hcall.ko"
    exit
fi
case " $* " in *" allnoconfig "*)
    grep -v NOWHERE "$KCONFIG_ALLCONFIG" >.config
    exit ;;
esac
mkdir -p include/config
echo {RELEASE} >include/config/kernel.release
: >vmlinux
for source in $(find . -name '*.c' | sort); do
    object=${{source%.c}}.o
    if [ ! -e $object ] || [ $source -nt $object ]; then
        echo "CC $source" >>../compiled
        if grep -q error $source; then echo "$source:1: error: so it says"; exit 2; fi
        sed 's,//.*,,' $source >$object
    fi
    cat $object >>vmlinux
done
"""

SOURCES = {
    "Makefile": b"all:\n",
    IOMMU: b"clear(npages); // a comment\n",
    "kernel/fork.c": b"fork();\n",
    "scripts/tool.sh": b"#!/bin/sh\n",
    "drivers/Kconfig": b"config\n",
    "drivers/gpu/card.c": b"error: nobody compiles this\n",
    "module.toy": module("tce_hcall", RELEASE),
}


def packed(files):
    """The archive of the sources, with a symbolic link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tree:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{SOURCE}/{name}")
            member.size = len(content)
            member.mode = 0o755 if name.endswith(".sh") else 0o644
            tree.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(f"{SOURCE}/scripts/include")
        link.type, link.linkname = tarfile.SYMTYPE, "../include"
        tree.addfile(link)
    return stream.getvalue()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Recipes "kernel", "tools" and "built" (a guest), faults, toy packages, an empty cache."""
    texts = {
        "recipes/kernel.toml": KERNEL_RECIPE,
        "recipes/tools.toml": TOOLCHAIN_RECIPE,
        "recipes/built.toml": GUEST,
        "recipes/kernel-mutants.toml": FAULTS,
        "recipes/mutants.toml": (recipe.recipes_dir() / "mutants.toml").read_text(),
        "kmod/tce_hcall.c": "a toy\n",
        "native/loop.c": "a loop\n",
        "agent/main.py": "",
        "rootfs/init": "#!/bin/sh\n",
    }
    lay_out(tmp_path, texts, monkeypatch)
    for user in (recipe, kbuild, library):
        monkeypatch.setattr(user, "kmod_dir", lambda: tmp_path / "kmod")
    for user in (recipe, kbuild):
        monkeypatch.setattr(user, "native_dir", lambda: tmp_path / "native")
    monkeypatch.setattr(mutants, "recipes_dir", lambda: tmp_path / "recipes")
    monkeypatch.setattr(kerneltree, "ROOM", 0)
    return tmp_path


@pytest.fixture
def fetch(place, monkeypatch):
    tools = {
        f"{LIBRARIES}/ld-linux-toy.so.2": b"#!/bin/sh\n",
        "usr/bin/make": _MAKE.encode(),
        "usr/bin/toy-cc": b'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho program >"$2"\n',
    }
    own = {SOURCE: {f"usr/src/{SOURCE}.tar.xz": packed(SOURCES)}, "tools": tools}
    toy = ToyFetch(place / "debs", content={**contents(), **own})
    monkeypatch.setattr(apt, "fetch", toy)
    return toy


def home(place):
    return place / "cache/kernels/kernel"


def compiled(place):
    """What was compiled since this was last asked."""
    log = home(place) / "compiled"
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("")
    return [line.removeprefix("CC ./") for line in lines]


def sources_asked_for(fetch):
    return sum(SOURCE in request.packages for request in fetch.requests)


# What is built


def test_a_kernel_is_built_with_the_options_of_its_recipe(place, fetch):
    made = image.build("kernel", fetch=fetch)
    assert (image_dir("kernel") / "vmlinux").read_bytes() == b"clear(npages); \nfork();\n"
    config = (image_dir("kernel") / "config").read_text()
    assert config == "CONFIG_VFIO=y\nCONFIG_NR_CPUS=16\n# CONFIG_DEBUG is not set\n"
    assert (made.kernel_release, [package.name for package in made.packages]) == (RELEASE, [SOURCE])
    assert made.toolchain == read_manifest(image_dir("tools")).tree_sha256


def test_a_variant_of_a_kernel_says_only_what_more_it_wants(place, fetch):
    (place / "recipes/debug.toml").write_text('like = "kernel"\nmore = ["DEBUG", "KASAN"]\n')
    image.build("debug", fetch=fetch)
    config = (image_dir("debug") / "config").read_text()
    assert config == "CONFIG_VFIO=y\nCONFIG_NR_CPUS=16\nCONFIG_DEBUG=y\nCONFIG_KASAN=y\n"


@pytest.mark.parametrize("option", ["NOWHERE", "NOWHERE=7"])
def test_an_option_that_the_kernel_does_not_take_is_named(place, fetch, option):
    (place / "recipes/kernel.toml").write_text(KERNEL_RECIPE + f'more = ["{option}"]\n')
    with pytest.raises(HarnessError, match=r"does not take CONFIG_NOWHERE=[y7]: "):
        image.build("kernel", fetch=fetch)
    assert image.status("kernel").state == "absent"


def test_of_the_sources_only_what_the_recipe_keeps_is_unpacked(place, fetch):
    image.build("kernel", fetch=fetch)
    tree = home(place) / "tree"
    assert (tree / "drivers/Kconfig").exists()
    assert not (tree / "drivers/gpu").exists()
    assert os.access(tree / "scripts/tool.sh", os.X_OK)
    assert not os.access(tree / "Makefile", os.X_OK)
    assert (tree / "scripts/include").readlink().as_posix() == "../include"


def test_a_guest_with_a_built_kernel_has_that_kernel_and_our_module_of_its_tree(place, fetch):
    made = image.ensure_guest("built").manifest
    assert (image_dir("built") / "vmlinux").read_bytes() == (image_dir("kernel") / "vmlinux").read_bytes()
    assert (made.kernel_release, made.modules) == (RELEASE, ["tce_hcall"])
    assert {"kernel", "linux-image"}.isdisjoint(package.name for package in made.packages)
    assert SOURCE in {package.name for package in made.packages}
    members = read_cpio((image_dir("built") / "base.cpio").read_bytes())
    assert members["lib/modules-tcelab/tce_hcall.ko"].data == module("tce_hcall", RELEASE)
    assert members["usr/lib/tcelab/loop"].data == b"program\n"


def test_another_kernel_makes_the_guest_stale(place, fetch):
    before = recipe.load("built").sha256
    (place / "recipes/kernel.toml").write_text(KERNEL_RECIPE + 'more = ["EEH"]\n')
    assert recipe.load("built").sha256 != before


# A changed file


def test_a_changed_file_costs_its_compilation_and_the_sources_stay_as_they_are(place, fetch):
    with library.kernel_tree("kernel", fetch=fetch) as tree:
        clean = tree.vmlinux()
        compiled(place)
        assert tree.vmlinux({IOMMU: "clear(npages + 1);\n"}) == b"clear(npages + 1);\nfork();\n"
        assert compiled(place) == [IOMMU]
        assert tree.source(IOMMU) == SOURCES[IOMMU].decode()
        assert tree.vmlinux() == clean
        assert compiled(place) == [IOMMU]
        assert tree.vmlinux() == clean
        assert compiled(place) == []


def test_a_change_that_does_not_compile_says_so_and_is_taken_back(place, fetch):
    with library.kernel_tree("kernel", fetch=fetch) as tree:
        clean = tree.vmlinux()
        with pytest.raises(HarnessError, match=r"building the kernel: .*exit code 2(.|\n)*error: so it says"):
            tree.vmlinux({IOMMU: "error\n"})
        assert tree.vmlinux() == clean


def test_a_change_of_a_file_that_is_not_there_says_that_the_source_has_moved_on(place, fetch):
    with library.kernel_tree("kernel", fetch=fetch) as tree:
        for ask in (lambda: tree.vmlinux({"gone.c": ""}), lambda: tree.source("gone.c")):
            with pytest.raises(HarnessError, match=r"no gone\.c: the source has moved on"):
                ask()


def test_a_change_that_a_killed_process_left_is_taken_back(place, fetch):
    with library.kernel_tree("kernel", fetch=fetch) as tree:
        clean = tree.vmlinux()
        kerneltree._change(tree.home, IOMMU, "broken();\n")
    with library.kernel_tree("kernel", fetch=fetch) as tree:
        assert tree.source(IOMMU) == SOURCES[IOMMU].decode()
        assert tree.vmlinux() == clean


def test_an_object_that_a_killed_make_was_writing_is_made_again(place, fetch):
    with library.kernel_tree("kernel", fetch=fetch) as tree:
        clean = tree.vmlinux()
        compiled(place)
        (tree.home / "building").touch()
        (tree.home / "tree" / IOMMU).with_suffix(".o").write_text("half")
        assert tree.vmlinux() == clean
        assert compiled(place) == [IOMMU]


# When a tree is made


def test_a_tree_is_made_once(place, fetch):
    image.build("kernel", fetch=fetch)
    image.build("kernel", fetch=fetch)
    image.ensure_guest("built")
    assert sources_asked_for(fetch) == 1


@pytest.mark.parametrize("change", ["recipe", "tools", "cut short", "newest"])
def test_a_tree_of_something_else_is_made_anew(place, fetch, change):
    image.build("kernel", fetch=fetch)
    if change == "recipe":
        (place / "recipes/kernel.toml").write_text(KERNEL_RECIPE + 'more = ["EEH"]\n')
    elif change == "tools":
        fetch.content["tools"]["usr/bin/more"] = b"#!/bin/sh\n"
        image.build("tools", fetch=fetch)
    elif change == "cut short":
        (home(place) / "made.json").unlink()
    (home(place) / "tree/old").touch()
    image.build("kernel", fetch=fetch, newest=change == "newest")
    assert sources_asked_for(fetch) == 2
    assert not (home(place) / "tree/old").exists()


def test_cleaning_a_kernel_removes_its_tree_and_counts_it(place, fetch):
    image.build("kernel", fetch=fetch)
    size = image.status("kernel").size
    assert size > sum(path.stat().st_size for path in image_dir("kernel").iterdir())
    assert shelf.clean(["kernel"]) == size
    assert not home(place).exists()
    image.build("kernel", fetch=fetch)
    (place / "recipes/kernel.toml").rename(place / "recipes/other.toml")
    (place / "recipes/built.toml").unlink()
    shelf.clean([])
    assert not home(place).exists()


# A host that cannot


def test_a_host_that_lacks_a_tool_is_told_which(place, fetch, monkeypatch):
    real = shutil.which
    monkeypatch.setattr(kerneltree.shutil, "which", lambda tool: None if tool in {"perl", "awk"} else real(tool))
    with pytest.raises(Unsupported, match=r"^this host has no awk, perl, which a kernel's build runs$"):
        image.build("kernel", fetch=fetch)


def test_a_host_of_another_architecture_is_told_where_it_can_be_built(place, fetch):
    (place / "recipes/tools.toml").write_text(TOOLCHAIN_RECIPE.replace('"amd64", "arm64", "ppc64el"', '"m68k"'))
    with pytest.raises(Unsupported, match=r"^a kernel can be built on m68k only, and this host is \w+$"):
        image.build("kernel", fetch=fetch)
    assert fetch.requests == []


def test_a_disk_without_room_is_told_before_anything_is_fetched(place, fetch, monkeypatch):
    monkeypatch.setattr(kerneltree, "ROOM", 4 << 20)
    monkeypatch.setattr(kerneltree.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(HarnessError, match=r"a kernel's tree needs 4 MiB, and .* has 1 MiB free"):
        image.build("kernel", fetch=fetch)
    assert sources_asked_for(fetch) == 0


def test_a_guest_is_no_kernel(place, fetch):
    with pytest.raises(UsageError, match="built is a guest, not a kernel"):
        library.ensure_kernel("built")


def test_sources_that_are_not_below_their_own_folder_are_refused(place, fetch):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tree:
        tree.addfile(tarfile.TarInfo(f"{SOURCE}/../away"))
    fetch.content[SOURCE] = {f"usr/src/{SOURCE}.tar.xz": stream.getvalue()}
    with pytest.raises(HarnessError, match=r"holds linux-source-toy/\.\./away, which is not below"):
        image.build("kernel", fetch=fetch)


def test_a_package_that_is_none_is_told(tmp_path):
    (tmp_path / "p.deb").write_bytes(b"nothing")
    with pytest.raises(HarnessError, match="the package s cannot be read"):
        sourcepackage.take(tmp_path / "p.deb", "s", {"a"})


# A kernel with a fault


def test_a_fault_is_built_once_and_the_result_says_what_it_is(place, fetch):
    built = kernelmutants.build("longer", fetch=fetch)
    assert built.path.read_bytes() == b"clear(npages + 1); \nfork();\n"
    told = built.told()
    assert (told["name"], told["module"], told["source"]) == ("longer", "vmlinux", f"{SOURCE} 1")
    compiled(place)
    assert kernelmutants.build("longer", fetch=fetch) == built
    assert compiled(place) == []


def test_a_fault_that_changes_nothing_of_what_is_built_is_refused(place, fetch):
    with pytest.raises(HarnessError, match="the kernel with the fault is the kernel without it"):
        kernelmutants.build("nothing", fetch=fetch)


def test_a_fault_whose_line_is_not_there_names_the_file_and_the_version(place, fetch):
    text = FAULTS.replace('old = "npages"', 'old = "gone"')
    (place / "recipes/kernel-mutants.toml").write_text(text)
    with pytest.raises(HarnessError, match=rf"longer: {IOMMU} of {SOURCE} 1 has the old text 0 times"):
        kernelmutants.build("longer", fetch=fetch)


@pytest.mark.parametrize("name", ["clean", "lost-write"])
def test_what_is_no_fault_of_built_in_code_builds_no_kernel(place, fetch, name):
    with pytest.raises(UsageError, match=f"{name} is no fault of built-in code"):
        kernelmutants.build(name, fetch=fetch)
    assert not mutants.of_kernel(name)
    assert mutants.of_kernel("longer")


def test_a_fault_of_built_in_code_is_none_of_the_driver(place, fetch):
    with pytest.raises(UsageError, match="longer is no fault of the driver"):
        mutants.build("longer", "built", SimpleNamespace(packages=[]))
