"""A kernel's modules: found wherever people have them, in load order, of this very kernel or not at all."""

import pytest
from imagetoy import read_cpio
from kerneltoy import DEPENDS, PACKERS, RELEASE, module, tree

from tcelab.errors import Unsupported, UsageError
from tcelab.image import compressed, cpio, modules

ALL = [
    "virtio",
    "virtio_ring",
    "virtio_pci",
    "virtio_console",
    "vfio",
    "vfio_iommu_spapr_tce",
    "vfio_virqfd",
    "vfio-pci-core",
    "vfio-pci",
]


def load_order_holds(names):
    """Each module comes after all that it depends on."""
    seen = set()
    for name in names:
        if not {other.replace("-", "_") for other in DEPENDS[name]} <= seen:
            return False
        seen.add(name.replace("-", "_"))
    return True


# -- load order


def test_each_module_comes_after_what_it_depends_on_and_virtio_before_vfio(tmp_path):
    got = list(modules.of_kernel(tree(tmp_path), RELEASE))
    assert got == ALL
    assert load_order_holds(got)


def test_what_nothing_needs_stays_out(tmp_path):
    tree(tmp_path, modules=[*DEPENDS, "e1000", "vfio_platform"])
    assert list(modules.of_kernel(tmp_path, RELEASE)) == ALL


def test_what_is_built_in_is_not_loaded_even_when_a_module_depends_on_it(tmp_path):
    tree(
        tmp_path,
        modules=["vfio_iommu_spapr_tce", "vfio-pci-core", "vfio-pci"],
        builtin=["virtio/virtio_pci", "char/virtio_console", "vfio/vfio", "vfio/vfio-virqfd"],
    )
    assert list(modules.of_kernel(tmp_path, RELEASE)) == ["vfio_iommu_spapr_tce", "vfio-pci-core", "vfio-pci"]


def test_modules_that_depend_on_each_other_end(tmp_path):
    tree(tmp_path, modules=[])
    for one, other in (("vfio", "vfio-pci"), ("vfio-pci", "vfio")):
        (tmp_path / f"{one}.ko").write_bytes(module(one, depends=[other]))
    assert set(modules.resolve(tmp_path, ["vfio"]).modules) == {"vfio", "vfio-pci"}


def test_a_driver_that_is_neither_is_named_with_its_option(tmp_path):
    tree(tmp_path, modules=[name for name in DEPENDS if name != "vfio_iommu_spapr_tce"])
    with pytest.raises(Unsupported, match=r"vfio_iommu_spapr_tce \(CONFIG_VFIO_IOMMU_SPAPR_TCE\) neither built in"):
        modules.of_kernel(tmp_path, RELEASE)


def test_a_dependency_that_is_neither_is_named(tmp_path):
    tree(tmp_path, modules=[name for name in DEPENDS if name != "vfio_virqfd"])
    with pytest.raises(Unsupported, match="vfio_virqfd neither built in"):
        modules.of_kernel(tmp_path, RELEASE)


def test_without_the_list_of_what_is_built_in_nothing_is_missing(tmp_path):
    tree(tmp_path, modules=["vfio", "vfio-pci", "vfio-pci-core"], builtin=None)
    assert list(modules.of_kernel(tmp_path, RELEASE)) == ["vfio", "vfio-pci-core", "vfio-pci"]


# -- where they are


@pytest.mark.parametrize(
    ("place", "given"),
    [
        (".", "."),  # lib/modules/RELEASE itself, whatever it is called
        (RELEASE, "."),  # the folder above
        (f"lib/modules/{RELEASE}", "."),  # INSTALL_MOD_PATH
        (f"usr/lib/modules/{RELEASE}", "."),  # a package of a system with one /usr
        (f"lib/modules/{RELEASE}", "lib/modules"),
        (f"lib/modules/{RELEASE}", f"lib/modules/{RELEASE}"),
    ],
)
def test_every_place_that_people_have_is_found(tmp_path, place, given):
    tree(tmp_path / place)
    if place != ".":
        tree(tmp_path / place / ".." / "5.10.0", "5.10.0")
    got = modules.of_kernel(tmp_path / given, RELEASE)
    assert list(got) == ALL
    assert got["vfio"] == module("vfio")


def test_the_build_tree_itself_will_do(tmp_path):
    tree(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/raid6.c").touch()
    assert list(modules.of_kernel(tmp_path, RELEASE)) == ALL


def test_of_several_releases_the_fitting_one_is_taken(tmp_path):
    for release in ("5.10.0", RELEASE, "7.0.0"):
        tree(tmp_path / "lib/modules" / release, release)
    got = modules.of_kernel(tmp_path, "7.0.0")
    assert all(b"vermagic=7.0.0 " in content for content in got.values())


def test_a_folder_is_judged_by_its_modules_not_by_its_name(tmp_path):
    tree(tmp_path / "lib/modules" / RELEASE, "6.1.0")
    with pytest.raises(UsageError, match=rf"holds modules of 6\.1\.0, and the kernel is {RELEASE}"):
        modules.of_kernel(tmp_path, RELEASE)


def test_where_everything_is_built_in_the_folders_name_tells(tmp_path):
    folder = tree(tmp_path / RELEASE, modules=[], builtin=modules.DRIVERS)
    assert modules.of_kernel(folder, RELEASE) == {}


def test_links_to_the_sources_are_not_followed(tmp_path):
    tree(tmp_path / "linux", "9.9.9", modules=["vfio"])
    folder = tree(tmp_path / "lib/modules" / RELEASE)
    (folder / "build").symlink_to(tmp_path / "linux")
    assert b"9.9.9" not in modules.of_kernel(folder, RELEASE)["vfio"]


@pytest.mark.parametrize(
    ("releases", "said"),
    [
        (["5.10.0", "6.1.0"], r"holds modules of 5\.10\.0, 6\.1\.0, and the kernel is 6\.12\.1-toy$"),
        ([], "holds modules of no kernel, and the kernel is"),
    ],
)
def test_no_fitting_release_is_wrong_usage_in_one_line(tmp_path, releases, said):
    for release in releases:
        tree(tmp_path / "lib/modules" / release, release)
    with pytest.raises(UsageError, match=said) as caught:
        modules.of_kernel(tmp_path, RELEASE)
    assert "\n" not in caught.value.message
    assert "modules_install" in caught.value.next_step


def test_a_kernel_that_does_not_tell_its_release_fits_nothing(tmp_path):
    with pytest.raises(UsageError, match="the kernel is of no known release"):
        modules.of_kernel(tree(tmp_path), "")


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        modules.of_kernel(tmp_path / "none", RELEASE)


# -- how they are packed


@pytest.mark.parametrize("packed", ["", ".xz", ".gz", ".zst"])
def test_modules_are_unpacked(tmp_path, packed):
    tree(tmp_path, packed=packed)
    got = modules.of_kernel(tmp_path, RELEASE)
    assert list(got) == ALL
    assert got["vfio"] == module("vfio")


def test_what_cannot_be_unpacked_says_what_can(tmp_path):
    folder = tree(tmp_path / RELEASE, packed=".lz4")
    with pytest.raises(UsageError, match=r"virtio_pci\.ko\.lz4: tcelab cannot unpack \.lz4") as caught:
        modules.of_kernel(folder, RELEASE)
    assert "unpack it first" in caught.value.next_step
    assert ".ko.zst" in caught.value.next_step


@pytest.mark.parametrize("packed", [".xz", ".gz", ".zst"])
@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-9], lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]],
    ids=["truncated", "changed"],
)
def test_a_broken_module_is_named_in_one_line(tmp_path, packed, damage):
    tree(tmp_path, packed=packed)
    (path,) = tmp_path.rglob(f"virtio_pci.ko{packed}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=rf"virtio_pci\.ko\{packed} cannot be read") as caught:
        modules.of_kernel(tmp_path, RELEASE)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("packed", [".xz", ".gz", ".zst"])
def test_a_file_that_holds_more_than_any_module_is_not_unpacked_to_its_end(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(compressed, "LIMIT", 1 << 20)
    path = tmp_path / f"tce_hcall.ko{packed}"
    path.write_bytes(PACKERS[packed](bytes((1 << 20) + 1)))
    with pytest.raises(UsageError, match="cannot be read: it holds more than 1 MiB"):
        modules.of_kernel(path, RELEASE)


def test_what_unpacks_to_no_module_is_named(tmp_path):
    path = tmp_path / "tce_hcall.ko.zst"
    path.write_bytes(PACKERS[".zst"](b"no module"))
    with pytest.raises(UsageError, match=r"tce_hcall\.ko\.zst is no kernel module"):
        modules.of_kernel(path, RELEASE)


# -- our own module


def test_our_module_is_loaded_last_where_a_folder_has_it(tmp_path):
    tree(tmp_path, modules=["tce_hcall", *DEPENDS])
    assert list(modules.of_kernel(tmp_path, RELEASE)) == [*ALL, "tce_hcall"]


def test_a_kernel_without_our_module_lacks_nothing(tmp_path):
    """It has no raw hypercalls, then."""
    tree(tmp_path)
    assert list(modules.of_kernel(tmp_path, RELEASE)) == ALL


@pytest.mark.parametrize("name", ["tce_hcall", "vfio_iommu_spapr_tce"])
def test_a_module_of_another_kernel_is_wrong_usage_in_one_line(tmp_path, name):
    tree(tmp_path, modules=["tce_hcall", *DEPENDS])
    (path,) = tmp_path.rglob(f"{name}.ko")
    path.write_bytes(module(name, "6.12.2-toy"))
    with pytest.raises(UsageError, match=rf"the module {name} in \S+ is of kernel 6\.12\.2-toy, not of 6\.12\.1-toy$"):
        modules.of_kernel(tmp_path, RELEASE)


# -- what the guest is given


def test_the_guest_finds_them_listed_in_load_order(tmp_path):
    with (tmp_path / "archive").open("wb") as stream:
        cpio.write_archive(stream, modules.entries({"vfio": b"one", "another": b"two"}))
    members = read_cpio((tmp_path / "archive").read_bytes())
    lines = members["etc/tcelab-modules"].data.decode()
    assert lines == "/lib/modules-tcelab/vfio.ko\n/lib/modules-tcelab/another.ko\n"
    assert members["lib/modules-tcelab/another.ko"].data == b"two"
