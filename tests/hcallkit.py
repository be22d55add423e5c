"""Programs with raw hypercalls that tests of several folders run."""

from __future__ import annotations

from rows import hcalls
from tcelab.program import Buffer, Call, Checkpoint, Frames, Hcall, HcallBatch, Op, Page, Program, Tag, Tce
from tcelab.program.topology import topology
from tcelab.scenarios import vocabulary as b

SMALL = topology("two-small")
ONE, TWO = 0x80000100, 0x80000200
PAGE = 4096
CLEAR = [Call("H_STUFF_TCE", [liobn, 0, 0, 4096]) for liobn in (ONE, TWO)]
NO_RAM = 1 << 45
UNREADABLE = [(ONE, 0, 7), (ONE, 0xFFF000, 3), (ONE, 0x1000000, 3), (ONE | 1, 0, 3), (ONE, (1 << 64) - 1, 1)]
"""LIOBN, IOBA and pages of lists outside RAM that QEMU reads, at least their first TCE."""
SHOWN = [row for row in hcalls.ROWS if row.guest is True]


def put(liobn, ioba, tce, **more):
    return Hcall(call=Call("H_PUT_TCE", [liobn, ioba, tce]), **more)


def stuff(liobn, ioba, tce, npages):
    return Hcall(call=Call("H_STUFF_TCE", [liobn, ioba, tce, npages]))


def begin(pages=8):
    """A buffer whose pages are marked as those of the first entries from 0x10000 on."""
    tag = Tag(buffer="m", count=pages, liobn=ONE, ioba=0x10000, sequence=1)
    return [*b.pins(), Buffer(name="m", pages=pages, seed=3), Frames(buffer="m"), tag]


def device_story():
    """A device goes by entries that hypercalls stored: through, through one way, and not any more."""
    pe = b.pes(SMALL, "h")[0]
    return [
        *b.bind(pe),
        *b.open_container(pe),
        *b.open_device(pe),
        put(ONE, 0x10000, Tce("m", 0, 3), expect=0),
        put(ONE, 0x11000, Tce("m", 1, 1), expect=0),
        *b.checkpoint("stored"),
        *b.dma(pe, 0x10000, 256, to_memory=False),
        *b.dma(pe, 0x10800, 256, to_memory=True),
        *b.dma(pe, 0x11000, 64, to_memory=True),
        *b.dma(pe, 0x12000, 64, to_memory=False),
        *b.checkpoint("moved"),
        stuff(ONE, 0x10000, 0, 2),
        *b.checkpoint("cleared"),
        *b.dma(pe, 0x10000, 64, to_memory=False),
        *b.checkpoint("refused"),
        *b.close(pe.device, pe.group, pe.container),
        *b.pins(),
        *b.checkpoint("closed"),
    ]


def window_anew():
    """The first map of a container makes the window anew, and what a hypercall stored there is gone."""
    pe = b.pes(SMALL, "h")[0]
    return [
        *b.bind(pe),
        put(ONE, 0x20000, 0xFFC),
        *b.checkpoint("stored"),
        *b.open_container(pe),
        *b.enable(pe),
        *b.map_dma(pe, Page("m"), 0x10000, 1, 3),
        *b.checkpoint("mapped"),
        *b.unmap_dma(pe, 0x10000, 1),
        *b.close(pe.group, pe.container),
        *b.pins(),
        *b.checkpoint("closed"),
    ]


def unmapped_by_vfio():
    """What no program may do on a real kernel."""
    pe = b.pes(SMALL, "h")[0]
    return [
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.map_dma(pe, Page("m"), 0x10000, 1, 3),
        put(ONE, 0x11000, Tce("m", 1)),
        *b.unmap_dma(pe, 0x11000, 1),
    ]


def whole(*ops: Op) -> Program:
    return Program(name="hypercalls", topology=SMALL, ops=list(ops))


# -- rows


def of_row(row: hcalls.HcallRow) -> list[Op]:
    """What a row says, between two looks, and all clear again."""
    puts = [Call("H_PUT_TCE", [liobn, ioba, tce]) for liobn, held in row.before.items() for ioba, tce in held.items()]
    ops: list[Op] = [HcallBatch(calls=puts[at : at + 1000]) for at in range(0, len(puts), 1000)]
    args, tces = list(row.args), None
    if row.call == "H_PUT_TCE_INDIRECT" and not row.problem_state and hcalls.LIST <= args[2] < hcalls.LIST + PAGE:
        args[2] -= hcalls.LIST
        tces = list(row.memory[hcalls.LIST][:512])
    ops.append(Hcall(call=Call(row.call, args, tces), problem_state=row.problem_state, expect=row.status))
    return [*ops, Checkpoint(label=row.name), HcallBatch(calls=CLEAR)]


def rows_program() -> Program:
    ops = [op for row in SHOWN for op in of_row(row)]
    return Program(name="rows of hypercalls", topology=SMALL, ops=[*ops, Checkpoint(label="end", stream=True)])


def disagreements(row: hcalls.HcallRow, steps) -> list[str]:
    """Where a row's literals and the steps that end with its checkpoint differ."""
    outcome, snapshot = steps[-2].outcome, steps[-1].snapshot
    out = [] if outcome.value == row.status else [f"status {outcome.errno or outcome.value}, not {row.status}"]
    if row.r4 is not None and outcome.fields["registers"][0] != row.r4:
        out.append(f"r4 {outcome.fields['registers'][0]:#x}, not {row.r4:#x}")
    first = snapshot.tables[0].view
    for table in snapshot.tables:
        if table.view == first and table.entries:
            held = dict(zip((table.index.astype(int) << 12).tolist(), table.tce.tolist(), strict=True))
            if held != dict(row.after.get(table.liobn, {})):
                out.append(f"LIOBN {table.liobn:#x} holds {held}")
    return out
