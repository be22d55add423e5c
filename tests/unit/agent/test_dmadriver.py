"""What the driver tells of loops: sums, and of what was wrong the first."""

from tceagent.dmadriver import TOLD, Told


def test_of_loops_that_were_right_the_sums_are_told():
    told = Told()
    told.add(TOLD.pack(1, 0x80000100, 3, 4, 500, 0, 0, 0, 0, 0, 0))
    told.add(TOLD.pack(0, 0x80000100, 10, 0, 60, 0, 0, 0, 0, 0, 0))
    assert told.fields == {"cpu": 0, "liobn": 0x80000100, "met": 13, "beside": 4, "checked": 560}


def test_of_what_was_wrong_the_first_is_told_and_how_often():
    told = Told()
    told.add(TOLD.pack(1, 0x80000100, 0, 0, 5, 0, 0, 0, 0, 2, 0x7000))
    told.add(TOLD.pack(1, 0x80000100, 0, 0, 5, 2, 0x3000, 0x9001, 0x8003, 1, 0x1000))
    told.add(TOLD.pack(1, 0x80000100, 0, 0, 5, 1, 0x4000, 0, 0x8003, 0, 0))
    assert told.fields["wrong"] == {"count": 3, "ioba": 0x3000, "seen": 0x9001, "expected": 0x8003}
    assert told.fields["shared"] == {"count": 3, "ioba": 0x7000}
