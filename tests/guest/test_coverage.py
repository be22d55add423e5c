"""What the real kernel executes is recorded: on forks of a base, without its trial, and no verdict changes by it."""

from contextlib import ExitStack

import msgspec
import pytest

from tcelab.job import setup
from tcelab.job.recording import Recording
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks
from tcelab.testing.pseries import Pseries

pytestmark = pytest.mark.guest

TWO = topology("two-pe")


@pytest.fixture
def recorded(tmp_path):
    """Does something to a fork that is recorded, and gives what was recorded of all of them so far."""
    recording = Recording()
    ready = recording.onto(setup.prepare(setup.MachineChoice(topology=TWO)))
    with ExitStack() as stack:
        forks = Forks(ready.qemu, ready.options, digest=ready.digest)
        stack.callback(forks.close)

        def record(what=lambda _: None):
            (tmp_path / "fork").mkdir(mode=0o700, exist_ok=True)
            with forks.open(tmp_path / "fork") as session:
                guest = Pseries(session, TWO, "covered")
                what(guest)
                assert guest.conclude().findings == []
            return recording.result()

        yield record


def unit(coverage, name):
    return next(each for each in coverage.units if each.name == name)


def test_a_fork_is_counted_from_its_hand_out_on_and_each_operation_reaches_its_code(recorded):
    nothing = recorded()
    assert (nothing.guests, nothing.missing) == (1, [])
    assert unit(nothing, "vfio_iommu_spapr_tce").reached == 0, "its trial opened a container, and mapped"

    opened = recorded(lambda guest: guest.pe("pe1").open())
    driver = {each.name: each for each in unit(opened, "vfio_iommu_spapr_tce").functions}
    assert driver["tce_iommu_open"].reached > 0
    assert driver["tce_iommu_attach_group"].reached > 0
    assert unit(opened, "pseries/iommu.c").reached > 0

    def maps(guest):
        guest.pe("pe1").open().map(guest.buffer(32), iova=0x10000, pages=32)

    mapped = recorded(maps)
    assert (mapped.guests, mapped.missing) == (3, [])
    assert unit(mapped, "vfio_iommu_spapr_tce").reached > unit(opened, "vfio_iommu_spapr_tce").reached
    ioctl = next(each for each in unit(mapped, "vfio_iommu_spapr_tce").functions if each.name == "tce_iommu_ioctl")
    assert 0 < ioctl.seen < ioctl.outcomes
    assert msgspec.json.decode(msgspec.json.encode(mapped), type=type(mapped)) == mapped
