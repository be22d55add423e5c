"""Whole builds from toy packages: what is in them, when they are built anew, how damage shows."""

import fcntl
import marshal
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from imagetoy import GUEST_RECIPE, QEMU_RECIPE, RELEASE, VFIO, VFIO_PCI, ToyFetch, lay_out, read_cpio

from patience import PATIENCE
from tcelab import image
from tcelab.errors import HarnessError, Unsupported, UsageError
from tcelab.image import apt, library, manifest, overlay, recipe, staleness
from tcelab.image.archive import Archive
from tcelab.image.locks import lock
from tcelab.image.packages import SuiteNote
from tcelab.image.store import image_dir
from tcelab.logs import shown_on

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds toy packages with dpkg-deb")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Recipes "toy" and "emulator", an agent, a rootfs, an empty cache, and toy packages in place of apt."""
    texts = {
        "recipes/toy.toml": GUEST_RECIPE,
        "recipes/emulator.toml": QEMU_RECIPE,
        "agent/main.py": "def fail():\n    return 1 / 0\n",
        "agent/part/more.py": "",
        "agent/notes.txt": "no source",
        "rootfs/init": "#!/bin/sh\n",
        "rootfs/etc/motd": "hello\n",
    }
    lay_out(tmp_path, texts, monkeypatch)
    monkeypatch.setattr(apt, "fetch", ToyFetch(tmp_path / "debs"))
    return tmp_path


@pytest.fixture
def fetch(place):
    return apt.fetch


def base_members():
    return read_cpio((image_dir("toy") / "base.cpio").read_bytes())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# What is in a guest


def test_a_guest_holds_the_kernel_and_what_the_recipe_says(fetch):
    built = image.build("toy", fetch=fetch)
    folder = image_dir("toy")
    assert (folder / "vmlinux").read_bytes() == b"the kernel"
    assert built.kernel_release == RELEASE
    assert {path.name for path in folder.iterdir()} == {"vmlinux", "base.cpio", "tools", "manifest.json"}
    names = set(base_members())
    assert {"usr/share/kept", "proc", "usr/bin/python3.11", "lib64/ld64.so.2"} <= names
    assert not {"usr/share/doc", "lib/modules", "boot"} & names


def test_modules_are_unpacked_and_listed_in_load_order_without_built_in_ones(fetch):
    assert image.build("toy", fetch=fetch).modules == ["vfio", "vfio-pci"]
    members = base_members()
    lines = members["etc/tcelab-modules"].data.decode()
    assert lines == "/lib/modules-tcelab/vfio.ko\n/lib/modules-tcelab/vfio-pci.ko\n"
    assert members["lib/modules-tcelab/vfio.ko"].data == VFIO
    assert members["lib/modules-tcelab/vfio-pci.ko"].data == VFIO_PCI


def test_a_module_the_kernel_lacks_is_named(place, fetch):
    (place / "recipes/toy.toml").write_text(GUEST_RECIPE.replace('"vfio-pci"', '"nothing"'))
    with pytest.raises(HarnessError, match=f"kernel {RELEASE} has no module nothing"):
        image.build("toy", fetch=fetch)


def test_the_standard_library_is_byte_code_without_sources(fetch):
    image.build("toy", fetch=fetch)
    members = base_members()
    library_names = {name for name in members if name.startswith("usr/lib/python3.11/")}
    assert library_names == {"usr/lib/python3.11/os.pyc", "usr/lib/python3.11/data.txt"}
    assert members["usr/lib/python3.11/data.txt"].mode == stat.S_IFREG | 0o644
    content = members["usr/lib/python3.11/os.pyc"].data
    assert content[4:8] == (0b01).to_bytes(4, "little")  # PEP 552: by hash, never checked
    assert marshal.loads(content[16:]).co_filename == "/usr/lib/python3.11/os.py"


def test_the_base_has_what_init_needs_before_it_mounts_anything(fetch):
    image.build("toy", fetch=fetch)
    members = base_members()
    assert (members["dev/console"].mode, members["dev/console"].device) == (stat.S_IFCHR | 0o600, (5, 1))
    assert members["dev/null"].device == (1, 3)
    assert (members["bin/sh"].mode, members["bin/sh"].data) == (stat.S_IFLNK | 0o777, b"/bin/busybox")
    assert members["tmp"].mode == stat.S_IFDIR | 0o1777


def test_two_builds_from_the_same_packages_are_equal(fetch):
    first, second = (image.build("toy", fetch=fetch) for _ in range(2))
    assert first.files == second.files
    assert first.tree_sha256 == second.tree_sha256


def test_the_manifest_tells_where_everything_came_from(fetch):
    fetch.left_out = (SuiteNote("stable-security", "File has unexpected size"),)
    built = image.build("toy", fetch=fetch)
    assert {p.name for p in built.packages} == {"kernel", "python", "compiler"}
    assert built.suites_left_out[0].reason == "File has unexpected size"
    assert (built.recipe, built.recipe_sha256) == ("toy", recipe.load("toy").sha256)
    assert built.file("vmlinux").size == len(b"the kernel")
    assert manifest.read_manifest(image_dir("toy")) == built


# A QEMU


def test_a_qemu_is_started_by_its_own_loader_with_its_own_firmware(fetch):
    built = image.ensure_qemu("emulator")
    folder = image_dir("emulator")
    libraries = str(folder / "lib/toy-linux-gnu")
    assert built.argv == (
        f"{libraries}/ld-linux-toy.so.2",
        "--library-path",
        libraries,
        str(folder / "usr/bin/qemu-system-ppc64"),
        "-L",
        str(folder / "usr/share/qemu"),
    )
    assert built.environment == {"QEMU_MODULE_DIR": f"{libraries}/qemu"}
    assert (built.manifest.qemu, built.manifest.edu) == ("QEMU emulator version 11.1.3 (toy)", True)
    assert fetch.requests[0].closure


def test_no_link_of_a_qemu_points_to_the_host(fetch):
    image.build("emulator", fetch=fetch)
    link = image_dir("emulator") / "lib/toy-linux-gnu/libtoy.so"
    assert link.readlink().as_posix() == "ld-linux-toy.so.2"


def test_a_qemu_of_another_version_is_refused(fetch):
    fetch.content["qemu"]["lib/toy-linux-gnu/version"] = b"10.0.2 (toy)"
    with pytest.raises(HarnessError, match=r"wants QEMU 11\.1, .* version 10\.0\.2"):
        image.build("emulator", fetch=fetch)
    assert image.status("emulator").state == "absent"


def test_a_file_the_recipe_requires_is_missed_at_build(place, fetch):
    (place / "recipes/emulator.toml").write_text(QEMU_RECIPE + 'required = ["usr/share/qemu/vof.bin"]\n')
    with pytest.raises(HarnessError, match=r"usr/share/qemu/vof\.bin"):
        image.build("emulator", fetch=fetch)


def test_a_guest_is_no_qemu_and_a_qemu_no_guest(place):
    with pytest.raises(UsageError, match="emulator is a QEMU"):
        image.ensure_guest("emulator")
    with pytest.raises(UsageError, match="toy is a guest"):
        image.ensure_qemu("toy")


# When it is built


def test_a_present_image_is_not_built_again(fetch):
    image.ensure_guest("toy")
    assert len(fetch.requests) == 2
    image.ensure_guest("toy")
    assert len(fetch.requests) == 2
    assert image.status("toy").state == "ok"


def test_a_present_image_is_used_while_another_process_builds_it_anew(place):
    image.ensure_guest("toy")
    with shown_on(SimpleNamespace(note=pytest.fail)), lock("image-toy", ""):
        image.ensure_guest("toy")


def test_who_waited_for_a_build_does_not_build_again(place, fetch):
    waiting = threading.Event()
    with shown_on(SimpleNamespace(note=lambda _: waiting.set())), lock("image-toy", ""):
        second = threading.Thread(target=image.ensure_guest, args=("toy",))
        second.start()
        assert waiting.wait(PATIENCE)
        library._build(recipe.load("toy"), fetch)
    second.join(PATIENCE)
    assert len(fetch.requests) == 2


def test_a_changed_recipe_makes_the_image_stale_and_is_built(place, fetch):
    image.ensure_guest("toy")
    (place / "recipes/toy.toml").write_text(GUEST_RECIPE.replace('"/proc"', '"/proc", "/new"'))
    assert image.status("toy").state == "stale"
    assert image.status("toy").problems == ["the recipe has changed"]
    image.ensure_guest("toy")
    assert image.status("toy").state == "ok"
    assert "new" in base_members()


@pytest.mark.parametrize("builder", [manifest.BUILDER + 1, manifest.BUILDER - 1], ids=["newer", "older"])
def test_an_image_of_another_builder_is_stale(fetch, monkeypatch, builder):
    image.build("toy", fetch=fetch)
    monkeypatch.setattr(staleness, "BUILDER", builder)
    assert image.status("toy").state == "stale"


def test_a_flipped_byte_is_found_and_the_file_named(fetch):
    image.build("toy", fetch=fetch)
    flip(image_dir("toy") / "vmlinux")
    status = image.status("toy")
    assert (status.state, status.problems) == (
        "damaged",
        ["vmlinux: content differs from what was built"],
    )
    assert image.status("toy", full=False).state == "ok"  # sizes only


def test_a_truncated_or_missing_file_is_found_in_passing_and_built_again(fetch):
    image.build("toy", fetch=fetch)
    os.truncate(image_dir("toy") / "base.cpio", 512)
    (image_dir("toy") / "vmlinux").unlink()
    problems = image.status("toy", full=False).problems
    assert [problem.partition(":")[0] for problem in problems] == ["base.cpio", "vmlinux"]
    image.ensure_guest("toy")
    assert image.status("toy").state == "ok"


def test_an_altered_or_unreadable_manifest_is_damage(fetch):
    built = image.build("toy", fetch=fetch)
    path = image_dir("toy") / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace(built.files[-1].sha256, "0" * 64))
    assert "manifest.json: its list of files was changed" in image.status("toy").problems
    path.write_text("{")
    assert image.status("toy").state == "damaged"


def test_an_absent_image_has_no_problems(place):
    status = image.status("toy")
    assert (status.state, status.problems, status.size, status.manifest) == ("absent", [], 0, None)


def test_clean_frees_what_it_says(place, fetch):
    image.ensure_guest("toy")
    image.build("emulator", fetch=fetch)
    (place / "cache/apt").mkdir()
    (place / "cache/apt/deb").write_bytes(bytes(1000))
    size = image.status("toy").size
    assert image.clean(["toy"]) == size
    assert image.status("toy").state == "absent"
    emulator = image.status("emulator").size
    assert image.clean([]) == emulator + 1000
    assert {path.name for path in (place / "cache").iterdir()} == {"images", "locks"}
    with pytest.raises(UsageError):
        image.clean(["nothing"])


# The agent and the rootfs


def test_the_agent_digest_is_over_sorted_names_and_contents(tmp_path):
    for name, content in {"b.py": "two", "a/z.py": "one", "a.txt": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    # printf 'a/z.py\0one\0b.py\0two\0' | sha256sum
    expected = "73db1db67aa390db2fc6b42033bf3102cd61edda8b1d3772570a0202df75a5aa"
    assert image.agent_digest(tmp_path) == expected


def test_the_initramfs_is_the_base_and_then_ours(place):
    guest = image.ensure_guest("toy")
    content = guest.initrd.read_bytes()
    base = (image_dir("toy") / "base.cpio").read_bytes()
    assert content.startswith(base)
    members = read_cpio(content[len(base) :])
    assert members["init"].mode == stat.S_IFREG | 0o755
    assert members["etc/motd"].data == b"hello\n"
    agent = {name for name in members if name.startswith("usr/lib/tcelab/tceagent/") and members[name].data}
    assert agent == {
        "usr/lib/tcelab/tceagent/main.py",
        "usr/lib/tcelab/tceagent/__pycache__/main.cpython-311.pyc",
        "usr/lib/tcelab/tceagent/part/__pycache__/more.cpython-311.pyc",
    }
    compiled = members["usr/lib/tcelab/tceagent/__pycache__/main.cpython-311.pyc"].data
    assert marshal.loads(compiled[16:]).co_filename == "/usr/lib/tcelab/tceagent/main.py"
    assert set(read_cpio(content)) == set(read_cpio(base)) | set(members)
    assert guest.agent_digest == image.agent_digest()


def test_a_changed_agent_needs_a_new_initramfs_and_no_build(place, fetch):
    before = image.ensure_guest("toy")
    (place / "agent/main.py").write_text("pass\n")
    after = image.ensure_guest("toy")
    assert after.initrd != before.initrd
    assert after.agent_digest != before.agent_digest
    assert len(fetch.requests) == 2
    (place / "agent/notes.txt").write_text("still no source")
    assert image.ensure_guest("toy").initrd == after.initrd


def test_an_initramfs_goes_when_it_is_stale_and_nobody_holds_it(place, monkeypatch):
    first = image.ensure_guest("toy").initrd
    (place / "rootfs/etc/motd").write_text("two")
    second = image.ensure_guest("toy").initrd
    assert first.exists()  # this process was given it
    os.close(overlay._in_use.pop(first))
    (place / "rootfs/etc/motd").write_text("three")
    image.ensure_guest("toy")
    assert not first.exists()
    assert not first.with_suffix(".sha256").exists()
    assert second.exists()


def test_an_initramfs_that_another_process_holds_stays(place):
    first = image.ensure_guest("toy").initrd
    os.close(overlay._in_use.pop(first))
    with first.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        (place / "rootfs/etc/motd").write_text("two")
        image.ensure_guest("toy")
        assert first.exists()


# For another kernel


def other(release, modules=None):
    return lambda _: image.OtherKernel(release, modules)


def load_order(initrd):
    return read_cpio(initrd.read_bytes())["etc/tcelab-modules"].data.decode().split()


def test_another_kernels_modules_take_the_place_of_the_images(place, fetch):
    plain = image.ensure_guest("toy")
    guest = image.ensure_guest("toy", other("7.0", {"virtio": b"one", "vfio": b"two"}))
    assert load_order(guest.initrd) == ["/lib/modules-tcelab/virtio.ko", "/lib/modules-tcelab/vfio.ko"]
    members = read_cpio(guest.initrd.read_bytes())
    assert members["lib/modules-tcelab/vfio.ko"].data == b"two"
    assert guest.initrd.read_bytes().startswith(plain.initrd.read_bytes())  # with the agent and all else
    assert len(fetch.requests) == 2
    assert image.status("toy").state == "ok"


def test_a_module_takes_the_place_of_the_images_of_its_name_and_the_load_order_stays(place, fetch):
    plain = image.ensure_guest("toy")
    told = []

    def instead(content):
        return lambda manifest: told.append(manifest.kernel_release) or {"vfio": content}

    first, second = (image.ensure_guest("toy", None, instead(content)) for content in (b"one", b"two"))
    assert told == [RELEASE, RELEASE]
    for guest, content in ((plain, VFIO), (first, b"one"), (second, b"two")):
        members = read_cpio(guest.initrd.read_bytes())
        assert members["lib/modules-tcelab/vfio.ko"].data == content
        assert members["lib/modules-tcelab/vfio-pci.ko"].data == VFIO_PCI
        assert load_order(guest.initrd) == ["/lib/modules-tcelab/vfio.ko", "/lib/modules-tcelab/vfio-pci.ko"]
    assert len({plain.initrd, first.initrd, second.initrd}) == 3
    assert image.status("toy").state == "ok"


def test_a_module_that_the_image_does_not_load_takes_nobodys_place(place):
    with pytest.raises(UsageError, match="the image toy loads no module virtio"):
        image.ensure_guest("toy", None, lambda _: {"virtio": b"", "vfio": b""})


def test_another_kernel_without_modules_loads_none(place):
    """The image's would only be refused."""
    image.ensure_guest("toy")
    assert load_order(image.ensure_guest("toy", other("7.0")).initrd) == []


def test_a_kernel_that_has_all_built_in_loads_none_even_if_it_is_of_the_images_release(place):
    assert load_order(image.ensure_guest("toy", other(RELEASE, {})).initrd) == []


def test_a_kernel_of_the_images_release_loads_the_images_modules(place):
    plain = image.ensure_guest("toy")
    assert image.ensure_guest("toy", other(RELEASE)).initrd == plain.initrd
    assert len(load_order(plain.initrd)) == 2


def test_the_other_kernel_is_told_the_release_of_the_images(place):
    told = []
    image.ensure_guest("toy", lambda release: told.append(release) or image.OtherKernel("7.0", None))
    assert told == [RELEASE]


@pytest.mark.parametrize(
    "changed",
    [{"a": b"one", "b": b"TWO"}, {"a": b"one", "c": b"two"}, {"b": b"two", "a": b"one"}, {"a": b"one"}, {}, None],
    ids=["content", "name", "load order", "number", "none", "the image's"],
)
def test_an_initramfs_is_made_once_for_the_same_modules_and_goes_when_nobody_holds_it(place, changed):
    modules = {"a": b"one", "b": b"two"}
    first = image.ensure_guest("toy", other("7.0", modules)).initrd
    made = first.stat()
    assert image.ensure_guest("toy", other("7.0", dict(modules))).initrd == first
    assert os.path.samestat(first.stat(), made)
    second = image.ensure_guest("toy", None if changed is None else other("7.0", changed)).initrd
    assert second != first
    assert first.exists()
    os.close(overlay._in_use.pop(first))
    assert image.ensure_guest("toy", None if changed is None else other("7.0", changed)).initrd == second
    assert not first.exists()
    assert second.exists()


def test_two_processes_at_once_make_one_initramfs_that_both_hold(fetch, monkeypatch):
    """Were it made twice, the first would hold a file that is no longer there under its name."""
    image.build("toy", fetch=fetch)
    made = []
    original = overlay._make

    def make(*arguments):
        made.append(arguments)
        begun.set()
        waiting.wait(PATIENCE)
        original(*arguments)

    begun, waiting = threading.Event(), threading.Event()
    monkeypatch.setattr(overlay, "_make", make)
    first = threading.Thread(target=image.ensure_guest, args=("toy", other("7.0", {"a": b"x"})))
    second = threading.Thread(target=image.ensure_guest, args=("toy", other("7.0", {"a": b"x"})))
    with shown_on(SimpleNamespace(note=lambda _: waiting.set())):
        first.start()
        assert begun.wait(PATIENCE)
        second.start()
        for each in (first, second):
            each.join()
    assert waiting.is_set()
    assert len(made) == 1


def test_a_flipped_byte_of_an_initramfs_for_another_kernel_is_found(place):
    guest = image.ensure_guest("toy", other("7.0", {"a": b"x"}))
    flip(guest.initrd)
    assert image.status("toy").problems == [f"{guest.initrd.name}: content differs from what was built"]


def test_a_flipped_byte_of_the_initramfs_is_found(place):
    guest = image.ensure_guest("toy")
    flip(guest.initrd)
    assert image.status("toy").problems == [f"{guest.initrd.name}: content differs from what was built"]


def test_an_agent_that_does_not_compile_is_an_error_that_names_the_file(place):
    (place / "agent/main.py").write_text("1 +\n")
    with pytest.raises(HarnessError, match=r"(?s)compiling.*tceagent/main\.py"):
        image.ensure_guest("toy")
    assert not list(image_dir("toy").glob("*initrd*"))


# Trouble


def test_a_killed_build_leaves_the_old_image_and_the_next_one_tidies(place, fetch):
    image.build("toy", fetch=fetch)
    before = image.status("toy").manifest
    code = f"""
import os, signal, pathlib
from tcelab import image
from tcelab.image import recipe
recipe.recipes_dir = lambda: pathlib.Path({str(place / "recipes")!r})
image.build("toy", fetch=lambda request: os.kill(os.getpid(), signal.SIGKILL))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    leftovers = [path for path in image_dir("toy").parent.iterdir() if path.name != "toy"]
    assert len(leftovers) == 1
    assert image.status("toy").manifest == before
    image.build("toy", fetch=fetch)
    assert [path.name for path in image_dir("toy").parent.iterdir()] == ["toy"]


def test_a_full_disk_while_writing_is_one_clear_error(place, fetch, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tcelab.image.cpio.write_archive", full)
    with pytest.raises(HarnessError, match="the disk is full"):
        image.build("toy", fetch=fetch)
    assert list(image_dir("toy").parent.iterdir()) == []


def test_a_host_without_apt_gets_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unsupported, match=r"apt-get.* --qemu, --kernel and --initrd") as caught:
        image.build("guest")
    assert "\n" not in caught.value.message
    assert list((tmp_path / "cache/images").iterdir()) == []


def test_a_host_without_the_keyring_is_told_which_package_brings_it(monkeypatch, tmp_path):
    monkeypatch.setattr(apt, "KEYRING", tmp_path / "none.gpg")
    monkeypatch.setattr("shutil.which", lambda tool: tool)
    with pytest.raises(Unsupported, match=r"none\.gpg is missing") as caught:
        apt.require_tools()
    assert "debian-archive-keyring" in caught.value.next_step


def test_a_package_that_is_not_what_the_index_describes_is_refused(place, monkeypatch):
    request = apt.FetchRequest(architecture="all", suites=(), packages=())
    root = apt._Root(request, Archive("http://archive.example/debian", "", (), "this test"))
    package = apt.Package("toy", "1", "all", "stable", "0" * 64, 1)

    def download(*_):
        (place / "cache/apt/all/incoming/toy_1_all.deb").write_bytes(b"something else")

    monkeypatch.setattr(root, "_run", download)
    with pytest.raises(HarnessError, match="toy 1 as fetched is not what the signed index describes"):
        root.download([package])
