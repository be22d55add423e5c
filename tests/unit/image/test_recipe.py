"""Recipes are strict, and a variant says only what differs."""

import pytest
from imagetoy import GUEST_RECIPE, QEMU_RECIPE

from tcelab.errors import UsageError
from tcelab.image import recipe as recipe_module
from tcelab.image.recipe import (
    GuestRecipe,
    KernelRecipe,
    QemuRecipe,
    ToolchainRecipe,
    inner,
    load,
    network,
    on_request,
    quirks,
    recipe_names,
)
from tcelab.image.recipelock import read_lock


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    (tmp_path / "toy.toml").write_text(GUEST_RECIPE)
    (tmp_path / "emulator.toml").write_text(QEMU_RECIPE)
    monkeypatch.setattr(recipe_module, "recipes_dir", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "guest",
        "guest-64k",
        "guest-built",
        "guest-ssh",
        "kernel",
        "qemu-10.0",
        "qemu-11.1",
        "qemu-7.2",
        "toolchain",
        "toolchain-kernel",
    ],
)
def test_every_shipped_recipe_is_valid(name):
    recipe = load(name).recipe
    kinds = {"guest": GuestRecipe, "qemu": QemuRecipe, "toolchain": ToolchainRecipe, "kernel": KernelRecipe}
    assert isinstance(recipe, kinds[name.partition("-")[0]])
    if isinstance(recipe, GuestRecipe):
        assert isinstance(load(recipe.toolchain).recipe, ToolchainRecipe)
    if isinstance(recipe, QemuRecipe):
        assert recipe.version == name.removeprefix("qemu-")


def test_a_kernel_is_built_on_request_alone_and_by_tools_that_can():
    asked = [name for name in recipe_names() if on_request(name)]
    assert asked == ["guest-built", "kernel", "passthrough", "passthrough-64k", "toolchain-kernel"]
    guest, kernel = load("guest-built").recipe, load("kernel").recipe
    assert (guest.built, guest.kernel, guest.modules) == ("kernel", "", ())
    assert load(kernel.toolchain).recipe.host_compiler


def test_the_kernel_that_is_built_is_of_the_sources_of_the_image():
    (source,) = [each for each in read_lock("kernel") if each.name == load("kernel").recipe.source]
    (package,) = [each for each in read_lock("guest") if each.name.startswith("linux-image-")]
    assert source.version == package.version
    assert source in read_lock("guest-built")


def test_the_guest_that_runs_a_guest_has_its_kernel_and_kvm_and_locks_all_that_it_is_made_of():
    assert [name for name in recipe_names() if inner(name)] == ["passthrough", "passthrough-64k"]
    own, plain = load("passthrough").recipe, load("guest").recipe
    assert (own.inner, own.kernel, own.modules, own.drop) == ("guest", plain.kernel, plain.modules, plain.drop)
    assert own.drivers == ("kvm-hv",)
    assert set(plain.packages) < set(own.packages)
    locked = {each.name for each in read_lock("passthrough")}
    assert set(own.packages) <= locked
    (kernel,) = [each for each in read_lock("passthrough") if each.name.startswith("linux-image-")]
    assert kernel in read_lock("guest"), "both levels have one kernel"
    # Fields for a variant would change nothing in a recipe that has them from nowhere.
    assert (plain.more_drop, plain.more_keep) == ((), ())


def test_the_guest_with_ssh_has_a_network_card_and_what_its_driver_and_sshd_need():
    assert [name for name in recipe_names() if network(name)] == ["guest-ssh"]
    plain, own = load("guest").recipe, load("guest-ssh").recipe
    assert set(own.packages) - set(plain.packages) == {
        "dropbear-bin",
        "libcrypt1",
        "libgmp10",
        "libtomcrypt1",
        "libtommath1",
    }
    assert set(plain.packages) < set(own.packages)
    assert set(own.drivers) - set(plain.drivers) == {"virtio_net"}
    assert quirks("guest-ssh") == quirks("guest")


def test_names_are_sorted(recipes):
    assert recipe_names() == ["emulator", "toy"]


def test_an_unknown_name_lists_the_known_ones(recipes):
    with pytest.raises(UsageError, match="'nothing'") as caught:
        load("nothing")
    assert "emulator, toy" in caught.value.next_step


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text + 'colour = "red"\n', r"toy\.toml: .*unknown field `colour`"),
        (lambda text: text.replace('python = "3.11"', ""), r"toy\.toml: .*missing required field `python`"),
        (lambda text: text.replace('python = "3.11"', "python = 3.11"), r"toy\.toml: field python: "),
        (lambda text: text.replace('[["stable"]]', '["stable"]'), r"toy\.toml: field suites"),
        (lambda text: text.replace('"guest"', '"gast"'), r"toy\.toml: field kind: .*'gast'"),
        (lambda text: text + "= 1\n", r"toy\.toml: .*line \d+"),
        (lambda text: 'like = "nothing"\n', r"toy\.toml: like = 'nothing'"),
        (lambda text: 'like = "toy"\n', r"toy\.toml: like = 'toy'"),
    ],
)
def test_a_wrong_recipe_is_refused_by_file_and_field(recipes, change, complaint):
    (recipes / "toy.toml").write_text(change(GUEST_RECIPE))
    with pytest.raises(UsageError, match=complaint):
        load("toy")


def test_a_variant_differs_only_in_what_it_says(recipes):
    (recipes / "variant.toml").write_text('like = "toy"\nkernel = "other"\n')
    variant, toy = load("variant").recipe, load("toy").recipe
    assert (toy.kernel, variant.kernel) == ("kernel", "other")
    assert variant.packages == toy.packages


def test_the_digest_follows_what_is_said_and_not_how(recipes):
    (recipes / "variant.toml").write_text('like = "toy"\nkernel = "other"\n')
    toy, variant = load("toy").sha256, load("variant").sha256
    (recipes / "toy.toml").write_text(GUEST_RECIPE + "# more to say\n")
    assert (load("toy").sha256, load("variant").sha256) == (toy, variant)
    (recipes / "toy.toml").write_text(GUEST_RECIPE.replace('["python"]', '["python", "more"]'))
    assert toy != load("toy").sha256
    assert variant != load("variant").sha256


def test_a_variant_of_a_variant_is_made_of_all_three_and_a_circle_is_refused(recipes):
    (recipes / "variant.toml").write_text('like = "toy"\nkernel = "other"\non_request = true\n')
    (recipes / "third.toml").write_text('like = "variant"\nmore_drop = ["a"]\n')
    third = load("third").recipe
    assert (third.kernel, third.on_request, third.more_drop) == ("other", True, ("a",))
    assert third.packages == load("toy").recipe.packages
    (recipes / "variant.toml").write_text('like = "third"\n')
    with pytest.raises(UsageError, match=r"variant\.toml: like = 'third' is no complete recipe"):
        load("third")
