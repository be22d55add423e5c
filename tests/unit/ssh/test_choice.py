"""Which machine, and how it is reached: what can be said, and what is said again."""

import getpass
from pathlib import Path

import pytest

from tcelab.errors import UsageError
from tcelab.ssh.choice import Hop, SshChoice, check

ME = getpass.getuser()


def test_every_machine_on_the_way_in_order():
    choice = SshChoice(host="lpar7", port=2222, user="root", jumps=("gate", "lab@inner:22022", "[fe80::1]:23"))
    assert choice.hops == [
        Hop("gate", 22, ME),
        Hop("inner", 22022, "lab"),
        Hop("fe80::1", 23, ME),
        Hop("lpar7", 2222, "root"),
    ]
    assert [str(hop) for hop in choice.hops] == ["gate", "inner:22022", "[fe80::1]:23", "lpar7:2222"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "needs a machine"),
        ({"host": "root@lpar7"}, "that is a user and a host"),
        ({"port": 0}, "a port is within"),
        ({"keys": (Path("/nowhere/key"),)}, "--key /nowhere/key: there is no such file"),
        ({"host_key": Path("/nowhere/key")}, "--host-key /nowhere/key: there is no such file"),
        ({"jumps": ("a b",)}, "--jump a b: not a machine"),
        ({"jumps": ("gate:99999",)}, "not a machine"),
        ({"python": " "}, "--python needs a command"),
        ({"devices": ("1:0.0",)}, "--device 1:0.0: not a PCI device"),
        ({"devices": ("pe1=0001:00:01.0", "0002:00:02.0")}, "either each device has a name"),
    ],
)
def test_what_cannot_be_is_wrong_usage(fields, told):
    with pytest.raises(UsageError) as refused:
        check(SshChoice(**{"host": "lpar7", **fields} if fields else {}))
    assert told in refused.value.message


def test_what_can_be_is_taken(tmp_path):
    (tmp_path / "key").touch()
    check(SshChoice(host="lpar7", keys=(tmp_path / "key",), jumps=("a@b:1",), devices=("pe1=0001:00:01.0",)))


def test_what_was_said_is_said_again_with_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert list(SshChoice(host="h").words()) == ["--host", "h"]
    choice = SshChoice(
        host="h",
        port=23,
        user="u",
        keys=(Path("k"),),
        host_key=Path("hk"),
        jumps=("j", "i"),
        python="sudo -n python3",
        devices=("0001:00:01.0",),
        behaviour_only=True,
        exclusive=True,
        ask_password=True,
    )
    words = ["--host", "h", "--port", "23", "--user", "u", "--key", f"{tmp_path}/k", "--host-key", f"{tmp_path}/hk"]
    words += ["--jump", "j", "--jump", "i", "--python", "sudo -n python3", "--device", "0001:00:01.0"]
    assert list(choice.words()) == [*words, "--behaviour-only", "--exclusive", "--ask-password"]
