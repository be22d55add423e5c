"""Host keys: which are known, and that no other is accepted."""

import pytest
from paramiko import HostKeys
from ssh_server import new_key, public

from tcelab.errors import HarnessError, UsageError
from tcelab.ssh import knownhosts
from tcelab.ssh.choice import Hop
from tcelab.ssh.knownhosts import known

HOP = Hop("lpar7", 22, "root")
OTHER_PORT = Hop("lpar7", 2222, "root")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return [new_key(folder / str(number)) for number in range(3)]


@pytest.fixture
def users(monkeypatch, tmp_path):
    """Write the user's known_hosts, and look a machine up."""

    def of(text, hop=HOP, **more):
        (tmp_path / "known_hosts").write_text(text)
        monkeypatch.setattr(knownhosts, "USERS", (str(tmp_path / "known_hosts"), str(tmp_path / "none")))
        return known(hop, more.get("file"), last=more.get("last", True))

    return of


@pytest.mark.parametrize(
    ("names", "hop", "is_known"),
    [
        ("lpar7", HOP, True),
        ("lpar7,10.0.0.7", HOP, True),
        ("LPAR7", HOP, True),
        ("lpar*", HOP, True),
        ("lpar?,!lpar7", HOP, False),
        ("lpar77", HOP, False),
        ("lpar7", OTHER_PORT, False),
        ("[lpar7]:2222", OTHER_PORT, True),
        ("[lpar7]:*", OTHER_PORT, True),
        ("[lpar7]:2222", HOP, False),
    ],
)
def test_a_line_of_known_hosts_means_the_hosts_that_it_names(users, keys, names, hop, is_known):
    found = users(f"# a comment\n\n{public(keys[0], names)}", hop)
    assert [key == keys[0] for key in found.keys] == [True] * is_known


def test_a_hashed_name_is_known(users, keys):
    assert users(public(keys[0], HostKeys.hash_host("lpar7"))).keys == [keys[0]]
    assert users(public(keys[0], HostKeys.hash_host("lpar8"))).keys == []
    assert users(public(keys[0], "|1|nonsense")).keys == []


def test_a_host_may_have_two_keys_of_one_kind(users, keys):
    found = users(public(keys[0], "lpar7") + public(keys[1], "lpar7"))
    found.expect(keys[0])
    found.expect(keys[1])


def test_a_key_that_is_not_known_is_refused_with_its_fingerprint(users, keys):
    with pytest.raises(HarnessError) as refused:
        users("").expect(keys[0])
    assert refused.value.message == f"the host key of lpar7 is not known: ssh-ed25519 {keys[0].fingerprint}"
    assert "ssh-keyscan lpar7 >>FILE" in refused.value.next_step
    with pytest.raises(HarnessError) as refused:
        users("", OTHER_PORT).expect(keys[0])
    assert "ssh-keyscan -p 2222 lpar7" in refused.value.next_step


def test_another_key_than_the_known_one_is_refused_with_both(users, keys):
    with pytest.raises(HarnessError) as refused:
        users(public(keys[0], "[lpar7]:2222"), OTHER_PORT).expect(keys[1])
    assert "is not the one that is known" in refused.value.message
    assert keys[0].fingerprint in refused.value.message
    assert keys[1].fingerprint in refused.value.message
    assert "ssh-keygen -R '[lpar7]:2222'" in refused.value.next_step


def test_a_revoked_key_is_not_trusted_whoever_else_says_so(users, keys):
    found = users(public(keys[0], "lpar7") + "@revoked * " + public(keys[0]))
    assert found.keys == []
    with pytest.raises(HarnessError, match="is revoked"):
        found.expect(keys[0])


def test_a_certificates_authority_and_garbage_are_trusted_with_nothing(users, keys):
    lines = ["@cert-authority * " + public(keys[0]), "lpar7 ssh-ed25519 !!!\n", "lpar7 ssh-none AAAA\n", "lpar7\n"]
    assert users("".join(lines)).keys == []


def test_a_file_of_keys_takes_the_place_of_known_hosts_for_the_last_machine_alone(users, keys, tmp_path):
    file = tmp_path / "own"
    file.write_text(public(keys[1], "lpar7"))
    assert users(public(keys[0], "lpar7"), file=file).keys == [keys[1]]
    assert users(public(keys[0], "lpar7"), file=file, last=False).keys == [keys[0], keys[1]]


def test_a_public_key_alone_is_that_of_the_last_machine(users, keys, tmp_path):
    file = tmp_path / "ssh_host_ed25519_key.pub"
    file.write_text(public(keys[1]))
    assert users("", OTHER_PORT, file=file).keys == [keys[1]]
    assert users("", OTHER_PORT, file=file, last=False).keys == []


def test_a_file_without_a_key_is_wrong_usage(users, tmp_path):
    file = tmp_path / "empty"
    file.write_text("# nothing\n")
    with pytest.raises(UsageError, match="there is no host key in it"):
        users("", file=file)


def test_the_kind_of_key_that_is_known_is_asked_for_first(users, keys):
    found = users(public(keys[0], "lpar7"))
    offered = ["ecdsa-sha2-nistp256", "ssh-ed25519", "rsa-sha2-512"]
    assert found.preferred(offered) == ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"]
    assert users("").preferred(offered) == offered
