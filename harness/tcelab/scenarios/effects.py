"""What a PE must show in each condition, and what firmware's services must answer: literals from the sources, not
computed rules.

Sources: LoPAR 7.3.11 (EEH: states and services), Documentation/driver-api/vfio.rst (the order of a recovery),
Documentation/arch/powerpc/eeh-pci-error-recovery.rst (an isolated slot reads as all ones, and what is
written to it is lost).
Configuration space alone stays readable here, which real hardware isolates too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tceagent import edu, virtio
from tcelab.papr import isolationrules

ONES: Final = 0xFFFFFFFF
"""32-bit value of unreachable registers."""
LOST: Final = 0xFFFFFFFFFFFFFFFF
"""Value of a transfer that could not be started."""

NOT_READY: Final = 1
"""Value of a transfer by a disk that is not set up, or cannot do it."""

IDENTITIES: Final = {"edu": edu.IS_EDU, "probe": edu.IS_EDU, "virtio-blk": virtio.IS_READY}
"""By model: the identity of an edu, which a probe is to its driver; of a virtio-blk, its configuration vector (none)
and number of queues (one).
"""

MASTER: Final = 0x0006
"""A command register: memory decoding, and bus mastering."""
NO_MASTER: Final = 0x0002

ENABLE: Final = (isolationrules.SET_OPTION, isolationrules.ENABLE)
THAW_MMIO: Final = (isolationrules.SET_OPTION, isolationrules.THAW_MMIO)
THAW_DMA: Final = (isolationrules.SET_OPTION, isolationrules.THAW_DMA)
HOT: Final = (isolationrules.SET_RESET, isolationrules.HOT)
FUNDAMENTAL: Final = (isolationrules.SET_RESET, isolationrules.FUNDAMENTAL)
DEACTIVATE: Final = (isolationrules.SET_RESET, isolationrules.DEACTIVATE)
CONFIGURED: Final = (isolationrules.CONFIGURE, 0)
STATE: Final = (isolationrules.READ_STATE, 0)
TEMPORARY: Final = (isolationrules.ERROR_DETAIL, isolationrules.TEMPORARY)
PERMANENT: Final = (isolationrules.ERROR_DETAIL, isolationrules.PERMANENT)

Service = tuple[str, int]
"""A call, and its option."""


class Effects(NamedTuple):
    """:ivar mmio: registers can be reached; `dma`: transfers pass where the table lets them."""

    mmio: bool
    dma: bool


EFFECTS: Final = {
    "normal": Effects(mmio=True, dma=True),
    "stopped": Effects(mmio=False, dma=False),
    "MMIO thawed": Effects(mmio=True, dma=False),
    "reset asserted": Effects(mmio=False, dma=False),
    "not configured": Effects(mmio=False, dma=False),
    "unavailable": Effects(mmio=False, dma=False),
}
"""By condition."""

OK, NOTHING, REFUSED, WRONG = 0, 1, -1, -3
"""Statuses: success; no error to tell; not in this condition; no such option."""

REFUSALS: Final[dict[str, tuple[Service, ...]]] = {
    "normal": (),
    "stopped": (THAW_DMA, DEACTIVATE, CONFIGURED),
    "MMIO thawed": (DEACTIVATE, CONFIGURED),
    "reset asserted": (THAW_MMIO, THAW_DMA, CONFIGURED),
    "not configured": (THAW_MMIO, THAW_DMA),
    "unavailable": (ENABLE, THAW_MMIO, THAW_DMA, HOT, FUNDAMENTAL, DEACTIVATE, CONFIGURED),
}
"""By condition, the services that must be refused in it, without effect."""

UNKNOWN: Final[tuple[Service, ...]] = (
    (isolationrules.SET_OPTION, 0),
    (isolationrules.SET_OPTION, 9),
    (isolationrules.SET_RESET, 2),
    (isolationrules.ERROR_DETAIL, 0),
)
"""Invalid options. EEH cannot be disabled here (0 of ibm,set-eeh-option): the platform keeps it enabled."""

WAYS: Final[dict[str, tuple[tuple[Service, str], ...]]] = {
    "thaw": ((THAW_MMIO, "MMIO thawed"), (THAW_DMA, "normal")),
    "fundamental reset": ((FUNDAMENTAL, "reset asserted"), (DEACTIVATE, "not configured"), (CONFIGURED, "normal")),
    "thaw again": (
        (THAW_MMIO, "MMIO thawed"),
        (THAW_MMIO, "MMIO thawed"),
        (ENABLE, "MMIO thawed"),
        (THAW_DMA, "normal"),
    ),
    "hot reset": (
        (THAW_MMIO, "MMIO thawed"),
        (HOT, "reset asserted"),
        (DEACTIVATE, "not configured"),
        (CONFIGURED, "normal"),
    ),
}
"""Recoveries from an isolation: each step, and the condition that it leads to."""

RESETS: Final = frozenset({"fundamental reset", "hot reset"})
"""Recoveries after which no device masters the bus until its driver enables it again."""
