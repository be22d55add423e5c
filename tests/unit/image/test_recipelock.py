"""Locked recipes: which versions a build takes, what it tells about the others, and when an image is stale."""

import hashlib
import logging
import shutil
from types import SimpleNamespace

import msgspec
import pytest
from imagetoy import GUEST_RECIPE, ToyFetch, lay_out

from tcelab import image
from tcelab.cli import cli
from tcelab.errors import HarnessError, UsageError
from tcelab.image import apt, library, recipelock
from tcelab.image.archive import Archive
from tcelab.image.packages import Drift, Locked, Package, check_locked, choose
from tcelab.image.recipe import lock_path, recipe_names
from tcelab.logs import shown_on

ONE, TWO = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()


def package(name, version, suite="stable", sha256=ONE):
    return Package(name, version, "ppc64el", suite, sha256, 1)


def locked(name, version, sha256=ONE, architecture="ppc64el"):
    return Locked(name, version, architecture, sha256, 1)


def test_every_shipped_recipe_is_locked():
    names = recipe_names()
    assert len(names) > 4
    for name in names:
        held = recipelock.read_lock(name)
        assert held, name
        assert all(len(each.sha256) == 64 and each.size > 500 for each in held)


# Which version is taken


def test_the_locked_version_is_taken_even_where_another_suite_comes_first_or_has_a_newer_one():
    available = [package("a", "1", "old"), package("a", "2", "new"), package("a", "3", "new")]
    suites = [["new"], ["old"]]
    assert choose("a", available, suites).version == "3"
    assert choose("a", available, suites, [locked("a", "2")]).version == "2"
    assert choose("a", available, suites, [locked("a", "1")]).suite == "old"


def test_the_newest_is_taken_where_the_locked_version_was_dropped():
    kernels = [package("linux-6.2", "6.2"), package("linux-6.10", "6.10")]
    assert choose("linux-6.*", kernels, [["stable"]], [locked("linux-6.1", "6.1")]).version == "6.10"
    assert choose("linux-6.*", kernels, [["stable"]], [locked("linux-6.2", "6.2")]).version == "6.2"


@pytest.mark.parametrize("change", [{"sha256": TWO}, {"size": 2}])
def test_a_locked_version_of_another_hash_or_size_is_an_error_and_never_replaced(change):
    check_locked([package("a", "1"), package("b", "1")], [locked("a", "1"), locked("b", "2", TWO)])
    with pytest.raises(HarnessError, match=r"a 1 \(ppc64el\) is not the package that was locked"):
        check_locked([msgspec.structs.replace(package("a", "1"), **change)], [locked("a", "1")])


# By apt itself, on an archive of this test's


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Make one of stanzas (name, version, what it depends on); gives what resolves a request there."""
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/apt").mkdir(parents=True)

    def made(*stanzas):
        folder = tmp_path / "archive/dists/stable"
        (folder / "main/binary-ppc64el").mkdir(parents=True)
        text = "\n".join(
            f"Package: {name}\nVersion: {version}\nArchitecture: ppc64el\nMaintainer: t <t@t>\nDepends: {needs}\n"
            f"Filename: pool/{name}_{version}.deb\nSize: 1\nSHA256: {ONE}\nDescription: t\n"
            for name, version, needs in stanzas
        ).replace("Depends: \n", "")
        (folder / "main/binary-ppc64el/Packages").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (folder / "Release").write_text(
            "Suite: stable\nCodename: stable\nArchitectures: ppc64el\nComponents: main\n"
            "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
            f"SHA256:\n {digest} {len(text)} main/binary-ppc64el/Packages\n"
        )

        def resolved(*names, locked=(), closure=True):
            request = apt.FetchRequest(
                architecture="ppc64el", suites=(("stable",),), packages=names, closure=closure, locked=tuple(locked)
            )
            root = apt._Root(request, Archive(f"file:{tmp_path}/archive", "", (), "this test"))
            sources = root._folder / "sources.list"
            sources.write_text(sources.read_text().replace("signed-by=", "trusted=yes"))
            with (root._folder / "apt.conf").open("a") as configuration:
                configuration.write('Acquire::AllowInsecureRepositories "true";\n')
            assert root.update() == {}
            return {each.name: each.version for each in root.resolve(root.indices(), request.suites)}

        return resolved

    return made


needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="resolves with the host's apt-get")


@needs_apt
def test_apt_takes_locked_versions_of_dependencies_too_and_the_newest_of_dropped_ones(archive):
    resolved = archive(("qemu", "2", "liba, libb"), ("liba", "1", ""), ("liba", "2", ""), ("libb", "3", ""))
    assert resolved("qemu") == {"qemu": "2", "liba": "2", "libb": "3"}
    held = [locked("qemu", "2"), locked("liba", "1"), locked("libb", "1", TWO)]
    assert resolved("qemu", locked=held) == {"qemu": "2", "liba": "1", "libb": "3"}
    assert resolved("liba", locked=held, closure=False) == {"liba": "1"}
    with pytest.raises(HarnessError, match=r"liba 1 .*is not the package that was locked"):
        resolved("qemu", locked=[locked("liba", "1", TWO)])
    assert resolved("liba", locked=[locked("liba", "1", architecture="amd64")]) == {"liba": "2"}


@needs_apt
def test_locked_versions_that_no_longer_fit_together_give_way_and_that_is_said(archive, caplog):
    resolved = archive(("qemu", "3", "liba (>= 2)"), ("liba", "1", ""), ("liba", "2", ""))
    with caplog.at_level(logging.WARNING):
        assert resolved("qemu", locked=[locked("qemu", "2"), locked("liba", "1")]) == {"qemu": "3", "liba": "2"}
    assert "the locked versions do not fit together any more" in caplog.text


# Whole builds, of toy packages


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds toy packages with dpkg-deb")


@pytest.fixture
def place(tmp_path, monkeypatch):
    lay_out(
        tmp_path, {"recipes/toy.toml": GUEST_RECIPE, "agent/main.py": "", "rootfs/init": "#!/bin/sh\n"}, monkeypatch
    )
    monkeypatch.setattr(apt, "fetch", ToyFetch(tmp_path / "debs"))
    return tmp_path


def build(**options):
    return library.build("toy", fetch=apt.fetch, **options)


def notes(work):
    said = []
    with shown_on(SimpleNamespace(note=said.append)):
        work()
    return [line for line in said if "->" in line or "locked" in line]


def relocked(**versions):
    """Lock the image that is there, but these packages in these versions; None: not at all."""
    recipelock.write_lock("toy", image.built("toy"))
    lock = msgspec.json.decode(lock_path("toy").read_bytes())
    for each in list(lock["packages"]):
        if each["name"] in versions:
            each["version"], each["sha256"] = versions[each["name"]], TWO
            if each["version"] is None:
                lock["packages"].remove(each)
    lock_path("toy").write_bytes(msgspec.json.encode(lock))


@needs_dpkg
def test_a_build_asks_for_what_is_locked_and_newest_does_not(place):
    build()
    relocked()
    held = recipelock.read_lock("toy")
    assert {each.name for each in held} == {"kernel", "python", "compiler"}
    apt.fetch.requests.clear()
    assert notes(build) == []
    assert [request.locked for request in apt.fetch.requests] == [held, held]
    apt.fetch.requests.clear()
    assert build(newest=True).newest
    assert [request.locked for request in apt.fetch.requests] == [(), ()]


@needs_dpkg
def test_a_dropped_version_is_told_in_the_output_and_in_the_manifest(place):
    build()
    relocked(kernel="0.9", python=None)
    assert notes(build) == [
        "toy: the locked version is not to be had: kernel (ppc64el) 0.9 -> 1",
        "toy: new: python (ppc64el) not locked -> 1",
    ]
    told = image.status("toy").manifest
    assert told.drift == [Drift("kernel", "ppc64el", "0.9", "1"), Drift("python", "ppc64el", "", "1")]
    assert not told.newest
    assert image.status("toy").state == "ok"  # the archive has no other


@needs_dpkg
def test_a_changed_lock_makes_an_image_stale_unless_it_is_of_these_very_packages(place):
    build()
    relocked()
    assert image.status("toy").state == "ok"
    relocked(kernel="0.9")
    assert image.status("toy").problems == ["the lock has changed: built of kernel 1, and the lock has 0.9"]
    image.ensure_guest("toy")
    assert image.status("toy").state == "ok"
    relocked(kernel="0.8")
    assert image.status("toy").state == "stale"
    relocked(kernel=None)
    assert image.status("toy").problems == [
        "the lock has changed: built of kernel 1, and the lock has no version of it"
    ]
    lock_path("toy").unlink()
    assert image.status("toy").state == "ok"


@needs_dpkg
def test_an_architecture_that_nobody_locked_is_free_and_that_is_said_once(place):
    build()
    relocked(compiler=None)
    (said,) = notes(build)
    assert said == f"toy: nothing is locked for {apt.host_architecture()}: the newest packages are taken"
    assert image.status("toy").manifest.drift == []
    assert image.status("toy").state == "ok"


@needs_dpkg
def test_locking_keeps_what_is_locked_for_other_architectures(place):
    build()
    foreign, gone = locked("compiler", "7", architecture="sparc64"), locked("gone", "7")
    lock_path("toy").write_bytes(msgspec.json.encode({"schema": 1, "packages": [foreign, gone]}))
    changes = recipelock.write_lock("toy", image.built("toy"))
    assert foreign in recipelock.read_lock("toy")
    assert gone not in recipelock.read_lock("toy")
    assert Drift("compiler", apt.host_architecture(), "", "1") in changes
    assert Drift("gone", "ppc64el", "7") in changes
    first = lock_path("toy").read_bytes()
    assert recipelock.write_lock("toy", image.built("toy")) == []
    assert lock_path("toy").read_bytes() == first


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", r"toy\.lock: "),
        ('{"schema": 2, "packages": []}', r"toy\.lock has schema 2"),
        ('{"packages": [{"name": "a"}]}', r"toy\.lock: .*version"),
        ('{"packages": [], "pakages": []}', r"toy\.lock: .*pakages"),
        (
            msgspec.json.encode({"packages": [locked("a", "1"), locked("a", "2")]}).decode(),
            r"toy\.lock holds a .* twice",
        ),
    ],
)
def test_a_damaged_lock_is_one_line_that_names_the_file(place, text, complaint):
    lock_path("toy").write_text(text)
    with pytest.raises(UsageError, match=complaint) as caught:
        recipelock.read_lock("toy")
    assert "\n" not in caught.value.message


@needs_dpkg
def test_the_verb_locks_what_it_builds_of_the_newest_packages(place, monkeypatch, capsys):
    monkeypatch.setattr(image, "build", lambda name, **options: build(**options))
    cli.main(["image", "lock", "toy"], standalone_mode=False)
    assert capsys.readouterr().out == "toy: 3 packages locked, 3 changed\n"
    relocked(kernel="0.9")
    cli.main(["image", "lock", "toy"], standalone_mode=False)
    assert capsys.readouterr().out == "toy: 3 packages locked, 1 changed\n  kernel (ppc64el) 0.9 -> 1\n"
    assert {request.locked for request in apt.fetch.requests} == {()}
    (place / "cache/images/toy/vmlinux").write_bytes(b"")
    with pytest.raises(UsageError, match="toy is not built, or stale, or damaged"):
        cli.main(["image", "lock", "--built", "toy"], standalone_mode=False)
