"""A broken driver is found over ssh, by its behaviour alone, and the machine is left as it was."""

import guest_sshd
import pytest

from calls import tcelab
from patience import PATIENCE

pytestmark = [pytest.mark.guest, pytest.mark.network]

BOUND = "ls /tmp; ls /sys/bus/pci/drivers/vfio-pci; cat /sys/bus/pci/devices/*/driver_override"


def test_an_unmap_that_keeps_its_pages_pinned_is_found_over_ssh(tmp_path):
    with guest_sshd.machine(tmp_path, mutant="page-kept") as guest:
        before = guest.typist.run(BOUND, PATIENCE).output
        words = ["--topology", "two-small", *guest.words, *guest.quirks, "--behaviour-only", "--exclusive"]
        code, call = tcelab("run", "flow", *words, state=tmp_path / "state")
        assert code == 1, call.said
        assert "pins: page pins: expected 0 pages, seen 256 (256 pages not given back or too much)" in call.out
        assert guest.typist.run(BOUND, PATIENCE).output == before
