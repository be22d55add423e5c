"""What all operations share, and those that are done from outside: with the guest stopped, or behind its back."""

from __future__ import annotations

from typing import Literal

import msgspec


class _Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower, kw_only=True):
    """:ivar expect: What the operation must give; anything else is a finding. `"ok"`: it returned 0 or, where it opens
    something, a descriptor. An errno's name, or the returned number. Of a `dma`, `together` or `burst` also `"passed"`
    or `"refused"`: it ended, and all of it went through, or none of it. Without `expect` any outcome is accepted, and
    only its consequences are judged. A `checkpoint` and a `fresh` give nothing and take none.
    """

    expect: str | int | None = None


class Checkpoint(_Op, frozen=True, kw_only=True):
    """Stop the guest, read every table of every LIOBN, and the guest RAM behind each entry. All of it is judged.

    :ivar stream: read the tables from the state stream as well as from live memory.
    :ivar batch: the batch size that this checkpoint belongs to in the report; 0: none.
    """

    label: str = ""
    stream: bool = False
    batch: int = 0


class Flip(_Op, frozen=True, kw_only=True):
    """A lie, for self-tests: flip one bit of one entry in QEMU's live table. It must be found."""

    liobn: int
    ioba: int
    bit: int = 12


class Rtas(_Op, frozen=True, kw_only=True):
    """Ask firmware for a service of a device's PE, see `papr/isolationrules.py`. Outcome: `value` is the status;
    `fields` of ibm,read-slot-reset-state2: `state`, `supported`, `wait` (milliseconds), `recovery`.

    :ivar option: of ibm,set-eeh-option, ibm,set-slot-reset and ibm,slot-error-detail.
    """

    call: str
    device: str
    option: int = 0


class Ddw(_Op, frozen=True, kw_only=True):
    """Ask firmware about the dynamic DMA windows of a device's PE, behind its kernel's back (RTAS ibm,query-,
    ibm,create-, ibm,remove- and ibm,reset-pe-dma-window, PAPR 7.3.31). Outcome: `value` is the status; `fields` of
    `query`: `left` (windows), `largest` (block of TCEs), `page_sizes` (mask), `migration`; of `create`: `liobn` and
    `start`, the bus address of the new window.

    :ivar page_shift: of the IOMMU pages of a window to create; `window_shift`: of its size.
    :ivar liobn: of the window to remove.
    """

    call: Literal["query", "create", "remove", "reset"]
    device: str
    page_shift: int = 0
    window_shift: int = 0
    liobn: int = 0


class Fresh(_Op, frozen=True, kw_only=True):
    """Go on in another guest, as fresh as the first was. What comes after shares nothing with what came before, so the
    parts of a program may run side by side.
    """
