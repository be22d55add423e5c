"""What probes reach between two hypercalls: each page early or late is a finding that names the IOBA and the point."""

import pytest
from msgspec import structs
from raced import AT, ENODEV, PAGE, Raced, at, nth, program

from tcelab.judge import Judge
from tcelab.run.loop import perform_program
from tcelab.run.points import Change, Reach

MAP, UNMAP = nth("MAP_DMA"), nth("UNMAP_DMA")


def judged(step=None, lie=lambda race: race):
    session = Raced(lambda number, race: lie(race) if number == step else race)
    watch = Judge(program(), session.facts)
    return watch.verdict(perform_program(program(), session, watch))


def answers(number, device, page, *, read=None, written=None, log=0):
    """A lie about one answer to a probe; `log`: how many refusals of a read QEMU's log has more."""

    def lie(race):
        point = race.points[number]
        reaches = []
        for reach in point.reaches:
            new = Reach(reach.device, list(reach.read), list(reach.written))
            if reach.device == device:
                new.read[page] = new.read[page] if read is None else read
                new.written[page] = new.written[page] if written is None else written
            reaches.append(new)
        refused = list(point.refused) + [(page, False)] * log
        for _ in range(-log):
            refused.remove((page, False))
        return at(race, number, reaches=reaches, refused=refused)

    return lie


def found(step, lie):
    return [(each.law, each.ioba, each.seen) for each in judged(step, lie).findings]


def test_what_is_raced_truly_is_no_finding_and_is_counted():
    verdict = judged()
    assert (verdict.findings, verdict.could_not) == ([], [])
    count = verdict.evidence.races
    assert (count.operations, count.points, count.calls) == (2, 16, 6)
    # Three pages and one on either side, two directions, two probes; only reads are let.
    assert count.reached + count.refused == 16 * 5 * 2 * 2
    assert count.reached == 2 * 2 * (0 + 0 + 1 + 1 + 2 + 2 + 3 + 3)


@pytest.mark.parametrize(
    ("step", "lie", "ioba", "seen"),
    [
        (MAP, answers(3, "pe1b", 2, read=0, log=-1), AT + PAGE, "reached"),
        (MAP, answers(2, "pe1", 1, read=ENODEV, log=1), AT, "refused (ENODEV)"),
        (MAP, answers(7, "pe1", 4, read=0, log=-1), AT + 3 * PAGE, "reached"),
        (UNMAP, answers(2, "pe1", 1, read=0, log=-1), AT, "reached"),
        (UNMAP, answers(7, "pe1b", 3, read=0, log=-1), AT + 2 * PAGE, "reached"),
        (UNMAP, answers(5, "pe1", 3, read=ENODEV, log=1), AT + 2 * PAGE, "refused (ENODEV)"),
    ],
    ids=["early", "not yet", "beside", "late", "after it returned", "too soon"],
)
def test_a_page_that_is_reached_early_or_late_is_a_finding_that_names_it(step, lie, ioba, seen):
    verdict = judged(step, lie)
    (finding,) = verdict.findings
    assert (finding.law, finding.ioba, finding.seen) == ("races", ioba, seen)
    assert f"operation {step}, point " in finding.message
    assert finding.operation.startswith(f"#{step} ")


def test_a_write_through_a_read_only_entry_is_a_finding():
    lie = answers(3, "pe1", 1, written=0)
    assert ("races", AT, "reached") in found(MAP, lie)


def test_a_refusal_that_qemu_has_not_logged_is_none_of_its_table():
    assert found(MAP, answers(1, "pe1", 1, log=-1)) == [("races", AT, "1 in QEMU's log")]


def test_an_expectation_that_is_shifted_by_one_point_is_found():
    def shifted(race):
        tables = [(each.table, each.reaches, each.refused) for each in race.points]
        moved = [tables[0], *tables[:-1]]
        points = [
            structs.replace(each, table=table, reaches=reaches, refused=refused)
            for each, (table, reaches, refused) in zip(race.points, moved, strict=True)
        ]
        return structs.replace(race, points=points)

    for step in (MAP, UNMAP):
        seen = found(step, shifted)
        assert {ioba for _, ioba, _ in seen} == {AT, AT + PAGE, AT + 2 * PAGE}
        assert {law for law, _, _ in seen} == {"races"}


@pytest.mark.parametrize(
    ("number", "new"),
    [(7, {"spoilt": [2]}), (7, {"table": [0, 0, 0x5003, 0, 0]})],
    ids=["memory that was changed", "an entry that is back"],
)
def test_what_is_late_in_memory_is_a_finding(number, new):
    assert [each[:2] for each in found(UNMAP, lambda race: at(race, number, **new))] == [("races", AT + PAGE)]


def test_other_bytes_than_those_where_the_entry_leads_are_a_finding():
    def lie(race):
        reaches = [Reach(each.device, each.read, each.written, [1]) for each in race.points[2].reaches]
        return at(race, 2, reaches=reaches[:1] + race.points[2].reaches[1:])

    assert found(MAP, lie) == [("races", AT, "others")]


def test_an_unmap_that_leaves_an_entry_is_a_finding_whatever_the_trace_says():
    def lie(race):
        points = []
        for number, each in enumerate(race.points):
            stays = race.points[4] if number > 4 else each
            points.append(structs.replace(stays, call=each.call, done=each.done, changes=each.changes[: number <= 4]))
        return structs.replace(race, points=points)

    assert found(UNMAP, lie) == [("races", AT + 2 * PAGE, "read")]


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda race: at(race, 3, changes=[Change(AT + PAGE, 0x5001)]), "stored between two points"),
        (lambda race: structs.replace(race, points=race.points[1:]), "without a point before it"),
        (lambda race: None, "was not raced"),
    ],
    ids=["unseen change", "no point before", "no race"],
)
def test_what_was_not_tried_is_no_pass(lie, why):
    assert any(why in each for each in judged(MAP, lie).could_not)


def test_a_run_without_a_race_is_no_pass():
    session = Raced(lambda _number, _race: None)
    watch = Judge(program(), session.facts)
    verdict = watch.verdict(perform_program(program(), session, watch))
    assert verdict.exit_code == 125
    assert any("no probe reached for memory between two hypercalls" in each for each in verdict.could_not)
