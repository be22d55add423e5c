"""A kernel of the user's own: what its files tell is held against what a guest needs, before anything is made."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from kerneltoy import RELEASE, elf, module, tree, vmlinux

from tcelab import image
from tcelab.cli.options import choice, machine_options
from tcelab.errors import Unsupported, UsageError
from tcelab.job import setup
from tcelab.job.setup import MachineChoice, prepare
from tcelab.program.topology import topology
from tcelab.qemu import kconfig
from tcelab.run import exitcode

VFIO = ("VFIO", "VFIO_PCI", "VFIO_IOMMU_SPAPR_TCE")
IMAGE_RELEASE = "6.12.95-image"


def config(**changes):
    values = dict.fromkeys(kconfig.NEEDED, "y") | changes
    return "".join(f"CONFIG_{name}={value}\n" for name, value in values.items())


@pytest.fixture
def asked(monkeypatch):
    """What the image was told of the kernel that will boot. Nothing is really made."""
    heard = []

    def guest(name, other=None, _instead=None):
        heard.append(None if other is None else other(IMAGE_RELEASE))
        return SimpleNamespace(name=name, kernel=Path("/image/vmlinux"), initrd=Path("/image/initrd"), manifest={})

    def qemu(name):
        return SimpleNamespace(name=name, argv=("qemu",), environment={}, manifest=SimpleNamespace(tree_sha256=""))

    monkeypatch.setattr(image, "ensure_guest", guest)
    monkeypatch.setattr(image, "ensure_qemu", qemu)
    monkeypatch.setattr(setup.msgspec, "to_builtins", lambda _: {})
    return heard


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "boot" / "vmlinux"
    path.parent.mkdir()
    path.write_bytes(vmlinux())
    return path


def ready(**choice):
    return prepare(MachineChoice(topology=topology("one-pe"), **choice))


def test_the_option_reaches_the_choice():
    chosen = []

    @click.command()
    @machine_options
    def verb(limits, **options):
        chosen.append(choice(**options))

    done = CliRunner().invoke(verb, ["--kernel", "k", "--modules", "m"], catch_exceptions=False)
    assert done.exit_code == 0
    assert (chosen[0].kernel, chosen[0].modules) == (Path("k"), Path("m"))


def test_without_one_the_image_is_told_nothing(asked):
    assert "own kernel" not in ready().provenance
    assert asked == [None]


def test_the_images_initrd_is_made_for_it(asked, kernel, tmp_path):
    """Nothing was found of how it was built: the guest will tell."""
    got = ready(kernel=kernel)
    assert asked == [image.OtherKernel(RELEASE, None)]
    assert got.options.kernel == kernel
    assert got.provenance["own kernel"] == {"release": RELEASE, "config": "", "modules": []}


def test_its_modules_go_into_the_initrd_and_the_result_names_them(asked, kernel, tmp_path):
    tree(tmp_path / "lib/modules" / RELEASE, modules=["vfio", "vfio_iommu_spapr_tce"], builtin=None)
    got = ready(kernel=kernel, modules=tmp_path)
    ((release, modules),) = asked
    assert release == RELEASE
    assert list(modules) == ["vfio", "vfio_iommu_spapr_tce"]
    assert got.provenance["own kernel"]["modules"] == ["vfio", "vfio_iommu_spapr_tce"]


def test_drivers_that_are_modules_need_to_be_brought(asked, kernel):
    kernel.write_bytes(vmlinux(config=config(**dict.fromkeys(VFIO, "m"))))
    with pytest.raises(
        UsageError, match="has CONFIG_VFIO, CONFIG_VFIO_PCI, CONFIG_VFIO_IOMMU_SPAPR_TCE as modules"
    ) as e:
        ready(kernel=kernel)
    assert "--modules" in e.value.next_step
    assert "\n" not in e.value.message
    assert asked == []


def test_unless_the_image_has_those_of_this_very_release(asked, kernel):
    kernel.write_bytes(vmlinux(IMAGE_RELEASE, config=config(VFIO="m")))
    ready(kernel=kernel)
    assert asked == [image.OtherKernel(IMAGE_RELEASE, None)]


def test_or_the_user_brings_an_initrd(asked, kernel, tmp_path):
    (tmp_path / "initrd").write_bytes(b"cpio")
    kernel.write_bytes(vmlinux(config=config(VFIO="m")))
    got = ready(kernel=kernel, initrd=tmp_path / "initrd")
    assert got.options.initrd == tmp_path / "initrd"
    assert asked == []


def test_or_brings_them(asked, kernel, tmp_path):
    kernel.write_bytes(vmlinux(config=config(**dict.fromkeys(VFIO, "m"))))
    ready(kernel=kernel, modules=tree(tmp_path / "m"))
    assert asked[0].modules


def hcall(folder, release=RELEASE, name="tce_hcall.ko"):
    path = folder / name
    path.write_bytes(module("tce_hcall", release, depends=()))
    return path


def test_our_own_module_may_be_brought_alone(asked, kernel, tmp_path):
    got = ready(kernel=kernel, modules=hcall(tmp_path))
    ((release, modules),) = asked
    assert (release, list(modules)) == (RELEASE, ["tce_hcall"])
    assert got.provenance["own kernel"]["modules"] == ["tce_hcall"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("5.10.0", "tce_hcall.ko"), f"it is of kernel 5.10.0, and the kernel is {RELEASE}"),
        (("7.0.0", "tce_hcall.ko"), f"it is of kernel 7.0.0, and the kernel is {RELEASE}"),
        ((RELEASE, "vfio.ko"), "of single modules, tce_hcall.ko alone is taken"),
        ((RELEASE, "tce_hcall.o"), "of single modules, tce_hcall.ko alone is taken"),
        ((RELEASE, "tce_hcall.ko.lz4"), "tcelab cannot unpack .lz4"),
    ],
)
def test_a_single_file_that_is_not_our_module_of_this_kernel_is_wrong_usage(asked, kernel, tmp_path, given, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        ready(kernel=kernel, modules=hcall(tmp_path, *given))
    assert asked == []


def test_what_is_no_module_is_not_taken_for_one(asked, kernel, tmp_path):
    for content, said in ((b"\x7fELF", r"tce_hcall\.ko is no kernel module"), (elf(kind=1), "it is of kernel unknown")):
        (tmp_path / "tce_hcall.ko").write_bytes(content)
        with pytest.raises(UsageError, match=said):
            ready(kernel=kernel, modules=tmp_path / "tce_hcall.ko")


def test_our_module_alone_is_not_enough_for_a_kernel_whose_drivers_are_modules(asked, kernel, tmp_path):
    kernel.write_bytes(vmlinux(config=config(VFIO="m")))
    with pytest.raises(UsageError, match=r"CONFIG_VFIO as modules .* and --modules brings tce_hcall alone") as caught:
        ready(kernel=kernel, modules=hcall(tmp_path))
    assert "put tce_hcall.ko into the folder" in caught.value.next_step


def test_nor_is_it_needed_where_the_image_has_it(asked, kernel, tmp_path):
    kernel.write_bytes(vmlinux(IMAGE_RELEASE))
    with pytest.raises(UsageError, match="the image has modules of kernel") as caught:
        ready(kernel=kernel, modules=hcall(tmp_path, IMAGE_RELEASE))
    assert caught.value.next_step == "leave --modules out"


def test_a_kernel_built_without_an_option_cannot_be_judged(asked, kernel):
    kernel.write_bytes(vmlinux(config=config(VFIO_PCI="n", PROC_PAGE_MONITOR="n")))
    with pytest.raises(Unsupported, match=r"lacks CONFIG_PROC_PAGE_MONITOR .*CONFIG_VFIO_PCI .*IKCONFIG") as caught:
        ready(kernel=kernel)
    assert exitcode.of_error(caught.value) == 125
    assert asked == []


def test_nor_can_it_with_an_initrd_or_modules(asked, kernel, tmp_path):
    (tmp_path / "initrd").write_bytes(b"cpio")
    kernel.write_bytes(vmlinux(config=config(VFIO="n")))
    for more in ({"initrd": tmp_path / "initrd"}, {"modules": tree(tmp_path / "m")}):
        with pytest.raises(Unsupported, match="lacks CONFIG_VFIO "):
            ready(kernel=kernel, **more)


def test_the_configuration_of_a_build_tree_is_found(asked, kernel):
    (kernel.parent / ".config").write_text(config(VFIO="n"))
    os.utime(kernel, (1 << 40, 1 << 40))
    with pytest.raises(Unsupported, match=r"lacks CONFIG_VFIO .*\.config"):
        ready(kernel=kernel)


def test_modules_of_another_kernel_are_wrong_usage(asked, kernel, tmp_path):
    with pytest.raises(UsageError, match=rf"holds modules of 5\.10\.0, and the kernel is {RELEASE}") as caught:
        ready(kernel=kernel, modules=tree(tmp_path / "m", "5.10.0"))
    assert exitcode.of_error(caught.value) == 2
    assert asked == []


def test_modules_and_an_initrd_exclude_each_other(asked, kernel, tmp_path):
    (tmp_path / "initrd").write_bytes(b"cpio")
    with pytest.raises(UsageError, match="--modules and --initrd exclude each other"):
        ready(kernel=kernel, modules=tree(tmp_path / "m"), initrd=tmp_path / "initrd")


def test_modules_without_a_kernel_are_wrong_usage(asked, tmp_path):
    with pytest.raises(UsageError, match="--modules") as caught:
        ready(modules=tree(tmp_path / "m"))
    assert "--kernel" in caught.value.next_step


def test_a_big_endian_kernel_does_not_fit_the_images_programs(asked, kernel, tmp_path):
    kernel.write_bytes(vmlinux(big=True))
    with pytest.raises(UsageError, match="big-endian"):
        ready(kernel=kernel)
    (tmp_path / "initrd").write_bytes(b"cpio")
    ready(kernel=kernel, initrd=tmp_path / "initrd")
