"""tcelab's own files are found in a source tree and in an installed wheel."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcelab import commandline, errors
from tcelab.image import resources

ASK = "from tcelab.image.resources import *; print(recipes_dir(), rootfs_dir(), kmod_dir(), native_dir(), agent_dir())"


def ask(site):
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {ASK}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def site(tmp_path):
    """What a wheel puts into site-packages, as far as it matters here."""
    for folder in (*(f"tcelab/_files/{name}" for name in ("images", "rootfs", "kmod", "native")), "tceagent"):
        (tmp_path / folder).mkdir(parents=True)
    # Importing the agent on the host would show.
    (tmp_path / "tceagent/__init__.py").write_text("raise SystemExit('the agent was imported')\n")
    (tmp_path / "tcelab/__init__.py").touch()
    (tmp_path / "tcelab/image").mkdir()
    (tmp_path / "tcelab/image/__init__.py").touch()
    for module, place in ((resources, "tcelab/image"), (errors, "tcelab"), (commandline, "tcelab")):
        shutil.copy(module.__file__, tmp_path / place)
    return tmp_path


def test_in_a_source_tree_they_are_where_they_are_kept():
    repository = Path(__file__).parents[3]
    assert (resources.recipes_dir() / "guest.toml").is_file()
    assert resources.recipes_dir() == repository / "images"
    assert resources.rootfs_dir() == repository / "guest/rootfs"
    assert resources.kmod_dir() == repository / "guest/kmod"
    assert resources.native_dir() == repository / "guest/native"
    assert resources.agent_dir() == repository / "guest/tceagent"


def test_in_a_wheel_they_are_inside_the_packages(site):
    answer = ask(site)
    assert answer.stderr == ""
    assert answer.stdout.split() == [
        str(site / "tcelab/_files/images"),
        str(site / "tcelab/_files/rootfs"),
        str(site / "tcelab/_files/kmod"),
        str(site / "tcelab/_files/native"),
        str(site / "tceagent"),
    ]


def test_an_incomplete_installation_is_told(site):
    shutil.rmtree(site / "tcelab/_files/rootfs")
    assert "HarnessError: tcelab's own files are missing" in ask(site).stderr


def test_without_an_agent_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "tcelab")
    monkeypatch.setattr(resources, "find_spec", lambda _: None)
    with pytest.raises(errors.HarnessError, match=r"own files are missing: guest/tceagent \(looked for None\)"):
        resources.agent_dir()
