"""Entries that a kernel leaves to the next one, compared with another run's, in which they lead to other frames."""

import numpy as np
import pytest
from ideal import NONCE

from tcelab.judge.models.comparison import Comparison
from tcelab.program import Call, Checkpoint, Frames, HcallBatch, Kexec, Reset
from tcelab.run.record import Facts, Outcome, Snapshot, Step, TableView

LIOBN = 0x80000100
ONE, OTHER = 0x10000, 0x50000
"""Where the page of the entry lies in the run that is judged, and in the one that it is compared with."""


def facts(platform):
    return Facts(platform, NONCE, 4096, 1 << 28, {}, {})


def frames(number, name, frame):
    return Step(number, Frames(buffer=name), Outcome(value=0, frames=[frame]))


def shown(number, tce):
    table = TableView(LIOBN, "live", 16, np.array([3], np.uint32), np.array([tce], np.uint64))
    return Step(number, Checkpoint(), snapshot=Snapshot((table,), {}, {}, ()))


def compared(event, *, seen, expected, after=()):
    """What differs in the last snapshot; `after`: a page of the second kernel in each run."""
    comparison = Comparison(facts("emulator"), facts("qemu"))
    pairs = [(frames(0, "b", OTHER), frames(0, "b", ONE))]
    pairs += [(Step(1, event, Outcome(value=0)), Step(1, event, Outcome(value=0)))]
    if after:
        pairs += [(frames(2, "new", after[0]), frames(2, "new", after[1]))]
    pairs += [(shown(3, expected), shown(3, seen))]
    return [difference for one, other in pairs for difference in comparison.compare(one, other)]


@pytest.mark.parametrize(
    "after", [(), (0x90000, ONE), (OTHER, 0x90000), (OTHER, ONE)], ids=["", "one", "other", "both"]
)
def test_an_inherited_entry_leads_where_it_led_whosever_its_page_is_now(after):
    assert compared(Kexec(), seen=ONE | 3, expected=OTHER | 3, after=after) == []


@pytest.mark.parametrize(
    ("seen", "expected"),
    [(ONE | 1, OTHER | 3), (0x20000 | 3, OTHER | 3), (0, OTHER | 3), (ONE | 3, 0)],
    ids=["permissions", "elsewhere", "gone", "left"],
)
def test_an_inherited_entry_that_changed_is_told(seen, expected):
    assert len(compared(Kexec(), seen=seen, expected=expected)) == 1


def test_nothing_is_inherited_over_a_reset():
    assert len(compared(Reset(), seen=ONE | 3, expected=OTHER | 3)) == 1


@pytest.mark.parametrize("after", [(), (0x90000, ONE), (OTHER, 0x90000)], ids=["", "one", "other"])
def test_a_hypercall_reads_an_inherited_entry(after):
    def read(tce):
        got = Outcome(value=0, fields={"statuses": [0], "registers": [[tce, 0, 0, 0]], "ticks": [1]})
        return Step(3, HcallBatch(calls=[Call("H_GET_TCE", [LIOBN, 0x3000])]), got)

    def told(tce):
        comparison = Comparison(facts("emulator"), facts("qemu"))
        pairs = [(frames(0, "b", OTHER), frames(0, "b", ONE))]
        pairs += [(Step(1, Kexec(), Outcome(value=0)), Step(1, Kexec(), Outcome(value=0)))]
        pairs += [(frames(2, "new", after[0]), frames(2, "new", after[1]))] if after else []
        pairs += [(read(OTHER | 3), read(tce))]
        return [difference for one, other in pairs for difference in comparison.compare(one, other)]

    assert told(ONE | 3) == []
    assert len(told(ONE | 1)) == len(told(0x20000 | 3)) == len(told(0)) == 1
