"""What did not change between two snapshots is held once, and each snapshot is what was seen."""

from dataclasses import replace

import pytest
from two_runs import facts, snapshot, table

from tcelab.program import Checkpoint, Program
from tcelab.program.topology import topology
from tcelab.run.loop import perform_program
from tcelab.run.sharing import Sharing

PAGES = {0x1000: b"tag one", 0x2000: None, 0x3000: b"tag three"}


def fresh(live=None, *, pages=None, **changed):
    """Made of objects of its own, as each snapshot is that a platform gives."""
    copies = {at: None if page is None else bytes(bytearray(page)) for at, page in (pages or PAGES).items()}
    made = snapshot(table(dict(live or {3: 0x1003})), pages=copies)
    return replace(made, tables=tuple(replace(each, **changed) for each in made.tables))


def test_what_is_equal_is_one_object():
    sharing = Sharing()
    first, second = sharing.shared(fresh()), sharing.shared(fresh())
    assert second.pages is first.pages
    assert second.tables[0] is first.tables[0]


def test_what_one_page_changes_leaves_the_others_shared():
    sharing = Sharing()
    first = sharing.shared(fresh())
    second = sharing.shared(fresh(pages=PAGES | {0x1000: b"other", 0x4000: b"more"}))
    assert second.pages == PAGES | {0x1000: b"other", 0x4000: b"more"}
    assert first.pages == PAGES
    assert second.pages[0x3000] is first.pages[0x3000]


@pytest.mark.parametrize(
    "changed",
    [{"entries": 0}, {"page_shift": 16}, {"bus_offset": 1 << 59}, {"default": False}, {"liobn": 7}, {"view": "stream"}],
)
def test_a_table_of_another_shape_is_another_one(changed):
    sharing = Sharing()
    sharing.shared(fresh())
    seen = sharing.shared(fresh(**changed)).tables[0]
    assert {name: getattr(seen, name) for name in changed} == changed


@pytest.mark.parametrize("live", [{4: 0x1003}, {3: 0x1001}, {3: 0x1003, 4: 0x1003}])
def test_a_table_of_other_entries_is_another_one(live):
    sharing = Sharing()
    sharing.shared(fresh())
    seen = sharing.shared(fresh(live)).tables[0]
    assert dict(zip(seen.index.tolist(), seen.tce.tolist(), strict=True)) == live


def test_of_a_disk_only_the_blocks_that_changed_are_held_anew():
    sharing, content = Sharing(), bytes(range(256)) * 64
    changed = content[:5000] + b"!" + content[5001:]
    disks = [sharing.shared(replace(fresh(), disks={"disk1": each})).disks for each in (content, changed, content[:9])]
    assert [each["disk1"] for each in disks] == [content, changed, content[:9]]
    assert list(disks[0]) == ["disk1"]
    blocks = [each._disks["disk1"] for each in disks]
    assert [one is other for one, other in zip(*blocks[:2], strict=True)] == [True, False, True, True]


def test_a_run_holds_once_what_its_checkpoints_have_in_common():
    class Still:
        """A guest in which nothing ever changes."""

        facts, boot = facts(), 1

        def intervene(self, _op, _frames):
            return fresh()

        def finish(self):
            return ()

    program = Program(name="p", topology=topology("two-pe"), ops=[Checkpoint(), Checkpoint(), Checkpoint()])
    looks = [step.snapshot for step in perform_program(program, Still()).steps]
    assert len(looks) == 3
    assert len({id(look.pages) for look in looks}) == len({id(look.tables[0]) for look in looks}) == 1
