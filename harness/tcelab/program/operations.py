"""The operations of programs, as plain data: what a guest does, and what is done to it from outside.

The structs here are the only definition. An agent handler is a function named after its operation that takes the same
fields.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A symbolic address: `plus` bytes into IOMMU page (4 KiB) number `index` of a buffer."""

    buffer: str
    index: int = 0
    plus: int = 0


Word: TypeAlias = int | str | Page
"""A number; the name of a file or device; or a place in a buffer."""


class _Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=str.lower, kw_only=True):
    """:ivar expect: `"ok"` (returned 0 or, where it makes a file, a descriptor), an errno's name, or the returned
    number; of a `dma`, `together` or `burst` also `"passed"` or `"refused"`: it ended, and all of it went through, or
    nothing of it. Anything else is a finding. Without it, any outcome is accepted and only its consequences are judged.
    A `checkpoint` and a `fresh` give nothing, and take none.
    """

    expect: str | int | None = None


class _GuestOp(_Op, frozen=True, kw_only=True):
    """:ivar by: the process that does it, by the name that its `Spawn` gave it; the agent itself by default."""

    by: str = ""


class Spawn(_GuestOp, frozen=True, kw_only=True):
    """Fork the agent. The child has the agent's open files, none of its buffers (MADV_DONTFORK), and no charges.

    :ivar uid: user that it becomes, which costs it its capabilities; None: it stays root.
    :ivar memlock: its RLIMIT_MEMLOCK, soft and hard, in bytes; None: as the agent's.
    """

    process: str
    uid: int | None = None
    memlock: int | None = None


class Exit(_GuestOp, frozen=True, kw_only=True):
    """End a child: its files are closed, its memory is gone. Its name and those of its buffers are not used again."""

    process: str


class Buffer(_GuestOp, frozen=True, kw_only=True):
    """Allocate memory in the agent: `pages` IOMMU pages (4 KiB), aligned to the kernel's page size, touched in an
    order shuffled by `seed` so that neighbouring pages have scattered frames. Outcome: `value` is its address.

    :ivar huge: in huge pages of 2 MiB, whole ones: each of them is one piece of guest RAM.
    """

    name: str
    pages: int
    seed: int = 0
    huge: bool = False


class Tag(_GuestOp, frozen=True, kw_only=True):
    """Fill pages `first .. first+count-1` of a buffer with the tag of the mapping that they are meant for: page
    number first+i carries (nonce, liobn, ioba + i * 4096, sequence), see `tcelab.program.pagetags`.
    """

    buffer: str
    first: int = 0
    count: int = 1
    liobn: int = 0
    ioba: int = 0
    sequence: int = 0


class Fill(_GuestOp, frozen=True, kw_only=True):
    """Fill `size` bytes at `offset` of a buffer with the data of `seed`, see `tcelab.program.pagetags.data`."""

    buffer: str
    offset: int
    size: int
    seed: int


class Frames(_GuestOp, frozen=True, kw_only=True):
    """Ask where a buffer's pages lie: outcome `frames`, a guest physical address per IOMMU page."""

    buffer: str


class Protect(_GuestOp, frozen=True, kw_only=True):
    """Change what a process may do with a whole buffer (mprotect): nothing, read, or read and write, as at first."""

    buffer: str
    access: Literal["none", "read", "write"]


class Put(_GuestOp, frozen=True, kw_only=True):
    """Write the struct of a request into a buffer, `offset` bytes in, for an `Ioctl` whose `value` leads there. Fields
    are as those of `Ioctl`.
    """

    buffer: str
    request: str
    offset: int = 0
    fields: dict[str, Word] = {}


class Bind(_GuestOp, frozen=True, kw_only=True):
    """Bind a device to vfio-pci. Outcome `fields`: address, group, liobn, window_start, window_size (from the
    device tree's `ibm,dma-window`), buid.
    """

    device: str


class Open(_GuestOp, frozen=True, kw_only=True):
    """Open a path and call the descriptor `file`. `$pe1` in the path is the IOMMU group of the bound device pe1."""

    file: str
    path: str


class Close(_GuestOp, frozen=True, kw_only=True):
    """Close a file, and unmap its registers if it is a device."""

    file: str


class Ioctl(_GuestOp, frozen=True, kw_only=True):
    """One ioctl. `request` is a name of `tceagent.uapi` or a number. `fields` fills the request's struct (argsz
    defaults to the struct's size, anything else to 0); `value`, a number or a place in a buffer, is passed as it is. A
    descriptor that is returned is called `into`. A MAP_DMA with fields that succeeds reports the `frames` of its pages,
    read while they are pinned.
    """

    file: str
    request: str | int
    fields: dict[str, Word] = {}
    value: int | Page | None = None
    into: str = ""


class Repeat(_GuestOp, frozen=True, kw_only=True):
    """Do `times` rounds of MAP_DMA and UNMAP_DMA ioctls on one file, as fast as the agent can, in one operation. Their
    words are resolved once. The first call that does not return 0 ends it.

    Outcome: `value` is 0, or what the call that ended it returned, or its errno. `fields`: `calls`, how many returned
    0, and `seconds` that they all took by the guest's clock. `frames`: of the pages of each MAP_DMA that succeeded at
    least once, in the order of `ops`, read afterwards.

    :ivar loop: `c`: nothing but C runs between two calls; `python`: each is done as an `Ioctl` is, for comparison.
    """

    ops: list[Ioctl]
    times: int
    loop: Literal["c", "python"] = "c"


class Master(_GuestOp, frozen=True, kw_only=True):
    """Set or clear bus mastering in a device's command register. Outcome `value`: the register read back."""

    file: str
    on: bool = True


class Dma(_GuestOp, frozen=True, kw_only=True):
    """Have a device transfer `size` bytes between its own memory (at `offset`: an edu's buffer, a disk) and bus address
    `iova`, and wait for its end. `to_memory`: the device writes memory; else it reads memory. Outcome: `value` is 0
    once it ended, whatever was refused; all ones when the device's registers could not be reached. So `"expect": "ok"`
    says only that it ends: `"passed"`, that every piece of it (what lies in one page) goes through as well, and
    `"refused"`, that every piece is refused.
    """

    file: str
    iova: int
    size: int
    to_memory: bool
    offset: int = 0


class Together(_GuestOp, frozen=True, kw_only=True):
    """Have several edus transfer at the same time: all are started, then all are awaited. Outcome: `value` is 0, or all
    ones when one of them could not be reached; `fields`: `ends`, the value of each, as its `Dma` would have it. Its
    transfers have no `expect` of their own: `"passed"` and `"refused"` are about all of them.
    """

    ops: list[Dma]


class Transfer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One transfer of a `Burst`: fields as those of `Dma`."""

    iova: int
    size: int
    to_memory: bool
    offset: int = 0


class Burst(_GuestOp, frozen=True, kw_only=True):
    """Have a device do many transfers, one after the other, as fast as the agent can. Outcome: `value` is 0, or what
    the transfer that ended it early gave; `fields`: `done`, how many were, and `seconds` by the guest's clock.
    `"passed"` and `"refused"` are about all of them.
    """

    file: str
    transfers: list[Transfer]


class Engine(_GuestOp, frozen=True, kw_only=True):
    """Set a virtio-blk device up, which resets it: its queue lies in two pages from `ring` on, which are mapped
    at bus address `iova`, for reading and writing. From then on the device knows no other.
    """

    file: str
    ring: Page
    iova: int


class Look(_GuestOp, frozen=True, kw_only=True):
    """Look at a device as its driver sees it: `identity`, 32 bits of its mapped registers that never change (all ones:
    they cannot be reached), or `command`, its PCI command register. Outcome: `value`.
    """

    file: str
    what: Literal["identity", "command"]


class Read(_GuestOp, frozen=True, kw_only=True):
    """Read a counter: `vmlck` (KiB of the process), `pins` (page pins held, whole kernel). Outcome: `value`."""

    what: str


class Tce(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The TCE that leads to page number `index` of a buffer: the page's real address | `permissions`, + `plus`. Without
    permissions, it is that address.
    """

    buffer: str
    index: int = 0
    permissions: int = 3
    plus: int = 0


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hypercall.

    :ivar opcode: a name of `tcelab.papr.hcallnumbers.NAMES`, or a number.
    :ivar args: registers from r4 on, four at most; those that are not given are 0.
    :ivar tces: what the list page of H_PUT_TCE_INDIRECT holds. The third argument is then an offset into that page.
    """

    opcode: str | int
    args: list[int | Tce]
    tces: list[int | Tce] | None = None


class Hcall(_GuestOp, frozen=True, kw_only=True):
    """One hypercall, by the guest's kernel. Outcome: `value` is its status, signed; `fields`: `registers`, r4 to r7 as
    they are after it, and `ticks` of the time base that it took; `frames`: of its Tce words, in order.

    :ivar problem_state: by the process itself, `sc 1` without the kernel. There are no `registers` and `ticks` then.
    """

    call: Call
    problem_state: bool = False


class HcallBatch(_GuestOp, frozen=True, kw_only=True):
    """Several hypercalls in one call of the kernel, all of them `times` times over. Outcome: `value` is 0; `fields`:
    `statuses`, `registers` and `ticks` of each, of the last round; of more rounds than one also `calls` that were done,
    `seconds` by the guest's clock, and `ticks` are those of all rounds, the same for each. `frames`: of all Tce words.

    :ivar loop: who does the rounds: the kernel's module, or the agent, one call of the kernel for each; it reads what
        they gave after the last. Then `ticks` are those of the last rounds alone.
    """

    calls: list[Call]
    times: int = 1
    loop: Literal["module", "agent"] = "module"


class Native(_GuestOp, frozen=True, kw_only=True):
    """Run one of the guest's own C programs to its end. Outcome: `value` is its exit status, 0 if all went well;
    `fields`: the numbers that it reports. `vfio_loop` maps and unmaps as `Repeat` does, without an agent: group, pages,
    rounds; it reports `calls` and `microseconds`. `fuzz_hcall` throws malformed requests at the module for raw
    hypercalls: how many, seed; it reports how many were refused, by errno, `accepted`, and `wrong`.

    :ivar args: `$name`: the number of a bound device's group.
    """

    program: Literal["vfio_loop", "fuzz_hcall"]
    args: list[int | str]


class Checkpoint(_Op, frozen=True, kw_only=True):
    """Stop the guest, read every table of every LIOBN by every view asked for, and the memory behind it.

    :ivar stream: also by the state stream.
    :ivar batch: the batch size that this checkpoint belongs to in the report; 0: none.
    """

    label: str = ""
    stream: bool = False
    batch: int = 0


class Flip(_Op, frozen=True, kw_only=True):
    """A lie: flip one bit of one entry in QEMU's live table, behind everybody's back."""

    liobn: int
    ioba: int
    bit: int = 12


class Rtas(_Op, frozen=True, kw_only=True):
    """Ask the platform's firmware for a service of the PE of a device, see `tcelab.papr.pe`. Outcome: `value` is the
    status; `fields` of ibm,read-slot-reset-state2: `state`, `supported`, `wait` (milliseconds), `recovery`.

    :ivar option: of ibm,set-eeh-option, ibm,set-slot-reset and ibm,slot-error-detail.
    """

    call: str
    device: str
    option: int = 0


class Ddw(_Op, frozen=True, kw_only=True):
    """Ask the platform's firmware about the dynamic DMA windows of the PE of a device, behind its kernel's back (RTAS
    ibm,query-, ibm,create-, ibm,remove- and ibm,reset-pe-dma-window, PAPR 7.3.31). Outcome: `value` is the status;
    `fields` of `query`: `left` (windows), `largest` (block of TCEs), `page_sizes` (mask), `migration`; of `create`:
    `liobn` and `start`, the bus address of the new window.

    :ivar page_shift: of the IOMMU pages of a window to create; `window_shift`: of its size.
    :ivar liobn: of the window to remove.
    """

    call: Literal["query", "create", "remove", "reset"]
    device: str
    page_shift: int = 0
    window_shift: int = 0
    liobn: int = 0


class Fresh(_Op, frozen=True, kw_only=True):
    """Go on in another guest, as fresh as the first one was. What comes after shares nothing with what came before:
    the parts of a program may be done side by side.
    """


GuestOp: TypeAlias = (
    Spawn
    | Exit
    | Buffer
    | Tag
    | Fill
    | Frames
    | Protect
    | Put
    | Bind
    | Open
    | Close
    | Ioctl
    | Repeat
    | Master
    | Dma
    | Together
    | Burst
    | Engine
    | Look
    | Read
    | Hcall
    | HcallBatch
    | Native
)
HostOp: TypeAlias = Checkpoint | Flip | Rtas | Ddw
Op: TypeAlias = GuestOp | HostOp | Fresh
