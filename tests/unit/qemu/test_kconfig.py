"""What a kernel was built with is found where kernels have it, and what is missing is named before a boot."""

import os

import pytest
from kerneltoy import RELEASE, vmlinux

from tcelab.errors import Unsupported
from tcelab.qemu import kconfig

COMPLETE = dict.fromkeys(kconfig.NEEDED, "y")


def text(values):
    return "# Linux/powerpc 6.12 Kernel Configuration\n" + "".join(
        f"# CONFIG_{name} is not set\n" if value == "n" else f"CONFIG_{name}={value}\n"
        for name, value in values.items()
    )


def config(**changes):
    return kconfig.KernelConfig("toy", COMPLETE | changes)


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux())
    return path


# -- where it is


def test_a_kernel_alone_tells_nothing(kernel):
    assert kconfig.find(kernel, RELEASE) is None


def test_the_embedded_one_comes_first(kernel):
    kernel.write_bytes(vmlinux(config=text({"A": "y", "B": "n", "C": '"x y"', "D_1": "0x10"})))
    (kernel.parent / ".config").write_text(text({"A": "n"}))
    found = kconfig.find(kernel, RELEASE)
    assert found.values == {"A": "y", "B": "n", "C": '"x y"', "D_1": "0x10"}
    assert found.source == f"{kernel} (IKCONFIG)"


def test_the_build_trees_comes_before_the_installed_one(kernel):
    (kernel.parent / ".config").write_text(text({"A": "y"}))
    (kernel.parent / f"config-{RELEASE}").write_text(text({"A": "m"}))
    os.utime(kernel, (1 << 40, 1 << 40))
    assert kconfig.find(kernel, RELEASE) == (str(kernel.parent / ".config"), {"A": "y"})


def test_one_that_was_written_after_the_kernel_says_nothing_about_it(kernel):
    (kernel.parent / ".config").write_text(text({"A": "y"}))
    os.utime(kernel, (1, 1))
    assert kconfig.find(kernel, RELEASE) is None


def test_the_installed_one_is_of_this_release(kernel):
    (kernel.parent / "config-6.1.0").write_text(text({"A": "n"}))
    assert kconfig.find(kernel, RELEASE) is None
    (kernel.parent / f"config-{RELEASE}").write_text(text({"A": "m"}))
    assert kconfig.find(kernel, RELEASE).values == {"A": "m"}


def test_beside_a_kernel_in_lib_modules_it_has_no_release_in_its_name(tmp_path):
    for folder, known in ((RELEASE, True), ("elsewhere", False)):
        kernel = tmp_path / folder / "vmlinuz"
        kernel.parent.mkdir()
        kernel.write_bytes(vmlinux())
        (kernel.parent / "config").write_text(text({"A": "y"}))
        assert (kconfig.find(kernel, RELEASE) is not None) is known


def test_a_link_to_the_kernel_leads_to_its_configuration(kernel, tmp_path):
    (kernel.parent / f"config-{RELEASE}").write_text(text({"A": "y"}))
    link = tmp_path / "elsewhere" / "vmlinux"
    link.parent.mkdir()
    link.symlink_to(kernel)
    assert kconfig.find(link, RELEASE).values == {"A": "y"}


@pytest.mark.parametrize("junk", [b"IKCFG_ST\x1f\x8bIKCFG_ED", b"IKCFG_STIKCFG_ED", b"IKCFG_ST alone"])
def test_marks_without_a_configuration_between_them_are_none(kernel, junk):
    kernel.write_bytes(vmlinux(texts=[junk]))
    assert kconfig.find(kernel, RELEASE) is None


# -- what it must have


def test_a_complete_one_is_enough():
    kconfig.require(config())
    kconfig.require(config(VFIO="m", VFIO_CONTAINER="y"))


@pytest.mark.parametrize("name", kconfig.NEEDED)
@pytest.mark.parametrize("how", ["not set", "not named"])
def test_each_option_is_missed(name, how):
    values = dict(COMPLETE)
    del values[name]
    if how == "not set":
        values[name] = "n"
    with pytest.raises(Unsupported, match=rf"lacks CONFIG_{name} \(.*by toy") as caught:
        kconfig.require(kconfig.KernelConfig("toy", values))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["VFIO_GROUP", "VFIO_CONTAINER"])
def test_options_that_older_kernels_do_not_know_count_only_where_they_are_named(name):
    kconfig.require(config())
    with pytest.raises(Unsupported, match=f"lacks CONFIG_{name} "):
        kconfig.require(config(**{name: "n"}))


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(Unsupported, match=r"CONFIG_VFIO \(VFIO\), CONFIG_VFIO_PCI \(VFIO\), CONFIG_VFIO_CONTAINER "):
        kconfig.require(config(VFIO="n", VFIO_PCI="n", VFIO_CONTAINER="n"))


def test_what_are_modules_is_told():
    assert kconfig.modular(config()) == []
    assert kconfig.modular(config(VFIO_PCI="m", VIRTIO_PCI="m")) == ["CONFIG_VIRTIO_PCI", "CONFIG_VFIO_PCI"]
