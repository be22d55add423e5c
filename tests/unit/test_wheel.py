"""What is installed from a wheel works without the repository."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


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
        for name in sorted(path.stem for path in (ROOT / "images").glob("*.toml") if path.stem != "mutants")
    ]
