"""What a guest asks of its platform, as plain data."""

from __future__ import annotations

import msgspec


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """Something that PAPR forbids and that the guest asked for, its kernel or a program through it.

    :ivar call: name of the hypercall or of the firmware service.
    :ivar why: what is wrong with it, in words.
    :ivar liobn: of a hypercall; `ioba`: bus address of its first entry, None if it is not known.
    :ivar entries: that it names.
    :ivar page_shift: of its window, or of the window that was asked for, whose size has `window_shift`.
    :ivar boot: it came before the first operation of any program.
    """

    call: str
    why: str
    liobn: int | None = None
    ioba: int | None = None
    entries: int = 0
    page_shift: int = 12
    window_shift: int = 0
    boot: bool = False


class Conduct(msgspec.Struct, kw_only=True):
    """What the guest asked of its platform since the snapshot before; in the first one, since QEMU's start.

    :ivar calls: by name of the hypercall or of the firmware service, how often.
    :ivar breaches: what PAPR forbids, and how often.
    """

    calls: dict[str, int] = {}
    breaches: list[tuple[Breach, int]] = []
