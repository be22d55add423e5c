"""Whoever can talk to a scheduler can run code: off loopback only TLS is spoken."""

import pytest

from tcelab.cluster.address import scheduler
from tcelab.errors import UsageError


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")]
    for each in paths:
        each.write_text("x")
    return paths


NONE = (None, None, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_tcp_is_spoken_on_loopback(host):
    assert not scheduler(f"tcp://{host}:8786", *NONE).tls


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "localhost.example.org", "0.0.0.0", "[fe80::1]", "127.0.0.1.example.org", "node1"]
)
def test_tcp_is_spoken_nowhere_else(host):
    with pytest.raises(UsageError, match="off loopback only TLS"):
        scheduler(f"tcp://{host}:8786", *NONE)


@pytest.mark.parametrize(
    "address", ["", "host:8786", "http://127.0.0.1:8786", "tcp://127.0.0.1", "tls://h:0", "tls://h:99999"]
)
def test_what_is_no_address_is_none(address):
    with pytest.raises(UsageError, match="no address of a scheduler"):
        scheduler(address, *NONE)


def test_tls_needs_all_three_files_and_each_must_be_there(files, tmp_path):
    assert scheduler("tls://node1:8786", *files).tls
    for number, name in enumerate(("--tls-ca", "--tls-cert", "--tls-key")):
        some = [None if at == number else each for at, each in enumerate(files)]
        with pytest.raises(UsageError, match=f"TLS without {name}"):
            scheduler("tls://node1:8786", *some)
    with pytest.raises(UsageError, match="there is no file"):
        scheduler("tls://node1:8786", *files[:2], tmp_path / "none")


def test_certificates_are_not_ignored_where_nothing_is_encrypted(files):
    with pytest.raises(UsageError, match="certificates are for tls://"):
        scheduler("tcp://127.0.0.1:8786", *files)
