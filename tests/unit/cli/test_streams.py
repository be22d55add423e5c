"""Standard output that cannot be written. Whole commands with such a stream: test_cli.py."""

import errno
import os

import pytest

from tcelab.cli import streams


def test_in_the_place_of_a_closed_stream_is_one_that_refuses_all():
    descriptor = streams._refusing(1)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        assert not os.get_inheritable(descriptor), "but for the streams themselves"
    finally:
        os.close(descriptor)


def test_what_a_full_disk_refuses_ends_nothing_and_is_kept():
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 - for its descriptor
        stream = streams._Tolerant(full.fileno(), "w", closefd=False)
        assert stream.write(b"abc") == 3
        assert stream.write(b"more") == 4
    assert stream.refused.errno == errno.ENOSPC
