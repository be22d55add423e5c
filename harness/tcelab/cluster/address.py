"""Which scheduler may be talked to. Whoever can talk to a scheduler can run code on all of its workers."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tcelab.errors import UsageError

_ADDRESS: Final = re.compile(r"(?P<how>[a-z]+)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(?P<port>\d{1,5})/?")
_PORTS: Final = range(1, 65536)
_NEXT: Final = "give --scheduler tls://HOST:PORT with --tls-ca, --tls-cert and --tls-key"


@dataclass(frozen=True)
class Scheduler:
    """A scheduler, and the files that prove who is who: all of them with `tls://`, none with `tcp://`."""

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def tls(self) -> bool:
        return self.address.startswith("tls://")


def scheduler(address: str, ca: Path | None, cert: Path | None, key: Path | None) -> Scheduler:
    """Check what the user said.

    :raise UsageError: no address; off this machine without TLS; a certificate that is not there.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or found["how"] not in {"tls", "tcp"} or int(found["port"]) not in _PORTS:
        raise UsageError(f"--scheduler {address}: no address of a scheduler", next_step=_NEXT)
    files = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    if found["how"] == "tcp":
        if any(files.values()):
            raise UsageError(f"--scheduler {address}: certificates are for tls://", next_step=_NEXT)
        if not _loopback(found["host"].strip("[]")):
            raise UsageError(
                f"--scheduler {address}: off loopback only TLS is spoken: whoever can talk to a scheduler can run code",
                next_step=_NEXT,
            )
        return Scheduler(address)
    if missing := [name for name, path in files.items() if path is None]:
        raise UsageError(f"--scheduler {address}: TLS without {', '.join(missing)}", next_step=_NEXT)
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise UsageError(f"{name}: there is no file {path}", next_step="see the page Cluster")
    return Scheduler(address, ca, cert, key)


def _loopback(host: str) -> bool:
    """A name is loopback only if it is `localhost`: any other one may be looked up anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
