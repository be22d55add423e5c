"""Takes the agent to the other side, and starts it there."""

from __future__ import annotations

import binascii
import hashlib
import logging
import secrets
import shlex
import time
import zlib
from pathlib import Path
from typing import Final

from tcelab import image
from tcelab.errors import GuestLost, Unsupported
from tcelab.image.resources import agent_dir
from tcelab.qemu.limits import Limits
from tcelab.ssh.agentlink import AgentLink, bounded
from tcelab.ssh.choice import SshChoice
from tcelab.ssh.connection import Connection, library

_LOG: Final = logging.getLogger(__name__)

_BOOTSTRAP: Final = "bootstrap.py"
_NO_COMMAND: Final = 127
_SFTP: Final = 10.0
"""Seconds of silence after which the channel is used instead: what a shell prints makes SFTP wait for ever."""


def start(connection: Connection, choice: SshChoice, folder: Path, limits: Limits) -> tuple[AgentLink, str]:
    """Have the agent run there. Returns its link, and how it was copied: `sftp` or `channel`.

    :raise Unsupported: there is no Python for it, or no place.
    :raise TcelabError: the connection broke, or is too slow.
    """
    mark = f"tcelab-{secrets.token_hex(8)} "
    channel = connection.session()
    link = AgentLink(channel, str(choice.hops[-1]), folder, limits)
    try:
        link.begin(command(choice.python, mark))
        there = _folder(link, mark, choice)
        payload = pack(agent_dir())
        copied = _sftp(connection, there, payload, limits)
        if copied:
            link.send(b"file %d\n" % len(payload), "copy", limits.copy)
        else:
            link.send(b"inline %d\n" % len(payload) + payload, "copy", limits.copy)
        link.line(mark, "copy", limits.copy)  # it is ready
    except BaseException:
        link.close()
        raise
    return link, "sftp" if copied else "channel"


def command(python: str, mark: str) -> str:
    """What is run there: one line that every shell leaves as it is."""
    packed = zlib.compress((agent_dir() / _BOOTSTRAP).read_bytes(), 9)  # dropbear takes 9000 bytes
    text = binascii.b2a_base64(packed, newline=False).decode()
    code = f'import binascii,zlib;exec(compile(zlib.decompress(binascii.a2b_base64("{text}")),"bootstrap","exec"))'
    return f"exec {python} -I -S -B -c {shlex.quote(code)} {shlex.quote(mark)}"


def pack(folder: Path) -> bytes:
    """The agent's modules, each as its name, its length, a line's end and its bytes."""
    parts = []
    for path in sorted(folder.glob("*.py")):
        data = path.read_bytes()
        parts.append(b"%s %d\n%s" % (path.name.encode(), len(data), data))
    return b"".join(parts)


def digest() -> str:
    """Of the agent that must answer."""
    return image.agent_digest()


def _folder(link: AgentLink, mark: str, choice: SshChoice) -> str:
    """Its private folder there."""
    try:
        word, _, rest = link.line(mark, "copy", link.limits.copy).partition(" ")
    except GuestLost as error:
        if link.status == _NO_COMMAND:
            raise Unsupported(
                f"{link.host} has no command {choice.python}",
                next_step="install Python 3.9 or newer there, or name it: --python /path/to/python3",
                scene=error.scene,
            ) from None
        raise
    if word == "old":
        raise Unsupported(
            f"Python {rest} on {link.host} is too old for the agent, which needs 3.9",
            next_step="name a newer one there: --python python3.11",
            scene=link.scene(),
        )
    if word != "folder":
        raise Unsupported(
            f"{link.host} has no folder in which the agent could be: none of TMPDIR, /tmp, /var/tmp, /dev/shm, HOME",
            next_step="make one of them writable there",
            scene=link.scene(),
        )
    _LOG.debug("the agent's folder on %s: %s", link.host, rest)
    return rest


def _sftp(connection: Connection, folder: str, payload: bytes, limits: Limits) -> bool:
    """Put the payload there; false: there is no SFTP."""
    paramiko = library()
    began = time.monotonic()
    try:
        channel = connection.transport.open_session(timeout=limits.login)
        channel.settimeout(min(_SFTP, limits.copy))
        try:
            with bounded(channel, limits.login):
                channel.invoke_subsystem("sftp")
            with paramiko.SFTPClient(channel) as sftp, sftp.open(f"{folder}/agent", "wb") as file:
                file.write(payload)
        finally:
            channel.close()
    except (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError, MemoryError, ValueError) as error:
        _LOG.debug("no SFTP after %.2f s: %r", time.monotonic() - began, error)
        return False
    _LOG.debug("%d bytes by SFTP, SHA-256 %s", len(payload), hashlib.sha256(payload).hexdigest())
    return True
