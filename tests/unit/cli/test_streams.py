"""Standard output that cannot be written. Whole commands with such a stream: test_cli.py."""

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
