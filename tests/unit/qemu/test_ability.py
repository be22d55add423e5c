"""A kernel that lacks a part is not judged; one that has it and refuses is. Only proof excuses."""

from types import SimpleNamespace

import pytest
from kerneltoy import vmlinux

from tcelab.errors import GuestLost, Unsupported
from tcelab.qemu import ability
from tcelab.run import exitcode
from tcelab.run.record import Outcome

ASKS = b"iommu_group_claim_dma_owner"
HAS = [b"iommu-phb%04x", b"spapr-tce-iommu", b"spapr_tce_iommu_probe_device"]
FOLDER = "EISDIR"


def named(op):
    return getattr(op, "path", None) or getattr(op, "request", None) or type(op).__name__


class Guest:
    """Answers by path, or by the operation's name. By default: a kernel with everything."""

    def __init__(self, **answers):
        self.facts = SimpleNamespace(versions={"guest": {"kernel": "6.66"}})
        self.answers = {
            "/dev/vfio/vfio": Outcome(value=5),
            "/sys/module/vfio": Outcome(errno=FOLDER),
            "/sys/module/vfio_iommu_spapr_tce": Outcome(errno=FOLDER),
            "/sys/bus/pci/drivers/vfio-pci": Outcome(errno=FOLDER),
            "CHECK_EXTENSION": Outcome(value=1),
            "Bind": Outcome(value=0),
            "Close": Outcome(value=0),
        } | answers
        self.asked = []

    def perform(self, ops):
        self.asked += ops
        outcomes = []
        for op in ops:
            answer = self.answers[named(op)]
            if isinstance(answer, Exception):
                raise answer
            outcomes.append(answer)
        return outcomes


NONE = Outcome(errno="ENOENT")


@pytest.fixture
def kernel(tmp_path):
    """Write a kernel that holds these texts."""

    def write(*texts):
        path = tmp_path / "vmlinux"
        path.write_bytes(vmlinux(texts=texts))
        return path

    return write


def check(guest, kernel):
    """What is let through was asked for everything."""
    ability.check(guest, "pe1", kernel)
    assert {named(op) for op in guest.asked} == set(guest.answers)


def test_a_kernel_with_everything_passes_and_the_device_was_bound(kernel):
    guest = Guest()
    check(guest, kernel())
    assert [op.device for op in guest.asked if type(op).__name__ == "Bind"] == ["pe1"]


def test_no_file_stays_open(kernel):
    guest = Guest()
    check(guest, kernel())
    opened = [op for op in guest.asked if type(op).__name__ == "Open" and op.path == "/dev/vfio/vfio"]
    closed = [op for op in guest.asked if type(op).__name__ == "Close"]
    assert [op.file for op in opened] == [op.file for op in closed]


@pytest.mark.parametrize(
    ("answers", "said", "option"),
    [
        ({"/dev/vfio/vfio": NONE, "/sys/module/vfio": NONE}, "lacks VFIO: .*ENOENT", "CONFIG_VFIO;"),
        ({"/dev/vfio/vfio": NONE, "/sys/module/vfio_iommu_spapr_tce": NONE}, "lacks VFIO: .*ENOENT", "CONFIG_VFIO;"),
        ({"/sys/bus/pci/drivers/vfio-pci": NONE}, "lacks the driver vfio-pci", "CONFIG_VFIO_PCI;"),
        (
            {"CHECK_EXTENSION": Outcome(value=0), "/sys/module/vfio_iommu_spapr_tce": NONE},
            "lacks VFIO's sPAPR TCE driver",
            "CONFIG_VFIO_IOMMU_SPAPR_TCE;",
        ),
    ],
)
def test_a_missing_part_is_named_with_its_option(kernel, answers, said, option):
    with pytest.raises(Unsupported, match=f"kernel 6.66 {said}") as caught:
        check(Guest(**answers), kernel())
    assert option in caught.value.next_step
    assert "--modules" in caught.value.next_step


@pytest.mark.parametrize(
    "answers",
    [
        {"/dev/vfio/vfio": Outcome(errno="EIO")},
        {"/dev/vfio/vfio": NONE, "CHECK_EXTENSION": Outcome(errno="EBADF")},
        {"CHECK_EXTENSION": Outcome(value=0)},
        {"CHECK_EXTENSION": Outcome(errno="EINVAL"), "/sys/module/vfio_iommu_spapr_tce": NONE},
    ],
)
def test_a_part_that_is_there_and_does_not_work_is_left_for_the_run_to_find(kernel, answers):
    check(Guest(**answers), kernel(ASKS))


def test_a_refused_device_is_excused_by_the_proof_that_the_iommu_driver_is_not_there(kernel):
    with pytest.raises(
        Unsupported, match=r"6\.66 cannot do VFIO on pseries: vfio-pci refuses pe1 \(ENODEV\)"
    ) as caught:
        check(Guest(Bind=Outcome(errno="ENODEV")), kernel(ASKS))
    assert exitcode.of_error(caught.value) == 125
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", HAS)
@pytest.mark.parametrize("errno", ["ENODEV", "EINVAL", "ENOENT"])
def test_a_kernel_with_the_iommu_driver_is_never_excused(kernel, text, errno):
    """Any one text will do: a kernel may rename the others."""
    check(Guest(Bind=Outcome(errno=errno)), kernel(ASKS, text))


def test_nor_one_whose_vfio_needs_no_iommu_driver(kernel):
    """Before 5.19: VFIO worked on pseries without."""
    check(Guest(Bind=Outcome(errno="ENODEV")), kernel())


def test_nor_one_whose_file_cannot_be_read(tmp_path):
    check(Guest(Bind=Outcome(errno="ENODEV")), tmp_path / "gone")


def test_a_kernel_without_the_driver_that_binds_all_the_same_passes(kernel):
    """What was not refused needs no excuse: the texts of later kernels are unknown."""
    check(Guest(), kernel(ASKS))


def test_a_kernel_that_dies_of_it_is_no_missing_part(kernel):
    with pytest.raises(GuestLost):
        check(Guest(Bind=GuestLost("oops", kernel_died=True)), kernel(ASKS))
