"""How long each named phase may take, in seconds. Printed by `tcelab run --help`; changed by `--limit PHASE=SECONDS`.

Where progress can be seen, a limit is on silence, not on the total time: new console bytes while the guest boots, the
agent's progress cell while it works.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tcelab.errors import UsageError


class Limits(msgspec.Struct, frozen=True):
    """The phases in the order in which a run meets them.

    :ivar launch: from spawning QEMU to its QMP greeting and negotiation.
    :ivar load: a fork's state, from the file to the devices; or a whole guest, to a file or from it.
    :ivar fork: from a fork's start to its agent's first answer.
    :ivar boot: silence of the console before the agent's handshake. A debug kernel under TCG on a loaded machine
        stays silent for some 20 s in its longest initcall.
    :ivar whole_boot: the boot as a whole: a guest that prints for ever is not progress.
    :ivar inner_start: with --passthrough, from the start of L1's QEMU until L2's console says something.
    :ivar inner_boot: silence of L2's console before its agent's handshake; `whole_inner_boot`: its boot as a whole.
    :ivar restart: from asking a guest to reset or to leave its kernel until it has; its next boot is a `boot`.
    :ivar unplug: from the guest's last step until QEMU says that a device is gone.
    :ivar plug: from plugging memory in, or pulling it, until the guest has taken it or given it back.
    :ivar connect: over ssh, until a machine shows its banner; each jump host anew.
    :ivar login: over ssh, to agree on keys, to log in, and to get a channel.
    :ivar copy: over ssh, silence while the agent is copied and started.
    :ivar perform: silence of the agent's progress cell, or of its beats over ssh. One container release sweeps 262,144
        entries, 0.7 s.
    :ivar control: one QMP command, the saving of device state included.
    :ivar settle: silence of the console after a panic, after which its output counts as complete.
    :ivar whole_settle: the whole output after a panic: a dying kernel may print for ever.
    :ivar close: from asking QEMU to quit to its end; then it is killed.
    """

    launch: float = 30.0
    load: float = 30.0
    fork: float = 20.0
    boot: float = 90.0
    whole_boot: float = 600.0
    inner_start: float = 120.0
    inner_boot: float = 120.0
    whole_inner_boot: float = 900.0
    restart: float = 60.0
    unplug: float = 30.0
    plug: float = 60.0
    connect: float = 30.0
    login: float = 30.0
    copy: float = 60.0
    perform: float = 60.0
    control: float = 30.0
    settle: float = 2.0
    whole_settle: float = 20.0
    close: float = 5.0


def limits(changes: Iterable[str]) -> Limits:
    """Limits with `PHASE=SECONDS` changes.

    :raise UsageError: no such phase, or not a number above 0.
    """
    values: dict[str, float] = {}
    for change in changes:
        phase, _, text = change.partition("=")
        if phase not in Limits.__struct_fields__:
            raise UsageError(
                f"no phase {phase!r} in --limit {change}; there are: {', '.join(Limits.__struct_fields__)}"
            )
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise UsageError(f"--limit {change}: the limit of {phase} must be a number of seconds above 0")
        values[phase] = seconds
    return Limits(**values)
