"""Connects to the machine, through jump hosts if there are any: banner, host key, login."""

from __future__ import annotations

import getpass
import logging
import socket
import sys
import threading
import time
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from tcelab.errors import HarnessError, Scene, Unsupported, UsageError
from tcelab.logs import PHASE
from tcelab.qemu.limits import Limits
from tcelab.ssh import knownhosts
from tcelab.ssh.choice import Hop, SshChoice

if TYPE_CHECKING:
    from paramiko import Channel, SSHClient, Transport

_LOG: Final = logging.getLogger(__name__)

KEEPALIVE: Final = 15
"""Seconds between two signs of life: a firewall forgets a connection on which nothing goes."""
_AGAIN: Final = 0.5
"""Seconds between two tries: a machine that boots takes connections before its sshd does, and resets them."""
_HEX: Final = 64
_secrets: Final[dict[SshChoice, str]] = {}


def ask_secret(choice: SshChoice) -> None:
    """Ask at the terminal for what is not to be in a file, once for each choice, before anything else is shown.

    :raise UsageError: there is no terminal.
    """
    if choice.ask_password and not sys.stdin.isatty():
        raise UsageError("--ask-password needs a terminal", next_step="give a key that nobody need be asked for: --key")
    if choice.ask_password and choice not in _secrets:
        _secrets[choice] = getpass.getpass(f"password or passphrase for {choice.hops[-1].user}@{choice.host}: ")


def library() -> ModuleType:
    """paramiko, which takes a while to import.

    :raise Unsupported: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it uses of cryptography may be old
            import paramiko  # noqa: PLC0415 - see the package
    except ImportError as error:
        raise Unsupported(f"--platform ssh needs paramiko: {error}", next_step="pip install 'tcelab[ssh]'") from None
    # It writes a traceback of what it then raises.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    return paramiko


class Connection:
    """:ivar transport: to the last machine.

    :ivar banner: what its sshd says that it is; `host_key`: its kind and fingerprint.
    """

    def __init__(self, choice: SshChoice, limits: Limits) -> None:
        """:raise TcelabError: there is no sshd, it is not the one that is meant, or it lets us not in."""
        self._paramiko = library()
        self._choice, self._limits = choice, limits
        self._clients: list[SSHClient] = []
        self._closed = threading.Event()
        try:
            hops = choice.hops
            for number, hop in enumerate(hops, 1):
                self._clients.append(self._reach(hop, last=number == len(hops)))
        except BaseException:
            self.close()
            raise
        self.banner = self.transport.remote_version
        key = self.transport.get_remote_server_key()
        self.host_key = f"{key.get_name()} {key.fingerprint}"

    @property
    def transport(self) -> Transport:
        return self._of(self._clients[-1])

    @staticmethod
    def _of(client: SSHClient) -> Transport:
        transport = client.get_transport()
        if transport is None:
            raise HarnessError("the connection was closed")
        return transport

    def close(self) -> None:
        """May be called from any thread, and twice."""
        self._closed.set()
        for client in reversed(self._clients):
            client.close()

    def session(self) -> Channel:
        """A channel for a command.

        :raise HarnessError: there is none to be had.
        """
        try:
            return self.transport.open_session(timeout=self._limits.login)
        except (self._paramiko.SSHException, OSError, EOFError) as error:
            raise HarnessError(
                f"{self._choice.hops[-1]} gives no channel: {error}",
                scene=Scene("login"),
                next_step="see its sshd's log",
            ) from None

    def _reach(self, hop: Hop, *, last: bool) -> SSHClient:
        """Try until its banner is there."""
        _LOG.info("connecting to %s", hop, extra=PHASE)
        trusted = knownhosts.known(hop, self._choice.host_key, last=last)
        began = time.monotonic()
        while True:
            left = self._limits.connect - (time.monotonic() - began)
            client: SSHClient = self._paramiko.SSHClient()
            try:
                self._login(client, hop, trusted, self._socket(hop, left), max(left, 1.0), last=last)
            except _NoBannerError as error:
                client.close()
                if self._closed.is_set() or left <= _AGAIN:
                    raise self._no_sshd(hop, error, began) from None
                _LOG.debug("%s: %s; trying again", hop, error)
                self._closed.wait(_AGAIN)
            except BaseException:
                client.close()
                raise
            else:
                return client

    def _no_sshd(self, hop: Hop, error: Exception, began: float) -> HarnessError:
        return HarnessError(
            f"{hop} shows no ssh banner: {error}",
            next_step="is its sshd running, and the port right? A slow machine needs --limit connect=SECONDS",
            scene=Scene("connect", time.monotonic() - began),
        )

    def _socket(self, hop: Hop, limit: float) -> socket.socket | Channel:
        """:raise _NoBannerError: nobody listens; :raise UsageError: no such host."""
        try:
            if not self._clients:
                return socket.create_connection((hop.host, hop.port), timeout=max(limit, 1.0))
            before = self._of(self._clients[-1])
            return before.open_channel("direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=max(limit, 1.0))
        except socket.gaierror as error:
            raise UsageError(f"no host {hop.host}: {error.strerror}", next_step="check --host and --jump") from None
        except (self._paramiko.SSHException, OSError, EOFError) as error:
            raise _NoBannerError(str(error) or type(error).__name__) from None

    def _login(
        self,
        client: SSHClient,
        hop: Hop,
        trusted: knownhosts.KnownHosts,
        sock: socket.socket | Channel,
        limit: float,
        *,
        last: bool,
    ) -> None:
        choice, paramiko = self._choice, self._paramiko
        began = time.monotonic()

        class Trusted(paramiko.MissingHostKeyPolicy):  # type: ignore[name-defined,misc]
            """Asked for each key: paramiko itself is told of none."""

            def missing_host_key(self, _client: object, _name: str, key: Any) -> None:  # noqa: ANN401
                trusted.expect(key)

        def transport(*args: Any, **more: Any) -> Transport:  # noqa: ANN401
            made = paramiko.Transport(*args, **more)
            options = made.get_security_options()
            options.key_types = trusted.preferred(options.key_types)
            return made  # type: ignore[no-any-return]

        client.set_missing_host_key_policy(Trusted())
        try:
            client.connect(
                hop.host,
                hop.port,
                hop.user,
                sock=sock,
                # A jump host is nobody to tell the password of the machine behind it.
                password=_secrets.get(choice) if last else None,
                passphrase=_secrets.get(choice),
                key_filename=[str(key) for key in choice.keys] or None,  # type: ignore[arg-type]  # a list is fine, too
                allow_agent=not choice.keys,
                look_for_keys=not choice.keys,
                timeout=self._limits.login,
                banner_timeout=limit,
                auth_timeout=self._limits.login,
                channel_timeout=self._limits.login,
                transport_factory=transport,
            )
        except paramiko.AuthenticationException as error:
            raise self._refused(hop, error, began) from None
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            made = client.get_transport()
            if made is None or not made.remote_version:
                raise _NoBannerError(str(error) or type(error).__name__) from None
            raise HarnessError(
                f"no session with {hop} ({made.remote_version[:_HEX]}): {error or type(error).__name__}",
                next_step=f"try: ssh -v -p {hop.port} {hop.user}@{hop.host} true",
                scene=Scene("login", time.monotonic() - began),
            ) from None
        self._of(client).set_keepalive(KEEPALIVE)

    def _refused(self, hop: Hop, error: Exception, began: float) -> HarnessError:
        encrypted = isinstance(error, self._paramiko.PasswordRequiredException)
        tried = ", ".join(map(str, self._choice.keys)) or "the ssh agent's keys, and those in ~/.ssh"
        return HarnessError(
            f"a key for {hop} is encrypted" if encrypted else f"{hop} lets {hop.user} not in: {error}; tried: {tried}",
            next_step="load it into the ssh agent, or add --ask-password"
            if encrypted
            else "give --key FILE and --user NAME, or add --ask-password",
            scene=Scene("login", time.monotonic() - began),
        )


class _NoBannerError(Exception):
    """Nobody listens yet, or it is no sshd."""
