"""An ideal session whose probes race, and lies about what they reach."""

from heard import Heard
from msgspec import structs

from tcelab.papr import tce, window
from tcelab.program import Ioctl, Page, Program
from tcelab.program.topology import TOPOLOGIES
from tcelab.run.points import Change, Point, Race, Reach
from tcelab.scenarios import vocabulary as b

RACES = TOPOLOGIES["races"]
PE, OTHER = b.pes(RACES, "raced")
PROBES = ("pe1", "pe1b")
AT = 0x10000
PAGE = window.PAGE_SIZE
FIRST = AT - PAGE
ENODEV = 19


def program():
    ops = [
        *b.buffer("a", 4, 1),
        *b.bind(PE),
        *b.open_container(PE),
        *b.enable(PE),
        *b.tag(Page("a", 0), 3, PE.liobn, AT, 1),
        *b.map_dma(PE, Page("a", 0), AT, 3, tce.READ),
        *b.checkpoint("mapped"),
        *b.unmap_dma(PE, AT, 3),
        *b.vmlck(),
        *b.checkpoint("unmapped", stream=True),
        *b.close(PE.group, PE.container),
        *b.checkpoint("closed", stream=True),
    ]
    return Program(name="raced", topology=RACES, ops=ops, seed=1)


def nth(request):
    return next(i for i, op in enumerate(program().ops) if getattr(op, "request", "") == request)


def point(number, call, ioba, table, changes, *, done):
    """What all probes truly meet with such a table."""
    words = [table.get(FIRST + i * PAGE, 0) for i in range(number)]
    answers = [[0 if word & right else ENODEV for word in words] for right in (tce.READ, tce.WRITE)]
    refused = [(page, bool(way)) for way in (0, 1) for page, answer in enumerate(answers[way]) if answer]
    return Point(
        call=call,
        done=done,
        ioba=ioba,
        changes=changes,
        table=words,
        reaches=[Reach(each, *map(list, answers)) for each in PROBES],
        refused=refused * len(PROBES),
    )


class Raced(Heard):
    """`lie(step, race)` gives what is recorded instead."""

    def __init__(self, lie=lambda _step, race: race):
        super().__init__()
        self.program = program()
        self._lie = lie

    def _heard(self, op):
        table = {at << 12: word for at, word in self.pes["pe1"].table.items() if word}
        outcome = super()._heard(op)
        if not isinstance(op, Ioctl) or op.request not in {"MAP_DMA", "UNMAP_DMA"}:
            return outcome
        after = {at << 12: word for at, word in self.pes["pe1"].table.items() if word}
        pages = int(op.fields["size"]) // PAGE
        points = [point(pages + 2, "", 0, table, [], done=False)]
        for ioba in range(AT, AT + pages * PAGE, PAGE):
            points.append(point(pages + 2, "H_PUT_TCE", ioba, table, [], done=False))
            table = {at: word for at, word in table.items() if at != ioba}
            table |= {ioba: after[ioba]} if ioba in after else {}
            new = [Change(ioba, table.get(ioba, 0))]
            points.append(point(pages + 2, "H_PUT_TCE", ioba, table, new, done=True))
        points.append(point(pages + 2, "", 0, table, [], done=True))
        race = self._lie(self.number, Race(liobn=PE.liobn, first=FIRST, points=points))
        return structs.replace(outcome, race=race)


def at(race, number, **new):
    """The race with another point."""
    points = list(race.points)
    points[number] = structs.replace(points[number], **new)
    return structs.replace(race, points=points)
