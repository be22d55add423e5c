"""A program that isolates a PE of two devices beside another PE, and brings it back in both ways."""

from __future__ import annotations

from tcelab.program import Checkpoint, Dma, Ioctl, Look, Master, Op, Page, Program, Rtas, Together
from tcelab.program.topology import Device, Phb, Topology
from tcelab.scenarios import vocabulary as b

READ, WRITE, BOTH = 1, 2, 3
ONES = (1 << 64) - 1
END = 4 << 20
TWO_DEVICES = Topology(
    "two-devices", (Phb(1, (Device("pe1", 1), Device("pe1b", 3)), END), Phb(2, (Device("pe2", 2),), END))
)
ONE, TWO = b.pes(TWO_DEVICES, "s")
EEH, RESET = "ibm,set-eeh-option", "ibm,set-slot-reset"
STATE, CONFIGURE, DETAIL = "ibm,read-slot-reset-state2", "ibm,configure-pe", "ibm,slot-error-detail"

GOOD = {"pe1": 0x20000, "pe1b": 0x20000, "pe2": 0x20000}
"""A legal address of each device."""


def write(device: str, iova: int | None = None, size: int = 64, *, offset: int = 0) -> Dma:
    return Dma(file=device, iova=GOOD[device] if iova is None else iova, size=size, to_memory=True, offset=offset)


def read(device: str, iova: int | None = None, size: int = 64) -> Dma:
    return Dma(file=device, iova=GOOD[device] if iova is None else iova, size=size, to_memory=False)


def looks(*devices: str) -> list[Op]:
    return [Look(file=device, what=what) for device in devices for what in ("identity", "command")]  # type: ignore[arg-type]


def rtas(call: str, option: int = 0, device: str = "pe1") -> Rtas:
    return Rtas(call=call, device=device, option=option)


def opened() -> list[Op]:
    """PE 1: m:0 at 0x10000 read-write, tagged; m:1 at 0x20000 read-write; m:2 at 0x30000 read-only. PE 2: m:3 at
    0x20000 read-write. All three devices may master the bus.
    """
    ops: list[Op] = [*b.buffer("m", 8, 1), *b.tag(Page("m", 0), 1, ONE.liobn, 0x10000, 1)]
    ops += [op for i in range(1, 8) for op in b.fill(Page("m", i), 4096, i)]
    for pe in (ONE, TWO):
        ops += [*b.bind(pe), *b.open_container(pe), *b.enable(pe)]
        for device in pe.phb.devices:
            fields: dict[str, int | str | Page] = {"name": device.name}
            ops += [
                Ioctl(file=pe.group, request="GROUP_GET_DEVICE_FD", fields=fields, into=device.name, expect="ok"),
                Master(file=device.name, expect="ok"),
            ]
    ops += b.map_dma(ONE, Page("m", 0), 0x10000, 1, BOTH) + b.map_dma(ONE, Page("m", 1), 0x20000, 1, BOTH)
    ops += b.map_dma(ONE, Page("m", 2), 0x30000, 1, READ) + b.map_dma(TWO, Page("m", 3), 0x20000, 1, BOTH)
    return [*ops, Checkpoint(label="opened")]


def program(*ops: Op, isolation: bool = True) -> Program:
    """With a checkpoint at its end."""
    return Program(
        name="isolation",
        topology=TWO_DEVICES,
        ops=[*opened(), *ops, Checkpoint(label="end", stream=True)],
        isolation=isolation,
    )


VIOLATION = write("pe1", END)
FROZEN: list[Op] = [VIOLATION, *looks("pe1", "pe1b", "pe2"), write("pe1b"), write("pe2"), Checkpoint(label="frozen")]
THAWED: list[Op] = [
    rtas(STATE),
    rtas(EEH, 3),
    rtas(EEH, 2),
    *looks("pe1", "pe1b"),
    read("pe1b"),
    write("pe2"),
    Master(file="pe1b"),
    *looks("pe1b"),
    Checkpoint(label="thawed"),
    rtas(EEH, 3),
    *looks("pe1", "pe1b"),
    read("pe1b"),
    write("pe1b", offset=8),
    rtas(STATE),
]
AGAIN: list[Op] = [
    Together(ops=[read("pe1", 0x40000), write("pe1b"), write("pe2", size=128)]),
    *looks("pe1b"),
    Checkpoint(label="again"),
    rtas(RESET, 1),
    write("pe1"),
    rtas(STATE),
    rtas(CONFIGURE),
    rtas(RESET),
    rtas(CONFIGURE),
    *looks("pe1", "pe1b"),
    read("pe1"),
    Master(file="pe1"),
    Master(file="pe1b"),
    read("pe1"),
    write("pe1b", offset=16),
    rtas(DETAIL, 1),
    rtas(DETAIL, 1),
]


def story() -> Program:
    return program(*FROZEN, *THAWED, *AGAIN)
