"""Cures of known defects: the table of them is sound, and what is built is what was asked for."""

import io
import re
import tarfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from tcelab.errors import HarnessError, UsageError
from tcelab.image import apt, cures, defectspage, kernelmutants, library, mutants, quirks, sourcepackage
from tcelab.image.guestimage import KERNEL
from tcelab.image.packages import Package
from tcelab.image.recipe import load, recipe_names
from tcelab.quirks import QUIRKS

KNOWN = cures.known()
BY_NAME = {cure.quirk: cure for cure in KNOWN.cure}
OF_MODULE = [name for name, cure in BY_NAME.items() if KNOWN.of_module(cure)]
BUILT_IN = [name for name in BY_NAME if name not in OF_MODULE]
PACKAGE = Package("linux-source-6.12", "6.12.1-1", "all", "stable", "1" * 64, 1)
each_cure = pytest.mark.parametrize("cure", KNOWN.cure, ids=list(BY_NAME))


def sources(wanted):
    """What has each old text of the wanted cures as often as it must, by path."""
    out = dict.fromkeys([*KNOWN.files.values(), *(file for cure in wanted for file in cure.files)], "/* text */\n")
    for cure in wanted:
        for change in cure.change:
            out[change.file] += f"{change.old}\n" * change.times
    return out


# The table


def test_each_cure_is_of_a_quirk_and_no_quirk_has_two():
    assert len(BY_NAME) == len(KNOWN.cure)
    assert BY_NAME.keys() <= QUIRKS.keys()


def test_the_image_with_all_of_them_declares_exactly_what_can_be_cured():
    assert quirks(KNOWN.image) == BY_NAME.keys()
    assert load(KNOWN.image).recipe.built


@each_cure
def test_it_changes_something_and_says_what_in_sentences(cure):
    assert cure.change
    for change in cure.change:
        assert change.old != change.new
        assert change.times > 0
        assert change.file.startswith(("arch/powerpc/", "drivers/vfio/"))
        assert change.function
    for text in (cure.symptom, cure.cause, cure.fix, cure.hurts):
        assert re.fullmatch(r"[A-Z].*\.", text)


@each_cure
def test_its_place_is_that_of_the_quirk(cure):
    """A module cannot cure what another file does wrong, unless it refuses before."""
    (said, _, _) = QUIRKS[cure.quirk].source.partition(",")
    elsewhere = {"ioba-check-one-page", "register-nothing-warns", "window-below-page-is-made"}
    assert said in cure.files or cure.quirk in elsewhere


def test_those_of_the_module_change_the_driver_and_headers_alone():
    assert len(OF_MODULE) == 10
    assert BUILT_IN == ["close-strands-memory", "register-part-returns-pages", "refused-window-spoils-pe"]
    assert KNOWN.files["include/asm/iommu.h"] == "arch/powerpc/include/asm/iommu.h"
    assert set(KNOWN.files) == {"vfio_iommu_spapr_tce.c", "vfio.h", "include/asm/iommu.h"}


def test_it_is_no_recipe_of_an_image():
    assert "cures" not in recipe_names()


def test_a_table_that_is_wrong_is_refused_by_its_field(tmp_path, monkeypatch):
    text = (cures.recipes_dir() / "cures.toml").read_text()
    (tmp_path / "cures.toml").write_text(text.replace("symptom = ", "sympton = ", 1))
    monkeypatch.setattr(cures, "recipes_dir", lambda: tmp_path)
    with pytest.raises(UsageError, match=r"cures\.toml: .*`sympton`"):
        cures.known()


def test_the_text_for_the_maintainers_claims_no_test_of_a_cure_that_was_not_tried(monkeypatch):
    untried = replace(BY_NAME["pin-for-write"], tried=False)
    monkeypatch.setattr(cures, "known", lambda: replace(KNOWN, cure=(untried,)))
    page = defectspage.pages()["pin-for-write.md"]
    assert "Not tested yet." in page
    assert "Tested on" not in page
    assert "has not been tried" in page


# Which are meant


def test_all_are_those_that_the_image_can_have():
    assert [cure.quirk for cure in cures.chosen(("all",), "guest")] == OF_MODULE
    assert cures.chosen(("all",), KNOWN.image) == KNOWN.cure
    assert cures.chosen((), "guest") == ()


def test_names_come_in_the_order_of_the_file():
    wanted = cures.chosen(("pin-for-write", "misaligned-iova-returns-1"), "guest-64k")
    assert [cure.quirk for cure in wanted] == ["misaligned-iova-returns-1", "pin-for-write"]


def test_one_of_built_in_code_is_none_of_a_kernel_that_debian_has_built():
    with pytest.raises(UsageError, match="refused-window-spoils-pe is of built-in code, and of the image guest-64k"):
        cures.chosen(("refused-window-spoils-pe",), "guest-64k")


def test_an_unknown_one_names_those_that_exist():
    with pytest.raises(UsageError, match="no cure is called 'pin-for-writ'; there are: all, misaligned") as caught:
        cures.chosen(("pin-for-writ",), "guest")
    assert "pin-for-write" in caught.value.next_step


# The text


@each_cure
def test_each_line_of_it_is_changed(cure):
    before = sources([cure])
    after = cures.cured([cure], before, PACKAGE)
    assert {path for path in before if before[path] != after[path]} == set(cure.files)


def test_all_together_find_their_places():
    before = sources(KNOWN.cure)
    assert cures.cured(KNOWN.cure, before, PACKAGE) != before


def test_a_line_that_has_gone_is_told_by_its_cure_and_file():
    cure = BY_NAME["pin-for-write"]
    before = sources([cure])
    before[KNOWN.driver] = before[KNOWN.driver].replace("tce_iommu_use_page(tce, &hpa);", "")
    told = r"pin-for-write: drivers/vfio/.*\.c of linux-source-6\.12 6\.12\.1-1 has the old text 0 times, not 1"
    with pytest.raises(HarnessError, match=told):
        cures.cured([cure], before, PACKAGE)


# What is built


class Stand:
    """A kernel's sources, and a compiler that returns what it was given."""

    manifest = SimpleNamespace(
        recipe="guest",
        kernel_release="6.12.1-toy",
        packages=[Package("linux-image-6.12.1-toy", "6.12.1-1", "ppc64el", "stable", "0" * 64, 1)],
    )

    def __init__(self, files):
        self.files, self.fetches, self.compiled = files, 0, 0

    def fetch(self, request):
        self.fetches += 1
        return apt.Fetched(packages=(PACKAGE,), files=(Path("none.deb"),))

    def take(self, deb, source, wanted):
        return {path: self.files[path] for path in wanted if path in self.files}

    @contextmanager
    def toolchain(self, release, *, name, fetch):
        yield SimpleNamespace(modules=self.modules)

    def modules(self, folder, release):
        self.compiled += 1
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    tar.addfile(*self._member(path, str(path.relative_to(folder))))
        return {KNOWN.module: out.getvalue()}

    @staticmethod
    def _member(path, name):
        info = tarfile.TarInfo(name)
        info.size = path.stat().st_size
        return info, io.BytesIO(path.read_bytes())


def read(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar}


@pytest.fixture
def stand(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    out = Stand(sources(KNOWN.cure))
    monkeypatch.setattr(library, "toolchain", out.toolchain)
    monkeypatch.setattr(sourcepackage, "take", out.take)
    return out


def test_the_module_has_the_changed_header_before_the_kernels_own_and_says_what_is_cured(stand):
    wanted = cures.chosen(("misaligned-iova-returns-1", "pin-for-write"), "guest")
    built = cures.build(wanted, "guest", stand.manifest, fetch=stand.fetch)
    files = read(built.content)
    assert set(files) == {*KNOWN.files, "Kbuild"}
    assert "(ioba), 1) ?:" in files["include/asm/iommu.h"]
    assert "tce_iommu_use_page(tce, &hpa, direction);" in files["vfio_iommu_spapr_tce.c"]
    assert files["Kbuild"].startswith("LINUXINCLUDE := -I$(src)/include $(LINUXINCLUDE)\n")
    told = built.told()
    assert told["quirks"] == ["misaligned-iova-returns-1", "pin-for-write"]
    assert (told["module"], told["source"]) == ("vfio_iommu_spapr_tce", "linux-source-6.12 6.12.1-1")


def test_a_module_is_built_once_and_another_choice_is_another(stand):
    def build(*names):
        return cures.build(cures.chosen(names, "guest"), "guest", stand.manifest, fetch=stand.fetch).content

    first = build("pin-for-write")
    assert build("pin-for-write") == first
    assert (stand.compiled, stand.fetches) == (1, 1)
    assert build("window-not-at-zero") != first
    assert (stand.compiled, stand.fetches) == (2, 1)


def test_an_image_whose_kernel_is_built_has_no_module_to_rebuild(stand):
    with pytest.raises(UsageError, match="guest-built names no toolchain that could build its driver with a cure"):
        cures.build(KNOWN.cure, KNOWN.image, stand.manifest, fetch=stand.fetch)


@pytest.mark.parametrize(("content", "same"), [(b"cured", False), (b"clean", True)])
def test_the_kernel_has_all_of_it_or_is_refused(tmp_path, monkeypatch, content, same):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    before, given = sources(KNOWN.cure), []

    @contextmanager
    def tree(name, *, fetch):
        yield SimpleNamespace(
            package=PACKAGE, source=before.__getitem__, vmlinux=lambda changes: given.append(changes) or content
        )

    digest = kernelmutants.hashlib.sha256(b"clean").hexdigest()
    clean = SimpleNamespace(packages=[PACKAGE], tree_sha256="t", file={KERNEL: SimpleNamespace(sha256=digest)}.get)
    monkeypatch.setattr(library, "ensure_kernel", lambda name: clean)
    monkeypatch.setattr(library, "kernel_tree", tree)
    if same:
        with pytest.raises(HarnessError, match=r"is the kernel without: no such line is built"):
            cures.build_kernel(KNOWN.cure)
        return
    built = cures.build_kernel(KNOWN.cure)
    assert cures.build_kernel(KNOWN.cure) == built
    (changes,) = given
    assert changes == cures.cured(KNOWN.cure, {path: before[path] for path in changes}, PACKAGE)
    assert built.path.read_bytes() == b"cured"
    assert built.told()["quirks"] == list(BY_NAME)
    assert built.told()["module"] == KERNEL
    assert built.path.parent == mutants.place("", "").parent
