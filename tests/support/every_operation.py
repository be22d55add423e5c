"""One of each operation, and what the validator says of it."""

from __future__ import annotations

from msgspec import structs
from story import ONE, SMALL

from tcelab import program as p
from tcelab.errors import UsageError
from tcelab.program import Program
from tcelab.program.validate import Checker

MAP = p.Ioctl(file=ONE.container, request="MAP_DMA", fields={"vaddr": p.Page("b"), "size": 4096, "flags": 3})
BEFORE = (
    p.Buffer(name="b", pages=2),
    p.Bind(device="pe1"),
    p.Open(file=ONE.container, path="/dev/vfio/vfio"),
    p.Open(file=ONE.group, path="/dev/vfio/$pe1"),
    p.Ioctl(file=ONE.group, request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into=ONE.device),
    p.Spawn(process="child"),
)
DMA = p.Dma(file=ONE.device, iova=0, size=8, to_memory=False)
ONE_OF_EACH = (
    p.Spawn(process="other"),
    p.Exit(process="child"),
    p.Buffer(name="other", pages=1),
    p.Tag(buffer="b"),
    p.Fill(buffer="b", offset=0, size=8, seed=1),
    p.Frames(buffer="b"),
    p.Protect(buffer="b", access="read"),
    p.Put(buffer="b", request="MAP_DMA"),
    p.Bind(device="pe2"),
    p.Open(file="other", path="/dev/vfio/vfio"),
    p.Close(file=ONE.group),
    p.Ioctl(file=ONE.container, request="GET_API_VERSION"),
    p.Repeat(ops=[MAP], times=1),
    p.Master(file=ONE.device),
    DMA,
    p.Together(ops=[DMA]),
    p.Burst(file=ONE.device, transfers=[p.Transfer(0, 8, to_memory=False)]),
    p.Doorbell(file=ONE.device, iova=0, size=8, to_memory=False),
    p.Engine(file=ONE.device, ring=p.Page("b"), iova=0),
    p.Look(file=ONE.device, what="identity"),
    p.Read(what="vmlck"),
    p.Hcall(call=p.Call("H_GET_TCE", [])),
    p.HcallBatch(calls=[p.Call("H_GET_TCE", [])]),
    p.AtOnce(count=2),
    p.Native(program="vfio_loop", args=[]),
    p.DmaBind(device="pe2"),
    p.DmaUnbind(device="pe2"),
    p.DmaMask(device="pe2", bits=64),
    p.DmaAlloc(device="pe2", buffer="own", pages=2),
    p.DmaFree(buffer="own"),
    p.DmaMap(device="pe2", name="m", page=p.Page("b"), size=8),
    p.DmaMapSg(device="pe2", name="m", parts=[p.Part(p.Page("b"), 8)]),
    p.DmaRepeat(device="pe2", lists=[[p.Part(p.Page("b"), 8)]], times=3),
    p.DmaSync(name="m", whom="cpu"),
    p.DmaUnmap(name="m"),
    p.DmaMove(name="m", size=8, to_memory=False),
    p.Checkpoint(),
    p.Flip(liobn=0x80000100, ioba=0),
    p.Rtas(call="ibm,read-slot-reset-state2", device="pe1"),
    p.Ddw(call="query", device="pe1"),
    p.Reset(),
    p.Reboot(),
    p.Kexec(),
    p.Crash(),
    p.DeviceAdd(device="pe1"),
    p.DeviceRemove(device="pe1"),
    p.BridgeAdd(phb=1),
    p.BridgeRemove(phb=1),
    p.MemoryAdd(dimm="more", mib=256),
    p.MemoryRemove(dimm="more"),
    p.Save(),
    p.Load(),
    p.Fresh(),
)
DRIVEN = (
    p.DmaBind(device="pe2"),
    p.DmaAlloc(device="pe2", buffer="own", pages=2),
    p.DmaMap(device="pe2", name="m", page=p.Page("b"), size=8),
)
BEFORE_IT = {
    p.Load: (p.Save(),),
    p.MemoryRemove: (p.MemoryAdd(dimm="more", mib=256),),
    **dict.fromkeys((p.DmaUnbind, p.DmaMask, p.DmaAlloc, p.DmaMap, p.DmaMapSg, p.DmaRepeat), DRIVEN[:1]),
    **dict.fromkeys((p.DmaFree, p.DmaSync, p.DmaUnmap, p.DmaMove), DRIVEN),
}
"""What an operation needs before it, besides `BEFORE`."""
GROWING = structs.replace(SMALL, maxmem=1024, slots=2)


def before(op):
    """What is done before it, all of it."""
    return (*BEFORE, *BEFORE_IT.get(type(op), ()))


def named(op):
    return type(op).__name__


def checked(op):
    """What the validator says of an operation."""
    checker = Checker(Program(name="every", topology=GROWING, ops=[]))
    for each in before(op):
        checker.check(each)
    try:
        checker.check(op)
    except UsageError as error:
        return error.message
    return ""
