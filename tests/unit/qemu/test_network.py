"""The guest's network card: which port of the host leads to it."""

from types import SimpleNamespace

import pytest

from tcelab.errors import HarnessError
from tcelab.qemu.network import ssh_port

USERNET = """\
Hub -1 (ssh-net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   31       127.0.0.1 40999       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  12       127.0.0.1 40645       10.0.2.15    22     0     0
"""


def session(said):
    async def qmp(command, **arguments):
        assert (command, arguments) == ("human-monitor-command", {"command-line": "info usernet"})
        return said

    return SimpleNamespace(guest=SimpleNamespace(qmp=qmp))


def test_the_port_is_the_one_that_the_hosts_kernel_chose():
    assert ssh_port(session(USERNET)) == 40645


def test_a_machine_without_a_card_has_none():
    with pytest.raises(HarnessError, match="has no network card"):
        ssh_port(session(""))
