"""What a PE must show in each of its conditions, and what firmware's services must answer in it: literals from the
sources, and no rule that somebody computes.

Sources: LoPAR 7.3.11 (EEH: states and services), Documentation/driver-api/vfio.rst (the order of a recovery),
Documentation/arch/powerpc/eeh-pci-error-recovery.rst (an isolated slot reads as all ones, and what is
written to it is lost).
Configuration space alone stays readable here, which real hardware isolates too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

ONES: Final = 0xFFFFFFFF
"""32 bits of registers that cannot be reached."""
LOST: Final = 0xFFFFFFFFFFFFFFFF
"""What a transfer gives that could not even be asked for."""

NOT_READY: Final = 1
"""What a transfer gives of a disk that is not set up, or that cannot do it."""

IDENTITIES: Final = {"edu": 0x010000ED, "virtio-blk": 0x0001FFFF}
"""By model: the identity of an edu; of a virtio-blk, its configuration vector (none) and number of queues (one)."""

MASTER: Final = 0x0006
"""A command register: memory decoding, and bus mastering."""
NO_MASTER: Final = 0x0002

SET_OPTION: Final = "ibm,set-eeh-option"
READ_STATE: Final = "ibm,read-slot-reset-state2"
SET_RESET: Final = "ibm,set-slot-reset"
CONFIGURE: Final = "ibm,configure-pe"
DETAIL: Final = "ibm,slot-error-detail"

ENABLE: Final = (SET_OPTION, 1)
THAW_MMIO: Final = (SET_OPTION, 2)
THAW_DMA: Final = (SET_OPTION, 3)
HOT: Final = (SET_RESET, 1)
FUNDAMENTAL: Final = (SET_RESET, 3)
DEACTIVATE: Final = (SET_RESET, 0)
CONFIGURED: Final = (CONFIGURE, 0)
STATE: Final = (READ_STATE, 0)
TEMPORARY: Final = (DETAIL, 1)
PERMANENT: Final = (DETAIL, 2)

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
"""By condition, the services that are out of order in it: they are refused and change nothing."""

UNKNOWN: Final[tuple[Service, ...]] = ((SET_OPTION, 0), (SET_OPTION, 9), (SET_RESET, 2), (DETAIL, 0))
"""Options that are none. EEH cannot be disabled here (0 of ibm,set-eeh-option): the platform keeps it enabled."""

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
"""Ways out of an isolation: each step, and the condition that it leads to."""

RESETS: Final = frozenset({"fundamental reset", "hot reset"})
"""Ways after which no device masters the bus until its driver says so again."""
