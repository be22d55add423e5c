"""The operations of programs, as plain data: those of the guest here, those of the host in `hostops`.

These structs are the only definition. An agent handler is a function named after its operation that takes the same
fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from tcelab.program.dmaops import DmaOp
from tcelab.program.guestop import Page, Word, _GuestOp
from tcelab.program.hostops import Checkpoint, Ddw, Flip, Fresh, Rtas
from tcelab.program.lifeops import LifeOp

_ADDRESSES: Final = 1 << 64


class Spawn(_GuestOp, frozen=True, kw_only=True):
    """Fork the agent. The child has the agent's open files, none of its buffers (MADV_DONTFORK), and no charges.

    :ivar uid: the user that it becomes, without capabilities; null: it stays root.
    :ivar memlock: its RLIMIT_MEMLOCK, soft and hard, in bytes; null: the agent's.
    """

    process: str
    uid: int | None = None
    memlock: int | None = None


class Exit(_GuestOp, frozen=True, kw_only=True):
    """End a child. Its files are closed and its memory is freed. Its name and its buffers' names cannot be reused."""

    process: str


class Buffer(_GuestOp, frozen=True, kw_only=True):
    """Allocate memory, aligned to the kernel's page size. Outcome: `value` is its address.

    :ivar seed: decides the order in which pages are touched, so that neighbours have scattered frames.
    :ivar huge: in huge pages, 2 MiB at a time; each 2 MiB are contiguous in guest RAM.
    """

    name: str
    pages: int
    seed: int = 0
    huge: bool = False


class Tag(_GuestOp, frozen=True, kw_only=True):
    """Fill pages `first .. first+count-1` of a buffer with the tag of the mapping that they are meant for: page first+i
    carries (nonce, liobn, ioba + i * 4096, sequence). A tag found where an entry leads proves the entry.
    """

    buffer: str
    first: int = 0
    count: int = 1
    liobn: int = 0
    ioba: int = 0
    sequence: int = 0


class Fill(_GuestOp, frozen=True, kw_only=True):
    """Fill `size` bytes at `offset` of a buffer with data that depends on the seed alone."""

    buffer: str
    offset: int
    size: int
    seed: int


class Frames(_GuestOp, frozen=True, kw_only=True):
    """Read a buffer's frames from the guest's pagemap. Outcome: `frames`, the physical address of each IOMMU page."""

    buffer: str


class Protect(_GuestOp, frozen=True, kw_only=True):
    """Change a process's access to a whole buffer (mprotect). At first it may read and write."""

    buffer: str
    access: Literal["none", "read", "write"]


class Put(_GuestOp, frozen=True, kw_only=True):
    """Write the struct of a request into a buffer, for an `ioctl` whose `value` leads there."""

    buffer: str
    request: str
    offset: int = 0
    fields: dict[str, Word] = msgspec.field(default_factory=dict)


class Bind(_GuestOp, frozen=True, kw_only=True):
    """Bind a device to vfio-pci. Outcome: `fields`: address, group, buid, and from the device tree's `ibm,dma-window`
    liobn, window_start and window_size.
    """

    device: str


class Open(_GuestOp, frozen=True, kw_only=True):
    """Open a path. Outcome: `value` is the descriptor.

    :ivar path: `$pe1` in it stands for the IOMMU group of the bound device pe1.
    """

    file: str
    path: str


class Close(_GuestOp, frozen=True, kw_only=True):
    """Close a file, and unmap its registers if it is a device."""

    file: str


class Ioctl(_GuestOp, frozen=True, kw_only=True):
    """One ioctl. Outcome: `value` is what it returned, `fields` the struct's output fields; for a MAP_DMA that succeeds
    also `frames`, those of its pages, read while they are pinned.

    :ivar request: a name of the table below, or a number.
    :ivar fields: fields of the request's struct, by name. `argsz` defaults to the struct's size, any other to 0.
    :ivar value: the third argument itself, a number or a place in a buffer, instead of `fields`.
    :ivar into: name for the returned descriptor.
    """

    file: str
    request: str | int
    fields: dict[str, Word] = msgspec.field(default_factory=dict)
    value: int | Page | None = None
    into: str = ""


class Repeat(_GuestOp, frozen=True, kw_only=True):
    """Perform rounds of MAP_DMA and UNMAP_DMA on one file in one operation, as fast as the agent can. Words are
    resolved once. The first call that does not return 0 ends it.
    Outcome: `value` is 0, or what the call that ended it returned, or its errno. `fields`: `calls`, how many returned
    0, and `seconds` for all of them by the guest's clock. `frames`: those of the pages of each MAP_DMA that succeeded
    at least once, in the order of `ops`, read afterwards.

    :ivar loop: `c`: only C runs between two calls; `python`: each is done as a single `ioctl`, for comparison.
    """

    ops: list[Ioctl]
    times: int
    loop: Literal["c", "python"] = "c"


class Master(_GuestOp, frozen=True, kw_only=True):
    """Set or clear bus mastering in a device's command register. Outcome: `value` is the register read back."""

    file: str
    on: bool = True


class Dma(_GuestOp, frozen=True, kw_only=True):
    """Make a device transfer bytes between its own memory and guest memory, and wait for the end. Outcome: `value` is 0
    if it ended, whatever was refused; all ones if the device's registers could not be reached. `"expect": "ok"`
    requires only that it ends; `"passed"` and `"refused"` apply to every piece of it (the part in one page).

    :ivar to_memory: the device writes guest memory; else it reads it.
    :ivar offset: offset of the first byte in the device's own memory: the buffer of an edu, the disk of a virtio-blk.
    """

    file: str
    iova: int
    size: int
    to_memory: bool
    offset: int = 0


class Together(_GuestOp, frozen=True, kw_only=True):
    """Make several edus transfer at the same time: all are started, then all are awaited. Outcome: `value` is 0, or all
    ones if one of them could not be reached; `fields`: `ends`, the value of each, as a `dma` would give it.

    :ivar ops: the transfers. They have no `expect` of their own: `"passed"` and `"refused"` apply to all of them.
    """

    ops: list[Dma]


class Transfer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One transfer of a `burst`. Fields as those of `dma`."""

    iova: int
    size: int
    to_memory: bool
    offset: int = 0


class Burst(_GuestOp, frozen=True, kw_only=True):
    """Make a device do many transfers one after the other, as fast as the agent can. Outcome: `value` is 0, or that of
    the transfer that ended it early; `fields`: `done`, and `seconds` by the guest's clock. `"passed"` and `"refused"`
    apply to all of them.
    """

    file: str
    transfers: list[Transfer]


class Doorbell(_GuestOp, frozen=True, kw_only=True):
    """Ring the doorbell of a probe: it does many transfers of its own, one after the other. Number i is about the bus
    address `iova` + i * `stride` (modulo 2^64), and waits for what its refusals bring about. Outcome: `value` as of a
    `dma`; `fields`: `allowed` and `refused`, transfers that passed, and those that did not, whole or in part; `errno`
    and bus address of the `first_refused` page; `digest`, the CRC-32 of all that was read, zeros where it was refused.
    Of a PE that was isolated meanwhile, none of these can be read. `interrupts`: how many MSIs came; `no_interrupt`:
    the errno with which the kernel gave none. `"passed"` and `"refused"` apply to every piece of every transfer.

    :ivar count: how many transfers.
    :ivar size: bytes of each, up to 1 MiB; all of them lie in at most 65,536 pages.
    :ivar pattern: 64 bits, little endian: what each transfer to memory writes, repeated.
    :ivar interrupt: it sends an MSI at the end, for which the agent waits; else the agent looks at its status.
    """

    file: str
    iova: int
    size: int
    to_memory: bool
    count: int = 1
    stride: int = 0
    pattern: int = 0
    interrupt: bool = True

    def transfers(self) -> Iterator[Transfer]:
        """Each of them, in order."""
        for number in range(self.count):
            yield Transfer((self.iova + number * self.stride) % _ADDRESSES, self.size, self.to_memory)


class Engine(_GuestOp, frozen=True, kw_only=True):
    """Set up a virtio-blk device, which resets it. From then on it has one queue.

    :ivar ring: the first of the two pages that hold the queue.
    :ivar iova: bus address at which they are mapped for reading and writing.
    """

    file: str
    ring: Page
    iova: int


class Look(_GuestOp, frozen=True, kw_only=True):
    """Look at a device as its driver sees it. Outcome: `value`, 32 bits; all ones: the device cannot be reached.

    :ivar what: `identity`, mapped registers that never change, or `command`, its PCI command register.
    """

    file: str
    what: Literal["identity", "command"]


class Read(_GuestOp, frozen=True, kw_only=True):
    """Read a counter. Outcome: `value`.

    :ivar what: `vmlck` (KiB of locked memory of the process), `pins` (page pins held, whole kernel), `memory` (MiB that
        the kernel has online) or `limit` (MiB that firmware says RAM may grow to; 0: it does not say).
    """

    what: str


class Tce(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The TCE that leads to a page of a buffer: real address of the page | permissions, + plus.

    :ivar permissions: 1 the device may read, 2 it may write, 3 both; 0: the address alone.
    """

    buffer: str
    index: int = 0
    permissions: int = 3
    plus: int = 0


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hypercall.

    :ivar opcode: a name of the list below, or a number.
    :ivar args: registers from r4 on, four at most; the others are 0.
    :ivar tces: contents of the list page of H_PUT_TCE_INDIRECT. The third argument is then an offset into that page.
    """

    opcode: str | int
    args: list[int | Tce]
    tces: list[int | Tce] | None = None


class Hcall(_GuestOp, frozen=True, kw_only=True):
    """One hypercall by the guest's kernel (module tce_hcall). Outcome: `value` is its status, signed; `fields`:
    `registers`, r4 to r7 after it, and `ticks` of the time base that it took; `frames`: those of its TCEs, in order.

    :ivar problem_state: made by the process itself, `sc 1` in user mode; then there are no `registers` and `ticks`.
    """

    call: Call
    problem_state: bool = False


class HcallBatch(_GuestOp, frozen=True, kw_only=True):
    """Several hypercalls in one call of the kernel. Outcome: `value` is 0; `fields`: `statuses`, `registers` and
    `ticks` of each, in the last round; with more than one round also the number of `calls` and `seconds` by the guest's
    clock, and `ticks` are those of all rounds, the same for each. `frames`: those of all TCEs.

    :ivar loop: who performs the rounds: the kernel's module; or the agent, with one call of the kernel for each round,
        which reads the results of the last round only. `ticks` are then those of the last round.
    """

    calls: list[Call]
    times: int = 1
    loop: Literal["module", "agent"] = "module"


class AtOnce(_GuestOp, frozen=True, kw_only=True):
    """Begin the next `count` operations at once, by as many processes (`by`), each on a CPU of its own as far as there
    are as many. They can be `hcall`, `hcallbatch`, `repeat`, `ioctl`, `open`, `close`, and of the DMA API `dmarepeat`,
    `dmamap`, `dmamapsg`, `dmaunmap`, while nobody makes hypercalls for that table. What they leave is judged as what
    one after the other would: of an entry that several of them write, whichever order explains all entries. A
    `checkpoint` follows before anything else is done with such entries. The emulator does them in the order in which
    they stand. Outcome: `fields`: `spans`, when each began and ended, seconds by the guest's clock.
    """

    count: int


class Native(_GuestOp, frozen=True, kw_only=True):
    """Run one of the guest's own C programs to its end. Outcome: `value` is its exit status, 0 if all went well;
    `fields`: the numbers that it reports. `vfio_loop` (group, pages, rounds) maps and unmaps as `repeat` does, without
    an agent, and reports `calls` and `microseconds`. `fuzz_hcall` (how many, seed) gives malformed requests to the
    module for raw hypercalls and reports how many were refused, by errno, `accepted`, and `wrong`.

    :ivar args: `$name` is the number of a bound device's group.
    """

    program: Literal["vfio_loop", "fuzz_hcall"]
    args: list[int | str]


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
    | Doorbell
    | Engine
    | Look
    | Read
    | Hcall
    | HcallBatch
    | AtOnce
    | Native
    | DmaOp
)
HostOp: TypeAlias = Checkpoint | Flip | Rtas | Ddw | LifeOp
Op: TypeAlias = GuestOp | HostOp | Fresh
