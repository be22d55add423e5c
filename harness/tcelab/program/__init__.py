"""A program: a topology and a list of operations, as plain data.

The agent performs guest operations inside the guest; the host performs host operations from outside. A JSON file is
decoded strictly, before anything runs.

- `diskcontent`: the contents of a disk when a session begins
- `dmaops`: operations of the kernel's own DMA API
- `drivenpes`: what the kernel's drivers have of a program's devices
- `expected`: what `expect` of an operation may be
- `guestop`: what all operations of the guest share
- `hazards`: what no program may ask for
- `hostops`: operations that the host performs, and what all operations share
- `inject`: lies that tcelab tells itself, for self-tests
- `kinds`: kinds of operations
- `kvmcalls`: hypercalls for which KVM has rules of its own
- `lengths`: classes of transfers by their length
- `lifeops`: operations in which tables are born, inherited and outlived
- `operations`: the operations, as plain data
- `operationspage`: makes `docs/operations.md`
- `pagetags`: the tags in guest memory
- `parts`: splits a program into parts, each for a guest of its own
- `plugged`: what of a topology is plugged in
- `program`: the program, and its form on disk
- `programjson`: decodes a program's JSON and explains errors in it
- `soundness`: checks the devices, quirks and page sizes that a program names
- `structpage`: describes a struct for the pages, from its docstring
- `topology`: PHBs and devices
- `validate_atonce`: its part about operations that are begun at once
- `validate_dma`: its part about the DMA API
- `validate_doorbell`: its part about the doorbells of probes
- `validate_flight`: rules of a device in flight over an event
- `validate_host`: its part about host operations
- `validate_hotplug`: rules of devices and PHBs that come and go
- `validate_hypercalls`: its part about hypercalls
- `validate_ioctls`: its part about ioctls
- `validate_life`: its part about resets, kexec, hot plug, memory and migration
- `validate_memory`: rules of memory that comes and goes
- `validate`: checks the operations of a program before anything boots
- `validated`: what a validated program has made so far
"""

from tcelab.program.dmaops import (
    DmaAlloc,
    DmaBind,
    DmaFree,
    DmaMap,
    DmaMapSg,
    DmaMask,
    DmaMove,
    DmaOp,
    DmaRepeat,
    DmaSync,
    DmaUnbind,
    DmaUnmap,
    Part,
)
from tcelab.program.guestop import Page, Word
from tcelab.program.hostops import Checkpoint, Ddw, Flip, Fresh, Rtas
from tcelab.program.kinds import is_guest, is_host, is_life
from tcelab.program.lifeops import (
    ENDS_KERNEL,
    FLOWN,
    RESETS,
    BridgeAdd,
    BridgeRemove,
    Crash,
    DeviceAdd,
    DeviceRemove,
    Flight,
    Kexec,
    LifeOp,
    Load,
    MemoryAdd,
    MemoryRemove,
    Reboot,
    Reset,
    Save,
)
from tcelab.program.operations import (
    AtOnce,
    Bind,
    Buffer,
    Burst,
    Call,
    Close,
    Dma,
    Doorbell,
    Engine,
    Exit,
    Fill,
    Frames,
    GuestOp,
    Hcall,
    HcallBatch,
    HostOp,
    Ioctl,
    Look,
    Master,
    Native,
    Op,
    Open,
    Protect,
    Put,
    Read,
    Repeat,
    Spawn,
    Tag,
    Tce,
    Together,
    Transfer,
)
from tcelab.program.program import FORMAT, Program, from_json, load

__all__ = [
    "ENDS_KERNEL",
    "FLOWN",
    "FORMAT",
    "RESETS",
    "AtOnce",
    "Bind",
    "BridgeAdd",
    "BridgeRemove",
    "Buffer",
    "Burst",
    "Call",
    "Checkpoint",
    "Close",
    "Crash",
    "Ddw",
    "DeviceAdd",
    "DeviceRemove",
    "Dma",
    "DmaAlloc",
    "DmaBind",
    "DmaFree",
    "DmaMap",
    "DmaMapSg",
    "DmaMask",
    "DmaMove",
    "DmaOp",
    "DmaRepeat",
    "DmaSync",
    "DmaUnbind",
    "DmaUnmap",
    "Doorbell",
    "Engine",
    "Exit",
    "Fill",
    "Flight",
    "Flip",
    "Frames",
    "Fresh",
    "GuestOp",
    "Hcall",
    "HcallBatch",
    "HostOp",
    "Ioctl",
    "Kexec",
    "LifeOp",
    "Load",
    "Look",
    "Master",
    "MemoryAdd",
    "MemoryRemove",
    "Native",
    "Op",
    "Open",
    "Page",
    "Part",
    "Program",
    "Protect",
    "Put",
    "Read",
    "Reboot",
    "Repeat",
    "Reset",
    "Rtas",
    "Save",
    "Spawn",
    "Tag",
    "Tce",
    "Together",
    "Transfer",
    "Word",
    "from_json",
    "is_guest",
    "is_host",
    "is_life",
    "load",
]
