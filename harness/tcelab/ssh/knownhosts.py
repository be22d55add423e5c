"""The host keys that are trusted: the user's known_hosts and the system's, or a file in their place."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tcelab.errors import HarnessError, UsageError
from tcelab.ssh.choice import PORT, Hop

if TYPE_CHECKING:
    from paramiko import PKey

USERS: Final = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
_PLAIN: Final = ("ssh-", "ecdsa-", "sk-")
"""How the line of a public key begins that names no host."""
_REVOKED: Final = "@revoked"
_RSA: Final = ("rsa-sha2-512", "rsa-sha2-256")
"""Signatures of an ssh-rsa key."""


class _Line(NamedTuple):
    names: Sequence[str]
    key: PKey


class KnownHosts:
    """What is known of one machine on the way.

    :ivar keys: that it may have.
    """

    def __init__(self, hop: Hop, lines: Iterable[_Line], revoked: frozenset[str]) -> None:
        self._hop = hop
        self._revoked = revoked
        self.keys = [key for names, key in lines if _means(names, name_of(hop)) and key.get_base64() not in revoked]

    def preferred(self, offered: Sequence[str]) -> list[str]:
        """Kinds of host keys, those that are known first: a server has several keys, and shows one."""
        own = [name for key in self.keys for name in (_RSA if key.get_name() == "ssh-rsa" else (key.get_name(),))]
        first = [name for name in dict.fromkeys(own) if name in offered]
        return [*first, *(name for name in offered if name not in first)]

    def expect(self, shown: PKey) -> None:
        """:raise HarnessError: it is not the machine's key."""
        if any(shown.asbytes() == key.asbytes() for key in self.keys):
            return
        print_ = f"{shown.get_name()} {shown.fingerprint}"
        if shown.get_base64() in self._revoked:
            raise HarnessError(
                f"the host key of {self._hop} is revoked: {print_}",
                next_step="known_hosts says so (@revoked): that machine is not what it was",
            )
        scan = f"ssh-keyscan {'' if self._hop.port == PORT else f'-p {self._hop.port} '}{self._hop.host}"
        if not self.keys:
            raise HarnessError(
                f"the host key of {self._hop} is not known: {print_}",
                next_step=f"compare it with the machine's own; then {scan} >>FILE, and --host-key FILE",
            )
        there = ", ".join(f"{key.get_name()} {key.fingerprint}" for key in self.keys)
        raise HarnessError(
            f"the host key of {self._hop} is not the one that is known: it shows {print_}, known is {there}",
            next_step=f"somebody may be in between; if it was installed anew: ssh-keygen -R '{name_of(self._hop)}'",
        )


def name_of(hop: Hop) -> str:
    """As known_hosts has it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return hop.host if hop.port == PORT else f"[{hop.host}]:{hop.port}"


def known(hop: Hop, file: Path | None, *, last: bool) -> KnownHosts:
    """The keys that count for one machine on the way.

    :param file: in place of the user's for the last machine, and beside them for those before. A line may be one of
        known_hosts, or a public key alone (`ssh_host_ed25519_key.pub`), which is then that of the last machine.
    :raise UsageError: the file holds no key.
    """
    texts = [] if file is not None and last else [_text(Path(each).expanduser()) for each in USERS]
    lines = [line for text in texts for line in text.splitlines()]
    own = [] if file is None else _text(file).splitlines()
    if last:
        own = [f"{name_of(hop)} {line}" if line.startswith(_PLAIN) else line for line in own]
    read, revoked = _parse([*lines, *own])
    if file is not None and last and not read:
        raise UsageError(
            f"--host-key {file}: there is no host key in it",
            next_step="give a file like known_hosts, or the host's own ssh_host_ed25519_key.pub",
        )
    return KnownHosts(hop, read, revoked)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _parse(lines: Iterable[str]) -> tuple[list[_Line], frozenset[str]]:
    from paramiko import PKey  # noqa: PLC0415 - see the package
    from paramiko.pkey import UnknownKeyType  # noqa: PLC0415
    from paramiko.ssh_exception import SSHException  # noqa: PLC0415

    found = []
    revoked = set()
    for line in lines:
        words = line.split()
        if words and words[0] == _REVOKED:
            revoked.update(words[3:4])
        elif len(words) > 2 and words[0][0] not in "#@":  # noqa: PLR2004 - names, kind, key
            try:
                key = PKey.from_type_string(words[1], binascii.a2b_base64(words[2]))
            except (UnknownKeyType, SSHException, binascii.Error, ValueError):
                continue  # one more that is not known
            found.append(_Line(words[0].split(","), key))
    return found, frozenset(revoked)


def _means(names: Sequence[str], wanted: str) -> bool:
    """Do the names of a line, hashed or patterns, mean that host?"""
    if any(name.startswith("!") and _matches(name[1:], wanted) for name in names):
        return False
    return any(_matches(name, wanted) for name in names)


def _matches(name: str, wanted: str) -> bool:
    if name.startswith("|1|"):
        from paramiko import HostKeys  # noqa: PLC0415

        try:
            return HostKeys.hash_host(wanted, name) == name
        except (binascii.Error, AssertionError, ValueError):
            return False
    pattern = re.escape(name).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(pattern, wanted, re.IGNORECASE) is not None
