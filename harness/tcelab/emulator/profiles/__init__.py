"""The profiles of the driver, by name. Each is a table in the order of the driver's source, for comparison line by
line.

- `linux_v1`: today's kernel, container type v1
- `linux_v2`: today's kernel, container type v2
- `seed2013`: the kernel of May 2013
- `words`: the words that the profiles' tables are written in
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcelab.emulator.drivertable import Profile
from tcelab.emulator.profiles.linux_v1 import LINUX_V1
from tcelab.emulator.profiles.linux_v2 import LINUX_V2
from tcelab.emulator.profiles.seed2013 import SEED2013
from tcelab.emulator.syscallerrors import NotModelledError
from tcelab.errors import UsageError

if TYPE_CHECKING:
    from tcelab.emulator.drivertable import Driver
    from tcelab.emulator.platform import Machine


@dataclass(frozen=True)
class ProfileWithQuirks:
    """A profile with its quirks: what VFIO's core knows as a driver."""

    profile: Profile
    quirks: frozenset[str]

    @property
    def gives_back(self) -> bool:
        """See `Profile`."""
        return self.profile.gives_back

    def extension(self, number: int) -> int:
        """VFIO_CHECK_EXTENSION."""
        return int(number in self.profile.extensions)

    def open(self, machine: Machine, kind: int) -> Driver:
        """tce_iommu_open."""
        profile = next((each for each in self._one_module() if kind in each.opens), None)
        if profile is None:
            raise NotModelledError(f"profile {self.profile.name} has no container of type {kind}")
        return profile.driver(machine, profile, self.quirks)

    def _one_module(self) -> tuple[Profile, ...]:
        """The profile, and what the same module makes besides: today's makes containers of type v1 and v2."""
        today = (LINUX_V1, LINUX_V2)
        return (self.profile, *today) if self.profile.name in {each.name for each in today} else (self.profile,)


PROFILES: Final = {profile.name: profile for profile in (SEED2013, LINUX_V1)}
DEFAULT: Final = LINUX_V1.name


def profile(name: str) -> Profile:
    """`linux-v1` and `linux-v2` are one module, and make containers of both types.

    :raise UsageError: no profile of that name.
    """
    known = {**PROFILES, LINUX_V2.name: LINUX_V2}
    try:
        return known[name]
    except KeyError:
        raise UsageError(f"no profile {name!r}; there are: {', '.join(known)}") from None
