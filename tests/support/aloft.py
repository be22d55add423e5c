"""An edu in flight over an event: what is mapped before, where its transfer goes, and what came of it."""

from tcelab.emulator.reference import second_opinion
from tcelab.judge import Judge
from tcelab.papr import tce
from tcelab.program import Flight, Page, Program
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

PAGES, FIRST = 16, 0x20000
SECOND, THIRD = FIRST + b.PAGE, FIRST + 2 * b.PAGE
AFTER = b.checkpoint("after", stream=True)


def across(pe):
    """Over the end of the second page."""
    return Flight(device=pe.name, iova=THIRD - 16, size=32, to_memory=True)


def mapped(pe):
    return [
        *b.bind(pe),
        *b.open_container(pe),
        *b.enable(pe),
        *b.buffer("b", PAGES, 1),
        *b.tag(Page("b"), PAGES, pe.liobn, FIRST, 1),
        *b.map_dma(pe, Page("b"), FIRST, PAGES, tce.PERMISSIONS),
        *b.open_device(pe),
        *b.dma(pe, FIRST, 64, to_memory=False),
        *b.checkpoint("before", stream=True),
    ]


def judged(session, where, ops):
    program = Program(name="aloft", topology=where, ops=ops)
    judge = Judge(program, session.facts, references=second_opinion(where, session.facts))
    run = perform_program(program, session, judge)
    assert run.ending is None, run.ending.error
    told = next(step.outcome.fields["flight"] for step in run.steps if step.outcome and "flight" in step.outcome.fields)
    return told, judge.verdict(run)


def changed(told):
    """By bus page: did any byte change there? The law says which must."""
    return {page["ioba"]: bool(page["changed"]) for page in told["pages"]}
