"""From a choice to what a session needs: checked before anything is provisioned, and never more than was chosen."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from kerneltoy import vmlinux

from tcelab import image
from tcelab.errors import UsageError
from tcelab.image import cures, kernelmutants, mutants
from tcelab.image.packages import Package
from tcelab.job import setup
from tcelab.job.setup import MachineChoice, prepare
from tcelab.program.topology import topology

TOPOLOGY = topology("one-pe")


class Made(msgspec.Struct):
    """The manifest of a QEMU."""

    of: str
    tree_sha256: str = "t"


@pytest.fixture
def provisioned(monkeypatch):
    """What was provisioned, in order; nothing is really made."""
    made = []

    def guest(name, other=None, instead=None):
        made.append(f"guest {name}")
        if instead is not None:
            made.append(instead(f"manifest of {name}"))
        return SimpleNamespace(
            name=name, kernel=Path("/image/vmlinux"), initrd=Path("/image/initrd"), manifest={"of": name}
        )

    def qemu(name):
        made.append(f"qemu {name}")
        return SimpleNamespace(name=name, argv=("ld.so", "qemu"), environment={"A": "1"}, manifest=Made(name))

    monkeypatch.setattr(image, "ensure_guest", guest)
    monkeypatch.setattr(image, "ensure_qemu", qemu)
    monkeypatch.setattr(image, "agent_digest", lambda: "digest")
    return made


@pytest.fixture
def files(tmp_path):
    """A kernel, an initrd and a program that can be chosen."""
    (tmp_path / "vmlinux").write_bytes(vmlinux(release=""))
    (tmp_path / "initrd").write_bytes(b"cpio")
    (tmp_path / "qemu").write_text("#!/bin/sh\n")
    (tmp_path / "qemu").chmod(0o755)
    return tmp_path


def ready(**choice):
    return prepare(MachineChoice(topology=TOPOLOGY, **choice))


def test_by_default_all_comes_from_recipes(provisioned):
    got = ready()
    assert provisioned == ["qemu qemu-11.1", "guest guest"]
    assert (got.options.kernel, got.options.initrd) == (Path("/image/vmlinux"), Path("/image/initrd"))
    assert (got.qemu.name, got.qemu.argv, got.qemu.environment) == ("qemu-11.1", ("ld.so", "qemu"), {"A": "1"})
    assert got.digest == "digest"
    assert got.provenance == {
        "qemu": {"recipe": "qemu-11.1", "manifest": {"of": "qemu-11.1", "tree_sha256": "t"}},
        "image": {"name": "guest", "manifest": {"of": "guest"}},
        "kernel": "/image/vmlinux",
        "initrd": "/image/initrd",
    }


def test_only_an_image_that_has_it_gets_a_network_card(provisioned):
    assert not ready().options.network
    assert ready(image="guest-ssh").options.network


def test_what_was_chosen_of_the_machine_reaches_it(provisioned):
    options = ready(memory=768, firmware="slof", append="debug").options
    assert (options.memory, options.firmware, options.append) == (768, "slof", "debug")
    assert options.topology == TOPOLOGY


def test_an_own_kernel_takes_the_place_of_the_images(provisioned, files):
    got = ready(kernel=files / "vmlinux", image="guest-64k")
    assert (got.options.kernel, got.options.initrd) == (files / "vmlinux", Path("/image/initrd"))
    assert got.provenance["kernel"] == str(files / "vmlinux")
    assert got.provenance["image"]["name"] == "guest-64k"


def test_an_own_initrd_takes_the_place_of_the_images(provisioned, files):
    got = ready(initrd=files / "initrd")
    assert (got.options.kernel, got.options.initrd) == (Path("/image/vmlinux"), files / "initrd")


def test_a_mutant_of_built_in_code_is_a_kernel_and_the_result_names_it(provisioned, monkeypatch):
    fault = mutants.find("free-long")
    package = Package("linux-source", "6", "all", "stable", "0" * 64, 1)
    built = kernelmutants.BuiltKernel(Path(__file__), fault, package)
    monkeypatch.setattr(kernelmutants, "build", lambda name: built if name == "free-long" else None)
    got = ready(image="guest-built", mutant="free-long")
    assert provisioned == ["qemu qemu-11.1", "guest guest-built"]
    assert (got.options.kernel, got.options.initrd) == (Path(__file__), Path("/image/initrd"))
    told = got.provenance["mutant"]
    assert (told["name"], told["breaks"], told["module"]) == ("free-long", fault.breaks, "vmlinux")
    assert got.provenance["kernel"] == __file__


@pytest.mark.parametrize(
    ("mutant", "chosen", "run"),
    [
        ("", "guest-64k", "guest-64k"),
        ("lost-write", "guest-64k", "guest-64k"),
        ("free-long", "guest", "guest-built"),
        ("free-long", "guest-built", "guest-built"),
    ],
)
def test_a_mutant_of_built_in_code_is_one_of_the_image_whose_kernel_is_built(mutant, chosen, run):
    assert setup.image_of(chosen, mutant) == run


def test_a_mutant_of_built_in_code_is_none_of_another_image():
    with pytest.raises(UsageError, match="free-long is one of the kernel of the image guest-built, and --image is g"):
        setup.image_of("guest-64k", "free-long")


def test_a_mutant_takes_the_place_of_the_images_driver_and_the_result_names_it(provisioned, monkeypatch):
    fault = mutants.find("lost-write")
    package = Package("linux-source", "6", "all", "stable", "0" * 64, 1)

    def build(name, of, manifest):
        assert (name, of, manifest) == ("lost-write", "guest-64k", "manifest of guest-64k")
        return mutants.Built("spapr_tce", b"module", fault, package)

    monkeypatch.setattr(mutants, "build", build)
    got = ready(image="guest-64k", mutant="lost-write")
    assert provisioned == ["qemu qemu-11.1", "guest guest-64k", {"spapr_tce": b"module"}]
    assert got.provenance["mutant"] == {
        "name": "lost-write",
        "breaks": fault.breaks,
        "module": "spapr_tce",
        "source": "linux-source 6",
        "sha256": hashlib.sha256(b"module").hexdigest(),
    }


def test_a_cured_driver_takes_the_place_of_the_images_and_its_quirks_are_not_declared(provisioned, monkeypatch):
    package = Package("linux-source", "6", "all", "stable", "0" * 64, 1)

    def build(wanted, of, manifest):
        assert (of, manifest) == ("guest-64k", "manifest of guest-64k")
        return cures.Built("spapr_tce", b"module", wanted, package)

    monkeypatch.setattr(cures, "build", build)
    got = ready(image="guest-64k", cures=("pin-for-write",))
    assert provisioned == ["qemu qemu-11.1", "guest guest-64k", {"spapr_tce": b"module"}]
    told = got.provenance["cures"]
    assert (told["quirks"], told["module"], told["source"]) == (["pin-for-write"], "spapr_tce", "linux-source 6")
    assert got.options.quirks == setup.image.quirks("guest-64k") - {"pin-for-write"}


def test_cures_of_built_in_code_are_a_kernel(provisioned, monkeypatch):
    package = Package("linux-source", "6", "all", "stable", "0" * 64, 1)
    monkeypatch.setattr(cures, "build_kernel", lambda wanted: cures.BuiltKernel(Path(__file__), wanted, package))
    got = ready(image="guest-built", cures=("all",))
    assert provisioned == ["qemu qemu-11.1", "guest guest-built"]
    assert got.provenance["kernel"] == __file__
    assert (got.provenance["cures"]["module"], got.options.quirks) == ("vmlinux", frozenset())


@pytest.mark.parametrize(
    ("chosen", "names", "run"),
    [
        ("guest", ("all",), "guest"),
        ("guest", ("refused-window-spoils-pe",), "guest-built"),
        ("guest-64k", ("pin-for-write",), "guest-64k"),
    ],
)
def test_a_cure_of_built_in_code_is_one_of_the_image_whose_kernel_is_built(chosen, names, run):
    assert setup.image_of(chosen, "", names) == run


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cures": ("all",), "mutant": "lost-write"}, "--cure and --mutant exclude each other"),
        ({"cures": ("x",)}, "no cure is called 'x'"),
        ({"cures": ("all",), "expect_quirks": ("pin-for-write",)}, "--expect-quirk pin-for-write and its cure exclude"),
    ],
)
def test_what_contradicts_a_cure_is_refused(provisioned, fields, told):
    with pytest.raises(UsageError, match=told):
        ready(**fields)
    assert provisioned == []


@pytest.mark.parametrize("own", ["kernel", "initrd"])
def test_a_cure_is_of_the_images_driver_alone(provisioned, files, own):
    file = files / {"kernel": "vmlinux", "initrd": "initrd"}[own]
    with pytest.raises(UsageError, match="--cure is about the image's own driver"):
        ready(cures=("all",), **{own: file})


@pytest.mark.parametrize("own", ["kernel", "initrd"])
def test_a_mutant_is_of_the_images_driver_alone(provisioned, files, own):
    file = files / {"kernel": "vmlinux", "initrd": "initrd"}[own]
    with pytest.raises(UsageError, match="--mutant is about the image's own driver"):
        ready(mutant="lost-write", **{own: file})
    with pytest.raises(UsageError, match="no mutant is called 'x'"):
        ready(mutant="x")
    assert provisioned == []


def test_with_own_kernel_initrd_and_qemu_nothing_is_provisioned(provisioned, files):
    got = ready(kernel=files / "vmlinux", initrd=files / "initrd", qemu=str(files / "qemu"))
    assert provisioned == []
    assert got.provenance == {
        "qemu": {"path": str(files / "qemu")},
        "kernel": str(files / "vmlinux"),
        "initrd": str(files / "initrd"),
        "own kernel": {"release": "", "config": "", "modules": []},
    }


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"kernel": "none"}, "cannot read the kernel"),
        ({"kernel": "initrd"}, "no kernel"),
        ({"initrd": "none"}, "no initrd .*none"),
        ({"initrd": "."}, "no initrd"),
        ({"memory": 300}, "300 MiB"),
        ({"qemu": "none"}, "does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_provisioned(provisioned, files, choice, said):
    choice = {name: value if isinstance(value, int) else files / value for name, value in choice.items()}
    choice |= {name: str(value) for name, value in choice.items() if name == "qemu"}
    with pytest.raises(UsageError, match=said):
        ready(**choice)
    assert provisioned == []


@pytest.mark.parametrize(
    ("choice", "step"),
    [
        ({"kernel": Path("none")}, "give the path of a file; without --kernel the image's own is run"),
        ({"initrd": Path("none")}, "give the path of a file; without --initrd the image's own is run"),
        ({"expect_quirks": ("pin-for-writes",)}, "did you mean pin-for-write?"),
    ],
)
def test_what_cannot_be_is_said_with_what_to_do_next(choice, step):
    with pytest.raises(UsageError) as caught:
        setup.check(MachineChoice(topology=TOPOLOGY, **choice))
    assert caught.value.next_step == step


def test_a_name_without_a_recipe_is_a_program_of_the_path(provisioned, files, monkeypatch):
    monkeypatch.setenv("PATH", str(files))
    got = ready(qemu="qemu")
    assert got.qemu.argv == (str(files / "qemu"),)
    assert provisioned == ["guest guest"]


def test_a_path_is_a_program_even_if_a_recipe_has_its_name(provisioned, files, monkeypatch):
    (files / "qemu").rename(files / "qemu-11.1")
    monkeypatch.chdir(files)
    assert ready(qemu="./qemu-11.1").qemu.argv == (str(files / "qemu-11.1"),)
    assert ready(qemu="qemu-11.1").provenance["qemu"]["recipe"] == "qemu-11.1"


def test_the_defaults_are_recipes():
    assert {setup.DEFAULT_QEMU, setup.DEFAULT_IMAGE} <= set(image.recipe_names())
