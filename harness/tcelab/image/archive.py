"""Where Debian's packages come from: what the user names, else what the host's own apt uses for Debian.

apt itself is asked what it would fetch (`apt-get indextargets`): so both forms of its lists (sources.list(5)), what is
disabled there, and mirrors are understood as apt understands them. It needs no downloaded index for that. Indices of
any archive are trusted only if signed by Debian, or by the key that the host's apt requires for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcelab import userconfig
from tcelab.errors import HarnessError, Unsupported, UsageError
from tcelab.image.hosttools import RunLimit, run

__all__ = ["KEYRING", "VARIABLE", "Archive", "find", "is_security"]

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
VARIABLE: Final = "TCELAB_ARCHIVE"

_LIMIT: Final = 60.0
"""Seconds in which apt must say something."""
_NAMED: Final = ("bullseye", "bookworm", "trixie", "forky", "duke", "sid")
_RELEASES: Final = frozenset([*_NAMED, "oldoldstable", "oldstable", "stable", "testing", "unstable"])
"""Debian's names for its releases: no other distribution has them."""
_PARTS: Final = re.compile(r"(-updates|-backports(-sloppy)?|-proposed-updates|-security|/updates)$")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*:/[^\s\[\]]+", re.IGNORECASE)
_FORMAT: Final = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SOURCESENTRY)"
_OPTION: Final = re.compile(r"\[[^\]]*signed-by=([^\s\]]*)", re.IGNORECASE)
_KEY_FILE: Final = re.compile(r"/\S+\.(gpg|asc|pgp)")


class Archive(NamedTuple):
    """A Debian archive.

    :ivar main: its URL, the folder that holds `dists/`; `security`: of the suites whose name ends in `-security`, empty
        when nobody knows one.
    :ivar keyrings: whose signatures are trusted.
    :ivar source: who named it.
    """

    main: str
    security: str
    keyrings: tuple[Path, ...]
    source: str


class _Entry(NamedTuple):
    """What the host's apt has: a suite of an archive. `origin` is empty when no index of it was fetched yet."""

    url: str
    suite: str
    component: str
    origin: str
    place: str

    @property
    def keys(self) -> tuple[Path, ...]:
        return tuple(_signed_by(self.place))


def find() -> Archive:
    """The archive to use.

    :raise UsageError: what the user named is no URL.
    :raise Unsupported: the user named none, and the host's apt has none of Debian.
    """
    for text, source in ((os.environ.get(VARIABLE), VARIABLE), (userconfig.load().archive, str(userconfig.path()))):
        if text:
            return _named(text, source)
    return _of_host()


def is_security(suite: str) -> bool:
    """It lies on the archive of security updates."""
    return suite.endswith(("-security", "/updates"))


def _named(text: str, source: str) -> Archive:
    """One URL, or a second one for the security updates; by itself `.../debian` has them in `.../debian-security`."""
    urls = text.split()
    if not 0 < len(urls) <= 2 or not all(map(_URL.fullmatch, urls)):  # noqa: PLR2004 - as said above
        raise UsageError(
            f"{source}: {text!r} is no URL of an archive",
            next_step="give the folder that holds dists/, such as http://archive.example/debian",
        )
    main, *more = (url.rstrip("/") for url in urls)
    security = more[0] if more else f"{main}-security" if main.endswith("/debian") else ""
    return Archive(main, security, (KEYRING,), source)


def _of_host() -> Archive:
    entries = [each for each in _entries() if each.component in {"main", ""} and _is_debian(each)]
    main = [each for each in entries if not is_security(each.suite)]
    if not main:
        raise Unsupported(
            f"this host's apt has no archive of Debian (it has: {_told(_entries())})",
            next_step=f'name one: --archive URL, {VARIABLE}=URL, or archive = "URL" in {userconfig.path()}',
        )
    best = min(main, key=_rank)
    security = [each for each in entries if is_security(each.suite)]
    others = [min(security, key=_rank)] if security else []
    keys = dict.fromkeys(key for each in (best, *others) for key in (KEYRING, *each.keys))
    return Archive(best.url, others[0].url if others else "", tuple(keys), "this host's apt")


def _is_debian(entry: _Entry) -> bool:
    if entry.origin:
        return entry.origin == "Debian"
    return _PARTS.sub("", entry.suite) in _RELEASES


def _rank(entry: _Entry) -> tuple[bool, bool, bool]:
    """Which of several to prefer if their order does not decide: one that is certainly Debian's."""
    return not entry.origin, KEYRING not in entry.keys, "debian" not in entry.url.rpartition("/")[2]


def _told(entries: Sequence[_Entry]) -> str:
    return ", ".join(dict.fromkeys(f"{each.suite} of {each.origin or each.url}" for each in entries)) or "nothing"


def _entries() -> list[_Entry]:
    """All that the host's apt would fetch packages from, in its order."""
    known = {(each.url, each.suite): each.origin for each in _asked()}
    return [each._replace(origin=known.get((each.url, each.suite), "")) for each in _asked("--no-release-info")]


def _asked(*options: str) -> list[_Entry]:
    """:param options: `--no-release-info`: also what was never fetched."""
    argv = ["apt-get", "indextargets", *options, "--format", f"ENTRY {_FORMAT}", "Identifier: Packages"]
    try:
        said = run(argv, RunLimit("asking apt for its archives", _LIMIT))
    except HarnessError as error:
        raise Unsupported(
            f"this host's apt does not tell its archives: {error.message.splitlines()[-1].strip(' |')}",
            next_step=f"mend its lists, or name an archive: --archive URL, or {VARIABLE}=URL",
        ) from None
    lines = (line.removeprefix("ENTRY ").split("|") for line in said.splitlines() if line.startswith("ENTRY "))
    every = (_Entry(url.rstrip("/"), *(_known(word) for word in words)) for url, *words in lines)
    return list(dict.fromkeys(each for each in every if not each.url.startswith("cdrom:")))


def _known(word: str) -> str:
    """A word of the output; empty for a variable that apt left unexpanded."""
    return "" if word.startswith("$(") else word


def _signed_by(place: str) -> Iterator[Path]:
    """Key files that an entry of apt's lists names.

    :param place: `FILE:NUMBER`, as apt tells it: of the stanza, or of the line.
    """
    from debian.deb822 import Deb822  # noqa: PLC0415 - slow, and most runs fetch nothing

    name, _, number = place.rpartition(":")
    try:
        text = Path(name).read_text()
    except (OSError, UnicodeDecodeError):
        return
    if name.endswith(".sources"):
        values = [stanza.get("Signed-By", "") for stanza in Deb822.iter_paragraphs(text.splitlines())]
    else:
        values = ["".join(_OPTION.findall(line)) for line in text.splitlines()]
    if not number.isdigit() or not 0 < int(number) <= len(values):
        return
    for word in re.split(r"[\s,]+", values[int(number) - 1]):
        if _KEY_FILE.fullmatch(word) and Path(word).is_file():
            yield Path(word)
