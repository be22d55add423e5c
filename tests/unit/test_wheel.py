"""The sdist holds all that is kept, and what is installed from its wheel works without the repository."""

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import tcelab

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of an sdist, and of the wheel that was built from it."""
    out = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture
def wheel(built):
    return built / f"tcelab-{tcelab.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def kept():
    """The files that git knows."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a repository")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_sdist_holds_all_that_is_kept_so_that_its_tests_run(built, kept):
    (path,) = built.glob("*.tar.gz")
    folder = f"tcelab-{tcelab.__version__}"
    with tarfile.open(path) as sdist:
        names = {name.removeprefix(f"{folder}/") for name in sdist.getnames()}
    assert kept - names == set()


def test_the_version_stands_in_one_place(kept):
    """All else reads it there. What changed from one version to the next is history."""
    number = re.compile(rf"(?<![\d.]){re.escape(tcelab.__version__)}(?![\d.])".encode())
    holding = [name for name in sorted(kept) if number.search((ROOT / name).read_bytes())]
    assert [name for name in holding if name != "CHANGELOG.md"] == ["harness/tcelab/__init__.py"]


def test_the_wheel_holds_both_packages_and_all_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, target in [
        ("harness/tcelab", "tcelab"),
        ("guest/tceagent", "tceagent"),
        ("guest/rootfs", "tcelab/_files/rootfs"),
        ("guest/kmod", "tcelab/_files/kmod"),
        ("guest/native", "tcelab/_files/native"),
        ("images", "tcelab/_files/images"),
    ]:
        there = {path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*") if path.is_file()}
        wanted = {f"{target}/{path}" for path in there if "__pycache__" not in path.parts}
        assert wanted <= names


def test_an_installed_wheel_finds_its_recipes(wheel, tmp_path):
    """In a bare environment: its own packages only, the dependencies lent by this one."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    lent = [path for path in sys.path if path.endswith("site-packages")]
    # Not by a .pth file: ours is installed there as editable and would be found in the repository.
    script = (
        f"import sys; sys.path += {lent!r}; sys.argv = ['tcelab', 'image', 'list', '--quick']\n"
        "import tcelab, tceagent; print(tcelab.__file__, tceagent.__file__)\n"
        "from tcelab.cli import main; main()"
    )
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-I", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "TCELAB_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    where, *lines = done.stdout.splitlines()
    assert all(str(site) in path for path in where.split())
    assert [line.split()[:2] for line in lines] == [
        [name, "absent"]
        for name in sorted(path.stem for path in (ROOT / "images").glob("*.toml"))
        if "mutants" not in name and name != "cures"
    ]
