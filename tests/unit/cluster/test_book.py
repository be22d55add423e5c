"""Which verdict of a task counts when workers die, and dask runs what they had once more."""

from tcelab.cluster.book import MOST, Book


def test_a_task_whose_worker_is_lost_is_asked_for_again_and_counted_and_not_for_ever():
    book = Book()
    again = []
    for turn in range(1, MOST + 1):
        assert book.ask("k") == turn
        again.append(book.may_ask_again("k"))
    assert again == [True, True, False]
    assert (book.lost, book.asked("k")) == (3, 3)


def test_what_dask_runs_again_by_itself_is_counted_as_lost():
    book = Book()
    book.ask("k")
    book.began("k", "one")
    book.began("k", "one")  # told twice, begun once
    assert book.lost == 0
    book.began("k", "two")
    assert (book.lost, book.asked("k")) == (1, 2)


def test_a_verdict_that_was_announced_and_lost_makes_another_one_flaky():
    book = Book()
    book.ask("k")
    book.verdict("k", "one", "1 abcd")
    assert not book.flaky("k")
    book.may_ask_again("k")
    book.ask("k")
    book.verdict("k", "two", "0")
    assert book.flaky("k")


def test_the_same_verdict_twice_is_no_reason_for_doubt_nor_is_that_of_another_task():
    book = Book()
    book.verdict("k", "one", "1 abcd")
    book.verdict("k", "two", "1 abcd")
    book.verdict("other", "three", "0")
    assert not book.flaky("k")
    assert not book.flaky("other")
