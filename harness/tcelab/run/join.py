"""Joins the records of a program's parts into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tcelab.errors import TcelabError
from tcelab.program import Program
from tcelab.program.parts import parts
from tcelab.run.record import Ending, Facts, Outcome, RunRecord, Step


def join(
    program: Program, facts: Facts, records: Mapping[int, RunRecord], lost: Mapping[int, TcelabError]
) -> RunRecord:
    """What happened on all guests, as one run. The records stay as they are.

    :param facts: of one of the guests.
    :param records: by number of the part.
    :param lost: of each part that has none, why.
    """
    in_order = [records[number] for number in sorted(records)]
    steps = [step for each in in_order for step in each.steps]
    # Requesting a guest is an operation as well; it was done if there was a guest.
    asked = [part.first - 1 for part in parts(program) if part.number in records and part.number]
    steps += [Step(number, program.ops[number], Outcome(value=0)) for number in asked]
    endings = [each.ending for each in in_order if each.ending is not None]
    endings += [Ending(lost[number], None) for number in sorted(lost)]
    return RunRecord(
        program,
        replace(facts, versions={**facts.versions, "guests": len(parts(program))}),
        sorted(steps, key=lambda step: step.number),
        endings[0] if endings else None,
        tuple(line for each in in_order for line in each.trouble),
    )
