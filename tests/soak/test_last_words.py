"""A kernel that panics is heard out on each QEMU: its trace is whole, and the report says so only then."""

import pytest

from tcelab.errors import GuestLost
from tcelab.job import setup
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks
from tcelab.qemu.typist import Typist

pytestmark = pytest.mark.guest

LONGEST = 300
"""Seconds that anything typed may take."""


@pytest.mark.parametrize("qemu", ["qemu-11.1", "qemu-10.0", "qemu-7.2"])
def test_the_trace_of_a_kernel_that_panics_is_in_the_console_log_to_its_end(qemu, tmp_path):
    ready = setup.prepare(setup.MachineChoice(topology=topology("one-pe"), qemu=qemu))
    forks = Forks(ready.qemu, ready.options, digest=ready.digest)
    try:
        with forks.open(tmp_path) as session:
            typist = Typist(session, LONGEST)
            with pytest.raises(GuestLost) as caught:
                typist.run("echo c >/proc/sysrq-trigger", LONGEST)
    finally:
        forks.close()
    error = caught.value
    assert error.kernel_died
    assert error.said.endswith("Kernel panic - not syncing: sysrq triggered crash")
    assert error.said.startswith("[")
    assert error.next_step == "console.log there has the whole trace"
    _, trace = (tmp_path / "console.log").read_text(errors="replace").split("not syncing: sysrq triggered crash")
    for words in ("Call Trace:", "sysrq_handle_crash", "ksys_write", "NIP [", "LR ["):
        assert words in trace
