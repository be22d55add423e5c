"""Blocks are what branches make of a function."""

from __future__ import annotations

import pytest
from codes import BCTRL, BEQLR, BLR, NOP, SC, TRAP, b, beq, bl, code

from tcelab.coverage.blocks import Block, blocks

ADD = 0x38630001  # addi 3,3,1


def starts(words, calls=None):
    return [(each.start, each.end) for each in blocks(code(words), calls or {})]


def test_code_without_a_branch_is_one_block():
    assert starts([ADD, ADD, BLR]) == [(0, 12)]


def test_a_conditional_branch_ends_a_block_and_its_target_begins_one():
    found = blocks(code([ADD, beq(12), ADD, BLR, ADD, BLR]), {})
    assert found == [Block(0, 8, branch=True, target=16), Block(8, 16), Block(16, 24)]


def test_a_branch_backwards_is_a_loop_of_its_own():
    found = blocks(code([ADD, ADD, beq(-4), BLR]), {})
    assert found == [Block(0, 4), Block(4, 12, branch=True, target=4), Block(12, 16)]


@pytest.mark.parametrize("away", [BLR, 0x4E800420, 0x4E800460, b(0x1000)], ids=["blr", "bctr", "bctar", "b"])
def test_what_leads_elsewhere_ends_a_block(away):
    assert starts([ADD, away, ADD, BLR]) == [(0, 8), (8, 16)]


@pytest.mark.parametrize("call", [bl(0x1000), SC, BCTRL])
def test_what_comes_back_ends_a_block_but_is_no_branch(call):
    found = blocks(code([ADD, call, ADD, BLR]), {})
    assert found == [Block(0, 8), Block(8, 16)]


def test_a_conditional_return_is_a_branch_that_leads_elsewhere():
    assert blocks(code([BEQLR, BLR]), {})[0] == Block(0, 4, branch=True, target=None)


def test_a_trap_goes_on_behind_itself():
    assert starts([ADD, TRAP, ADD, BLR]) == [(0, 16)]


def test_a_call_that_ftrace_makes_a_nop_of_ends_no_block():
    assert starts([ADD, bl(0x1000), ADD, BLR], {4: "_mcount"}) == [(0, 16)]


def test_what_only_aligns_behind_an_end_is_no_block():
    assert starts([beq(16), BLR, NOP, NOP, ADD, BLR, 0]) == [(0, 4), (4, 8), (16, 24)]


def test_a_nop_that_something_leads_to_is_a_block():
    assert starts([beq(8), BLR, NOP, BLR]) == [(0, 4), (4, 8), (8, 16)]
    assert starts([beq(8), BLR, NOP, ADD, beq(-4), BLR]) == [(0, 4), (4, 8), (8, 12), (12, 20), (20, 24)]


def test_a_branch_of_another_function_leads_out_of_this_one():
    assert starts([ADD, b(0), ADD, BLR], {4: "other"}) == [(0, 8), (8, 16)]


def test_the_way_to_the_stack_guard_counts_neither_as_block_nor_as_branch():
    words = [ADD, beq(12), ADD, BLR, NOP, bl(0x1000)]
    found = blocks(code(words), {20: "__stack_chk_fail"})
    assert found == [Block(0, 8), Block(8, 16)]
