"""Makes `docs/operations.md`: all operations of programs, from their docstrings. Each example can be run.

`python -m tcelab.program.operationspage > docs/operations.md` makes it anew; a test compares the page with this.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import msgspec
from msgspec.inspect import StructType
from msgspec.inspect import type_info as info_of

from tceagent import uapi
from tcelab.papr import hcallnumbers, isolationrules
from tcelab.program import guestop, hostops, lifeops
from tcelab.program import operations as ops
from tcelab.program.structpage import default_told, fields_told, summary, type_told
from tcelab.program.topology import TOPOLOGIES

Example = dict[str, Any]

PE: Final = {"op": "bind", "device": "pe1"}
CONTAINER: Final[list[Example]] = [
    {"op": "open", "file": "container", "path": "/dev/vfio/vfio"},
    {"op": "open", "file": "group", "path": "/dev/vfio/$pe1"},
    {"op": "ioctl", "file": "group", "request": "GROUP_SET_CONTAINER", "fields": {"container": "container"}},
    {"op": "ioctl", "file": "container", "request": "SET_IOMMU", "value": 2},
    {"op": "ioctl", "file": "container", "request": "ENABLE"},
]
DEVICE: Final = {
    "op": "ioctl",
    "file": "group",
    "request": "GROUP_GET_DEVICE_FD",
    "fields": {"name": "pe1"},
    "into": "device",
}
BUFFER: Final = {"op": "buffer", "name": "pages", "pages": 8, "seed": 1}
MAP: Final = {
    "op": "ioctl",
    "file": "container",
    "request": "MAP_DMA",
    "fields": {"flags": 3, "vaddr": {"buffer": "pages"}, "iova": "0x1f000", "size": "0x1000"},
}
BEFORE: Final[list[Example]] = [PE, *CONTAINER, DEVICE, BUFFER, {"op": "frames", "buffer": "pages"}]
"""Makes everything that an example names, unless `OWN` has something else for it."""

CALL: Final = {"opcode": "H_PUT_TCE", "args": ["0x80000100", "0x1f000", {"buffer": "pages", "permissions": 3}]}
TRANSFER: Final = {"file": "device", "iova": "0x1f000", "size": 64, "to_memory": False}

MAPPED: Final[Example] = {
    "op": "dmamap",
    "device": "pe1",
    "name": "m",
    "page": {"buffer": "pages", "index": 1},
    "size": 512,
}
DRIVEN: Final[list[Example]] = [BUFFER, {"op": "dmabind", "device": "pe1"}, MAPPED]
"""A driver of the DMA API with something mapped."""

ALOFT: Final = {"device": "pe1", "iova": "0x1f000", "size": 64, "to_memory": True}
GROWN: Final = {"op": "memoryadd", "dimm": "more", "mib": 256, "expect": "ok"}

EXAMPLES: Final[Mapping[str, list[Example]]] = {
    "spawn": [{"op": "spawn", "process": "child", "uid": 1000, "memlock": "0x100000"}],
    "exit": [{"op": "spawn", "process": "child"}, {"op": "exit", "process": "child"}],
    "buffer": [{"op": "buffer", "name": "more", "pages": 4, "seed": 2, "expect": "ok"}],
    "tag": [{"op": "tag", "buffer": "pages", "count": 2, "liobn": "0x80000100", "ioba": "0x1f000", "sequence": 1}],
    "fill": [{"op": "fill", "buffer": "pages", "offset": "0x1000", "size": 512, "seed": 7}],
    "frames": [{"op": "frames", "buffer": "pages"}],
    "protect": [{"op": "protect", "buffer": "pages", "access": "read"}],
    "put": [
        {"op": "put", "buffer": "pages", "request": "UNMAP_DMA", "fields": {"iova": "0x1f000", "size": "0x1000"}},
        {"op": "ioctl", "file": "container", "request": "UNMAP_DMA", "value": {"buffer": "pages"}},
    ],
    "bind": [{"op": "bind", "device": "pe1", "expect": "ok"}],
    "open": [{"op": "open", "file": "another", "path": "/dev/vfio/vfio", "expect": "ok"}],
    "close": [{"op": "close", "file": "device", "expect": "ok"}],
    "ioctl": [MAP | {"expect": "ok"}],
    "repeat": [
        {
            "op": "repeat",
            "times": 100,
            "ops": [
                {key: value for key, value in MAP.items() if key != "op"},
                {"file": "container", "request": "UNMAP_DMA", "fields": {"iova": "0x1f000", "size": "0x1000"}},
            ],
        }
    ],
    "master": [{"op": "master", "file": "device", "on": True}],
    "dma": [{"op": "master", "file": "device"}, MAP, {"op": "dma", **TRANSFER, "expect": "passed"}],
    "together": [{"op": "together", "ops": [TRANSFER]}],
    "burst": [{"op": "burst", "file": "device", "transfers": [["0x1f000", 64, False], ["0x1f040", 64, False, 64]]}],
    "doorbell": [
        {"op": "master", "file": "device"},
        MAP,
        {"op": "doorbell", **TRANSFER, "count": 8, "stride": 64, "expect": "passed"},
    ],
    "engine": [{"op": "engine", "file": "device", "ring": {"buffer": "pages"}, "iova": "0x20000"}],
    "look": [{"op": "look", "file": "device", "what": "identity"}],
    "read": [{"op": "read", "what": "vmlck"}],
    "hcall": [{"op": "hcall", "call": CALL, "expect": 0}],
    "hcallbatch": [{"op": "hcallbatch", "calls": [CALL], "times": 10}],
    "atonce": [
        {"op": "spawn", "process": "one"},
        {"op": "spawn", "process": "two"},
        {"op": "atonce", "count": 2},
        {"op": "ioctl", "by": "one", "file": "container", "request": "GET_API_VERSION"},
        {"op": "ioctl", "by": "two", "file": "container", "request": "GET_API_VERSION"},
    ],
    "native": [{"op": "native", "program": "vfio_loop", "args": ["$pe1", 32, 100]}],
    "dmabind": [{"op": "dmabind", "device": "pe2", "expect": "ok"}],
    "dmaunbind": [{"op": "dmaunbind", "device": "pe1", "late": True}, {"op": "dmaunmap", "name": "m"}],
    "dmamask": [{"op": "dmamask", "device": "pe2", "bits": 40, "which": "streaming"}],
    "dmaalloc": [{"op": "dmaalloc", "device": "pe1", "buffer": "own", "pages": 2, "expect": "ok"}],
    "dmafree": [
        {"op": "dmaalloc", "device": "pe1", "buffer": "own", "pages": 2},
        {"op": "dmafree", "buffer": "own", "expect": "ok"},
    ],
    "dmamap": [MAPPED | {"name": "other", "how": "page", "direction": "to-device"}],
    "dmamapsg": [
        {
            "op": "dmamapsg",
            "device": "pe1",
            "name": "list",
            "parts": [[{"buffer": "pages", "index": 1, "plus": 100}, 64], [{"buffer": "pages", "index": 4}, 4096]],
            "direction": "from-device",
        }
    ],
    "dmarepeat": [
        {
            "op": "dmarepeat",
            "device": "pe1",
            "lists": [[[{"buffer": "pages", "index": 1}, 4096]]],
            "times": 1000,
            "loop": "checked",
        }
    ],
    "dmasync": [{"op": "dmasync", "name": "m", "whom": "cpu", "size": 64}],
    "dmaunmap": [{"op": "dmaunmap", "name": "m", "expect": "ok"}],
    "dmamove": [{"op": "dmamove", "name": "m", "size": 64, "to_memory": True, "offset": 8, "expect": "passed"}],
    "checkpoint": [{"op": "checkpoint", "label": "mapped", "stream": True}],
    "flip": [{"op": "flip", "liobn": "0x80000100", "ioba": "0x1f000", "bit": 12}],
    "rtas": [{"op": "rtas", "call": isolationrules.READ_STATE, "device": "pe1"}],
    "ddw": [{"op": "ddw", "call": "create", "device": "pe1", "page_shift": 16, "window_shift": 30}],
    "reset": [{"op": "reset", "expect": "ok"}],
    "reboot": [{"op": "reboot", "expect": "ok"}],
    "kexec": [{"op": "kexec", "append": "quiet", "expect": "ok"}],
    "crash": [{"op": "crash", "expect": "ok", "flight": ALOFT}],
    "deviceadd": [{"op": "deviceadd", "device": "hot1", "expect": "ok"}],
    "deviceremove": [{"op": "deviceremove", "device": "pe2", "expect": "ok"}],
    "bridgeadd": [{"op": "bridgeadd", "phb": 3, "expect": "ok"}],
    "bridgeremove": [{"op": "bridgeremove", "phb": 2, "expect": "ok"}],
    "memoryadd": [GROWN],
    "memoryremove": [GROWN, {"op": "memoryremove", "dimm": "more", "expect": "ok"}],
    "save": [{"op": "save", "expect": "ok"}, {"op": "load", "expect": "ok"}],
    "load": [{"op": "save", "expect": "ok"}, {"op": "load", "order": "reversed", "expect": "ok"}],
    "fresh": [{"op": "fresh"}],
}
"""For each operation, the lines of its example: the operation, and what it needs around it."""

TOPOLOGY: Final = {
    "doorbell": "probe",
    "engine": "fast",
    "dmabind": "two-pe",
    "dmamask": "two-pe",
    "crash": "two-small-kdump",
    "deviceadd": "hotplug",
    "deviceremove": "hotplug",
    "bridgeadd": "hotplug",
    "bridgeremove": "hotplug",
    "memoryadd": "memory",
    "memoryremove": "memory",
}
"""Topology of an example that needs another one than `one-pe`."""
OWN: Final[Mapping[str, list[Example]]] = {
    "engine": [PE, CONTAINER[1], DEVICE | {"fields": {"name": "disk1"}}, BUFFER],
    "native": [PE],
    "dmabind": [],
    "dmamask": [{"op": "dmabind", "device": "pe2"}],
    **dict.fromkeys(
        ("dmaunbind", "dmaalloc", "dmafree", "dmamap", "dmamapsg", "dmarepeat", "dmasync", "dmaunmap", "dmamove"),
        DRIVEN,
    ),
    "deviceadd": [],
    "deviceremove": [],
    "bridgeadd": [],
    "bridgeremove": [],
}
"""What comes before an example in place of `BEFORE`: a group that is open cannot be opened again."""

FIELDS: Final[Mapping[str, str]] = {
    "access": "What is allowed from now on",
    "bits": "Its number of bits, 24 to 64",
    "bit": "0 is the least significant",
    "buffer": "Its name",
    "call": "A name, or opcode and arguments: see below",
    "calls": "Of one round, see below",
    "count": "How many pages",
    "device": "Its name in the topology",
    "direction": "Who writes the memory: with `to-device`, the device only reads it",
    "fields": "Of the struct, as those of `ioctl`",
    "file": "Its name: that which `open`, or `into` of an `ioctl`, gave it",
    "first": "Number of the first page",
    "ioba": "Bus address of the entry",
    "interrupt": "It sends an MSI at the end",
    "iova": "Bus address of the first byte in guest memory",
    "label": "For the report",
    "liobn": "Of the table",
    "name": "For all that uses it; a name is used once",
    "offset": "Of the first byte",
    "on": "Set it, else clear it",
    "ops": "The calls of one round",
    "pages": "IOMMU pages of 4 KiB",
    "parts": "In order, each a place in a buffer and a number of bytes",
    "process": "Its name, for `by`",
    "program": "Its name",
    "request": "The request whose struct it is",
    "seed": "The same seed gives the same data",
    "sequence": "Tells mappings of one entry apart",
    "size": "Bytes",
    "stride": "From one transfer to the next",
    "times": "How many rounds",
    "to_memory": "The device writes guest memory; else it reads it",
    "transfers": "In order",
}
"""Meaning of a field of which the operation's docstring says nothing."""

_INTRO: Final = """\
# Operations of a program

<!-- Made from the docstrings of program/operations.py: python -m tcelab.program.operationspage > docs/operations.md -->

`tcelab run FILE.json` runs a program of your own and judges it. A program is JSON:

```json
{full}
```

`topology` is the name of one ({topologies}), or an object as in `program.json` of any run.
Operations are done in order and counted from 0. A number may be written as `4096` or as `"0x1000"`.
`docs/examples/dma.json` is a whole one: it maps two pages and has a device read and write them.

A program that can pass ends with a `checkpoint`, has one with `"stream": true`, and looks at an entry that is live and
whose page carries a `tag`. The one above maps nothing, so it ends with 125; the
verdict says what is missing.

Every operation takes these fields:

| field | type | default | meaning |
| --- | --- | --- | --- |
| `expect` | text or number | null | {expect} |
| `by` | text | "" | {by} Host operations have none. |

Where a field takes a place in a buffer, it is `{{"buffer": "pages", "index": 1, "plus": 0}}`: {page}
"""


def operations() -> dict[str, type[msgspec.Struct]]:
    """Every operation by the name that it has in JSON, guest operations first."""
    every = [*get_args(ops.GuestOp), *get_args(ops.HostOp), hostops.Fresh]
    return {str(each.__struct_config__.tag): each for each in every}


def program(name: str) -> dict[str, Any]:
    """A minimal program with the example of an operation in it."""
    known = operations()[name]
    last = [] if known is hostops.Fresh else [{"op": "checkpoint", "stream": True}]
    before = OWN.get(name, BEFORE)
    return {"name": name, "topology": TOPOLOGY.get(name, "one-pe"), "ops": [*before, *EXAMPLES[name], *last]}


def page() -> str:
    """The whole page, Markdown."""
    guest = {str(each.__struct_config__.tag) for each in get_args(ops.GuestOp)}
    every = operations()
    parts = [_intro(), "## In the guest\n\nThe agent in the guest does them.\n"]
    parts += [_operation(name, every[name]) for name in every if name in guest]
    parts.append("## From outside\n\nThe host does them, with the guest stopped or behind its back.\n")
    parts += [_operation(name, every[name]) for name in every if name not in guest]
    parts += ["## Names\n", *_names()]
    return "\n".join(parts)


def _intro() -> str:
    base, guest = fields_told(hostops._Op), fields_told(guestop._GuestOp)  # noqa: SLF001 - what all share
    ending = [{"op": "checkpoint", "stream": True}]
    full = _json({"name": "mine", "topology": "one-pe", "ops": [PE, *ending]})
    place = summary(guestop.Page)
    return _INTRO.format(full=full, topologies=", ".join(TOPOLOGIES), expect=base["expect"], by=guest["by"], page=place)


def _operation(name: str, kind: type[msgspec.Struct]) -> str:
    info = info_of(kind)
    assert isinstance(info, StructType)
    told = fields_told(kind)
    rows = [
        f"| `{it}` | {type_told(field.type)} | {default_told(field)} | {told.get(it) or FIELDS[it]} |"
        for field in info.fields
        if (it := field.encode_name) not in {"expect", "by"}
    ]
    table = ["| field | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""] if rows else []
    example = ["```json", *(_json(each) for each in EXAMPLES[name]), "```", ""]
    return "\n".join([f"### `{name}`", "", summary(kind), "", *table, *example])


def _json(value: object) -> str:
    return json.dumps(value)


def _names() -> Iterator[str]:
    """What the fields that take a name may hold."""
    yield f"`call`: {summary(ops.Call)} {_fields(ops.Call)}\n"
    yield f"TCE: {summary(ops.Tce)} {_fields(ops.Tce)}\n"
    yield f"`transfer`: {summary(ops.Transfer)} As a list: iova, size, to_memory, offset.\n"
    yield f"`flight`: {summary(lifeops.Flight)} {_fields(lifeops.Flight)}\n"
    yield f"`opcode` of a call: {_listed(hcallnumbers.NAMES)}, or a number.\n"
    yield f"`call` of `rtas`: {_listed(isolationrules.CALLS)}.\n"
    yield "`request` of `ioctl` and `put`, with the fields of its struct (`argsz` is its size unless said):\n"
    yield "| request | fields | what comes out |\n| --- | --- | --- |"
    for name in uapi.NUMBERS:
        layout = uapi.LAYOUTS.get(name)
        taken = _listed(layout.fields) if layout else '`"name"`' if name == "GROUP_GET_DEVICE_FD" else "none: `value`"
        yield f"| `{name}` | {taken} | {_listed(layout.outputs) if layout else ''} |"
    yield ""


def _fields(kind: type[msgspec.Struct]) -> str:
    told = fields_told(kind)
    return " ".join(f"`{name}`: {told[name]}" for name in kind.__struct_fields__ if name in told)


def _listed(names: Any) -> str:  # noqa: ANN401 - any iterable of names
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())
