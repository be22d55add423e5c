"""One guest for all tests of this folder: booted once, its agent ready."""

import pytest

from tcelab import setup
from tcelab.qemu.session import QemuSession
from tcelab.topology import topology


@pytest.fixture(scope="session")
def ready():
    return setup.prepare(setup.Choice(topology=topology("two-pe")), print)


@pytest.fixture(scope="session")
def booted(ready, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guest")
    with QemuSession(ready.qemu, ready.options, folder, digest=ready.digest, note=print) as session:
        yield session


@pytest.fixture
def session(booted):
    """The guest, with nothing left of the tests before."""
    booted.renew()
    return booted
