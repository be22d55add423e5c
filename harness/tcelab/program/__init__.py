"""A program: a topology and a list of operations, as plain data.

Guest operations are done by the agent inside the guest, host operations from outside. A JSON file decodes strictly,
before anything runs.

- `diskcontent`: what is on a disk when a session begins
- `expected`: what `expect` of an operation may be
- `hazards`: what no program may ask for
- `hostops`: operations that are done from outside, with the guest stopped, and what all operations share
- `inject`: lies that tcelab tells itself
- `operations`: the operations, as plain data
- `operationspage`: makes `docs/operations.md`
- `pagetags`: the tags in guest memory
- `parts`: a program in parts, each for a guest of its own
- `program`: the program, and its form on disk
- `programjson`: reads a program's JSON, and says what is wrong with it
- `soundness`: is a program one that any guest can be asked for?
- `structpage`: what the pages say of a struct, out of its docstring
- `topology`: PHBs and devices
- `validate`: is a program whole?
- `validate_host`: the same of host operations
- `validate_hypercalls`: the same of hypercalls
- `validate_ioctls`: the same of ioctls
"""

from tcelab.program.hostops import Checkpoint, Ddw, Flip, Fresh, Rtas
from tcelab.program.operations import (
    Bind,
    Buffer,
    Burst,
    Call,
    Close,
    Dma,
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
    Page,
    Protect,
    Put,
    Read,
    Repeat,
    Spawn,
    Tag,
    Tce,
    Together,
    Transfer,
    Word,
)
from tcelab.program.program import FORMAT, Program, from_json, is_host, load

__all__ = [
    "FORMAT",
    "Bind",
    "Buffer",
    "Burst",
    "Call",
    "Checkpoint",
    "Close",
    "Ddw",
    "Dma",
    "Engine",
    "Exit",
    "Fill",
    "Flip",
    "Frames",
    "Fresh",
    "GuestOp",
    "Hcall",
    "HcallBatch",
    "HostOp",
    "Ioctl",
    "Look",
    "Master",
    "Native",
    "Op",
    "Open",
    "Page",
    "Program",
    "Protect",
    "Put",
    "Read",
    "Repeat",
    "Rtas",
    "Spawn",
    "Tag",
    "Tce",
    "Together",
    "Transfer",
    "Word",
    "from_json",
    "is_host",
    "load",
]
