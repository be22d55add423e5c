"""Mutants of the guest's driver: the table of them is sound, and what is built is what was asked for."""

import io
import re
import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from difflib import unified_diff
from types import SimpleNamespace

import pytest

from tcelab import scenarios
from tcelab.errors import HarnessError, UsageError
from tcelab.image import apt, library, mutants, shelf
from tcelab.image.mutants import CLEAN, LEAKCHECK, Fault, Sources, patched
from tcelab.image.packages import Package
from tcelab.image.recipe import load, recipe_names
from tcelab.judge.laws import LAWS
from tcelab.leakcheck.leakresult import LAWS as LEAK_LAWS

KNOWN = mutants.known()
FAULTS = {fault.name: fault for fault in KNOWN.fault}
each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
OF_KERNEL = {fault.name: fault for fault in mutants.known_of_kernel().fault}
EVERY = FAULTS | OF_KERNEL
each_fault_of_any = pytest.mark.parametrize("fault", EVERY.values(), ids=list(EVERY))

SOURCE = """\
static long map(void)
{
	size = pages;
	clear(pages);
	clear(pages);
}
"""
PACKAGE = Package("linux-source-6.12", "6.12.1-1", "all", "stable", "0" * 64, 1)


def fault(old, new="nothing();", name="some"):
    return Fault(name=name, breaks="It breaks.", old=old, new=new, run="rules", finds=("table: .*",))


def of(text):
    return Sources(PACKAGE, {KNOWN.file: text, "vfio.h": "/* header */\n"})


# The table


def test_there_are_a_dozen_and_more_and_each_has_a_name_of_its_own():
    assert len(KNOWN.fault) >= 12
    assert len(FAULTS) == len(KNOWN.fault)
    assert CLEAN not in FAULTS


@each_fault_of_any
def test_one_line_of_it_differs(fault):
    changes = list(unified_diff(fault.old.splitlines(), fault.new.splitlines(), n=0, lineterm=""))[2:]
    assert [line[0] for line in changes] == ["@", "-", "+"]


@each_fault_of_any
def test_it_says_in_one_sentence_what_it_breaks(fault):
    assert fault.breaks[0].isupper()
    assert fault.breaks.endswith(".")
    assert fault.breaks.count(".") == 1


@each_fault
def test_what_must_find_it_is_a_scenario_and_names_a_law_and_an_entry_or_a_count(fault):
    assert fault.run in scenarios.SCENARIOS
    assert fault.finds
    for pattern in fault.finds:
        law, colon, rest = pattern.partition(": ")
        assert colon
        assert law in LAWS
        # Not what the emulator says alone: a law by itself must find it.
        assert law != "difference"
        re.compile(pattern)
        assert re.search(r"LIOBN 0x\w+ IOBA 0x\w+|\d+ pages|seen \d+|gave value|reports \w+|WARNING", rest), rest


@pytest.mark.parametrize("fault", OF_KERNEL.values(), ids=list(OF_KERNEL))
def test_a_fault_of_built_in_code_names_its_file_and_what_must_find_it(fault):
    assert fault.file.startswith("arch/powerpc/")
    assert fault.run in {*scenarios.SCENARIOS, LEAKCHECK}
    for pattern in fault.finds:
        law, colon, rest = pattern.partition(": ")
        assert colon
        assert law in {*LAWS, *LEAK_LAWS}
        re.compile(pattern)
        assert re.search(r"LIOBN 0x\w+|addr 0x", rest), rest


def test_the_faults_of_built_in_code_are_of_a_guest_whose_kernel_is_built():
    assert load(mutants.known_of_kernel().image).recipe.built
    assert not set(OF_KERNEL) & {*FAULTS, CLEAN}
    assert len({(fault.file, fault.old, fault.new) for fault in OF_KERNEL.values()}) == len(OF_KERNEL)


def test_no_two_faults_are_one():
    assert len({(fault.old, fault.new) for fault in KNOWN.fault}) == len(KNOWN.fault)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("breaks = ", "brakes = ", 1), r"mutants\.toml: .*`brakes`"),
        (lambda text: text.replace("seed = 1", 'seed = "one"'), r"mutants\.toml: .*\$\.seed"),
        (lambda text: text + "= 1\n", r"mutants\.toml: .*line \d+"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_its_field(tmp_path, monkeypatch, change, complaint):
    text = (mutants.recipes_dir() / "mutants.toml").read_text()
    (tmp_path / "mutants.toml").write_text(change(text))
    monkeypatch.setattr(mutants, "recipes_dir", lambda: tmp_path)
    with pytest.raises(UsageError, match=complaint):
        mutants.known()


def test_it_is_no_recipe_of_an_image():
    assert not [name for name in recipe_names() if "mutants" in name]


def test_an_unknown_mutant_names_those_that_exist():
    with pytest.raises(UsageError, match="no mutant is called 'x'; there are: clean, lost-write, "):
        mutants.find("x")
    assert mutants.find(CLEAN) is None
    assert mutants.find("lost-write") == FAULTS["lost-write"]


# The patch


def test_a_fault_changes_its_line_and_nothing_else():
    files = patched(fault("size = pages;"), of(SOURCE), KNOWN)
    assert files == {KNOWN.file: SOURCE.replace("size = pages;", "nothing();"), "vfio.h": "/* header */\n"}


def test_without_a_fault_the_sources_are_as_they_are():
    assert patched(None, of(SOURCE), KNOWN) == {KNOWN.file: SOURCE, "vfio.h": "/* header */\n"}


@pytest.mark.parametrize(("old", "times"), [("lost_line();", 0), ("clear(pages);", 2)])
def test_a_line_that_is_not_there_once_says_that_the_source_has_moved_on(old, times):
    with pytest.raises(HarnessError, match=rf"some: .* 6\.12\.1-1 has the old text {times} times.*moved on") as caught:
        patched(fault(old), of(SOURCE), KNOWN)
    assert "some" in caught.value.next_step


# From package to module

pytest_needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds a toy package with dpkg-deb")


def toy_package(folder, names=(KNOWN.file, "vfio.h")):
    """A package that holds an archive of sources."""
    archive = folder / "deb" / "usr/src" / f"{KNOWN.source}.tar.xz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:xz") as tree:
        for name in ("core.c", *names):
            content = f"/* {name} */\ndirection = DMA_BIDIRECTIONAL;\n".encode()
            member = tarfile.TarInfo(f"{KNOWN.source}/{KNOWN.folder}/{name}")
            member.size = len(content)
            tree.addfile(member, io.BytesIO(content))
    (folder / "deb/DEBIAN").mkdir()
    (folder / "deb/DEBIAN/control").write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n"
    )
    subprocess.run(
        ["dpkg-deb", "-Znone", "-b", folder / "deb", folder / "p.deb"], check=True, stdout=subprocess.DEVNULL
    )
    shutil.rmtree(folder / "deb")
    return folder / "p.deb"


class Stand:
    """A cache, a toy package in place of Debian's, and a compiler that joins its sources."""

    def __init__(self, folder):
        self.folder = folder
        self.version = "6.12.1-1"
        self.names = (KNOWN.file, "vfio.h")
        self.fetched = []
        self.compiled = []
        kernel = Package("linux-image-6.12.1-toy", "6.12.1-1", "ppc64el", "stable", "0" * 64, 1)
        self.manifest = SimpleNamespace(recipe="guest", kernel_release="6.12.1-toy", packages=[kernel])

    def fetch(self, request):
        self.fetched.append(request)
        package = Package(KNOWN.source, self.version, "all", "stable", "1" * 64, 1)
        return apt.Fetched(packages=(package,), files=(toy_package(self.folder, self.names),))

    @contextmanager
    def toolchain(self, release, *, name, fetch):
        yield SimpleNamespace(modules=self.modules)

    def modules(self, sources, release):
        self.compiled.append(release)
        text = "".join(path.read_text() for path in sorted(sources.iterdir()))
        return {KNOWN.module: f"module of {release}: {text}".encode()}

    def build(self, name):
        return mutants.build(name, "guest", self.manifest, fetch=self.fetch)


@pytest.fixture
def stand(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    out = Stand(tmp_path)
    monkeypatch.setattr(library, "toolchain", out.toolchain)
    return out


@pytest_needs_dpkg
def test_the_module_is_built_from_the_patched_sources_and_says_what_it_is(stand):
    built = stand.build("lost-write")
    assert b"DMA_TO_DEVICE" in built.content
    assert b"DMA_BIDIRECTIONAL" in built.content  # of the header, which stays
    assert b"obj-m := vfio_iommu_spapr_tce.o" in built.content
    told = built.told()
    assert (told["name"], told["module"]) == ("lost-write", "vfio_iommu_spapr_tce")
    assert told["breaks"] == FAULTS["lost-write"].breaks
    assert told["source"] == "linux-source-6.12 6.12.1-1"


@pytest_needs_dpkg
def test_the_clean_one_is_built_from_the_sources_as_they_are(stand):
    built = stand.build(CLEAN)
    assert b"DMA_TO_DEVICE" not in built.content
    assert (built.told()["name"], built.told()["breaks"]) == (CLEAN, "")


@pytest_needs_dpkg
def test_the_sources_are_asked_for_in_the_suite_of_the_kernel_and_only_some_files_stay(stand):
    stand.build(CLEAN)
    (request,) = stand.fetched
    assert (request.packages, request.suites) == (("linux-source-6.12",), (("stable",),))
    assert not (stand.folder / "p.deb").exists()
    (kept,) = (stand.folder / "cache/mutants").glob("*.json")
    assert b"core.c" not in kept.read_bytes()


@pytest_needs_dpkg
def test_each_mutant_is_built_once_and_the_sources_are_fetched_once(stand):
    first = [stand.build(name).content for name in (CLEAN, "lost-write")]
    assert [stand.build(name).content for name in (CLEAN, "lost-write")] == first
    assert first[0] != first[1]
    assert len(stand.compiled) == 2
    assert len(stand.fetched) == 1


@pytest_needs_dpkg
def test_a_changed_fault_or_another_kernel_is_built_anew(stand, monkeypatch):
    stand.build("lost-write")
    other = fault("direction = DMA_BIDIRECTIONAL;", "direction = DMA_NONE;", "lost-write")
    monkeypatch.setattr(mutants, "find", lambda _: other)
    assert b"DMA_NONE" in stand.build("lost-write").content
    stand.manifest.kernel_release = "6.12.1-toy-64k"
    assert stand.build("lost-write").content.startswith(b"module of 6.12.1-toy-64k")
    assert len(stand.fetched) == 1


@pytest_needs_dpkg
def test_sources_of_another_kernel_are_none(stand):
    stand.version = "6.12.2-1"
    with pytest.raises(HarnessError, match=r"sources of 6\.12\.2-1, and the image's kernel is 6\.12\.1-1") as caught:
        stand.build(CLEAN)
    assert "tcelab image build guest" in caught.value.next_step
    assert stand.compiled == []


@pytest_needs_dpkg
def test_a_file_that_is_no_longer_there_says_that_the_source_has_moved_on(stand):
    stand.names = ("vfio.h",)
    with pytest.raises(HarnessError, match=r"holds no drivers/vfio/vfio_iommu_spapr_tce\.c: the source has moved on"):
        stand.build(CLEAN)


@pytest_needs_dpkg
def test_cleaning_everything_removes_the_mutants(stand):
    stand.build(CLEAN)
    shelf.clean([])
    assert not (stand.folder / "cache/mutants").exists()
