"""Hypercalls of a guest under KVM that KVM answers otherwise than QEMU, as data: nothing judges by these rules yet.

Under KVM the kernel answers TCE hypercalls itself, and hands to QEMU what is too hard for it: a LIOBN that it does not
know, a page that is not the guest's, a list that it cannot read. Source: arch/powerpc/kvm/book3s_64_vio.c, Linux 6.12,
unless another file is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tcelab.papr import hcallnumbers
from tcelab.papr.hcallnumbers import H_GET_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE
from tcelab.papr.window import PAGE_SIZE
from tcelab.program.operations import Call, Hcall, HcallBatch, Tce
from tcelab.program.topology import Phb, Topology

_PERMISSIONS: Final = 3
_TCE_AT: Final = 2
_COUNT_AT: Final = 3
_BATCHES: Final = (H_STUFF_TCE, H_PUT_TCE_INDIRECT)


class KvmCall(NamedTuple):
    """A hypercall as the rules look at it.

    :ivar phb: whose table it names; None: none of a PE that is passed through.
    :ivar elsewhere: its LIOBN is of another PHB of the machine, which the guest has not, or has of its own.
    :ivar tces: each as (it is a page of the guest's, its bits below the page); a number counts as none.
    """

    opcode: int
    phb: Phb | None
    elsewhere: bool
    ioba: int
    npages: int
    tces: tuple[tuple[bool, int], ...]
    values: tuple[int, ...]
    given_list: bool


class KvmDifference(NamedTuple):
    """A rule that is KVM's own.

    :ivar kvm: what it does.
    :ivar hazard: some kernels do not survive it.
    """

    case: str
    applies: Callable[[KvmCall], bool]
    kvm: str
    source: str
    hazard: bool = False


def _within(call: KvmCall) -> bool:
    return call.phb is not None and call.phb.window_start <= call.ioba < call.phb.window_end


def _goes_past(call: KvmCall) -> bool:
    if call.opcode not in _BATCHES or call.npages <= 1 or not _within(call):
        return False
    assert call.phb is not None
    return call.ioba + call.npages * PAGE_SIZE > call.phb.window_end


DIFFERENCES: Final = (
    KvmDifference(
        "LIOBN of a PHB that the guest has not, or has of its own",
        lambda call: call.elsewhere,
        "a table that is nowhere at the outermost level, or none",
        "kvmppc_find_table",
    ),
    KvmDifference(
        "several pages, of which one is outside the window",
        _goes_past,
        "only the first page is compared with the window",
        "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba",
        hazard=True,
    ),
    KvmDifference(
        "IOBA not aligned to a page",
        lambda call: _within(call) and call.ioba % PAGE_SIZE != 0,
        "H_PARAMETER",
        "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba",
    ),
    KvmDifference(
        "no pages",
        lambda call: call.opcode in _BATCHES and call.npages == 0,
        "H_SUCCESS",
        "kvmppc_h_stuff_tce, kvmppc_h_put_tce_indirect",
    ),
    KvmDifference(
        "STUFF of a TCE with permissions",
        lambda call: call.opcode == H_STUFF_TCE and any(bits & _PERMISSIONS for _, bits in call.tces),
        "H_PARAMETER",
        "kvmppc_h_stuff_tce",
    ),
    KvmDifference(
        "TCE with permissions that is no page of the guest's, or has reserved bits",
        lambda call: any(bits & _PERMISSIONS and (not own or bits & ~_PERMISSIONS) for own, bits in call.tces),
        "handed to QEMU, which stores it as it is, and has VFIO map the page without these bits, or nothing",
        "kvmppc_tce_validate; QEMU hw/vfio/listener.c, vfio_iommu_map_notify",
    ),
    KvmDifference(
        "TCE without permissions that is not 0",
        lambda call: any(not bits & _PERMISSIONS for _, bits in call.tces) and any(call.values),
        "the guest reads it back; the entry at the outermost level is empty",
        "kvmppc_h_put_tce, kvmppc_tce_put",
    ),
    KvmDifference(
        "INDIRECT with a TCE without permissions",
        lambda call: call.opcode == H_PUT_TCE_INDIRECT and any(not bits & _PERMISSIONS for _, bits in call.tces),
        "its page is entered at the outermost level, without permissions",
        "kvmppc_h_put_tce_indirect, kvmppc_tce_iommu_do_map",
    ),
    KvmDifference(
        "INDIRECT with a list that is not the hypercall module's",
        lambda call: call.opcode == H_PUT_TCE_INDIRECT and not call.given_list,
        "one outside RAM is read by L1's QEMU, which logs in L1",
        "kvmppc_h_put_tce_indirect",
    ),
)
"""In the order in which a program is refused for them."""

PROBLEM_STATE: Final = KvmDifference(
    "called from problem state",
    lambda _: True,
    "a program interrupt: the process gets SIGILL",
    "arch/powerpc/kvm/book3s_hv.c, kvmppc_handle_exit_hv",
)


def own_rule(op: Hcall | HcallBatch, topology: Topology) -> KvmDifference | None:
    """The first rule of KVM's own that an operation meets; None: QEMU's rules are KVM's."""
    if isinstance(op, Hcall) and op.problem_state:
        return PROBLEM_STATE
    calls = [op.call] if isinstance(op, Hcall) else op.calls
    return next((rule for call in calls for rule in DIFFERENCES if rule.applies(_seen(call, topology))), None)


def agreed(calls: Sequence[Call], topology: Topology) -> bool:
    """Do QEMU's rules and KVM's give the same for all of them?"""
    return own_rule(HcallBatch(calls=list(calls)), topology) is None


def _seen(call: Call, topology: Topology) -> KvmCall:
    opcode = hcallnumbers.NAMES[call.opcode] if isinstance(call.opcode, str) else call.opcode
    liobn, ioba, word, npages = (*call.args, *[0] * (4 - len(call.args)))[:4]
    phb = next((phb for phb in topology.phbs if phb.liobn == liobn), None)
    others = {phb.liobn for phb in topology.machine} - {phb.liobn for phb in topology.phbs}
    words = [] if opcode == H_GET_TCE else call.tces if call.tces is not None else [word]
    if opcode == H_PUT_TCE_INDIRECT and call.tces is None:
        words = []
    return KvmCall(
        opcode=opcode,
        phb=phb,
        elsewhere=liobn in others,
        ioba=ioba if isinstance(ioba, int) else 1,
        npages=npages if isinstance(npages, int) else 0,
        tces=tuple(_bits(each) for each in words),
        values=tuple(1 if isinstance(each, Tce) else each for each in words),
        given_list=call.tces is not None,
    )


def _bits(word: int | Tce) -> tuple[bool, int]:
    if isinstance(word, Tce):
        return True, word.permissions | word.plus
    return False, word % PAGE_SIZE
