"""An ssh server of paramiko's on loopback, in this process, that can go wrong in the ways that servers do."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from patience import PATIENCE, SOON

FAR_SIDE = Path(__file__).with_name("far_side.py")


def python(**options):
    """A command that takes Python's place on the other side: the agent on an emulated kernel."""
    return shlex.join([sys.executable, str(FAR_SIDE), json.dumps(options)])


def new_key(path):
    """A private key in a file, as ssh-keygen makes it; returns the key."""
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*kinds))
    path.chmod(0o600)
    return paramiko.Ed25519Key.from_private_key_file(str(path))


def public(key, name=""):
    return f"{name} {key.get_name()} {key.get_base64()}\n".lstrip()


class _Files(paramiko.SFTPServerInterface):
    def open(self, path, flags, attr):
        handle = paramiko.SFTPHandle(flags)
        handle.writefile = os.fdopen(os.open(path, flags, 0o600), "wb")
        return handle


class _Rules(paramiko.ServerInterface):
    def __init__(self, server, transport):
        self._server, self._transport = server, transport

    def check_auth_publickey(self, username, key):
        self._server.users.append(username)
        return paramiko.AUTH_SUCCESSFUL if key == self._server.authorized else paramiko.AUTH_FAILED

    def check_auth_password(self, username, password):
        self._server.passwords.append(password)
        return paramiko.AUTH_FAILED

    def get_allowed_auths(self, username):
        return "publickey,password"

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        self._server.commands.append(command.decode())
        self._server.deaf.wait(PATIENCE)
        threading.Thread(target=self._server.run, args=(channel, self._transport, command), daemon=True).start()
        return True

    def check_channel_direct_tcpip_request(self, chanid, origin, destination):
        self._server.forwards[chanid] = destination
        return paramiko.OPEN_SUCCEEDED


class SshServer:
    """:ivar users: who tried to log in, by key; `passwords`: that were told; `commands`: what was run.

    :param sftp: has SFTP.
    :param noise: what a shell prints before the command's own output.
    :param resets: connections that are taken and closed without a banner, at first.
    :param dies: after so many bytes of the command's output the connection breaks.
    :param silent: the command is not run, and nothing is said.
    :param deaf: that a command is asked for is never answered.
    """

    def __init__(self, host_key, authorized, *, sftp=False, noise=b"", resets=0, dies=None, silent=False, deaf=False):
        self.host_key, self.authorized = host_key, authorized
        self._sftp, self._noise, self._resets, self._dies, self._silent = sftp, noise, resets, dies, silent
        self.deaf = threading.Event()
        if not deaf:
            self.deaf.set()
        self.users, self.passwords, self.commands, self.forwards, self.processes = [], [], [], {}, []
        self._transports = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        self.deaf.set()
        for transport in self._transports:
            transport.close()
        for process in self.processes:
            process.wait(SOON)

    def _accept(self):
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            if self._resets:
                self._resets -= 1
                end.close()
                continue
            transport = paramiko.Transport(end)
            transport.add_server_key(self.host_key)
            if self._sftp:
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
            self._transports.append(transport)
            try:
                transport.start_server(server=_Rules(self, transport))
            except (paramiko.SSHException, EOFError, OSError):
                continue
            threading.Thread(target=self._forward, args=(transport,), daemon=True).start()

    def _forward(self, transport):
        """Of a jump host."""
        while transport.is_active():
            channel = transport.accept(1)
            if channel is not None and channel.get_id() in self.forwards:
                end = socket.create_connection(self.forwards[channel.get_id()])
                for one, other in ((channel, end), (end, channel)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    def run(self, channel, transport, command):
        if self._silent:
            return
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(["/bin/sh", "-c", command], bufsize=0, **pipes)
        self.processes.append(process)
        channel.sendall(self._noise)

        def incoming():
            with process.stdin:
                while data := channel.recv(1 << 16):
                    process.stdin.write(data)

        def errors():
            with process.stderr:
                while data := process.stderr.read(1 << 16):
                    channel.sendall_stderr(data)

        others = [threading.Thread(target=_quietly, args=(each,), daemon=True) for each in (incoming, errors)]
        for each in others:
            each.start()
        with process.stdout:
            _quietly(lambda: self._outgoing(channel, transport, process))
        status = process.wait(PATIENCE)
        others[1].join(PATIENCE)
        _quietly(lambda: (channel.send_exit_status(status), channel.close()))

    def _outgoing(self, channel, transport, process):
        sent = 0
        while data := process.stdout.read(1 << 16):
            if self._dies is not None and sent + len(data) > self._dies:
                channel.sendall(data[: self._dies - sent])
                time.sleep(0.1)
                transport.close()
                return
            channel.sendall(data)
            sent += len(data)


def _quietly(work):
    with contextlib.suppress(OSError, EOFError, ValueError):
        work()


def _pump(one, other):
    try:
        while data := one.recv(1 << 16):
            other.sendall(data)
    except (OSError, EOFError):
        pass
    finally:
        other.close()
