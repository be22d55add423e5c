"""How long a boot takes, phase by phase, under each firmware that the QEMU has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from tcelab import artefacts, setup
from tcelab.bench import Figure
from tcelab.qemu.limits import limits as limits_of
from tcelab.qemu.session import QemuSession

_FIRMWARE: tuple[Literal["vof", "slof"], ...] = ("vof", "slof")


def measure(choice: setup.Choice, limits: Sequence[str], repeat: int, note: Callable[[str], None]) -> list[Figure]:
    """Boot `repeat` times with each firmware, in turns, and say when each phase was reached (seconds)."""
    ready = setup.prepare(choice, note)
    bounds = limits_of(limits)
    folder = artefacts.folder(None)
    reached: dict[tuple[str, str], list[float]] = {}
    for turn in range(repeat):
        for firmware in _FIRMWARE:
            own = folder / f"{turn}-{firmware}"
            own.mkdir(mode=0o700)
            options = msgspec.structs.replace(ready.options, firmware=firmware)
            with QemuSession(ready.qemu, options, own, limits=bounds, digest=ready.digest, note=note) as session:
                for phase, seconds in session.reached.items():
                    reached.setdefault((firmware, phase), []).append(seconds)
    figures = [
        Figure(f"{firmware}: {phase}", "s", values)
        for (firmware, phase), values in sorted(reached.items(), key=lambda item: (item[0][0], min(item[1])))
    ]
    pairs = zip(reached["vof", "ready"], reached["slof", "ready"], strict=True)
    return [*figures, Figure("vof / slof: ready", "ratio", [vof / slof for vof, slof in pairs])]
