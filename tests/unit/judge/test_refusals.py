"""The law of refusals: which access a refusal is of. What it finds in runs: test_lies.py."""

from tcelab.judge.laws.refusals import _by_page
from tcelab.judge.models.edumodel import Forbidden


def access(told, size):
    return Forbidden("pe1", 0x80000100, to_memory=True, iova=told, told=told, size=size, reason="no entry", step=1)


def test_an_access_is_of_each_page_that_it_touches_and_of_that_of_the_word_before():
    assert list(_by_page([access(0x5008, 8)])) == [("write", 5)]
    assert list(_by_page([access(0x5FF9, 8)])) == [("write", 5), ("write", 6)], "its last byte"
    assert list(_by_page([access(0x5FF8, 8)])) == [("write", 5)]
    assert list(_by_page([access(0x5006, 8)])) == [("write", 4), ("write", 5)], "a word that begins 7 bytes before"
    assert list(_by_page([access(0x5007, 8)])) == [("write", 5)]
    assert list(_by_page([access(0, 8)])) == [("write", 0)], "there is nothing before"
