"""Hypercalls of a guest under KVM that KVM answers otherwise than QEMU, as data.

Under KVM the kernel answers TCE hypercalls itself, and hands to QEMU what is too hard for it: a LIOBN that it does not
know, a page that is not the guest's, a list that it cannot read. Source: arch/powerpc/kvm/book3s_64_vio.c, Linux 6.12,
unless another file is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tcelab.papr import hcallnumbers
from tcelab.papr.hcallnumbers import H_GET_TCE, H_PARAMETER, H_PUT_TCE_INDIRECT, H_STUFF_TCE, H_SUCCESS
from tcelab.papr.window import PAGE_SIZE
from tcelab.program.operations import Call, Hcall, HcallBatch, Tce
from tcelab.program.topology import NESTED_RAM, Phb, Topology

_PERMISSIONS: Final = 3
_BATCHES: Final = (H_STUFF_TCE, H_PUT_TCE_INDIRECT)


class KvmCall(NamedTuple):
    """A hypercall as the rules look at it.

    :ivar phb: whose table it names; None: none of a PE that is passed through.
    :ivar elsewhere: its LIOBN is of another PHB of the machine, which the guest has not, or has of its own.
    :ivar tces: each as (its page is of the guest's RAM, its bits below the page, its address: of a page of a buffer any
        but 0).
    :ivar own_list: the list is in a page of a process.
    """

    opcode: int
    phb: Phb | None
    elsewhere: bool
    ioba: int
    npages: int
    tces: tuple[tuple[bool, int, int], ...]
    own_list: bool


class KvmDifference(NamedTuple):
    """A rule that is KVM's own.

    :ivar kvm: what it does.
    :ivar status: that it gives; `written`: how many entries beneath change that were empty.
    :ivar why: it is not judged: why. `hazard`: some kernels do not survive it.
    """

    case: str
    applies: Callable[[KvmCall], bool]
    kvm: str
    source: str
    status: int = H_PARAMETER
    written: Callable[[KvmCall], int] = lambda _: 0
    why: str = ""
    hazard: bool = False


def _within(call: KvmCall) -> bool:
    return call.phb is not None and call.phb.window_start <= call.ioba < call.phb.window_end


def _goes_past(call: KvmCall) -> bool:
    if call.opcode not in _BATCHES or call.npages <= 1 or not _within(call):
        return False
    assert call.phb is not None
    return call.ioba + call.npages * PAGE_SIZE > call.phb.window_end


def _entered(call: KvmCall) -> int:
    """By VFIO, one by one: pages of the guest's."""
    return sum(own and bool(bits & _PERMISSIONS) for own, bits, _ in call.tces)


def _addresses(call: KvmCall) -> int:
    """Every TCE that is not 0, with whatever permissions."""
    return sum(bool(address or bits) for _, bits, address in call.tces)


DIFFERENCES: Final = (
    KvmDifference(
        "LIOBN of a PHB that the guest has not, or has of its own",
        lambda call: call.elsewhere,
        "a table that is nowhere at the outermost level, or none",
        "kvmppc_find_table",
        why="nobody sees the guest's own table",
    ),
    KvmDifference(
        "several pages, of which one is outside the window",
        _goes_past,
        "only the first page is compared with the window",
        "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba",
        why="some kernels do not survive it",
        hazard=True,
    ),
    KvmDifference(
        "INDIRECT with a list in a page of a process",
        lambda call: call.own_list,
        "the kernel reads it where QEMU has it",
        "kvmppc_h_put_tce_indirect",
        why="its contents are random",
    ),
    KvmDifference(
        "INDIRECT with a TCE without permissions that leads out of the guest's RAM",
        lambda call: (
            call.opcode == H_PUT_TCE_INDIRECT and any(not own and not bits & _PERMISSIONS for own, bits, _ in call.tces)
        ),
        "H_PARAMETER, and those before it stay entered",
        "kvmppc_h_put_tce_indirect",
        why="the guest does not tell how many were entered",
    ),
    KvmDifference(
        "IOBA not aligned to a page",
        lambda call: _within(call) and call.ioba % PAGE_SIZE != 0,
        "H_PARAMETER",
        "arch/powerpc/kernel/iommu.c, iommu_tce_check_ioba",
    ),
    KvmDifference(
        "STUFF of a TCE with permissions",
        lambda call: (
            call.opcode == H_STUFF_TCE and _within(call) and any(bits & _PERMISSIONS for _, bits, _ in call.tces)
        ),
        "H_PARAMETER, also of no pages",
        "kvmppc_h_stuff_tce",
    ),
    KvmDifference(
        "no pages",
        lambda call: call.opcode in _BATCHES and call.npages == 0 and _within(call),
        "H_SUCCESS",
        "kvmppc_h_stuff_tce, kvmppc_h_put_tce_indirect",
        status=H_SUCCESS,
    ),
    KvmDifference(
        "TCE with permissions that is no page of the guest's, or has reserved bits",
        lambda call: (
            _within(call)
            and any(bits & _PERMISSIONS and (not own or bits & ~_PERMISSIONS) for own, bits, _ in call.tces)
        ),
        "handed to QEMU, which stores it as it is, and has VFIO map the page without these bits, or nothing",
        "kvmppc_tce_validate; QEMU hw/vfio/listener.c, vfio_iommu_map_notify",
        status=H_SUCCESS,
        written=_entered,
    ),
    KvmDifference(
        "INDIRECT with a TCE without permissions",
        lambda call: (
            call.opcode == H_PUT_TCE_INDIRECT
            and _within(call)
            and any(not bits & _PERMISSIONS for _, bits, _ in call.tces)
        ),
        "it is entered at the outermost level, without permissions",
        "kvmppc_h_put_tce_indirect, kvmppc_tce_iommu_do_map",
        status=H_SUCCESS,
        written=_addresses,
    ),
    KvmDifference(
        "TCE without permissions that is not 0",
        lambda call: (
            _within(call) and any((bits or address) and not bits & _PERMISSIONS for _, bits, address in call.tces)
        ),
        "the guest reads it back; the entry at the outermost level is empty",
        "kvmppc_h_put_tce, kvmppc_tce_put",
        status=H_SUCCESS,
    ),
)
"""In the order in which they count."""

PROBLEM_STATE: Final = KvmDifference(
    "called from problem state",
    lambda _: True,
    "a program interrupt: the process gets SIGILL",
    "arch/powerpc/kvm/book3s_hv.c, kvmppc_handle_exit_hv",
    why="it ends the process that makes it",
)


def own_rule(op: Hcall | HcallBatch, topology: Topology, *, judged: bool = True) -> KvmDifference | None:
    """The first rule of KVM's own that an operation meets; None: QEMU's rules are KVM's.

    :param judged: also those that are judged.
    """
    if isinstance(op, Hcall) and op.problem_state:
        return PROBLEM_STATE
    calls = [seen(call, topology) for call in ([op.call] if isinstance(op, Hcall) else op.calls)]
    met = (next((rule for rule in DIFFERENCES if rule.applies(call)), None) for call in calls)
    return next((rule for rule in met if rule is not None and (judged or rule.why)), None)


def agreed(calls: Sequence[Call], topology: Topology) -> bool:
    """Do QEMU's rules and KVM's give the same for all of them?"""
    return own_rule(HcallBatch(calls=list(calls)), topology) is None


def seen(call: Call, topology: Topology) -> KvmCall:
    """A hypercall as the rules look at it."""
    opcode = hcallnumbers.NAMES[call.opcode] if isinstance(call.opcode, str) else call.opcode
    liobn, ioba, word, npages = (*call.args, *[0] * (4 - len(call.args)))[:4]
    own = {phb.liobn: phb for phb in topology.phbs}
    words = call.tces or [] if opcode == H_PUT_TCE_INDIRECT else [] if opcode == H_GET_TCE else [word]
    return KvmCall(
        opcode=opcode,
        phb=own.get(liobn) if isinstance(liobn, int) else None,
        elsewhere=liobn in {phb.liobn for phb in topology.machine} - own.keys(),
        ioba=ioba if isinstance(ioba, int) else 1,
        npages=npages if isinstance(npages, int) else 0,
        tces=tuple(map(_told, words)),
        own_list=opcode == H_PUT_TCE_INDIRECT and call.tces is None and isinstance(word, Tce),
    )


def _told(word: int | Tce) -> tuple[bool, int, int]:
    if isinstance(word, Tce):
        return True, word.permissions | word.plus, PAGE_SIZE
    address = word & -PAGE_SIZE
    return address < NESTED_RAM, word % PAGE_SIZE, address
