"""What a user may set once for all: `$XDG_CONFIG_HOME/tcelab/config.toml`, by default under ~/.config.

Each value has a default, so a file need not be there, nor be whole::

    archive = "https://archive.example/debian"

    [runs]
    count = 200
    size = "1 GiB"

    [bases]
    days = 7
    size = "8 GiB"
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from tcelab.errors import UsageError

CACHE_SIZE: Final = "TCELAB_CACHE_SIZE"
"""Environment variable that goes before `bases.size`; `--cache-size` sets it for the process."""

_UNITS: Final = {"": 1, "B": 1} | {
    prefix + unit: base ** (power + 1)
    for base, unit, prefixes in ((1000, "B", "kMGT"), (1024, "iB", "KMGT"))
    for power, prefix in enumerate(prefixes)
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")


class Runs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Folders of runs in the default place that are kept, beside those with a finding, which always are.

    :ivar count: how many; `size`: on disk, in all.
    """

    count: int = 200
    size: int | str = "1 GiB"


class Bases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Booted guests that are kept for forks, some 130 MB each.

    :ivar days: since the last use; `size`: on disk, in all.
    """

    days: float = 7
    size: int | str = "8 GiB"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file.

    :ivar archive: URL of a Debian archive, the folder that holds `dists/` and `pool/`; None: the one of the host's apt.
    """

    archive: str | None = None
    runs: Runs = Runs()
    bases: Bases = Bases()


def path() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "tcelab" / "config.toml"


def load() -> Config:
    """:raise UsageError: the file cannot be read, or holds what nobody knows."""
    try:
        found = msgspec.toml.decode(path().read_bytes(), type=Config)
    except FileNotFoundError:
        found = Config()
    except OSError as error:
        raise UsageError(f"cannot read {path()}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path()}: {error}") from None
    for name, text in {"runs.size": found.runs.size, "bases.size": found.bases.size}.items():
        size(text, f"{name} in {path()}")
    if min(found.runs.count, found.bases.days) < 0:
        raise UsageError(f"{path()}: runs.count and bases.days cannot be less than 0")
    cache_size()
    return found


def cache_size() -> int | None:
    """Bytes that bases may take, where the environment says so.

    :raise UsageError: it says no size.
    """
    text = os.environ.get(CACHE_SIZE)
    return size(text, CACHE_SIZE) if text else None


def size(text: int | str, where: str) -> int:
    """Bytes, from what a person writes: a number, or one with a unit, as in "500 MB" or "8 GiB".

    :raise UsageError: that is none.
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{where}: {text!r} is no size; one is written as 500 MB or 8 GiB")
    return int(float(found[1]) * _UNITS[found[2]])
