"""A program that rings a probe's doorbells, on the emulator."""

from __future__ import annotations

from tcelab.emulator.emulatorsession import EmulatorSession
from tcelab.judge import judge
from tcelab.papr import tce
from tcelab.program import Checkpoint, Doorbell, Ioctl, Master, Op, Page, Program
from tcelab.program.topology import TOPOLOGIES
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome
from tcelab.scenarios import vocabulary as b

PROBE = TOPOLOGIES["probe"]
PE = b.pes(PROBE, "doorbells")[0]
AT = 0x100000
PAGES = 260
ONLY_READ = AT + PAGES * 4096
BOTH = tce.READ | tce.WRITE


def bell(iova: int = AT, size: int = 8, *, to_memory: bool = False, **more) -> Doorbell:
    return Doorbell(file="d", iova=iova, size=size, to_memory=to_memory, **more)


def before(*, master: bool = True) -> list[Op]:
    """Pages from AT on, and one that a device may only read."""
    ops = [*b.buffer("m", PAGES + 1, 3), *b.fill(Page("m"), PAGES * 4096, 9)]
    ops += [*b.bind(PE), *b.open_container(PE), *b.enable(PE)]
    ops += [Ioctl(file=PE.group, request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d", expect="ok")]
    ops += [Master(file="d", on=True)] if master else []
    ops += b.tag(Page("m", PAGES), 1, PE.liobn, ONLY_READ, 1)
    ops += b.map_dma(PE, Page("m"), AT, PAGES, BOTH)
    ops += b.map_dma(PE, Page("m", PAGES), ONLY_READ, 1, tce.READ)
    return [*ops, Checkpoint()]


def program(*bells: Op, isolation: bool = False, master: bool = True) -> Program:
    ops = [*before(master=master), *bells, Checkpoint(stream=True)]
    return Program(name="doorbells", topology=PROBE, ops=ops, isolation=isolation)


class Lying(EmulatorSession):
    """What its doorbells give is changed on the way: `lie` takes the outcome."""

    lie = staticmethod(lambda outcome: outcome)

    def perform(self, ops):
        """See `tcelab.run.session.Session`."""
        out = list(super().perform(ops))
        return [self.lie(each) if isinstance(op, Doorbell) else each for op, each in zip(ops, out, strict=True)]


def told(**fields: object):
    """A lie about some fields; None takes one away."""

    def change(outcome: Outcome) -> Outcome:
        for name, value in fields.items():
            outcome.fields[name] = value
            if value is None:
                del outcome.fields[name]
        return outcome

    return change


def judged(*bells: Op, lie=lambda outcome: outcome, **more):
    """The record and the verdict."""
    made = program(*bells, **more)
    session = Lying(PROBE, isolates=made.isolation, guard="freeze" if made.isolation else "off")
    session.lie = lie
    record = perform_program(made, session)
    return record, judge(record)


def outcomes(record) -> list[Outcome]:
    return [step.outcome for step in record.steps if isinstance(step.op, Doorbell)]
