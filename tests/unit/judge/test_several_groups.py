"""Two groups in one container of type v2: what the fold makes of it, and what a driver that does it wrong is told."""

from tcelab.emulator import EmulatorSession
from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.effects_v2 import SpaprTceV2
from tcelab.emulator.vfiocore import ContainerFile
from tcelab.judge import Judge
from tcelab.program import (
    Bind,
    Buffer,
    Call,
    Checkpoint,
    Close,
    Frames,
    Hcall,
    Ioctl,
    Open,
    Page,
    Program,
    Read,
    Tag,
    Tce,
)
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program

WHERE = topology("two-small")
LAST, FIRST = 0x80000200, 0x80000100
"""LIOBNs of the group that joins last, and of the one that joins first."""
M = Page("m")


def ask(request, expect="ok", file="c", **fields):
    return Ioctl(file=file, request=request, fields=fields, expect=expect)


def mapping(expect="ok"):
    return ask("MAP_DMA", expect, flags=3, vaddr=M, iova=0, size=4096)


def stored(liobn, ioba):
    return Hcall(call=Call("H_PUT_TCE", [liobn, ioba, Tce("m", 1)]), expect=0)


def program(*ops):
    begin = [
        Read(what="vmlck", expect="ok"),
        *(Bind(device=f"pe{each}", expect="ok") for each in (1, 2)),
        Buffer(name="m", pages=16, expect="ok"),
        Frames(buffer="m", expect="ok"),
        Tag(buffer="m", liobn=FIRST, expect="ok"),
        Open(file="c", path="/dev/vfio/vfio", expect="ok"),
        *(Open(file=f"g{each}", path=f"/dev/vfio/$pe{each}", expect="ok") for each in (1, 2)),
        ask("GROUP_SET_CONTAINER", file="g1", container="c"),
        Ioctl(file="c", request="SET_IOMMU", value=7, expect="ok"),
        ask("GROUP_SET_CONTAINER", file="g2", container="c"),
        ask("SPAPR_REGISTER_MEMORY", vaddr=M, size=16 * 4096),
    ]
    return Program(name="groups", topology=WHERE, ops=[*begin, *ops, Read(what="vmlck", expect="ok"), Checkpoint()])


ALONE = [
    ask("GROUP_UNSET_CONTAINER", file="g2"),
    mapping(),
    Checkpoint(),
    stored(LAST, 0x5000),
    ask("GROUP_SET_CONTAINER", "EPERM", file="g2", container="c"),
    Checkpoint(),
    *(Close(file=each, expect="ok") for each in ("g1", "g2", "c")),
]
TOGETHER = [
    stored(FIRST, 0x3000),
    stored(LAST, 0x4000),
    mapping("EPERM"),
    Read(what="vmlck", expect="ok"),
    Checkpoint(),
]


def judged(*ops):
    made = program(*ops)
    session = EmulatorSession(WHERE)
    judge = Judge(made, session.facts)
    return judge.verdict(perform_program(made, session, judge))


def findings(*ops):
    return {(each.law, each.liobn, each.ioba) for each in judged(*ops).findings}


def test_nothing_is_wrong_with_what_the_driver_does():
    verdict = judged(*TOGETHER, *ALONE)
    assert ([each.message for each in verdict.findings], verdict.could_not, verdict.result) == ([], [], "pass")


def test_an_entry_that_is_not_emptied_with_a_window_made_in_vain_is_named(monkeypatch):
    monkeypatch.setattr(SpaprTce, "make_default_window", lambda *_: "EPERM")
    assert findings(*TOGETHER) == {("table", LAST, 0x4000)}


def test_the_other_groups_table_must_stay(monkeypatch):
    def both(it, pages):
        for pe in (it.pe, *it.others):
            pe.reset()
        return original(it, pages)

    original = SpaprTce.not_shared
    monkeypatch.setattr(SpaprTce, "not_shared", both)
    assert findings(*TOGETHER) == {("table", FIRST, 0x3000)}


def test_a_charge_for_a_window_made_in_vain_is_found(monkeypatch):
    monkeypatch.setattr(SpaprTce, "not_shared", lambda *_: "EPERM")
    assert {law for law, *_ in findings(*TOGETHER)} == {"charges"}


def test_a_map_that_succeeds_reaches_the_table_of_every_group(monkeypatch):
    """A driver that maps for one of two groups has half of its devices write where nothing is."""
    monkeypatch.setattr(SpaprTceV2, "not_shared", lambda it, _: it.others.clear())
    found = judged(mapping(), Checkpoint()).findings
    assert ("table", FIRST, 0) in {(each.law, each.liobn, each.ioba) for each in found}


def test_a_group_that_is_refused_leaves_its_pe_to_the_platform(monkeypatch):
    def stays(it, pe):
        if it.groups:
            pe.owned = False
        else:
            original(it, pe)

    original = ContainerFile._give_back
    monkeypatch.setattr(ContainerFile, "_give_back", stays)
    assert ("table", LAST, 0x5000) in findings(*ALONE)


def test_a_group_that_joins_a_container_with_a_window_is_found_by_its_outcome(monkeypatch):
    monkeypatch.setattr(SpaprTceV2, "attach", lambda it, pe: it.take(pe))
    assert "outcome" in {law for law, *_ in findings(*ALONE)}
