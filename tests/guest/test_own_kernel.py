"""Kernels that a user brings: Debian's packages, unpacked as they are."""

import json

import pytest

from calls import tcelab
from tcelab import image
from tcelab.image import apt
from tcelab.image.store import cache_dir

pytestmark = [pytest.mark.guest, pytest.mark.network]


def unpacked(folder, pattern, *suites):
    """A kernel package of Debian, unpacked; returns its kernel."""
    request = apt.FetchRequest(
        architecture="ppc64el",
        suites=(suites,),
        packages=(pattern,),
    )
    return kernel_of(folder, apt.fetch(request))


def kernel_of(folder, fetched):
    apt.unpack(fetched, folder)
    (kernel,) = folder.glob("boot/vmlinux-*")
    return kernel


@pytest.fixture
def same(tmp_path):
    """The package that the guest image was made of: a file of the cache, as a rule."""
    image.ensure_guest("guest")
    packages = image.status("guest", full=False).manifest.packages
    (package,) = [each for each in packages if each.name.startswith("linux-image-")]
    deb = cache_dir() / "apt" / "debs" / f"{package.sha256}.deb"
    if deb.is_file():
        return kernel_of(tmp_path, apt.Fetched(packages=(package,), files=(deb,)))
    return unpacked(tmp_path, package.name, package.suite)


def test_a_kernel_with_its_modules_passes(same, tmp_path):
    state = tmp_path / "state"
    code, call = tcelab("run", "flow", "--kernel", same, "--modules", tmp_path, "--json", "-", state=state)
    assert code == 0, call.said
    versions = json.loads(call.out)["versions"]
    own = versions["provenance"]["own kernel"]
    assert own == {
        "release": versions["guest"]["kernel"],
        "config": str(same.with_name(f"config-{own['release']}")),
        "modules": ["vfio", "vfio_iommu_spapr_tce", "vfio-pci-core", "vfio-pci"],
    }
    loaded = {name.replace("-", "_") for name in own["modules"]}
    assert loaded <= set(versions["guest"]["modules"])


@pytest.mark.night  # a kernel of which no other test is
def test_a_kernel_that_cannot_do_vfio_on_pseries_is_not_judged(tmp_path):
    """Linux 6.1. Its virtio drivers are modules, and so is more of VFIO than today: load order counts."""
    kernel = unpacked(tmp_path, "linux-image-6.1.*-powerpc64le", "bookworm")
    code, call = tcelab("run", "flow", "--kernel", kernel, "--modules", tmp_path, state=tmp_path / "state")
    assert code == 125, call.said
    assert "kernel 6.1." in call.said
    assert "cannot do VFIO on pseries: vfio-pci refuses" in call.said
    assert "git bisect run skips" in call.said
    assert "Traceback" not in call.said
