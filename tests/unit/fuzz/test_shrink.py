"""The shrinker finds the smallest program that still fails, and asks only about programs that are whole."""

import random

import msgspec
import pytest

from tcelab.fuzz.generate import generate
from tcelab.fuzz.shrink import EnoughError, shrink, watch_all
from tcelab.fuzz.simpler import alone, smaller
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Dma,
    Exit,
    Fill,
    Frames,
    Ioctl,
    Open,
    Page,
    Program,
    Protect,
    Put,
    Repeat,
    Spawn,
    Tag,
    is_host,
)
from tcelab.program.topology import topology
from tcelab.program.validate import validate

PAGE = 4096
SMALL = topology("two-small")
WINDOW = SMALL.phbs[0].window_size
END = Checkpoint(label="end", stream=True)
CONTAINER = Open(file="c1", path="/dev/vfio/vfio")
MEMORY = Buffer(name="b1", pages=1)


def made(seed, steps=600):
    return generate(random.Random(seed), SMALL, steps).program


def program(*ops):
    return Program(name="p", topology=SMALL, ops=[*ops, END])


def map_(by="", **fields):
    return Ioctl(by=by, file="c1", request="MAP_DMA", fields={"flags": 3, "vaddr": Page("b1"), **fields})


def unmap(**fields):
    return Ioctl(file="c1", request="UNMAP_DMA", fields=fields)


def calls(program, request):
    return [op for op in program.ops if isinstance(op, Ioctl) and op.request == request]


def ranges(program, request):
    found = [(op.fields.get("iova"), op.fields.get("size")) for op in calls(program, request)]
    return [(iova, size) for iova, size in found if isinstance(iova, int) and isinstance(size, int)]


class Asked:
    """A predicate that checks what every predicate of the shrinker may rely on."""

    def __init__(self, fails):
        self.fails = fails
        self.programs = []

    def __call__(self, program):
        validate(program)
        assert program not in self.programs
        self.programs.append(program)
        return self.fails(program)


def shrunk(given, fails, **more):
    """The result, which fails."""
    asked = Asked(fails)
    result = shrink(given, asked, **more)
    assert fails(result)
    assert result.ops[-1] == given.ops[-1]
    return result


# -- planted failures


def unmapped_before_mapped(program):
    """Of the same bus address, whatever it is."""
    gone = set()
    for op in program.ops:
        if isinstance(op, Ioctl) and isinstance(iova := op.fields.get("iova"), int):
            if op.request == "UNMAP_DMA":
                gone.add((op.file, iova))
            elif op.request == "MAP_DMA" and (op.file, iova) in gone:
                return True
    return False


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_pair_is_all_that_is_left_of_a_long_program(seed):
    given = made(seed)
    assert unmapped_before_mapped(given)
    kinds = [type(op) for op in given.ops]
    small = shrunk(given, unmapped_before_mapped)
    assert len(small.ops) <= 5 < len(kinds)
    container, first, second = calls(small, "UNMAP_DMA")[0].file, *calls(small, "UNMAP_DMA"), *calls(small, "MAP_DMA")
    assert first == Ioctl(file=container, request="UNMAP_DMA", fields={"iova": 0, "size": 0})
    assert (second.by, second.fields["iova"], second.fields["size"]) == ("", 0, 0)


def test_a_number_that_matters_stays_as_it_is():
    given = made(1)
    iova = next(iova for iova, _ in ranges(given, "UNMAP_DMA") if 0 < iova < WINDOW)
    small = shrunk(given, lambda program: any(each == iova for each, _ in ranges(program, "UNMAP_DMA")))
    assert ranges(small, "UNMAP_DMA") == [(iova, 0)]
    assert [type(op) for op in small.ops] == [Open, Ioctl, Checkpoint]


@pytest.mark.parametrize("request_", ["MAP_DMA", "UNMAP_DMA"])
def test_a_range_over_the_windows_end_keeps_a_page_on_either_side(request_):
    def over(program):
        return any(iova < WINDOW < iova + size - PAGE + 1 for iova, size in ranges(program, request_))

    given = made(2)
    assert over(given)
    assert ranges(shrunk(given, over), request_) == [(WINDOW - PAGE, 2 * PAGE)]


def test_a_map_that_runs_off_its_buffer_ends_as_two_pages_of_a_buffer_of_one():
    def off(program):
        pages = {op.name: op.pages for op in program.ops if isinstance(op, Buffer)}
        places = [(op.fields.get("vaddr"), op.fields.get("size", 0)) for op in calls(program, "MAP_DMA")]
        return any(
            isinstance(at, Page) and at.index < pages[at.buffer] and at.index + size // PAGE > pages[at.buffer]
            for at, size in places
        )

    small = shrunk(made(3), off)
    assert [(op.pages, op.seed) for op in small.ops if isinstance(op, Buffer)] == [(1, 0)]
    op = calls(small, "MAP_DMA")[0]
    assert (op.fields["vaddr"].index, op.fields["vaddr"].plus, op.fields["size"]) == (0, 0, 2 * PAGE)


def test_pages_that_are_tagged_and_mapped_move_together():
    def proven(program):
        tags = {(op.buffer, op.first, op.ioba, op.count) for op in program.ops if isinstance(op, Tag)}
        maps = [op.fields for op in calls(program, "MAP_DMA") if isinstance(op.fields.get("vaddr"), Page)]
        keys = [(f["vaddr"].buffer, f["vaddr"].index, f["iova"], f["size"] // PAGE) for f in maps]
        return any(key in tags for key in keys)

    small = shrunk(made(4), proven)
    tag = next(op for op in small.ops if isinstance(op, Tag))
    assert (tag.first, tag.ioba, tag.count, tag.sequence) == (0, 0, 1, 0)
    assert ranges(small, "MAP_DMA") == [(0, PAGE)]
    assert len(small.ops) == 5


def test_two_buffers_become_one():
    def twice(program):
        return len([op for op in calls(program, "MAP_DMA") if isinstance(op.fields.get("vaddr"), Page)]) > 1

    small = shrunk(
        program(
            MEMORY,
            Buffer(name="b2", pages=9),
            Frames(buffer="b2"),
            CONTAINER,
            map_(iova=0, size=0),
            map_(vaddr=Page("b2", 8), iova=0, size=0),
        ),
        twice,
    )
    assert [op.name for op in small.ops if isinstance(op, Buffer)] == ["b1"]
    assert len(small.ops) == 5


def test_what_a_child_did_is_done_by_the_agent():
    small = shrunk(made(5), lambda program: len(calls(program, "ENABLE")) > 2)
    assert [type(op) for op in small.ops] == [Open, Ioctl, Ioctl, Ioctl, Checkpoint]
    assert {op.by for op in small.ops[:-1]} == {""}


def test_unless_it_must_be_a_child():
    def foreign(program):
        return any(op.by and op.file == "c1" for op in calls(program, "ENABLE"))

    given = program(
        CONTAINER,
        Spawn(process="p1", uid=65534, memlock=4096),
        Buffer(by="p1", name="b1", pages=8, seed=5),
        Ioctl(by="p1", file="c1", request="ENABLE"),
        map_(by="p1", iova=0, size=PAGE),
        Exit(process="p1"),
    )
    small = shrunk(given, foreign)
    assert small.ops == [CONTAINER, Spawn(process="p1"), Ioctl(by="p1", file="c1", request="ENABLE"), END]


def test_a_process_that_was_replaced_by_the_agent_leaves_nothing():
    given = program(
        CONTAINER,
        Spawn(process="p1"),
        Buffer(by="p1", name="b1", pages=1),
        map_(by="p1", iova=0, size=0),
        Exit(process="p1"),
    )
    small = shrunk(given, lambda program: bool(calls(program, "MAP_DMA")))
    assert small.ops == [CONTAINER, MEMORY, map_(iova=0, size=0, flags=0), END]


def test_a_struct_in_memory_becomes_the_fields_of_the_request():
    fields = {"iova": PAGE, "size": PAGE}
    given = program(
        CONTAINER,
        Buffer(name="b1", pages=4),
        Put(buffer="b1", request="UNMAP_DMA", offset=2 * PAGE + 8, fields=fields),
        Ioctl(file="c1", request="UNMAP_DMA", value=Page("b1", 2, 8)),
    )
    small = shrunk(given, lambda program: bool(calls(program, "UNMAP_DMA")))
    assert small.ops == [CONTAINER, unmap(iova=0, size=0), END]


def test_a_struct_that_must_be_in_memory_moves_with_its_address():
    def by_pointer(program):
        places = {(op.buffer, op.offset) for op in program.ops if isinstance(op, Put)}
        values = [op.value for op in calls(program, "UNMAP_DMA") if isinstance(op.value, Page)]
        return any((at.buffer, at.index * PAGE + at.plus) in places for at in values)

    given = program(
        CONTAINER,
        Buffer(name="b1", pages=400),
        Put(buffer="b1", request="UNMAP_DMA", offset=399 * PAGE + 8, fields={"iova": PAGE}),
        Ioctl(file="c1", request="UNMAP_DMA", value=Page("b1", 399, 8)),
    )
    small = shrunk(given, by_pointer)
    assert small.ops == [
        CONTAINER,
        MEMORY,
        Put(buffer="b1", request="UNMAP_DMA", offset=8, fields={"iova": 0}),
        Ioctl(file="c1", request="UNMAP_DMA", value=Page("b1", 0, 8)),
        END,
    ]


def test_rounds_become_single_calls():
    rounds = Repeat(ops=[map_(iova=0, size=PAGE), unmap(iova=0, size=PAGE)], times=4, loop="python")

    def mapped(program):
        inner = [call for op in program.ops for call in (op.ops if isinstance(op, Repeat) else [op])]
        return any(isinstance(call, Ioctl) and call.request == "MAP_DMA" for call in inner)

    small = shrunk(program(MEMORY, CONTAINER, rounds), mapped)
    assert small.ops == [MEMORY, CONTAINER, map_(iova=0, size=0, flags=0), END]


def test_rounds_that_must_stay_are_few_and_simple():
    rounds = Repeat(ops=[map_(iova=PAGE, size=2 * PAGE), unmap(iova=PAGE, size=PAGE)], times=4, loop="python")
    small = shrunk(
        program(MEMORY, CONTAINER, rounds), lambda program: any(isinstance(op, Repeat) for op in program.ops)
    )
    assert small.ops == [CONTAINER, Repeat(ops=[unmap(iova=0, size=0)], times=1), END]


def test_protected_memory_is_not_written_once_its_protection_stays():
    """Without the Protect that opened it again, the Tag has to go as well."""
    given = program(
        MEMORY, Protect(buffer="b1", access="read"), Protect(buffer="b1", access="write"), Tag(buffer="b1"), CONTAINER
    )

    def shut(program):
        return any(op == Protect(buffer="b1", access="read") for op in program.ops)

    assert shrunk(given, shut).ops == [MEMORY, Protect(buffer="b1", access="read"), END]


def test_a_transfer_and_data_get_small():
    given = program(
        Bind(device="pe1"),
        Open(file="d1", path="/dev/vfio/$pe1"),
        Buffer(name="b1", pages=4),
        Fill(buffer="b1", offset=5000, size=700, seed=9),
        Dma(file="d1", iova=3 * PAGE + 5, size=100, to_memory=True, offset=50),
    )
    small = shrunk(given, lambda program: {Fill, Dma} <= {type(op) for op in program.ops})
    assert small.ops[-3:-1] == [
        Fill(buffer="b1", offset=0, size=0, seed=0),
        Dma(file="d1", iova=0, size=1, to_memory=True),
    ]
    assert Buffer(name="b1", pages=1) in small.ops


def test_checkpoints_between_go_or_ask_for_less():
    given = program(CONTAINER, Checkpoint(label="a", stream=True), Checkpoint(label="b", stream=True))
    assert shrunk(given, lambda program: True).ops == [END]
    assert shrunk(given, lambda program: sum(map(is_host, program.ops)) > 2).ops == [
        Checkpoint(label="a"),
        Checkpoint(label="b"),
        END,
    ]


def test_a_name_that_is_made_twice_is_made_once_when_it_is_not_closed_between():
    given = program(CONTAINER, Close(file="c1"), CONTAINER, Ioctl(file="c1", request="ENABLE"))
    assert shrunk(given, lambda program: bool(calls(program, "ENABLE"))).ops == [
        CONTAINER,
        Ioctl(file="c1", request="ENABLE"),
        END,
    ]


# -- what it may and may not do


@pytest.mark.parametrize(
    "given",
    [
        program(CONTAINER, unmap(iova=1 << 40, size=1 << 40)),
        program(CONTAINER, unmap(iova=WINDOW - PAGE, size=(1 << 30)), unmap(iova=1 << 40, size=1 << 30)),
        program(
            CONTAINER,
            Buffer(name="b1", pages=1),
            Put(buffer="b1", request="UNMAP_DMA", fields={"iova": 1 << 40, "size": 1 << 30}),
            Ioctl(file="c1", request="UNMAP_DMA", value=Page("b1")),
        ),
    ],
    ids=["request", "another one", "struct"],
)
def test_a_huge_unmap_outside_the_window_is_not_moved_into_it(given):
    """It would take a kernel that looks at its first page alone hours."""

    def into(program):
        structs = [op.fields for op in program.ops if isinstance(op, Ioctl | Put) and "size" in op.fields]
        return [f for f in structs if f["iova"] < WINDOW and f["iova"] + f["size"] > WINDOW + 64 * PAGE]

    had = len(into(given))

    def fails(program):
        assert len(into(program)) <= had
        return any(op.fields.get("size", 0) >= 1 << 30 for op in program.ops if isinstance(op, Ioctl | Put))

    small = shrunk(given, fails)
    assert len(small.ops) == 3, "what opens or holds it, the request, the checkpoint"
    assert small.ops[1].fields["size"] == 1 << 30


@pytest.mark.parametrize("seed", range(3))
def test_any_failure_shrinks_to_something_whole_that_fails(seed):
    """A failure of no sense: what is left is odd, but the rules hold."""

    def odd(program):
        return sum(len(op.fields) for op in program.ops if isinstance(op, Ioctl)) % 7 == 3 and len(program.ops) > 30

    given = next(each for number in range(seed * 20, 1000) if odd(each := made(number, 200)))
    small = shrunk(given, odd)
    assert 30 < len(small.ops) < 50


@pytest.mark.parametrize("most", [0, 1, 2, 5, 20, 50])
def test_no_more_programs_are_tried_than_allowed(shown, most):
    asked = Asked(unmapped_before_mapped)
    small = shrink(made(0), asked, most=most)
    assert len(asked.programs) == most
    assert unmapped_before_mapped(small)
    assert shown.notes[-1] == f"stopped after {most} tries"


def test_who_is_asked_may_say_that_it_is_enough_and_the_smallest_so_far_is_kept(shown):
    program = made(5)
    asked = []

    def fails(candidate):
        asked.append(candidate)
        if len(asked) == 4:
            raise EnoughError
        return True

    assert shrink(program, fails) == asked[2]
    assert shown.notes[-1] == "stopped after 4 tries"


def test_it_says_how_far_it_is(shown):
    small = shrink(made(0), unmapped_before_mapped)
    sizes = [int(line.split()[0]) for line in shown.notes]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == len(small.ops)


def test_the_same_is_found_again():
    assert shrink(made(0), unmapped_before_mapped) == shrink(made(0), unmapped_before_mapped)


def test_a_program_that_does_not_fail_stays_as_it_is():
    asked = Asked(lambda program: False)
    assert shrink(made(0), asked) == made(0)
    assert len(asked.programs) == 1


def test_a_program_that_is_not_whole_is_not_tried():
    asked = Asked(lambda program: True)
    broken = program(Close(file="c1"))
    assert shrink(broken, asked) is broken
    assert asked.programs == []


def test_a_program_without_a_checkpoint_at_its_end_may_lose_every_operation():
    given = msgspec.structs.replace(program(), ops=[CONTAINER, Checkpoint(), Ioctl(file="c1", request="ENABLE")])
    assert shrink(given, lambda program: True).ops == []


def test_a_short_search_is_enough():
    """On a guest a try takes a second."""
    asked = Asked(unmapped_before_mapped)
    shrink(made(0, 1000), asked)
    assert len(asked.programs) < 300
    assert sum(len(each.ops) for each in asked.programs) < 10_000


@pytest.mark.parametrize("number", [1, 2, 5, 4096, 8192, 40960, 4097, (1 << 64) - 4096])
@pytest.mark.parametrize("least", [0, 1])
def test_smaller_numbers_are_smaller_and_begin_with_the_least(number, least):
    found = list(smaller(number, least))
    assert all(least <= each < number for each in found)
    assert found == sorted(found)
    assert len(found) <= 64
    if number > least:
        assert found[0] < max(2, 4097)


@pytest.mark.parametrize("number", [0, 1])
def test_there_is_nothing_smaller_than_the_least(number):
    assert list(smaller(number, number)) == []


def test_every_simpler_form_of_an_operation_comes_to_an_end():
    """Whatever is taken, after a while nothing is simpler."""
    rng = random.Random(0)
    for op in made(0).ops:
        left = [op]
        for _ in range(1000):
            forms = list(alone(left[0]))
            if not forms:
                break
            left = list(rng.choice(forms)) or [Checkpoint()]
        assert list(alone(left[0])) == []


# -- a checkpoint after every operation


def test_watch_all_looks_after_every_guest_operation():
    watched = watch_all(made(0, 100))
    validate(watched)
    for op, after in zip(watched.ops, watched.ops[1:], strict=False):
        assert is_host(op) or isinstance(after, Checkpoint)
    assert [op for op in watched.ops if not is_host(op)] == [op for op in made(0, 100).ops if not is_host(op)]


def test_watch_all_keeps_the_checkpoints_that_there_are_and_adds_none_to_them():
    given = program(CONTAINER, Checkpoint(label="mine", stream=True), Close(file="c1"))
    assert watch_all(given).ops == given.ops
    assert watch_all(watch_all(made(0))) == watch_all(made(0))


def test_watch_all_looks_after_the_last_operation_too():
    given = msgspec.structs.replace(program(), ops=[CONTAINER])
    assert watch_all(given).ops == [CONTAINER, Checkpoint(label="after operation 0")]
