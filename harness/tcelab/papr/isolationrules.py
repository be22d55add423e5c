"""A partitionable endpoint (PE): the unit that the platform isolates when one of its devices does a DMA that its tables
forbid, and the services that bring it back.

The states are those that `ibm,read-slot-reset-state2` tells. Source: LoPAR 7.3.11 (EEH), Linux
arch/powerpc/platforms/pseries/eeh_pseries.c (pseries_eeh_get_state), Documentation/driver-api/vfio.rst (the order of a
recovery), QEMU hw/ppc/spapr_pci.c and spapr_pci_vfio.c (statuses of the services).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

SUCCESS: Final = 0
NO_ERRORS: Final = 1
"""Status of ibm,slot-error-detail: there is no error to report."""
HARDWARE_ERROR: Final = -1
"""Status: the state of the PE does not permit it."""
PARAMETER_ERROR: Final = -3
"""No such option, or no such PE."""

SET_OPTION: Final = "ibm,set-eeh-option"
READ_STATE: Final = "ibm,read-slot-reset-state2"
SET_RESET: Final = "ibm,set-slot-reset"
CONFIGURE: Final = "ibm,configure-pe"
ERROR_DETAIL: Final = "ibm,slot-error-detail"

CALLS: Final = (SET_OPTION, READ_STATE, SET_RESET, CONFIGURE, ERROR_DETAIL)
OUTPUTS: Final = ("state", "supported", "wait", "recovery")
"""Names of the outputs of ibm,read-slot-reset-state2."""

ENABLE: Final = 1
THAW_MMIO: Final = 2
THAW_DMA: Final = 3
"""Options of ibm,set-eeh-option. 0, which would disable EEH, is refused: this platform keeps it enabled."""
DEACTIVATE: Final = 0
HOT: Final = 1
FUNDAMENTAL: Final = 3
"""Options of ibm,set-slot-reset."""
TEMPORARY: Final = 1
PERMANENT: Final = 2
"""Options of ibm,slot-error-detail."""


class Condition(Enum):
    """The condition of a PE: the state that firmware reports, whether its registers are reachable, and whether its DMA
    passes.

    After a reset, the devices have no addresses and no bus mastering until they are configured; firmware reports that
    as normal.
    """

    NORMAL = ("normal", 0, True, True)
    STOPPED = ("stopped", 2, False, False)
    MMIO_THAWED = ("MMIO thawed", 4, True, False)
    RESET = ("reset asserted", 1, False, False)
    UNCONFIGURED = ("not configured", 0, False, False)
    UNAVAILABLE = ("unavailable", 5, False, False)

    def __init__(self, title: str, state: int, mmio: bool, dma: bool) -> None:  # noqa: FBT001 - a table
        self.title, self.state, self.mmio, self.dma = title, state, mmio, dma


_C = Condition
_Row = dict[Condition, Condition]

_ASSERT: Final[_Row] = {each: _C.RESET for each in _C if each is not _C.UNAVAILABLE}

TRANSITIONS: Final[dict[tuple[str, int], _Row]] = {
    (SET_OPTION, ENABLE): {each: each for each in _C if each is not _C.UNAVAILABLE},
    (SET_OPTION, THAW_MMIO): {
        _C.STOPPED: _C.MMIO_THAWED,
        _C.MMIO_THAWED: _C.MMIO_THAWED,
        _C.NORMAL: _C.NORMAL,
    },
    (SET_OPTION, THAW_DMA): {_C.MMIO_THAWED: _C.NORMAL, _C.NORMAL: _C.NORMAL},
    (SET_RESET, HOT): _ASSERT,
    (SET_RESET, FUNDAMENTAL): _ASSERT,
    (SET_RESET, DEACTIVATE): {
        _C.RESET: _C.UNCONFIGURED,
        _C.UNCONFIGURED: _C.UNCONFIGURED,
        _C.NORMAL: _C.NORMAL,
    },
    (CONFIGURE, 0): {_C.UNCONFIGURED: _C.NORMAL, _C.NORMAL: _C.NORMAL},
}
"""By call and option: the transitions between conditions. From any other condition the call is a hardware error."""


class ServiceAnswer(NamedTuple):
    """The answer of a service.

    :ivar outputs: of ibm,read-slot-reset-state2, see `OUTPUTS`: the state, 1 (EEH is supported), milliseconds to wait,
        what is known of the recovery.
    """

    status: int
    outputs: tuple[int, ...] = ()


@dataclass(slots=True)
class Isolation:
    """The condition of one PE.

    :ivar freezes: how often it was isolated.
    :ivar untold: an isolation that ibm,slot-error-detail has not reported yet.
    """

    condition: Condition = Condition.NORMAL
    freezes: int = 0
    untold: bool = False

    @property
    def mmio(self) -> bool:
        """Its registers can be reached."""
        return self.condition.mmio

    @property
    def dma(self) -> bool:
        """Its DMA passes, where the table lets it."""
        return self.condition.dma

    def violate(self) -> bool:
        """A device's DMA was refused by the table: True if that isolates the PE, False if its DMA was stopped
        before.
        """
        if not self.dma:
            return False
        self.condition = Condition.STOPPED
        self.freezes += 1
        self.untold = True
        return True

    def call(self, name: str, option: int = 0) -> ServiceAnswer:
        """One service of firmware. A call that fails changes nothing.

        :raise ValueError: no such service.
        """
        if name not in CALLS:
            raise ValueError(f"no service {name!r}")
        if name == READ_STATE:
            return ServiceAnswer(SUCCESS, (self.condition.state, 1, 0, 0))
        if name == ERROR_DETAIL:
            return self._error_detail(option)
        row = TRANSITIONS.get((name, option))
        if row is None:
            return ServiceAnswer(PARAMETER_ERROR)
        if self.condition not in row:
            return ServiceAnswer(HARDWARE_ERROR)
        self.condition = row[self.condition]
        return ServiceAnswer(SUCCESS)

    def _error_detail(self, option: int) -> ServiceAnswer:
        if option not in {TEMPORARY, PERMANENT}:
            return ServiceAnswer(PARAMETER_ERROR)
        if option == PERMANENT and self.condition is not Condition.NORMAL:
            self.condition = Condition.UNAVAILABLE
        told, self.untold = self.untold, False
        return ServiceAnswer(SUCCESS if told else NO_ERRORS)
