"""Debian's OpenSSH server on loopback, from its signed packages, unpacked into the cache: nothing is installed, none of
its scripts runs. It finds the accounts that it needs in a mount namespace of its own: whoever runs the tests may have a
locked account, or no shell.
"""

import os
import shlex
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL

from patience import PATIENCE, SOON
from tcelab.image.apt import FetchRequest, fetch, host_architecture, unpack
from tcelab.image.loader import loader_argv
from tcelab.image.locks import lock
from tcelab.image.store import cache_dir

PACKAGES = """
    libaudit1 libc6 libcap-ng0 libcap2 libcom-err2 libcrypt1 libgcrypt20 libgpg-error0 libgssapi-krb5-2 libk5crypto3
    libkeyutils1 libkrb5-3 libkrb5support0 liblz4-1 liblzma5 libnsl2 libpam0g libpcre2-8-0 libselinux1 libssl3
    libsystemd0 libtirpc3 libwrap0 libzstd1 openssh-server openssh-sftp-server zlib1g
"""
_SUITES = (("bookworm", "bookworm-updates", "bookworm-security"),)
_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers {user}
SetEnv TMPDIR={far}
Subsystem sftp {sftp}
"""
_ACCOUNTS = """
set -e
for each in passwd shadow; do
    [ ! -e /etc/$each ] || mount --bind {folder}/$each /etc/$each
done
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
exec "$@"
"""
_UNSHARE = ("unshare", "--mount")
_UNSHARE_AS_A_USER = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount")


def tree():
    """Where it is unpacked."""
    with lock("openssh", "another test's OpenSSH"):
        folder = cache_dir() / "openssh"
        if not (folder / "whole").exists():
            request = FetchRequest(architecture=host_architecture(), suites=_SUITES, packages=tuple(PACKAGES.split()))
            unpack(fetch(request), folder)
            (folder / "whole").touch()
        return folder


@contextmanager
def sshd(folder, user, far):
    """Its port. `folder` has `host` and `authorized`; `far` is the folder for temporary files there."""
    where = tree()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sftp = shlex.join(loader_argv(where, "usr/lib/openssh/sftp-server"))
    config = folder / "sshd_config"
    config.write_text(_CONFIG.format(port=port, folder=folder, user=user, far=far, sftp=sftp))
    # -r: it does not start itself anew for each connection, which it would do without its loader.
    argv = [*loader_argv(where, "usr/sbin/sshd"), "-D", "-e", "-r", "-f", str(config)]
    own = f"{user}:*:{os.geteuid()}:{os.getegid()}::{folder}:/bin/sh\n"
    (folder / "passwd").write_text(own + Path("/etc/passwd").read_text() + "sshd:*:64999:65534::/run/sshd:/bin/false\n")
    (folder / "shadow").write_text(f"{user}:*:::::::\n")
    unshare = _UNSHARE if os.geteuid() == 0 else _UNSHARE_AS_A_USER
    # A user who may have no namespace is let in as the machine's own account says.
    tried = subprocess.run([*unshare, "true"], stderr=DEVNULL, timeout=SOON, check=False)
    if os.geteuid() == 0 or tried.returncode == 0:
        argv = [*unshare, "sh", "-c", _ACCOUNTS.format(folder=folder), "sh", *argv]
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(argv, stderr=log, stdout=log, stdin=DEVNULL)
    try:
        yield port, process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def listens(port, process):
    """Wait until somebody does; false: it has ended instead."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as end:
            if end.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False
