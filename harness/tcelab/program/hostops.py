"""What all operations share, and the host's: performed from outside, with the guest stopped or without its kernel."""

from __future__ import annotations

from typing import Literal

import msgspec


class _Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower, kw_only=True):
    """:ivar expect: The required outcome; any other is a finding. `"ok"`: it returned 0 or, where it opens something, a
    descriptor. Otherwise an errno's name, or the returned number. For a `dma`, `together`, `burst` or `doorbell` also
    `"passed"` or `"refused"`: it ended, and all of it passed, or none of it. Without `expect` any outcome is accepted,
    and only its consequences are judged. A `checkpoint` and a `fresh` have no outcome and take no `expect`.
    """

    expect: str | int | None = None


class Checkpoint(_Op, frozen=True, kw_only=True):
    """Stop the guest, read every table of every LIOBN and the guest RAM behind each entry, and judge all of it.

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
    """Call a firmware service for a device's PE, see `papr/isolationrules.py`. Outcome: `value` is the status;
    `fields` of ibm,read-slot-reset-state2: `state`, `supported`, `wait` (milliseconds), `recovery`.

    :ivar option: of ibm,set-eeh-option, ibm,set-slot-reset and ibm,slot-error-detail.
    """

    call: str
    device: str
    option: int = 0


class Ddw(_Op, frozen=True, kw_only=True):
    """Call a firmware service for the dynamic DMA windows of a device's PE, without its kernel (RTAS ibm,query-,
    ibm,create-, ibm,remove- and ibm,reset-pe-dma-window, PAPR 7.3.31). Outcome: `value` is the status; `fields` of
    `query`: `left` (windows), `largest` (block of TCEs), `page_sizes` (mask), `migration`; of `create`: `liobn` and
    `start`, the bus address of the new window.

    :ivar page_shift: log2 of the IOMMU page size of a window to create; `window_shift`: log2 of its size.
    :ivar liobn: LIOBN of the window to remove.
    """

    call: Literal["query", "create", "remove", "reset"]
    device: str
    page_shift: int = 0
    window_shift: int = 0
    liobn: int = 0


class Fresh(_Op, frozen=True, kw_only=True):
    """Continue in another guest, as fresh as the first one was. The operations after it share nothing with those before
    it, so the parts of a program may run side by side.
    """
