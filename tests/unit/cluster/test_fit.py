"""Workers that would not run the same thing are refused, and told why."""

import pytest

from tcelab.cluster import fit
from tcelab.cluster.fit import Facts

OWN = Facts(tcelab="1", hashes={"image guest": "aa", "qemu qemu-11.1": "bb"})
VM = {"vm": 2.0}


def test_a_worker_that_is_the_same_is_taken():
    assert not fit.refused(OWN, OWN, VM)


@pytest.mark.parametrize(
    ("other", "resources", "why"),
    [
        (None, VM, "no tcelab that can be asked"),
        (Facts(tcelab="2", hashes=OWN.hashes), VM, "it has tcelab 2, and the client has 1"),
        (Facts(tcelab="1", hashes={**OWN.hashes, "image guest": "ab"}), VM, "its image guest has the hash ab"),
        (Facts(tcelab="1", hashes={**OWN.hashes, "qemu qemu-11.1": "bc"}), VM, "its qemu qemu-11.1 has the hash bc"),
        (Facts(tcelab="1", hashes={"image guest": "aa"}), VM, "its qemu qemu-11.1 has the hash unknown"),
        (Facts(tcelab="1", why="no image guest: the disk is full"), VM, "the disk is full"),
        (OWN, {}, "it offers no guests"),
        (OWN, {"vm": 0.0}, "it offers no guests"),
    ],
)
def test_a_worker_that_differs_is_refused(other, resources, why):
    assert why in fit.refused(OWN, other, resources)


def test_this_machine_has_what_is_asked_of_it_or_says_why_not(monkeypatch):
    assert fit.facts([]).why == ""
    assert "no qemu /none/qemu" in fit.facts([("qemu", "/none/qemu")]).why
