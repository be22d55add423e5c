"""States that no program can make, for rules that guard against them: set up on the first PE before anything is done.

A real kernel reaches them by a defect elsewhere, by hot-unplug, or on another machine; the driver's checks are the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from tcelab.emulator.events import ATTACHED, ENABLED
from tcelab.errors import UsageError

if TYPE_CHECKING:
    from tcelab.emulator.effects_2013 import Seed
    from tcelab.emulator.effects_v1 import SpaprTce
    from tcelab.emulator.platform import EmulatedPe, Machine

_OTHER_ENTRY: Final = 5
_GIB: Final = 1 << 30


def arrange(machine: Machine, names: Iterable[str]) -> None:
    """Set up states.

    :raise UsageError: a state that nobody knows.
    """
    for name in names:
        if name not in PRESET_STATES:
            raise UsageError(f"no state {name!r}; there are: {', '.join(PRESET_STATES)}")
        pe = next(pe for pe in machine.pes.values() if pe.devices)
        PRESET_STATES[name](machine, pe)


def _used(_machine: Machine, pe: EmulatedPe, *, entry: int) -> None:
    pe.kernel_uses.add(entry)


def _without_group(_machine: Machine, pe: EmulatedPe) -> None:
    pe.has_group = False


def _without_table(_machine: Machine, pe: EmulatedPe) -> None:
    pe.has_table = False


def _once(event: str, state: Callable[[Machine, EmulatedPe], None], machine: Machine, pe: EmulatedPe) -> None:
    machine.on.setdefault(event, []).append(lambda _: state(machine, pe))


def _forgets(event: str, machine: Machine, _pe: EmulatedPe) -> None:
    """The container loses what it was attached to."""

    def forget(container: SpaprTce | Seed) -> None:
        container.pe = None

    machine.on.setdefault(event, []).append(forget)


def _no_mm(machine: Machine, _pe: EmulatedPe) -> None:
    machine.without_mm = True


def _release_alone(machine: Machine, _pe: EmulatedPe) -> None:
    machine.detaches = False


def _window(_machine: Machine, pe: EmulatedPe, *, start: int, size: int) -> None:
    pe.set_window(start, size)


def _of_no_size(_machine: Machine, pe: EmulatedPe) -> None:
    pe.window_size = 0


def _cpu_pages(machine: Machine, _pe: EmulatedPe) -> None:
    machine.page_size = machine.ram.page_size = 65536


PRESET_STATES: Final[dict[str, Callable[[Machine, EmulatedPe], None]]] = {
    "bitmap-used": partial(_used, entry=_OTHER_ENTRY),
    "bit-0-used": partial(_used, entry=0),
    "table-without-group": _without_group,
    "table-loses-group-once-enabled": partial(_once, ENABLED, _without_group),
    "group-without-table": _without_table,
    "group-loses-table": partial(_once, ATTACHED, _without_table),
    "no-table": partial(_forgets, ATTACHED),
    "no-table-once-enabled": partial(_forgets, ENABLED),
    "no-group": partial(_forgets, ATTACHED),
    "no-group-once-enabled": partial(_forgets, ENABLED),
    "no-mm": _no_mm,
    "no-mm-once-enabled": partial(_once, ENABLED, _no_mm),
    "release-alone": _release_alone,
    "window-at-0x8000000": partial(_window, start=0x8000000, size=16 << 20),
    "window-4GiB": partial(_window, start=0, size=4 * _GIB),
    "window-60KiB": partial(_window, start=0, size=60 << 10),
    "window-size-0": _of_no_size,
    "cpu-pages-64KiB": _cpu_pages,
}
"""By name: what it does to the machine and to the PE of its first device."""
