"""Where tcelab's own files lie: recipes, the guest's overlay, its module and programs, the agent's sources.

In a source tree they are ``images`` and ``guest/*``; in an installed wheel folders of ``tcelab/_files``, and the
package ``tceagent`` beside ``tcelab``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tcelab.errors import HarnessError

__all__ = ["agent_dir", "kmod_dir", "native_dir", "recipes_dir", "rootfs_dir"]

_PACKAGE = Path(__file__).resolve().parents[1]


def recipes_dir() -> Path:
    """The folder of the image recipes (``*.toml``).

    :raise HarnessError: the installation is incomplete.
    """
    return _find("images", "images")


def rootfs_dir() -> Path:
    """The folder that is copied to ``/`` of the guest as it is.

    :raise HarnessError: the installation is incomplete.
    """
    return _find("guest/rootfs", "rootfs")


def kmod_dir() -> Path:
    """The folder of the sources of the guest's kernel module.

    :raise HarnessError: the installation is incomplete.
    """
    return _find("guest/kmod", "kmod")


def native_dir() -> Path:
    """The folder of the guest's C programs, one in each file.

    :raise HarnessError: the installation is incomplete.
    """
    return _find("guest/native", "native")


def agent_dir() -> Path:
    """The folder of the guest agent's package ``tceagent``.

    :raise HarnessError: the installation is incomplete.
    """
    return _find("guest/tceagent", None)


def _find(in_sources: str, in_wheel: str | None) -> Path:
    """A folder by its place in the source tree, or in the wheel (None: the package ``tceagent``)."""
    repository = _PACKAGE.parent.parent
    # The wheel has no "harness" above the package, so nothing beside site-packages is taken for ours.
    folder: Path | None
    if _PACKAGE.parent.name == "harness" and (repository / "pyproject.toml").is_file():
        folder = repository / in_sources
    elif in_wheel is not None:
        folder = _PACKAGE / "_files" / in_wheel
    else:
        # The agent is never imported here: it is the guest's code, perhaps of a newer Python.
        spec = find_spec("tceagent")
        folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    if folder is None or not folder.is_dir():
        raise HarnessError(
            f"tcelab's own files are missing: {in_sources} (looked for {folder})",
            next_step="reinstall tcelab",
        )
    return folder
