"""The guest's network card: its port on the host."""

from __future__ import annotations

import re
from typing import Final

from tcelab.errors import HarnessError
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession

_FORWARD: Final = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)")


def ssh_port(session: QemuSession) -> int:
    """The port of the host's loopback that leads to the guest's port 22.

    :raise HarnessError: the machine has no network card.
    """
    command = {"command-line": "info usernet"}
    said = str(portal().call(session.guest.qmp("human-monitor-command", **command)))
    found = _FORWARD.search(said)
    if found is None:
        raise HarnessError(
            "the guest's machine has no network card", next_step="take an image that has one: --image guest-ssh"
        )
    return int(found[1])
