"""A driver as a table: for each request, what is checked, in which order, and what each failure returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tcelab.emulator.checks import Request
from tcelab.emulator.process import Process

if TYPE_CHECKING:
    from tcelab.emulator.platform import EmulatedPe, Machine


@dataclass(frozen=True)
class Profile:
    """A driver: its requests by VFIO's number, and what any other gives.

    :ivar extensions: container types to which CHECK_EXTENSION says 1.
    :ivar opens: container types that SET_IOMMU can make with this profile.
    :ivar driver: what it makes.
    :ivar gives_back: a PE that leaves its container returns to the platform, with nothing but an empty default window.
    """

    name: str
    requests: Mapping[int, Request]
    otherwise: Request
    extensions: frozenset[int]
    opens: frozenset[int]
    driver: Callable[[Machine, Profile, frozenset[str]], Driver]
    gives_back: bool = True


class Driver(Protocol):
    """An IOMMU driver's container (struct vfio_iommu_driver_ops), made by SET_IOMMU."""

    def ioctl(self, process: Process, request: int, argument: int) -> int:
        """:raise RefusedError: with its errno."""
        ...

    def attach(self, pe: EmulatedPe) -> None:
        """:raise RefusedError: with its errno."""
        ...

    def detach(self, pe: EmulatedPe, process: Process) -> None: ...

    def release(self, process: Process) -> None: ...


class DriverKind(Protocol):
    """A driver of which containers can be made."""

    @property
    def gives_back(self) -> bool:
        """A PE that leaves its container returns to the platform, as at the machine's start."""
        ...

    def extension(self, number: int) -> int:
        """CHECK_EXTENSION."""
        ...

    def open(self, machine: Machine, kind: int) -> Driver:
        """:raise RefusedError: with its errno."""
        ...
