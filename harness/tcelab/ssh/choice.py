"""Which machine, and how it is reached."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tcelab.errors import UsageError

PORT: Final = 22
PYTHON: Final = "python3"
_PORTS: Final = 1 << 16
_HOP: Final = re.compile(r"(?:(?P<user>[^@\[\]]+)@)?(?:\[(?P<six>[^\]]+)\]|(?P<host>[^@:\[\]\s]+))(?::(?P<port>\d+))?")
_DEVICE: Final = re.compile(
    r"(?:(?P<name>[A-Za-z][\w-]*)=)?(?P<address>[0-9a-f]{4,8}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7])"
)


class Hop(NamedTuple):
    """A machine on the way, the last one included."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORT else f"{host}:{self.port}"


class SshChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The user's choice. Nothing in it is a secret.

    :ivar user: empty: as here.
    :ivar keys: files of private keys; empty: those of the ssh agent, and the user's own in ~/.ssh.
    :ivar host_key: file of the host's key, in place of the user's known_hosts; see `knownhosts`.
    :ivar jumps: `[user@]host[:port]` of each machine on the way, in order.
    :ivar python: the command there, perhaps with words before it: `sudo -n python3`.
    :ivar devices: `[NAME=]ADDRESS`: which of its devices are those of the topology; empty: those at the topology's
        places.
    :ivar behaviour_only: laws that need no view from outside are all that is asked for.
    :ivar exclusive: nobody else uses the machine, so that its page pins can be judged.
    :ivar ask_password: ask at the terminal for a password, or for a key's passphrase.
    """

    host: str = ""
    port: int = PORT
    user: str = ""
    keys: tuple[Path, ...] = ()
    host_key: Path | None = None
    jumps: tuple[str, ...] = ()
    python: str = PYTHON
    devices: tuple[str, ...] = ()
    behaviour_only: bool = False
    exclusive: bool = False
    ask_password: bool = False

    @property
    def hops(self) -> list[Hop]:
        """Every machine on the way, the last one being that under test.

        :raise UsageError: a jump host that cannot be.
        """
        return [*map(_hop, self.jumps), Hop(self.host, self.port, self.user or getpass.getuser())]

    @property
    def places(self) -> list[tuple[str, str]]:
        """Name, if one was said, and address of each device.

        :raise UsageError: no address.
        """
        return [_place(text) for text in self.devices]

    def words(self) -> Iterator[str]:
        """The options that say so again; paths are absolute."""
        for option, value in self._options():
            if isinstance(value, bool):
                yield from [option] if value else []
            elif value:
                yield from (option, str(value.absolute() if isinstance(value, Path) else value))

    def _options(self) -> Iterator[tuple[str, str | Path | bool]]:
        yield "--host", self.host
        yield "--port", "" if self.port == PORT else str(self.port)
        yield "--user", self.user
        yield from (("--key", key) for key in self.keys)
        yield "--host-key", self.host_key or ""
        yield from (("--jump", jump) for jump in self.jumps)
        yield "--python", "" if self.python == PYTHON else self.python
        yield from (("--device", device) for device in self.devices)
        yield "--behaviour-only", self.behaviour_only
        yield "--exclusive", self.exclusive
        yield "--ask-password", self.ask_password


def check(choice: SshChoice) -> None:
    """The checks before anything is connected to.

    :raise UsageError: no host, a file that is not there, a jump host or a device that cannot be.
    """
    if not choice.host:
        raise UsageError("--platform ssh needs a machine", next_step="name it: --host HOST")
    if "@" in choice.host:
        user, _, host = choice.host.rpartition("@")
        raise UsageError(f"--host {choice.host}: that is a user and a host", next_step=f"--user {user} --host {host}")
    if not 0 < choice.port < _PORTS:
        raise UsageError(f"--port {choice.port}: a port is within 1..{_PORTS - 1}")
    for option, path in [*(("--key", key) for key in choice.keys), ("--host-key", choice.host_key)]:
        if path is not None and not path.is_file():
            raise UsageError(f"{option} {path}: there is no such file")
    if not choice.python.split():
        raise UsageError("--python needs a command, such as python3")
    _ = choice.hops
    names = [name for name, _ in choice.places]
    if any(names) and not all(names):
        raise UsageError("--device: either each device has a name before its address, or none has")


def _hop(text: str) -> Hop:
    found = _HOP.fullmatch(text)
    port = int((found and found["port"]) or PORT)
    if found is None or not 0 < port < _PORTS:
        raise UsageError(f"--jump {text}: not a machine", next_step="write [USER@]HOST[:PORT]")
    return Hop(found["six"] or found["host"], port, found["user"] or getpass.getuser())


def _place(text: str) -> tuple[str, str]:
    found = _DEVICE.fullmatch(text)
    if found is None:
        raise UsageError(f"--device {text}: not a PCI device", next_step="write [NAME=]0001:00:01.0, as lspci -D does")
    return found["name"] or "", found["address"]
