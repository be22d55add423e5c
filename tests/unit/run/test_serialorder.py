"""Which order of hypercalls that were made at once explains what they left: held against all orders there are."""

import itertools
import random

from tcelab.papr.window import Shape
from tcelab.program import Call, Hcall, HcallBatch, Tce
from tcelab.run.record import Outcome
from tcelab.run.serialorder import serial
from thorough import often

LIOBN = 0x80000100
SHAPES = {LIOBN: Shape(64)}


def put(entry, value):
    return Call("H_PUT_TCE", [LIOBN, entry << 12, value])


def stuff(entry, value, count):
    return Call("H_STUFF_TCE", [LIOBN, entry << 12, value, count])


def listed(entry, *values):
    return Call("H_PUT_TCE_INDIRECT", [LIOBN, entry << 12, 0, len(values)], list(values))


def lane(*calls, frames=()):
    done = Outcome(value=0, fields={"statuses": [0] * len(calls)}, frames=list(frames))
    return HcallBatch(calls=list(calls), times=3), done


def held(**entries):
    return {(LIOBN, int(name[1:])): value for name, value in entries.items()}


def contradiction(lanes, **entries):
    return [number for _, number in serial(lanes, SHAPES, held(**entries)).contradiction]


def writes(call):
    first, value = call.args[1] >> 12, call.args[2]
    values = call.tces or [value] * (call.args[3] if len(call.args) > 3 else 1)
    return [(first + number, each) for number, each in enumerate(values)]


def left(calls):
    """What calls leave, one after the other; of empty entries nothing."""
    table = {}
    for call in calls:
        table.update(writes(call))
    return {(LIOBN, number): value for number, value in table.items() if value}


def orders(lanes):
    """All orders of the calls in which each lane's stand in its own."""
    places = [lane for lane, calls in enumerate(lanes) for _ in calls]
    return set(itertools.permutations(places))


def chosen(lanes, order):
    rest = [iter(calls) for calls in lanes]
    return [next(rest[lane]) for lane in order]


def test_what_each_writes_alone_is_not_contended():
    found = serial([lane(put(1, 0x1003)), lane(put(2, 0x2003))], SHAPES, held(e1=0x1003, e2=0x2003))
    assert found == serial([], SHAPES)


def test_of_an_entry_that_two_write_either_may_come_last():
    lanes = [lane(put(1, 0x1003)), lane(put(1, 0x2003))]
    assert serial(lanes, SHAPES).contended == {(LIOBN, 1)}
    assert serial(lanes, SHAPES, held(e1=0x1003)).order == ((1, 0), (0, 0))
    assert serial(lanes, SHAPES, held(e1=0x2003)).order == ((0, 0), (1, 0))


def test_a_call_is_one_piece():
    lanes = [lane(listed(1, 0x1003, 0x2003)), lane(listed(1, 0x3003, 0x4003))]
    assert serial(lanes, SHAPES, held(e1=0x1003, e2=0x2003)).order == ((1, 0), (0, 0))
    assert sorted(contradiction(lanes, e1=0x1003, e2=0x4003)) == [1, 2]


def test_a_process_makes_its_calls_in_its_own_order():
    lanes = [lane(put(1, 0x1003), put(2, 0x2003)), lane(put(2, 0x4003), put(1, 0x3003))]
    assert sorted(contradiction(lanes, e1=0x1003, e2=0x4003)) == [1, 2]
    assert contradiction(lanes, e1=0x3003, e2=0x2003) == []


def test_what_nobody_has_written_is_not_for_it_to_say():
    lanes = [lane(put(1, 0x1003)), lane(put(1, 0x2003))]
    found = serial(lanes, SHAPES, held(e1=0x9003))
    assert (found.contradiction, len(found.order)) == ((), 2)


def test_words_that_name_pages_are_their_frames_in_order():
    lanes = [lane(put(1, Tce("a")), put(2, Tce("a", 1, 1)), frames=(0x5000, 0x6000)), lane(put(1, 0x2003))]
    assert serial(lanes, SHAPES, held(e1=0x5003, e2=0x6001)).order == ((1, 0), (0, 0), (0, 1))


def test_where_nobody_knows_what_was_stored_it_says_so():
    failed = Hcall(call=put(99, 3)), Outcome(value=-4)
    unread = lane(Call("H_PUT_TCE_INDIRECT", [LIOBN, 0, 0x7000, 2]))
    elsewhere = lane(Call("H_PUT_TCE", [0x1234, 0, 3]))
    for each in (failed, unread, elsewhere):
        assert serial([each, lane(put(1, 3))], SHAPES).unknown


def test_it_explains_what_an_order_leaves_and_nothing_else():
    """All that few calls can leave, half of the values equal, and each with one entry changed."""
    chance = random.Random(4)
    for _ in range(often(12, 200)):
        lanes = [
            [
                chance.choice(
                    (
                        lambda n: put(chance.randrange(3), n),
                        lambda n: listed(chance.randrange(2), n, n + 0x1000),
                        lambda _: stuff(chance.randrange(2), 0, 2),
                    )
                )((1 + 4 * number + i) << 12)
                for i in range(chance.randrange(1, 3))
            ]
            for number in range(3)
        ]
        possible = [left(chosen(lanes, order)) for order in orders(lanes)]
        done = [lane(*calls) for calls in lanes]
        values = {value for calls in lanes for call in calls for _, value in writes(call)}
        for table in possible:
            found = serial(done, SHAPES, table)
            assert (found.unknown, found.contradiction) == ("", ())
            if found.order:
                assert left([lanes[at][position] for at, position in found.order]) == table
        for table, value in itertools.product(possible[:6], sorted(values)):
            changed = {key: each for key, each in (table | {(LIOBN, 1): value}).items() if each}
            found = serial(done, SHAPES, changed)
            explained = bool(found.order) and left([lanes[a][p] for a, p in found.order]) == changed
            if found.contended:
                alone = {key: each for key, each in changed.items() if key not in found.contended}
                right = any({k: v for k, v in each.items() if k not in found.contended} == alone for each in possible)
                assert explained == (changed in possible) or not right
