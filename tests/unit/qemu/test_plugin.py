"""The plugin is built by a compiler of this host, and tried on a QEMU before a guest depends on it."""

from __future__ import annotations

import shutil

import pytest

from tcelab.errors import Unsupported
from tcelab.qemu import plugin as module
from tcelab.qemu.plugin import plugin
from tcelab.qemu.probe import Qemu

pytestmark = pytest.mark.usefixtures("cache")

REFUSES = """\
#!/bin/sh
for each; do plugin="$each"; done
case "$plugin" in
    *-%s.so) exit 0;;
esac
echo "qemu: Could not load plugin $plugin: plugin requires another API version, but this QEMU supports only 4" >&2
exit 1
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def qemu(tmp_path):
    def make(version, build="build"):
        path = tmp_path / "qemu"
        path.write_text(REFUSES % version)
        path.chmod(0o755)
        return Qemu("qemu-x", (str(path),), build=build)

    return make


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that notes how often it was started, and with which version."""
    path = tmp_path / "bin"
    path.mkdir()
    script = path / "cc"
    script.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/built\nwhile [ "$1" != -o ]; do shift; done; : >"$2"\n')
    script.chmod(0o755)
    monkeypatch.setattr(module.shutil, "which", lambda name: str(script) if name == "cc" else None)
    return lambda: (tmp_path / "built").read_text().splitlines()


@pytest.mark.parametrize("version", [7, 4, 1])
def test_the_version_is_taken_that_the_qemu_loads(qemu, compiler, version):
    assert plugin(qemu(version)).name.endswith(f"-{version}.so")
    assert f"-DAPI={version}" in compiler()[-1]


def test_it_is_built_and_tried_once(qemu, compiler, tmp_path):
    first = plugin(qemu(7))
    (tmp_path / "qemu").unlink()
    assert plugin(Qemu("qemu-x", (str(tmp_path / "qemu"),), build="build")) == first
    assert len(compiler()) == 1


def test_a_qemu_that_loads_none_is_told_with_what_it_said(qemu, compiler):
    with pytest.raises(Unsupported, match=r"qemu-x loads no plugin of ours: .*supports only 4"):
        plugin(qemu(99))


def test_a_host_without_a_compiler_is_told(qemu, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    with pytest.raises(Unsupported, match="no C compiler"):
        plugin(qemu(7))


def test_a_compiler_that_fails_is_told(qemu, compiler, tmp_path):
    (tmp_path / "bin" / "cc").write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    with pytest.raises(Unsupported, match=r"cannot be built: .*no such option"):
        plugin(qemu(7))
    assert not list((tmp_path / "cache" / "coverage").glob("*.so"))


@pytest.mark.skipif(not shutil.which("cc"), reason="this host has no C compiler")
@pytest.mark.parametrize("version", module.APIS)
def test_the_source_compiles_without_a_warning_for_every_version(tmp_path, monkeypatch, version):
    monkeypatch.setattr(module, "_OPTIONS", (*module._OPTIONS, "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"))
    assert module._built(version).stat().st_size > 0


def test_a_file_that_was_damaged_is_built_anew(qemu, compiler):
    asked = qemu(7)
    path = plugin(asked)
    whole = path.read_bytes()
    path.write_bytes(b"half of it")
    assert plugin(asked) == path
    assert path.read_bytes() == whole
    assert len(compiler()) == 2


def test_a_cache_that_takes_nothing_is_told(qemu, compiler, tmp_path):
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "coverage").write_text("no folder")
    with pytest.raises(Unsupported, match=r"the plugin cannot be built: cannot write .*/coverage: File exists"):
        plugin(qemu(7))
