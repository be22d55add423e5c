"""Lies that tcelab can tell itself: each must give a finding, or the verdict is worth nothing."""

from __future__ import annotations

import random
from typing import Final

import msgspec

from tcelab.errors import UsageError
from tcelab.papr import window
from tcelab.program.hostops import Checkpoint, Flip
from tcelab.program.program import Program

LIES: Final = ("flip",)


def flip(program: Program) -> Program:
    """Append a flip of one bit of one entry, and another that undoes it, each followed by a checkpoint of every view.

    The program's seed chooses the PE, the entry out of its whole window, and the bit.

    :raise UsageError: there is no PE under test.
    """
    chance = random.Random(program.seed)  # noqa: S311 - repeats exactly, that is the point
    phbs = [phb for phb in program.topology.at_start.phbs if phb.devices]
    if not phbs:
        raise UsageError(f"topology {program.topology.name!r} has no PE under test whose table could lie")
    phb = chance.choice(phbs)
    ioba = phb.window_start + (chance.randrange(phb.entries) << window.PAGE_SHIFT)
    lie = Flip(liobn=phb.liobn, ioba=ioba, bit=chance.randrange(64), expect="ok")
    looks = [Checkpoint(label=f"after the {what}", stream=True) for what in ("flip", "undoing")]
    ops = [*program.ops, lie, looks[0], lie, looks[1]]
    return msgspec.structs.replace(program, ops=ops)
