"""Operations of the host in which tables are born, inherited, handed over or outlived.

Source: QEMU hw/ppc/spapr.c (spapr_machine_reset), hw/ppc/spapr_pci.c (spapr_phb_dma_reset), hw/ppc/spapr_drc.c;
Linux arch/powerpc/kexec, arch/powerpc/platforms/pseries/dlpar.c.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from tcelab.program.hostops import _Op

Consent: TypeAlias = bool | Literal["drmgr", "rtas_errd"]
"""Who does the guest's part of a hot plug: the agent, by the kernel's own files (true); drmgr, which the agent calls as
an administrator would; rtas_errd, which hears QEMU's event and calls drmgr by itself; or nobody (false).
"""


class Flight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transfer that an edu is told to do while the guest stands still, and that the event meets before its end: 100
    ms of the guest's clock later the device translates, and does what the tables say then.

    :ivar device: its name in the topology; the other fields are those of `dma`.
    """

    device: str
    iova: int
    size: int
    to_memory: bool
    offset: int = 0


class _Flown(_Op, frozen=True, kw_only=True):
    """:ivar flight: a device in flight meanwhile, see below. The outcome of the event, of a `save` that of its `load`,
    then has a field `flight`: whether the device has `started` it, what QEMU `refused` of it, and the `pages` to which
    the tables led then, with what was there `before` and what has `changed`.
    """

    flight: Flight | None = None


class Reset(_Flown, frozen=True, kw_only=True):
    """Reset the machine from outside, as its power button's owner would (QMP system_reset). Its kernel boots anew.
    Outcome: `value` is 0; `fields`: `boot`, the number of the boot that follows, and, as of every event but `save` and
    `load`, `hypercalls`: those that the guest made on tables meanwhile, by LIOBN and kind.
    """


class Reboot(_Flown, frozen=True, kw_only=True):
    """Have the guest reboot itself, typed at its console (`reboot -f`). Outcome as of `reset`."""


class Kexec(_Flown, frozen=True, kw_only=True):
    """Load a second kernel, the same one, and jump into it: firmware and tables stay. Outcome as of `reset`.

    :ivar append: added to the second kernel's command line.
    """

    append: str = ""


class Crash(_Flown, frozen=True, kw_only=True):
    """Load a crash kernel, the same one, and make the kernel panic: the crash kernel comes up (kdump). The topology
    needs a `crashkernel`. Outcome as of `reset`.

    :ivar append: added to the crash kernel's command line.
    """

    append: str = ""


class DeviceAdd(_Op, frozen=True, kw_only=True):
    """Plug a device of the topology in that is not there. Outcome: `value` is 0.

    :ivar consent: the guest takes it; otherwise QEMU has it and the guest was not asked. By name: by which of its
        programs it does, see the page on the life of a table; the image must have them.
    """

    device: str
    consent: Consent = True


class DeviceRemove(_Flown, frozen=True, kw_only=True):
    """Pull a device. Outcome: `value` is 0.

    :ivar consent: the guest lets go of it; otherwise it is asked and does nothing.
    """

    device: str
    consent: Consent = True


class BridgeAdd(_Op, frozen=True, kw_only=True):
    """Plug a PHB of the topology in that is not there, with its devices. Outcome: `value` is 0.

    :ivar phb: its index.
    :ivar consent: as of `deviceadd`.
    """

    phb: int
    consent: Consent = True


class BridgeRemove(_Flown, frozen=True, kw_only=True):
    """Pull a PHB with its devices. Outcome: `value` is 0.

    :ivar phb: its index.
    :ivar consent: as of `deviceremove`.
    """

    phb: int
    consent: Consent = True


class MemoryAdd(_Op, frozen=True, kw_only=True):
    """Plug memory in. The topology needs `slots` and `maxmem`. Outcome: `value` is 0; `fields`: `address`, where in the
    guest's physical address space it lies, and `size`, its bytes.

    :ivar dimm: a name for it.
    :ivar mib: MiB, a multiple of 256.
    """

    dimm: str
    mib: int


class MemoryRemove(_Op, frozen=True, kw_only=True):
    """Pull memory that was plugged in. Outcome: `value` is 0; EBUSY: the guest has kept all of it.

    :ivar dimm: its name.
    """

    dimm: str


class Save(_Flown, frozen=True, kw_only=True):
    """Stop the guest and save all of it to a file (migration). A `load` must follow. Outcome: `value` is 0; `fields`:
    `bytes` of the file, and `windows` as of `load`.
    """


class Load(_Op, frozen=True, kw_only=True):
    """Load what was saved into a fresh QEMU, which takes the guest over. Outcome: `value` is 0; `fields`: `windows`,
    each with its `liobn`, `entries`, `page_shift` and `start`, and whether QEMU has it as the `default` one.

    :ivar order: of the devices on the fresh QEMU's command line: each behind its PHB, as the topology has them; or all
        behind the last PHB, from the last one on.
    :ivar qemu: another QEMU, by its recipe's name; empty: the one that the guest began with.
    """

    order: Literal["same", "reversed"] = "same"
    qemu: str = ""


LifeOp: TypeAlias = (
    Reset
    | Reboot
    | Kexec
    | Crash
    | DeviceAdd
    | DeviceRemove
    | BridgeAdd
    | BridgeRemove
    | MemoryAdd
    | MemoryRemove
    | Save
    | Load
)
"""The events that programs may have."""

KEPT: Final = "EBUSY"
"""Errno of a `memoryremove` whose memory the guest keeps; nothing has changed then."""

RESETS: Final = (Reset, Reboot)
"""Operations that reset the machine: firmware, tables and PEs are as at its start."""

ENDS_KERNEL: Final = (*RESETS, Kexec, Crash)
"""Operations after which another kernel runs: processes, files and buffers of the program are gone."""

FLOWN: Final = (*ENDS_KERNEL, DeviceRemove, BridgeRemove, Save)
"""Operations over which a device may be in flight."""
