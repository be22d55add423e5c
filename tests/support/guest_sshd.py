"""dropbear in a guest of ours, started at its console with keys that are made for it alone."""

import re
from contextlib import contextmanager
from types import SimpleNamespace

from ssh_server import new_key, public

from patience import PATIENCE
from tcelab import image
from tcelab.job import setup
from tcelab.program.topology import topology
from tcelab.qemu.fork import opened
from tcelab.qemu.limits import Limits
from tcelab.qemu.network import ssh_port
from tcelab.qemu.typist import Typist

_NETWORK = """
cd /lib/modules-tcelab
for each in failover net_failover virtio_net; do insmod $each.ko; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
"""
_DROPBEAR = """
mkdir -p /run/home/.ssh /dev/pts; mount -t devpts devpts /dev/pts
echo root:x:0:0::/run/home:/bin/sh >/etc/passwd; chmod 700 /run/home /run/home/.ssh
echo '{authorized}' >/run/home/.ssh/authorized_keys; chmod 600 /run/home/.ssh/authorized_keys
dropbearkey -t ed25519 -f /run/host-key | grep ^ssh-
dropbear -r /run/host-key -s -P /run/dropbear.pid
"""


def start(session, authorized):
    """Start it. Returns its port on the host, and its host key as a .pub file has it.

    :param authorized: the public key that may log in.
    """
    typist = Typist(session, PATIENCE)
    for commands in (_NETWORK, _DROPBEAR.format(authorized=authorized.strip())):
        ended = typist.run(commands, PATIENCE)
        assert ended is not None
        assert ended.status == 0, ended.output
    return ssh_port(session), re.search(r"^(ssh-ed25519 \S+)", ended.output, re.MULTILINE)[1]


@contextmanager
def machine(folder, **choice):
    """A guest with dropbear, whose keys are made for it: the options that reach it, and a typist at its console.

    :param folder: for keys and the guest's artefacts; private.
    """
    two = topology("two-small")
    ready = setup.prepare(setup.MachineChoice(topology=two, image="guest-ssh", **choice))
    with opened(ready.qemu, ready.options, folder, digest=ready.digest, limits=Limits()) as session:
        port, host_key = start(session, public(new_key(folder / "user")))
        (folder / "host.pub").write_text(host_key)
        words = [*reached(folder, port, "root"), "--python", "python3.11"]
        quirks = [word for quirk in sorted(image.quirks("guest-ssh")) for word in ("--expect-quirk", quirk)]
        yield SimpleNamespace(words=words, quirks=quirks, typist=Typist(session, PATIENCE))


def reached(folder, port, user):
    """The options that reach a server by the keys of a folder."""
    words = ["--platform", "ssh", "--host", "127.0.0.1", "--port", port, "--user", user]
    return [*words, "--key", folder / "user", "--host-key", folder / "host.pub"]
