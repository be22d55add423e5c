"""What QEMU's side of the house asks of who records coverage; and who records nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec


class Places(msgspec.Struct, frozen=True):
    """Where a running kernel lies, as its agent says (`tceagent.places`).

    :ivar modules: address of each section of each module.
    :ivar start: of the kernel's code; 0: not known.
    """

    modules: dict[str, dict[str, int]]
    start: int
    symbols: str = ""


class CoveredGuest(Protocol):
    """Of one QEMU; see `tcelab.coverage.recorder.GuestCoverage`."""

    @property
    def fd(self) -> int | None: ...
    @property
    def modules(self) -> Sequence[str]: ...
    @property
    def places(self) -> Places | None: ...

    def begin(self, *, anew: bool) -> None: ...
    def located(self, places: Places | None, why: str = "") -> None: ...
    def ended(self) -> None: ...
    def crashes(self, by: int) -> None: ...
    def follow(self, before: CoveredGuest) -> None: ...
    def close(self) -> None: ...


class Cover(Protocol):
    """Of all guests of one command; see `tcelab.coverage.recorder.Recorder`."""

    def guest(self) -> CoveredGuest: ...
    def option(self, qemu: tuple[str, ...], descriptor: int | None) -> tuple[str, ...]: ...


class _NoGuest:
    """Nothing is recorded."""

    fd: int | None = None
    modules: Sequence[str] = ()
    places: Places | None = None

    def begin(self, *, anew: bool) -> None:
        """See `GuestCoverage`; so the others."""

    def located(self, places: Places | None, why: str = "") -> None: ...
    def ended(self) -> None: ...
    def crashes(self, by: int) -> None: ...
    def follow(self, before: CoveredGuest) -> None: ...
    def close(self) -> None: ...


class _Nothing:
    def guest(self) -> CoveredGuest:
        return _NoGuest()

    def option(self, _qemu: tuple[str, ...], _descriptor: int | None) -> tuple[str, ...]:
        return ()


NOTHING: Final[Cover] = _Nothing()
