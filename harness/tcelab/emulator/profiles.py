"""The driver as tables: for each request, what is checked, in which order, and what each failure returns.

Hold them against the source line by line: a check's `source` is the condition there. Profiles:
`seed2013`, the driver of May 2013; `linux-v1`, today's (6.11 and newer) with a v1 container; `linux-v2`, the same with
a v2 container (`linux_v2.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tceagent import uapi
from tcelab.emulator.checks import Call, Check, NotModelledError, Request, copies_in, give, long_enough
from tcelab.emulator.given import ENABLED
from tcelab.emulator.memory import Space
from tcelab.emulator.spapr_tce import SpaprTce
from tcelab.emulator.spapr_tce_2013 import Seed
from tcelab.errors import UsageError
from tcelab.papr import tce, window
from tcelab.papr.table import Table
from tcelab.quirks import MISALIGNED, ONE_PAGE

if TYPE_CHECKING:
    from tcelab.emulator.core import Driver
    from tcelab.emulator.platform import Machine

V1, V2 = 2, 7
"""Container types: VFIO_SPAPR_TCE_IOMMU, VFIO_SPAPR_TCE_v2_IOMMU."""

_OFFSET: Final = window.PAGE_SIZE - 1
INFO, INFO_DDW = uapi.LAYOUTS["SPAPR_TCE_GET_INFO"], uapi.LAYOUTS["SPAPR_TCE_GET_INFO_DDW"]


@dataclass(frozen=True)
class Profile:
    """A driver: its requests by VFIO's number, and what any other gives.

    :ivar extensions: container types to which CHECK_EXTENSION says 1.
    :ivar opens: container types that SET_IOMMU can make with this profile.
    :ivar driver: what it makes.
    :ivar gives_back: a PE that leaves its container is the platform's again, with an empty default window alone.
    """

    name: str
    requests: Mapping[int, Request]
    otherwise: Request
    extensions: frozenset[int]
    opens: frozenset[int]
    driver: type[SpaprTce | Seed]
    gives_back: bool = True


@dataclass(frozen=True)
class Kind:
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
        from tcelab.emulator.linux_v2 import LINUX_V2  # noqa: PLC0415 - which is made of this module's profile

        today = (LINUX_V1, LINUX_V2)
        return (self.profile, *today) if self.profile.name in {each.name for each in today} else (self.profile,)


def _misaligned(call: Call, *names: str) -> bool:
    return any(call.param[name] & _OFFSET for name in names)


def _entry(call: Call) -> int:
    return call.param["iova"] >> window.PAGE_SHIFT


def _pages(call: Call) -> int:
    return call.param["size"] >> window.PAGE_SHIFT


def _window(call: Call) -> tuple[int, int]:
    """it_offset and it_size, in entries."""
    table: Table = call.on.pe.table
    return call.on.pe.first, table.entries


# -- seed2013


def _no_table_warned(call: Call) -> bool:
    if call.on.pe is None:
        call.machine.warn("tce_iommu_ioctl: WARN_ON(!tbl)")
    return call.on.pe is None


def _table_without_group(call: Call) -> bool:
    if not call.on.pe.has_group:
        call.machine.bug("tce_iommu_ioctl: BUG_ON(!tbl->it_group)")
    return False


def _no_mm(call: Call) -> bool:
    return call.process.exited or call.machine.without_mm


def _seed_info(call: Call) -> int:
    first, entries = _window(call)
    call.param |= {
        "flags": 0,
        "dma32_window_start": first << window.PAGE_SHIFT & 0xFFFFFFFF,
        "dma32_window_size": entries << window.PAGE_SHIFT & 0xFFFFFFFF,
    }
    return give(call, "SPAPR_TCE_GET_INFO")


def _enable(call: Call) -> int:
    call.on.enabled = True
    call.machine.happened(ENABLED, call.on)
    return 0


def _seed_disable(call: Call) -> int:
    call.on.disable(call.process)
    return 0


_PUT: Final = "powerpc/kernel/iommu.c, iommu_tce_put_param_check: "
_CLEAR: Final = "powerpc/kernel/iommu.c, iommu_tce_clear_param_check: "

SEED_MAP: Final = (
    Check("no table", lambda c: c.on.pe is None, "ENXIO", "!tbl"),
    Check("table without group", _table_without_group, None, "BUG_ON(!tbl->it_group)"),
    copies_in("MAP_DMA"),
    long_enough("MAP_DMA"),
    Check("flags", lambda c: c.param["flags"] & ~tce.PERMISSIONS, "EINVAL", "flags beyond READ and WRITE"),
    Check("size or vaddr misaligned", lambda c: _misaligned(c, "size", "vaddr"), "EINVAL", "~IOMMU_PAGE_MASK"),
    Check("no permission", lambda c: not c.param["flags"], "EINVAL", _PUT + "!(tce & (TCE_PCI_WRITE | TCE_PCI_READ))"),
    Check("iova misaligned", lambda c: _misaligned(c, "iova"), "EINVAL", _PUT + "ioba & ~IOMMU_PAGE_MASK"),
    Check("below the window", lambda c: _entry(c) < _window(c)[0], "EINVAL", _PUT + "ioba < tbl->it_offset"),
    Check("past the window", lambda c: _entry(c) + 1 > sum(_window(c)), "EINVAL", _PUT + "(ioba + 1) > offset + size"),
)

SEED_UNMAP: Final = (
    Check("no table", _no_table_warned, "ENXIO", "WARN_ON(!tbl)"),
    copies_in("UNMAP_DMA"),
    long_enough("UNMAP_DMA"),
    Check("flags", lambda c: c.param["flags"], "EINVAL", "param.flags"),
    Check("size misaligned", lambda c: _misaligned(c, "size"), "EINVAL", "param.size & ~IOMMU_PAGE_MASK"),
    Check("iova misaligned", lambda c: _misaligned(c, "iova"), "EINVAL", _CLEAR + "ioba & ~IOMMU_PAGE_MASK"),
    Check("below the window", lambda c: _entry(c) < _window(c)[0], "EINVAL", _CLEAR + "ioba < tbl->it_offset"),
    Check(
        "past the window",
        lambda c: _entry(c) + _pages(c) > sum(_window(c)),
        "EINVAL",
        _CLEAR + "(ioba + npages) > offset + size",
    ),
)

SEED2013: Final = Profile(
    "seed2013",
    {
        1: Request("CHECK_EXTENSION", (), lambda c: int(c.argument == V1)),
        12: Request(
            "SPAPR_TCE_GET_INFO",
            (
                Check("no table", _no_table_warned, "ENXIO", "WARN_ON(!tbl)"),
                copies_in("SPAPR_TCE_GET_INFO"),
                long_enough("SPAPR_TCE_GET_INFO"),
            ),
            _seed_info,
        ),
        13: Request("MAP_DMA", SEED_MAP, lambda c: int(c.on.put(c))),
        14: Request("UNMAP_DMA", SEED_UNMAP, lambda c: int(c.on.clear(c.on.pe, _entry(c), _pages(c)))),
        15: Request(
            "ENABLE",
            (
                Check("no table", lambda c: c.on.pe is None, "ENXIO", "tce_iommu_enable: !container->tbl"),
                Check(
                    "no mm",
                    lambda c: c.process.exited or c.machine.without_mm,
                    "ESRCH",
                    "tce_iommu_enable: !current->mm",
                ),
                Check("enabled", lambda c: c.on.enabled, "EBUSY", "tce_iommu_enable: container->enabled"),
                Check(
                    "over the limit",
                    lambda c: not c.on.charge(c.process),
                    "ENOMEM",
                    "tce_iommu_enable: locked > lock_limit && !capable(CAP_IPC_LOCK)",
                ),
            ),
            _enable,
        ),
        16: Request("DISABLE", (), _seed_disable),
    },
    Request("any other", (Check("unknown", lambda _: True, "ENOTTY", "the end of tce_iommu_ioctl"),), lambda _: 0),
    extensions=frozenset({V1}),
    opens=frozenset({V1}),
    driver=Seed,
    gives_back=False,
)


# -- linux-v1


def _foreign(call: Call) -> bool:
    bound: Space | None = call.on.space
    return bound is not None and bound is not call.process.space


def _outside(call: Call) -> bool:
    first, entries = _window(call)
    return not first <= _entry(call) < first + entries


def _no_table_group(call: Call) -> bool:
    return call.on.pe is not None and not call.on.pe.has_table


def _past_the_end(call: Call) -> str | int:
    """What comes of it is the code of the whole macro, of whatever check in it fails."""
    if _entry(call) + _pages(call) <= sum(_window(call)):
        return ""
    return 1 if MISALIGNED in call.on.quirks else "EINVAL"


def _info(call: Call) -> int:
    argsz = call.param["argsz"]
    call.param |= dict.fromkeys(INFO_DDW.fields, 0)
    first, entries = _window(call)
    call.param |= {
        "argsz": argsz,
        "dma32_window_start": first << window.PAGE_SHIFT & 0xFFFFFFFF,
        "dma32_window_size": entries << window.PAGE_SHIFT & 0xFFFFFFFF,
    }
    return give(call, "SPAPR_TCE_GET_INFO_DDW", INFO_DDW.size if argsz >= INFO_DDW.size else INFO.size)


def _disable(call: Call) -> int:
    call.on.disable()
    return 0


def _unmap(call: Call) -> int:
    call.on.clear(call.on.pe, _entry(call), _pages(call))
    return 0


FOREIGN: Final = Check("another mm's", _foreign, "EPERM", "container->mm && container->mm != current->mm")
NOT_ENABLED: Final = Check("not enabled", lambda c: not c.on.enabled, "EPERM", "!container->enabled")
PENDING: Final = Check(
    "default window", lambda c: c.on.make_default_window(c.process), None, "tce_iommu_create_default_window"
)
OUTSIDE: Final = Check("in no window", _outside, "ENXIO", "tce_iommu_find_table")

PAST_THE_END: Final = Check(
    "past the window's end", _past_the_end, None, "iommu_tce_check_ioba: (ioba + npages) > (offset + size)", ONE_PAGE
)

V1_MAP: Final = (
    FOREIGN,
    NOT_ENABLED,
    copies_in("MAP_DMA"),
    long_enough("MAP_DMA"),
    Check("flags", lambda c: c.param["flags"] & ~tce.PERMISSIONS, "EINVAL", "flags beyond READ and WRITE"),
    PENDING,
    OUTSIDE,
    Check("size or vaddr misaligned", lambda c: _misaligned(c, "size", "vaddr"), "EINVAL", "~IOMMU_PAGE_MASK(tbl)"),
    Check("no permission", lambda c: not c.param["flags"], "EINVAL", "neither READ nor WRITE"),
    Check(
        "iova misaligned",
        lambda c: _misaligned(c, "iova"),
        "EINVAL",
        "iommu_tce_put_param_check, iommu_tce_check_ioba: ioba & ~mask",
        MISALIGNED,
        1,
    ),
    PAST_THE_END,
)

V1_UNMAP: Final = (
    FOREIGN,
    NOT_ENABLED,
    copies_in("UNMAP_DMA"),
    long_enough("UNMAP_DMA"),
    Check("flags", lambda c: c.param["flags"], "EINVAL", "param.flags"),
    PENDING,
    OUTSIDE,
    Check("size misaligned", lambda c: _misaligned(c, "size"), "EINVAL", "param.size & ~IOMMU_PAGE_MASK(tbl)"),
    Check(
        "iova misaligned",
        lambda c: _misaligned(c, "iova"),
        "EINVAL",
        "iommu_tce_clear_param_check, iommu_tce_check_ioba: ioba & ~mask",
        MISALIGNED,
        1,
    ),
    PAST_THE_END,
)

LINUX_V1: Final = Profile(
    "linux-v1",
    {
        1: Request("CHECK_EXTENSION", (), lambda c: int(c.argument in {V1, V2})),
        12: Request(
            "SPAPR_TCE_GET_INFO",
            (
                FOREIGN,
                Check("no group", lambda c: c.on.pe is None, "ENXIO", "!tce_groups_attached(container)"),
                Check("no table group", _no_table_group, "ENXIO", "!table_group"),
                copies_in("SPAPR_TCE_GET_INFO_DDW"),
                long_enough("SPAPR_TCE_GET_INFO_DDW"),
            ),
            _info,
        ),
        13: Request("MAP_DMA", V1_MAP, lambda c: int(c.on.build(c))),
        14: Request("UNMAP_DMA", V1_UNMAP, _unmap),
        15: Request(
            "ENABLE",
            (
                FOREIGN,
                Check("enabled", lambda c: c.on.enabled, "EBUSY", "tce_iommu_enable: container->enabled"),
                Check(
                    "no group", lambda c: c.on.pe is None, "ENODEV", "tce_iommu_enable: !tce_groups_attached(container)"
                ),
                Check("no table group", _no_table_group, "ENODEV", "tce_iommu_enable: !table_group"),
                Check("no bytes", lambda c: not c.on.pe.window_size, "EPERM", "tce_iommu_enable: !tce32_size"),
                Check(
                    "over the limit",
                    lambda c: c.on.over_limit(c.process),
                    "ENOMEM",
                    "tce_iommu_enable: tce_iommu_mm_set, account_locked_vm",
                ),
            ),
            _enable,
        ),
        16: Request("DISABLE", (FOREIGN,), _disable),
        21: Request(
            "EEH_PE_OP",
            (FOREIGN, Check("no EEH PE", lambda _: True, "ENODEV", "vfio_spapr_ioctl_eeh_pe_op: !pe")),
            lambda _: 0,
        ),
    },
    Request(
        "any other",
        (FOREIGN, Check("unknown", lambda _: True, "ENOTTY", "the end of tce_iommu_ioctl")),
        lambda _: 0,
    ),
    extensions=frozenset({V1, V2}),
    opens=frozenset({V1}),
    driver=SpaprTce,
)
PROFILES: Final = {profile.name: profile for profile in (SEED2013, LINUX_V1)}
DEFAULT: Final = LINUX_V1.name


def profile(name: str) -> Profile:
    """`linux-v1` and `linux-v2` are one module, and make containers of both types.

    :raise UsageError: no profile of that name.
    """
    from tcelab.emulator.linux_v2 import LINUX_V2  # noqa: PLC0415 - which is made of this module's profile

    known = {**PROFILES, LINUX_V2.name: LINUX_V2}
    try:
        return known[name]
    except KeyError:
        raise UsageError(f"no profile {name!r}; there are: {', '.join(known)}") from None
