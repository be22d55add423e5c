"""What a user has set once for all runs: `~/.config/tcelab/config.toml`, and where his folders lie.

Every key may be left out.

::

    archive = "https://archive.example/debian"   # where Debian packages come from
    runs_kept = 100                              # run folders that are kept
    runs_size = "20 GB"                          # and what they may take together
    cache_size = "10 GB"                         # what saved guests may take
"""

from __future__ import annotations

import os
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import platformdirs

from tcelab.errors import UsageError, in_words

__all__ = ["UserConfig", "folder", "load", "path", "size"]

_UNITS: Final = ("", "k", "m", "g", "t")
"""Each is a thousand of the one before, or 1024 when an `i` follows."""
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", re.IGNORECASE)


class UserConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings; None: the user said nothing, and whoever asks has a default of its own.

    :ivar archive: URL of a Debian archive, the folder that holds `dists/` and `pool/`.
    :ivar runs_kept: run folders that are kept, at least 1.
    :ivar runs_size: bytes that they may take together.
    :ivar cache_size: bytes that the bases of forks may take together.
    """

    archive: str | None = None
    runs_kept: Annotated[int, msgspec.Meta(ge=1)] | None = None
    runs_size: int | None = None
    cache_size: int | None = None


def folder(kind: Literal["cache", "config", "state"]) -> Path:
    """`$XDG_CACHE_HOME/tcelab` and its like, by default under ~/.cache, ~/.config, ~/.local/state. It need not exist.

    :raise UsageError: the variable holds no absolute path, or the user has no home.
    """
    variable = f"XDG_{kind.upper()}_HOME"
    named = os.environ.get(variable)
    if named and not Path(named).is_absolute():
        # The XDG specification calls it invalid; what to do then differs between versions of platformdirs.
        raise UsageError(f"{variable}: {named!r} is not an absolute path", next_step="unset it, or give the whole path")
    find = {
        "cache": platformdirs.user_cache_path,
        "config": platformdirs.user_config_path,
        "state": platformdirs.user_state_path,
    }[kind]
    with suppress(RuntimeError):  # no home; older versions leave the "~" as it is
        if (found := find("tcelab")).is_absolute():
            return found
    raise UsageError(f"this user has no home folder, and {variable} is not set", next_step=f"set HOME, or {variable}")


def path() -> Path:
    """`config.toml` in the user's folder of configuration. It need not exist."""
    return folder("config") / "config.toml"


def load() -> UserConfig:
    """Read the user's settings; without a file, none are set.

    :raise UsageError: the file cannot be read, or something in it is unknown or wrong; names file and key.
    """
    file = path()
    try:
        fields = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return UserConfig()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}", next_step="mend it or move it away") from None
    try:
        sized = {name: _bytes(name, value) for name, value in fields.items() if name in {"runs_size", "cache_size"}}
        return msgspec.convert({**fields, **sized}, UserConfig)
    except (msgspec.ValidationError, ValueError) as error:
        known = ", ".join(UserConfig.__struct_fields__)
        raise UsageError(f"{file}: {in_words(str(error))}", next_step=f"keys are: {known}") from None


def _bytes(name: str, value: Any) -> int:  # noqa: ANN401 - as TOML has it
    try:
        return size(value)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from None


def size(text: str | int) -> int:
    """Bytes of `20 GB`, `500M`, `1.5 GiB`, or of a number.

    :raise ValueError: it is no size.
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None or isinstance(text, bool | float):
        raise ValueError(f"{text!r} is no size; write it as 20 GB or 500 MiB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _UNITS.index(unit.lower()))
